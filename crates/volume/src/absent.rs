//! A commit says which devices lack it.
//!
//! A device that is one commit behind counts as whole: all of that commit was flushed to it before the first superblock
//! went out ([`crate::apart`]). One that was dropped meanwhile is not, and where none of the newest roots lies on it, or
//! what it lost was something else, nothing on it tells the two apart. So the first commit after a device was dropped names
//! it, in the reserved part of that commit's backup roots, which the kernel fills with zeros. A power cut right after it
//! leaves a device that is known to be old. See `docs/decisions/0019-failing-devices.md`.
//!
//! # Invariants
//! * Names are in the backup of the commit's own generation, and mean nothing in any other.
//! * There is room for four of them. With more, the newest roots decide alone.

use butterfs_format::superblock::RootBackup;
use butterfs_format::{DevId, Superblock};

use crate::volume::Volume;

impl Volume {
    /// The superblock with the names of the devices that lack its commit and may be no more than one behind.
    pub(crate) fn naming_absent(&self, sb: &Superblock) -> Superblock {
        let mut naming = *sb;
        let near = self.members.present().filter(|member| {
            let newest = member.dropped_at();
            newest.is_some_and(|newest| newest.next() >= sb.generation())
        });
        if let Some(own) = own_backup(sb) {
            let names = naming.super_roots[own].unused_64.iter_mut();
            names.zip(near).for_each(|(name, member)| *name = member.devid().0.into());
        }
        naming
    }
}

/// Whether this commit names a device as one that lacks it.
pub(crate) fn is_named(sb: &Superblock, devid: DevId) -> bool {
    own_backup(sb).is_some_and(|own| sb.super_roots[own].unused_64.iter().any(|name| name.get() == devid.0))
}

/// The same without names: on the devices that got it, a commit may be remembered with them or without.
pub(crate) fn without_names(backup: &RootBackup) -> RootBackup {
    RootBackup { unused_64: Default::default(), ..*backup }
}

/// Which of the backups is that of the commit itself.
fn own_backup(sb: &Superblock) -> Option<usize> {
    sb.super_roots.iter().position(|backup| backup.tree_root_gen == sb.generation)
}

//! Who a caller is, where the kernel leaves the check to us.
//!
//! The kernel says user and group. Further groups, capabilities and the umask of an ioctl's caller are read from
//! `/proc`; a caller that cannot be seen there has none, and the strictest umask.

use super::acl::{self, Acl, Subject};
use super::{EngineFrontEnd, Site};
use crate::caller;
use crate::session::PosixAcl;
use crate::types::{Caller, OpenMode};
use crate::{Errno, Result};
use butterfs_engine::Error;
use butterfs_engine::filesystem::Attributes;
use butterfs_engine::inode::InodeId;
use butterfs_format::items::InodeFlags;

/// What an operation is about to do to an inode, as far as `chattr +i` and `+a` care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// Anything but what follows: immutable and append-only inodes refuse it.
    Change,
    /// Data is added at the end, or a name to a directory: only immutable ones refuse it.
    Append,
}

/// Fails for an inode that chattr protects.
pub(super) fn require_unprotected(found: &Attributes, deed: Deed) -> Result<()> {
    let refusing = match deed {
        Deed::Change => InodeFlags::IMMUTABLE | InodeFlags::APPEND,
        Deed::Append => InodeFlags::IMMUTABLE,
    };
    if found.item.flags().intersects(refusing) { Err(Errno::EPERM) } else { Ok(()) }
}

const O_ACCMODE: u32 = 3;
const O_RDONLY: u32 = 0;
const O_TRUNC: u32 = 0o1000;
const O_APPEND: u32 = 0o2000;

/// What a file is opened for; `None` for reading.
fn deed_of(flags: u32) -> Option<Deed> {
    match flags {
        _ if flags & O_ACCMODE == O_RDONLY && flags & O_TRUNC == 0 => None,
        _ if flags & O_APPEND != 0 && flags & O_TRUNC == 0 => Some(Deed::Append),
        _ => Some(Deed::Change),
    }
}

/// To read, as a permission.
pub(super) const READ: u16 = 4;
/// To write.
pub(super) const WRITE: u16 = 2;
/// To enter a directory.
pub(super) const ENTER: u16 = 1;

/// What the kernel's Btrfs would ask for; by the numbers of capabilities(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallerCapability {
    /// `CAP_DAC_OVERRIDE`: permissions do not count.
    DacOverride = 1,
    /// `CAP_FOWNER`: as good as the owner.
    Fowner = 3,
    /// `CAP_FSETID`: set-group-id stays.
    Fsetid = 4,
    /// `CAP_LINUX_IMMUTABLE`: chattr's protection comes and goes.
    LinuxImmutable = 9,
    /// `CAP_SYS_ADMIN`.
    SysAdmin = 21,
}

/// Whether a set of capabilities, as `/proc` shows it, has one.
fn is_in(set: &str, capability: CallerCapability) -> bool {
    u64::from_str_radix(set, 16).is_ok_and(|set| set >> capability as u32 & 1 != 0)
}

/// Whether a caller has a capability in our own user namespace: in one of his own anybody has all.
pub(super) fn has(caller: &Caller, capability: CallerCapability) -> bool {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/user")).ok();
    status(caller, "CapEff:").is_some_and(|set| is_in(&set, capability))
        && namespace(&caller.pid.to_string()).is_some_and(|theirs| namespace("self") == Some(theirs))
}

/// Whether a caller is the plain user who serves the mount: what is in the image is his.
fn serves(caller: &Caller) -> bool {
    let own = rustix::process::geteuid();
    !own.is_root() && caller.uid == own.as_raw()
}

/// A line of `/proc/<pid>/status`.
fn status(caller: &Caller, field: &str) -> Option<String> {
    caller::line(&caller::status(caller)?, field).map(str::to_owned)
}

/// All groups of a caller.
pub(super) fn groups(caller: &Caller) -> Vec<u32> {
    let further = status(caller, "Groups:").unwrap_or_default();
    std::iter::once(caller.gid).chain(further.split_whitespace().filter_map(|group| group.parse().ok())).collect()
}

/// The umask of a caller.
pub(super) fn umask(caller: &Caller) -> u32 {
    status(caller, "Umask:").and_then(|text| u32::from_str_radix(&text, 8).ok()).unwrap_or(0o077)
}

impl EngineFrontEnd {
    /// Fails if chattr forbids what a file is opened for.
    pub(super) fn require_openable(&self, id: InodeId, mode: OpenMode) -> Result<()> {
        let Some(deed) = deed_of(mode.flags) else { return Ok(()) };
        require_unprotected(&self.attributes(Site::new("open", id))?, deed)
    }

    /// Whether a caller may do what needs a capability.
    pub(super) fn may(&self, caller: &Caller, capability: CallerCapability) -> bool {
        serves(caller) || has(caller, capability)
    }

    /// Fails unless the caller may do what needs `CAP_SYS_ADMIN`.
    pub(super) fn require_privileged(&self, caller: &Caller) -> Result<()> {
        if self.may(caller, CallerCapability::SysAdmin) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// Fails unless the caller owns the inode.
    pub(super) fn require_owner(&self, caller: &Caller, found: &Attributes) -> Result<()> {
        let owns = caller.uid == found.item.uid.get() || self.may(caller, CallerCapability::Fowner);
        if owns { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// Fails unless the caller may add names to, and remove them from, a directory.
    pub(super) fn require_dir_access(&self, caller: &Caller, dir: &Attributes) -> Result<()> {
        self.require_access(caller, dir, WRITE | ENTER)
    }

    /// Fails unless an inode's permissions allow the caller all that is wanted. As in the kernel's own checks of this
    /// mount, who serves it is not above permissions.
    pub(super) fn require_access(&self, caller: &Caller, found: &Attributes, wanted: u16) -> Result<()> {
        if has(caller, CallerCapability::DacOverride) {
            return Ok(());
        }
        let item = &found.item;
        let all = groups(caller);
        let who = Subject { uid: caller.uid, groups: &all, owner: item.uid.get(), group: item.gid.get() };
        let granted = match self.acl(found.id, acl::ACCESS)? {
            Some(acl) => acl.grants(&who, wanted),
            None => {
                let shift = if who.uid == who.owner {
                    6
                } else if all.contains(&who.group) {
                    3
                } else {
                    0
                };
                (item.mode.get() >> shift) as u16 & wanted == wanted
            }
        };
        if granted { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// An ACL of an inode. One that is broken on disk is an error: it must not grant more.
    pub(super) fn acl(&self, id: InodeId, name: &[u8]) -> Result<Option<Acl>> {
        if self.options.acl == PosixAcl::Off {
            return Ok(None);
        }
        match self.fs.xattr(id, name) {
            Ok(value) => Acl::parse(&value),
            Err(Error::NoAttribute) => Ok(None),
            Err(error) => Err(Site::new("getxattr", id).fail(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_by_number() {
        let all = "000001ffffffffff";
        assert!(is_in(all, CallerCapability::SysAdmin) && is_in(all, CallerCapability::DacOverride));
        assert!(is_in("0000000000200000", CallerCapability::SysAdmin));
        for set in ["0000000000000000", "00000000001fffff", "no number", ""] {
            assert!(!is_in(set, CallerCapability::SysAdmin), "{set}");
        }
    }

    #[test]
    fn who_cannot_be_seen_can_do_nothing() {
        assert!(!has(&Caller { uid: 0, gid: 0, pid: 0 }, CallerCapability::SysAdmin));
    }
}

//! A volume that was opened for reading, to be written from now on.
//!
//! # Invariants
//! * It is what opening it for writing would have come to: the same checks, of the same superblocks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::member::{Member, Role};
use crate::open::{check_totals, settle_missing};
use crate::superblock;
use crate::volume::{Missing, OpenMode, Volume};

impl Volume {
    /// Opens the devices for writing, and allows to write.
    ///
    /// # Errors
    /// If a device cannot be written, is in use elsewhere, or was written by somebody else since it was opened; if
    /// opening the filesystem for writing would have failed.
    pub fn open_for_writing(&self) -> Result<()> {
        if !self.is_read_only() {
            return Ok(());
        }
        settle_missing(self, Missing::Accept, OpenMode::ReadWrite)?;
        check_totals(&self.superblock(), &self.dev_items())?;
        let own = |member: &&Member| matches!(member.role(), Role::Current | Role::Behind);
        for member in self.members.present().filter(own) {
            member.device.open_for_writing().map_err(|source| member.error(source))?;
            require_unchanged(member)?;
        }
        self.open_target_for_writing()?;
        self.writable.store(true, Ordering::Release);
        self.repairs.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Volume {
    fn open_target_for_writing(&self) -> Result<()> {
        let target = self.members.present().find_map(Member::target);
        target.map_or(Ok(()), |target| {
            let member = &target.member;
            member.device.open_for_writing().map_err(|source| member.error(source))?;
            require_unchanged(member)
        })
    }
}

fn require_unchanged(member: &Member) -> Result<()> {
    let found = superblock::find(Arc::clone(&member.device), OpenMode::ReadWrite)?;
    let seen = *member.seen();
    if found.seen == seen {
        return Ok(());
    }
    let (name, now) = (member.device.name(), found.seen);
    Err(Error::Busy(format!("{name}: another system wrote to it ({seen}, now {now}); unmount it, and mount it again")))
}

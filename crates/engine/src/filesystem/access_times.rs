//! Access times: when reading changes them.
//!
//! # Invariants
//! * A read never fails, and never waits for space, because of its access time: the new time stays
//!   in memory until the inode is written back.

use butterfs_format::items::{InodeFlags, InodeItem, Timespec};

use super::Filesystem;
use crate::error::Result;
use crate::inode::{InodeId, item, lock};

const DAY: i64 = 24 * 60 * 60;

/// When reading changes an access time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessTimeRule {
    /// Never.
    Never,
    /// If it is not later than the last change, or a day old (`relatime`).
    Relative,
    /// Always.
    Always,
}

/// The rules of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessTimes {
    /// For all but directories.
    pub files: AccessTimeRule,
    /// For directories.
    pub directories: AccessTimeRule,
}

impl AccessTimes {
    /// One rule for everything.
    pub const fn all(rule: AccessTimeRule) -> Self {
        Self { files: rule, directories: rule }
    }

    fn rule(&self, item: &InodeItem) -> AccessTimeRule {
        if item.is_dir() { self.directories } else { self.files }
    }
}

impl AccessTimeRule {
    fn wants(self, item: &InodeItem, now: Timespec) -> bool {
        let order = |time: Timespec| (time.seconds(), time.nanoseconds());
        match self {
            Self::Never => false,
            Self::Always => item.atime != now,
            Self::Relative => {
                let (atime, changed) = (order(item.atime), order(item.mtime).max(order(item.ctime)));
                atime <= changed || now.seconds().saturating_sub(item.atime.seconds()) >= DAY
            }
        }
    }
}

impl Filesystem {
    /// Notes that an inode's content was read, by the mount's rule and the inode's own flag.
    pub fn note_access(&self, id: InodeId) -> Result<()> {
        if id.is_placeholder() || self.shared.gate.check_writable().is_err() {
            return Ok(());
        }
        let (inode, now) = (self.inode(id)?, self.now());
        let wanted = |item: &InodeItem| {
            !item.flags().contains(InodeFlags::NOATIME) && self.rules().access_times.rule(item).wants(item, now)
        };
        if !wanted(&lock(&inode.state).item) || self.shared.gate.view(|tx| item::require_writable(tx, id.tree)).is_err()
        {
            return Ok(());
        }
        {
            let mut state = lock(&inode.state);
            if state.gone || !wanted(&state.item) {
                return Ok(());
            }
            state.item.atime = now;
            state.dirty = true;
        }
        lock(&self.dirty).insert(id, inode);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn relative_access_times_follow_changes_and_days() {
        let mut item = InodeItem::new_zeroed();
        let at = |seconds| Timespec::new(seconds, 0);
        (item.atime, item.mtime, item.ctime) = (at(100), at(100), at(50));
        assert!(AccessTimeRule::Relative.wants(&item, at(101)));
        item.atime = at(101);
        assert!(!AccessTimeRule::Relative.wants(&item, at(102)));
        assert!(AccessTimeRule::Relative.wants(&item, at(101 + DAY)));
        assert!(AccessTimeRule::Always.wants(&item, at(102)));
        assert!(!AccessTimeRule::Never.wants(&item, at(i64::MAX)));
    }
}

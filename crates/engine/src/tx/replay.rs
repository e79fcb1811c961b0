//! What replay of a log tree needs of the transaction.

use butterfs_format::Logical;

use super::Transaction;
use super::delayed::ExtentKind;
use super::promises::Need;
use crate::error::Result;
use crate::tree::TreeRoot;

impl Transaction {
    /// The tree of log trees, by the superblock. It was written by the transaction after the last
    /// commit, which has the number of this one.
    pub(crate) fn log_root(&self) -> TreeRoot {
        let sb = &self.superblock;
        TreeRoot { bytenr: Logical(sb.log_root.get()), level: sb.log_root_level, generation: self.generation }
    }

    /// The next commit has no log.
    pub(crate) fn forget_log(&mut self) {
        self.superblock.log_root = 0.into();
        self.superblock.log_root_level = 0;
        self.superblock.log_root_transid = 0.into();
    }

    /// Space that is free by the last commit, but used by the log: not to be allocated as long as this
    /// transaction is in memory.
    pub(crate) fn set_aside(&mut self, at: Logical, len: u64) -> Result<()> {
        self.load_free_ranges_around(at)?;
        self.space.change(at.0, |group| {
            if let Some(free) = &mut group.free {
                free.claim(at.0, len);
            }
        });
        Ok(())
    }

    /// Whether a data extent exists, or will with this transaction.
    pub(crate) fn has_data_extent(&self, at: Logical, len: u64) -> Result<bool> {
        if self.refs.get(at).is_some_and(|head| head.new.is_some()) {
            return Ok(true);
        }
        Ok(self.extent_item(at, ExtentKind::Data, len)?.is_some())
    }

    /// Makes sure of metadata space for the next items, by a new chunk if need be.
    pub(crate) fn make_room_for_replay(&mut self) -> Result<()> {
        self.ensure_metadata(Need::Items(u32::MAX))
    }
}

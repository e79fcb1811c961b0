//! How far the replacement of a device is, written with each commit. The volume knows it.
//!
//! # Invariants
//! * It is taken before the commit flushes: what it says was copied is durable when it is.

use butterfs_format::TreeId;
use butterfs_format::items::DevReplaceItem;
use zerocopy::IntoBytes;

use super::Transaction;
use crate::error::Result;
use crate::space::GroupState;

impl Transaction {
    /// Writes it, if it changed.
    pub(super) fn write_replace_item(&mut self) -> Result<()> {
        match self.volume.take_changed_replace_item() {
            Some(item) => self.put(TreeId::DEV, &DevReplaceItem::KEY, item.as_bytes()),
            None => Ok(()),
        }
    }

    /// Block groups on a device that was missing are used again, now that another one has its place.
    pub fn open_fixed_groups(&mut self) {
        let fixed: Vec<u64> =
            self.space.iter().filter(|group| group.state == GroupState::Fixed).map(|group| group.start).collect();
        for start in fixed {
            let Some((_, chunk)) = self.volume.chunk_containing(butterfs_format::Logical(start)) else { continue };
            let state = self.state_of(&chunk);
            self.space.change(start, |group| group.state = state);
        }
    }
}

//! One block group.

use butterfs_format::items::BlockGroupFlags;

use super::{Due, FreeRanges, FreeSpace};

/// What may be done with a group's space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// Extents are put into it, and an empty one may be removed.
    Open,
    /// It is about to be emptied: nothing new is put into it, and nobody counts any more on space that he has in it.
    Closing,
    /// What lies in it is moved elsewhere: nothing new is put into it, nothing is written in
    /// place there, and it stays, since what was moved may still
    /// be read where it was.
    Moving,
    /// Nothing is put into it any more, and nobody reads what was in it: it goes once it is empty.
    Emptied,
    /// It lies on a device that is not written, a seed or one that is missing: it stays as it is, but for what is
    /// deleted in it.
    Fixed,
}

/// A block group: a range of logical space, the size of its chunk.
#[derive(Clone, Debug)]
pub struct BlockGroup {
    /// Where it begins.
    pub start: u64,
    /// How long it is, in bytes.
    pub len: u64,
    /// Type and profile.
    pub flags: BlockGroupFlags,
    /// Bytes of the extents in the extent tree: what the item says, or will say.
    pub used: u64,
    /// Bytes that must never be allocated because superblock copies lie there.
    pub excluded: u64,
    /// How many columns of data it has, if it has parity.
    pub columns: Option<u64>,
    /// Free space; `None` until somebody needs it.
    pub free: Option<FreeSpace>,
    /// Where the next tree block goes.
    pub hint: u64,
    /// The item on disk differs.
    pub dirty: bool,
    /// What may be done with its space.
    pub state: GroupState,
}

impl BlockGroup {
    /// One past the last byte.
    pub fn end(&self) -> u64 {
        self.start + self.len
    }

    /// Its free ranges are known.
    pub fn set_free(&mut self, ranges: FreeRanges) {
        self.free = Some(FreeSpace::new(ranges, self.start, self.columns));
    }

    /// Bytes that could be allocated now, in parts as small as may be and with commits between them: with parity each
    /// part takes a line of its own at worst. Space freed but not yet durable is not among them once
    /// the free ranges are loaded; before that nothing of this group was freed.
    pub fn available(&self) -> u64 {
        match &self.free {
            _ if self.state != GroupState::Open => 0,
            Some(free) => free.sure(),
            None => match self.columns {
                None => self.len.saturating_sub(self.used + self.excluded),
                // Each used sector has a line of its own at worst.
                Some(columns) => (self.len.saturating_sub(self.excluded) / columns).saturating_sub(self.used),
            },
        }
    }

    /// Bytes that can be allocated now if they are allocated at once; rather too many if the free ranges are not
    /// loaded.
    pub fn open(&self) -> u64 {
        match &self.free {
            _ if self.state != GroupState::Open => 0,
            Some(free) => free.open(),
            None => self.len.saturating_sub(self.used + self.excluded),
        }
    }

    /// Free bytes beside what is durable: they cannot be allocated before that is gone.
    pub fn waiting(&self) -> u64 {
        self.free.as_ref().map_or(0, |free| free.total() - free.open())
    }

    /// What was put there for then is becoming durable.
    pub fn close_rows(&mut self, due: Due) {
        if let Some(free) = &mut self.free {
            free.close_rows(due);
        }
    }
}

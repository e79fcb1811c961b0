//! One block group.

use butterfs_format::items::BlockGroupFlags;

use super::FreeRanges;

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
    /// Free ranges; `None` until somebody needs them.
    pub free: Option<FreeRanges>,
    /// Where the next tree block goes.
    pub hint: u64,
    /// The item on disk differs.
    pub dirty: bool,
    /// Not allocated from: it is about to be removed, or lies on a device that is not written.
    pub read_only: bool,
}

impl BlockGroup {
    /// One past the last byte.
    pub fn end(&self) -> u64 {
        self.start + self.len
    }

    /// Bytes that could be allocated now. Space freed but not yet durable is not among them once
    /// the free ranges are loaded; before that nothing of this group was freed.
    pub fn available(&self) -> u64 {
        match &self.free {
            _ if self.read_only => 0,
            Some(free) => free.total(),
            None => self.len.saturating_sub(self.used + self.excluded),
        }
    }
}

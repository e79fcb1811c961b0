//! Where the bytes of a file are, with the kernel's flags.

use std::ops::ControlFlow;

use butterfs_engine::file::{Stretch, StretchKind};
use butterfs_engine::filesystem::InMemory;
use butterfs_engine::inode::InodeId;
use butterfs_format::items::{Compression, FileType};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::reply;
use crate::adapter::{EngineFrontEnd, Site};
use crate::control::wire::{FIEMAP_EXTENTS, FIEMAP_FLAGS, FIEMAP_LAST, FIEMAP_SYNC, FiemapExtent, FiemapPage};
use crate::types::IoctlReply;
use crate::{Errno, Result};

/// `FIEMAP_EXTENT_ENCODED`, `_NOT_ALIGNED`, `_DATA_INLINE`, `_UNWRITTEN` and `_SHARED`.
const ENCODED: u32 = 0x8;
/// `FIEMAP_EXTENT_DELALLOC` and `_UNKNOWN`.
const IN_MEMORY: u32 = 0x4 | 0x2;
const NOT_ALIGNED: u32 = 0x100;
const DATA_INLINE: u32 = 0x200;
const UNWRITTEN: u32 = 0x800;
const SHARED: u32 = 0x2000;

/// An extent as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shown {
    logical: u64,
    physical: u64,
    len: u64,
    flags: u32,
}

impl Shown {
    fn of(stretch: &Stretch) -> Self {
        let kind = match stretch.kind {
            StretchKind::Inline => DATA_INLINE | NOT_ALIGNED,
            StretchKind::Prealloc => UNWRITTEN,
            StretchKind::Regular => 0,
            StretchKind::Memory => IN_MEMORY,
        };
        let encoded = if stretch.compression == Compression::None { 0 } else { ENCODED };
        let shared = if stretch.shared { SHARED } else { 0 };
        let Stretch { offset, len, at, .. } = *stretch;
        Self { logical: offset, physical: at.0, len, flags: kind | encoded | shared }
    }

    /// Makes it longer by one that goes on where it ends.
    fn join(&mut self, next: &Self) -> bool {
        let goes_on = self.logical + self.len == next.logical && self.physical + self.len == next.physical;
        let joined = goes_on && self.flags == next.flags;
        if joined {
            self.len += next.len;
        }
        joined
    }

    fn record(&self) -> FiemapExtent {
        let mut record = FiemapExtent::new_zeroed();
        (record.logical, record.physical) = (self.logical.into(), self.physical.into());
        (record.len, record.flags) = (self.len.into(), self.flags.into());
        record
    }
}

/// Extents on their way into a page.
struct Collected {
    all: Vec<Shown>,
    most: usize,
}

impl Collected {
    fn take(&mut self, next: Shown) -> ControlFlow<()> {
        if self.all.last_mut().is_some_and(|last| last.join(&next)) {
            return ControlFlow::Continue(());
        }
        if self.all.len() == self.most {
            return ControlFlow::Break(());
        }
        self.all.push(next);
        ControlFlow::Continue(())
    }
}

impl EngineFrontEnd {
    pub(super) fn fiemap(&self, id: InodeId, input: &[u8]) -> Result<IoctlReply> {
        let mut page = FiemapPage::read_from_bytes(input).map_err(|_| Errno::EINVAL)?;
        // As in the kernel, nothing else has a map.
        if self.attributes(Site::new("fiemap", id))?.file_type != FileType::Regular {
            return Err(Errno::EOPNOTSUPP);
        }
        if page.header.flags.get() & !FIEMAP_FLAGS != 0 {
            return Err(Errno::EBADR);
        }
        let count = page.header.count.get() as usize;
        let most = if count == 0 { usize::MAX } else { count.min(FIEMAP_EXTENTS) };
        let sector = u64::from(self.fs.shared().gate.volume().geometry().sectorsize);
        let start = page.header.start.get();
        let end = start.saturating_add(page.header.len.get());
        let mut found = Collected { all: Vec::new(), most };
        let range = start / sector * sector..end.checked_next_multiple_of(sector).unwrap_or(u64::MAX);
        let in_memory = match page.header.flags.get() & FIEMAP_SYNC {
            0 => InMemory::Show,
            _ => InMemory::WriteBack,
        };
        let last_end = self.fs.stretches(id, &range, in_memory, |stretch| found.take(Shown::of(&stretch)));
        let last_end = last_end.map_err(|error| Site::new("fiemap", id).fail(&error))?;
        if let Some(last) = found.all.last_mut()
            && last.logical + last.len >= last_end
        {
            last.flags |= FIEMAP_LAST;
        }
        page.header.mapped = u32::try_from(found.all.len()).unwrap_or(u32::MAX).into();
        if count > 0 {
            page.extents.iter_mut().zip(&found.all).for_each(|(place, extent)| *place = extent.record());
        }
        reply(page.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_extent() {
        let extent = |logical, physical, flags| Shown { logical, physical, len: 4096, flags };
        let mut found = Collected { all: Vec::new(), most: 2 };
        assert!(found.take(extent(0, 1 << 20, 0)).is_continue());
        assert!(found.take(extent(4096, (1 << 20) + 4096, 0)).is_continue());
        assert!(found.take(extent(8192, (1 << 20) + 8192, SHARED)).is_continue());
        assert!(found.take(extent(12_288, 5 << 20, SHARED)).is_break(), "no room");
        assert_eq!(found.all.iter().map(|one| one.len).collect::<Vec<_>>(), [8192, 4096]);
    }
}

//! Where the bytes of a file on a mount are; on the kernel's filesystems too.

use std::io;
use std::os::fd::BorrowedFd;

use butterfs_os::flat_ioctl::{Tailed, flat_ioctl, tailed_ioctl};
use rustix::fs::{fdatasync, fstat};
use rustix::io::Errno;
use zerocopy::{FromZeros, IntoBytes};

use super::wire::{self, FIEMAP_EXTENTS, FIEMAP_LAST, FIEMAP_SYNC, FiemapPage};

/// A file's map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileMap {
    /// The file's size, in bytes.
    pub size: u64,
    /// The unit of allocation, in bytes.
    pub block_size: u64,
    /// Its extents, holes left out.
    pub ranges: Vec<MappedRange>,
}

/// An extent, or several that go on where the one before ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedRange {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// Its logical address.
    pub physical: u64,
    /// How long it is in the file.
    pub len: u64,
    /// See [`MapFlag`].
    pub flags: u32,
}

/// What is to be said of an extent; the numbers are `FIEMAP_EXTENT_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapFlag {
    /// None follows.
    Last = FIEMAP_LAST,
    /// Compressed.
    Encoded = 0x8,
    /// Does not begin or end with a block.
    NotAligned = 0x100,
    /// In the tree.
    Inline = 0x200,
    /// Allocated, and never written.
    Unwritten = 0x800,
    /// Another file has it too, or another place of this one.
    Shared = 0x2000,
}

impl MappedRange {
    /// Whether that is to be said of it.
    pub fn has(&self, flag: MapFlag) -> bool {
        self.flags & flag as u32 != 0
    }
}

/// Maps a file. What is in memory is written back first.
pub fn file_map(file: BorrowedFd<'_>) -> io::Result<FileMap> {
    fdatasync(file)?;
    let found = fstat(file)?;
    let (size, block_size) = (found.st_size as u64, (found.st_blksize as u64).max(512));
    let mut ranges: Vec<MappedRange> = Vec::new();
    loop {
        let start = ranges.last().map_or(0, |last| last.offset.saturating_add(last.len));
        let mut page = FiemapPage::new_zeroed();
        page.header.start = start.into();
        page.header.len = (u64::MAX - start).into();
        page.header.flags = FIEMAP_SYNC.into();
        page.header.count = (FIEMAP_EXTENTS as u32).into();
        match flat_ioctl(file, wire::FIEMAP, page.as_mut_bytes()) {
            // Not a mount of ours: the kernel maps it.
            Err(Errno::NOTTY) => tailed_ioctl(file, Tailed::Fiemap, page.as_mut_bytes())?,
            other => other?,
        };
        let got = page.extents.iter().take(page.header.mapped.get() as usize).map(|extent| MappedRange {
            offset: extent.logical.get(),
            physical: extent.physical.get(),
            len: extent.len.get(),
            flags: extent.flags.get(),
        });
        let before = ranges.len();
        ranges.extend(got);
        let ends = ranges.last().is_none_or(|last| last.has(MapFlag::Last));
        if ends || ranges.len() == before {
            return Ok(FileMap { size, block_size, ranges });
        }
    }
}

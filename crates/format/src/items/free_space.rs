//! FREE_SPACE_INFO; FREE_SPACE_EXTENT has no data, FREE_SPACE_BITMAP is a bare bitmap.
//!
//! The keys of all three are (start, type, length in bytes). In a bitmap bit i (bit `i % 8` of byte
//! `i / 8`) stands for sector i of the range; a set bit is free.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// How the free space of a block group is kept.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FreeSpaceInfo {
    /// Number of free extents.
    pub extent_count: U32,
    /// Bit 0: bitmaps are used instead of extents.
    pub flags: U32,
}
const _: () = assert!(size_of::<FreeSpaceInfo>() == 8);

impl FreeSpaceInfo {
    /// Set in `flags` when bitmaps are used.
    pub const USING_BITMAPS: u32 = 1;
    /// The size of a bitmap, in bytes.
    pub const BITMAP_BYTES: usize = 256;

    /// Whether bitmaps are used.
    pub fn uses_bitmaps(&self) -> bool {
        self.flags.get() & Self::USING_BITMAPS != 0
    }

    /// The bytes of logical space that one bitmap covers.
    pub const fn bitmap_range(sectorsize: u32) -> u64 {
        Self::BITMAP_BYTES as u64 * 8 * sectorsize as u64
    }
}

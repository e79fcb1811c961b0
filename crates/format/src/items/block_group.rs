//! BLOCK_GROUP_ITEM, and the type and profile bits that chunks share.

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

bitflags::bitflags! {
    /// What a block group holds and how it is laid over devices.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct BlockGroupFlags: u64 {
        /// File data.
        const DATA = 1 << 0;
        /// The chunk tree.
        const SYSTEM = 1 << 1;
        /// All other trees.
        const METADATA = 1 << 2;
        /// Striped.
        const RAID0 = 1 << 3;
        /// Two copies on two devices.
        const RAID1 = 1 << 4;
        /// Two copies on one device.
        const DUP = 1 << 5;
        /// Striped mirrors.
        const RAID10 = 1 << 6;
        /// One parity.
        const RAID5 = 1 << 7;
        /// Two parities.
        const RAID6 = 1 << 8;
        /// Three copies on three devices.
        const RAID1C3 = 1 << 9;
        /// Four copies on four devices.
        const RAID1C4 = 1 << 10;
        /// Remapped (remap-tree).
        const REMAPPED = 1 << 11;
    }
}

impl BlockGroupFlags {
    /// The bits that say what is stored.
    pub const TYPE_MASK: Self = Self::DATA.union(Self::SYSTEM).union(Self::METADATA);
    /// The bits that say how; none is the single profile.
    pub const PROFILE_MASK: Self = Self::RAID0
        .union(Self::RAID1)
        .union(Self::DUP)
        .union(Self::RAID10)
        .union(Self::RAID5)
        .union(Self::RAID6)
        .union(Self::RAID1C3)
        .union(Self::RAID1C4);

    /// What is stored.
    pub fn kind(self) -> Self {
        self & Self::TYPE_MASK
    }

    /// How it is laid over devices.
    pub fn profile(self) -> Self {
        self & Self::PROFILE_MASK
    }

    /// The profile's name in lower case, as users write it.
    pub fn profile_name(self) -> &'static str {
        match self.profile() {
            Self::RAID0 => "raid0",
            Self::RAID1 => "raid1",
            Self::DUP => "dup",
            Self::RAID10 => "raid10",
            Self::RAID5 => "raid5",
            Self::RAID6 => "raid6",
            Self::RAID1C3 => "raid1c3",
            Self::RAID1C4 => "raid1c4",
            p if p.is_empty() => "single",
            _ => "unknown",
        }
    }
}

/// Prints `METADATA|DUP` or `DATA|single`, as dump-tree does.
impl std::fmt::Display for BlockGroupFlags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        crate::print::block_group_flags(self.bits()).fmt(f)
    }
}

/// A block group; the key is (logical address, BLOCK_GROUP_ITEM, length).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockGroupItem {
    /// Allocated bytes.
    pub used: U64,
    /// Always 256.
    pub chunk_objectid: U64,
    /// See [`BlockGroupFlags`].
    pub flags: U64,
}
const _: () = assert!(size_of::<BlockGroupItem>() == 24);

impl BlockGroupItem {
    /// Type and profile.
    pub fn flags(&self) -> BlockGroupFlags {
        BlockGroupFlags::from_bits_retain(self.flags.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_dump_tree_does() {
        assert_eq!((BlockGroupFlags::METADATA | BlockGroupFlags::DUP).to_string(), "METADATA|DUP");
        assert_eq!(BlockGroupFlags::DATA.to_string(), "DATA|single");
    }
}

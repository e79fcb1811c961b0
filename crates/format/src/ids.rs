//! Addresses and numbers of the format as newtypes, so that no two bare integers stand side by side.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// The bare number.
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                Self(value)
            }
        }
    };
}

number! {
    /// An address in the logical space that chunks map onto devices, in bytes.
    Logical
}
number! {
    /// A transaction number; a block carries the generation that wrote it.
    Generation
}
number! {
    /// The object id of a tree: 1 to 13 for the global trees, 5 and 256.. for subvolumes.
    TreeId
}
number! {
    /// An inode number within one subvolume.
    Ino
}
number! {
    /// A device number within one filesystem, from 1.
    DevId
}

impl Logical {
    /// The address `bytes` further on; `None` on overflow.
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }
}

impl Generation {
    /// The generation after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The lowest object id that a user's inode or subvolume may have.
pub const FIRST_FREE_OBJECTID: u64 = 256;
/// The highest object id that a user's inode or subvolume may have (2^64 - 256).
pub const LAST_FREE_OBJECTID: u64 = (-256i64) as u64;

impl Ino {
    /// The inode of a subvolume's top directory.
    pub const ROOT_DIR: Self = Self(FIRST_FREE_OBJECTID);
}

impl TreeId {
    /// The tree of tree roots.
    pub const ROOT: Self = Self(1);
    /// Extent items and their back references.
    pub const EXTENT: Self = Self(2);
    /// Chunks and devices: the logical address space.
    pub const CHUNK: Self = Self(3);
    /// Device extents: which bytes of a device belong to which chunk.
    pub const DEV: Self = Self(4);
    /// The top-level subvolume.
    pub const FS: Self = Self(5);
    /// The directory object in the root tree that names the default subvolume.
    pub const ROOT_TREE_DIR: Self = Self(6);
    /// Checksums of data.
    pub const CSUM: Self = Self(7);
    /// Quota groups.
    pub const QUOTA: Self = Self(8);
    /// Subvolume UUIDs.
    pub const UUID: Self = Self(9);
    /// Free space tree (v2 space cache).
    pub const FREE_SPACE: Self = Self(10);
    /// Block group items, when the block-group-tree feature is on.
    pub const BLOCK_GROUP: Self = Self(11);
    /// Stripe extents, when raid-stripe-tree is on.
    pub const RAID_STRIPE: Self = Self(12);
    /// Log trees.
    pub const TREE_LOG: Self = Self((-6i64) as u64);
    /// Relocated blocks.
    pub const TREE_RELOC: Self = Self((-8i64) as u64);
    /// The tree that holds data while it is relocated.
    pub const DATA_RELOC: Self = Self((-9i64) as u64);

    /// Whether this tree holds inodes and files of a subvolume.
    pub const fn is_subvolume(self) -> bool {
        self.0 == Self::FS.0 || (self.0 >= FIRST_FREE_OBJECTID && self.0 <= LAST_FREE_OBJECTID)
    }

    /// Whether blocks of this tree may be shared between trees by snapshots, so that a copy on
    /// write has to look at reference counts.
    pub const fn is_shareable(self) -> bool {
        self.is_subvolume() || self.0 == Self::DATA_RELOC.0 || self.0 == Self::TREE_RELOC.0
    }
}

/// Object ids with a meaning of their own, in one tree or another.
pub mod objectid {
    /// Device items in the chunk tree, and device statistics.
    pub const DEV_ITEMS: u64 = 1;
    /// Chunk items in the chunk tree.
    pub const FIRST_CHUNK_TREE: u64 = 256;
    /// Orphan items: inodes to delete, subvolumes to drop.
    pub const ORPHAN: u64 = (-5i64) as u64;
    /// Checksum items in the checksum tree.
    pub const EXTENT_CSUM: u64 = (-10i64) as u64;
    /// Free space cache (v1).
    pub const FREE_SPACE: u64 = (-11i64) as u64;
    /// Inode number cache, removed from the kernel long ago.
    pub const FREE_INO: u64 = (-12i64) as u64;
    /// Statistics of devices, in persistent items.
    pub const DEV_STATS: u64 = 0;
    /// Fixups of a log tree, in memory only.
    pub const TREE_LOG_FIXUP: u64 = (-7i64) as u64;
    /// Several objects at once, where one is wanted.
    pub const MULTIPLE: u64 = (-255i64) as u64;
    /// A tree that is being relocated.
    pub const TREE_RELOC: u64 = (-8i64) as u64;
    /// A change of the checksum algorithm under way.
    pub const CSUM_CHANGE: u64 = (-13i64) as u64;
    /// An interrupted balance.
    pub const BALANCE: u64 = (-4i64) as u64;
}

//! Keys and item types; [`crate::print`] prints them.

use std::fmt;

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::FIRST_FREE_OBJECTID;

/// The kind of an item: the middle part of a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemType(pub u8);

macro_rules! item_types {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        impl ItemType {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            /// The name that dump-tree prints, if this type is known.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

item_types! {
    /// [`crate::items::InodeItem`].
    INODE_ITEM = 1, "INODE_ITEM";
    /// Name of an inode in a directory: [`crate::items::InodeRef`].
    INODE_REF = 12, "INODE_REF";
    /// Name of an inode in a directory, hashed: [`crate::items::InodeExtref`].
    INODE_EXTREF = 13, "INODE_EXTREF";
    /// Extended attribute, by name hash.
    XATTR_ITEM = 24, "XATTR_ITEM";
    /// fs-verity descriptor.
    VERITY_DESC_ITEM = 36, "VERITY_DESC_ITEM";
    /// fs-verity Merkle tree.
    VERITY_MERKLE_ITEM = 37, "VERITY_MERKLE_ITEM";
    /// An inode without links, or a subvolume, that waits to be deleted.
    ORPHAN_ITEM = 48, "ORPHAN_ITEM";
    /// Log tree: range of directory items that the log is whole for (no longer written).
    DIR_LOG_ITEM = 60, "DIR_LOG_ITEM";
    /// Log tree: range of directory indexes that the log is whole for.
    DIR_LOG_INDEX = 72, "DIR_LOG_INDEX";
    /// Directory entry by name hash.
    DIR_ITEM = 84, "DIR_ITEM";
    /// Directory entry by index, the order of readdir.
    DIR_INDEX = 96, "DIR_INDEX";
    /// [`crate::items::FileExtent`].
    EXTENT_DATA = 108, "EXTENT_DATA";
    /// Data checksums, before 2008.
    CSUM_ITEM = 120, "CSUM_ITEM";
    /// Data checksums.
    EXTENT_CSUM = 128, "EXTENT_CSUM";
    /// [`crate::items::RootItem`].
    ROOT_ITEM = 132, "ROOT_ITEM";
    /// Subvolume to the directory that holds it: [`crate::items::RootRef`].
    ROOT_BACKREF = 144, "ROOT_BACKREF";
    /// Directory's subvolume to the subvolume in it: [`crate::items::RootRef`].
    ROOT_REF = 156, "ROOT_REF";
    /// An extent with its length as the key's offset.
    EXTENT_ITEM = 168, "EXTENT_ITEM";
    /// A tree block's extent with its level as the key's offset (skinny-metadata).
    METADATA_ITEM = 169, "METADATA_ITEM";
    /// Simple quotas: owner of a data extent.
    EXTENT_OWNER_REF = 172, "EXTENT_OWNER_REF";
    /// A tree block referred to by a tree.
    TREE_BLOCK_REF = 176, "TREE_BLOCK_REF";
    /// A data extent referred to by a file.
    EXTENT_DATA_REF = 178, "EXTENT_DATA_REF";
    /// A back reference, before 2009.
    EXTENT_REF_V0 = 180, "EXTENT_REF_V0";
    /// A tree block referred to by a parent block.
    SHARED_BLOCK_REF = 182, "SHARED_BLOCK_REF";
    /// A data extent referred to by a leaf.
    SHARED_DATA_REF = 184, "SHARED_DATA_REF";
    /// [`crate::items::BlockGroupItem`].
    BLOCK_GROUP_ITEM = 192, "BLOCK_GROUP_ITEM";
    /// [`crate::items::FreeSpaceInfo`].
    FREE_SPACE_INFO = 198, "FREE_SPACE_INFO";
    /// A free range of a block group.
    FREE_SPACE_EXTENT = 199, "FREE_SPACE_EXTENT";
    /// Free sectors of a range as a bitmap.
    FREE_SPACE_BITMAP = 200, "FREE_SPACE_BITMAP";
    /// [`crate::items::DevExtent`].
    DEV_EXTENT = 204, "DEV_EXTENT";
    /// [`crate::items::DevItem`].
    DEV_ITEM = 216, "DEV_ITEM";
    /// [`crate::items::Chunk`].
    CHUNK_ITEM = 228, "CHUNK_ITEM";
    /// raid-stripe-tree extent.
    RAID_STRIPE = 230, "RAID_STRIPE";
    /// Quota state.
    QGROUP_STATUS = 240, "QGROUP_STATUS";
    /// Quota group usage.
    QGROUP_INFO = 242, "QGROUP_INFO";
    /// Quota group limits.
    QGROUP_LIMIT = 244, "QGROUP_LIMIT";
    /// Quota group parent and child.
    QGROUP_RELATION = 246, "QGROUP_RELATION";
    /// Balance state and other items that come and go.
    TEMPORARY_ITEM = 248, "TEMPORARY_ITEM";
    /// Device statistics and other items that stay.
    PERSISTENT_ITEM = 249, "PERSISTENT_ITEM";
    /// Device replace state.
    DEV_REPLACE = 250, "DEV_REPLACE";
    /// UUID of a subvolume.
    UUID_SUBVOL = 251, "UUID_KEY_SUBVOL";
    /// UUID that a subvolume was received from.
    UUID_RECEIVED_SUBVOL = 252, "UUID_KEY_RECEIVED_SUBVOL";
    /// A name or text.
    STRING_ITEM = 253, "STRING_ITEM";
}

impl ItemType {
    /// Key type of an untyped object (free space cache v1, inode cache).
    pub const UNTYPED: Self = Self(0);
}

impl fmt::Debug for ItemType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The address of an item in a tree; keys are ordered field by field.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// What the item belongs to: an inode, an extent, a tree...
    pub objectid: u64,
    /// The kind of the item.
    pub item_type: ItemType,
    /// Depends on the kind: a file offset, a hash, a length...
    pub offset: u64,
}

impl Key {
    /// The lowest key.
    pub const MIN: Self = Self { objectid: 0, item_type: ItemType(0), offset: 0 };
    /// The highest key.
    pub const MAX: Self = Self { objectid: u64::MAX, item_type: ItemType(u8::MAX), offset: u64::MAX };

    /// A key of its three parts.
    pub const fn new(objectid: u64, item_type: ItemType, offset: u64) -> Self {
        Self { objectid, item_type, offset }
    }

    /// The next higher key; [`Key::MAX`] stays as it is.
    pub fn next(self) -> Self {
        if self.offset < u64::MAX {
            return Self { offset: self.offset + 1, ..self };
        }
        if self.item_type.0 < u8::MAX {
            return Self::new(self.objectid, ItemType(self.item_type.0 + 1), 0);
        }
        match self.objectid.checked_add(1) {
            Some(objectid) => Self::new(objectid, ItemType(0), 0),
            None => self,
        }
    }

    /// The next lower key, or `None` below [`Key::MIN`].
    pub fn previous(self) -> Option<Self> {
        if self.offset > 0 {
            return Some(Self { offset: self.offset - 1, ..self });
        }
        if self.item_type.0 > 0 {
            return Some(Self::new(self.objectid, ItemType(self.item_type.0 - 1), u64::MAX));
        }
        let objectid = self.objectid.checked_sub(1)?;
        Some(Self::new(objectid, ItemType(u8::MAX), u64::MAX))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A key as 17 bytes on disk.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DiskKey {
    /// See [`Key::objectid`].
    pub objectid: U64,
    /// See [`Key::item_type`].
    pub item_type: u8,
    /// See [`Key::offset`].
    pub offset: U64,
}
const _: () = assert!(size_of::<DiskKey>() == 17);

impl From<Key> for DiskKey {
    fn from(key: Key) -> Self {
        Self { objectid: key.objectid.into(), item_type: key.item_type.0, offset: key.offset.into() }
    }
}

impl From<DiskKey> for Key {
    fn from(key: DiskKey) -> Self {
        Self::new(key.objectid.get(), ItemType(key.item_type), key.offset.get())
    }
}

/// Whether `objectid` can be an inode a user made.
pub const fn is_user_objectid(objectid: u64) -> bool {
    objectid >= FIRST_FREE_OBJECTID && objectid <= crate::ids::LAST_FREE_OBJECTID
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_and_previous_carry_over_fields() {
        let key = Key::new(1, ItemType(255), u64::MAX);
        assert_eq!(key.next(), Key::new(2, ItemType(0), 0));
        assert_eq!(key.next().previous(), Some(key));
        assert_eq!(Key::MIN.previous(), None);
        assert_eq!(Key::MAX.next(), Key::MAX);
    }

    #[test]
    fn disk_key_round_trips() {
        let key = Key::new(7, ItemType::EXTENT_DATA, 4096);
        assert_eq!(Key::from(DiskKey::from(key)), key);
    }
}

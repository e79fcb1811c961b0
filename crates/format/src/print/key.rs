//! Keys and object ids by name.

use std::fmt::{self, Display, Formatter};

use crate::ids::objectid;
use crate::key::{ItemType, Key};

/// `key (256 INODE_ITEM 0)`.
pub struct KeyText(pub Key);

impl Display for KeyText {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "key {}", self.0)
    }
}

/// An object id, by name if it has one; what it means depends on the type of the key it is in.
pub struct ObjectId {
    /// The object id.
    pub id: u64,
    /// The type in the key; [`ItemType::UNTYPED`] outside keys.
    pub item_type: ItemType,
}

impl ObjectId {
    /// The id of a tree.
    pub const fn tree(id: u64) -> Self {
        Self { id, item_type: ItemType::UNTYPED }
    }
}

impl Display for ObjectId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let id = self.id;
        match self.item_type {
            ItemType::PERSISTENT_ITEM if id == 0 => f.write_str("DEV_STATS"),
            ItemType::PERSISTENT_ITEM | ItemType::DEV_EXTENT => write!(f, "{id}"),
            ItemType::QGROUP_RELATION => write_qgroup(f, id),
            ItemType::UUID_SUBVOL | ItemType::UUID_RECEIVED_SUBVOL => write!(f, "0x{id:016x}"),
            ItemType::DEV_ITEM if id == objectid::DEV_ITEMS => f.write_str("DEV_ITEMS"),
            ItemType::CHUNK_ITEM if id == objectid::FIRST_CHUNK_TREE => f.write_str("FIRST_CHUNK_TREE"),
            _ => match name(id) {
                Some(name) => f.write_str(name),
                None => write!(f, "{id}"),
            },
        }
    }
}

/// The names that object ids have whatever the type of their key.
fn name(id: u64) -> Option<&'static str> {
    Some(match id as i64 {
        1 => "ROOT_TREE",
        2 => "EXTENT_TREE",
        3 => "CHUNK_TREE",
        4 => "DEV_TREE",
        5 => "FS_TREE",
        6 => "ROOT_TREE_DIR",
        7 => "CSUM_TREE",
        8 => "QUOTA_TREE",
        9 => "UUID_TREE",
        10 => "FREE_SPACE_TREE",
        11 => "BLOCK_GROUP_TREE",
        12 => "RAID_STRIPE_TREE",
        -1 => "-1",
        -4 => "BALANCE",
        -5 => "ORPHAN",
        -6 => "TREE_LOG",
        -7 => "LOG_FIXUP",
        -8 => "TREE_RELOC",
        -9 => "DATA_RELOC_TREE",
        -10 => "EXTENT_CSUM",
        -11 => "FREE_SPACE",
        -12 => "FREE_INO",
        -13 => "CSUM_CHANGE",
        -255 => "MULTIPLE",
        _ => return None,
    })
}

/// A quota group: level in the upper 16 bits, subvolume or number below.
fn write_qgroup(f: &mut Formatter<'_>, id: u64) -> fmt::Result {
    write!(f, "{}/{}", id >> 48, id & 0xffff_ffff_ffff)
}

/// Prints `(256 INODE_ITEM 0)`.
impl Display for Key {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "({} ", ObjectId { id: self.objectid, item_type: self.item_type })?;
        match self.item_type {
            ItemType::UNTYPED if self.objectid == objectid::FREE_SPACE => f.write_str("UNTYPED")?,
            known => Display::fmt(&known, f)?,
        }
        f.write_str(" ")?;
        write_offset(f, self)?;
        f.write_str(")")
    }
}

fn write_offset(f: &mut Formatter<'_>, key: &Key) -> fmt::Result {
    let offset = key.offset;
    match key.item_type {
        ItemType::QGROUP_RELATION | ItemType::QGROUP_INFO | ItemType::QGROUP_LIMIT => write_qgroup(f, offset),
        ItemType::UUID_SUBVOL | ItemType::UUID_RECEIVED_SUBVOL => write!(f, "0x{offset:016x}"),
        // A reloc tree's offset is the tree that it is made from; others have a generation there.
        ItemType::ROOT_ITEM if key.objectid == objectid::TREE_RELOC => {
            Display::fmt(&ObjectId { id: offset, item_type: ItemType::ROOT_ITEM }, f)
        }
        ItemType::ROOT_ITEM => write!(f, "{offset}"),
        _ if offset == u64::MAX => f.write_str("-1"),
        _ => write!(f, "{offset}"),
    }
}

/// The name, or `UNKNOWN.N`.
impl Display for ItemType {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "UNKNOWN.{}", self.0),
        }
    }
}

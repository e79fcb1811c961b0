//! One item, by the type in its key.

use std::fmt::{self, Display, Formatter};

use super::fields::{Fields, Printed, Stop};
use super::name::Plain;
use super::{Options, backref, chunk, device, dir, extent, file_extent, inode, qgroup, root};
use crate::ids::objectid;
use crate::key::{ItemType, Key};

/// The lines of an item below the one with its key; kinds that are not known have none.
pub struct ItemText<'a> {
    /// The item's key.
    pub key: Key,
    /// The item's bytes.
    pub data: &'a [u8],
    /// How to print.
    pub options: &'a Options,
}

impl Display for ItemText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match print(f, &self.key, self.data, self.options) {
            Ok(()) => Ok(()),
            Err(Stop::Format(error)) => Err(error),
            Err(Stop::Short) => writeln!(f, "\t\titem of {} bytes is too short", self.data.len()),
        }
    }
}

fn print(f: &mut Formatter<'_>, key: &Key, data: &[u8], options: &Options) -> Printed {
    let fields = Fields::new(data);
    match key.item_type {
        ItemType::UNTYPED if key.objectid == objectid::FREE_SPACE => extent::free_space_header(f, fields),
        ItemType::INODE_ITEM => inode::inode_item(f, fields, options),
        ItemType::INODE_REF => inode::inode_ref(f, fields, options),
        ItemType::INODE_EXTREF => inode::inode_extref(f, fields, options),
        ItemType::DIR_ITEM | ItemType::DIR_INDEX | ItemType::XATTR_ITEM => dir::entries(f, fields, options),
        ItemType::DIR_LOG_INDEX | ItemType::DIR_LOG_ITEM => dir::log(f, fields),
        ItemType::ORPHAN_ITEM => line(f, "orphan item"),
        ItemType::ROOT_ITEM => root::root_item(f, data, options),
        ItemType::ROOT_REF => root::root_ref(f, fields, "ref", options),
        ItemType::ROOT_BACKREF => root::root_ref(f, fields, "backref", options),
        ItemType::UUID_SUBVOL | ItemType::UUID_RECEIVED_SUBVOL => root::uuid(f, data),
        ItemType::EXTENT_ITEM | ItemType::METADATA_ITEM => backref::extent_item(f, fields, key),
        ItemType::TREE_BLOCK_REF => line(f, "tree block backref"),
        ItemType::SHARED_BLOCK_REF => line(f, "shared block backref"),
        ItemType::EXTENT_DATA_REF => backref::data_ref(f, fields),
        ItemType::SHARED_DATA_REF => backref::shared_data_ref(f, fields),
        ItemType::EXTENT_OWNER_REF => backref::owner_ref(f, fields),
        ItemType::EXTENT_REF_V0 => line(f, "extent ref v0 (deprecated)"),
        ItemType::CSUM_ITEM => line(f, "csum item"),
        ItemType::EXTENT_CSUM => file_extent::csums(f, key.offset, data, options),
        ItemType::EXTENT_DATA => file_extent::file_extent(f, fields),
        ItemType::BLOCK_GROUP_ITEM => extent::block_group(f, fields),
        ItemType::FREE_SPACE_INFO => extent::free_space_info(f, fields),
        ItemType::FREE_SPACE_EXTENT => line(f, "free space extent"),
        ItemType::FREE_SPACE_BITMAP => line(f, "free space bitmap"),
        ItemType::CHUNK_ITEM => chunk::chunk(f, data),
        ItemType::DEV_ITEM => chunk::dev_item(f, fields),
        ItemType::DEV_EXTENT => chunk::dev_extent(f, fields),
        ItemType::RAID_STRIPE => chunk::raid_stripe(f, data),
        ItemType::QGROUP_STATUS => qgroup::status(f, fields, options),
        ItemType::QGROUP_INFO => qgroup::info(f, fields),
        ItemType::QGROUP_LIMIT => qgroup::limit(f, fields),
        ItemType::STRING_ITEM => Ok(writeln!(f, "\t\titem data {}", Plain(data))?),
        ItemType::PERSISTENT_ITEM => device::persistent(f, fields, key),
        ItemType::TEMPORARY_ITEM => device::temporary(f, fields, key),
        ItemType::DEV_REPLACE => device::replace(f, fields, options),
        _ => Ok(()),
    }
}

fn line(f: &mut Formatter<'_>, text: &str) -> Printed {
    Ok(writeln!(f, "\t\t{text}")?)
}

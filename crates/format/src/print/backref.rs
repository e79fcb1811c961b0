//! EXTENT_ITEM and METADATA_ITEM with their inline back references, and the keyed ones.

use std::fmt::Formatter;

use super::fields::{Fields, Printed, Stop};
use super::{KeyText, ObjectId, extent_flags};
use crate::hash::extent_data_ref_hash;
use crate::ids::{Ino, TreeId};
use crate::items::{ExtentFlags, TreeBlockInfo};
use crate::key::{ItemType, Key};

pub(super) fn extent_item(f: &mut Formatter<'_>, mut fields: Fields<'_>, key: &Key) -> Printed {
    let (refs, generation, flags) = match (fields.u64(), fields.u64(), fields.u64()) {
        (Ok(refs), Ok(generation), Ok(flags)) => (refs, generation, flags),
        // Older than all that is supported; progs prints nothing of it either.
        _ => return Ok(()),
    };
    writeln!(f, "\t\trefs {refs} gen {generation} flags {}", extent_flags(flags))?;
    if key.item_type == ItemType::METADATA_ITEM {
        writeln!(f, "\t\ttree block skinny level {}", key.offset as i32)?;
    } else if flags & ExtentFlags::TREE_BLOCK.bits() != 0 {
        let info: TreeBlockInfo = fields.take()?;
        writeln!(f, "\t\ttree block {} level {}", KeyText(info.key.into()), info.level)?;
    }
    while !fields.is_empty() {
        let kind = ItemType(fields.take()?);
        if !inline_ref(f, &mut fields, kind)? {
            break;
        }
    }
    Ok(())
}

/// Prints an inline reference; `false` if its kind is not known, and so not its length.
fn inline_ref(f: &mut Formatter<'_>, fields: &mut Fields<'_>, kind: ItemType) -> Result<bool, Stop> {
    let number = kind.0;
    match kind {
        ItemType::TREE_BLOCK_REF => {
            let root = fields.u64()?;
            writeln!(f, "\t\t({number} 0x{root:x}) tree block backref root {}", ObjectId::tree(root))?;
        }
        ItemType::SHARED_BLOCK_REF => {
            let parent = fields.u64()?;
            writeln!(f, "\t\t({number} 0x{parent:x}) shared block backref parent {parent}")?;
        }
        ItemType::EXTENT_DATA_REF => {
            let data = DataRef::take(fields)?;
            let hash = extent_data_ref_hash(TreeId(data.root), Ino(data.objectid), data.offset);
            write!(f, "\t\t({number} 0x{hash:x}) ")?;
            data.print(f)?;
        }
        ItemType::SHARED_DATA_REF => {
            let (parent, count) = (fields.u64()?, fields.u32()?);
            writeln!(f, "\t\t({number} 0x{parent:x}) shared data backref parent {parent} count {count}")?;
        }
        ItemType::EXTENT_OWNER_REF => {
            let root = fields.u64()?;
            // The odd place of the tab is progs's.
            writeln!(f, "\t({number} 0x{root:x}) textent owner root {root}")?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

struct DataRef {
    root: u64,
    objectid: u64,
    offset: u64,
    count: u32,
}

impl DataRef {
    fn take(fields: &mut Fields<'_>) -> Result<Self, Stop> {
        let (root, objectid, offset) = (fields.u64()?, fields.u64()?, fields.u64()?);
        Ok(Self { root, objectid, offset, count: fields.u32()? })
    }

    fn print(&self, f: &mut Formatter<'_>) -> Printed {
        let root = ObjectId::tree(self.root);
        let Self { objectid, offset, count, .. } = self;
        Ok(writeln!(f, "extent data backref root {root} objectid {objectid} offset {offset} count {count}")?)
    }
}

pub(super) fn data_ref(f: &mut Formatter<'_>, mut fields: Fields<'_>) -> Printed {
    let data = DataRef::take(&mut fields)?;
    f.write_str("\t\t")?;
    data.print(f)
}

pub(super) fn shared_data_ref(f: &mut Formatter<'_>, mut fields: Fields<'_>) -> Printed {
    Ok(writeln!(f, "\t\tshared data backref count {}", fields.u32()?)?)
}

pub(super) fn owner_ref(f: &mut Formatter<'_>, mut fields: Fields<'_>) -> Printed {
    Ok(writeln!(f, "\t\textent owner root {}", fields.u64()?)?)
}

//! Block groups and free space, in the tree and in the cache of before.

use std::fmt::Formatter;

use super::fields::{Fields, Printed};
use super::{KeyText, block_group_flags};
use crate::items::{BlockGroupItem, FreeSpaceInfo};

pub(super) fn block_group(f: &mut Formatter<'_>, mut fields: Fields<'_>) -> Printed {
    let group: BlockGroupItem = fields.take()?;
    let flags = block_group_flags(group.flags.get());
    Ok(writeln!(f, "\t\tblock group used {} chunk_objectid {} flags {flags}", group.used, group.chunk_objectid)?)
}

pub(super) fn free_space_info(f: &mut Formatter<'_>, mut fields: Fields<'_>) -> Printed {
    let info: FreeSpaceInfo = fields.take()?;
    Ok(writeln!(f, "\t\tfree space info extent count {} flags {}", info.extent_count, info.flags)?)
}

pub(super) fn free_space_header(f: &mut Formatter<'_>, mut fields: Fields<'_>) -> Printed {
    let location = fields.key()?;
    let (generation, entries, bitmaps) = (fields.u64()?, fields.u64()?, fields.u64()?);
    writeln!(f, "\t\tlocation {}", KeyText(location))?;
    Ok(writeln!(f, "\t\tcache generation {generation} entries {entries} bitmaps {bitmaps}")?)
}

//! Where the bytes of a file are and whether others share them, and which files use an extent.
//!
//! # Invariants
//! * A snapshot keeps inode numbers and file offsets. So the files that use an extent are found by looking, in all
//!   subvolumes, where its references say that one of them does.
//!
//! # Locking
//! Everything works within a transaction.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};

use butterfs_format::items::{BackRef, Compression, FileExtent, FileExtentBody};
use butterfs_format::{Ino, ItemType, Key, Logical, TreeBlock, TreeId};

use super::extents::{DataExtent, Item, Stored, scan};
use crate::error::Result;
use crate::inode::InodeId;
use crate::tx::Transaction;

/// The longest extent when decompressed, if it is compressed, in bytes.
const MAX_COMPRESSED: u64 = 128 << 10;

/// What a stretch of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StretchKind {
    /// In the tree.
    Inline,
    /// Allocated, and never written.
    Prealloc,
    /// On the devices.
    Regular,
    /// In memory, without an extent.
    Memory,
}

/// An extent as a file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Where it begins in the file.
    pub offset: u64,
    /// How long it is there.
    pub len: u64,
    /// Where it begins, of a compressed extent the extent itself; 0 for what is in the tree.
    pub at: Logical,
    /// What it is.
    pub kind: StretchKind,
    /// Whether it is compressed.
    pub compression: Compression,
    /// Whether another file, or another place of this one, has the extent too.
    pub shared: bool,
}

/// The stretches that overlap a range of a file, holes left out, until `visit` breaks off.
pub fn stretches(
    tx: &Transaction,
    id: InodeId,
    range: &Range<u64>,
    mut visit: impl FnMut(Stretch) -> ControlFlow<()>,
) -> Result<()> {
    let sector = u64::from(tx.geometry().sectorsize);
    let mut failed = None;
    scan(tx, id, range, |item| match stretch(tx, id, &item, sector) {
        Ok(Some(stretch)) => visit(stretch),
        Ok(None) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(()), Err)
}

/// Where the last extent of a file ends, holes left out; 0 if it has none.
pub fn end_of_extents(tx: &Transaction, id: InodeId) -> Result<u64> {
    let sector = u64::from(tx.geometry().sectorsize);
    let mut below = u64::MAX;
    while let Some(item) = super::extents::item_below(tx, id, below)? {
        match &item.stored {
            Stored::Data(extent) if extent.is_hole() => below = item.start,
            _ => return Ok(item.end(sector)),
        }
    }
    Ok(0)
}

fn stretch(tx: &Transaction, id: InodeId, item: &Item, sector: u64) -> Result<Option<Stretch>> {
    let base = Stretch {
        offset: item.start,
        len: item.end(sector) - item.start,
        at: Logical(0),
        kind: StretchKind::Inline,
        compression: Compression::None,
        shared: false,
    };
    let extent = match &item.stored {
        Stored::Inline(inline) => return Ok(Some(Stretch { compression: inline.compression, ..base })),
        Stored::Data(extent) if extent.is_hole() => return Ok(None),
        Stored::Data(extent) => extent,
    };
    let at = if extent.compression == Compression::None { extent.address()? } else { Logical(extent.disk_bytenr) };
    let kind = if extent.prealloc { StretchKind::Prealloc } else { StretchKind::Regular };
    let shared = is_shared(tx, id, item.start, extent)?;
    Ok(Some(Stretch { at, kind, compression: extent.compression, shared, ..base }))
}

/// Whether another file, or another place of this one, has an extent that the file's item at `start` has.
fn is_shared(tx: &Transaction, id: InodeId, start: u64, extent: &DataExtent) -> Result<bool> {
    let references = tx.data_references(Logical(extent.disk_bytenr), extent.disk_num_bytes)?;
    let other = |one: &BackRef| matches!(one, BackRef::Data { objectid, .. } if *objectid != id.ino);
    if references.len() > 1 || references.keys().any(other) {
        return Ok(true);
    }
    tx.path_is_shared(id.tree, &Key::new(id.ino.0, ItemType::EXTENT_DATA, start))
}

/// A file's use of an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileExtentUse {
    /// The subvolume.
    pub tree: TreeId,
    /// The file.
    pub ino: Ino,
    /// Where in the file.
    pub offset: u64,
}

/// What is asked of an extent's users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentUse {
    /// Those that have any of it.
    Any,
    /// Those that have this byte of it; of a compressed one, any.
    Byte(u64),
}

/// A place where a reference says that an extent is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Hint {
    ino: Ino,
    from: u64,
    to: u64,
}

/// The files among those of `trees` that use a data extent.
pub fn users(
    tx: &Transaction,
    (at, len): (Logical, u64),
    wanted: ExtentUse,
    trees: &[TreeId],
) -> Result<Vec<FileExtentUse>> {
    let mut hints = BTreeSet::new();
    for reference in tx.data_references(at, len)?.keys() {
        match *reference {
            BackRef::Data { objectid, offset, .. } => hints.extend(hint(objectid, offset, len)),
            BackRef::SharedData { parent } => hints.extend(hints_of_leaf(&*tx.leaf_at(parent)?, at)),
            BackRef::TreeBlock { .. } | BackRef::SharedBlock { .. } => {}
        }
    }
    let mut found = BTreeSet::new();
    for tree in trees {
        for hint in &hints {
            let id = InodeId::new(*tree, hint.ino);
            scan(tx, id, &(hint.from..hint.to), |item| {
                if let Some(offset) = offset_of_use(&item, at, wanted) {
                    found.insert(FileExtentUse { tree: *tree, ino: hint.ino, offset });
                }
                ControlFlow::Continue(())
            })?;
        }
    }
    Ok(found.into_iter().collect())
}

/// Where the items of a reference are: from where the extent's first byte would lie, which may be before the file.
fn hint(ino: Ino, offset: u64, len: u64) -> Option<Hint> {
    let to = offset.cast_signed().checked_add_unsigned(len.max(MAX_COMPRESSED))?;
    let to = u64::try_from(to).ok()?;
    Some(Hint { ino, from: u64::try_from(offset.cast_signed()).unwrap_or(0), to })
}

fn hints_of_leaf(leaf: &TreeBlock, at: Logical) -> Vec<Hint> {
    let refers = |slot: &usize| {
        let extent = FileExtent::parse(leaf.data(*slot)).ok();
        let body = extent.filter(|_| leaf.key(*slot).item_type == ItemType::EXTENT_DATA).map(|extent| extent.body);
        matches!(body, Some(FileExtentBody::Extent { disk_bytenr, .. }) if disk_bytenr == at.0)
    };
    let hint = |slot: usize| {
        let key = leaf.key(slot);
        Hint { ino: Ino(key.objectid), from: key.offset, to: key.offset.saturating_add(1) }
    };
    (0..leaf.len()).filter(refers).map(hint).collect()
}

/// Where in its file an item has what is wanted of an extent.
fn offset_of_use(item: &Item, at: Logical, wanted: ExtentUse) -> Option<u64> {
    let Stored::Data(extent) = &item.stored else { return None };
    if extent.disk_bytenr != at.0 {
        return None;
    }
    match wanted {
        ExtentUse::Byte(byte) if extent.compression == Compression::None => {
            let within = byte.checked_sub(extent.offset).filter(|within| *within < extent.num_bytes)?;
            Some(item.start + within)
        }
        ExtentUse::Any | ExtentUse::Byte(_) => Some(item.start),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_may_begin_before_its_file() {
        let range = |offset: i64, len| hint(Ino(257), offset.cast_unsigned(), len).map(|hint| (hint.from, hint.to));
        assert_eq!(range(4096, 1 << 20), Some((4096, 4096 + (1 << 20))));
        assert_eq!(range(-8192, 1 << 20), Some((0, (1 << 20) - 8192)));
        assert_eq!(range(-(1 << 20), 4096), None);
    }

    #[test]
    fn a_byte_is_used_where_the_part_has_it() {
        let extent = DataExtent { offset: 8192, num_bytes: 4096, ..DataExtent::new(Logical(1 << 20), 1 << 16) };
        let item = |compression| Item { start: 4096, stored: Stored::Data(DataExtent { compression, ..extent }) };
        let used = |compression, wanted| offset_of_use(&item(compression), Logical(1 << 20), wanted);
        assert_eq!(used(Compression::None, ExtentUse::Byte(8200)), Some(4104));
        assert_eq!(used(Compression::None, ExtentUse::Byte(100)), None);
        assert_eq!(used(Compression::None, ExtentUse::Any), Some(4096));
        assert_eq!(used(Compression::Zstd, ExtentUse::Byte(100)), Some(4096));
    }
}

//! EXTENT_DATA items: look at them, drop them, put them in.
//!
//! # Invariants
//! * The items of a file do not overlap; each but an inline one covers whole sectors.
//! * An item's reference is `(tree, inode, key offset - extent offset)`: cutting an item's front or
//!   back does not change it, cutting an item in two adds one more of the same.
//! * Where [`HoleStyle::Explicit`] holds, hole items leave no gap below the file's end.
//!
//! # Locking
//! None of its own: the caller has the transaction, and `FileData::settle` when it changes items.

use std::ops::{ControlFlow, Range};

use butterfs_format::items::{BackRef, Compression, FileExtent, FileExtentBody};
use butterfs_format::superblock::Incompat;
use butterfs_format::{Corruption, ItemType, Key, Logical};

use super::sectors::{ceil, intersect, len};
use crate::error::{Error, Result};
use crate::inode::{InodeId, Shared};
use crate::tx::Transaction;

/// The longest data extent that is ever made, in bytes.
pub const MAX_EXTENT: u64 = 128 << 20;

/// How a filesystem stores that a range has no extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoleStyle {
    /// By nothing (the feature `NO_HOLES`).
    Implicit,
    /// By an item with `disk_bytenr` zero, at least up to the file's end.
    Explicit,
}

impl HoleStyle {
    /// The style of this filesystem.
    pub fn of(shared: &Shared) -> Self {
        if shared.features.contains(Incompat::NO_HOLES) { Self::Implicit } else { Self::Explicit }
    }
}

/// What [`map`] says of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedExtent {
    /// Where it begins in the file.
    pub file_offset: u64,
    /// How long it is: the part within the range that was asked for.
    pub len: u64,
    /// What is there.
    pub kind: MappedKind,
}

/// Where the bytes of a range are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MappedKind {
    /// Nowhere: zeros.
    Hole,
    /// In the tree, from file offset 0 on.
    Inline(InlineExtent),
    /// Allocated, and never written: zeros.
    Prealloc(DataExtent),
    /// On disk; `offset` in it belongs to `file_offset`.
    Regular(DataExtent),
}

/// Bytes kept in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlineExtent {
    /// The bytes, perhaps compressed.
    pub data: Vec<u8>,
    /// How many they are when decompressed.
    pub ram_bytes: u64,
    /// How they are compressed.
    pub compression: Compression,
}

impl InlineExtent {
    /// Bytes as they are.
    pub fn plain(bytes: &[u8]) -> Self {
        Self { data: bytes.to_vec(), ram_bytes: bytes.len() as u64, compression: Compression::None }
    }
}

/// A part of an extent on disk, preallocated or written, or a hole; see [`FileExtentBody::Extent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataExtent {
    /// Address of the whole extent; zero is a hole.
    pub disk_bytenr: u64,
    /// Length of the whole extent on disk.
    pub disk_num_bytes: u64,
    /// Where in the (decompressed) extent this part begins.
    pub offset: u64,
    /// Length of this part.
    pub num_bytes: u64,
    /// Length of the whole extent when decompressed.
    pub ram_bytes: u64,
    /// How it is compressed.
    pub compression: Compression,
    /// Never written.
    pub prealloc: bool,
    /// The transaction that wrote the item.
    pub generation: u64,
}

impl DataExtent {
    /// A whole new extent.
    pub fn new(at: Logical, len: u64) -> Self {
        Self { disk_bytenr: at.0, disk_num_bytes: len, ..Self::hole(len) }
    }

    /// A hole.
    pub fn hole(len: u64) -> Self {
        Self {
            disk_bytenr: 0,
            disk_num_bytes: 0,
            offset: 0,
            num_bytes: len,
            ram_bytes: len,
            compression: Compression::None,
            prealloc: false,
            generation: 0,
        }
    }

    /// Whether this is a hole.
    pub fn is_hole(&self) -> bool {
        self.disk_bytenr == 0
    }

    /// The part from `skip` on, `len` bytes long.
    pub fn part(&self, skip: u64, len: u64) -> Self {
        match self.is_hole() {
            true => Self { generation: self.generation, ..Self::hole(len) },
            false => Self { offset: self.offset + skip, num_bytes: len, ..*self },
        }
    }

    /// The address of this part's first byte; only for what is not compressed.
    pub fn address(&self) -> Result<Logical> {
        let at = self.disk_bytenr.checked_add(self.offset);
        at.map(Logical).ok_or_else(|| Corruption::new("file extent", "address past 2^64").into())
    }

    /// The reference that an item at `start` holds.
    pub fn back_ref(&self, id: InodeId, start: u64) -> BackRef {
        BackRef::Data { root: id.tree, objectid: id.ino, offset: start.wrapping_sub(self.offset) }
    }

    fn nbytes(&self) -> u64 {
        if self.is_hole() { 0 } else { self.num_bytes }
    }

    /// The item, as a transaction writes it.
    pub fn pack(&self, generation: u64) -> Vec<u8> {
        let Self { disk_bytenr, disk_num_bytes, offset, num_bytes, prealloc, .. } = *self;
        let body = FileExtentBody::Extent { disk_bytenr, disk_num_bytes, offset, num_bytes, prealloc };
        FileExtent { generation, ram_bytes: self.ram_bytes, compression: self.compression, body }.pack()
    }
}

/// An item's content.
#[derive(Clone, Debug)]
pub(super) enum Stored {
    Inline(InlineExtent),
    Data(DataExtent),
}

/// An EXTENT_DATA item.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub start: u64,
    pub stored: Stored,
}

impl Item {
    fn parse(id: InodeId, start: u64, data: &[u8]) -> Result<Self> {
        let extent = FileExtent::parse(data).map_err(|problem| corrupt(id, start, problem))?;
        let (ram_bytes, compression) = (extent.ram_bytes, extent.compression);
        let stored = match extent.body {
            FileExtentBody::Inline(data) => {
                Stored::Inline(InlineExtent { data: data.to_vec(), ram_bytes, compression })
            }
            FileExtentBody::Extent { disk_bytenr, disk_num_bytes, offset, num_bytes, prealloc } => {
                let generation = extent.generation;
                Stored::Data(DataExtent {
                    disk_bytenr,
                    disk_num_bytes,
                    offset,
                    num_bytes,
                    ram_bytes,
                    compression,
                    prealloc,
                    generation,
                })
            }
        };
        Ok(Self { start, stored })
    }

    /// Where it ends in the file; an inline one has its sectors for itself.
    pub fn end(&self, sector: u64) -> u64 {
        match &self.stored {
            Stored::Inline(inline) => ceil(inline.ram_bytes.max(1), sector),
            Stored::Data(extent) => self.start.saturating_add(extent.num_bytes),
        }
    }

    /// What of `range` it covers.
    fn mapped(self, range: &Range<u64>, sector: u64) -> MappedExtent {
        let part = intersect(&(self.start..self.end(sector)), range);
        let kind = match self.stored {
            Stored::Inline(inline) => MappedKind::Inline(inline),
            Stored::Data(extent) if extent.is_hole() => MappedKind::Hole,
            Stored::Data(extent) => {
                let extent = extent.part(part.start - self.start, len(&part));
                if extent.prealloc { MappedKind::Prealloc(extent) } else { MappedKind::Regular(extent) }
            }
        };
        MappedExtent { file_offset: part.start, len: len(&part), kind }
    }
}

/// The disk lies about a file.
pub(super) fn corrupt(id: InodeId, offset: u64, problem: impl Into<String>) -> Error {
    Corruption::new(format!("subvolume {} inode {} file offset {offset}", id.tree, id.ino), problem).into()
}

fn key(id: InodeId, start: u64) -> Key {
    Key::new(id.ino.0, ItemType::EXTENT_DATA, start)
}

fn is_extent_of(id: InodeId, key: &Key) -> bool {
    key.objectid == id.ino.0 && key.item_type == ItemType::EXTENT_DATA
}

fn sector_of(tx: &Transaction) -> u64 {
    u64::from(tx.geometry().sectorsize)
}

/// The last item that begins below `end`.
pub(super) fn item_below(tx: &Transaction, id: InodeId, end: u64) -> Result<Option<Item>> {
    let Some(last) = end.checked_sub(1) else { return Ok(None) };
    match tx.last_not_above(id.tree, &key(id, last))? {
        Some((key, data)) if is_extent_of(id, &key) => Item::parse(id, key.offset, &data).map(Some),
        _ => Ok(None),
    }
}

/// Shows the items that overlap `range`, lowest first, until `visit` breaks off.
pub(super) fn scan(
    tx: &Transaction,
    id: InodeId,
    range: &Range<u64>,
    mut visit: impl FnMut(Item) -> ControlFlow<()>,
) -> Result<()> {
    let sector = sector_of(tx);
    let from = item_below(tx, id, range.start.saturating_add(1))?.map_or(range.start, |item| item.start);
    let mut cursor = tx.cursor(id.tree, &key(id, from))?;
    while let Some((key, data)) = cursor.item() {
        if !is_extent_of(id, &key) || key.offset >= range.end {
            return Ok(());
        }
        let item = Item::parse(id, key.offset, data)?;
        if item.end(sector) > range.start && visit(item).is_break() {
            return Ok(());
        }
        cursor.advance()?;
    }
    Ok(())
}

/// Where the bytes of `range` are: without gaps or overlaps, lowest first.
pub fn map(tx: &Transaction, id: InodeId, range: Range<u64>) -> Result<Vec<MappedExtent>> {
    let sector = sector_of(tx);
    let (mut mapped, mut at) = (Vec::new(), range.start);
    let hole = |from: u64, until: u64| MappedExtent { file_offset: from, len: until - from, kind: MappedKind::Hole };
    let mut overlap = None;
    scan(tx, id, &range, |item| {
        if item.start < at && at > range.start {
            overlap = Some(item.start);
            return ControlFlow::Break(());
        }
        if item.start > at {
            mapped.push(hole(at, item.start));
        }
        at = item.end(sector).min(range.end);
        mapped.push(item.mapped(&range, sector));
        ControlFlow::Continue(())
    })?;
    if let Some(start) = overlap {
        return Err(corrupt(id, start, "file extent overlaps the one before it"));
    }
    if at < range.end {
        mapped.push(hole(at, range.end));
    }
    Ok(mapped)
}

/// What [`drop_some`] and [`truncate_items`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Bytes that no longer count in `nbytes`.
    pub bytes: u64,
    /// Where to go on: everything from here to the range's end is gone. `None` when all is done.
    pub unfinished: Option<u64>,
}

/// Removes, trims and splits the items that overlap `range` (whole sectors; the end may be
/// `u64::MAX`); gives the bytes that no longer count in `nbytes`.
pub fn drop_range(tx: &mut Transaction, id: InodeId, range: Range<u64>) -> Result<u64> {
    Ok(drop_some(tx, id, range, usize::MAX)?.bytes)
}

/// As [`drop_range`], from the range's end down, but no more than `max_items` items.
pub fn drop_some(tx: &mut Transaction, id: InodeId, range: Range<u64>, max_items: usize) -> Result<Dropped> {
    let sector = sector_of(tx);
    let (mut bytes, mut end) = (0, range.end);
    for _ in 0..max_items {
        let Some(item) = item_below(tx, id, end)? else { return Ok(Dropped { bytes, unfinished: None }) };
        if item.end(sector) <= range.start {
            return Ok(Dropped { bytes, unfinished: None });
        }
        end = item.start;
        bytes += cut(tx, id, item, &range)?;
        if end <= range.start {
            return Ok(Dropped { bytes, unfinished: None });
        }
    }
    Ok(Dropped { bytes, unfinished: Some(end) })
}

/// Takes `range` out of one item; gives the bytes that no longer count. What is left is as old as it was: who looks
/// for what is new (autodefrag, `find-new`) must not take it for that.
fn cut(tx: &mut Transaction, id: InodeId, item: Item, range: &Range<u64>) -> Result<u64> {
    let end = item.end(sector_of(tx));
    let (start, extent) = match item.stored {
        Stored::Inline(inline) => return cut_inline(tx, id, &inline, range),
        Stored::Data(extent) => (item.start, extent),
    };
    let gone = intersect(&(start..end), range);
    tx.note_touched(id, gone.clone());
    let (head, tail) = (gone.start - start, end - gone.end);
    let back_ref = extent.back_ref(id, start);
    if head > 0 {
        tx.put(id.tree, &key(id, start), &extent.part(0, head).pack(extent.generation))?;
    } else {
        tx.remove(id.tree, &key(id, start))?;
    }
    if tail > 0 {
        tx.insert(id.tree, &key(id, gone.end), &extent.part(gone.end - start, tail).pack(extent.generation))?;
    }
    let whole = (Logical(extent.disk_bytenr), extent.disk_num_bytes);
    match (head > 0, tail > 0) {
        _ if extent.is_hole() => return Ok(0),
        (true, true) => tx.add_data_ref(whole.0, whole.1, back_ref)?,
        (false, false) => tx.drop_data_ref(whole.0, whole.1, back_ref)?,
        _ => {}
    }
    Ok(len(&gone))
}

/// Ranges are whole sectors, so nearly always an inline extent goes whole.
fn cut_inline(tx: &mut Transaction, id: InodeId, inline: &InlineExtent, range: &Range<u64>) -> Result<u64> {
    if range.start > 0 {
        return shorten_inline(tx, id, inline, range.start);
    }
    if range.end < inline.ram_bytes {
        return Err(Error::Unsupported("an inline extent that is longer than a sector".into()));
    }
    tx.note_touched(id, 0..ceil(inline.ram_bytes.max(1), sector_of(tx)));
    tx.remove(id.tree, &key(id, 0))?;
    Ok(inline.ram_bytes)
}

/// A compressed one stays whole: its bytes past the file's end are never read, and who cut the file
/// made its sector dirty, which replaces it.
fn shorten_inline(tx: &mut Transaction, id: InodeId, inline: &InlineExtent, new_len: u64) -> Result<u64> {
    if new_len >= inline.ram_bytes || inline.compression != Compression::None {
        return Ok(0);
    }
    let kept = inline.data.get(..new_len as usize).ok_or_else(|| corrupt(id, 0, "inline extent is too short"))?;
    put_inline(tx, id, &InlineExtent::plain(kept))?;
    Ok(inline.ram_bytes - new_len)
}

/// Drops what lies past `new_size`, from the file's end down, at most `max_items` items; an inline
/// extent is cut to the byte, any other to the sector.
pub fn truncate_items(tx: &mut Transaction, id: InodeId, new_size: u64, max_items: usize) -> Result<Dropped> {
    let keep = ceil(new_size, sector_of(tx));
    let mut dropped = drop_some(tx, id, keep..u64::MAX, max_items)?;
    if dropped.unfinished.is_none()
        && new_size > 0
        && let Some(Item { stored: Stored::Inline(inline), .. }) = item_below(tx, id, 1)?
    {
        dropped.bytes += shorten_inline(tx, id, &inline, new_size)?;
    }
    Ok(dropped)
}

/// Drops extents of a file that is being deleted, at most `max_items`; says whether all are gone.
pub fn delete_all_extents(tx: &mut Transaction, id: InodeId, max_items: usize) -> Result<bool> {
    Ok(drop_some(tx, id, 0..u64::MAX, max_items)?.unfinished.is_none())
}

/// Puts an item in where nothing is; references are the caller's business. Gives the bytes that it
/// counts in `nbytes`.
pub fn insert_item(tx: &mut Transaction, id: InodeId, start: u64, extent: &DataExtent) -> Result<u64> {
    tx.note_touched(id, start..start.saturating_add(extent.num_bytes));
    insert(tx, id, start, extent)?;
    Ok(extent.nbytes())
}

/// Puts an item in whose part of the file is as it was.
fn insert(tx: &mut Transaction, id: InodeId, start: u64, extent: &DataExtent) -> Result<()> {
    let generation = tx.generation().0;
    tx.insert(id.tree, &key(id, start), &extent.pack(generation))
}

/// Makes allocated space an extent of the file, in place of what was there; gives the bytes that
/// came and the bytes that went.
pub fn replace(tx: &mut Transaction, id: InodeId, start: u64, extent: &DataExtent) -> Result<(u64, u64)> {
    let removed = drop_range(tx, id, start..start + extent.num_bytes)?;
    let (at, back_ref) = (Logical(extent.disk_bytenr), extent.back_ref(id, start));
    tx.add_data_extent(at, extent.disk_num_bytes, back_ref)?;
    Ok((insert_item(tx, id, start, extent)?, removed))
}

fn put(tx: &mut Transaction, id: InodeId, start: u64, extent: &DataExtent) -> Result<()> {
    let generation = tx.generation().0;
    tx.put(id.tree, &key(id, start), &extent.pack(generation))
}

/// Makes bytes the file's inline extent. Gives the bytes that it counts.
pub(super) fn put_inline(tx: &mut Transaction, id: InodeId, inline: &InlineExtent) -> Result<u64> {
    let InlineExtent { ref data, ram_bytes, compression } = *inline;
    tx.note_touched(id, 0..ceil(ram_bytes.max(1), sector_of(tx)));
    let body = FileExtentBody::Inline(data);
    let extent = FileExtent { generation: tx.generation().0, ram_bytes, compression, body };
    tx.put(id.tree, &key(id, 0), &extent.pack())?;
    Ok(ram_bytes)
}

/// Makes a part of a preallocated extent a written one: up to three items in place of one.
pub(super) fn mark_written(tx: &mut Transaction, id: InodeId, range: &Range<u64>) -> Result<()> {
    let sector = sector_of(tx);
    let item = item_below(tx, id, range.start.saturating_add(1))?;
    let Some((start, end, extent)) = item.and_then(|item| match item.stored {
        Stored::Data(extent) if extent.prealloc => Some((item.start, item.end(sector), extent)),
        _ => None,
    }) else {
        return Err(corrupt(id, range.start, "preallocated extent is gone"));
    };
    if end < range.end {
        return Err(corrupt(id, end, "preallocated extent became shorter"));
    }
    tx.note_touched(id, range.clone());
    let written = DataExtent { prealloc: false, ..extent.part(range.start - start, len(range)) };
    let (at, whole, back_ref) = (Logical(extent.disk_bytenr), extent.disk_num_bytes, extent.back_ref(id, start));
    if range.start > start {
        put(tx, id, start, &extent.part(0, range.start - start))?;
        tx.add_data_ref(at, whole, back_ref)?;
    }
    put(tx, id, range.start, &written)?;
    if range.end < end {
        insert(tx, id, range.end, &extent.part(range.end - start, end - range.end))?;
        tx.add_data_ref(at, whole, back_ref)?;
    }
    Ok(())
}

/// With [`HoleStyle::Explicit`], puts hole items into the gaps of `range` (whole sectors).
pub fn fill_gaps(tx: &mut Transaction, id: InodeId, range: Range<u64>, style: HoleStyle) -> Result<()> {
    if style == HoleStyle::Implicit {
        return Ok(());
    }
    let sector = sector_of(tx);
    let mut end = range.end;
    while end > range.start {
        let below = item_below(tx, id, end)?;
        let covered = below.as_ref().map_or(0, |item| item.end(sector)).clamp(range.start, end);
        if covered < end {
            insert_item(tx, id, covered, &DataExtent::hole(end - covered))?;
        }
        end = below.map_or(0, |item| item.start);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use butterfs_format::{Ino, TreeId};

    use super::*;

    const ID: InodeId = InodeId { tree: TreeId(5), ino: Ino(257) };

    #[test]
    fn a_part_keeps_the_reference_of_the_whole() {
        let extent = DataExtent::new(Logical(1 << 20), 65536).part(4096, 61440);
        let tail = extent.part(8192, 53248);
        assert_eq!(extent.back_ref(ID, 4096), tail.back_ref(ID, 4096 + 8192));
        assert_eq!(tail.address().unwrap(), Logical((1 << 20) + 12288));
        // An extent whose first byte would lie before the file's start.
        let before = BackRef::Data { root: ID.tree, objectid: ID.ino, offset: 0u64.wrapping_sub(4096) };
        assert_eq!(extent.back_ref(ID, 0), before);
    }

    #[test]
    fn items_round_trip() {
        let extent = DataExtent { prealloc: true, ..DataExtent::new(Logical(1 << 20), 65536) }.part(4096, 8192);
        let item = Item::parse(ID, 0, &extent.pack(7)).unwrap();
        assert!(matches!(item.stored, Stored::Data(read) if read == DataExtent { generation: 7, ..extent }));
        assert_eq!(item.end(4096), 8192);
        let error = Item::parse(ID, 4096, &[0; 3]).unwrap_err().to_string();
        assert!(error.contains("inode 257 file offset 4096"), "{error}");
    }

    #[test]
    fn an_item_maps_only_what_was_asked_for() {
        let item = Item::parse(ID, 4096, &DataExtent::new(Logical(1 << 20), 16384).pack(7)).unwrap();
        let mapped = item.mapped(&(8192..12288), 4096);
        let MappedKind::Regular(extent) = mapped.kind else { panic!("not regular") };
        assert_eq!((mapped.file_offset, mapped.len, extent.offset, extent.num_bytes), (8192, 4096, 4096, 4096));
    }

    #[test]
    fn a_part_of_a_hole_is_a_hole() {
        let part = DataExtent::hole(65536).part(4096, 8192);
        assert_eq!(part, DataExtent::hole(8192));
    }
}

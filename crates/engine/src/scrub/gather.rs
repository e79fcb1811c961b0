//! What of a device's stretches is in use, and what tells whether it is right.
//!
//! # Invariants
//! * What is gathered is on the devices: tree blocks of generations that are not durable yet are left out.
//!
//! # Locking
//! Everything works within a transaction.

use std::ops::Range;

use butterfs_format::items::{ExtentFlags, ExtentItem};
use butterfs_format::{Corruption, Generation, ItemType, Key, Logical, TreeId};
use butterfs_volume::{Held, StoredPart};

use crate::error::Result;
use crate::tx::Transaction;

/// A checksum, with zeros behind it if it is short.
pub(super) type Sum = [u8; 32];

/// A stretch of a device that is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub physical: u64,
    pub at: Logical,
    pub len: u64,
    /// That of the extent: with its address, what tells it from another one that was put there later.
    pub generation: u64,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Block { level: Option<u8> },
    Data { sums: Vec<Option<Sum>> },
}

/// An extent's item.
struct Extent {
    start: u64,
    len: u64,
    generation: u64,
    is_block: bool,
    level: Option<u8>,
}

/// What is in use of these stretches. `durable` is the generation of a superblock that was on the devices before.
pub(super) fn gather(tx: &Transaction, parts: &[StoredPart], durable: Generation) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    for part in parts {
        let Held::Bytes(at) = part.held else { continue };
        for extent in extents(tx, at.0..at.0 + part.len)? {
            pieces.extend(piece(tx, part, at, &extent, durable)?);
        }
    }
    Ok(pieces)
}

/// What is in use of a range of addresses; places on devices are left out.
pub(super) fn gather_range(tx: &Transaction, at: Logical, len: u64, durable: Generation) -> Result<Vec<Piece>> {
    gather(tx, &[StoredPart { physical: 0, len, held: Held::Bytes(at) }], durable)
}

/// Whether a piece is still there as it was gathered.
pub(super) fn is_still(tx: &Transaction, piece: &Piece) -> Result<bool> {
    let found = gather_range(tx, piece.at, piece.len, Generation(u64::MAX))?;
    let same = |other: &Piece| other.generation == piece.generation && other.what == piece.what;
    Ok(matches!(&found[..], [only] if only.at == piece.at && only.len == piece.len && same(only)))
}

fn piece(
    tx: &Transaction,
    part: &StoredPart,
    at: Logical,
    extent: &Extent,
    durable: Generation,
) -> Result<Option<Piece>> {
    let (from, to) = (extent.start.max(at.0), (extent.start + extent.len).min(at.0 + part.len));
    let whole = from == extent.start && to == extent.start + extent.len;
    let what = match extent.is_block {
        // A block over the end of a stripe is of no use to the kernel either.
        true if extent.generation > durable.0 || !whole => return Ok(None),
        true => What::Block { level: extent.level },
        false => What::Data { sums: tx.checksums(Logical(from), to - from)? },
    };
    let physical = part.physical + (from - at.0);
    Ok(Some(Piece { physical, at: Logical(from), len: to - from, generation: extent.generation, what }))
}

/// The extents that overlap a range, by address.
fn extents(tx: &Transaction, range: Range<u64>) -> Result<Vec<Extent>> {
    let first = tx.extent_containing(Logical(range.start))?.map_or(range.start, |found| found.start.0);
    let mut found = Vec::new();
    let mut cursor = tx.cursor(TreeId::EXTENT, &Key::new(first, ItemType(0), 0))?;
    while let Some((key, data)) = cursor.item()
        && key.objectid < range.end
    {
        if matches!(key.item_type, ItemType::EXTENT_ITEM | ItemType::METADATA_ITEM) {
            found.push(extent(tx, &key, data)?);
        }
        cursor.advance()?;
    }
    Ok(found)
}

fn extent(tx: &Transaction, key: &Key, data: &[u8]) -> Result<Extent> {
    let item =
        ExtentItem::parse(key, data).map_err(|problem| Corruption::new(format!("extent tree {key}"), problem))?;
    let is_skinny = key.item_type == ItemType::METADATA_ITEM;
    let level = if is_skinny { u8::try_from(key.offset).ok() } else { item.block_info.map(|info| info.level) };
    Ok(Extent {
        start: key.objectid,
        len: if is_skinny { u64::from(tx.geometry().nodesize) } else { key.offset },
        generation: item.generation,
        is_block: item.flags.contains(ExtentFlags::TREE_BLOCK),
        level,
    })
}

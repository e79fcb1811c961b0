//! Where dirty bytes go: into space that is this file's alone, or into new space.
//!
//! # Invariants
//! * Space that the file has is written in place only if nothing else refers to it: no other file, and
//!   no snapshot made since the extent was.
//! * Preallocated space is asked for that again when the piece enters the tree. In a file that is copied on
//!   write, what was written once is never written in place again, so the last durable superblock still
//!   finds zeros there.
//! * Where there is parity, nothing is written in place: see [`Transaction::is_writable`].
//! * Written space (of a file with NODATACOW, which has no checksums) is asked for that again when it is
//!   about to be overwritten, with [`Shared::overwriting`] held to the end of the write, so that no snapshot
//!   comes between. Besides, nobody else may find it after a power cut, by the last durable superblock or
//!   by its log: a reference that went since then counts as one.
//!
//! # Locking
//! The caller holds `FileData::settle`, so the file's extents stay as they were found.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use butterfs_format::Logical;
use butterfs_format::checksum::Checksum;
use butterfs_format::items::{Compression, InodeFlags};

use super::compress::{Chunk, Packed};
use super::data_rule::is_in_place;
use super::extents::{Item, MAX_EXTENT, Stored, item_below, scan};
use super::sectors::{intersect, len, lock};
use crate::error::Result;
use crate::inode::{Inode, InodeId, Shared};
use crate::tx::{Need, RowHold, Transaction, Wanted};

/// One piece replaces so many extents at most.
const DROPS_PER_PIECE: usize = 64;

/// A range of the file and where its bytes are to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub file: Range<u64>,
    pub at: Logical,
    pub home: Home,
    /// How many references its way into the tree makes and drops.
    pub refs: usize,
    /// What is written, if it is not the file's bytes as they are.
    pub packed: Option<Arc<Packed>>,
    /// Its checksums, if it is written already.
    pub written: Option<Vec<Checksum>>,
}

/// Pieces, and the rows that their new space lies in.
pub(super) struct Placed<'g> {
    pub pieces: Vec<Piece>,
    /// To be held until they are written.
    pub hold: Option<RowHold<'g>>,
}

impl Piece {
    /// Length of its space on the devices.
    pub fn disk_len(&self) -> u64 {
        self.packed.as_ref().map_or(len(&self.file), |packed| packed.bytes.len() as u64)
    }
}

/// What space a piece goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    /// Space that was allocated for it, and is no extent yet.
    New,
    /// A part of a preallocated extent of the file.
    Prealloc,
    /// A part of a written extent of the file, which stays as it is.
    Written,
}

/// Finds space for ranges (whole sectors, lowest first); gives pieces, lowest first. What has no
/// space that may be overwritten is cut into chunks by `chunks`.
pub(super) fn place<'g>(
    shared: &'g Shared,
    inode: &Inode,
    ranges: &[Range<u64>],
    chunks: impl FnOnce(Vec<Range<u64>>) -> Result<Vec<Chunk>>,
) -> Result<Placed<'g>> {
    let flags = lock(&inode.state).item.flags();
    let mut pieces = Vec::new();
    if flags.contains(InodeFlags::PREALLOC) || is_in_place(flags) {
        pieces = shared.gate.view(|tx| in_own_space(tx, inode.id, flags, ranges))?;
    }
    let homeless = without(ranges, &pieces);
    let mut hold = None;
    if !homeless.is_empty() {
        let mut placed = allocate(shared, inode, chunks(homeless)?)?;
        pieces.append(&mut placed.pieces);
        hold = placed.hold;
    }
    pieces.sort_by_key(|piece| piece.file.start);
    Ok(Placed { pieces, hold })
}

/// The parts of `ranges` that have space of their own.
fn in_own_space(tx: &Transaction, id: InodeId, flags: InodeFlags, ranges: &[Range<u64>]) -> Result<Vec<Piece>> {
    let sector = u64::from(tx.geometry().sectorsize);
    let mut pieces = Vec::new();
    for range in ranges {
        let mut items = Vec::new();
        scan(tx, id, range, |item| {
            items.push(item);
            ControlFlow::Continue(())
        })?;
        for item in items {
            let file = intersect(&(item.start..item.end(sector)), range);
            if let Some((home, at)) = may_overwrite(tx, id, flags, &item, &file)?
                && !tx.is_moving(at)
            {
                let refs = if home == Home::Prealloc { 2 } else { 0 };
                pieces.push(Piece { file, at, home, refs, packed: None, written: None });
            }
        }
    }
    Ok(pieces)
}

/// Where the bytes of `part` of an item are to be written in place, if that may be done: if it is preallocated, or the file
/// is one to be overwritten; if nothing else refers to the extent, neither another item nor a snapshot, nor, once something
/// was written there, the last commit for another file; and if none of it has a checksum.
///
/// The generation that is compared with that of the last snapshot is the extent item's: a file extent item's is new when a
/// part of it was cut off.
pub(super) fn may_overwrite(
    tx: &Transaction,
    id: InodeId,
    flags: InodeFlags,
    item: &Item,
    part: &Range<u64>,
) -> Result<Option<(Home, Logical)>> {
    let Stored::Data(extent) = &item.stored else { return Ok(None) };
    let home = if extent.prealloc { Home::Prealloc } else { Home::Written };
    if extent.is_hole() || extent.compression != Compression::None || (home == Home::Written && !is_in_place(flags)) {
        return Ok(None);
    }
    let (whole, own) = (Logical(extent.disk_bytenr), extent.back_ref(id, item.start));
    if !tx.is_writable(whole) {
        return Ok(None);
    }
    let made = tx.generation_if_only(whole, extent.disk_num_bytes, &own)?;
    let last_snapshot = tx.look_at_root_item(id.tree, |item| item.last_snapshot.get())?;
    if made.is_none_or(|made| made <= last_snapshot) {
        return Ok(None);
    }
    if home == Home::Written && !tx.is_nobody_elses_since_commit(whole, &own) {
        return Ok(None);
    }
    let at = extent.part(part.start - item.start, len(part)).address()?;
    let sums = tx.checksums(at, len(part))?;
    Ok(sums.iter().all(Option::is_none).then_some((home, at)))
}

/// Whether a part of an item is space of its own that bytes may count on which are written later.
pub(super) fn may_count_on(
    tx: &Transaction,
    id: InodeId,
    flags: InodeFlags,
    item: &Item,
    part: &Range<u64>,
) -> Result<bool> {
    let is_open = matches!(&item.stored, Stored::Data(extent) if tx.is_open(Logical(extent.disk_bytenr)));
    Ok(is_open && may_overwrite(tx, id, flags, item, part)?.is_some())
}

/// Whether a piece may still go where it was to: since it was placed, a snapshot may have come, or the space moved. What
/// was overwritten in place is there already.
pub(super) fn is_still_good(tx: &Transaction, id: InodeId, flags: InodeFlags, piece: &Piece) -> Result<bool> {
    match piece.home {
        Home::New | Home::Written => Ok(true),
        Home::Prealloc => is_own_space(tx, id, flags, piece),
    }
}

/// Whether the space of a piece is still the file's alone.
fn is_own_space(tx: &Transaction, id: InodeId, flags: InodeFlags, piece: &Piece) -> Result<bool> {
    let Some(item) = item_below(tx, id, piece.file.start.saturating_add(1))? else { return Ok(false) };
    if item.end(u64::from(tx.geometry().sectorsize)) < piece.file.end {
        return Ok(false);
    }
    Ok(may_overwrite(tx, id, flags, &item, &piece.file)? == Some((piece.home, piece.at)))
}

/// How many of the first pieces may be written to where they are to go. To be asked with [`Shared::overwriting`]
/// held until they are.
pub(super) fn writable_now(shared: &Shared, inode: &Inode, pieces: &[Piece]) -> Result<usize> {
    let flags = lock(&inode.state).item.flags();
    shared.gate.view(|tx| {
        for (index, piece) in pieces.iter().enumerate() {
            if piece.home == Home::Written && !is_own_space(tx, inode.id, flags, piece)? {
                return Ok(index);
            }
        }
        Ok(pieces.len())
    })
}

/// Finds new space for a piece that may not go where it was to.
pub(super) fn place_anew<'g>(shared: &'g Shared, inode: &Inode, piece: &Piece) -> Result<Placed<'g>> {
    let Placed { pieces, hold } = allocate(shared, inode, vec![Chunk::plain(piece.file.clone())])?;
    Ok(Placed { pieces: cut(shared, inode, pieces)?, hold })
}

/// What `pieces` leave of `ranges`.
fn without(ranges: &[Range<u64>], pieces: &[Piece]) -> Vec<Range<u64>> {
    let mut rest = Vec::new();
    for range in ranges {
        let mut at = range.start;
        for piece in pieces.iter().filter(|piece| !intersect(&piece.file, range).is_empty()) {
            rest.push(at..piece.file.start);
            at = piece.file.end;
        }
        rest.push(at..range.end);
    }
    rest.retain(|range| !range.is_empty());
    rest
}

/// New space for chunks, in as few parts as there is contiguous space.
fn allocate<'g>(shared: &'g Shared, inode: &Inode, chunks: Vec<Chunk>) -> Result<Placed<'g>> {
    let bytes = chunks.iter().map(|chunk| len(&chunk.file)).sum::<u64>();
    // Who was to write into space of its own that is now shared may have been promised nothing, and
    // must not take what others were promised.
    let _own = match bytes.saturating_sub(inode.data.promised()) {
        0 => None,
        data => Some(shared.gate.reserve_data(Wanted { data, ..Wanted::default() })?),
    };
    let (pieces, hold) = shared.gate.take_space(|tx| {
        let mut pieces = Vec::new();
        let result = chunks.into_iter().try_for_each(|chunk| allocate_chunk(tx, chunk, &mut pieces));
        if result.is_err() {
            pieces.iter().for_each(|piece| tx.give_back(piece.at, piece.disk_len()));
        }
        result.map(|()| pieces)
    })?;
    inode.data.spend_data(bytes);
    Ok(Placed { pieces, hold })
}

fn allocate_chunk(tx: &mut Transaction, chunk: Chunk, pieces: &mut Vec<Piece>) -> Result<()> {
    let Chunk { file, packed } = chunk;
    if let Some(packed) = packed {
        let want = packed.bytes.len() as u64;
        let (at, got) = tx.allocate_data(want)?;
        if got == want {
            pieces.push(Piece { file, at, home: Home::New, refs: 1, packed: Some(Arc::new(packed)), written: None });
            return Ok(());
        }
        // An extent is in one part: what is in pieces is written as it is.
        tx.give_back(at, got);
    }
    allocate_range(tx, &file, pieces)
}

fn allocate_range(tx: &mut Transaction, range: &Range<u64>, pieces: &mut Vec<Piece>) -> Result<()> {
    let mut start = range.start;
    while start < range.end {
        let (at, got) = tx.allocate_data((range.end - start).min(MAX_EXTENT))?;
        pieces.push(Piece { file: start..start + got, at, home: Home::New, refs: 1, packed: None, written: None });
        start += got;
    }
    Ok(())
}

/// Whether a range replaces so few extents that it may become a single one in one change.
pub(super) fn may_be_one_extent(shared: &Shared, inode: &Inode, range: &Range<u64>) -> Result<bool> {
    shared.gate.view(|tx| Ok(starts_in(tx, inode.id, range)?.len() <= tx.affordable(DROPS_PER_PIECE)))
}

/// Cuts pieces that would replace more extents than one change may drop: each part becomes an extent
/// of its own.
pub(super) fn cut(shared: &Shared, inode: &Inode, pieces: Vec<Piece>) -> Result<Vec<Piece>> {
    shared.gate.view(|tx| {
        let most = tx.affordable(DROPS_PER_PIECE);
        let mut parts = Vec::with_capacity(pieces.len());
        for piece in pieces {
            match piece.home {
                Home::Prealloc | Home::Written => parts.push(piece),
                Home::New if piece.packed.is_some() => {
                    let refs = 1 + starts_in(tx, inode.id, &piece.file)?.len();
                    parts.push(Piece { refs, ..piece });
                }
                Home::New => cut_at(&starts_in(tx, inode.id, &piece.file)?, piece, most, &mut parts),
            }
        }
        Ok(parts)
    })
}

/// Where the items begin that overlap a range, the first perhaps in front of it.
fn starts_in(tx: &Transaction, id: InodeId, range: &Range<u64>) -> Result<Vec<u64>> {
    let mut starts = Vec::new();
    scan(tx, id, range, |item| {
        starts.push(item.start);
        ControlFlow::Continue(())
    })?;
    Ok(starts)
}

fn cut_at(starts: &[u64], piece: Piece, most: usize, parts: &mut Vec<Piece>) {
    let Piece { file, at, home, .. } = piece;
    let mut from = file.start;
    for (index, group) in starts.chunks(most).enumerate() {
        let next = starts.get((index + 1) * most).copied().unwrap_or(file.end);
        let part = from..next;
        let at = Logical(at.0 + (from - file.start));
        parts.push(Piece { at, file: part, home, refs: 1 + group.len(), packed: None, written: None });
        from = next;
    }
    if starts.is_empty() {
        parts.push(Piece { file, at, home, refs: 1, packed: None, written: None });
    }
}

/// Returns the space of pieces that will not become extents.
pub(super) fn give_back(shared: &Shared, pieces: &[Piece]) -> Result<()> {
    shared.gate.change(Need::Promised, |tx| {
        pieces
            .iter()
            .filter(|piece| piece.home == Home::New)
            .for_each(|piece| tx.give_back(piece.at, piece.disk_len()));
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_over_many_extents_is_cut() {
        let piece = || Piece { file: 8..40, at: Logical(1000), home: Home::New, refs: 1, packed: None, written: None };
        let mut parts = Vec::new();
        cut_at(&[4, 12, 16, 20, 32], piece(), 2, &mut parts);
        let found: Vec<_> = parts.iter().map(|part| (part.file.clone(), part.at.0, part.refs)).collect();
        assert_eq!(found, [(8..16, 1000, 3), (16..32, 1008, 3), (32..40, 1024, 2)]);
        parts.clear();
        cut_at(&[], piece(), 2, &mut parts);
        assert_eq!(parts, [piece()]);
    }

    #[test]
    fn what_has_no_preallocated_space_is_left_over() {
        let piece = |file| Piece { file, at: Logical(0), home: Home::Prealloc, refs: 1, packed: None, written: None };
        let pieces = [piece(0..4), piece(8..12), piece(20..24)];
        assert_eq!(without(&[0..16, 20..24, 30..32], &pieces), [4..8, 12..16, 30..32]);
    }
}

//! Writeback: dirty runs to devices, then into the tree.
//!
//! # Invariants
//! * An extent enters the tree only after its bytes are written (flushed by the commit).
//! * An error loses the bytes that were in flight, as in Linux; fsync tells each open file once.
//!
//! # Locking
//! `FileData::settle` is held from end to end, `Shared::in_place` shared while written extents are
//! overwritten, `Inode::range` shared while runs are taken and alone
//! while extents enter the tree; neither it nor the gate while a device is waited for.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};

use butterfs_format::Logical;
use butterfs_format::checksum::Checksum;
use butterfs_format::items::{InodeFlags, InodeItem};
use butterfs_format::validate::Geometry;

use super::compress::{self, Chunk, Plan, WINDOW};
use super::data_rule::is_in_place;
use super::delalloc::{FileData, TakenRun};
use super::errors::ErrorCursor;
use super::extents::{self, DataExtent, InlineExtent, Stored};
use super::place::{
    Home, Piece, Placed, cut, give_back, is_still_good, may_be_one_extent, place, place_anew, writable_now,
};
use super::sectors::{intersect, len, lock, lock_alone, lock_shared, sector_size};
use super::update::{Progress, count, settle_item, update_file};
use crate::error::Result;
use crate::inode::{Inode, InodeId, Shared};
use crate::tx::{Need, RowHold, Transaction};

/// One change of the trees puts in so many extents at most.
const PIECES_PER_CHANGE: usize = 32;
/// And one piece makes so many references in most cases.
const REFS_PER_PIECE: usize = 4;

/// Writes dirty bytes back and puts them into the tree; with `range`, only those up to its end.
/// (What lies before it goes too: the size on disk can then follow.)
///
/// # Errors
/// The error is also kept for [`sync_data`], of each open file.
pub fn writeback(shared: &Shared, inode: &Inode, range: Option<Range<u64>>) -> Result<()> {
    let _settle = inode.data.settle();
    let _passenger = shared.gate.in_flight().enter();
    let runs = {
        let _range = lock_shared(&inode.range);
        inode.data.take_off(range.map_or(u64::MAX, |range| range.end))
    };
    let result = if runs.is_empty() { Ok(()) } else { write_out(shared, inode, &runs) };
    inode.data.land();
    let result = result.and_then(|()| {
        let _range = lock_alone(&inode.range);
        settle_item(shared, inode)
    });
    if let Err(error) = &result {
        let (tree, ino) = (inode.id.tree, inode.id.ino);
        tracing::error!("writeback of subvolume {tree} inode {ino} failed, its new data is lost: {error}");
        inode.data.errors().note(error);
        shared.errors.note(error);
    }
    result
}

/// What fsync does for data: writes back, and tells of any error since this open file was last told.
pub fn sync_data(shared: &Shared, inode: &Inode, cursor: &mut ErrorCursor) -> Result<()> {
    let result = writeback(shared, inode, None);
    // What failed just now is kept, too, and with this it is told.
    let kept = inode.data.errors().tell(cursor);
    result.and(kept)
}

fn write_out(shared: &Shared, inode: &Inode, runs: &[TakenRun]) -> Result<()> {
    let plan = compress::plan(shared, inode)?;
    if let Some(inline) = inline_candidate(shared, inode, runs, plan)? {
        return store_inline(shared, inode, &inline);
    }
    let ranges = joined(runs);
    let source = Source { runs, sums: wanted_sums(inode) };
    let Some(plan) = plan else {
        let plain = |ranges: Vec<Range<u64>>| Ok(ranges.into_iter().map(Chunk::plain).collect());
        let placed = place(shared, inode, &ranges, plain)?;
        return write_all(shared, inode, &source, placed, None);
    };
    let windows: Vec<Range<u64>> = ranges.iter().flat_map(|range| compress::cut(range, WINDOW)).collect();
    for (index, window) in windows.iter().enumerate() {
        let may_pack = |chunk: &Range<u64>| may_be_one_extent(shared, inode, chunk);
        let packed = |ranges: Vec<Range<u64>>| compress::pack(shared, inode, plan, runs, &ranges, may_pack);
        let placed = place(shared, inode, std::slice::from_ref(window), packed)?;
        write_all(shared, inode, &source, placed, windows.get(index + 1).map(|next| next.start))?;
    }
    Ok(())
}

/// Writes pieces, lowest first (where rows are held, all that has new space before the rest), and puts them into the tree. Bytes in flight from `later` on come after
/// them.
fn write_all(
    shared: &Shared,
    inode: &Inode,
    source: &Source<'_>,
    placed: Placed<'_>,
    later: Option<u64>,
) -> Result<()> {
    let mut pieces = VecDeque::from(cut(shared, inode, placed.pieces)?);
    let result = write_held(shared, source, pieces.make_contiguous(), placed.hold)
        .and_then(|()| write_batches(shared, inode, source, &mut pieces, later));
    if result.is_err() {
        // After an abort this fails too, and the first cause is the one to tell.
        let _ = give_back(shared, pieces.make_contiguous());
    }
    result
}

/// Writes all that has new space, if rows are held for it, and lets go of them.
fn write_held(shared: &Shared, source: &Source<'_>, pieces: &mut [Piece], hold: Option<RowHold<'_>>) -> Result<()> {
    if hold.is_none() {
        return Ok(());
    }
    for batch in pieces.chunk_by_mut(|a, b| (a.home == Home::New) == (b.home == Home::New)) {
        if batch.first().is_none_or(|piece| piece.home != Home::New) {
            continue;
        }
        for batch in batch.chunks_mut(PIECES_PER_CHANGE) {
            let sums = write_data(shared, source, batch)?;
            batch.iter_mut().zip(sums).for_each(|(piece, sums)| piece.written = Some(sums));
        }
    }
    Ok(())
}

/// Those pieces that are in the tree leave `pieces`.
fn write_batches(
    shared: &Shared,
    inode: &Inode,
    source: &Source<'_>,
    pieces: &mut VecDeque<Piece>,
    later: Option<u64>,
) -> Result<()> {
    while !pieces.is_empty() {
        let batch = pieces.len().min(PIECES_PER_CHANGE);
        let sums = write_where_allowed(shared, inode, source, &pieces.make_contiguous()[..batch])?;
        if sums.is_empty() {
            replace_first(shared, inode, source, pieces)?;
            continue;
        }
        let mut sums = &sums[..];
        while !sums.is_empty() {
            let entered = enter(shared, inode, pieces.make_contiguous(), sums, later)?;
            pieces.drain(..entered);
            sums = &sums[entered..];
            if entered == 0 {
                replace_first(shared, inode, source, pieces)?;
                break;
            }
        }
    }
    Ok(())
}

/// Writes the bytes of pieces, up to one that may not be written where it was to go any more; gives the checksums
/// of those that are written.
fn write_where_allowed(
    shared: &Shared,
    inode: &Inode,
    source: &Source<'_>,
    pieces: &[Piece],
) -> Result<Vec<Vec<Checksum>>> {
    if pieces.iter().all(|piece| piece.home != Home::Written) {
        return write_data(shared, source, pieces);
    }
    shared.gate.commit_if_owed()?;
    let sums = {
        let _overwriting = shared.overwriting();
        let count = writable_now(shared, inode, pieces)?;
        write_data(shared, source, &pieces[..count])?
    };
    // Before this is done, the superblock of a device that missed it has to be old.
    shared.gate.commit_if_owed()?;
    Ok(sums)
}

/// Gives the first piece new space. What was written where it was to go, nobody sees.
fn replace_first(shared: &Shared, inode: &Inode, source: &Source<'_>, pieces: &mut VecDeque<Piece>) -> Result<()> {
    let Some(first) = pieces.front() else { return Ok(()) };
    let Placed { pieces: mut anew, hold } = place_anew(shared, inode, first)?;
    pieces.pop_front();
    let written = write_held(shared, source, &mut anew, hold);
    anew.into_iter().rev().for_each(|piece| pieces.push_front(piece));
    written
}

/// Runs that touch, as one range each.
fn joined(runs: &[TakenRun]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for run in runs.iter().map(TakenRun::range) {
        match ranges.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            _ => ranges.push(run),
        }
    }
    ranges
}

/// What is written back.
struct Source<'r> {
    runs: &'r [TakenRun],
    sums: Sums,
}

/// Whether data gets checksums.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sums {
    Make,
    None,
}

fn wanted_sums(inode: &Inode) -> Sums {
    if lock(&inode.state).item.flags().contains(InodeFlags::NODATASUM) { Sums::None } else { Sums::Make }
}

/// Writes the bytes of those pieces to the devices that are not there yet; gives the checksums of each, none if it is
/// to have none.
fn write_data(shared: &Shared, source: &Source<'_>, pieces: &[Piece]) -> Result<Vec<Vec<Checksum>>> {
    let volume = shared.gate.volume();
    let slices: Vec<Vec<(Logical, &[u8])>> = pieces.iter().map(|piece| unwritten(source.runs, piece)).collect();
    let geometry = volume.geometry();
    let sums = pieces.iter().zip(&slices).map(|(piece, parts)| match (&piece.written, source.sums) {
        (Some(sums), _) => sums.clone(),
        (None, Sums::Make) => checksums(&geometry, parts),
        (None, Sums::None) => Vec::new(),
    });
    let sums = sums.collect();
    match source.sums {
        Sums::Make => volume.write_batch(&slices.concat())?,
        Sums::None => volume.write_plain_batch(&slices.concat())?,
    }
    Ok(sums)
}

/// What of a piece is to be written.
fn unwritten<'a>(runs: &'a [TakenRun], piece: &'a Piece) -> Vec<(Logical, &'a [u8])> {
    if piece.written.is_some() { Vec::new() } else { slices_of(runs, piece) }
}

/// A piece's bytes with their addresses; runs are whole sectors, so these are too.
fn slices_of<'a>(runs: &'a [TakenRun], piece: &'a Piece) -> Vec<(Logical, &'a [u8])> {
    if let Some(packed) = &piece.packed {
        return vec![(piece.at, &packed.bytes)];
    }
    let first = runs.partition_point(|run| run.range().end <= piece.file.start);
    let mut slices = Vec::new();
    for run in runs[first..].iter().take_while(|run| run.start < piece.file.end) {
        let part = intersect(&run.range(), &piece.file);
        let bytes = &run.bytes[(part.start - run.start) as usize..(part.end - run.start) as usize];
        slices.push((Logical(piece.at.0 + (part.start - piece.file.start)), bytes));
    }
    slices
}

fn checksums(geometry: &Geometry, slices: &[(Logical, &[u8])]) -> Vec<Checksum> {
    let sectors = slices.iter().flat_map(|(_, bytes)| bytes.chunks(geometry.sectorsize as usize));
    sectors.map(|sector| geometry.csum_type.compute(sector)).collect()
}

/// Puts written pieces into the tree, as one change, those that have `sums`: as many as there is
/// metadata for now, up to one that may not go where it was written any more. Gives how many.
fn enter(
    shared: &Shared,
    inode: &Inode,
    pieces: &[Piece],
    sums: &[Vec<Checksum>],
    later: Option<u64>,
) -> Result<usize> {
    let _range = lock_alone(&inode.range);
    update_file(shared, inode, Need::Promised, |tx, id, item| {
        let most = fitting(&pieces[..sums.len()], tx.affordable(PIECES_PER_CHANGE * REFS_PER_PIECE));
        let mut progress = Progress::default();
        let (mut entered, mut gathered) = (0, GatheredSums::default());
        for (piece, sums) in pieces[..most].iter().zip(sums) {
            if !is_still_good(tx, id, item.flags(), piece)? {
                break;
            }
            enter_piece(tx, id, item, piece)?;
            gathered.add(tx, piece.at, sums)?;
            progress.written = piece.file.end;
            entered += 1;
        }
        gathered.flush(tx)?;
        progress.waiting = pieces.get(entered).map(|piece| piece.file.start).or(later);
        Ok((progress, entered))
    })
}

/// Checksums of pieces that lie one behind the other on disk, as most do: they go into the tree together.
#[derive(Default)]
struct GatheredSums {
    at: Logical,
    sums: Vec<Checksum>,
}

impl GatheredSums {
    /// Takes those of a piece, if it has any.
    fn add(&mut self, tx: &mut Transaction, at: Logical, sums: &[Checksum]) -> Result<()> {
        let end = self.at.0 + self.sums.len() as u64 * u64::from(tx.geometry().sectorsize);
        if at.0 != end && !sums.is_empty() {
            self.flush(tx)?;
            self.at = at;
        }
        self.sums.extend_from_slice(sums);
        Ok(())
    }

    /// Puts what was taken into the tree.
    fn flush(&mut self, tx: &mut Transaction) -> Result<()> {
        let sums = std::mem::take(&mut self.sums);
        if sums.is_empty() { Ok(()) } else { tx.insert_checksums(self.at, &sums) }
    }
}

/// How many pieces make no more than so many references; at least one.
fn fitting(pieces: &[Piece], refs: usize) -> usize {
    let mut sum = 0;
    let count = pieces.iter().take_while(|piece| {
        sum += piece.refs;
        sum <= refs
    });
    count.count().max(1)
}

fn enter_piece(tx: &mut Transaction, id: InodeId, item: &mut InodeItem, piece: &Piece) -> Result<()> {
    match piece.home {
        Home::Prealloc => extents::mark_written(tx, id, &piece.file),
        Home::Written => Ok(()),
        Home::New => {
            let mut extent = DataExtent::new(piece.at, len(&piece.file));
            if let Some(packed) = &piece.packed {
                tx.use_compression(packed.kind);
                (extent.disk_num_bytes, extent.compression) = (packed.bytes.len() as u64, packed.kind);
            }
            count(item, extents::replace(tx, id, piece.file.start, &extent)?);
            Ok(())
        }
    }
}

/// What the tree is to hold, if the runs are all of a file that is small enough to be kept inline: one
/// sector at most, and nothing else in the tree but what it replaces.
fn inline_candidate(
    shared: &Shared,
    inode: &Inode,
    runs: &[TakenRun],
    plan: Option<Plan>,
) -> Result<Option<InlineExtent>> {
    let (size, flags) = {
        let state = lock(&inode.state);
        (state.item.size.get(), state.item.flags())
    };
    let [run] = runs else { return Ok(None) };
    let sector = sector_size(shared);
    // As in the kernel, what is overwritten in place has a place.
    if is_in_place(flags) {
        return Ok(None);
    }
    if size == 0 || size > sector || run.start != 0 || run.bytes.len() as u64 != sector || !inode.data.may_be_inline() {
        return Ok(None);
    }
    let Some(inline) = small_enough(shared, plan, &run.bytes[..size as usize]) else { return Ok(None) };
    let alone = shared.gate.view(|tx| {
        let mut alone = true;
        extents::scan(tx, inode.id, &(0..u64::MAX), |item| {
            alone = item.start == 0
                && item.end(sector) <= sector
                && !matches!(&item.stored, Stored::Data(data) if data.prealloc);
            if alone { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(alone)
    })?;
    Ok(alone.then_some(inline))
}

/// A small file's bytes, compressed if that makes them smaller, if they may be in the tree.
fn small_enough(shared: &Shared, plan: Option<Plan>, bytes: &[u8]) -> Option<InlineExtent> {
    let (limit, len) = (inline_limit(shared), bytes.len() as u64);
    let packed = plan.and_then(|plan| compress::pack_inline(shared, plan, bytes, limit));
    let fits = len <= limit && len < sector_size(shared);
    packed.or_else(|| fits.then(|| InlineExtent::plain(bytes)))
}

/// The user's limit, or what a leaf can hold.
pub(super) fn inline_limit(shared: &Shared) -> u64 {
    const LEAF_AND_ITEM_HEADERS: u64 = 101 + 25 + butterfs_format::items::FILE_EXTENT_INLINE_HEADER as u64;
    let nodesize = u64::from(shared.gate.volume().geometry().nodesize);
    shared.live().max_inline.min(nodesize - LEAF_AND_ITEM_HEADERS)
}

fn store_inline(shared: &Shared, inode: &Inode, inline: &InlineExtent) -> Result<()> {
    let sector = sector_size(shared);
    let _range = lock_alone(&inode.range);
    update_file(shared, inode, Need::Promised, |tx, id, item| {
        if grew(item, inline.ram_bytes, &inode.data) {
            return Ok((Progress::default(), ()));
        }
        tx.use_compression(inline.compression);
        let removed = extents::drop_range(tx, id, 0..sector)?;
        let added = extents::put_inline(tx, id, inline)?;
        count(item, (added, removed));
        Ok((Progress { written: inline.ram_bytes, ..Progress::default() }, ()))
    })
}

/// Whether the file grew since its bytes were taken. Whoever made it grow made its first sector
/// dirty again, so the bytes that were taken are of no use any more.
fn grew(item: &InodeItem, len: u64, data: &FileData) -> bool {
    let grew = item.size.get() != len;
    debug_assert!(!grew || data.first_dirty_after(0) == Some(0));
    grew
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn run(start: u64, len: usize, byte: u8) -> TakenRun {
        TakenRun { start, bytes: Arc::new(vec![byte; len]) }
    }

    #[test]
    fn runs_that_touch_are_joined() {
        let runs = [run(0, 8192, 1), run(8192, 4096, 2), run(16384, 4096, 3)];
        assert_eq!(joined(&runs), [0..12288, 16384..20480]);
    }

    #[test]
    fn a_piece_finds_its_bytes_in_several_runs() {
        let runs = [run(0, 8192, 1), run(8192, 4096, 2), run(16384, 4096, 3)];
        let piece =
            Piece { file: 4096..12288, at: Logical(1 << 20), home: Home::New, refs: 1, packed: None, written: None };
        let found = slices_of(&runs, &piece);
        let wanted = [(Logical(1 << 20), &[1u8; 4096][..]), (Logical((1 << 20) + 4096), &[2u8; 4096][..])];
        assert_eq!(found, wanted);
    }
}

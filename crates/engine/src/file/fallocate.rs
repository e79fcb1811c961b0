//! Preallocation, punching of holes, zeroing of ranges.
//!
//! # Invariants
//! * Each step leaves the file valid; an error in the middle leaves a part of the wish done.
//! * Space for the data of a whole preallocation is promised before its first step; metadata is asked for by each.
//!
//! # Locking
//! Holds `FileData::settle` and `Inode::range` alone from end to end; the gate for each step.

use std::ops::Range;

use butterfs_format::Logical;
use butterfs_format::items::InodeFlags;

use super::extents::{DataExtent, HoleStyle, MAX_EXTENT, MappedKind, drop_some, fill_gaps, map, replace};
use super::grow::dirty_last_sector;
use super::sectors::{ceil, cover, floor, inner, len, lock, lock_alone, require_alive, sector_size};
use super::truncate::ITEMS_PER_CHANGE;
use super::update::{Progress, count, update_file};
use super::write::{MAX_FILE_SIZE, read_sector, retry_after_writeback, touch, write_locked};
use super::writeback::writeback;
use crate::error::{Error, Result};
use crate::inode::{Inode, Shared};
use crate::tx::{DataReservation, Need, Transaction, Wanted};

/// One change makes so many preallocated extents at most.
const EXTENTS_PER_CHANGE: usize = 16;
/// Items that one preallocated extent may change: the hole item it cuts in two, and its own.
const ITEMS_PER_EXTENT: u32 = 3;

/// Whether a file grows when space past its end is preallocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeMode {
    /// It does not (`FALLOC_FL_KEEP_SIZE`).
    Keep,
    /// It does.
    Extend,
}

/// Makes sure that writes into `range` (bytes) find space.
pub fn preallocate(shared: &Shared, inode: &Inode, range: Range<u64>, mode: SizeMode) -> Result<()> {
    check(shared, &range)?;
    // Dirty bytes would need space twice.
    writeback(shared, inode, Some(range.clone()))?;
    retry_after_writeback(shared, inode, || {
        let _settle = inode.data.settle();
        let _range = lock_alone(&inode.range);
        require_alive(inode)?;
        let size = lock(&inode.state).item.size.get();
        let new_size = if mode == SizeMode::Extend { size.max(range.end) } else { size };
        preallocate_locked(shared, inode, &cover(&range, sector_size(shared)), new_size)
    })
}

fn check(shared: &Shared, range: &Range<u64>) -> Result<()> {
    shared.gate.check_writable()?;
    if range.is_empty() {
        return Err(Error::Invalid("empty range"));
    }
    if range.end > MAX_FILE_SIZE { Err(Error::TooLarge) } else { Ok(()) }
}

fn preallocate_locked(shared: &Shared, inode: &Inode, sectors: &Range<u64>, new_size: u64) -> Result<()> {
    let mut holes = shared.gate.view(|tx| holes(tx, inode, sectors))?;
    let total: u64 = holes.iter().map(len).sum();
    let mut promise =
        if total > 0 { Some(shared.gate.reserve_data(Wanted { bare: total, ..Wanted::default() })?) } else { None };
    dirty_last_sector(shared, inode, new_size)?;
    // Taken from the end, each hole from its start.
    holes.reverse();
    while let Some(promise) = promise.as_mut().filter(|_| !holes.is_empty()) {
        preallocate_step(shared, inode, &mut holes, promise)?;
    }
    update_file(shared, inode, Need::Items(2), |_, _, item| {
        item.size = new_size.into();
        touch(shared, item);
        Ok((Progress::default(), ()))
    })
}

fn holes(tx: &Transaction, inode: &Inode, sectors: &Range<u64>) -> Result<Vec<Range<u64>>> {
    let extents = map(tx, inode.id, sectors.clone())?;
    let holes = extents.into_iter().filter(|extent| extent.kind == MappedKind::Hole);
    Ok(holes.map(|hole| hole.file_offset..hole.file_offset + hole.len).collect())
}

/// Preallocates for the last of `holes`, in one change; takes away what is done.
fn preallocate_step(
    shared: &Shared,
    inode: &Inode,
    holes: &mut Vec<Range<u64>>,
    promise: &mut DataReservation,
) -> Result<()> {
    let need = Need::Items(EXTENTS_PER_CHANGE as u32 * ITEMS_PER_EXTENT + 1);
    let before = holes.clone();
    let result = update_file(shared, inode, need, |tx, id, item| {
        let (found, error) = take_space(tx, holes);
        for (start, at, got) in &found {
            let extent = DataExtent { prealloc: true, ..DataExtent::new(*at, *got) };
            count(item, replace(tx, id, *start, &extent)?);
        }
        item.flags = (item.flags() | InodeFlags::PREALLOC).bits().into();
        let got: u64 = found.iter().map(|(_, _, got)| got).sum();
        // What was found is kept; no space at all changed nothing, and is told outside the change.
        Ok((Progress::default(), if got > 0 { Ok(got) } else { error.map_or(Ok(0), Err) }))
    });
    match result {
        Ok(Ok(got)) => promise.shrink(promise.bytes().saturating_sub(got)),
        Ok(Err(error)) | Err(error) => {
            *holes = before;
            return Err(error);
        }
    }
    Ok(())
}

type Found = Vec<(u64, Logical, u64)>;

/// Takes space for the last of `holes`, some at a time: file offset, address and length.
fn take_space(tx: &mut Transaction, holes: &mut Vec<Range<u64>>) -> (Found, Option<Error>) {
    let mut found = Vec::new();
    while let Some(hole) = holes.last_mut().filter(|_| found.len() < EXTENTS_PER_CHANGE) {
        match tx.allocate_data(len(hole).min(MAX_EXTENT)) {
            Err(error) => return (found, Some(error)),
            Ok((at, got)) => {
                found.push((hole.start, at, got));
                hole.start += got;
                if hole.is_empty() {
                    holes.pop();
                }
            }
        }
    }
    (found, None)
}

/// Makes `range` (bytes) a hole; the size stays. What is one already stays as it is, times too.
/// Past the file's end preallocated space goes.
pub fn punch_hole(shared: &Shared, inode: &Inode, range: Range<u64>) -> Result<()> {
    check(shared, &range)?;
    retry_after_writeback(shared, inode, || {
        let _settle = inode.data.settle();
        let _range = lock_alone(&inode.range);
        require_alive(inode)?;
        let (size, sector) = (lock(&inode.state).item.size.get(), sector_size(shared));
        if is_hole(shared, inode, &cover(&range, sector))? {
            return Ok(());
        }
        // A hole up to the file's end takes the whole last sector.
        let end = if range.end >= size { range.end.max(ceil(size, sector)) } else { range.end };
        punch_locked(shared, inode, range.start..end, size)
    })
}

/// Whether nothing is there, in memory or on disk. Nothing may be in flight.
fn is_hole(shared: &Shared, inode: &Inode, sectors: &Range<u64>) -> Result<bool> {
    let clean: u64 = inode.data.clean_parts(sectors.clone()).iter().map(len).sum();
    let holes = shared.gate.view(|tx| holes(tx, inode, sectors))?;
    Ok(clean == len(sectors) && holes.iter().map(len).sum::<u64>() == len(sectors))
}

fn punch_locked(shared: &Shared, inode: &Inode, range: Range<u64>, size: u64) -> Result<()> {
    let sector = sector_size(shared);
    let whole = inner(&range, sector);
    let end = range.end.min(size);
    if floor(range.start, sector) == floor(range.end, sector) {
        zero_part(shared, inode, range.start..end)?;
    } else {
        zero_part(shared, inode, range.start..ceil(range.start, sector).min(end))?;
        zero_part(shared, inode, floor(range.end, sector)..end)?;
    }
    inode.data.discard(whole.clone());
    let mut rest = Some(whole);
    while let Some(now) = rest {
        rest = punch_step(shared, inode, now)?;
    }
    Ok(())
}

/// One bounded change, from the range's end down; gives what is left of it.
fn punch_step(shared: &Shared, inode: &Inode, range: Range<u64>) -> Result<Option<Range<u64>>> {
    let (style, sector) = (HoleStyle::of(shared), sector_size(shared));
    update_file(shared, inode, Need::Deletion, |tx, id, item| {
        let dropped = drop_some(tx, id, range.clone(), tx.affordable(ITEMS_PER_CHANGE))?;
        let from = dropped.unfinished.unwrap_or(range.start).max(range.start);
        let until = range.end.min(ceil(item.size.get(), sector)).max(from);
        fill_gaps(tx, id, from..until, style)?;
        count(item, (0, dropped.bytes));
        touch(shared, item);
        Ok((Progress::default(), dropped.unfinished.map(|end| range.start..end)))
    })
}

/// Writes zeros into a part of a sector, unless it reads as zeros.
fn zero_part(shared: &Shared, inode: &Inode, part: Range<u64>) -> Result<()> {
    if part.start >= part.end {
        return Ok(());
    }
    let start = floor(part.start, sector_size(shared));
    let sector = read_sector(shared, inode, start)?;
    let old = &sector[(part.start - start) as usize..(part.end - start) as usize];
    if old.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    write_locked(shared, inode, part.start, &vec![0; old.len()])
}

/// Makes `range` (bytes) read as zeros, with space allocated for it.
pub fn zero_range(shared: &Shared, inode: &Inode, range: Range<u64>, mode: SizeMode) -> Result<()> {
    punch_hole(shared, inode, range.clone())?;
    preallocate(shared, inode, range, mode)
}

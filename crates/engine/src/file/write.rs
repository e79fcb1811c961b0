//! Writing: bytes into memory, space promised.
//!
//! # Invariants
//! * Nothing changes before everything that can fail has not failed.
//! * Who writes a part of a sector makes the whole sector dirty, with what was there, or zeros past
//!   the file's end.
//!
//! # Locking
//! Holds `Inode::range` alone. A writer that finds too many dirty bytes, or no space, writes its own
//! inode back first, without holding anything.

use std::ops::{ControlFlow, Range};

use butterfs_format::items::{InodeFlags, InodeItem};

use super::data_rule::is_in_place;
use super::extents::scan;
use super::grow::last_sector;
use super::place::may_count_on;
use super::read::read_locked;
use super::sectors::{ceil, cover, floor, intersect, len, lock, lock_alone, require_alive, sector_size};
use super::writeback::{inline_limit, writeback};
use crate::error::{Error, Result};
use crate::inode::{Inode, InodeState, Shared};
use crate::tx::{DataReservation, Wanted};

/// No file is longer, as in Linux.
pub const MAX_FILE_SIZE: u64 = i64::MAX as u64;

/// Writes `bytes` at `offset`; gives how many, fewer only where the longest file ends.
pub fn write(shared: &Shared, inode: &Inode, offset: u64, bytes: &[u8]) -> Result<usize> {
    shared.gate.check_writable()?;
    if bytes.is_empty() {
        return Ok(0);
    }
    let room = MAX_FILE_SIZE.checked_sub(offset).filter(|room| *room > 0).ok_or(Error::TooLarge)?;
    let bytes = &bytes[..room.min(bytes.len() as u64) as usize];
    if inode.data.budget().bytes().saturating_add(bytes.len() as u64) > shared.options.dirty_limit {
        writeback(shared, inode, None)?;
    }
    retry_after_writeback(shared, inode, || {
        let _range = lock_alone(&inode.range);
        require_alive(inode)?;
        write_locked(shared, inode, offset, bytes)?;
        wrote(shared, &mut lock(&inode.state), offset + bytes.len() as u64);
        Ok(())
    })?;
    Ok(bytes.len())
}

/// Tries again after writeback when there is no space: what is promised is more than what is used.
pub(super) fn retry_after_writeback<R>(
    shared: &Shared,
    inode: &Inode,
    mut attempt: impl FnMut() -> Result<R>,
) -> Result<R> {
    match attempt() {
        Err(Error::NoSpace) if inode.data.is_dirty() => {
            writeback(shared, inode, None)?;
            attempt()
        }
        result => result,
    }
}

/// Notes in the inode that its content changed, and now reaches at least to `end`.
pub(super) fn wrote(shared: &Shared, state: &mut InodeState, end: u64) {
    state.item.size = state.item.size.get().max(end).into();
    touch(shared, &mut state.item);
    state.dirty = true;
}

/// Notes in an inode item that the content changed.
pub(super) fn touch(shared: &Shared, item: &mut InodeItem) {
    let now = shared.environment.now();
    (item.mtime, item.ctime) = (now, now);
    item.sequence = item.sequence.get().wrapping_add(1).into();
}

/// Makes bytes dirty; size and times are the caller's business. `Inode::range` must be held alone.
pub(super) fn write_locked(shared: &Shared, inode: &Inode, offset: u64, bytes: &[u8]) -> Result<()> {
    // What is promised may be space that the file has, which must not be moved before the bytes are there.
    let _passenger = shared.gate.in_flight().enter();
    let sector = sector_size(shared);
    let range = offset..offset + bytes.len() as u64;
    let mut fresh = inode.data.clean_parts(cover(&range, sector));
    let mut edges = edges(shared, inode, &range, &fresh)?;
    // A write into the last sector has it among the edges, or covers it.
    let old_size = lock(&inode.state).item.size.get();
    if range.start >= ceil(old_size, sector)
        && let Some((start, bytes)) = last_sector(shared, inode, range.end)?
    {
        fresh.extend(inode.data.clean_parts(start..start + sector));
        edges.push((start, bytes));
    }
    let promise = promise(shared, inode, &fresh)?;
    inode.data.make_dirty(&edges, (offset, bytes), promise);
    Ok(())
}

/// The sectors at both ends of a write that it covers in part, and that are not dirty yet.
fn edges(shared: &Shared, inode: &Inode, range: &Range<u64>, fresh: &[Range<u64>]) -> Result<Vec<(u64, Vec<u8>)>> {
    let sector = sector_size(shared);
    let (first, last) = (floor(range.start, sector), floor(range.end, sector));
    let mut starts = Vec::with_capacity(2);
    if range.start != first {
        starts.push(first);
    }
    if range.end != last && !starts.contains(&last) {
        starts.push(last);
    }
    starts.retain(|start| fresh.iter().any(|part| part.contains(start)));
    starts.into_iter().map(|start| Ok((start, read_sector(shared, inode, start)?))).collect()
}

/// A sector as it is now, with zeros past the file's end.
pub(super) fn read_sector(shared: &Shared, inode: &Inode, start: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; sector_size(shared) as usize];
    read_locked(shared, inode, start, &mut bytes)?;
    Ok(bytes)
}

/// Promises space for sectors that become dirty; what may go into space that the file has can do without.
pub(super) fn promise(shared: &Shared, inode: &Inode, fresh: &[Range<u64>]) -> Result<Option<DataReservation>> {
    let bytes: u64 = fresh.iter().map(len).sum();
    if bytes == 0 {
        return Ok(None);
    }
    // A file of one sector may go into the tree; where there is no room for that, it gets an extent.
    let is_small = fresh.first().is_some_and(|part| part.start == 0) && bytes == sector_size(shared);
    let inline = if is_small { inline_limit(shared).min(bytes) } else { 0 };
    let reserve = |inline| shared.gate.reserve_data(Wanted { data: bytes, inline, ..Wanted::default() });
    let promise = match reserve(inline) {
        Err(Error::NoSpace) if inline > 0 => reserve(0),
        result => result,
    };
    match promise {
        Ok(promise) => Ok(Some(promise)),
        Err(Error::NoSpace) if all_in_place(shared, inode, fresh)? => {
            shared.gate.reserve_data(Wanted { in_place: bytes, ..Wanted::default() }).map(Some)
        }
        Err(error) => Err(error),
    }
}

/// Whether all of these ranges may be written into space that the file has.
fn all_in_place(shared: &Shared, inode: &Inode, ranges: &[Range<u64>]) -> Result<bool> {
    let flags = lock(&inode.state).item.flags();
    if !flags.contains(InodeFlags::PREALLOC) && !is_in_place(flags) {
        return Ok(false);
    }
    shared.gate.view(|tx| {
        for range in ranges {
            let mut homes = Vec::new();
            scan(tx, inode.id, range, |item| {
                homes.push(item);
                ControlFlow::Continue(())
            })?;
            let mut covered = 0;
            for home in &homes {
                let part = intersect(&(home.start..home.end(u64::from(tx.geometry().sectorsize))), range);
                covered += if may_count_on(tx, inode.id, flags, home, &part)? { len(&part) } else { 0 };
            }
            if covered < len(range) {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

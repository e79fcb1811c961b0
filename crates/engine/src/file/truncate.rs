//! Changing a file's size.
//!
//! # Invariants
//! * Extents go from the end down, in bounded changes, and the size on disk goes down with them: a
//!   crash half-way leaves a file that is too long, but no old bytes past its end.
//! * The bytes past the new end in its sector become zeros, so that a later growth shows zeros. A
//!   compressed inline extent cannot be cut: its sector becomes dirty, and replaces it.
//!
//! # Locking
//! Holds `FileData::settle` and `Inode::range` alone from end to end; the gate for each step.

use butterfs_format::items::Compression;

use super::extents::{InlineExtent, Stored, item_below, truncate_items};
use super::grow::dirty_last_sector;
use super::sectors::{ceil, floor, lock, lock_alone, require_alive, sector_size};
use super::update::{Progress, count, update_file};
use super::write::{MAX_FILE_SIZE, promise, read_sector, retry_after_writeback, touch};
use crate::error::{Error, Result};
use crate::inode::{Inode, Shared};
use crate::tx::{Need, Transaction};

/// One change drops so many items at most.
pub(super) const ITEMS_PER_CHANGE: usize = 64;

/// Makes the file `new_size` bytes long: cuts it, or adds zeros. Cut where it ends, it loses what is preallocated behind.
pub fn set_size(shared: &Shared, inode: &Inode, new_size: u64) -> Result<()> {
    shared.gate.check_writable()?;
    if new_size > MAX_FILE_SIZE {
        return Err(Error::TooLarge);
    }
    retry_after_writeback(shared, inode, || {
        let _settle = inode.data.settle();
        let _range = lock_alone(&inode.range);
        require_alive(inode)?;
        let size = lock(&inode.state).item.size.get();
        if new_size <= size { shrink(shared, inode, new_size) } else { grow(shared, inode, new_size) }
    })
}

fn grow(shared: &Shared, inode: &Inode, new_size: u64) -> Result<()> {
    dirty_last_sector(shared, inode, new_size)?;
    update_file(shared, inode, Need::Items(2), |_, _, item| {
        item.size = new_size.into();
        touch(shared, item);
        Ok((Progress::default(), ()))
    })
}

fn shrink(shared: &Shared, inode: &Inode, new_size: u64) -> Result<()> {
    zero_tail(shared, inode, new_size)?;
    inode.data.discard(ceil(new_size, sector_size(shared))..u64::MAX);
    while !shrink_step(shared, inode, new_size)? {}
    Ok(())
}

/// One bounded change; says whether it was the last one.
fn shrink_step(shared: &Shared, inode: &Inode, new_size: u64) -> Result<bool> {
    update_file(shared, inode, Need::Deletion, |tx, id, item| {
        let dropped = truncate_items(tx, id, new_size, tx.affordable(ITEMS_PER_CHANGE))?;
        count(item, (0, dropped.bytes));
        item.size = new_size.into();
        touch(shared, item);
        let progress = Progress { dropped_to: dropped.unfinished, ..Progress::default() };
        Ok((progress, dropped.unfinished.is_none()))
    })
}

/// Makes the bytes past the new end in its sector zeros, unless they are, or the extent there is cut
/// to the byte anyway.
fn zero_tail(shared: &Shared, inode: &Inode, new_size: u64) -> Result<()> {
    let sector = sector_size(shared);
    let start = floor(new_size, sector);
    let keep = (new_size - start) as usize;
    if keep == 0 {
        return Ok(());
    }
    let mut bytes = read_sector(shared, inode, start)?;
    if bytes[keep..].iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    let clean = inode.data.clean_parts(start..start + sector);
    if !clean.is_empty() && start == 0 && shared.gate.view(|tx| can_be_cut_to_the_byte(tx, inode))? {
        return Ok(());
    }
    bytes[keep..].fill(0);
    let promise = promise(shared, inode, &clean)?;
    inode.data.make_dirty(&[], (start, &bytes), promise);
    Ok(())
}

/// Whether the file's first bytes are kept inline, as they are.
fn can_be_cut_to_the_byte(tx: &Transaction, inode: &Inode) -> Result<bool> {
    let first = item_below(tx, inode.id, 1)?;
    Ok(first
        .is_some_and(|item| matches!(item.stored, Stored::Inline(InlineExtent { compression: Compression::None, .. }))))
}

//! SEEK_DATA and SEEK_HOLE.
//!
//! # Invariants
//! * What reads as zeros because nothing was written is a hole, preallocated space too; bytes in
//!   memory are data. There is a hole at the file's end.
//!
//! # Locking
//! `Inode::range` is held shared to the end; the gate for each look at the tree.

use std::ops::ControlFlow;

use super::extents::{Item, Stored, scan};
use super::sectors::{lock, lock_shared, sector_size};
use crate::error::Result;
use crate::inode::{Inode, Shared};

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The next data.
    Data,
    /// The next hole.
    Hole,
}

/// The lowest offset at or after `from` where there is what is looked for; `None` (ENXIO) from the
/// file's end on, or if no data follows.
pub fn seek(shared: &Shared, inode: &Inode, from: u64, what: Seek) -> Result<Option<u64>> {
    let _range = lock_shared(&inode.range);
    let size = lock(&inode.state).item.size.get();
    if from >= size {
        return Ok(None);
    }
    match what {
        Seek::Data => {
            let on_disk = next_on_disk(shared, inode, from)?;
            let next = [on_disk, inode.data.next_in_memory(from)].into_iter().flatten().min();
            Ok(next.filter(|at| *at < size))
        }
        Seek::Hole => next_hole(shared, inode, from).map(|at| Some(at.min(size))),
    }
}

fn is_data(item: &Item) -> bool {
    match &item.stored {
        Stored::Inline(_) => true,
        Stored::Data(extent) => !extent.is_hole() && !extent.prealloc,
    }
}

fn next_on_disk(shared: &Shared, inode: &Inode, from: u64) -> Result<Option<u64>> {
    let mut found = None;
    shared.gate.view(|tx| {
        scan(tx, inode.id, &(from..u64::MAX), |item| {
            if !is_data(&item) {
                return ControlFlow::Continue(());
            }
            found = Some(item.start.max(from));
            ControlFlow::Break(())
        })
    })?;
    Ok(found)
}

fn next_hole(shared: &Shared, inode: &Inode, from: u64) -> Result<u64> {
    let mut end = from;
    loop {
        let next = on_disk_until(shared, inode, inode.data.in_memory_until(end))?;
        if next == end {
            return Ok(end);
        }
        end = next;
    }
}

/// Where the data on disk from `from` on breaks off.
fn on_disk_until(shared: &Shared, inode: &Inode, from: u64) -> Result<u64> {
    let sector = sector_size(shared);
    let mut end = from;
    shared.gate.view(|tx| {
        scan(tx, inode.id, &(from..u64::MAX), |item| {
            if item.start > end || !is_data(&item) {
                return ControlFlow::Break(());
            }
            end = item.end(sector);
            ControlFlow::Continue(())
        })
    })?;
    Ok(end)
}

//! Where the bytes of a file are, those that have no extent yet included.
//!
//! # Locking
//! The gate; `FileData`'s own mutex is a leaf.

use std::cell::Cell;
use std::ops::{ControlFlow, Range};

use butterfs_format::Logical;
use butterfs_format::items::Compression;

use super::users::{self, Stretch, StretchKind};
use crate::error::Result;
use crate::inode::Inode;
use crate::tx::Transaction;

/// As [`users::stretches`], and what memory has stands before what it will replace.
pub fn stretches(
    tx: &Transaction,
    inode: &Inode,
    range: &Range<u64>,
    mut visit: impl FnMut(Stretch) -> ControlFlow<()>,
) -> Result<()> {
    let goes_on = Cell::new(true);
    let mut show = |stretch| {
        let flow = visit(stretch);
        goes_on.set(flow.is_continue());
        flow
    };
    let mut at = range.start;
    while at < range.end && goes_on.get() {
        let memory = inode.data.next_in_memory(at).unwrap_or(u64::MAX).min(range.end);
        // What lies across the ends of the whole range is shown whole.
        let low = if at == range.start { 0 } else { at };
        let high = if memory == range.end { u64::MAX } else { memory };
        if at < memory {
            users::stretches(tx, inode.id, &(at..memory), |stretch| show(cut(stretch, &(low..high))))?;
        }
        at = inode.data.in_memory_until(memory);
        // It may have reached its extent meanwhile.
        if memory < at && memory < range.end && goes_on.get() {
            let _ = show(in_memory(memory..at));
        }
        at = at.max(memory);
    }
    Ok(())
}

/// Where the last extent of a file ends, or what memory has behind it.
pub fn end(tx: &Transaction, inode: &Inode) -> Result<u64> {
    let mut end = users::end_of_extents(tx, inode.id)?;
    while let Some(start) = inode.data.next_in_memory(end) {
        end = inode.data.in_memory_until(start);
    }
    Ok(end)
}

fn in_memory(range: Range<u64>) -> Stretch {
    Stretch {
        offset: range.start,
        len: range.end - range.start,
        at: Logical(0),
        kind: StretchKind::Memory,
        compression: Compression::None,
        shared: false,
    }
}

/// The part of a stretch that is in a range.
fn cut(stretch: Stretch, range: &Range<u64>) -> Stretch {
    let start = stretch.offset.max(range.start);
    let end = (stretch.offset + stretch.len).min(range.end);
    let whole = stretch.kind == StretchKind::Inline || stretch.compression != Compression::None;
    let skipped = if whole { 0 } else { start - stretch.offset };
    Stretch { offset: start, len: end.saturating_sub(start), at: Logical(stretch.at.0 + skipped), ..stretch }
}

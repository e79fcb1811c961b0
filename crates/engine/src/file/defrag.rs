//! Defragmentation: small extents of a file are written anew, as few large ones.
//!
//! # Invariants
//! * Nothing of a file changes but where its bytes lie, and how they are compressed if that is asked for.
//! * What another file or a snapshot refers to stays where it is, unless the caller wants it broken up: writing it anew
//!   would take the space twice.
//! * A window of the file at a time becomes dirty, and is written back before the next.
//!
//! # Locking
//! `FileData::settle`, then `Inode::range` alone, while bytes become dirty; none between windows.

use std::ops::{ControlFlow, Range};

use butterfs_format::Logical;
use butterfs_format::compression::{Choice, MAX_UNCOMPRESSED};
use butterfs_format::items::Compression;

use super::extents::{DataExtent, Stored, scan};
use super::read::read_stored;
use super::sectors::{ceil, floor, len, lock, lock_alone, require_alive, sector_size};
use super::writeback::writeback;
use crate::error::Result;
use crate::inode::{Inode, Shared};
use crate::tx::{Transaction, Wanted};

/// So much of a file is looked at and made dirty at a time.
const WINDOW: u64 = 32 << 20;
/// So much is read at a time.
const PIECE: u64 = 1 << 20;

/// What becomes of extents that others refer to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SharedExtents {
    /// They stay.
    #[default]
    Keep,
    /// They are written anew, and take space twice from then on (as the kernel does).
    Break,
}

/// What is to be defragmented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defrag {
    /// The part of the file.
    pub range: Range<u64>,
    /// Extents that are so long, in bytes, stay.
    pub large: u64,
    /// How everything is compressed, if it is to be.
    pub compress: Option<Choice>,
    /// What becomes of shared extents.
    pub shared: SharedExtents,
    /// File extents that are older than this generation stay.
    pub newer_than: u64,
}

impl Default for Defrag {
    /// The kernel's defaults.
    fn default() -> Self {
        let (range, large) = (0..u64::MAX, 256 << 10);
        Self { range, large, compress: None, shared: SharedExtents::Keep, newer_than: 0 }
    }
}

/// A file extent that may be written anew.
#[derive(Clone, Copy, Debug)]
struct Small {
    start: u64,
    extent: DataExtent,
}

impl Small {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.extent.num_bytes)
    }
}

/// Defragments a part of a file; gives how many bytes were written anew.
pub fn defragment(shared: &Shared, inode: &Inode, wish: &Defrag) -> Result<u64> {
    shared.gate.check_writable()?;
    writeback(shared, inode, None)?;
    let sector = sector_size(shared);
    let end = |inode: &Inode| ceil(lock(&inode.state).item.size.get(), sector).min(wish.range.end);
    let (mut at, mut done) = (floor(wish.range.start, sector), 0);
    while at < end(inode) {
        let window = at..at.saturating_add(WINDOW).min(end(inode));
        let dirtied = dirty_small_extents(shared, inode, wish, &window)?;
        if dirtied > 0 {
            inode.data.compress_next(wish.compress);
            let written = writeback(shared, inode, Some(window.clone()));
            inode.data.compress_next(None);
            written?;
        }
        (at, done) = (window.end, done + dirtied);
    }
    Ok(done)
}

/// Makes the bytes of small extents dirty that lie side by side; gives how many.
fn dirty_small_extents(shared: &Shared, inode: &Inode, wish: &Defrag, window: &Range<u64>) -> Result<u64> {
    let _settle = inode.data.settle();
    let _range = lock_alone(&inode.range);
    require_alive(inode)?;
    let runs = shared.gate.view(|tx| runs(tx, inode, wish, window))?;
    let mut dirtied = 0;
    for part in runs.into_iter().flat_map(|run| inode.data.clean_parts(run)) {
        let mut at = part.start;
        while at < part.end {
            let mut bytes = vec![0; PIECE.min(part.end - at) as usize];
            read_stored(shared, inode, at, &mut bytes)?;
            let wanted = Wanted { data: bytes.len() as u64, ..Wanted::default() };
            let promise = shared.gate.reserve_data(wanted)?;
            inode.data.make_dirty(&[], (at, &bytes), Some(promise));
            (at, dirtied) = (at + wanted.data, dirtied + wanted.data);
        }
    }
    Ok(dirtied)
}

/// The parts of a window that are worth it.
fn runs(tx: &Transaction, inode: &Inode, wish: &Defrag, window: &Range<u64>) -> Result<Vec<Range<u64>>> {
    let (mut items, mut found) = (Vec::new(), Vec::new());
    scan(tx, inode.id, window, |item| {
        items.push(item);
        ControlFlow::Continue(())
    })?;
    for item in items {
        let Stored::Data(extent) = item.stored else { continue };
        let small = Small { start: item.start, extent };
        if is_wanted(wish, &extent) && (wish.shared == SharedExtents::Break || !is_shared(tx, inode, &small)?) {
            found.push(small);
        }
    }
    Ok(join(&found, wish.compress.is_some()))
}

fn is_wanted(wish: &Defrag, extent: &DataExtent) -> bool {
    if extent.is_hole() || extent.prealloc || extent.generation < wish.newer_than {
        return false;
    }
    let compressed = extent.compression != Compression::None;
    match wish.compress {
        Some(Choice::With(method)) => extent.compression != method.compression() || extent.num_bytes < MAX_UNCOMPRESSED,
        Some(Choice::Never) => compressed,
        // What is compressed cannot be longer than that.
        None if compressed => extent.num_bytes < wish.large.min(MAX_UNCOMPRESSED),
        None => extent.num_bytes < wish.large,
    }
}

fn is_shared(tx: &Transaction, inode: &Inode, small: &Small) -> Result<bool> {
    let own = small.extent.back_ref(inode.id, small.start);
    let (at, len) = (Logical(small.extent.disk_bytenr), small.extent.disk_num_bytes);
    Ok(!tx.is_only_of(inode.id.tree, at, len, &own)?)
}

/// Joins what lies side by side, on the device as well: one extent has one item. One alone is as good as it can be; where
/// all is to be compressed that does not matter.
fn join(found: &[Small], all: bool) -> Vec<Range<u64>> {
    let mut runs = Vec::new();
    for run in found.chunk_by(|one, next| one.end() == next.start) {
        if let (true, Some(first), Some(last)) = (all || run.len() > 1, run.first(), run.last()) {
            runs.push(first.start..last.end());
        }
    }
    runs.retain(|run| len(run) > 0);
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(start: u64, at: u64) -> Small {
        Small { start, extent: DataExtent::new(Logical(at), 4096) }
    }

    #[test]
    fn neighbours_in_the_file_are_joined() {
        let found = [small(0, 1 << 20), small(4096, 9 << 20), small(8192, 2 << 20), small(16384, 3 << 20)];
        assert_eq!(join(&found, false), vec![Range { start: 0, end: 12288 }]);
        assert_eq!(join(&found, true), [0..12288, 16384..20480]);
        let contiguous = [small(0, 1 << 20), small(4096, (1 << 20) + 4096)];
        assert_eq!(join(&contiguous, false), vec![Range { start: 0, end: 8192 }]);
        assert_eq!(join(&contiguous[..1], false), []);
    }
}

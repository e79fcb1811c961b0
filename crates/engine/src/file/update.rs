//! One change of a file: extents, hole items, `nbytes` and the size on disk, together.
//!
//! # Invariants
//! * After each change the inode item in the tree agrees with the extents there: `nbytes` is exact,
//!   the size is not below the end of a written extent, and not above the file's true size.
//!
//! # Locking
//! The caller holds `FileData::settle` and `Inode::range` alone; the state is taken here, then the gate.

use butterfs_format::items::InodeItem;

use super::extents::{HoleStyle, fill_gaps};
use super::sectors::{ceil, lock, sector_size};
use crate::error::Result;
use crate::inode::item::{read as read_inode_item, write_inode_item};
use crate::inode::{Inode, InodeId, Shared};
use crate::tx::{Need, Transaction};

/// How far a change of a file came.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Where what is written now ends; zero if nothing was.
    pub written: u64,
    /// The lowest byte in flight that is still to be written.
    pub waiting: Option<u64>,
    /// Everything from here on was dropped, and there is more to drop below: the size on disk goes
    /// down to here, so that a crash leaves no old bytes past the end.
    pub dropped_to: Option<u64>,
}

/// Runs `change` and writes the inode item. `change` gets a copy of the item as memory has it, and
/// may change it; it becomes the truth when the transaction took it.
pub(super) fn update_file<R>(
    shared: &Shared,
    inode: &Inode,
    need: Need,
    change: impl FnOnce(&mut Transaction, InodeId, &mut InodeItem) -> Result<(Progress, R)>,
) -> Result<R> {
    let mut state = lock(&inode.state);
    let (style, sector) = (HoleStyle::of(shared), sector_size(shared));
    let mut item = state.item;
    let (size, settled, result) = shared.gate.change(need, |tx| {
        let old = read_inode_item(tx, inode.id)?.size.get();
        let (progress, result) = change(tx, inode.id, &mut item)?;
        let size = item.size.get();
        let first_dirty = inode.data.first_dirty_after(old);
        let new = size_on_disk(old, size, &progress, first_dirty);
        fill_gaps(tx, inode.id, ceil(old, sector)..ceil(new, sector), style)?;
        item.size = new.into();
        write_inode_item(tx, inode.id, &mut item)?;
        Ok((size, new == size, result))
    })?;
    item.size = size.into();
    state.item = item;
    state.dirty = !settled;
    Ok(result)
}

/// Writes the inode item if it lags behind, and the file's bytes do not.
pub(super) fn settle_item(shared: &Shared, inode: &Inode) -> Result<()> {
    let lags = {
        let state = lock(&inode.state);
        state.dirty && !state.gone && !state.item.is_dir()
    };
    if !lags || inode.data.is_dirty() {
        return Ok(());
    }
    update_file(shared, inode, Need::Promised, |_, _, _| Ok((Progress::default(), ())))
}

fn size_on_disk(old: u64, size: u64, progress: &Progress, first_dirty: Option<u64>) -> u64 {
    if let Some(at) = progress.dropped_to {
        return old.min(at);
    }
    let unwritten = [first_dirty, progress.waiting].into_iter().flatten().min();
    let reach = unwritten.map_or(size, |start| start.max(progress.written));
    old.max(reach).min(size)
}

/// Counts bytes that came and bytes that went.
pub(super) fn count(item: &mut InodeItem, (added, removed): (u64, u64)) {
    let nbytes = item.nbytes.get().saturating_add(added).saturating_sub(removed);
    item.nbytes = nbytes.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_on_disk_follows_what_is_written() {
        let cases = [
            // old, size, written, first unwritten: new
            ((0, 5000, 5000, None), 5000),
            ((0, 5000, 4096, Some(4096)), 4096),
            ((4096, 9000, 9000, Some(0)), 9000),
            ((4096, 90000, 8192, Some(40960)), 40960),
            ((9000, 9000, 4096, Some(0)), 9000),
            ((9000, 100, 0, None), 100),
            ((0, 524_288, 0, Some(1 << 20)), 524_288),
        ];
        for ((old, size, written, dirty), new) in cases {
            let progress = Progress { written, ..Progress::default() };
            assert_eq!(size_on_disk(old, size, &progress, dirty), new, "{old} {size} {written} {dirty:?}");
        }
        let halfway = Progress { dropped_to: Some(8192), ..Progress::default() };
        assert_eq!(size_on_disk(1 << 20, 100, &halfway, None), 8192);
    }
}

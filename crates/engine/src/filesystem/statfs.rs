//! How full the filesystem is, as the kernel's Btrfs counts it.

use butterfs_format::TreeId;
use butterfs_format::items::BlockGroupFlags;
use butterfs_format::superblock::CompatRo;

use super::Filesystem;
use crate::error::{Error, Result};
use crate::tx::{DiskUsage, Groups, SpaceUsage, Transaction};

/// Sizes of the whole filesystem as statfs gives them, in bytes: what device space can hold of data with its copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// All devices.
    pub total: u64,
    /// Not used, but for the kernel's global reserve, which counts as used.
    pub free: u64,
    /// What new data can take.
    pub available: u64,
    /// A sector, the unit of allocation.
    pub sectorsize: u32,
}

/// Items that deleting a file may touch, by the kernel's estimate.
const UNLINK_ITEMS: u64 = 6;
/// Blocks that an item may change: all levels, and as many that are split.
const BLOCKS_FOR_ITEM: u64 = 16;
/// The most that the kernel keeps back.
const MOST_RESERVE: u64 = 512 << 20;
/// Free metadata that the kernel leaves out when it finds that there is none.
const METADATA_SLACK: u64 = 4 << 20;

impl Filesystem {
    /// How full the filesystem is.
    pub fn usage(&self) -> Usage {
        let gate = &self.shared.gate;
        let space = gate.space();
        let sectorsize = gate.volume().geometry().sectorsize;
        let none = Usage { total: 0, free: 0, available: 0, sectorsize };
        // What cannot be read counts for nothing here; who needs the trees is told.
        let reckon = |tx: &Transaction| {
            let reserve = kernel_reserve(tx).unwrap_or(0);
            let disks = tx.disk_usage();
            let factor = disks.data_factor();
            let dirty = space.promised * factor;
            let used = disks.all.used + dirty;
            let data_free = disks.data.free.saturating_sub(disks.data.closed + dirty);
            let available = data_free / factor + tx.room_for(BlockGroupFlags::DATA) / factor;
            let total = space.total / factor;
            let free = total.saturating_sub(used / factor).saturating_sub(reserve);
            let full = is_full(tx, &space, &disks, reserve);
            Ok(Usage { total, free, available: if full { 0 } else { available }, ..none })
        };
        gate.view(reckon).unwrap_or(none)
    }
}

/// Whether no metadata is left, and so nothing can be written. Where data lies in the same groups the kernel does not
/// look.
fn is_full(tx: &Transaction, space: &SpaceUsage, disks: &DiskUsage, reserve: u64) -> bool {
    if space.groups == Groups::Mixed || tx.room_for(BlockGroupFlags::METADATA) > 0 {
        return false;
    }
    space.metadata.available <= space.reserve || disks.metadata.free.saturating_sub(METADATA_SLACK) < reserve
}

/// What the kernel keeps back of metadata space, and counts as used: as much as the trees that every change touches,
/// and at least what deleting a file needs.
pub(super) fn kernel_reserve(tx: &Transaction) -> Result<u64> {
    let features = tx.compat_ro();
    let free_space_tree = features.contains(CompatRo::FREE_SPACE_TREE);
    let mut trees = vec![TreeId::EXTENT, TreeId::CSUM];
    if free_space_tree {
        trees.push(TreeId::FREE_SPACE);
    }
    if features.contains(CompatRo::BLOCK_GROUP_TREE) {
        trees.push(TreeId::BLOCK_GROUP);
    }
    // The root tree is one more.
    let items = trees.len() as u64 + 1 + UNLINK_ITEMS;
    let delayed = if free_space_tree { 2 * UNLINK_ITEMS } else { UNLINK_ITEMS };
    let least = (items + delayed) * BLOCKS_FOR_ITEM * u64::from(tx.geometry().nodesize);
    let sizes = trees.into_iter().map(|tree| match tx.root_item(tree) {
        Ok(item) => Ok(item.bytes_used.get()),
        Err(Error::NotFound) => Ok(0),
        Err(error) => Err(error),
    });
    let size = sizes.sum::<Result<u64>>()?;
    Ok(size.max(least).min(MOST_RESERVE))
}

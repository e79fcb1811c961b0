//! Blocks of the test's filesystem, by what the testkit knows.

use std::sync::Arc;

use butterfs_format::items::{FileExtent, FileExtentBody};
use butterfs_format::{ItemType, Key, Logical, TreeId};
use butterfs_testkit::tree_blocks::{self, Dump, items};
use butterfs_volume::{BlockDevice, MemDevice, Volume};

fn shared(device: &Arc<MemDevice>) -> Arc<dyn BlockDevice> {
    device.clone()
}

pub fn open(device: &Arc<MemDevice>) -> Volume {
    tree_blocks::open(&shared(device))
}

pub fn dump(device: &Arc<MemDevice>) -> Dump {
    tree_blocks::dump(&shared(device))
}

pub fn zero(device: &Arc<MemDevice>, blocks: impl IntoIterator<Item = Logical>, copies: std::ops::Range<usize>) {
    tree_blocks::zero(&shared(device), blocks, copies);
}

/// The data extents of an inode: address and length, and where in the file they are.
pub fn extents(dump: &Dump, tree: TreeId, ino: u64) -> Vec<(u64, u64, u64)> {
    let leaves = dump.values().filter(|one| one.level == 0 && one.trees.contains(&tree));
    let all = leaves.flat_map(|one| items(&one.block()).map(|(key, data)| (key, data.to_vec())).collect::<Vec<_>>());
    let own = all.filter(|(key, _)| key.objectid == ino && key.item_type == ItemType::EXTENT_DATA);
    let place = |(key, data): (Key, Vec<u8>)| match FileExtent::parse(&data).unwrap().body {
        FileExtentBody::Extent { disk_bytenr, num_bytes, .. } if disk_bytenr != 0 => {
            Some((disk_bytenr, num_bytes, key.offset))
        }
        _ => None,
    };
    own.filter_map(place).collect()
}

//! Which device of the filesystem is which, where superblocks do not say: by the tree blocks that lie on them.
//!
//! A block that lies on a device where a stripe has it speaks for that stripe's device. Mirrors whose stripes lie at
//! the same offsets are the same in all that speaks for them: either may then be taken for the other, as what is read
//! from them is verified.
//!
//! # Invariants
//! * No two devices get the same number, nor one that a superblock has.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use butterfs_format::Logical;
use butterfs_format::items::DevItem;
use butterfs_volume::stored_places;
use zerocopy::FromZeros;

use crate::Devices;
use crate::chunks::Truth;
use crate::scan::Blocks;

/// How many blocks speak for a device, by its place in the list, having a number.
type Votes = HashMap<(usize, u64), usize>;

/// The items of those devices that have none of their own; of some it cannot be told.
pub fn device_items(
    blocks: &Blocks,
    truth: &Truth,
    devices: &Devices,
    own: &[Option<DevItem>],
) -> BTreeMap<usize, DevItem> {
    let unknown: BTreeSet<usize> = (0..own.len()).filter(|device| own[*device].is_none()).collect();
    let taken: BTreeSet<u64> = own.iter().flatten().map(|item| item.devid.get()).collect();
    let mut items = numbered(truth);
    items.retain(|devid, _| !taken.contains(devid));
    let free: BTreeSet<u64> = items.keys().copied().collect();
    let large_enough = |device: usize, devid: u64| {
        // One that is alone may have lost its end.
        own.len() == 1 || devices[device].len() >= items[&devid].total_bytes.get()
    };
    let votes = votes(blocks, truth, &unknown);
    let assigned = assign(&votes, unknown, free, &large_enough);
    let item = |(device, devid): (usize, u64)| {
        let mut item = items[&devid];
        if item.total_bytes.get() == 0 {
            item.total_bytes = devices[device].len().into();
        }
        (device, item)
    };
    assigned.into_iter().map(item).collect()
}

/// All devices that there are; those whose items are lost are known by the stripes on them.
fn numbered(truth: &Truth) -> BTreeMap<u64, DevItem> {
    let mut items = truth.devices.clone();
    for chunk in truth.chunks.values() {
        for stripe in &chunk.stripes {
            items.entry(stripe.devid.get()).or_insert_with(|| {
                let mut item = DevItem::new_zeroed();
                (item.devid, item.uuid) = (stripe.devid, stripe.dev_uuid);
                (item.sector_size, item.io_align, item.io_width) =
                    (chunk.header.sector_size, chunk.header.io_align, chunk.header.io_width);
                item
            });
        }
    }
    items
}

fn votes(blocks: &Blocks, truth: &Truth, unknown: &BTreeSet<usize>) -> Votes {
    let mut votes = Votes::new();
    for seen in blocks.copies().iter().filter(|seen| unknown.contains(&seen.device)) {
        let Some((start, chunk)) = truth.chunks.range(..=seen.at.0).next_back() else { continue };
        if seen.at.0 - start >= chunk.length() {
            continue;
        }
        for (stripe, physical) in stored_places(Logical(*start), chunk, seen.at).unwrap_or_default() {
            if physical == seen.physical {
                *votes.entry((seen.device, chunk.stripes[stripe].devid.get())).or_default() += 1;
            }
        }
    }
    votes
}

/// Gives numbers to devices: what most speaks for first, by the order of both where that is equal. The last device gets
/// the last number even if nothing speaks for it, if it may.
fn assign(
    votes: &Votes,
    mut unknown: BTreeSet<usize>,
    mut free: BTreeSet<u64>,
    may: &dyn Fn(usize, u64) -> bool,
) -> BTreeMap<usize, u64> {
    let mut order: Vec<_> = votes.iter().map(|((device, devid), votes)| (Reverse(*votes), *device, *devid)).collect();
    order.sort_unstable();
    let mut assigned = BTreeMap::new();
    for (_, device, devid) in order {
        if unknown.contains(&device) && free.remove(&devid) {
            unknown.remove(&device);
            assigned.insert(device, devid);
        }
    }
    if let (1, 1, Some(device), Some(devid)) = (unknown.len(), free.len(), unknown.first(), free.first())
        && may(*device, *devid)
    {
        assigned.insert(*device, *devid);
    }
    assigned
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(votes: &[(usize, u64, usize)], devices: usize, free: &[u64]) -> Vec<(usize, u64)> {
        let votes = votes.iter().map(|(device, devid, votes)| ((*device, *devid), *votes)).collect();
        let free = free.iter().copied().collect();
        assign(&votes, (0..devices).collect(), free, &|_, devid| devid != 9).into_iter().collect()
    }

    #[test]
    fn each_number_is_given_once() {
        // Mirrors at the same offsets, and one chunk that is elsewhere.
        assert_eq!(assigned(&[(0, 1, 50), (0, 2, 60), (1, 1, 60), (1, 2, 50)], 2, &[1, 2]), [(0, 2), (1, 1)]);
        // Nothing tells them apart.
        assert_eq!(assigned(&[(0, 1, 50), (0, 2, 50), (1, 1, 50), (1, 2, 50)], 2, &[1, 2]), [(0, 1), (1, 2)]);
        // What a superblock has is not given again.
        assert_eq!(assigned(&[(0, 1, 50), (0, 2, 50)], 1, &[2]), [(0, 2)]);
    }

    #[test]
    fn the_last_is_told_by_elimination() {
        assert_eq!(assigned(&[(0, 2, 1)], 2, &[2, 3]), [(0, 2), (1, 3)]);
        assert_eq!(assigned(&[(0, 2, 1)], 3, &[2, 3, 4]), [(0, 2)]);
        assert_eq!(assigned(&[(0, 2, 1)], 2, &[2, 9]), [(0, 2)], "it is too small for this");
    }
}

//! Leaves that are what their pointer says in all but checksum or order of keys: the last resort before older leaves of
//! other addresses.
//!
//! # Invariants
//! * An item is given out only if its bytes lie in the block, its key is in order with all others that are given out,
//!   and it keeps the rules of its kind.

use std::collections::HashSet;
use std::ops::Range;

use butterfs_format::block::{HEADER_SIZE, ITEM_HEADER_SIZE};
use butterfs_format::validate::item::check_item;
use butterfs_format::{Key, TreeBlock, TreeId};

use crate::report::LostBlock;
use crate::scan::Name;
use crate::source::{Block, Source};

/// Reads a leaf of which address, generation and filesystem are right: the copy with the most good items.
pub fn read(source: &Source, name: Name) -> Option<Block> {
    let ways = source.volume().copies(name.0).unwrap_or(0);
    let copies = (0..ways).filter_map(|way| copy(source, name, way));
    copies.max_by_key(|block| block.block.len() - block.bad.len()).filter(|block| block.items().next().is_some())
}

/// The keys of a lost leaf of which the block at its very address tells; between them lie those of bad items.
pub fn keys(source: &Source, lost: &LostBlock, owners: &HashSet<TreeId>) -> Vec<Range<Key>> {
    match read(source, lost.name).filter(|block| owners.contains(&block.block.owner())) {
        Some(block) => without_bad(&block, &lost.keys),
        None => Vec::new(),
    }
}

fn copy(source: &Source, name: Name, way: usize) -> Option<Block> {
    let geometry = source.geometry();
    let mut bytes = vec![0; geometry.nodesize as usize];
    source.volume().read_copy(name.0, &mut bytes, way).ok()?;
    let block = TreeBlock::from_bytes(bytes);
    let fsid = block.header().fsid;
    let is_it = block.is_leaf()
        && (block.bytenr(), block.generation()) == name
        && (fsid == geometry.fsid || geometry.seeds.contains(&Some(fsid)))
        && lies_within(&block);
    if !is_it {
        return None;
    }
    let ordered = in_order(&(0..block.len()).map(|slot| block.key(slot)).collect::<Vec<_>>());
    let is_bad = |slot: &usize| !ordered.contains(slot) || check_item(&block, *slot, &geometry).is_err();
    let bad = (0..block.len()).filter(is_bad).collect();
    Some(Block { block, bad })
}

/// Whether the bytes of all items lie in the block, behind their headers.
fn lies_within(block: &TreeBlock) -> bool {
    let space = (block.bytes().len() - HEADER_SIZE) as u64;
    let headers = block.len() as u64 * ITEM_HEADER_SIZE as u64;
    let fits = |slot| {
        let item = block.item(slot);
        let (offset, size) = (u64::from(item.offset.get()), u64::from(item.size.get()));
        offset >= headers && offset + size <= space
    };
    headers <= space && (0..block.len()).all(fits)
}

/// The most slots whose keys rise.
fn in_order(keys: &[Key]) -> HashSet<usize> {
    // For each slot: how many there are up to it, and which is the one before.
    let mut best: Vec<(usize, Option<usize>)> = Vec::with_capacity(keys.len());
    for (slot, key) in keys.iter().enumerate() {
        let before = (0..slot).filter(|other| keys[*other] < *key).max_by_key(|other| best[*other].0);
        best.push((before.map_or(1, |before| best[before].0 + 1), before));
    }
    let last = (0..keys.len()).max_by_key(|slot| best[*slot].0);
    std::iter::successors(last, |slot| best[*slot].1).collect()
}

/// The keys of a leaf, but for those that lie where a bad item is.
fn without_bad(block: &Block, keys: &Range<Key>) -> Vec<Range<Key>> {
    let mut ranges = Vec::new();
    let (mut start, mut end) = (Some(keys.start), keys.start);
    for slot in 0..block.block.len() {
        if block.bad.binary_search(&slot).is_ok() {
            ranges.extend(start.take().map(|start| start..end));
        } else {
            let key = block.block.key(slot);
            start = start.or(Some(key));
            end = key.next();
        }
    }
    ranges.extend(start.map(|start| start..keys.end));
    let within = |range: Range<Key>| range.start.max(keys.start)..range.end.min(keys.end);
    ranges.into_iter().map(within).filter(|range| !range.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_key_costs_one_item() {
        let keys = [1, 2, 99, 3, 4, 0, 5].map(|number| Key { objectid: number, ..Key::MIN });
        let mut slots: Vec<_> = in_order(&keys).into_iter().collect();
        slots.sort_unstable();
        assert_eq!(slots, [0, 1, 3, 4, 6]);
    }
}

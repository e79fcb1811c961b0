//! Checksums of data, looked up in the order in which data is read.
//!
//! # Locking
//! None: each thread has a [`Lookup`] of its own, with the last leaf that it needed.

use butterfs_format::checksum::{CSUM_FIELD_SIZE, Checksum};
use butterfs_format::ids::objectid;
use butterfs_format::{ItemType, Key, Logical};

use crate::outline::{LeafRef, Outline};
use crate::source::{Block, Source};

/// The checksum tree, if there is one.
pub struct Checksums<'s> {
    source: &'s Source,
    outline: Option<Outline>,
}

impl<'s> Checksums<'s> {
    /// Over a tree.
    pub fn new(source: &'s Source, outline: Option<Outline>) -> Self {
        Self { source, outline }
    }

    /// A place to look from.
    pub fn lookup(&self) -> Lookup<'_> {
        Lookup { checksums: self, last: None }
    }

    fn leaves(&self) -> &[LeafRef] {
        self.outline.as_ref().map_or(&[], |outline| &outline.leaves)
    }
}

/// A thread's place in the checksum tree.
pub struct Lookup<'a> {
    checksums: &'a Checksums<'a>,
    /// The leaf last read, by its place in the list; no block if it cannot be read.
    last: Option<(usize, Option<Block>)>,
}

fn key_at(at: u64) -> Key {
    Key::new(objectid::EXTENT_CSUM, ItemType::EXTENT_CSUM, at)
}

impl Lookup<'_> {
    /// The checksums of the sectors of a range; `None` where there is none, or it cannot be read.
    pub fn get(&mut self, at: Logical, sectors: usize) -> Vec<Option<Checksum>> {
        let mut sums = vec![None; sectors];
        let sector = u64::from(self.checksums.source.geometry().sectorsize);
        let end = at.0.saturating_add(sector.saturating_mul(sectors as u64));
        let leaves = self.checksums.leaves();
        let after = leaves.partition_point(|leaf| leaf.keys.start <= key_at(at.0));
        let mut index = after.saturating_sub(1);
        while index < leaves.len() && leaves[index].keys.start < key_at(end) {
            self.load(index);
            if let Some((_, Some(block))) = &self.last {
                take(block, &leaves[index], at.0, sector, self.size(), &mut sums);
            }
            index += 1;
        }
        sums
    }

    fn size(&self) -> usize {
        self.checksums.source.geometry().csum_type.size()
    }

    fn load(&mut self, index: usize) {
        if self.last.as_ref().is_some_and(|(last, _)| *last == index) {
            return;
        }
        let block = self.checksums.leaves()[index].read(self.checksums.source).ok();
        self.last = Some((index, block));
    }
}

/// Puts a leaf's checksums of the sectors from `at` on in their places.
fn take(block: &Block, leaf: &LeafRef, at: u64, sector: u64, size: usize, sums: &mut [Option<Checksum>]) {
    let end = at.saturating_add(sector.saturating_mul(sums.len() as u64));
    let leaf_block = &block.block;
    // The item before the first key above may reach into the range.
    let from = match leaf_block.search(&key_at(at)) {
        Ok(slot) => slot,
        Err(slot) => slot.saturating_sub(1),
    };
    for slot in from..leaf_block.len() {
        let key = leaf_block.key(slot);
        if key >= key_at(end).min(leaf.keys.end) {
            break;
        }
        if !leaf.keys.contains(&key) || key.item_type != ItemType::EXTENT_CSUM || block.bad.contains(&slot) {
            continue;
        }
        let skip = at.saturating_sub(key.offset) / sector;
        for (number, bytes) in leaf_block.data(slot).chunks_exact(size).enumerate().skip(skip as usize) {
            let place = key.offset.saturating_add(number as u64 * sector).wrapping_sub(at) / sector;
            let Some(sum) = sums.get_mut(place as usize) else { break };
            let mut field = [0; CSUM_FIELD_SIZE];
            field[..size].copy_from_slice(bytes);
            *sum = Some(field);
        }
    }
}

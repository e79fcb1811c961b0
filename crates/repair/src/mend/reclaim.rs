//! Blocks that nothing leads to any more, though the extent tree still counts them: the children of a node that
//! is lost, or the root of a tree whose root item is.

use std::collections::BTreeSet;

use butterfs_format::items::ExtentItem;
use butterfs_format::validate::Expected;
use butterfs_format::{Generation, ItemType, Key, Logical, TreeId};

use crate::store::Store;
use crate::survey::Survey;

/// A block that is allocated and that nothing leads to.
#[derive(Clone, Copy, Debug)]
pub struct Stray {
    /// Its address.
    pub at: Logical,
    /// Its level.
    pub level: u8,
    /// Its tree, by its header.
    pub owner: TreeId,
    /// Its generation.
    pub generation: Generation,
    /// Its first and last key.
    pub keys: (Key, Key),
}

/// All such blocks, in the order of their first keys.
#[derive(Clone, Debug, Default)]
pub struct Strays {
    blocks: Vec<Stray>,
}

impl Strays {
    /// Reads the extent tree as far as it can be read.
    pub fn find(store: &Store, survey: &Survey) -> Self {
        let reached = |at: &Logical| survey.blocks.contains_key(at) || survey.log.contains(at);
        let allocated = allocated_blocks(store, survey).into_iter().filter(|at| !reached(at));
        let mut blocks: Vec<Stray> = allocated.filter_map(|at| stray(store, at)).collect();
        blocks.sort_by_key(|block| (block.keys.0, block.level));
        Self { blocks }
    }

    /// The lost children of a node: blocks of the level below, of a tree that can have been there, with keys in
    /// the range. Where two overlap the newer one is taken.
    pub fn children(&self, tree: TreeId, level: u8, generation: Generation, range: (Key, Option<Key>)) -> Vec<Stray> {
        let fits = |block: &&Stray| {
            block.level + 1 == level
                && (block.owner == tree || tree.is_shareable() && block.owner.is_shareable())
                && block.generation <= generation
                && block.keys.0 >= range.0
                && range.1.is_none_or(|end| block.keys.1 < end)
        };
        let mut chosen: Vec<Stray> = Vec::new();
        for block in self.blocks.iter().filter(fits) {
            match chosen.last_mut() {
                Some(last) if last.keys.1 >= block.keys.0 => {
                    let rank = |b: &Stray| (b.owner == tree, b.generation);
                    if rank(block) > rank(last) {
                        *last = *block;
                    }
                }
                _ => chosen.push(*block),
            }
        }
        chosen
    }

    /// What may be the root of a tree: its highest blocks, the newest first.
    pub fn roots(&self, tree: TreeId) -> Vec<Stray> {
        let mut own: Vec<Stray> = self.blocks.iter().filter(|block| block.owner == tree).copied().collect();
        own.sort_by_key(|block| std::cmp::Reverse((block.level, block.generation)));
        let top = own.first().map(|block| block.level);
        own.into_iter().filter(|block| Some(block.level) == top).collect()
    }
}

fn stray(store: &Store, at: Logical) -> Option<Stray> {
    let block = store.read(&Expected::at(at)).ok()?;
    let last = block.len().checked_sub(1)?;
    Some(Stray {
        at,
        level: block.level(),
        owner: block.owner(),
        generation: block.generation(),
        // The last key of a node is that of its last pointer; what is below may go on.
        keys: (block.key(0), block.key(last)),
    })
}

/// Addresses of tree blocks by the extent tree, also if it has holes.
fn allocated_blocks(store: &Store, survey: &Survey) -> Vec<Logical> {
    let leaves = survey.blocks.iter().filter(|(_, block)| block.level == 0 && block.owner == TreeId::EXTENT);
    let mut found = BTreeSet::new();
    for (at, _) in leaves {
        let Ok(leaf) = store.read(&Expected::at(*at)) else { continue };
        for slot in 0..leaf.len() {
            let key = leaf.key(slot);
            let is_tree = match key.item_type {
                ItemType::METADATA_ITEM => true,
                ItemType::EXTENT_ITEM => {
                    ExtentItem::parse(&key, leaf.data(slot)).is_ok_and(|item| item.block_info.is_some())
                }
                _ => false,
            };
            if is_tree {
                found.insert(Logical(key.objectid));
            }
        }
    }
    found.into_iter().collect()
}

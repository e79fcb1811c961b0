//! Blocks that nothing leads to any more, though the extent tree still counts them: the children of a node that
//! is lost, or the root of a tree whose root item is.

use std::collections::BTreeMap;

use butterfs_format::items::{BackRef, ExtentFlags, ExtentItem};
use butterfs_format::validate::Expected;
use butterfs_format::{Generation, ItemType, Key, Logical, TreeId};

use crate::store::Store;
use crate::survey::Survey;

/// A block that the extent tree knows more references to than there are.
#[derive(Clone, Debug)]
pub struct Stray {
    /// Its address.
    pub at: Logical,
    /// Its level.
    pub level: u8,
    /// Its tree, by its header.
    pub owner: TreeId,
    /// Its generation.
    pub generation: Generation,
    /// Its first and last key; the last key of a node is that of its last pointer, what is below may go on.
    pub keys: (Key, Key),
    /// Something leads to it, too.
    is_reached: bool,
    /// Trees that refer to it, by the extent tree.
    trees: Vec<TreeId>,
    /// Nodes that refer to it, by the extent tree.
    parents: Vec<Logical>,
}

/// All such blocks, in the order of their first keys.
#[derive(Clone, Debug, Default)]
pub struct Strays {
    blocks: Vec<Stray>,
}

/// A lost node.
#[derive(Clone, Copy, Debug)]
pub struct Lost {
    /// Its tree.
    pub tree: TreeId,
    /// Its address.
    pub at: Logical,
    /// Its level.
    pub level: u8,
    /// Its generation.
    pub generation: Generation,
    /// Its keys: from, and below.
    pub range: (Key, Option<Key>),
}

impl Strays {
    /// Reads the extent tree as far as it can be read.
    pub fn find(store: &Store, survey: &Survey) -> Self {
        let mut known = References::default();
        known.load(store, survey);
        let mut blocks: Vec<Stray> = Vec::new();
        for (at, refs) in known.blocks {
            let reached = survey.blocks.get(&at).map_or(0, |block| block.parents.len() as u64);
            if refs.count > reached && !survey.log.contains(&at) {
                blocks.extend(stray(store, at, refs, reached > 0));
            }
        }
        blocks.sort_by_key(|block| (block.keys.0, block.level));
        Self { blocks }
    }

    /// The children of a lost node: blocks of the level below with keys in its range that it should refer to, by
    /// their back references; or that nothing refers to and that can have been there. Where two overlap the
    /// likelier is taken, then the newer.
    pub fn children(&self, lost: &Lost) -> Vec<Stray> {
        let named = |block: &Stray| block.trees.contains(&lost.tree) || block.parents.contains(&lost.at);
        let can_be = |block: &Stray| {
            !block.is_reached && (block.owner == lost.tree || lost.tree.is_shareable() && block.owner.is_shareable())
        };
        let fits = |block: &&Stray| {
            block.level + 1 == lost.level
                && (named(block) || can_be(block))
                && block.generation <= lost.generation
                && block.keys.0 >= lost.range.0
                && lost.range.1.is_none_or(|end| block.keys.1 < end)
        };
        let rank = |block: &Stray| (named(block), block.owner == lost.tree, block.generation);
        let mut chosen: Vec<Stray> = Vec::new();
        for block in self.blocks.iter().filter(fits) {
            match chosen.last_mut() {
                Some(last) if last.keys.1 >= block.keys.0 => {
                    if rank(block) > rank(last) {
                        *last = block.clone();
                    }
                }
                _ => chosen.push(block.clone()),
            }
        }
        chosen
    }

    /// What may be the root of a tree: its highest blocks that nothing leads to, the newest first.
    pub fn roots(&self, tree: TreeId) -> Vec<Stray> {
        let own = self.blocks.iter().filter(|block| block.owner == tree && !block.is_reached);
        let mut own: Vec<Stray> = own.cloned().collect();
        own.sort_by_key(|block| std::cmp::Reverse((block.level, block.generation)));
        let top = own.first().map(|block| block.level);
        own.into_iter().filter(|block| Some(block.level) == top).collect()
    }
}

fn stray(store: &Store, at: Logical, refs: BlockRefs, is_reached: bool) -> Option<Stray> {
    let block = store.read(&Expected::at(at)).ok()?;
    let last = block.len().checked_sub(1)?;
    Some(Stray {
        at,
        level: block.level(),
        owner: block.owner(),
        generation: block.generation(),
        keys: (block.key(0), block.key(last)),
        is_reached,
        trees: refs.trees,
        parents: refs.parents,
    })
}

/// Back references of a block.
#[derive(Debug, Default)]
struct BlockRefs {
    count: u64,
    trees: Vec<TreeId>,
    parents: Vec<Logical>,
}

/// Tree blocks and their references by the extent tree, also if it has holes.
#[derive(Debug, Default)]
struct References {
    blocks: BTreeMap<Logical, BlockRefs>,
}

impl References {
    fn load(&mut self, store: &Store, survey: &Survey) {
        let leaves = survey.blocks.iter().filter(|(_, block)| block.level == 0 && block.owner == TreeId::EXTENT);
        for (at, _) in leaves {
            let Ok(leaf) = store.read(&Expected::at(*at)) else { continue };
            for slot in 0..leaf.len() {
                self.item(&leaf.key(slot), leaf.data(slot));
            }
        }
    }

    fn item(&mut self, key: &Key, data: &[u8]) {
        match key.item_type {
            ItemType::METADATA_ITEM | ItemType::EXTENT_ITEM => {
                let Ok(item) = ExtentItem::parse(key, data) else { return };
                if item.flags.contains(ExtentFlags::TREE_BLOCK) {
                    let block = self.blocks.entry(Logical(key.objectid)).or_default();
                    block.count = item.refs;
                    item.inline.iter().for_each(|inline| block.add(&inline.back_ref));
                }
            }
            ItemType::TREE_BLOCK_REF | ItemType::SHARED_BLOCK_REF => {
                if let Ok(one) = BackRef::parse_keyed(key, data) {
                    self.blocks.entry(Logical(key.objectid)).or_default().add(&one.back_ref);
                }
            }
            _ => {}
        }
    }
}

impl BlockRefs {
    fn add(&mut self, back_ref: &BackRef) {
        match back_ref {
            BackRef::TreeBlock { root } => self.trees.push(*root),
            BackRef::SharedBlock { parent } => self.parents.push(*parent),
            _ => {}
        }
    }
}

//! Extents and their references as they must be, worked out from a survey.
//!
//! Whether a block's children are referred to by its tree or by its own address (FULL_BACKREF) follows from the
//! tops down: see `docs/format/back-references.md` and decision 7.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use butterfs_format::items::{BackRef, ExtentFlags};
use butterfs_format::{Ino, Key, Logical, TreeId};

use crate::survey::{Block, DataExtent, DataRef, Parent, Survey};

/// What an extent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// File data.
    Data,
    /// A tree block.
    Block {
        /// Its level.
        level: u8,
        /// Its first key.
        first_key: Key,
    },
}

/// An extent as its item must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length, in bytes.
    pub len: u64,
    /// The transaction that allocated it; of data only the oldest that is known.
    pub generation: u64,
    /// Data or tree block, and FULL_BACKREF.
    pub flags: ExtentFlags,
    /// What it is.
    pub what: What,
    /// The subvolume that data counts for in simple quotas: see [`super::owners`].
    pub owner: Option<TreeId>,
    /// Who refers to it, and how often; in order.
    pub refs: Vec<(BackRef, u32)>,
}

impl Extent {
    /// A new block of a tree that cannot share.
    pub fn of_new_block(tree: TreeId, level: u8, first_key: Key, generation: u64, nodesize: u64) -> Self {
        Self {
            len: nodesize,
            generation,
            flags: ExtentFlags::TREE_BLOCK,
            what: What::Block { level, first_key },
            owner: None,
            refs: vec![(BackRef::TreeBlock { root: tree }, 1)],
        }
    }
}

/// All extents by address.
pub type Extents = BTreeMap<u64, Extent>;

/// Works out every extent that a survey knows of.
pub fn extents(survey: &Survey, nodesize: u64) -> Extents {
    let mut extents = Extents::new();
    let full = blocks(survey, nodesize, &mut extents);
    for (at, extent) in &survey.extents {
        extents.insert(*at, data(survey, &full, extent));
    }
    extents
}

/// Enters tree blocks; gives those with full back references.
fn blocks(survey: &Survey, nodesize: u64, extents: &mut Extents) -> HashSet<Logical> {
    let mut order: Vec<(&Logical, &Block)> = survey.blocks.iter().collect();
    order.sort_by_key(|(_, block)| Reverse(block.level));
    let (mut full, mut own) = (HashSet::new(), HashSet::new());
    for (at, block) in order {
        if is_in_own_tree(survey, &own, block) {
            own.insert(*at);
        }
        let mut refs: Vec<BackRef> =
            block.parents.iter().map(|parent| reference_by(survey, &full, *at, parent)).collect();
        refs.sort_unstable();
        refs.dedup();
        let mut flags = ExtentFlags::TREE_BLOCK;
        if is_full(*at, block, &refs, if own.contains(at) { Own::Yes } else { Own::No }) {
            full.insert(*at);
            flags |= ExtentFlags::FULL_BACKREF;
        }
        let extent = Extent {
            len: nodesize,
            generation: block.generation.0,
            flags,
            what: What::Block { level: block.level, first_key: block.first_key },
            owner: None,
            refs: refs.into_iter().map(|back_ref| (back_ref, 1)).collect(),
        };
        extents.insert(at.0, extent);
    }
    full
}

fn reference_by(survey: &Survey, full: &HashSet<Logical>, at: Logical, parent: &Parent) -> BackRef {
    match parent {
        // The root of a relocation tree refers to itself.
        Parent::Root(TreeId::TREE_RELOC) => BackRef::SharedBlock { parent: at },
        Parent::Root(tree) => BackRef::TreeBlock { root: *tree },
        Parent::Node(node) if full.contains(node) => BackRef::SharedBlock { parent: *node },
        Parent::Node(node) => BackRef::TreeBlock { root: owner(survey, *node) },
    }
}

fn owner(survey: &Survey, at: Logical) -> TreeId {
    survey.blocks.get(&at).map_or(TreeId(0), |block| block.owner)
}

/// Whether a block is in the tree that its header names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Own {
    Yes,
    No,
}

/// Whether the tree that a block says it is of still leads to it. Above a block of a tree that tree has only its own.
fn is_in_own_tree(survey: &Survey, own: &HashSet<Logical>, block: &Block) -> bool {
    block.parents.iter().any(|parent| match parent {
        Parent::Root(tree) => *tree == block.owner,
        Parent::Node(node) => owner(survey, *node) == block.owner && own.contains(node),
    })
}

/// A block that was not relocated itself, below one that was, is referred to by its parent, and is its tree's own.
fn is_full(at: Logical, block: &Block, refs: &[BackRef], own: Own) -> bool {
    let roots = || block.parents.iter().filter(|parent| matches!(parent, Parent::Root(_)));
    if refs.contains(&BackRef::SharedBlock { parent: at }) {
        return true;
    }
    if roots().next().is_some() {
        return false;
    }
    block.is_reloc || (own == Own::No && !refs.contains(&BackRef::TreeBlock { root: block.owner }))
}

fn data(survey: &Survey, full: &HashSet<Logical>, extent: &DataExtent) -> Extent {
    let mut counts: BTreeMap<BackRef, u32> = BTreeMap::new();
    for DataRef { leaf, objectid, offset } in &extent.refs {
        let back_ref = match full.contains(leaf) {
            true => BackRef::SharedData { parent: *leaf },
            false => BackRef::Data { root: owner(survey, *leaf), objectid: Ino(*objectid), offset: *offset },
        };
        *counts.entry(back_ref).or_default() += 1;
    }
    Extent {
        len: extent.len,
        generation: extent.generation,
        flags: ExtentFlags::DATA,
        what: What::Data,
        owner: None,
        refs: counts.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use butterfs_format::Generation;

    use super::*;

    fn block(level: u8, owner: u64, parents: &[Parent]) -> Block {
        Block {
            level,
            owner: TreeId(owner),
            generation: Generation(7),
            first_key: Key::MIN,
            is_reloc: false,
            parents: parents.to_vec(),
        }
    }

    fn survey(blocks: &[(u64, Block)]) -> Survey {
        let extent = DataExtent {
            len: 4096,
            refs: vec![DataRef { leaf: Logical(4), objectid: 257, offset: 0 }; 2],
            ..DataExtent::default()
        };
        Survey {
            blocks: blocks.iter().map(|(at, block)| (Logical(*at), block.clone())).collect(),
            extents: BTreeMap::from([(100, extent)]),
            ..Survey::default()
        }
    }

    /// Tree 5 moved away from what its snapshot 256 still holds.
    #[test]
    fn blocks_that_their_tree_left_have_full_references() {
        let node = |at| Parent::Node(Logical(at));
        let survey = survey(&[
            (1, block(2, 256, &[Parent::Root(TreeId(256))])),
            (2, block(1, 5, &[node(1)])),
            (3, block(0, 5, &[node(2), node(5)])),
            (4, block(0, 5, &[node(2)])),
            (5, block(1, 5, &[Parent::Root(TreeId(5))])),
        ]);
        let extents = extents(&survey, 16384);
        let tree = |root| (BackRef::TreeBlock { root: TreeId(root) }, 1);
        let by = |parent| (BackRef::SharedBlock { parent: Logical(parent) }, 1);
        let full = |at: u64| extents[&at].flags.contains(ExtentFlags::FULL_BACKREF);
        assert_eq!(extents[&2].refs, [tree(256)]);
        assert!(full(2) && full(4) && !full(3) && !full(1) && !full(5));
        assert_eq!(extents[&3].refs, [tree(5), by(2)]);
        assert_eq!(extents[&4].refs, [by(2)]);
        assert_eq!(extents[&100].refs, [(BackRef::SharedData { parent: Logical(4) }, 2)]);
    }

    /// Of a tree's metadata one block group was balanced: a node moved, one leaf below it did not.
    #[test]
    fn what_stays_below_a_relocated_node_is_its_trees_own() {
        let node = |at| Parent::Node(Logical(at));
        let mut moved = block(1, 5, &[node(1)]);
        moved.is_reloc = true;
        let survey = survey(&[(1, block(2, 5, &[Parent::Root(TreeId(5))])), (2, moved), (4, block(0, 5, &[node(2)]))]);
        let extents = extents(&survey, 16384);
        assert!(extents[&2].flags.contains(ExtentFlags::FULL_BACKREF));
        assert!(!extents[&4].flags.contains(ExtentFlags::FULL_BACKREF));
        assert_eq!(extents[&4].refs, [(BackRef::SharedBlock { parent: Logical(2) }, 1)]);
        let of_tree = BackRef::Data { root: TreeId(5), objectid: Ino(257), offset: 0 };
        assert_eq!(extents[&100].refs, [(of_tree, 2)]);
    }

    #[test]
    fn relocated_blocks_have_full_references() {
        let mut moved = block(0, 5, &[Parent::Node(Logical(1))]);
        moved.is_reloc = true;
        let survey = survey(&[
            (1, block(1, 5, &[Parent::Root(TreeId(5))])),
            (2, block(1, 5, &[Parent::Root(TreeId::TREE_RELOC)])),
            (4, moved),
        ]);
        let extents = extents(&survey, 16384);
        assert_eq!(extents[&2].refs, [(BackRef::SharedBlock { parent: Logical(2) }, 1)]);
        assert!(extents[&2].flags.contains(ExtentFlags::FULL_BACKREF));
        assert!(extents[&4].flags.contains(ExtentFlags::FULL_BACKREF));
        assert_eq!(extents[&4].refs, [(BackRef::TreeBlock { root: TreeId(5) }, 1)]);
    }
}

//! A survey: what can be reached from the superblock and the root items, with no trust in the trees that are
//! derived from the others (extents, free space, block groups, device extents, checksums, quotas).
//!
//! Everything derived can be worked out from it again. What cannot be read is in it too, as [`Damage`].
//!
//! # Invariants
//! * Each block is read once. The level falls with each step down, so the walk ends.
//! * A reference is here if and only if a block that can be read makes it; children that a half-done deletion
//!   has dropped are not referred to ([`Dropped`]).
//!
//! # Memory
//! About 100 bytes for each tree block, 32 for each reference to data and 64 for each data extent: a
//! filesystem of a million files in one extent each takes about 100 MB.

mod tree;
mod walk;

use std::collections::BTreeMap;

use butterfs_format::items::RootItem;
use butterfs_format::validate::Expected;
use butterfs_format::{Generation, Key, Logical, TreeId};

pub use tree::{Dropped, Tree};
pub use walk::{header_problem, survey, survey_log};

/// Who refers to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// The superblock or a root item: the block is the root of this tree.
    Root(TreeId),
    /// A node.
    Node(Logical),
}

/// A tree block that can be read.
#[derive(Clone, Debug)]
pub struct Block {
    /// Its level.
    pub level: u8,
    /// The tree it was made for, by its header.
    pub owner: TreeId,
    /// The transaction that wrote it.
    pub generation: Generation,
    /// Its first key, or the lowest if it is empty.
    pub first_key: Key,
    /// Written while it was relocated: its children are always referred to by its address.
    pub is_reloc: bool,
    /// Who refers to it. More than one for blocks that snapshots share.
    pub parents: Vec<Parent>,
}

/// A reference to data: a file extent in a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DataRef {
    /// The leaf.
    pub leaf: Logical,
    /// The file.
    pub objectid: u64,
    /// The file offset at which the extent's own first byte would lie (may wrap below zero).
    pub offset: u64,
}

/// A data extent that is referred to.
#[derive(Clone, Debug, Default)]
pub struct DataExtent {
    /// Length on disk, in bytes: the longest that any reference says.
    pub len: u64,
    /// The oldest generation of its references.
    pub generation: u64,
    /// Some references have other lengths.
    pub lengths_differ: bool,
    /// Whether any reference says that it was written to (not only preallocated).
    pub written: bool,
    /// Whether any reference is compressed.
    pub compressed: bool,
    /// Each reference.
    pub refs: Vec<DataRef>,
}

/// A block that cannot be read, though something refers to it.
#[derive(Clone, Debug)]
pub struct Damage {
    /// The tree in which it was met first.
    pub tree: TreeId,
    /// The node that points to it and the slot; none for a root.
    pub parent: Option<(Logical, usize)>,
    /// What the pointer says of it.
    pub expected: Expected,
    /// The keys that are lost lie below this (and from `expected.first_key` on).
    pub end: Option<Key>,
    /// What is wrong with it.
    pub problem: String,
}

/// All that can be reached.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Tree blocks by address.
    pub blocks: BTreeMap<Logical, Block>,
    /// Data extents by address.
    pub extents: BTreeMap<u64, DataExtent>,
    /// Trees, in the order of their root items; root tree and chunk tree first.
    pub trees: Vec<Tree>,
    /// What could not be read.
    pub damage: Vec<Damage>,
    /// Blocks of log trees: they have no extent items, and only say which space is used.
    pub log: Vec<Logical>,
    /// Data that logs refer to: start and length, in bytes.
    pub log_data: Vec<(u64, u64)>,
}

impl Survey {
    /// The tree of this number; of relocation trees the first.
    pub fn tree(&self, id: TreeId) -> Option<&Tree> {
        self.trees.iter().find(|tree| tree.id == id)
    }

    /// Whether there is such a tree, and all of it can be read.
    pub fn is_whole(&self, id: TreeId) -> bool {
        self.tree(id).is_some() && !self.damage.iter().any(|damage| damage.tree == id)
    }

    /// The root item of a tree.
    pub fn root_item(&self, id: TreeId) -> Option<&RootItem> {
        self.tree(id).and_then(|tree| tree.item.as_ref())
    }
}

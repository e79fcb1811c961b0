//! Trees over a block store: search, cursor, edit.
//!
//! Nothing here knows of devices, transactions or extents: [`TreeReader`] gives blocks, and
//! [`TreeWriter`] makes them writable (by copy on write) and gives and takes whole blocks.

mod block_map;
pub mod cache;
mod cursor;
mod edit;

pub use block_map::{AddressMap, BlockMap};
pub use cursor::{Cursor, last_not_above, look_at_last_not_above};
pub use edit::{extend, insert, put, remove, touch, update};

use std::sync::Arc;

use butterfs_format::{Generation, Key, Logical, TreeBlock, TreeId};

use crate::error::Result;

/// Where a tree begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeRoot {
    /// The root block.
    pub bytenr: Logical,
    /// Its level.
    pub level: u8,
    /// Its generation.
    pub generation: Generation,
}

/// What a parent says of a child: enough to read and check it.
#[derive(Clone, Copy, Debug)]
pub struct ChildPtr {
    /// The child's address.
    pub bytenr: Logical,
    /// The child's level.
    pub level: u8,
    /// The child's generation.
    pub generation: Generation,
    /// The child's first key; a root's is not known.
    pub first_key: Option<Key>,
}

impl From<TreeRoot> for ChildPtr {
    fn from(root: TreeRoot) -> Self {
        Self { bytenr: root.bytenr, level: root.level, generation: root.generation, first_key: None }
    }
}

impl ChildPtr {
    /// The pointer in a slot of a node.
    pub fn of(node: &TreeBlock, slot: usize) -> Self {
        let ptr = node.ptr(slot);
        Self {
            bytenr: Logical(ptr.blockptr.get()),
            level: node.level().saturating_sub(1),
            generation: Generation(ptr.generation.get()),
            first_key: Some(ptr.key.into()),
        }
    }
}

/// Gives blocks.
pub trait TreeReader {
    /// The root of a tree.
    fn root(&self, tree: TreeId) -> Result<TreeRoot>;
    /// A block, checked.
    fn block(&self, tree: TreeId, ptr: &ChildPtr) -> Result<Arc<TreeBlock>>;
}

/// Gives writable blocks, and takes blocks away.
pub trait TreeWriter: TreeReader {
    /// Size of a block, in bytes.
    fn nodesize(&self) -> usize;
    /// The running transaction.
    fn generation(&self) -> Generation;
    /// Makes a block writable: gives its address, another one if it had to be copied. The caller
    /// puts the new address into the parent, or makes it the tree's root.
    fn make_writable(&mut self, tree: TreeId, ptr: &ChildPtr) -> Result<Logical>;
    /// A writable block's content.
    fn writable(&mut self, at: Logical) -> &mut TreeBlock;
    /// A new, empty, writable block. `first_key` is the lowest key it will hold.
    fn allocate(&mut self, tree: TreeId, level: u8, first_key: Key) -> Result<Logical>;
    /// Takes away a writable block that nothing points to any more.
    fn free(&mut self, tree: TreeId, at: Logical) -> Result<()>;
    /// Makes a writable block the root of its tree.
    fn set_root(&mut self, tree: TreeId, at: Logical, level: u8);
}

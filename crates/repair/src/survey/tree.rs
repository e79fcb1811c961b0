//! Trees as their root items describe them.

use butterfs_engine::tree::{ChildPtr, TreeRoot};
use butterfs_format::items::RootItem;
use butterfs_format::{Key, TreeBlock, TreeId};

/// How far the deletion of a tree came: see `RootItem::drop_progress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Children of nodes at `level` with lower keys are gone.
    pub key: Key,
    /// The level at which it stopped.
    pub level: u8,
}

impl Dropped {
    /// Whether the child in this slot was dropped already.
    pub fn took(&self, node: &TreeBlock, slot: usize) -> bool {
        match node.level().cmp(&self.level) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => !node.is_leaf() && node.key(slot) < self.key,
            std::cmp::Ordering::Greater => slot + 1 < node.len() && node.key(slot + 1) <= self.key,
        }
    }
}

/// A tree.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Its number.
    pub id: TreeId,
    /// The key of its root item.
    pub key: Key,
    /// Its root item; none for the trees that the superblock points to.
    pub item: Option<RootItem>,
    /// Where it begins.
    pub root: TreeRoot,
    /// How far its deletion came.
    pub dropped: Option<Dropped>,
}

impl Tree {
    /// The tree of a root item.
    pub fn of_item(key: &Key, item: &RootItem, root: TreeRoot) -> Self {
        let progress: Key = item.drop_progress.into();
        let dropping = item.refs.get() == 0 && progress.objectid != 0;
        let dropped = dropping.then_some(Dropped { key: progress, level: item.drop_level });
        Self { id: TreeId(key.objectid), key: *key, item: Some(*item), root, dropped }
    }

    /// Whether the subvolume is deleted, in part or not yet.
    pub fn is_dead(&self) -> bool {
        self.item.is_some_and(|item| item.refs.get() == 0)
    }

    /// The pointer to its root block.
    pub fn ptr(&self) -> ChildPtr {
        self.root.into()
    }
}

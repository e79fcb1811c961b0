//! Where trees begin: root items in memory, written back to the root tree at commit.

use std::sync::PoisonError;

use butterfs_format::items::RootItem;
use butterfs_format::{Corruption, Generation, ItemType, Key, Logical, TreeId};
use zerocopy::IntoBytes;

use super::Transaction;
use crate::error::{Error, Result};
use crate::tree::{TreeRoot, TreeWriter};

/// A tree in memory.
#[derive(Clone, Copy)]
pub(super) struct Root {
    pub root: TreeRoot,
    pub item: RootItem,
    /// The offset of the ROOT_ITEM's key: 0, or the transaction that made the snapshot.
    pub key_offset: u64,
    /// The item in the root tree is older than this.
    pub dirty: bool,
    /// Nothing but the place of blocks changed: to users the subvolume is as it was.
    pub moved_only: bool,
}

impl Root {
    pub(super) fn key(&self, tree: TreeId) -> Key {
        Key::new(tree.0, ItemType::ROOT_ITEM, self.key_offset)
    }

    /// The item with the root as it is now.
    pub(super) fn current_item(&self) -> RootItem {
        let mut item = self.item;
        item.bytenr = self.root.bytenr.0.into();
        item.level = self.root.level;
        item.generation = self.root.generation.0.into();
        item.generation_v2 = item.generation;
        item
    }
}

/// Whether a tree grew or shrank by a block.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Blocks {
    More,
    Less,
}

/// Root tree and chunk tree have no root item: the superblock points to them.
fn is_in_superblock(tree: TreeId) -> bool {
    tree == TreeId::ROOT || tree == TreeId::CHUNK
}

impl Transaction {
    pub(super) fn tree_root(&self, tree: TreeId) -> Result<TreeRoot> {
        self.look_at(tree, |root| root.root)
    }

    /// Looks at a tree in memory, without a copy: each search begins here.
    fn look_at<R>(&self, tree: TreeId, look: impl FnOnce(&Root) -> R) -> Result<R> {
        if let Some(root) = self.roots.read().unwrap_or_else(PoisonError::into_inner).get(&tree) {
            return Ok(look(root));
        }
        Ok(look(&self.load_root(tree)?))
    }

    /// Looks at the root item of a tree, but not at what it says of the root block and its generation, which is old.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such tree.
    pub fn look_at_root_item<R>(&self, tree: TreeId, look: impl FnOnce(&RootItem) -> R) -> Result<R> {
        self.look_at(tree, |root| look(&root.item))
    }

    /// The root item of a tree as it will be at the next commit.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such tree.
    pub fn root_item(&self, tree: TreeId) -> Result<RootItem> {
        self.look_at(tree, Root::current_item)
    }

    /// The key offset of a tree's root item: for snapshots the transaction that made them.
    pub fn root_key_offset(&self, tree: TreeId) -> Result<u64> {
        self.look_at(tree, |root| root.key_offset)
    }

    /// Changes the root item of a subvolume; it is written at commit.
    pub fn change_root_item(&mut self, tree: TreeId, change: impl FnOnce(&mut RootItem)) -> Result<()> {
        self.look_at(tree, |_| ())?;
        let roots = self.roots.get_mut().unwrap_or_else(PoisonError::into_inner);
        let root = roots.get_mut(&tree).expect("it was looked at");
        let before = (root.item.flags, root.item.refs);
        change(&mut root.item);
        (root.dirty, root.moved_only) = (true, false);
        self.changes += 1;
        self.root_item_changed = true;
        let now = (before != (root.item.flags, root.item.refs)).then_some(root.item);
        now.into_iter().for_each(|item| self.note_access(tree, &item));
        Ok(())
    }

    pub(super) fn load_root(&self, tree: TreeId) -> Result<Root> {
        if let Some(root) = self.roots.read().unwrap_or_else(PoisonError::into_inner).get(&tree) {
            return Ok(*root);
        }
        // Of subvolumes users name any number; of the few others some are asked for with each change.
        let is_kept = !tree.is_subvolume();
        if is_kept && self.absent.read().unwrap_or_else(PoisonError::into_inner).contains(&tree) {
            return Err(Error::NotFound);
        }
        match self.read_root(tree) {
            Ok(root) => {
                self.roots.write().unwrap_or_else(PoisonError::into_inner).insert(tree, root);
                Ok(root)
            }
            Err(Error::NotFound) if is_kept => {
                self.absent.write().unwrap_or_else(PoisonError::into_inner).insert(tree);
                Err(Error::NotFound)
            }
            Err(error) => Err(error),
        }
    }

    fn read_root(&self, tree: TreeId) -> Result<Root> {
        let cursor = self.cursor(TreeId::ROOT, &Key::new(tree.0, ItemType::ROOT_ITEM, 0))?;
        let Some((key, data)) = cursor.item() else { return Err(Error::NotFound) };
        if key.objectid != tree.0 || key.item_type != ItemType::ROOT_ITEM {
            return Err(Error::NotFound);
        }
        let item = RootItem::parse(data).map_err(|problem| Corruption::new(format!("root tree {key}"), problem))?;
        let root = TreeRoot { bytenr: item.bytenr(), level: item.level, generation: item.generation() };
        Ok(Root { root, item, key_offset: key.offset, dirty: false, moved_only: false })
    }

    /// The root item of a tree that is in memory already.
    pub(super) fn known_root_item(&self, tree: TreeId) -> Option<RootItem> {
        self.roots.read().unwrap_or_else(PoisonError::into_inner).get(&tree).map(Root::current_item)
    }

    pub(super) fn store_root(&mut self, tree: TreeId, root: Root) {
        self.absent.get_mut().unwrap_or_else(PoisonError::into_inner).remove(&tree);
        self.roots.get_mut().unwrap_or_else(PoisonError::into_inner).insert(tree, root);
    }

    pub(super) fn set_tree_root(&mut self, tree: TreeId, new: TreeRoot) {
        let roots = self.roots.get_mut().unwrap_or_else(PoisonError::into_inner);
        let root = roots.get_mut(&tree).expect("a tree is looked up before its root is changed");
        root.root = new;
        (root.dirty, root.moved_only) = (true, false);
    }

    /// The root block of a tree was moved.
    pub(super) fn set_moved_root(&mut self, tree: TreeId, new: TreeRoot) {
        let roots = self.roots.get_mut().unwrap_or_else(PoisonError::into_inner);
        let root = roots.get_mut(&tree).expect("a tree is looked up before its root is moved");
        root.root = new;
        (root.dirty, root.moved_only) = (true, root.moved_only || !root.dirty);
    }

    /// Enters a tree whose root block the caller knows, e.g. from the superblock.
    pub(super) fn enter_root(&mut self, tree: TreeId, bytenr: Logical, level: u8, generation: Generation) {
        let root = TreeRoot { bytenr, level, generation };
        let item = zerocopy::FromZeros::new_zeroed();
        self.store_root(tree, Root { root, item, key_offset: 0, dirty: false, moved_only: false });
    }

    /// Makes an empty tree with this root item.
    pub(super) fn create_tree(&mut self, tree: TreeId, item: RootItem) -> Result<()> {
        let bytenr = self.allocate(tree, 0, Key::MIN)?;
        let root = TreeRoot { bytenr, level: 0, generation: self.generation };
        let item = RootItem { bytes_used: u64::from(self.geometry.nodesize).into(), ..item };
        let root = Root { root, item, key_offset: 0, dirty: true, moved_only: false };
        self.store_root(tree, root);
        self.note_referred(tree, self.geometry.nodesize.into());
        self.write_root(tree, root)
    }

    /// Makes a new subvolume's tree; the caller puts its first items in before the next commit.
    pub fn create_subvolume_tree(&mut self, tree: TreeId, item: RootItem) -> Result<()> {
        self.create_tree(tree, item)
    }

    /// A number for a new subvolume. As in the kernel, none is given twice while mounted: caches, the
    /// cleaner and users of the mount may still know the subvolume that had it before.
    pub fn next_tree_id(&mut self) -> Result<TreeId> {
        let next = match self.next_tree {
            Some(next) => next,
            None => self.highest_tree()? + 1,
        };
        let next = next.max(butterfs_format::ids::FIRST_FREE_OBJECTID);
        // Numbers of 2^48 and above would look like quota group levels.
        if next >= 1 << 48 {
            return Err(Error::NoSpace);
        }
        self.next_tree = Some(next + 1);
        Ok(TreeId(next))
    }

    fn highest_tree(&self) -> Result<u64> {
        let last = Key::new(butterfs_format::ids::LAST_FREE_OBJECTID, ItemType(u8::MAX), u64::MAX);
        Ok(self.last_not_above(TreeId::ROOT, &last)?.map_or(0, |(key, _)| key.objectid))
    }

    /// A tree has a block more or less: its root item counts them.
    pub(super) fn count_block(&mut self, tree: TreeId, change: Blocks) {
        let bytes = u64::from(self.geometry.nodesize);
        let roots = self.roots.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(root) = roots.get_mut(&tree) else { return };
        let used = root.item.bytes_used.get();
        let used = match change {
            Blocks::More => used.saturating_add(bytes),
            Blocks::Less => used.saturating_sub(bytes),
        };
        root.item.bytes_used = used.into();
        (root.dirty, root.moved_only) = (true, false);
        self.note_referred(tree, if change == Blocks::More { bytes as i64 } else { -(bytes as i64) });
    }

    /// Bytes of a tree's blocks, by its root item; none if there is no such tree.
    pub(super) fn tree_bytes(&self, tree: TreeId) -> u64 {
        self.look_at_root_item(tree, |item| item.bytes_used.get()).unwrap_or(0)
    }

    fn write_root(&mut self, tree: TreeId, root: Root) -> Result<()> {
        let data = root.current_item();
        self.put(TreeId::ROOT, &root.key(tree), data.as_bytes())
    }

    /// Writes the root items of all trees that changed; says whether there were any.
    pub(super) fn write_roots(&mut self) -> Result<bool> {
        let roots = self.roots.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut dirty: Vec<TreeId> = roots
            .iter()
            .filter(|(tree, root)| root.dirty && !is_in_superblock(**tree))
            .map(|(tree, _)| *tree)
            .collect();
        dirty.sort_unstable();
        for tree in &dirty {
            let mut root = self.load_root(*tree)?;
            if tree.is_subvolume() && !root.moved_only {
                root.item.ctransid = self.generation.0.into();
            }
            (root.dirty, root.moved_only) = (false, false);
            self.store_root(*tree, root);
            self.write_root(*tree, root)?;
        }
        Ok(!dirty.is_empty())
    }

    /// Forgets a tree that is gone, and takes its root item out.
    pub(super) fn remove_root(&mut self, tree: TreeId) -> Result<()> {
        let root = self.load_root(tree)?;
        let key = root.key(tree);
        self.note_gone(tree, root.item.bytes_used.get());
        self.roots.get_mut().unwrap_or_else(PoisonError::into_inner).remove(&tree);
        self.remove(TreeId::ROOT, &key)?;
        Ok(())
    }
}

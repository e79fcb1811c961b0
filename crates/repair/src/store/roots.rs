//! Where trees begin, and their root items.

use std::sync::PoisonError;

use butterfs_engine::tree::{self, TreeRoot, TreeWriter};
use butterfs_engine::{Error as EngineError, Result as EngineResult};
use butterfs_format::items::RootItem;
use butterfs_format::{Corruption, Generation, ItemType, Key, Logical, TreeId};
use zerocopy::{FromZeros, IntoBytes};

use super::Store;

/// A tree: where it begins, and its root item.
#[derive(Clone, Copy, Debug)]
pub struct Root {
    /// Its root block.
    pub root: TreeRoot,
    /// Its item in the root tree; zeros for the trees that the superblock points to.
    pub item: RootItem,
    /// The offset of the item's key: 0, or the transaction that made the snapshot.
    pub key_offset: u64,
    /// The item in the root tree is older than this.
    dirty: bool,
}

impl Root {
    fn key(&self, tree: TreeId) -> Key {
        Key::new(tree.0, ItemType::ROOT_ITEM, self.key_offset)
    }

    fn current_item(&self) -> RootItem {
        let mut item = self.item;
        item.bytenr = self.root.bytenr.0.into();
        item.level = self.root.level;
        item.generation = self.root.generation.0.into();
        item.generation_v2 = item.generation;
        item
    }
}

impl Store {
    /// A tree's root.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] if there is no such tree; corruption if its item cannot be read.
    pub fn root_of(&self, tree: TreeId) -> EngineResult<Root> {
        if let Some(root) = self.roots.read().unwrap_or_else(PoisonError::into_inner).get(&tree) {
            return Ok(*root);
        }
        let root = self.find_root(tree)?;
        self.roots.write().unwrap_or_else(PoisonError::into_inner).insert(tree, root);
        Ok(root)
    }

    fn find_root(&self, tree: TreeId) -> EngineResult<Root> {
        let sb = &self.superblock;
        let top = |bytenr: u64, level, generation: u64| Root {
            root: TreeRoot { bytenr: Logical(bytenr), level, generation: Generation(generation) },
            item: RootItem::new_zeroed(),
            key_offset: 0,
            dirty: false,
        };
        match tree {
            TreeId::ROOT => Ok(top(sb.root.get(), sb.root_level, sb.generation.get())),
            TreeId::CHUNK => Ok(top(sb.chunk_root.get(), sb.chunk_root_level, sb.chunk_root_generation.get())),
            _ => self.read_root(tree),
        }
    }

    fn read_root(&self, tree: TreeId) -> EngineResult<Root> {
        let cursor = self.cursor(TreeId::ROOT, &Key::new(tree.0, ItemType::ROOT_ITEM, 0))?;
        let item = cursor.item().filter(|(key, _)| key.objectid == tree.0 && key.item_type == ItemType::ROOT_ITEM);
        let Some((key, data)) = item else { return Err(EngineError::NotFound) };
        let item = RootItem::parse(data).map_err(|problem| Corruption::new(format!("root tree {key}"), problem))?;
        let root = TreeRoot { bytenr: item.bytenr(), level: item.level, generation: item.generation() };
        Ok(Root { root, item, key_offset: key.offset, dirty: false })
    }

    /// Whether there is such a tree.
    pub fn has_tree(&self, tree: TreeId) -> bool {
        self.root_of(tree).is_ok()
    }

    fn enter(&mut self, tree: TreeId, root: Root) {
        self.roots.get_mut().unwrap_or_else(PoisonError::into_inner).insert(tree, root);
    }

    pub(super) fn set_tree_root(&mut self, tree: TreeId, new: TreeRoot) {
        let known = self.root_of(tree);
        let mut root = known.expect("a tree is looked up before its root is changed");
        root.root = new;
        root.dirty = true;
        self.enter(tree, root);
    }

    /// Changes a tree's root item. Address, level and generation are set by the commit.
    ///
    /// # Errors
    /// As [`Store::root_of`].
    pub fn change_root_item(&mut self, tree: TreeId, change: impl FnOnce(&mut RootItem)) -> EngineResult<()> {
        let mut root = self.root_of(tree)?;
        change(&mut root.item);
        root.dirty = true;
        self.enter(tree, root);
        Ok(())
    }

    /// Makes a tree anew: an empty root leaf, in place of whatever it was. What its blocks took is free once
    /// the survey no longer meets them.
    ///
    /// # Errors
    /// If there is no space.
    pub fn renew_tree(&mut self, tree: TreeId) -> EngineResult<()> {
        let old = self.root_of(tree).ok();
        let bytenr = self.allocate(tree, 0, Key::MIN)?;
        let item = old.map_or_else(new_item, |old| old.item);
        let root = TreeRoot { bytenr, level: 0, generation: self.generation };
        let key_offset = old.map_or(0, |old| old.key_offset);
        self.enter(tree, Root { root, item, key_offset, dirty: true });
        Ok(())
    }

    /// Takes a tree's root item away; what its blocks took is free once the survey no longer meets them.
    ///
    /// # Errors
    /// As [`Store::root_of`], or if the root tree cannot be edited.
    pub fn remove_tree(&mut self, tree: TreeId) -> EngineResult<()> {
        let key = self.root_of(tree)?.key(tree);
        self.roots.get_mut().unwrap_or_else(PoisonError::into_inner).remove(&tree);
        tree::remove(self, TreeId::ROOT, &key)?;
        Ok(())
    }

    /// Forgets what is known of a tree's root, because its root item was edited.
    pub fn forget_root(&mut self, tree: TreeId) {
        self.roots.get_mut().unwrap_or_else(PoisonError::into_inner).remove(&tree);
    }

    /// Writes the root items of all trees that changed; says whether there were any.
    ///
    /// # Errors
    /// If the root tree cannot be edited.
    pub fn write_roots(&mut self) -> EngineResult<bool> {
        let roots = self.roots.get_mut().unwrap_or_else(PoisonError::into_inner);
        let in_superblock = |tree: TreeId| tree == TreeId::ROOT || tree == TreeId::CHUNK;
        let dirty: Vec<(TreeId, Root)> =
            roots.iter().filter(|(tree, root)| root.dirty && !in_superblock(**tree)).map(|(t, r)| (*t, *r)).collect();
        for (tree, mut root) in dirty.iter().copied() {
            tree::put(self, TreeId::ROOT, &root.key(tree), root.current_item().as_bytes())?;
            root.dirty = false;
            self.enter(tree, root);
        }
        Ok(!dirty.is_empty())
    }
}

/// The item of a tree that is no subvolume, as mkfs writes it.
fn new_item() -> RootItem {
    let mut item = RootItem::new_zeroed();
    item.refs = 1.into();
    item.inode.generation = 1.into();
    item.inode.size = 3.into();
    item.inode.nlink = 1.into();
    item.inode.mode = 0o040_755.into();
    item
}

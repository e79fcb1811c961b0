//! Snapshots: a second tree that shares all blocks below the root.

use std::sync::Arc;

use butterfs_format::items::{BackRef, ExtentFlags, RootItem};
use butterfs_format::{Key, TreeId};

use super::Transaction;
use super::blocks::RefBy;
use super::delayed::{ExtentKind, NewExtent};
use super::roots::Root;
use crate::error::Result;
use crate::space::Due;
use crate::tree::{ChildPtr, TreeReader, TreeRoot, TreeWriter};
use butterfs_format::items::BlockGroupFlags;

impl Transaction {
    /// Makes `new` a tree that shares all of `source`'s blocks but the root, which is copied. Only
    /// for the exclusive part of a commit: `source` is copied on every write until then.
    pub fn copy_subvolume_root(&mut self, source: TreeId, new: TreeId, item: RootItem) -> Result<()> {
        self.changes += 1;
        let generation = self.generation;
        // The source's own root must be of this generation, so that `last_snapshot` covers its
        // children and not the root itself.
        let old = self.tree_root(source)?;
        let at = self.make_writable(source, &old.into())?;
        self.set_tree_root(source, TreeRoot { bytenr: at, level: old.level, generation });
        self.change_root_item(source, |item| item.last_snapshot = generation.0.into())?;
        self.force_copy.insert(source);

        let ptr = ChildPtr { bytenr: at, level: old.level, generation, first_key: None };
        let block = self.block(source, &ptr)?;
        let copy_at = self.take_block_space(BlockGroupFlags::METADATA, Due::Commit)?;
        let first_key = if block.is_empty() { Key::MIN } else { block.key(0) };
        let extent = NewExtent { first_key, ..NewExtent::new(ExtentFlags::TREE_BLOCK) };
        let (kind, len) = (ExtentKind::TreeBlock(old.level), self.geometry.nodesize.into());
        self.refs.add_new(copy_at, kind, len, extent, BackRef::TreeBlock { root: new });
        let copy = self.clone_block(&block, copy_at, new);
        self.refer_to_children(&copy, RefBy::Tree(new), 1)?;
        self.dirty.insert(copy_at, Arc::new(copy));

        let mut item = item;
        item.last_snapshot = generation.0.into();
        let root = TreeRoot { bytenr: copy_at, level: old.level, generation };
        self.store_root(new, Root { root, item, key_offset: generation.0, dirty: true, moved_only: false });
        self.force_copy.insert(new);
        self.note_shared(source, new)
    }
}

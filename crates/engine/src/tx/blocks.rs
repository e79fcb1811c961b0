//! Blocks of the running transaction: where they are found, and how they become writable.
//!
//! # Invariants
//! * A block of the running generation is in `dirty` and is changed in place; any other is copied
//!   to new space first.
//! * Before a shared block's copy is changed, the references of its children are put right
//!   ([`Transaction::copy_references`]).

use std::sync::Arc;

use butterfs_format::block::{FLAG_RELOC, NewBlock};
use butterfs_format::items::{BackRef, BlockGroupFlags, ExtentFlags, FileExtent, FileExtentBody};
use butterfs_format::validate::{Expected, check_pointer};
use butterfs_format::{Corruption, Generation, Ino, ItemType, Key, Logical, TreeBlock, TreeId};

use super::Transaction;
use super::delayed::{ExtentKind, NewExtent};
use super::roots::Blocks;
use crate::error::{Error, Result};
use crate::space::Due;
use crate::tree::{ChildPtr, TreeReader, TreeRoot, TreeWriter};

/// How the children of a block are referred to.
#[derive(Clone, Copy)]
pub(super) enum RefBy {
    /// By the tree.
    Tree(TreeId),
    /// By the block's address.
    Parent(Logical),
}

impl TreeReader for Transaction {
    fn root(&self, tree: TreeId) -> Result<TreeRoot> {
        self.tree_root(tree)
    }

    fn block(&self, tree: TreeId, ptr: &ChildPtr) -> Result<Arc<TreeBlock>> {
        if let Some(block) = self.dirty.get(&ptr.bytenr).or_else(|| self.frozen.get(&ptr.bytenr)) {
            return Ok(block.clone());
        }
        let expected = Expected {
            bytenr: ptr.bytenr,
            level: Some(ptr.level),
            generation: Some(ptr.generation),
            first_key: ptr.first_key,
            owner: (!tree.is_shareable()).then_some(tree),
        };
        if let Some(block) = self.cache.get(ptr.bytenr) {
            // It was checked against the pointer that first led to it; another pointer may lie.
            check_pointer(&block, &expected)
                .map_err(|problem| Corruption::new(format!("tree block {}", ptr.bytenr), problem))?;
            return Ok(block);
        }
        let block = Arc::new(self.volume.read_block(&expected)?);
        self.cache.insert(ptr.bytenr, block.clone());
        Ok(block)
    }
}

impl TreeWriter for Transaction {
    fn nodesize(&self) -> usize {
        self.geometry.nodesize as usize
    }

    fn generation(&self) -> Generation {
        self.generation
    }

    fn make_writable(&mut self, tree: TreeId, ptr: &ChildPtr) -> Result<Logical> {
        self.changes += 1;
        if ptr.generation == self.generation && !self.force_copy.contains(&tree) && !self.was_moved(tree, ptr.bytenr) {
            debug_assert!(self.dirty.contains_key(&ptr.bytenr));
            return Ok(ptr.bytenr);
        }
        self.copy_block(tree, ptr)
    }

    fn writable(&mut self, at: Logical) -> &mut TreeBlock {
        Arc::make_mut(self.dirty.get_mut(&at).expect("the block was made writable"))
    }

    fn allocate(&mut self, tree: TreeId, level: u8, first_key: Key) -> Result<Logical> {
        let bytenr = self.allocate_block(tree, level, first_key)?;
        self.count_block(tree, Blocks::More);
        let new = NewBlock {
            bytenr,
            generation: self.generation,
            owner: tree,
            level,
            fsid: self.geometry.fsid,
            chunk_tree_uuid: self.chunk_tree_uuid,
        };
        self.dirty.insert(bytenr, Arc::new(TreeBlock::new(self.nodesize(), &new)));
        Ok(bytenr)
    }

    fn free(&mut self, tree: TreeId, at: Logical) -> Result<()> {
        let level = self.writable(at).level();
        self.dirty.remove(&at);
        self.count_block(tree, Blocks::Less);
        self.change_block_ref(at, level, BackRef::TreeBlock { root: tree }, -1);
        Ok(())
    }

    fn set_root(&mut self, tree: TreeId, bytenr: Logical, level: u8) {
        let root = TreeRoot { bytenr, level, generation: self.generation };
        self.set_tree_root(tree, root);
    }
}

impl Transaction {
    /// Takes space for a tree block and notes its first reference.
    fn allocate_block(&mut self, tree: TreeId, level: u8, first_key: Key) -> Result<Logical> {
        let kind = if tree == TreeId::CHUNK { BlockGroupFlags::SYSTEM } else { BlockGroupFlags::METADATA };
        let at = self.take_block_space(kind, Due::Commit)?;
        let new = NewExtent { first_key, ..NewExtent::new(ExtentFlags::TREE_BLOCK) };
        let len = self.geometry.nodesize.into();
        self.refs.add_new(at, ExtentKind::TreeBlock(level), len, new, BackRef::TreeBlock { root: tree });
        Ok(at)
    }

    /// Changes the count of one reference to a tree block.
    pub(super) fn change_block_ref(&mut self, at: Logical, level: u8, back_ref: BackRef, by: i64) {
        let len = self.geometry.nodesize.into();
        self.refs.change(at, ExtentKind::TreeBlock(level), len, back_ref, by);
    }

    /// Whether a block is of this transaction because it was moved: it may be shared.
    fn was_moved(&self, tree: TreeId, at: Logical) -> bool {
        tree.is_shareable() && self.dirty.get(&at).is_some_and(|block| block.header().flags.get() & FLAG_RELOC != 0)
    }

    fn copy_block(&mut self, tree: TreeId, ptr: &ChildPtr) -> Result<Logical> {
        let old = self.block(tree, ptr)?;
        let (refs, full) = match self.may_be_shared(tree, &old)? {
            true => {
                self.note_unshared(tree);
                self.block_references(old.bytenr(), old.level())?
            }
            false => (1, false),
        };
        let first_key = if old.is_empty() { Key::MIN } else { old.key(0) };
        let at = self.allocate_block(tree, old.level(), first_key)?;
        let new = self.clone_block(&old, at, tree);
        self.copy_references(tree, &old, &new, refs, full)?;
        self.dirty.insert(at, Arc::new(new));
        self.change_block_ref(old.bytenr(), old.level(), BackRef::TreeBlock { root: tree }, -1);
        if refs == 1 {
            self.dirty.remove(&old.bytenr());
            self.cache.remove(old.bytenr());
        }
        Ok(at)
    }

    /// A block with the content of another, for this transaction and tree.
    pub(super) fn clone_block(&self, old: &TreeBlock, at: Logical, tree: TreeId) -> TreeBlock {
        let mut new = old.clone();
        let header = new.header_mut();
        header.bytenr = at.0.into();
        header.generation = self.generation.0.into();
        header.owner = tree.0.into();
        header.flags = (header.flags.get() & !FLAG_RELOC).into();
        header.fsid = self.geometry.fsid;
        new
    }

    /// Whether another tree might hold this block too. Roots are never shared, nor are blocks made
    /// after the last snapshot of their tree.
    fn may_be_shared(&self, tree: TreeId, block: &TreeBlock) -> Result<bool> {
        if !tree.is_shareable() || self.tree_root(tree)?.bytenr == block.bytenr() {
            return Ok(false);
        }
        let reloc = block.header().flags.get() & FLAG_RELOC != 0;
        let last_snapshot = Generation(self.look_at_root_item(tree, |item| item.last_snapshot.get())?);
        Ok(reloc || block.generation() <= last_snapshot)
    }

    /// The reference rules of copy on write. The block's first reader in its own tree turns the old
    /// block to full back references; everybody else's copy refers to the children by its tree.
    fn copy_references(&mut self, tree: TreeId, old: &TreeBlock, new: &TreeBlock, refs: u64, full: bool) -> Result<()> {
        let old_parent = RefBy::Parent(old.bytenr());
        if refs > 1 {
            if old.owner() == tree && !full {
                self.refer_to_children(old, old_parent, 1)?;
                self.refs.set_full_backref(old.bytenr(), old.level(), self.geometry.nodesize.into());
            } else {
                self.refer_to_children(new, RefBy::Tree(tree), 1)?;
            }
        } else if full {
            self.refer_to_children(new, RefBy::Tree(tree), 1)?;
            self.refer_to_children(old, old_parent, -1)?;
        }
        Ok(())
    }

    /// Changes the references of a block to all its children: blocks below a node, data of a leaf.
    pub(super) fn refer_to_children(&mut self, block: &TreeBlock, by: RefBy, change: i64) -> Result<()> {
        if !block.is_leaf() {
            let back_ref = match by {
                RefBy::Tree(root) => BackRef::TreeBlock { root },
                RefBy::Parent(parent) => BackRef::SharedBlock { parent },
            };
            for slot in 0..block.len() {
                let child = ChildPtr::of(block, slot);
                self.change_block_ref(child.bytenr, child.level, back_ref, change);
            }
            return Ok(());
        }
        for slot in 0..block.len() {
            self.refer_to_data(block, slot, by, change)?;
        }
        Ok(())
    }

    fn refer_to_data(&mut self, leaf: &TreeBlock, slot: usize, by: RefBy, change: i64) -> Result<()> {
        let key = leaf.key(slot);
        if key.item_type != ItemType::EXTENT_DATA {
            return Ok(());
        }
        let extent = FileExtent::parse(leaf.data(slot))
            .map_err(|problem| Corruption::new(format!("tree block {} {key}", leaf.bytenr()), problem))?;
        let FileExtentBody::Extent { disk_bytenr, disk_num_bytes, offset, .. } = extent.body else { return Ok(()) };
        if disk_bytenr == 0 {
            return Ok(());
        }
        let back_ref = match by {
            RefBy::Tree(root) => {
                BackRef::Data { root, objectid: Ino(key.objectid), offset: key.offset.wrapping_sub(offset) }
            }
            RefBy::Parent(parent) => BackRef::SharedData { parent },
        };
        self.change_data_ref(Logical(disk_bytenr), disk_num_bytes, back_ref, change);
        Ok(())
    }

    /// How many references a tree block has, pending ones included, and whether its children are
    /// referred to by its address.
    pub(super) fn block_references(&self, at: Logical, level: u8) -> Result<(u64, bool)> {
        let head = self.refs.get(at);
        let (mut refs, mut full) = (0, false);
        if head.is_none_or(|head| head.new.is_none()) {
            let item = self.extent_item(at, ExtentKind::TreeBlock(level), self.geometry.nodesize.into())?;
            let (_, item) = item.ok_or_else(|| {
                Corruption::new(format!("tree block {at} level {level}"), "it is in use but has no extent item")
            })?;
            refs = item.refs as i64;
            full = item.flags.contains(ExtentFlags::FULL_BACKREF);
        }
        if let Some(head) = head {
            refs += head.total();
            full |= head.set_full_backref || head.new.is_some_and(|n| n.flags.contains(ExtentFlags::FULL_BACKREF));
        }
        if refs <= 0 {
            let problem = format!("it is in use but has {refs} references");
            return Err(Error::Corruption(Corruption::new(format!("tree block {at} level {level}"), problem)));
        }
        Ok((refs as u64, full))
    }
}

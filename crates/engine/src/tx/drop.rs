//! Deleting a subvolume's tree, a bounded number of blocks at a time.
//!
//! The walk goes down where this tree is the only one to refer to a block, and drops one reference
//! where there are others. A shared block that still refers to its children by this tree is turned
//! to full back references first, so that those references do not outlive the tree.
//!
//! Progress is kept in the root item (`drop_progress`, `drop_level`): blocks in front of that key,
//! on that level's node, are gone although the nodes still point to them.
//!
//! # Invariants
//! * A step ends between two children of one node, never inside a child.

use butterfs_format::items::{BackRef, RootItem};
use butterfs_format::key::DiskKey;
use butterfs_format::{Generation, ItemType, Key, TreeBlock, TreeId};

use super::Transaction;
use super::blocks::RefBy;
use crate::error::Result;
use crate::tree::{ChildPtr, TreeReader};

/// What a walk knows.
struct Walk {
    tree: TreeId,
    /// Blocks of this generation and older were not made for this tree.
    born: Generation,
    /// Blocks that may still be handled in this step.
    left: usize,
    /// Where the last step ended.
    resume: Option<(u8, Key)>,
    /// Where this step ended.
    stopped: Option<(u8, Key)>,
}

/// How the walk left a block.
#[derive(PartialEq, Eq)]
enum Outcome {
    Dropped,
    Stopped,
}

impl Transaction {
    /// Deletes up to `limit` blocks of a subvolume without names; says whether it is all gone, its
    /// root item and orphan item included.
    pub fn drop_subvolume_step(&mut self, tree: TreeId, limit: usize) -> Result<bool> {
        self.changes += 1;
        let (root, item) = (self.tree_root(tree)?, self.root_item(tree)?);
        let mut walk = Walk {
            tree,
            born: Generation(self.root_key_offset(tree)?),
            left: limit.max(1),
            resume: resume_point(&item),
            stopped: None,
        };
        let ptr = ChildPtr::from(root);
        let (refs, full) = self.block_references(ptr.bytenr, ptr.level)?;
        let back_ref =
            if full { BackRef::SharedBlock { parent: ptr.bytenr } } else { BackRef::TreeBlock { root: tree } };
        match self.drop_block(&mut walk, &ptr, refs, full, back_ref)? {
            Outcome::Dropped => {
                self.remove_root(tree)?;
                let orphan = Key::new(butterfs_format::ids::objectid::ORPHAN, ItemType::ORPHAN_ITEM, tree.0);
                self.remove(TreeId::ROOT, &orphan)?;
                Ok(true)
            }
            Outcome::Stopped => {
                let (level, key) = walk.stopped.unwrap_or((0, Key::MIN));
                self.change_root_item(tree, |item| {
                    item.drop_level = level;
                    item.drop_progress = DiskKey::from(key);
                    item.refs = 0.into();
                })?;
                Ok(false)
            }
        }
    }

    /// Drops a block that only this tree refers to, with all below it.
    fn drop_block(
        &mut self,
        walk: &mut Walk,
        ptr: &ChildPtr,
        refs: u64,
        full: bool,
        back_ref: BackRef,
    ) -> Result<Outcome> {
        let block = self.block(walk.tree, ptr)?;
        if refs == 1 {
            let by = if full { RefBy::Parent(ptr.bytenr) } else { RefBy::Tree(block.owner()) };
            if block.is_leaf() {
                self.refer_to_children(&block, by, -1)?;
            } else if self.drop_children(walk, &block, full)? == Outcome::Stopped {
                return Ok(Outcome::Stopped);
            }
        }
        self.change_block_ref(ptr.bytenr, ptr.level, back_ref, -1);
        if refs == 1 {
            self.dirty.remove(&ptr.bytenr);
            self.cache.remove(ptr.bytenr);
        }
        walk.left = walk.left.saturating_sub(1);
        Ok(Outcome::Dropped)
    }

    fn drop_children(&mut self, walk: &mut Walk, node: &TreeBlock, full: bool) -> Result<Outcome> {
        let mut slot = 0;
        if let Some((level, key)) = walk.resume {
            slot = match node.level() {
                l if l == level => node.search(&key).unwrap_or_else(|slot| slot),
                l if l > level => node.child_slot(&key),
                _ => 0,
            };
            if node.level() <= level {
                walk.resume = None;
            }
        }
        while slot < node.len() {
            // A step stops on the lowest level it can, in front of a child.
            if walk.left == 0 && walk.resume.is_none() {
                walk.stopped = Some((node.level(), node.key(slot)));
                return Ok(Outcome::Stopped);
            }
            if self.drop_child(walk, node, slot, full)? == Outcome::Stopped {
                return Ok(Outcome::Stopped);
            }
            slot += 1;
        }
        Ok(Outcome::Dropped)
    }

    fn drop_child(&mut self, walk: &mut Walk, node: &TreeBlock, slot: usize, full: bool) -> Result<Outcome> {
        let child = ChildPtr::of(node, slot);
        let back_ref = if full {
            BackRef::SharedBlock { parent: node.bytenr() }
        } else {
            BackRef::TreeBlock { root: node.owner() }
        };
        let (refs, child_full) = self.block_references(child.bytenr, child.level)?;
        if refs == 1 {
            return self.drop_block(walk, &child, refs, child_full, back_ref);
        }
        if child.generation > walk.born {
            self.turn_to_full_backrefs(walk, &child)?;
        }
        self.change_block_ref(child.bytenr, child.level, back_ref, -1);
        walk.left = walk.left.saturating_sub(1);
        Ok(Outcome::Dropped)
    }

    /// Turns a shared block, and all shared blocks below that were made for this tree, to full back
    /// references.
    fn turn_to_full_backrefs(&mut self, walk: &mut Walk, ptr: &ChildPtr) -> Result<()> {
        let (_, full) = self.block_references(ptr.bytenr, ptr.level)?;
        let block = self.block(walk.tree, ptr)?;
        if block.owner() != walk.tree {
            return Ok(());
        }
        if !full {
            self.refer_to_children(&block, RefBy::Parent(ptr.bytenr), 1)?;
            self.refer_to_children(&block, RefBy::Tree(walk.tree), -1)?;
            self.refs.set_full_backref(ptr.bytenr, ptr.level, self.geometry.nodesize.into());
        }
        walk.left = walk.left.saturating_sub(1);
        if !block.is_leaf() {
            for slot in 0..block.len() {
                let child = ChildPtr::of(&block, slot);
                if child.generation > walk.born {
                    self.turn_to_full_backrefs(walk, &child)?;
                }
            }
        }
        Ok(())
    }
}

fn resume_point(item: &RootItem) -> Option<(u8, Key)> {
    let key = Key::from(item.drop_progress);
    (item.drop_level > 0 || key != Key::MIN).then_some((item.drop_level, key))
}

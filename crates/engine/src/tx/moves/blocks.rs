//! Tree blocks, moved with all that refers to them.

use std::collections::BTreeSet;
use std::sync::Arc;

use butterfs_format::block::{FLAG_RELOC, KeyPtr};
use butterfs_format::items::{BackRef, BlockGroupFlags, ExtentFlags};
use butterfs_format::validate::Expected;
use butterfs_format::{Corruption, Key, Logical, TreeBlock, TreeId};

use super::{Found, MoveCost, Moved};
use crate::error::{Error, Result};
use crate::space::Due;
use crate::tree::{self, ChildPtr, TreeReader, TreeRoot};
use crate::tx::blocks::RefBy;
use crate::tx::delayed::NewExtent;
use crate::tx::references::References;
use crate::tx::{Transaction, WhyCommit};

/// Who points to a tree block.
enum Parent {
    Root(TreeId),
    Node(Logical),
}

impl Transaction {
    /// A tree block of which only address and level are known.
    pub(in crate::tx) fn block_at(&self, at: Logical, level: u8) -> Result<Arc<TreeBlock>> {
        let known = self.dirty.get(&at).or_else(|| self.frozen.get(&at)).cloned();
        let block = match known.or_else(|| self.cache.get(at)) {
            Some(block) => block,
            None => Arc::new(self.volume.read_block(&Expected { level: Some(level), ..Expected::at(at) })?),
        };
        if block.level() != level {
            let problem = format!("it has level {}, its references say {level}", block.level());
            return Err(Corruption::new(format!("tree block {at}"), problem).into());
        }
        Ok(block)
    }

    fn found_block(&self, at: Logical, level: u8) -> Found {
        Found { at, len: self.geometry.nodesize.into(), level: Some(level) }
    }

    /// All who point to a tree block.
    fn parents(&self, block: &TreeBlock) -> Result<Vec<Parent>> {
        let refs = self.references_of(&self.found_block(block.bytenr(), block.level()))?;
        let mut parents = Vec::with_capacity(refs.len());
        for back_ref in refs.keys() {
            match back_ref {
                BackRef::TreeBlock { root } => parents.push(self.parent_in(*root, block)?),
                BackRef::SharedBlock { parent } => parents.push(Parent::Node(*parent)),
                _ => return Err(unexpected(block, back_ref)),
            }
        }
        Ok(parents)
    }

    /// Who points to a block in a tree.
    fn parent_in(&self, tree: TreeId, block: &TreeBlock) -> Result<Parent> {
        let root = self.tree_root(tree)?;
        if root.bytenr == block.bytenr() {
            return Ok(Parent::Root(tree));
        }
        let lost = || Corruption::new(format!("tree block {}", block.bytenr()), format!("it is not in tree {tree}"));
        let (mut ptr, first) = (ChildPtr::from(root), first_key(block));
        while ptr.level > block.level() {
            let node = self.block(tree, &ptr)?;
            let child = ChildPtr::of(&node, node.child_slot(&first));
            if child.bytenr == block.bytenr() {
                return Ok(Parent::Node(node.bytenr()));
            }
            ptr = child;
        }
        Err(lost().into())
    }

    /// What moving these blocks costs: those above them that are not of this transaction are moved too.
    fn cost_of(&self, blocks: impl IntoIterator<Item = (Logical, u8)>) -> Result<MoveCost> {
        let mut cost = MoveCost::default();
        let (mut todo, mut seen): (Vec<_>, BTreeSet<Logical>) = (blocks.into_iter().collect(), BTreeSet::new());
        while let Some((at, level)) = todo.pop() {
            if self.dirty.contains_key(&at) || !seen.insert(at) {
                continue;
            }
            let block = self.block_at(at, level)?;
            cost.blocks += 1;
            cost.refs += 2 + 2 * block.len() as u64;
            for parent in self.parents(&block)? {
                if let Parent::Node(node) = parent {
                    todo.push((node, level + 1));
                }
            }
        }
        Ok(cost)
    }

    /// What moving something costs.
    pub fn cost_of_moving(&self, found: &Found) -> Result<MoveCost> {
        let refs = self.references_of(found)?;
        // It went, or was moved with something below it.
        if refs.is_empty() {
            return Ok(MoveCost::default());
        }
        let Some(level) = found.level else {
            let mut cost = self.cost_of(self.leaves_of(found, &refs)?.into_iter().map(|leaf| (leaf, 0)))?;
            let sums = found.len / self.sectorsize() * self.geometry.csum_type.size() as u64;
            cost.blocks += 8 + 4 * sums / u64::from(self.geometry.nodesize);
            cost.refs += 2 + refs.len() as u64;
            return Ok(cost);
        };
        let block = self.block_at(found.at, level)?;
        if block.owner().is_shareable() {
            return self.cost_of([(found.at, level)]);
        }
        Ok(MoveCost { blocks: 8, refs: 16 })
    }

    /// Moves a tree block out of its group.
    pub fn move_tree_block(&mut self, found: &Found, promised: &MoveCost) -> Result<Moved> {
        let Some(level) = found.level else { return Ok(Moved::Gone) };
        if self.references_of(found)?.is_empty() {
            return Ok(Moved::Gone);
        }
        let cost = self.cost_of_moving(found)?;
        if !promised.covers(&cost) {
            return Ok(Moved::Costs(cost));
        }
        self.begin_move();
        let block = self.block_at(found.at, level)?;
        if block.owner().is_shareable() {
            self.move_block(found.at, level)?;
        } else {
            tree::touch(self, block.owner(), &first_key(&block))?;
        }
        Ok(Moved::Done)
    }

    /// What was moved, the log may name where it was: the last commit has it there.
    pub(super) fn begin_move(&mut self) {
        self.changes += 1;
        self.refuse_log(WhyCommit::Moved);
    }

    /// Moves a block that subvolumes may share; gives where it is now.
    pub(super) fn move_block(&mut self, at: Logical, level: u8) -> Result<Logical> {
        let old = self.block_at(at, level)?;
        for parent in self.parents(&old)? {
            if let Parent::Node(node) = parent
                && !self.dirty.contains_key(&node)
            {
                self.move_block(node, level + 1)?;
            }
        }
        let parents = self.parents(&old)?;
        let (_, full) = self.block_references(at, level)?;
        let refs = self.references_of(&self.found_block(at, level))?;
        let to = self.take_block_space(BlockGroupFlags::METADATA, Due::Commit)?;
        // A root is nobody else's, and what its tree alone refers to, its parents being moved, is so too: it stays as it
        // is, and so do references to what it leads to, by which files know that their space is their own.
        let is_root = parents.iter().any(|parent| matches!(parent, Parent::Root(_)));
        let by_tree = BackRef::TreeBlock { root: old.owner() };
        let is_own = is_root || (!full && refs.len() == 1 && refs.get(&by_tree) == Some(&1));
        let new = self.moved_copy(&old, to, if is_own { 0 } else { FLAG_RELOC });
        let full_backref = if is_own { ExtentFlags::empty() } else { ExtentFlags::FULL_BACKREF };
        let extent = NewExtent { first_key: first_key(&old), ..NewExtent::new(ExtentFlags::TREE_BLOCK | full_backref) };
        self.hand_over(&self.found_block(at, level), to, extent, &refs);
        if !is_own {
            let by = if full { RefBy::Parent(at) } else { RefBy::Tree(old.owner()) };
            self.refer_to_children(&new, RefBy::Parent(to), 1)?;
            self.refer_to_children(&old, by, -1)?;
        }
        self.dirty.insert(to, Arc::new(new));
        self.dirty.remove(&at);
        self.cache.remove(at);
        for parent in parents {
            match parent {
                Parent::Root(tree) => {
                    let root = TreeRoot { bytenr: to, level, generation: self.generation };
                    self.set_moved_root(tree, root);
                }
                Parent::Node(node) => self.point_to(node, &old, to)?,
            }
        }
        Ok(to)
    }

    /// The same block at another place. Its owner stays who it was.
    fn moved_copy(&self, old: &TreeBlock, to: Logical, flag: u64) -> TreeBlock {
        let owner = old.owner();
        let mut new = self.clone_block(old, to, owner);
        let header = new.header_mut();
        header.flags = (header.flags.get() | flag).into();
        new
    }

    /// Gives all references of an extent to another one, which is new.
    pub(super) fn hand_over(&mut self, from: &Found, to: Logical, extent: NewExtent, refs: &References) {
        let kind = Self::kind_of(from);
        let mut extent = Some(extent);
        for (back_ref, count) in refs {
            let mut rest = *count;
            if let Some(extent) = extent.take() {
                self.refs.add_new(to, kind, from.len, extent, *back_ref);
                rest -= 1;
            }
            if rest > 0 {
                self.refs.change(to, kind, from.len, *back_ref, rest);
            }
            self.refs.change(from.at, kind, from.len, *back_ref, -count);
        }
    }

    /// Makes a node of this transaction point to a moved block.
    fn point_to(&mut self, node: Logical, old: &TreeBlock, to: Logical) -> Result<()> {
        let generation = self.generation;
        let wrong = || Corruption::new(format!("tree block {node}"), format!("it does not point to {}", old.bytenr()));
        let block = self.dirty.get_mut(&node).ok_or_else(wrong)?;
        let slot = block.search(&first_key(old)).ok().filter(|slot| block.ptr(*slot).blockptr.get() == old.bytenr().0);
        let slot = slot.ok_or_else(wrong)?;
        let block = Arc::make_mut(block);
        let ptr = KeyPtr { blockptr: to.0.into(), generation: generation.0.into(), ..*block.ptr(slot) };
        block.set_ptr(slot, ptr);
        Ok(())
    }
}

fn first_key(block: &TreeBlock) -> Key {
    if block.is_empty() { Key::MIN } else { block.key(0) }
}

fn unexpected(block: &TreeBlock, back_ref: &BackRef) -> Error {
    let problem = format!("it is a tree block, and has a reference {back_ref:?}");
    Corruption::new(format!("tree block {}", block.bytenr()), problem).into()
}

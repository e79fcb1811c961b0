//! Walking a tree: each block is checked in every copy, once for all trees, and leaves are visited in key order.
//!
//! # Invariants
//! * The level falls by one with each step down, so the walk is at most eight deep and cannot loop.
//! * A child's keys lie within its parent's slot and begin with the slot's key, so one walk cannot meet
//!   one block twice: it ends after at most as many steps as there are blocks.

use butterfs_format::validate::Expected;
use butterfs_format::validate::item::check_item;
use butterfs_format::{Generation, Key, Logical, TreeBlock, TreeId};

use crate::access::Fault;
use crate::context::Context;
use crate::finding::{Kind, Place};

/// Blocks between two reports of progress.
const TELL_EVERY: u64 = 64;

/// How far the deletion of a tree came: see `RootItem::drop_progress`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropped {
    /// Children of nodes at `level` with lower keys are gone.
    pub key: Key,
    pub level: u8,
}

/// Where a tree begins, and what is known of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TreeRoot {
    pub id: TreeId,
    pub bytenr: Logical,
    pub level: u8,
    pub generation: Generation,
    pub dropped: Option<Dropped>,
    /// Whether the tree's blocks have extent items (those of log trees have none).
    pub accounted: bool,
}

impl TreeRoot {
    fn expected(&self) -> Expected {
        let owner = (!self.id.is_shareable()).then_some(self.id);
        Expected {
            bytenr: self.bytenr,
            level: Some(self.level),
            generation: Some(self.generation),
            first_key: None,
            owner,
        }
    }
}

/// What is done with the leaves of a tree.
pub(crate) trait Visitor {
    /// A leaf; `first` unless another tree has shown it before.
    fn leaf(&mut self, context: &mut Context<'_>, leaf: &TreeBlock, first: bool);

    /// A part of the tree could not be read: what was begun cannot be judged.
    fn hole(&mut self) {}

    /// Whether leaves that another tree has shown are wanted too.
    fn wants_shared(&self) -> bool {
        false
    }
}

/// A visitor for trees of which only the structure is looked at.
pub(crate) struct Nothing;

impl Visitor for Nothing {
    fn leaf(&mut self, _: &mut Context<'_>, _: &TreeBlock, _: bool) {}
}

/// Walks a whole tree; gives whether all of it could be read.
pub(crate) fn walk(context: &mut Context<'_>, root: &TreeRoot, visitor: &mut dyn Visitor) -> bool {
    context.report.statistics.trees += 1;
    let complete = Walk { context, root, visitor }.block(&root.expected(), None);
    context.incomplete |= !complete;
    complete
}

struct Walk<'a, 'v> {
    context: &'a mut Context<'v>,
    root: &'a TreeRoot,
    visitor: &'a mut dyn Visitor,
}

impl Walk<'_, '_> {
    /// Walks a block and all below it, whose keys must be below `end`.
    fn block(&mut self, expected: &Expected, end: Option<Key>) -> bool {
        let bytenr = expected.bytenr.0;
        if self.context.bad.contains(&bytenr) {
            return false;
        }
        let first = self.context.seen.insert(bytenr);
        if !first && !self.may_be_shared(expected) {
            return false;
        }
        if !first && !self.visitor.wants_shared() {
            return true;
        }
        let Some(block) = self.read(expected, first) else { return false };
        if first {
            self.check_items(&block);
        }
        if first && self.root.accounted {
            self.account(&block);
        }
        if self.root.id.is_subvolume() {
            self.context.references.own(self.root.id, &block);
        }
        if !self.within(&block, end) {
            return false;
        }
        if block.is_leaf() {
            self.visitor.leaf(self.context, &block, first);
            return true;
        }
        self.children(&block, end, expected.owner)
    }

    fn may_be_shared(&mut self, expected: &Expected) -> bool {
        let shareable = expected.owner.is_none() && self.root.accounted;
        if !shareable {
            let place = Place::block(self.root.id, expected.bytenr);
            self.context.error(Kind::TreeStructure, place, "the block is used twice, and its tree cannot share");
        }
        shareable
    }

    fn read(&mut self, expected: &Expected, first: bool) -> Option<TreeBlock> {
        let block = if first { self.read_all_copies(expected) } else { self.read_again(expected) };
        if first && block.is_none() {
            self.context.bad.insert(expected.bytenr.0);
        }
        block
    }

    fn read_again(&mut self, expected: &Expected) -> Option<TreeBlock> {
        match self.context.access.block(expected) {
            Ok(block) => Some(block),
            Err(problem) => {
                self.context.error(Kind::TreeBlock, Place::block(self.root.id, expected.bytenr), problem);
                None
            }
        }
    }

    fn read_all_copies(&mut self, expected: &Expected) -> Option<TreeBlock> {
        let mut good: Option<TreeBlock> = None;
        let mut faults = Vec::new();
        for copy in 0..self.context.block_copies(expected.bytenr) {
            self.context.report.statistics.tree_block_copies += 1;
            match self.context.access.block_copy(expected, copy) {
                Ok(block) => match &good {
                    Some(other) if other.bytes() != block.bytes() => {
                        let problem = "differs from another good copy".to_owned();
                        faults.push((copy, Fault { problem, absence: false }));
                    }
                    Some(_) => {}
                    None => good = Some(block),
                },
                Err(fault) => faults.push((copy, fault)),
            }
        }
        self.context.report.statistics.tree_blocks += 1;
        if self.context.report.statistics.tree_blocks.is_multiple_of(TELL_EVERY) {
            self.context.tell();
        }
        self.report_copies(expected, good.is_some(), faults);
        good
    }

    fn report_copies(&mut self, expected: &Expected, usable: bool, faults: Vec<(usize, Fault)>) {
        let kind = if usable { Kind::TreeBlockCopy } else { Kind::TreeBlock };
        for (copy, fault) in faults.into_iter().filter(|(_, fault)| !(usable && fault.absence)) {
            let place = Place::block(self.root.id, expected.bytenr).copy(copy);
            self.context.error(kind, place, fault.problem);
        }
    }

    /// A bad item is told of here; the rest of its leaf is used.
    fn check_items(&mut self, block: &TreeBlock) {
        let geometry = self.context.geometry();
        for slot in (0..block.len()).filter(|_| block.is_leaf()) {
            let key = block.key(slot);
            if let Err(problem) = check_item(block, slot, &geometry) {
                let place = Place { bytenr: Some(block.bytenr()), ..Place::item(self.root.id, &key) };
                self.context.error(Kind::of_item(key.item_type), place, problem);
            }
        }
    }

    fn account(&mut self, block: &TreeBlock) {
        let dropped = self.root.dropped;
        let context = &mut *self.context;
        let counted = context.references.count_block(block, |slot| gone(block, slot, dropped));
        context.report.statistics.references += counted;
    }

    /// Whether the block's keys are below `end`.
    fn within(&mut self, block: &TreeBlock, end: Option<Key>) -> bool {
        let last = block.len().checked_sub(1).map(|slot| block.key(slot));
        match (last, end) {
            (Some(last), Some(end)) if last >= end => {
                let place = Place::block(self.root.id, block.bytenr());
                let problem = format!("key {last} is not below {end}, where the parent's next child begins");
                self.context.error(Kind::TreeStructure, place, problem);
                false
            }
            _ => true,
        }
    }

    fn children(&mut self, node: &TreeBlock, end: Option<Key>, owner: Option<TreeId>) -> bool {
        let mut complete = true;
        for slot in 0..node.len() {
            if gone(node, slot, self.root.dropped) {
                continue;
            }
            let ptr = node.ptr(slot);
            let expected = Expected {
                bytenr: Logical(ptr.blockptr.get()),
                level: node.level().checked_sub(1),
                generation: Some(Generation(ptr.generation.get())),
                first_key: Some(ptr.key.into()),
                owner,
            };
            let child_end = if slot + 1 < node.len() { Some(node.key(slot + 1)) } else { end };
            if !self.block(&expected, child_end) {
                complete = false;
                self.visitor.hole();
            }
        }
        complete
    }
}

/// Whether the child in this slot was dropped already.
fn gone(node: &TreeBlock, slot: usize, dropped: Option<Dropped>) -> bool {
    let Some(dropped) = dropped else { return false };
    match node.level().cmp(&dropped.level) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => !node.is_leaf() && node.key(slot) < dropped.key,
        std::cmp::Ordering::Greater => slot + 1 < node.len() && node.key(slot + 1) <= dropped.key,
    }
}

//! Walking a tree for the first time: each block is checked in every copy, once for all trees; what it
//! refers to is counted; leaves reach a [`Visitor`] in key order.
//!
//! Nodes are read on the way down. Leaves wait in a batch; a full batch is read in the order of the disk
//! and judged on all cores ([`crate::leaves`]), then replayed in key order. What is found does not depend
//! on the batch's size or on the number of threads: all that has an order happens in the replay.
//!
//! A visitor may remember what a shared block and all below it contribute. Where another tree shares the
//! block it is not read again.
//!
//! # Invariants
//! * The level falls by one with each step down, so the walk is at most eight deep and cannot loop.
//! * A child's keys lie within its parent's slot and begin with the slot's key, so one walk cannot meet
//!   one block twice: it ends after at most as many steps as there are blocks.

use butterfs_format::validate::Expected;
use butterfs_format::{Generation, Key, Logical, TreeBlock, TreeId};

use crate::context::Context;
use crate::finding::{Finding, Kind, Place};
use crate::leaves::{self, Header, Job, Outcome};

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
    pub fn expected(&self) -> Expected {
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
pub(crate) trait Visitor: Sync {
    /// What a worker makes of a leaf.
    type Work: Send;

    /// Looks at a leaf on its own; runs on any thread, in any order.
    fn prepare(&self, context: &Context<'_>, leaf: TreeBlock, found: &mut Vec<Finding>) -> Self::Work;

    /// Takes in what was made of the next leaf in key order.
    fn absorb(&mut self, context: &mut Context<'_>, work: Self::Work);

    /// A part of the tree could not be read: what was begun cannot be judged.
    fn hole(&mut self) {}

    /// Whether leaves that another tree has shown are wanted too.
    fn wants_shared(&self) -> bool {
        false
    }

    /// Whether it is known what the block and all below it contribute, and the pointer to it fits.
    fn remembers(&self, _expected: &Expected, _end: Option<Key>) -> bool {
        false
    }

    /// Takes in what a remembered block contributes; gives the last key below it.
    fn recall(&mut self, _bytenr: Logical) -> Option<Key> {
        None
    }

    /// What comes until [`Visitor::leave`] is the contribution of one shared block.
    fn enter(&mut self) {}

    /// The end of what [`Visitor::enter`] began; without a shape it must not be remembered.
    fn leave(&mut self, _shape: Option<Shape>) {}
}

/// What pointers to a block are held against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub bytenr: Logical,
    pub level: u8,
    pub generation: Generation,
    pub first: Key,
    pub last: Key,
}

impl Shape {
    pub fn fits(&self, expected: &Expected, end: Option<Key>) -> bool {
        expected.owner.is_none()
            && expected.level == Some(self.level)
            && expected.generation == Some(self.generation)
            && expected.first_key.is_none_or(|key| key == self.first)
            && end.is_none_or(|end| self.last < end)
    }
}

/// A visitor that wants whole leaves, one after the other.
pub(crate) trait LeafVisitor {
    fn leaf(&mut self, context: &mut Context<'_>, leaf: &TreeBlock);

    fn hole(&mut self) {}
}

/// Makes a [`Visitor`] of a [`LeafVisitor`].
pub(crate) struct InOrder<'a, V>(pub &'a mut V);

impl<V: LeafVisitor + Sync> Visitor for InOrder<'_, V> {
    type Work = TreeBlock;

    fn prepare(&self, _: &Context<'_>, leaf: TreeBlock, _: &mut Vec<Finding>) -> TreeBlock {
        leaf
    }

    fn absorb(&mut self, context: &mut Context<'_>, leaf: TreeBlock) {
        self.0.leaf(context, &leaf);
    }

    fn hole(&mut self) {
        self.0.hole();
    }
}

/// A visitor for trees of which only the structure is looked at.
pub(crate) struct Nothing;

impl Visitor for Nothing {
    type Work = ();

    fn prepare(&self, _: &Context<'_>, _: TreeBlock, _: &mut Vec<Finding>) {}

    fn absorb(&mut self, _: &mut Context<'_>, (): ()) {}
}

/// Walks a whole tree; gives whether all of it could be read.
pub(crate) fn walk<V: Visitor>(context: &mut Context<'_>, root: &TreeRoot, visitor: &mut V) -> bool {
    context.report.statistics.trees += 1;
    let batch = context.batch();
    let mut walk = Walk {
        context,
        root,
        visitor,
        batch,
        steps: Vec::new(),
        jobs: Vec::new(),
        entered: Vec::new(),
        troubles: 0,
        last_key: None,
        complete: true,
    };
    walk.block(&root.expected(), None, Some(root.id));
    walk.flush();
    let complete = walk.complete;
    context.incomplete |= !complete;
    complete
}

/// What is replayed in key order.
enum Step {
    /// A node's findings.
    Found(Vec<Finding>),
    /// The block is reached from a parent that this tree owns.
    Reached {
        bytenr: Logical,
        by: Option<TreeId>,
        header: Option<Header>,
    },
    /// The leaf of the next job.
    Leaf,
    Hole,
    Recall(Logical),
    Enter,
    Leave {
        bytenr: Logical,
        level: u8,
        generation: Option<Generation>,
        first: Option<Key>,
    },
}

struct Walk<'a, 'v, V> {
    context: &'a mut Context<'v>,
    root: &'a TreeRoot,
    visitor: &'a mut V,
    /// How many leaves are judged at once.
    batch: usize,
    steps: Vec<Step>,
    jobs: Vec<Job>,
    /// For each shared block that the replay is in, how many troubles there were before.
    entered: Vec<u64>,
    /// Findings and holes so far.
    troubles: u64,
    /// The last key replayed.
    last_key: Option<Key>,
    complete: bool,
}

impl<V: Visitor> Walk<'_, '_, V> {
    /// Walks a block and all below it, whose keys must be below `end`; `by` owns the pointer to it.
    fn block(&mut self, expected: &Expected, end: Option<Key>, by: Option<TreeId>) {
        let bytenr = expected.bytenr.0;
        if self.context.bad.contains(&bytenr) {
            return self.steps.push(Step::Hole);
        }
        let first = self.context.seen.insert(bytenr);
        if !first && !self.may_be_shared(expected) {
            self.context.refused.insert((self.root.id, bytenr));
            return self.steps.push(Step::Hole);
        }
        if !first {
            self.steps.push(Step::Reached { bytenr: expected.bytenr, by, header: None });
        }
        if !first && !self.visitor.wants_shared() {
            return;
        }
        if !first && self.visitor.remembers(expected, end) {
            return self.steps.push(Step::Recall(expected.bytenr));
        }
        let shared = self.visitor.wants_shared() && self.context.shared.contains(bytenr);
        if shared {
            self.steps.push(Step::Enter);
        }
        if expected.level == Some(0) {
            self.jobs.push(Job { expected: *expected, end, first, by });
            self.steps.push(Step::Leaf);
        } else {
            self.node(expected, end, first, by);
        }
        if shared {
            let (level, generation) = (expected.level.unwrap_or(0), expected.generation);
            self.steps.push(Step::Leave { bytenr: expected.bytenr, level, generation, first: expected.first_key });
        }
        if self.jobs.len() >= self.batch {
            self.flush();
        }
    }

    fn may_be_shared(&mut self, expected: &Expected) -> bool {
        let shareable = expected.owner.is_none() && self.root.accounted;
        if !shareable {
            let place = Place::block(self.root.id, expected.bytenr);
            let problem = "the block is used twice, and its tree cannot share";
            self.steps.push(Step::Found(vec![Finding::error(Kind::TreeStructure, place, problem)]));
        }
        shareable
    }

    fn node(&mut self, expected: &Expected, end: Option<Key>, first: bool, by: Option<TreeId>) {
        let job = Job { expected: *expected, end, first, by };
        let outcome = leaves::look(self.context, self.root, &job, |_, block, _| block);
        let Outcome { found, work, usable, header, count, .. } = outcome;
        count.add_to(&mut self.context.report.statistics);
        self.context.tell_now_and_then();
        if first && !usable {
            self.context.bad.insert(expected.bytenr.0);
        }
        if !found.is_empty() {
            self.steps.push(Step::Found(found));
        }
        if first && header.is_some() {
            self.steps.push(Step::Reached { bytenr: expected.bytenr, by, header });
        }
        match work {
            Some(node) => self.children(&node, end, expected.owner),
            None => self.steps.push(Step::Hole),
        }
    }

    fn children(&mut self, node: &TreeBlock, end: Option<Key>, owner: Option<TreeId>) {
        let full = self.context.full.contains(node.bytenr().0);
        let by = (!full).then(|| node.owner());
        if node.level() > 1 {
            let pointers = (0..node.len()).map(|slot| node.ptr(slot).blockptr.get());
            self.context.prefetch(&mut pointers.collect::<Vec<_>>());
        }
        for slot in 0..node.len() {
            if gone(node, slot, self.root.dropped) {
                continue;
            }
            let child_end = if slot + 1 < node.len() { Some(node.key(slot + 1)) } else { end };
            self.block(&child(node, slot, owner), child_end, by);
        }
    }

    /// Judges the leaves of the batch, then takes everything in in order.
    fn flush(&mut self) {
        let jobs = std::mem::take(&mut self.jobs);
        let visitor = &*self.visitor;
        let make = |context: &Context<'_>, block, found: &mut Vec<Finding>| visitor.prepare(context, block, found);
        let outcomes = leaves::look_at_all(self.context, self.root, &jobs, &make);
        let mut leaves = jobs.iter().zip(outcomes);
        for step in std::mem::take(&mut self.steps) {
            match step {
                Step::Found(found) => self.found(found),
                Step::Reached { bytenr, by, header } => self.context.reached(self.root, bytenr, by, header),
                Step::Leaf => {
                    if let Some((job, outcome)) = leaves.next() {
                        self.leaf(job, outcome);
                    }
                }
                Step::Hole => self.hole(),
                Step::Recall(bytenr) => self.last_key = self.visitor.recall(bytenr).or(self.last_key),
                Step::Enter => {
                    self.entered.push(self.troubles);
                    self.visitor.enter();
                }
                Step::Leave { bytenr, level, generation, first } => self.leave(bytenr, level, generation, first),
            }
        }
    }

    fn found(&mut self, found: Vec<Finding>) {
        self.troubles += found.len() as u64;
        found.into_iter().for_each(|finding| self.context.add(finding));
    }

    fn hole(&mut self) {
        self.troubles += 1;
        self.complete = false;
        self.visitor.hole();
    }

    fn leaf(&mut self, job: &Job, outcome: Outcome<V::Work>) {
        let bytenr = job.expected.bytenr;
        outcome.count.add_to(&mut self.context.report.statistics);
        self.context.tell_now_and_then();
        // It was told of where it was met first.
        let again = !job.first && self.context.bad.contains(&bytenr.0);
        if job.first && !outcome.usable {
            self.context.bad.insert(bytenr.0);
        }
        if !again {
            self.found(outcome.found);
        }
        if job.first && outcome.header.is_some() {
            self.context.reached(self.root, bytenr, job.by, outcome.header);
        }
        self.last_key = outcome.last.or(self.last_key);
        match outcome.work {
            Some(work) => self.visitor.absorb(self.context, work),
            None => self.hole(),
        }
    }

    fn leave(&mut self, bytenr: Logical, level: u8, generation: Option<Generation>, first: Option<Key>) {
        let calm = self.entered.pop() == Some(self.troubles);
        let shape = generation.zip(first).zip(self.last_key).map(|((generation, first), last)| Shape {
            bytenr,
            level,
            generation,
            first,
            last,
        });
        self.visitor.leave(shape.filter(|_| calm));
    }
}

/// What a node's pointer says of the child in a slot.
pub(crate) fn child(node: &TreeBlock, slot: usize, owner: Option<TreeId>) -> Expected {
    let ptr = node.ptr(slot);
    Expected {
        bytenr: Logical(ptr.blockptr.get()),
        level: node.level().checked_sub(1),
        generation: Some(Generation(ptr.generation.get())),
        first_key: Some(ptr.key.into()),
        owner,
    }
}

/// Whether the child in this slot was dropped already.
pub(crate) fn gone(node: &TreeBlock, slot: usize, dropped: Option<Dropped>) -> bool {
    let Some(dropped) = dropped else { return false };
    match node.level().cmp(&dropped.level) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => !node.is_leaf() && node.key(slot) < dropped.key,
        std::cmp::Ordering::Greater => slot + 1 < node.len() && node.key(slot + 1) <= dropped.key,
    }
}

//! One block at a time: read, verified, its items checked, its references counted. Many at a time: in the
//! order of the disk, on all cores.

use std::sync::atomic::{AtomicUsize, Ordering};

use butterfs_format::block::{FLAG_RELOC, FLAG_WRITTEN, MIXED_BACKREF_REV};
use butterfs_format::validate::Expected;
use butterfs_format::validate::item::check_item;
use butterfs_format::{Generation, Key, TreeBlock, TreeId};

use crate::access::Fault;
use crate::context::Context;
use crate::finding::{Finding, Kind, Place, Statistics};
use crate::references::count_block;
use crate::walk::{TreeRoot, gone};

/// Leaves that a thread takes at once.
const SHARE: usize = 16;

/// A block to be looked at.
pub(crate) struct Job {
    pub expected: Expected,
    /// All its keys must be below this.
    pub end: Option<Key>,
    /// No tree has shown it before.
    pub first: bool,
    /// The tree that owns the pointer to it.
    pub by: Option<TreeId>,
}

/// What a header says of whose the block is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub owner: TreeId,
    pub generation: Generation,
}

/// What was counted while looking at a block.
#[derive(Clone, Copy, Default)]
pub(crate) struct Count {
    blocks: u64,
    copies: u64,
    references: u64,
}

impl Count {
    pub fn add_to(self, statistics: &mut Statistics) {
        statistics.tree_blocks += self.blocks;
        statistics.tree_block_copies += self.copies;
        statistics.references += self.references;
    }
}

/// What came of looking at a block.
pub(crate) struct Outcome<W> {
    pub found: Vec<Finding>,
    pub count: Count,
    /// A copy is good.
    pub usable: bool,
    pub header: Option<Header>,
    /// The block's last key.
    pub last: Option<Key>,
    /// `None` if it cannot be used here.
    pub work: Option<W>,
}

/// What is made of a good block.
pub(crate) trait Make<W>: Fn(&Context<'_>, TreeBlock, &mut Vec<Finding>) -> W {}

impl<W, F: Fn(&Context<'_>, TreeBlock, &mut Vec<Finding>) -> W> Make<W> for F {}

/// Looks at one block.
pub(crate) fn look<W>(context: &Context<'_>, root: &TreeRoot, job: &Job, make: impl Make<W>) -> Outcome<W> {
    let (mut found, mut count) = (Vec::new(), Count::default());
    let block = match job.first {
        true => read_all_copies(context, root, &job.expected, &mut found, &mut count),
        false => read_again(context, root, &job.expected, &mut found),
    };
    let Some(block) = block else {
        return Outcome { found, count, usable: false, header: None, last: None, work: None };
    };
    if job.first {
        check_flags(context, root, &block, &mut found);
        check_items(context, root, &block, &mut found);
    }
    if job.first && root.accounted {
        let full = context.full.contains(block.bytenr().0);
        let dropped = |slot| gone(&block, slot, root.dropped);
        count.references = count_block(&block, full, context.nodesize(), dropped, &mut |event| context.event(&event));
    }
    let header = Some(Header { owner: block.owner(), generation: block.generation() });
    let last = block.len().checked_sub(1).map(|slot| block.key(slot));
    let within = within(root, &block, job.end, &mut found);
    let work = within.then(|| make(context, block, &mut found));
    Outcome { found, count, usable: true, header, last, work }
}

/// Looks at many leaves; the outcomes are in the order of the jobs.
pub(crate) fn look_at_all<W: Send>(
    context: &Context<'_>,
    root: &TreeRoot,
    jobs: &[Job],
    make: &(impl Make<W> + Sync),
) -> Vec<Outcome<W>> {
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_unstable_by_key(|index| jobs[*index].expected.bytenr);
    context.prefetch(&mut jobs.iter().map(|job| job.expected.bytenr.0).collect::<Vec<_>>());
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let from = next.fetch_add(SHARE, Ordering::Relaxed);
            let Some(share) = order.get(from..order.len().min(from + SHARE)).filter(|share| !share.is_empty()) else {
                return done;
            };
            done.extend(share.iter().map(|index| (*index, look(context, root, &jobs[*index], make))));
        }
    };
    let mut done = std::thread::scope(|scope| {
        let helpers = context.threads().min(jobs.len().div_ceil(SHARE)).saturating_sub(1);
        let helpers: Vec<_> = (0..helpers).map(|_| scope.spawn(work)).collect();
        let mut done = work();
        for helper in helpers {
            done.extend(helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

fn read_again(
    context: &Context<'_>,
    root: &TreeRoot,
    expected: &Expected,
    found: &mut Vec<Finding>,
) -> Option<TreeBlock> {
    match context.access.block(expected) {
        Ok(block) => Some(block),
        Err(problem) => {
            found.push(Finding::error(Kind::TreeBlock, Place::block(root.id, expected.bytenr), problem));
            None
        }
    }
}

/// Reads every copy, but for those that are known to be the same as the first.
fn read_all_copies(
    context: &Context<'_>,
    root: &TreeRoot,
    expected: &Expected,
    found: &mut Vec<Finding>,
    count: &mut Count,
) -> Option<TreeBlock> {
    let copies = context.block_copies(expected.bytenr);
    count.blocks += 1;
    count.copies += copies as u64;
    if context.mirrored.contains(expected.bytenr.0)
        && let Ok(block) = context.access.block_copy(expected, 0)
    {
        return Some(block);
    }
    let (mut good, mut faults): (Option<TreeBlock>, _) = (None, Vec::new());
    for copy in 0..copies {
        match (context.access.other_copy(expected, copy, good.as_ref()), &good) {
            (Ok(None), _) => {}
            (Ok(Some(block)), None) => good = Some(block),
            (Ok(Some(_)), Some(_)) => faults.push((copy, Fault::new("differs from another good copy"))),
            (Err(fault), _) => faults.push((copy, fault)),
        }
    }
    let kind = if good.is_some() { Kind::TreeBlockCopy } else { Kind::TreeBlock };
    for (copy, fault) in faults.into_iter().filter(|(_, fault)| !(good.is_some() && fault.absence)) {
        found.push(Finding::error(kind, Place::block(root.id, expected.bytenr).copy(copy), fault.problem));
    }
    good
}

/// Nobody wrote another revision of back references since 2009, and kernels do not read it.
fn check_flags(context: &Context<'_>, root: &TreeRoot, block: &TreeBlock, found: &mut Vec<Finding>) {
    const REVISION: u64 = 0xff << 56;
    let flags = block.header().flags.get();
    let place = || Place::block(root.id, block.bytenr());
    if flags & REVISION != MIXED_BACKREF_REV {
        let problem = format!("the header says revision {} of back references, want 1", flags >> 56);
        found.push(Finding::error(Kind::BlockFlags, place(), problem));
    }
    let unknown = flags & !(REVISION | FLAG_WRITTEN | FLAG_RELOC);
    if unknown != 0 {
        found.push(Finding::error(Kind::BlockFlags, place(), format!("the header has unknown flags {unknown:#x}")));
    }
    if block.header().chunk_tree_uuid != context.access.chunk_tree_uuid() {
        found.push(Finding::warning(Kind::BlockFlags, place(), "the header has another chunk tree's UUID"));
    }
}

/// A bad item is told of here; the rest of its leaf is used.
fn check_items(context: &Context<'_>, root: &TreeRoot, block: &TreeBlock, found: &mut Vec<Finding>) {
    let geometry = context.geometry();
    for slot in (0..block.len()).filter(|_| block.is_leaf()) {
        if let Err(problem) = check_item(block, slot, &geometry) {
            let key = block.key(slot);
            let place = Place { bytenr: Some(block.bytenr()), ..Place::item(root.id, &key) };
            found.push(Finding::error(Kind::of_item(key.item_type), place, problem));
        }
    }
}

/// Whether the block's keys are below `end`.
fn within(root: &TreeRoot, block: &TreeBlock, end: Option<Key>, found: &mut Vec<Finding>) -> bool {
    let last = block.len().checked_sub(1).map(|slot| block.key(slot));
    match (last, end) {
        (Some(last), Some(end)) if last >= end => {
            let problem = format!("key {last} is not below {end}, where the parent's next child begins");
            found.push(Finding::error(Kind::TreeStructure, Place::block(root.id, block.bytenr()), problem));
            false
        }
        _ => true,
    }
}

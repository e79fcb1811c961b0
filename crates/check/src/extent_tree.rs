//! The extent tree: extents and their back references.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use butterfs_format::items::{BackRef, BlockGroupItem, ExtentItem, InlineRef, STRIPE_LEN, read_exact};
use butterfs_format::{Generation, ItemType, Key, Logical, TreeBlock, TreeId};

use crate::block_set::BlockSet;
use crate::checksums::Checksums;
use crate::chunks::Chunks;
use crate::context::Context;
use crate::finding::{Finding, Kind, Place};
use crate::free_space::Ranges;
use crate::references::{Extent, Fault, Table, count_block, root_reference};
use crate::revisit::{self, Revisitor};
use crate::walk::{Dropped, TreeRoot, Visitor, gone};

/// Block groups by address: length and item.
pub(crate) type BlockGroups = BTreeMap<u64, (u64, BlockGroupItem)>;

/// Extents of one fault that are told of; more are as good as these.
pub(crate) const MAX_TOLD: usize = 10_000;

/// What is gathered from the extent tree, or from the block group tree.
pub(crate) struct ExtentTree<'a> {
    sums: &'a Checksums,
    pub block_groups: BlockGroups,
    /// Bytes of data extents that have checksums.
    pub with_sums: u64,
    superblocks: Ranges,
    /// Places of superblock copies that an extent takes.
    pub taken: BTreeSet<(u64, u64)>,
    last: Option<Row>,
}

/// An extent item, as far as its neighbours are concerned.
#[derive(Clone, Copy)]
struct Row {
    bytenr: u64,
    end: u64,
    data: bool,
    opaque: bool,
    full: bool,
    shared: bool,
    generation: Generation,
    /// Whose data it is, where simple quotas are kept.
    owner: Option<TreeId>,
}

/// An item of a leaf, in short.
enum Entry {
    Extent(Key, Row),
    /// A back reference with a key of its own, to data or not.
    Keyed(Key, bool),
    BlockGroup(Key, BlockGroupItem),
}

/// What a worker makes of a leaf.
pub(crate) struct Work {
    entries: Vec<Entry>,
    with_sums: u64,
}

impl Visitor for ExtentTree<'_> {
    type Work = Work;

    fn prepare(&self, context: &Context<'_>, leaf: TreeBlock, found: &mut Vec<Finding>) -> Work {
        let mut work = Work { entries: Vec::with_capacity(leaf.len()), with_sums: 0 };
        for slot in 0..leaf.len() {
            self.item(context, &leaf, slot, &mut work, found);
        }
        work
    }

    fn absorb(&mut self, context: &mut Context<'_>, work: Work) {
        self.with_sums = self.with_sums.saturating_add(work.with_sums);
        for entry in work.entries {
            match entry {
                Entry::Extent(key, row) => self.extent(context, &key, row),
                Entry::Keyed(key, data) => self.keyed(context, &key, data),
                Entry::BlockGroup(key, item) => {
                    self.block_groups.insert(key.objectid, (key.offset, item));
                }
            }
        }
    }
}

impl<'a> ExtentTree<'a> {
    pub fn new(sums: &'a Checksums, chunks: &Chunks) -> Self {
        Self {
            sums,
            block_groups: BlockGroups::new(),
            with_sums: 0,
            superblocks: chunks.superblock_ranges(),
            taken: BTreeSet::new(),
            last: None,
        }
    }

    fn item(&self, context: &Context<'_>, leaf: &TreeBlock, slot: usize, work: &mut Work, found: &mut Vec<Finding>) {
        let (key, data) = (leaf.key(slot), leaf.data(slot));
        match key.item_type {
            ItemType::EXTENT_ITEM | ItemType::METADATA_ITEM => self.judge(context, &key, data, work, found),
            ItemType::TREE_BLOCK_REF
            | ItemType::SHARED_BLOCK_REF
            | ItemType::SHARED_DATA_REF
            | ItemType::EXTENT_DATA_REF => {
                for one in keyed_refs(&key, data) {
                    context.sums().back_ref(key.objectid, &one.back_ref, one.count);
                    work.entries.push(Entry::Keyed(key, one.back_ref.is_data()));
                }
            }
            ItemType::BLOCK_GROUP_ITEM => {
                if leaf.owner() != context.block_group_tree() {
                    let problem = format!("the block groups belong to tree {}", context.block_group_tree());
                    found.push(Finding::error(Kind::BlockGroup, Place::item(leaf.owner(), &key), problem));
                }
                if let Ok(item) = read_exact::<BlockGroupItem>(data) {
                    work.entries.push(Entry::BlockGroup(key, item));
                }
            }
            _ => {
                let place = Place::item(leaf.owner(), &key);
                found.push(Finding::error(Kind::UnknownKey, place, format!("{key} does not belong here")));
            }
        }
    }

    /// The rules that an extent item keeps on its own.
    fn judge(&self, context: &Context<'_>, key: &Key, data: &[u8], work: &mut Work, found: &mut Vec<Finding>) {
        let (extent, inline) = read_extent(key, data, context.nodesize());
        if extent.opaque {
            context.sums().upset(extent.bytenr);
        } else {
            context.sums().extent(&extent);
            inline.iter().for_each(|one| context.sums().back_ref(extent.bytenr, &one.back_ref, one.count));
        }
        let place = || Place::item(TreeId::EXTENT, key);
        if extent.generation > context.generation() {
            let problem = format!("generation {} is above the superblock's", extent.generation);
            found.push(Finding::error(Kind::Extent, place(), problem));
        }
        let crosses = !extent.is_data() && (extent.bytenr % STRIPE_LEN).saturating_add(extent.len) > STRIPE_LEN;
        if crosses && !extent.opaque {
            found.push(Finding::error(Kind::Extent, place(), "a tree block crosses a 64 KiB boundary"));
        }
        if extent.is_data() {
            let covered = self.sums.covered(context, extent.bytenr, extent.len);
            work.with_sums = work.with_sums.saturating_add(covered);
        }
        let row = Row {
            bytenr: extent.bytenr,
            end: extent.end(),
            data: extent.is_data(),
            opaque: extent.opaque,
            full: extent.is_full_backref(),
            shared: extent.refs > 1,
            generation: Generation(extent.generation),
            owner: extent.owner,
        };
        work.entries.push(Entry::Extent(*key, row));
    }

    /// The rules that an extent keeps with its neighbours.
    fn extent(&mut self, context: &mut Context<'_>, key: &Key, row: Row) {
        if let Some(last) = self.last.filter(|last| last.end > row.bytenr && !row.opaque) {
            let problem = format!("overlaps the extent {}, which ends at {}", last.bytenr, last.end);
            context.error(Kind::Extent, Place::item(TreeId::EXTENT, key), problem);
        }
        self.last = Some(row);
        let from = self.superblocks.partition_point(|range| range.1 <= row.bytenr);
        self.taken.extend(self.superblocks.iter().skip(from).take_while(|range| range.0 < row.end));
        if row.opaque {
            return;
        }
        context.report.statistics.extents += 1;
        if let (Some(owner), Some(owned)) = (row.owner, &mut context.owned) {
            owned.add(owner, row.generation, row.end.saturating_sub(row.bytenr));
        }
        if !row.data {
            context.allocated.insert(row.bytenr);
            if row.full {
                context.full.insert(row.bytenr);
            }
            if row.shared {
                context.shared.insert(row.bytenr);
            }
        }
    }

    fn keyed(&mut self, context: &mut Context<'_>, key: &Key, data: bool) {
        let problem = match self.last.filter(|last| last.bytenr == key.objectid) {
            Some(last) if last.opaque || last.data == data => return,
            Some(_) => "on the wrong kind of extent",
            None => "there is no such extent",
        };
        context.error(Kind::BackReference, Place::item(TreeId::EXTENT, key), problem);
    }
}

/// Reads an EXTENT_ITEM or METADATA_ITEM with its inline references.
fn read_extent(key: &Key, data: &[u8], nodesize: u64) -> (Extent, Vec<InlineRef>) {
    let Ok(item) = ExtentItem::parse(key, data) else { return (Extent::opaque(key, nodesize), Vec::new()) };
    let mut extent = Extent::new(key, &item, nodesize);
    let of_chunks = BackRef::TreeBlock { root: TreeId::CHUNK };
    extent.of_chunk_tree = item.inline.iter().any(|one| one.back_ref == of_chunks);
    (extent, item.inline)
}

/// The back references in an item of their own.
fn keyed_refs(key: &Key, data: &[u8]) -> Vec<InlineRef> {
    // Old kernels wrote several data references with one hash into one item.
    let size = if key.item_type == ItemType::EXTENT_DATA_REF { 28 } else { data.len().max(1) };
    let parts: Vec<&[u8]> = if data.is_empty() { vec![data] } else { data.chunks(size).collect() };
    parts.into_iter().filter_map(|part| BackRef::parse_keyed(key, part).ok()).collect()
}

/// Shows the extents that begin in a range, in order, each with the back references found so far.
pub(crate) fn extents_within(context: &Context<'_>, range: Range<u64>, show: &mut dyn FnMut(&Extent)) {
    let Some(root) = context.extent_root else { return };
    let at = |bytenr| Key::new(bytenr, ItemType(0), 0);
    let nodesize = context.nodesize();
    revisit::items(context, &root, &(at(range.start)..at(range.end)), &mut |key, data| {
        if matches!(key.item_type, ItemType::EXTENT_ITEM | ItemType::METADATA_ITEM) {
            show(&read_extent(key, data, nodesize).0);
        }
    });
}

/// Loads the extents from an address on that may be at fault, up to so many; gives where it stopped.
fn load(context: &Context<'_>, from: u64, most: usize) -> (Vec<Extent>, u64) {
    let Some(root) = context.extent_root else { return (Vec::new(), u64::MAX) };
    let (mut extents, mut stop): (Vec<Extent>, u64) = (Vec::new(), u64::MAX);
    let keys = Key::new(from, ItemType(0), 0)..Key::MAX;
    let nodesize = context.nodesize();
    revisit::items(context, &root, &keys, &mut |key, data| {
        if stop < u64::MAX || !context.sums().is_upset(key.objectid) {
            return;
        }
        match key.item_type {
            ItemType::EXTENT_ITEM | ItemType::METADATA_ITEM => {
                if extents.len() >= most && extents.last().is_some_and(|last| last.bytenr < key.objectid) {
                    stop = key.objectid;
                    return;
                }
                let (mut extent, inline) = read_extent(key, data, nodesize);
                inline.iter().for_each(|one| extent.found(&one.back_ref, one.count));
                extents.push(extent);
            }
            _ => {
                if let Some(extent) = extents.last_mut().filter(|e| e.bytenr == key.objectid && !e.opaque) {
                    let refs = keyed_refs(key, data).into_iter();
                    let fit = refs.filter(|one| one.back_ref.is_data() == extent.is_data()).collect::<Vec<_>>();
                    fit.iter().for_each(|one| extent.found(&one.back_ref, one.count));
                }
            }
        }
    });
    (extents, stop)
}

/// Counts references to the extents of a table.
struct Counting<'a> {
    table: &'a mut Table,
    /// Blocks that were counted.
    counted: BlockSet,
    dropped: Option<Dropped>,
}

impl Revisitor for Counting<'_> {
    fn wants(&mut self, bytenr: u64) -> bool {
        self.counted.insert(bytenr)
    }

    fn block(&mut self, context: &mut Context<'_>, block: &TreeBlock) {
        let full = context.full.contains(block.bytenr().0);
        let (table, dropped, nodesize) = (&mut *self.table, self.dropped, context.nodesize());
        let sums = context.sums();
        count_block(block, full, nodesize, |slot| gone(block, slot, dropped), &mut |event| {
            if sums.is_upset(event.bytenr()) {
                table.event(&event);
            }
        });
    }
}

/// Compares extents with what was met while walking all trees: those whose sums are not zero. As many at a
/// time as the memory has room for; each time, all trees are walked again.
pub(crate) fn check_references(context: &mut Context<'_>, roots: &[TreeRoot]) {
    for (id, bytenr) in std::mem::take(&mut context.roots) {
        if id != TreeId::TREE_RELOC && context.full.contains(bytenr.0) {
            let problem = format!("has full back references, but is the root of tree {}", id.0 as i64);
            context.error(Kind::Extent, Place::extent(bytenr.0), problem);
        }
    }
    let mut from = 0;
    let most = (context.options.memory / 8 / size_of::<Extent>() as u64).max(64) as usize;
    while from < u64::MAX && !context.sums().balance() && (from == 0 || context.has_room()) {
        let (extents, stop) = load(context, from, most);
        let mut table = Table::new(extents, from..stop);
        let counted = BlockSet::new(context.sectorsize());
        let mut counting = Counting { table: &mut table, counted, dropped: None };
        for root in roots {
            let event = root_reference(root.id, root.bytenr, context.nodesize());
            counting.table.event(&event);
            counting.dropped = root.dropped;
            revisit::revisit(context, root, &mut counting);
        }
        report(context, table);
        from = stop;
    }
}

fn report(context: &mut Context<'_>, table: Table) {
    let (faults, problems) = table.problems(context.incomplete);
    let mut problems = problems.into_iter().peekable();
    for Fault { missing, bytenr, problem } in faults {
        while let Some((at, problem)) = problems.next_if(|(at, _)| *at < bytenr) {
            context.error(Kind::BackReference, Place::extent(at), problem);
        }
        context.error(if missing { Kind::MissingExtent } else { Kind::Extent }, Place::extent(bytenr), problem);
    }
    for (at, problem) in problems {
        context.error(Kind::BackReference, Place::extent(at), problem);
    }
}

/// Each block of a subvolume is referred to by the tree in its header, unless its references name blocks.
pub(crate) fn check_owners(context: &mut Context<'_>) {
    if context.incomplete {
        return;
    }
    for (bytenr, (tree, owner)) in std::mem::take(&mut context.unowned) {
        let problem = format!("the header says tree {}, which does not refer to it", owner.0 as i64);
        context.error(Kind::BackReference, Place::block(tree, Logical(bytenr)), problem);
    }
}

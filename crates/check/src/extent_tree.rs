//! The extent tree: extents, their back references, and block groups.

use std::collections::BTreeMap;

use butterfs_format::ids::objectid;
use butterfs_format::items::{BackRef, BlockGroupFlags, BlockGroupItem, ExtentItem, STRIPE_LEN, read_exact};
use butterfs_format::superblock::CompatRo;
use butterfs_format::{ItemType, Key, TreeBlock, TreeId};

use crate::chunks::Chunks;
use crate::context::Context;
use crate::finding::{Kind, Place};
use crate::references::{BlockOf, Extent, Fault};
use crate::walk::Visitor;

/// Block groups by address: length and item.
pub(crate) type BlockGroups = BTreeMap<u64, (u64, BlockGroupItem)>;

/// What is read from the extent tree, or from the block group tree.
#[derive(Default)]
pub(crate) struct ExtentTree {
    pub extents: Vec<Extent>,
    pub block_groups: BlockGroups,
}

impl Visitor for ExtentTree {
    fn leaf(&mut self, context: &mut Context<'_>, leaf: &TreeBlock, _: bool) {
        for slot in 0..leaf.len() {
            self.item(context, leaf, slot);
        }
    }
}

impl ExtentTree {
    fn item(&mut self, context: &mut Context<'_>, leaf: &TreeBlock, slot: usize) {
        let (key, data) = (leaf.key(slot), leaf.data(slot));
        match key.item_type {
            ItemType::EXTENT_ITEM | ItemType::METADATA_ITEM => self.extent(context, &key, data),
            ItemType::TREE_BLOCK_REF
            | ItemType::SHARED_BLOCK_REF
            | ItemType::SHARED_DATA_REF
            | ItemType::EXTENT_DATA_REF => self.keyed(context, &key, data),
            ItemType::BLOCK_GROUP_ITEM => {
                if leaf.owner() != context.block_group_tree() {
                    let problem = format!("the block groups belong to tree {}", context.block_group_tree());
                    context.error(Kind::BlockGroup, Place::item(leaf.owner(), &key), problem);
                }
                if let Ok(item) = read_exact::<BlockGroupItem>(data) {
                    self.block_groups.insert(key.objectid, (key.offset, item));
                }
            }
            _ => {
                let place = Place::item(leaf.owner(), &key);
                context.error(Kind::UnknownKey, place, format!("{key} does not belong here"));
            }
        }
    }

    fn extent(&mut self, context: &mut Context<'_>, key: &Key, data: &[u8]) {
        let Ok(item) = ExtentItem::parse(key, data) else {
            self.extents.push(Extent::opaque(key, context.nodesize()));
            return;
        };
        let mut extent = Extent::new(key, &item, context.nodesize());
        item.inline.iter().for_each(|one| extent.found(&one.back_ref, one.count));
        let place = Place::item(TreeId::EXTENT, key);
        if item.generation > context.generation() {
            let problem = format!("generation {} is above the superblock's", item.generation);
            context.error(Kind::Extent, place.clone(), problem);
        }
        if let Some(last) = self.extents.last().filter(|last| last.end() > extent.bytenr) {
            let problem = format!("overlaps the extent {}, which ends at {}", last.bytenr, last.end());
            context.error(Kind::Extent, place.clone(), problem);
        }
        let crosses = !extent.is_data() && (extent.bytenr % STRIPE_LEN).saturating_add(extent.len) > STRIPE_LEN;
        if crosses {
            context.error(Kind::Extent, place, "a tree block crosses a 64 KiB boundary");
        }
        context.report.statistics.extents += 1;
        self.extents.push(extent);
    }

    fn keyed(&mut self, context: &mut Context<'_>, key: &Key, data: &[u8]) {
        // Old kernels wrote several data references with one hash into one item.
        let size = if key.item_type == ItemType::EXTENT_DATA_REF { 28 } else { data.len().max(1) };
        let parts: Vec<&[u8]> = if data.is_empty() { vec![data] } else { data.chunks(size).collect() };
        for part in parts {
            let Ok(one) = BackRef::parse_keyed(key, part) else { continue };
            match self.extents.last_mut().filter(|e| e.bytenr == key.objectid) {
                Some(extent) if extent.opaque => {}
                Some(extent) if extent.is_data() == one.back_ref.is_data() => extent.found(&one.back_ref, one.count),
                Some(_) => {
                    context.error(Kind::BackReference, Place::item(TreeId::EXTENT, key), "on the wrong kind of extent");
                }
                None => context.error(Kind::BackReference, Place::item(TreeId::EXTENT, key), "there is no such extent"),
            }
        }
    }
}

/// Compares each extent with what was met while walking all trees.
pub(crate) fn check_references(context: &mut Context<'_>) {
    for Fault { missing, bytenr, problem } in std::mem::take(&mut context.references.faults) {
        context.error(if missing { Kind::MissingExtent } else { Kind::Extent }, Place::extent(bytenr), problem);
    }
    let partial = context.incomplete;
    let problems: Vec<_> = context
        .references
        .extents()
        .iter()
        .filter_map(|e| e.problem(partial).map(|problem| (e.bytenr, problem)))
        .take(context.options.max_findings.saturating_add(1))
        .collect();
    for (bytenr, problem) in problems {
        context.error(Kind::BackReference, Place::extent(bytenr), problem);
    }
}

/// Compares block groups with chunks, with the extents in them, and with the superblock.
pub(crate) fn check_block_groups(context: &mut Context<'_>, groups: &BlockGroups, chunks: &Chunks) {
    match_chunks(context, groups, chunks);
    let mut total = 0u64;
    for (start, (len, item)) in groups {
        let used = used_within(context, *start, *len, item);
        total = total.saturating_add(item.used.get());
        if used != item.used.get() {
            let problem = format!("used is {}, its extents take {used}", item.used);
            context.error(Kind::Usage, Place::block_group(*start), problem);
        }
    }
    let super_used = context.superblock().bytes_used.get();
    if super_used != total {
        context.error(
            Kind::Usage,
            Place::superblock(),
            format!("bytes_used is {super_used}, the block groups use {total}"),
        );
    }
    outside_extents(context, groups);
    if context.has_ro(CompatRo::BLOCK_GROUP_TREE) && groups.is_empty() {
        context.error(Kind::BlockGroup, Place::tree(TreeId::BLOCK_GROUP), "there are no block groups");
    }
}

fn match_chunks(context: &mut Context<'_>, groups: &BlockGroups, chunks: &Chunks) {
    for (start, (len, item)) in groups {
        let place = Place::block_group(*start);
        match chunks.chunks.get(start) {
            None => context.error(Kind::BlockGroup, place.clone(), "there is no such chunk"),
            Some(chunk) => {
                if chunk.length() != *len {
                    let problem = format!("{len} bytes long, the chunk {}", chunk.length());
                    context.error(Kind::BlockGroup, place.clone(), problem);
                }
                if chunk.flags() != item.flags() {
                    let problem = format!("type {}, the chunk's is {}", item.flags(), chunk.flags());
                    context.error(Kind::BlockGroup, place.clone(), problem);
                }
            }
        }
        if item.chunk_objectid.get() != objectid::FIRST_CHUNK_TREE {
            context.error(Kind::BlockGroup, place.clone(), format!("chunk object is {}", item.chunk_objectid));
        }
    }
    for start in chunks.chunks.keys().filter(|start| !groups.contains_key(start)) {
        context.error(Kind::BlockGroup, Place::chunk(*start), "there is no block group for it");
    }
}

/// The bytes that extents take from a block group; each must be of its type and end within.
fn used_within(context: &mut Context<'_>, start: u64, len: u64, item: &BlockGroupItem) -> u64 {
    let end = start.saturating_add(len);
    let extents = context.references.extents();
    let from = extents.partition_point(|e| e.bytenr < start);
    let (mut used, mut problems) = (0u64, Vec::new());
    for extent in extents.iter().skip(from).take_while(|e| e.bytenr < end) {
        used = used.saturating_add(extent.len);
        if extent.end() > end {
            problems.push((extent.bytenr, format!("ends at {}, past its block group's end {end}", extent.end())));
        }
        if !fits(extent, item.flags()) {
            problems.push((extent.bytenr, format!("lies in a block group of type {}", item.flags())));
        }
    }
    for (bytenr, problem) in problems {
        context.error(Kind::Extent, Place::extent(bytenr), problem);
    }
    used
}

fn fits(extent: &Extent, flags: BlockGroupFlags) -> bool {
    let want = match (extent.is_data(), extent.walked) {
        (true, _) => BlockGroupFlags::DATA,
        (false, Some(BlockOf::ChunkTree)) => BlockGroupFlags::SYSTEM,
        (false, Some(BlockOf::OtherTree)) => BlockGroupFlags::METADATA,
        (false, None) => BlockGroupFlags::METADATA | BlockGroupFlags::SYSTEM,
    };
    extent.opaque || flags.intersects(want)
}

fn outside_extents(context: &mut Context<'_>, groups: &BlockGroups) {
    let outside = |bytenr: u64| {
        groups.range(..=bytenr).next_back().is_none_or(|(start, (len, _))| start.saturating_add(*len) <= bytenr)
    };
    let found: Vec<u64> =
        context.references.extents().iter().map(|e| e.bytenr).filter(|bytenr| outside(*bytenr)).collect();
    for bytenr in found {
        context.error(Kind::Extent, Place::extent(bytenr), "lies in no block group");
    }
}

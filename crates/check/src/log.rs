//! Log trees: what fsync wrote since the last commit, and what a mount will replay.
//!
//! Their blocks have no extent items; the data they refer to may have none yet, but has checksums, in
//! the log or in the checksum tree.

use std::collections::BTreeSet;

use butterfs_format::items::{FileExtent, InodeFlags, InodeItem, RootItem, read_exact};
use butterfs_format::{Generation, ItemType, Key, Logical, TreeBlock, TreeId};

use crate::checksums::Checksums;
use crate::context::Context;
use crate::extent_tree::extents_within;
use crate::finding::{Kind, Place};
use crate::walk::{InOrder, LeafVisitor, TreeRoot, walk};

/// The roots of the log trees.
#[derive(Default)]
struct LogRoots {
    roots: Vec<(Key, RootItem)>,
    blocks: Blocks,
}

/// Addresses of the log's own blocks.
type Blocks = Vec<u64>;

impl LeafVisitor for LogRoots {
    fn leaf(&mut self, context: &mut Context<'_>, leaf: &TreeBlock) {
        self.blocks.push(leaf.bytenr().0);
        for slot in 0..leaf.len() {
            let key = leaf.key(slot);
            match (key.item_type, RootItem::parse(leaf.data(slot))) {
                (ItemType::ROOT_ITEM, Ok(item)) => self.roots.push((key, item)),
                _ => {
                    context.error(Kind::Log, Place::item(TreeId::TREE_LOG, &key), format!("{key} does not belong here"))
                }
            }
        }
    }
}

/// What one subvolume's log says of data.
#[derive(Default)]
struct LogTree {
    sums: Checksums,
    /// Data that needs checksums: inode, address and length.
    wanted: Vec<(u64, u64, u64)>,
    without_sums: Option<u64>,
    blocks: Blocks,
}

impl LeafVisitor for LogTree {
    fn leaf(&mut self, context: &mut Context<'_>, leaf: &TreeBlock) {
        self.blocks.push(leaf.bytenr().0);
        for slot in 0..leaf.len() {
            let (key, data) = (leaf.key(slot), leaf.data(slot));
            match key.item_type {
                ItemType::INODE_ITEM => {
                    let item = read_exact::<InodeItem>(data);
                    let nodatasum = item.is_ok_and(|item| item.flags().contains(InodeFlags::NODATASUM));
                    self.without_sums = nodatasum.then_some(key.objectid);
                }
                ItemType::EXTENT_CSUM => self.sums.add_item(context, leaf, slot),
                ItemType::EXTENT_DATA if self.without_sums != Some(key.objectid) => {
                    let range = FileExtent::parse(data).ok().and_then(|extent| extent.checksummed_range());
                    self.wanted.extend(range.map(|(start, len)| (key.objectid, start, len)));
                }
                _ => {}
            }
        }
    }
}

/// Checks the log, if there is one; gives the data that it refers to.
pub(crate) fn check(context: &mut Context<'_>, sums: &Checksums) -> Checksums {
    let mut data = Checksums::default();
    let sb = context.superblock();
    if sb.log_root.get() == 0 {
        return data;
    }
    let (bytenr, level) = (Logical(sb.log_root.get()), sb.log_root_level);
    let root = log_root(bytenr, level, Generation(context.generation().saturating_add(1)));
    context.note(Kind::Log, Place::superblock(), format!("a log tree at {bytenr} waits to be replayed"));
    let mut roots = LogRoots::default();
    walk(context, &root, &mut InOrder(&mut roots));
    not_allocated(context, &roots.blocks);
    for (key, item) in &roots.roots {
        for (_, start, len) in check_tree(context, key, item, sums) {
            data.add(start, start.saturating_add(len));
        }
    }
    data.settle();
    data
}

fn log_root(bytenr: Logical, level: u8, generation: Generation) -> TreeRoot {
    TreeRoot { id: TreeId::TREE_LOG, bytenr, level, generation, dropped: None, accounted: false }
}

/// Gives the data that the log refers to: inode, address and length.
fn check_tree(context: &mut Context<'_>, key: &Key, item: &RootItem, sums: &Checksums) -> Vec<(u64, u64, u64)> {
    let mut tree = LogTree::default();
    let complete = walk(context, &log_root(item.bytenr(), item.level, item.generation()), &mut InOrder(&mut tree));
    not_allocated(context, &tree.blocks);
    tree.sums.settle();
    for (ino, start, len) in tree.wanted.iter().filter(|_| complete) {
        let in_log = tree.sums.covered(context, *start, *len);
        let covered = in_log.saturating_add(sums.covered(context, *start, *len));
        if covered < *len {
            let problem = format!("of {len} bytes of data at {start} only {covered} have checksums");
            let place = Place { what: "in the log", ..Place::inode(TreeId(key.offset), *ino) };
            context.error(Kind::Checksum, place, problem);
        }
    }
    tree.wanted
}

/// A block of the log lies in free space, as far as the last commit knows.
fn not_allocated(context: &mut Context<'_>, blocks: &[u64]) {
    let (nodesize, mut taken) = (context.nodesize(), BTreeSet::<u64>::new());
    let Some((first, last)) = blocks.iter().min().zip(blocks.iter().max()) else { return };
    let mut sorted = blocks.to_vec();
    sorted.sort_unstable();
    // An extent that begins before the first block's chunk does not reach into it.
    let chunk = context.access.chunk_start(Logical(*first)).unwrap_or(*first);
    extents_within(context, chunk..last.saturating_add(nodesize), &mut |extent| {
        let from = sorted.partition_point(|at| at.saturating_add(nodesize) <= extent.bytenr);
        taken.extend(sorted.iter().skip(from).take_while(|at| **at < extent.end()));
    });
    for bytenr in blocks.iter().filter(|at| taken.contains(*at)) {
        context.error(Kind::Log, Place::block(TreeId::TREE_LOG, Logical(*bytenr)), "lies in an allocated extent");
    }
}

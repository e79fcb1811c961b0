//! An independent checker of a whole Btrfs filesystem.
//!
//! [`check`] reads everything that the superblock leads to, in every copy, and gives back a [`Report`]:
//! [`Finding`]s as values. It shares the parsers of items and the check of one block with the engine
//! (`format`), and the way to the devices (`volume`); no code that writes.
//!
//! The passes, in order, each in a file of its own:
//! 1. `superblocks`: fields and mirrors.
//! 2. `chunks`, `forest`: the chunk tree, the root tree, devices.
//! 3. `extent_tree`, `references`: the extent tree is loaded into a sorted table.
//! 4. `checksums`, then `subvolume` and `inode`: every tree is walked (`walk`); each block is checked
//!    once in all its copies and what it refers to is counted; subvolumes are judged in key order.
//! 5. `log`: log trees.
//! 6. References are compared with back references; block groups, `free_space` and `links` follow.
//!
//! # Bounds
//! Memory: about 100 bytes for each extent and tree block of the filesystem, a range for each run of
//! checksums, and 48 bytes for each unsettled inode of one subvolume at a time. Time: each block is
//! verified once; the leaves of shared blocks are read again for each subvolume that shares them.

mod access;
mod checksums;
mod chunks;
mod context;
mod extent_tree;
mod finding;
mod forest;
mod free_space;
mod inode;
mod links;
mod log;
mod references;
mod subvolume;
mod superblocks;
mod walk;

use std::collections::HashSet;
use std::sync::Arc;

use butterfs_format::items::RootItem;
use butterfs_format::superblock::CompatRo;
use butterfs_format::{Generation, Key, Logical, TreeId};
use butterfs_volume::{BlockDevice, Volume};

use access::Access;
use checksums::Checksums;
use chunks::{Chunks, DeviceExtents};
use context::Context;
use extent_tree::ExtentTree;
pub use finding::{Finding, Kind, Report, Severity, Statistics};
use forest::{Forest, tree_root};
use free_space::FreeSpace;
use subvolume::{Subvolume, SubvolumeEntry};
use walk::{Nothing, TreeRoot, Visitor, walk};

/// The devices of a volume, as they were given to [`Volume::open`].
pub type Devices = Vec<Arc<dyn BlockDevice>>;

/// What to check, and how much to say.
#[derive(Clone)]
pub struct Options {
    /// Read every copy of all data that has checksums, and compare.
    pub data_csums: bool,
    /// The most findings kept; more are only counted.
    pub max_findings: usize,
    /// The devices, to check each superblock copy; with none the copies are not looked at.
    pub devices: Devices,
}

impl Default for Options {
    fn default() -> Self {
        Self { data_csums: false, max_findings: 1000, devices: Devices::new() }
    }
}

/// Checks a whole filesystem that nobody changes meanwhile.
pub fn check(volume: &Volume, options: &Options) -> Report {
    let mut context = Context::new(Access::new(volume, &options.devices), options.clone());
    superblocks::check(&mut context);
    Check { context }.run()
}

/// The passes and what one hands to the next.
struct Check<'v> {
    context: Context<'v>,
}

impl Check<'_> {
    fn run(mut self) -> Report {
        let chunks = self.chunk_tree();
        let forest = self.root_tree();
        forest::check_roots(&mut self.context, &forest);
        let (extents, extents_complete) = self.extent_tree(&forest);
        self.device_tree(&forest, &chunks);
        let sums = self.checksum_tree(&forest);
        let (entries, unread) = self.subvolumes(&forest, &sums);
        self.other_trees(&forest);
        self.free_space_tree(&forest, &extents, &chunks, extents_complete);
        let logged = log::check(&mut self.context, &sums);
        if extents_complete {
            extent_tree::check_references(&mut self.context);
            extent_tree::check_block_groups(&mut self.context, &extents.block_groups, &chunks);
            sums.check_extents(&mut self.context, &logged);
            self.superblock_places(&chunks);
        }
        links::check(&mut self.context, &forest, &entries, &unread);
        self.context.report
    }

    /// Walks a tree that the superblock points to.
    fn top_tree(&mut self, id: TreeId, bytenr: u64, level: u8, generation: u64, visitor: &mut dyn Visitor) -> bool {
        let (bytenr, generation) = (Logical(bytenr), Generation(generation));
        let root = TreeRoot { id, bytenr, level, generation, dropped: None, accounted: true };
        self.tree(&root, visitor)
    }

    fn tree(&mut self, root: &TreeRoot, visitor: &mut dyn Visitor) -> bool {
        self.context.references.count_root(root.id, root.bytenr);
        walk(&mut self.context, root, visitor)
    }

    fn chunk_tree(&mut self) -> Chunks {
        let sb = *self.context.superblock();
        let mut chunks = Chunks::default();
        let generation = sb.chunk_root_generation.get();
        self.top_tree(TreeId::CHUNK, sb.chunk_root.get(), sb.chunk_root_level, generation, &mut chunks);
        chunks
    }

    fn root_tree(&mut self) -> Forest {
        let sb = *self.context.superblock();
        let mut forest = Forest::default();
        forest.complete = self.top_tree(TreeId::ROOT, sb.root.get(), sb.root_level, sb.generation.get(), &mut forest);
        forest
    }

    /// Walks a tree there is one of; gives whether it exists and is whole.
    fn global_tree(&mut self, forest: &Forest, id: TreeId, visitor: &mut dyn Visitor) -> bool {
        let Some(item) = forest.global(id) else { return false };
        self.tree(&tree_root(&Key::new(id.0, butterfs_format::ItemType::ROOT_ITEM, 0), item), visitor)
    }

    fn extent_tree(&mut self, forest: &Forest) -> (ExtentTree, bool) {
        let mut tree = ExtentTree::default();
        let mut complete = self.global_tree(forest, TreeId::EXTENT, &mut tree);
        // Half-way through a conversion there are block groups in both.
        if forest.global(TreeId::BLOCK_GROUP).is_some() {
            complete &= self.global_tree(forest, TreeId::BLOCK_GROUP, &mut tree);
        }
        self.context.references.load(std::mem::take(&mut tree.extents));
        (tree, complete)
    }

    fn device_tree(&mut self, forest: &Forest, chunks: &Chunks) {
        let mut extents = DeviceExtents::default();
        if self.global_tree(forest, TreeId::DEV, &mut extents) {
            chunks::check(&mut self.context, chunks, &extents);
        }
    }

    fn checksum_tree(&mut self, forest: &Forest) -> Checksums {
        let mut sums = Checksums::default();
        self.global_tree(forest, TreeId::CSUM, &mut sums);
        sums
    }

    /// Living subvolumes first, whole; those that are half deleted must not hide blocks from them.
    fn subvolumes(&mut self, forest: &Forest, sums: &Checksums) -> (Vec<SubvolumeEntry>, HashSet<u64>) {
        let (mut entries, mut unread) = (Vec::new(), HashSet::new());
        let subvolumes = || forest.roots.iter().filter(|(key, _)| TreeId(key.objectid).is_subvolume());
        for (key, item) in subvolumes().filter(|(_, item)| item.refs.get() > 0) {
            let mut visitor = Subvolume::new(TreeId(key.objectid), sums, &mut entries);
            let complete = self.tree(&tree_root(key, item), &mut visitor);
            visitor.finish(&mut self.context, complete);
            if !complete {
                unread.insert(key.objectid);
            }
        }
        for (key, item) in subvolumes().filter(|(_, item)| item.refs.get() == 0) {
            self.tree(&tree_root(key, item), &mut Nothing);
        }
        (entries, unread)
    }

    /// Trees of which only structure and references are checked; the free space tree comes later.
    fn other_trees(&mut self, forest: &Forest) {
        let done = [TreeId::BLOCK_GROUP, TreeId::EXTENT, TreeId::DEV, TreeId::CSUM, TreeId::FREE_SPACE];
        let wanted = |(key, _): &&(Key, RootItem)| {
            let id = TreeId(key.objectid);
            !(id.is_subvolume() || done.contains(&id))
        };
        for (key, item) in forest.roots.iter().filter(wanted) {
            if key.objectid == TreeId::QUOTA.0 {
                self.context.note(Kind::Unsupported, "tree 8", "quota groups are not compared with usage");
            }
            self.tree(&tree_root(key, item), &mut Nothing);
        }
    }

    fn free_space_tree(&mut self, forest: &Forest, extents: &ExtentTree, chunks: &Chunks, comparable: bool) {
        let wanted = self.context.has_ro(CompatRo::FREE_SPACE_TREE);
        if wanted != forest.global(TreeId::FREE_SPACE).is_some() {
            let problem = if wanted { "there is no tree 10" } else { "there is a tree 10, but no feature bit" };
            self.context.error(Kind::FreeSpace, "tree 1", problem);
        }
        if !comparable || !self.context.has_ro(CompatRo::FREE_SPACE_TREE_VALID) {
            self.global_tree(forest, TreeId::FREE_SPACE, &mut Nothing);
            return;
        }
        let mut visitor = FreeSpace::new(&extents.block_groups, chunks);
        let complete = self.global_tree(forest, TreeId::FREE_SPACE, &mut visitor);
        visitor.finish(&mut self.context, complete);
    }

    /// Nothing may be allocated where a superblock copy lies.
    fn superblock_places(&mut self, chunks: &Chunks) {
        for (start, end) in chunks.superblock_ranges() {
            if self.context.references.overlaps(start, end.saturating_sub(start)) {
                let problem = "an extent takes the place of a superblock copy";
                self.context.error(Kind::Extent, format!("{start} to {end}"), problem);
            }
        }
    }
}

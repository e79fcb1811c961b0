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
//! 6. References are compared with back references; block groups, `free_space` or `space_cache`,
//!    `links`, `uuid_tree` and `quota` follow.
//!
//! An item that breaks a rule of its own is told of where it is met, and the rest of its leaf is used.
//!
//! # Beyond `btrfs check`
//! Every copy of every tree block, and that copies are the same; every superblock copy, its flags and
//! backup roots; the UUID tree; the default subvolume; statistics of devices, the state of a replacement
//! and of a balance; relations and limits of quota groups; DIR_INDEX, INODE_REF and ROOT_REF byte for
//! byte; places of superblock copies; generations of file extents; log blocks in allocated space; and each
//! item by the rules with which the kernel refuses a block.
//!
//! # Bounds
//! Memory: about 110 bytes for each extent and tree block of the filesystem, a range for each run of
//! checksums, and 48 bytes for each unsettled inode of one subvolume at a time. Time: each block is
//! verified once; the leaves of shared blocks are read again for each subvolume that shares them.

mod access;
mod checksums;
mod chunks;
mod context;
mod device_items;
mod extent_tree;
mod finding;
mod forest;
mod free_space;
mod inode;
mod links;
mod log;
mod overlay;
mod quota;
mod references;
mod space_cache;
mod subvolume;
mod superblocks;
mod uuid_tree;
mod walk;

use std::collections::HashSet;
use std::sync::Arc;

use butterfs_format::items::RootItem;
use butterfs_format::superblock::CompatRo;
use butterfs_format::{Generation, Key, Logical, TreeBlock, TreeId};
use butterfs_volume::{BlockDevice, Volume};

use access::Access;
use checksums::Checksums;
use chunks::{Chunks, DeviceExtents};
use context::Context;
use extent_tree::ExtentTree;
pub use finding::{Counter, Finding, Kind, Place, QuotaGroup, Report, Severity, Statistics};
use forest::{Forest, tree_root};
use free_space::FreeSpace;
pub use overlay::{open_failure, superblock_copy, with_superblock};
use quota::QuotaTree;
use subvolume::{Subvolume, SubvolumeEntry};
use uuid_tree::UuidTree;
use walk::{Nothing, TreeRoot, Visitor, walk};

/// The devices of a volume, as they were given to [`Volume::open`].
pub type Devices = Vec<Arc<dyn BlockDevice>>;

/// What a check is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Superblocks.
    Superblocks,
    /// Chunk tree, root tree, extent tree, device tree.
    Extents,
    /// Checksum tree, and data if that was asked for.
    Checksums,
    /// Subvolumes and other trees.
    Subvolumes,
    /// Free space, references, quotas: what is compared at the end.
    References,
}

impl Stage {
    /// The stage in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Superblocks => "superblocks",
            Self::Extents => "extents",
            Self::Checksums => "checksums",
            Self::Subvolumes => "subvolumes",
            Self::References => "references",
        }
    }
}

/// Is told the stage and how many tree blocks were checked so far.
pub type Progress = Arc<dyn Fn(Stage, u64) + Send + Sync>;

/// What to check, and how much to say.
#[derive(Clone)]
pub struct Options {
    /// Read every copy of all data that has checksums, and compare.
    pub data_csums: bool,
    /// The most findings kept; more are only counted.
    pub max_findings: usize,
    /// The devices, to check each superblock copy; with none the copies are not looked at.
    pub devices: Devices,
    /// Who wants to know how far it got.
    pub progress: Option<Progress>,
}

impl Default for Options {
    fn default() -> Self {
        Self { data_csums: false, max_findings: 1000, devices: Devices::new(), progress: None }
    }
}

/// Checks a whole filesystem that nobody changes meanwhile.
pub fn check(volume: &Volume, options: &Options) -> Report {
    let mut context = Context::new(Access::new(volume, &options.devices), options.clone());
    superblocks::check(&mut context);
    for id in volume.missing_devices() {
        context.warn(Kind::Device, Place::device(id.devid.0), "is missing: what it holds was not looked at");
    }
    Check { context }.run()
}

/// A subvolume that is being deleted: it still holds what was not dropped yet.
struct HalfDeleted;

impl Visitor for HalfDeleted {
    fn leaf(&mut self, _: &mut Context<'_>, _: &TreeBlock, _: bool) {}

    fn wants_shared(&self) -> bool {
        true
    }
}

/// Whether a tree holds inodes as a subvolume does: subvolumes, and the tree for data that is relocated.
fn has_inodes(id: TreeId) -> bool {
    id.is_subvolume() || id == TreeId::DATA_RELOC
}

/// The passes and what one hands to the next.
struct Check<'v> {
    context: Context<'v>,
}

impl Check<'_> {
    fn run(mut self) -> Report {
        self.context.stage(Stage::Extents);
        let chunks = self.chunk_tree();
        let forest = self.root_tree();
        forest::check_roots(&mut self.context, &forest);
        let (extents, extents_complete) = self.extent_tree(&forest);
        self.device_tree(&forest, &chunks);
        self.context.stage(Stage::Checksums);
        let sums = self.checksum_tree(&forest);
        self.context.stage(Stage::Subvolumes);
        let quota = self.quota_tree(&forest);
        let (entries, unread) = self.subvolumes(&forest, &sums);
        self.other_trees(&forest);
        self.uuid_tree(&forest);
        self.context.stage(Stage::References);
        self.free_space_tree(&forest, &extents, &chunks, extents_complete);
        let logged = log::check(&mut self.context, &sums);
        if extents_complete {
            extent_tree::check_references(&mut self.context);
            extent_tree::check_block_groups(&mut self.context, &extents.block_groups, &chunks);
            sums.check_extents(&mut self.context, &logged);
            self.superblock_places(&chunks);
            space_cache::check(&mut self.context, &forest.cache, &extents.block_groups, &chunks);
        }
        if let Some(quota) = quota.filter(|_| extents_complete && !self.context.incomplete) {
            quota.check_usage(&mut self.context);
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
        // Such a ROOT_ITEM was told of already, and there is nothing to find there.
        if !root.bytenr.0.is_multiple_of(self.context.sectorsize()) {
            self.context.incomplete = true;
            return false;
        }
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

    /// Gives the quota tree, if there is one.
    fn quota_tree(&mut self, forest: &Forest) -> Option<QuotaTree> {
        let mut tree = QuotaTree::default();
        if !self.global_tree(forest, TreeId::QUOTA, &mut tree) {
            return None;
        }
        tree.check(&mut self.context);
        if tree.is_on() {
            self.context.references.track_owners();
        }
        Some(tree)
    }

    fn uuid_tree(&mut self, forest: &Forest) {
        let mut tree = UuidTree::default();
        let exists = forest.global(TreeId::UUID).is_some();
        let complete = self.global_tree(forest, TreeId::UUID, &mut tree);
        if exists {
            uuid_tree::check(&mut self.context, forest, &tree, complete);
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
        let subvolumes = || forest.roots.iter().filter(|(key, _)| has_inodes(TreeId(key.objectid)));
        for (key, item) in subvolumes().filter(|(_, item)| item.refs.get() > 0) {
            let mut visitor = Subvolume::new(TreeId(key.objectid), sums, &mut entries);
            let complete = self.tree(&tree_root(key, item), &mut visitor);
            visitor.finish(&mut self.context, complete);
            if !complete {
                unread.insert(key.objectid);
            }
        }
        for (key, item) in subvolumes().filter(|(_, item)| item.refs.get() == 0) {
            self.tree(&tree_root(key, item), &mut HalfDeleted);
        }
        (entries, unread)
    }

    /// Trees of which only structure and references are checked; the free space tree comes later.
    fn other_trees(&mut self, forest: &Forest) {
        let done = [
            TreeId::BLOCK_GROUP,
            TreeId::EXTENT,
            TreeId::DEV,
            TreeId::CSUM,
            TreeId::FREE_SPACE,
            TreeId::QUOTA,
            TreeId::UUID,
        ];
        let wanted = |(key, _): &&(Key, RootItem)| {
            let id = TreeId(key.objectid);
            !(has_inodes(id) || done.contains(&id))
        };
        for (key, item) in forest.roots.iter().filter(wanted) {
            self.tree(&tree_root(key, item), &mut Nothing);
        }
    }

    fn free_space_tree(&mut self, forest: &Forest, extents: &ExtentTree, chunks: &Chunks, comparable: bool) {
        let wanted = self.context.has_ro(CompatRo::FREE_SPACE_TREE);
        if wanted != forest.global(TreeId::FREE_SPACE).is_some() {
            let problem = if wanted { "there is no tree 10" } else { "there is a tree 10, but no feature bit" };
            self.context.error(Kind::FreeSpace, Place::tree(TreeId::FREE_SPACE), problem);
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
                self.context.error(Kind::Extent, Place::range("superblock copy", start, end), problem);
            }
        }
    }
}

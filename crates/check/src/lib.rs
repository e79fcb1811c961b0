//! An independent checker of a whole Btrfs filesystem.
//!
//! [`check`] reads everything that the superblock leads to, in every copy, and gives back a [`Report`]:
//! [`Finding`]s as values. It shares the parsers of items and the check of one block with the engine
//! (`format`), and the way to the devices (`volume`); no code that writes.
//!
//! # Judge by sums, look closely where a sum is wrong
//! A filesystem is nearly always in order, so the first reading only wants to know whether it is. Each fact
//! becomes a fingerprint, and the two sides that must agree are summed up: extents and references ([`sums`]),
//! names and directory entries ([`tally`]), subvolumes and their places ([`links`]). Sums need neither order
//! nor room, so leaves are judged on all cores, and what a shared block contributes is remembered for the
//! next snapshot. Where a sum is wrong, that part is read again, one thing after the other, to name the fault.
//!
//! # The passes, in order
//! 1. `superblocks`: fields and mirrors.
//! 2. `chunks`, `forest`: the chunk tree, the root tree; `quota`.
//! 3. `checksums`, and `data` if it is asked for.
//! 4. `extent_tree`: the sums of extents, and where tree blocks are; then devices; then `mirror` compares
//!    all copies of the tree blocks from the start of the disk to its end.
//! 5. Every other tree is walked (`walk`, `leaves`): each block is checked once in all its copies, and what
//!    it refers to is counted. Subvolumes are summed up (`tally`); of those with a wrong sum each inode is
//!    judged (`subvolume`, `inode`). `loops` looks for directories out of reach.
//! 6. `free_space` or `space_cache`, `log`, `references`, `block_groups`, `links`, `uuid_tree`, `quota`.
//!
//! An item that breaks a rule of its own is told of where it is met, and the rest of its leaf is used.
//!
//! What is found, and its order, depends neither on the number of threads nor on the memory. (How many
//! findings beyond the most are counted may.)
//!
//! # Beyond `btrfs check`
//! See `docs/check.md`.
//!
//! # Bounds
//! Memory: [`Options::memory`] is shared out: a sixteenth for leaves that wait, a sixteenth for blocks read
//! last, a quarter for ranges of checksums (what does not fit is looked up in the tree), a quarter for what
//! shared blocks contribute (what does not fit is read again), an eighth for a table of suspicious extents
//! or of extents with their holders, a quarter for inodes whose names do not agree (for more the trees are
//! read again and again). Beside it: half a MiB of sums, two MiB for each thread, four bits for each sector
//! of metadata, and what grows with the number of chunks, of devices, of subvolumes, and of inodes without
//! links. The least that helps is about 8 MiB.
//!
//! Time: each block is verified once; a block that several subvolumes share is read once, as long as there
//! is memory to remember it.

mod access;
mod block_groups;
mod block_set;
mod checksums;
mod chunks;
mod context;
mod data;
mod device_items;
mod extent_tree;
mod finding;
mod fingerprint;
mod forest;
mod free_space;
mod inode;
mod leaves;
mod links;
mod log;
mod loops;
mod mirror;
mod open_failure;
mod preallocated;
mod quota;
mod recent;
mod references;
mod revisit;
mod simple_quota;
mod space_cache;
mod subvolume;
mod sums;
mod superblocks;
mod tally;
mod uuid_tree;
mod walk;
mod xattrs;

use std::num::NonZeroUsize;
use std::sync::Arc;

use butterfs_format::block::MAX_LEVEL;
use butterfs_format::items::RootItem;
use butterfs_format::superblock::CompatRo;
use butterfs_format::{Generation, Key, Logical, TreeId};
use butterfs_volume::{BlockDevice, Volume};

use access::Access;
pub use butterfs_volume::{superblock_copy, with_superblock};
use checksums::{ChecksumTree, Checksums};
use chunks::{Chunks, DeviceExtents};
use context::Context;
use data::DataCheck;
use extent_tree::ExtentTree;
pub use finding::{Counter, Finding, Kind, Place, QuotaGroup, Report, Severity, Statistics};
use forest::{Forest, tree_root};
use free_space::FreeSpace;
use links::Links;
pub use open_failure::open_failure;
use quota::QuotaTree;
use simple_quota::OwnedBytes;
use tally::{Fast, Memory};
use uuid_tree::UuidTree;
use walk::{InOrder, Nothing, TreeRoot, Visitor, walk};

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
    /// About how many bytes the check may take for itself; see the module's *Bounds*. Less memory makes
    /// it slower, never blind.
    pub memory: u64,
    /// How many threads judge; `None` for as many as there are processors.
    pub threads: Option<NonZeroUsize>,
}

/// What [`Options::memory`] is by default.
pub const DEFAULT_MEMORY: u64 = 512 << 20;

impl Default for Options {
    fn default() -> Self {
        Self {
            data_csums: false,
            max_findings: 1000,
            devices: Devices::new(),
            progress: None,
            memory: DEFAULT_MEMORY,
            threads: None,
        }
    }
}

/// Checks a whole filesystem that nobody changes meanwhile.
pub fn check(volume: &Volume, options: &Options) -> Report {
    let mut context = Context::new(Access::new(volume, &options.devices), options.clone());
    superblocks::check(&mut context);
    for id in volume.missing_devices() {
        context.warn(Kind::Device, Place::device(id.devid.0), "is missing: what it holds was not looked at");
    }
    Check { context, roots: Vec::new() }.run()
}

/// Whether a tree holds inodes as a subvolume does: subvolumes, and the tree for data that is relocated.
fn has_inodes(id: TreeId) -> bool {
    id.is_subvolume() || id == TreeId::DATA_RELOC
}

/// The passes and what one hands to the next.
struct Check<'v> {
    context: Context<'v>,
    /// The trees that were walked, but for logs.
    roots: Vec<TreeRoot>,
}

impl Check<'_> {
    fn run(mut self) -> Report {
        self.context.stage(Stage::Extents);
        let chunks = self.chunk_tree();
        let forest = self.root_tree();
        forest::check_roots(&mut self.context, &forest);
        let quota = self.quota_tree(&forest);
        self.context.stage(Stage::Checksums);
        let sums = self.checksum_tree(&forest);
        self.context.stage(Stage::Extents);
        let (extents, extents_complete) = self.extent_tree(&forest, &chunks, &sums);
        self.device_tree(&forest, &chunks);
        mirror::compare(&mut self.context);
        self.context.stage(Stage::Subvolumes);
        let links = self.subvolumes(&forest, &sums);
        self.other_trees(&forest);
        self.uuid_tree(&forest);
        self.context.stage(Stage::References);
        self.free_space_tree(&forest, &extents, &chunks, extents_complete);
        let logged = log::check(&mut self.context, &sums);
        if extents_complete {
            extent_tree::check_references(&mut self.context, &self.roots);
            extent_tree::check_owners(&mut self.context);
            block_groups::check(&mut self.context, &extents.block_groups, &chunks);
            sums.check_extents(&mut self.context, extents.with_sums, &logged);
            self.preallocated(&logged);
            self.superblock_places(&extents);
            space_cache::check(&mut self.context, &forest.cache, &extents.block_groups, &chunks);
        }
        if let Some(quota) = quota.filter(|_| extents_complete && !self.context.incomplete) {
            let subvolumes = self.roots.iter().filter(|root| root.id.is_subvolume()).copied().collect::<Vec<_>>();
            quota.check_usage(&mut self.context, &subvolumes);
        }
        links.check(&mut self.context, &forest);
        self.context.report
    }

    /// Walks a tree that the superblock points to.
    fn top_tree(&mut self, id: TreeId, bytenr: u64, level: u8, generation: u64, visitor: &mut impl Visitor) -> bool {
        let (bytenr, generation) = (Logical(bytenr), Generation(generation));
        let root = TreeRoot { id, bytenr, level, generation, dropped: None, accounted: true };
        self.tree(&root, visitor)
    }

    fn tree(&mut self, root: &TreeRoot, visitor: &mut impl Visitor) -> bool {
        // Such a ROOT_ITEM was told of already, and there is nothing to find there.
        if !root.bytenr.0.is_multiple_of(self.context.sectorsize()) || root.level >= MAX_LEVEL {
            self.context.incomplete = true;
            return false;
        }
        self.context.count_root(root.id, root.bytenr);
        self.roots.push(*root);
        walk(&mut self.context, root, visitor)
    }

    fn chunk_tree(&mut self) -> Chunks {
        let sb = *self.context.superblock();
        let mut chunks = Chunks::default();
        let generation = sb.chunk_root_generation.get();
        let visitor = &mut InOrder(&mut chunks);
        self.top_tree(TreeId::CHUNK, sb.chunk_root.get(), sb.chunk_root_level, generation, visitor);
        chunks
    }

    fn root_tree(&mut self) -> Forest {
        let sb = *self.context.superblock();
        let mut forest = Forest::default();
        let visitor = &mut InOrder(&mut forest);
        let complete = self.top_tree(TreeId::ROOT, sb.root.get(), sb.root_level, sb.generation.get(), visitor);
        forest.complete = complete;
        forest.settle();
        forest
    }

    /// Walks a tree there is one of; gives whether it exists and is whole.
    fn global_tree(&mut self, forest: &Forest, id: TreeId, visitor: &mut impl Visitor) -> bool {
        let Some(root) = global_root(forest, id) else { return false };
        self.tree(&root, visitor)
    }

    fn extent_tree<'s>(&mut self, forest: &Forest, chunks: &Chunks, sums: &'s Checksums) -> (ExtentTree<'s>, bool) {
        let mut tree = ExtentTree::new(sums, chunks);
        let mut complete = self.global_tree(forest, TreeId::EXTENT, &mut tree);
        self.context.extent_root = global_root(forest, TreeId::EXTENT).filter(|_| complete);
        // Half-way through a conversion there are block groups in both.
        if forest.global(TreeId::BLOCK_GROUP).is_some() {
            complete &= self.global_tree(forest, TreeId::BLOCK_GROUP, &mut tree);
        }
        (tree, complete)
    }

    fn device_tree(&mut self, forest: &Forest, chunks: &Chunks) {
        let mut extents = DeviceExtents::default();
        if self.global_tree(forest, TreeId::DEV, &mut InOrder(&mut extents)) {
            chunks::check(&mut self.context, chunks, &extents);
        }
    }

    /// Gives the quota tree, if there is one.
    fn quota_tree(&mut self, forest: &Forest) -> Option<QuotaTree> {
        let mut tree = QuotaTree::default();
        if !self.global_tree(forest, TreeId::QUOTA, &mut InOrder(&mut tree)) {
            return None;
        }
        tree.check(&mut self.context);
        self.context.owned = tree.simple_since().map(OwnedBytes::new);
        Some(tree)
    }

    fn uuid_tree(&mut self, forest: &Forest) {
        let mut tree = UuidTree::default();
        let exists = forest.global(TreeId::UUID).is_some();
        let complete = self.global_tree(forest, TreeId::UUID, &mut InOrder(&mut tree));
        if exists {
            uuid_tree::check(&mut self.context, forest, &tree, complete);
        }
    }

    fn checksum_tree(&mut self, forest: &Forest) -> Checksums {
        let data = (self.context.options.data_csums && !self.context.is_dump()).then(DataCheck::default);
        let mut tree = ChecksumTree { sums: Checksums::bounded(self.context.options.memory / 4), data };
        self.global_tree(forest, TreeId::CSUM, &mut InOrder(&mut tree));
        if let Some(mut data) = tree.data {
            data.finish(&mut self.context);
        }
        self.context.csum_root = global_root(forest, TreeId::CSUM);
        tree.sums
    }

    /// Living subvolumes first, whole; those that are half deleted must not hide blocks from them.
    fn subvolumes(&mut self, forest: &Forest, sums: &Checksums) -> Links {
        let (mut links, mut memory) = (Links::new(forest), Memory::new(&self.context));
        let subvolumes = || forest.roots.iter().filter(|(key, _)| has_inodes(TreeId(key.objectid)));
        for (key, item) in subvolumes().filter(|(_, item)| item.refs.get() > 0) {
            let root = tree_root(key, item);
            let mut fast = Fast::new(&root, sums, &mut memory, &self.context);
            let complete = self.tree(&root, &mut fast);
            let verdict = fast.finish();
            subvolume::judge(&mut self.context, forest, &root, &verdict, complete, sums, &mut links);
        }
        for (key, item) in subvolumes().filter(|(_, item)| item.refs.get() == 0) {
            self.tree(&tree_root(key, item), &mut Nothing);
        }
        links
    }

    /// Preallocated parts of files whose range has checksums: right only if somebody wrote there.
    fn preallocated(&mut self, logged: &Checksums) {
        if !self.context.preallocated_with_sums.is_empty() {
            preallocated::check(&mut self.context, &self.roots, logged);
        }
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

    fn free_space_tree(&mut self, forest: &Forest, extents: &ExtentTree<'_>, chunks: &Chunks, comparable: bool) {
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
        let complete = self.global_tree(forest, TreeId::FREE_SPACE, &mut InOrder(&mut visitor));
        visitor.finish(&mut self.context, complete);
    }

    /// Nothing may be allocated where a superblock copy lies.
    fn superblock_places(&mut self, extents: &ExtentTree<'_>) {
        for (start, end) in &extents.taken {
            let problem = "an extent takes the place of a superblock copy";
            self.context.error(Kind::Extent, Place::range("superblock copy", *start, *end), problem);
        }
    }
}

/// Where the first tree of this number begins.
fn global_root(forest: &Forest, id: TreeId) -> Option<TreeRoot> {
    let item = forest.global(id)?;
    Some(tree_root(&Key::new(id.0, butterfs_format::ItemType::ROOT_ITEM, 0), item))
}

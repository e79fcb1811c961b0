//! What all checks share: the volume, the report being made, and the blocks seen so far.

use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroUsize;

use butterfs_format::superblock::{CompatRo, Incompat, SUPER_FLAG_METADUMP, SUPER_FLAG_METADUMP_V2};
use butterfs_format::validate::Geometry;
use butterfs_format::{Logical, Superblock, TreeId};

use crate::access::Access;
use crate::block_set::BlockSet;
use crate::finding::{Finding, Kind, Place, Report, Severity};
use crate::leaves::Header;
use crate::recent::Recent;
use crate::references::{Event, root_reference};
use crate::simple_quota::OwnedBytes;
use crate::sums::Sums;
use crate::walk::TreeRoot;
use crate::{Options, Stage};

/// Blocks between two reports of progress.
const TELL_EVERY: u64 = 64;
/// Runs of blocks that lie this close to each other are fetched as one.
const PREFETCH_GAP: u64 = 64 << 10;

/// Preallocated parts of files with checksums that are looked into.
const MAX_PREALLOCATED: usize = 10_000;

/// The state of a running check.
///
/// Memory: a bit for each sector of metadata in each [`BlockSet`], the [`Sums`], and a part of
/// [`Options::memory`] for batches and tables.
pub(crate) struct Context<'v> {
    pub access: Access<'v>,
    pub options: Options,
    pub report: Report,
    /// Tree blocks that were checked.
    pub seen: BlockSet,
    /// Those of them that no copy could be used of.
    pub bad: HashSet<u64>,
    /// Blocks that a tree must not use, since another has them.
    pub refused: HashSet<(TreeId, u64)>,
    /// Tree blocks by their extent items: all; with more than one reference; with full back references.
    pub allocated: BlockSet,
    pub shared: BlockSet,
    pub full: BlockSet,
    /// Blocks of which all copies are the same.
    pub mirrored: BlockSet,
    /// Whether a part of some tree could not be read, so that counts may be short.
    pub incomplete: bool,
    sums: Sums,
    /// Blocks that the tree in their header has not led to yet: the tree that did, and that in the header.
    pub unowned: BTreeMap<u64, (TreeId, TreeId)>,
    /// Roots of trees, as they were met.
    pub roots: Vec<(TreeId, Logical)>,
    /// Bytes of blocks by the tree in their header, for simple quotas.
    pub owned: Option<OwnedBytes>,
    /// Preallocated parts of files whose range has checksums: where, and the address of the extent.
    pub preallocated_with_sums: Vec<(Place, u64)>,
    /// Where the trees begin that are looked up in later.
    pub extent_root: Option<TreeRoot>,
    pub csum_root: Option<TreeRoot>,
    pub recent: Recent,
    threads: usize,
    stage: Stage,
}

impl<'v> Context<'v> {
    pub fn new(access: Access<'v>, options: Options) -> Self {
        let (sectorsize, nodesize) = (access.superblock().sectorsize.get(), access.superblock().nodesize.get());
        let set = || BlockSet::new(u64::from(sectorsize));
        let all = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            access,
            report: Report::default(),
            seen: set(),
            bad: HashSet::new(),
            refused: HashSet::new(),
            allocated: set(),
            shared: set(),
            full: set(),
            mirrored: set(),
            incomplete: false,
            sums: Sums::new(),
            unowned: BTreeMap::new(),
            roots: Vec::new(),
            owned: None,
            preallocated_with_sums: Vec::new(),
            extent_root: None,
            csum_root: None,
            recent: Recent::new((options.memory / 16 / u64::from(nodesize.max(4096))).min(4096) as usize),
            threads: options.threads.map_or_else(all, NonZeroUsize::get),
            options,
            stage: Stage::Superblocks,
        }
    }

    /// How many leaves wait to be judged together: a sixteenth of the memory, if they are kept whole.
    pub fn batch(&self) -> usize {
        (self.options.memory / 16 / self.nodesize().max(4096)).clamp(8, 2048) as usize
    }

    pub fn threads(&self) -> usize {
        self.threads
    }

    pub fn sums(&self) -> &Sums {
        &self.sums
    }

    /// Counts what was met in a walk.
    pub fn event(&self, event: &Event) {
        self.sums.event(event);
    }

    /// Counts the reference to a tree's root.
    pub fn count_root(&mut self, id: TreeId, bytenr: Logical) {
        self.event(&root_reference(id, bytenr, self.nodesize()));
        self.roots.push((id, bytenr));
    }

    /// A pointer that the tree `by` owns leads to a block; with a header, for the first time.
    ///
    /// Below a block with full back references that is still in its tree (relocation makes such), a block is referred to
    /// by its parent, and is its tree's own all the same. Trees are walked in the order of their numbers, and a block is
    /// shared with trees that are younger than its own: so its own is the first to come to it.
    pub fn reached(&mut self, root: &TreeRoot, bytenr: Logical, by: Option<TreeId>, header: Option<Header>) {
        if !root.accounted {
            return;
        }
        if let (Some(header), Some(owned)) = (header, &mut self.owned) {
            owned.block(header, u64::from(self.access.superblock().nodesize.get()));
        }
        if !root.id.is_shareable() {
            return;
        }
        match header {
            Some(Header { owner, .. }) if by != Some(owner) && root.id != owner && !self.full.contains(bytenr.0) => {
                self.unowned.insert(bytenr.0, (root.id, owner));
            }
            Some(_) => {}
            None => {
                let found = |owner: TreeId| by == Some(owner) || root.id == owner;
                if self.unowned.get(&bytenr.0).is_some_and(|(_, owner)| found(*owner)) {
                    self.unowned.remove(&bytenr.0);
                }
            }
        }
    }

    /// Tells the system which blocks will be read; those whose copies were compared were read just now.
    pub fn prefetch(&self, blocks: &mut Vec<u64>) {
        blocks.retain(|bytenr| !self.mirrored.contains(*bytenr));
        if blocks.len() < 2 {
            return;
        }
        blocks.sort_unstable();
        let (nodesize, mut run) = (self.nodesize(), None::<(u64, u64)>);
        for start in blocks.iter().copied() {
            let end = start.saturating_add(nodesize);
            run = match run {
                Some((from, to)) if start.saturating_sub(to) <= PREFETCH_GAP => Some((from, end.max(to))),
                other => {
                    other.into_iter().for_each(|(from, to)| self.access.prefetch(from, to - from));
                    Some((start, end))
                }
            };
        }
        run.into_iter().for_each(|(from, to)| self.access.prefetch(from, to - from));
    }

    pub fn superblock(&self) -> &Superblock {
        self.access.superblock()
    }

    pub fn geometry(&self) -> Geometry {
        self.access.geometry()
    }

    pub fn sectorsize(&self) -> u64 {
        u64::from(self.superblock().sectorsize.get())
    }

    pub fn nodesize(&self) -> u64 {
        u64::from(self.superblock().nodesize.get())
    }

    pub fn generation(&self) -> u64 {
        self.superblock().generation.get()
    }

    pub fn has(&self, feature: Incompat) -> bool {
        self.superblock().incompat().contains(feature)
    }

    pub fn has_ro(&self, feature: CompatRo) -> bool {
        self.superblock().compat_ro().contains(feature)
    }

    /// Adds an error.
    pub fn error(&mut self, kind: Kind, place: Place, problem: impl Into<String>) {
        self.add(Finding { severity: Severity::Error, kind, place, problem: problem.into() });
    }

    /// Adds a warning.
    pub fn warn(&mut self, kind: Kind, place: Place, problem: impl Into<String>) {
        self.add(Finding { severity: Severity::Warning, kind, place, problem: problem.into() });
    }

    /// Adds a note.
    pub fn note(&mut self, kind: Kind, place: Place, problem: impl Into<String>) {
        self.add(Finding { severity: Severity::Note, kind, place, problem: problem.into() });
    }

    /// A preallocated part of a file whose range has checksums, of the extent at `bytenr`.
    pub fn preallocated(&mut self, place: Place, bytenr: u64) {
        // More can hardly be told of.
        if self.preallocated_with_sums.len() < MAX_PREALLOCATED {
            self.preallocated_with_sums.push((place, bytenr));
        }
    }

    /// Whether more findings will be kept.
    pub fn has_room(&self) -> bool {
        self.report.findings.len() < self.options.max_findings
    }

    /// Adds a finding.
    pub fn add(&mut self, finding: Finding) {
        if self.has_room() {
            self.report.findings.push(finding);
        } else if finding.severity == Severity::Error {
            self.report.statistics.suppressed += 1;
        }
    }

    /// The tree that block group items belong to.
    pub fn block_group_tree(&self) -> TreeId {
        if self.has_ro(CompatRo::BLOCK_GROUP_TREE) { TreeId::BLOCK_GROUP } else { TreeId::EXTENT }
    }

    /// Whether the filesystem was restored by btrfs-image, so that it has no data.
    pub fn is_dump(&self) -> bool {
        self.superblock().flags.get() & (SUPER_FLAG_METADUMP | SUPER_FLAG_METADUMP_V2) != 0
    }

    /// Tells whoever waits what is being done.
    pub fn stage(&mut self, stage: Stage) {
        self.stage = stage;
        self.tell();
    }

    /// Tells whoever waits how far it got.
    pub fn tell(&self) {
        if let Some(progress) = &self.options.progress {
            progress(self.stage, self.report.statistics.tree_blocks);
        }
    }

    /// Tells whoever waits how far it got, once for so many blocks.
    pub fn tell_now_and_then(&self) {
        if self.report.statistics.tree_blocks.is_multiple_of(TELL_EVERY) {
            self.tell();
        }
    }

    /// How many copies of the block at `at` there are; at least one, so that reading it tells why not.
    pub fn block_copies(&self, at: Logical) -> usize {
        self.access.copies(at).max(1)
    }
}

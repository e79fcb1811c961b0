//! What all checks share: the volume, the report being made, and the blocks seen so far.

use std::collections::HashSet;

use butterfs_format::superblock::{CompatRo, Incompat, SUPER_FLAG_METADUMP, SUPER_FLAG_METADUMP_V2};
use butterfs_format::validate::Geometry;
use butterfs_format::{Logical, Superblock, TreeId};

use crate::access::Access;
use crate::finding::{Finding, Kind, Place, Report, Severity};
use crate::references::References;
use crate::{Options, Stage};

/// The state of a running check.
///
/// Memory: 8 bytes (and the set's overhead) for each tree block, and what [`References`] holds.
pub(crate) struct Context<'v> {
    pub access: Access<'v>,
    pub options: Options,
    pub report: Report,
    /// Addresses of tree blocks that were checked.
    pub seen: HashSet<u64>,
    /// Those of them that no copy could be used of.
    pub bad: HashSet<u64>,
    /// Whether a part of some tree could not be read, so that counts may be short.
    pub incomplete: bool,
    pub references: References,
    /// Preallocated parts of files whose range has checksums: where, and the address of the extent. That
    /// is an error if nobody wrote to the extent.
    pub preallocated_with_sums: Vec<(Place, u64)>,
    stage: Stage,
}

impl<'v> Context<'v> {
    pub fn new(access: Access<'v>, options: Options) -> Self {
        let references = References::new(u64::from(access.superblock().nodesize.get()));
        Self {
            access,
            options,
            report: Report::default(),
            seen: HashSet::new(),
            bad: HashSet::new(),
            incomplete: false,
            references,
            preallocated_with_sums: Vec::new(),
            stage: Stage::Superblocks,
        }
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
        self.add(Severity::Error, kind, place, problem.into());
    }

    /// Adds a warning.
    pub fn warn(&mut self, kind: Kind, place: Place, problem: impl Into<String>) {
        self.add(Severity::Warning, kind, place, problem.into());
    }

    /// Adds a note.
    pub fn note(&mut self, kind: Kind, place: Place, problem: impl Into<String>) {
        self.add(Severity::Note, kind, place, problem.into());
    }

    fn add(&mut self, severity: Severity, kind: Kind, place: Place, problem: String) {
        if self.report.findings.len() < self.options.max_findings {
            self.report.findings.push(Finding { severity, kind, place, problem });
        } else if severity == Severity::Error {
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

    /// How many copies of the block at `at` there are; at least one, so that reading it tells why not.
    pub fn block_copies(&self, at: Logical) -> usize {
        self.access.copies(at).max(1)
    }
}

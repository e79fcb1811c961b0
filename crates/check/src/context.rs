//! What all checks share: the volume, the report being made, and the blocks seen so far.

use std::collections::HashSet;

use butterfs_format::superblock::{CompatRo, Incompat};
use butterfs_format::validate::Geometry;
use butterfs_format::{Logical, Superblock};

use crate::Options;
use crate::access::Access;
use crate::finding::{Finding, Kind, Report, Severity};
use crate::references::References;

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
        }
    }

    pub fn superblock(&self) -> &Superblock {
        self.access.superblock()
    }

    pub fn geometry(&self) -> Geometry {
        Geometry::of(self.access.superblock())
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
    pub fn error(&mut self, kind: Kind, place: impl Into<String>, problem: impl Into<String>) {
        self.add(Severity::Error, kind, place.into(), problem.into());
    }

    /// Adds a warning.
    pub fn warn(&mut self, kind: Kind, place: impl Into<String>, problem: impl Into<String>) {
        self.add(Severity::Warning, kind, place.into(), problem.into());
    }

    /// Adds a note.
    pub fn note(&mut self, kind: Kind, place: impl Into<String>, problem: impl Into<String>) {
        self.add(Severity::Note, kind, place.into(), problem.into());
    }

    fn add(&mut self, severity: Severity, kind: Kind, place: String, problem: String) {
        if self.report.findings.len() < self.options.max_findings {
            self.report.findings.push(Finding { severity, kind, place, problem });
        } else if severity == Severity::Error {
            self.report.statistics.suppressed += 1;
        }
    }

    /// How many copies of the block at `at` there are; at least one, so that reading it tells why not.
    pub fn block_copies(&self, at: Logical) -> usize {
        self.access.copies(at).max(1)
    }
}

//! The report: findings, quotas as they were counted, and what was looked at.
//!
//! # Invariants
//! * It never holds more findings than [`crate::Options::max_findings`]; the rest is counted.

use std::fmt;

use super::{Finding, Kind, Severity, qgroup_name};

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Trees walked.
    pub trees: u64,
    /// Tree blocks checked, each once however often it is shared.
    pub tree_blocks: u64,
    /// Copies of tree blocks checked.
    pub tree_block_copies: u64,
    /// Chunks.
    pub chunks: u64,
    /// Items of the extent tree.
    pub extents: u64,
    /// References counted while walking the trees.
    pub references: u64,
    /// Inodes of subvolumes; an inode in two snapshots counts twice.
    pub inodes: u64,
    /// Bytes of data that have checksums.
    pub checksummed_bytes: u64,
    /// Bytes of data read and compared with their checksums, all copies counted.
    pub verified_bytes: u64,
    /// Findings beyond [`crate::Options::max_findings`].
    pub suppressed: u64,
}

impl Statistics {
    /// Each number with its name.
    pub fn named(&self) -> [(&'static str, u64); 10] {
        [
            ("trees", self.trees),
            ("tree_blocks", self.tree_blocks),
            ("tree_block_copies", self.tree_block_copies),
            ("chunks", self.chunks),
            ("extents", self.extents),
            ("references", self.references),
            ("inodes", self.inodes),
            ("checksummed_bytes", self.checksummed_bytes),
            ("verified_bytes", self.verified_bytes),
            ("suppressed", self.suppressed),
        ]
    }
}

/// A counter as it is stored, and as it was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// In the quota tree.
    pub stored: u64,
    /// By the checker.
    pub counted: u64,
}

/// Prints `16384 (counted 4096)`.
impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (counted {})", self.stored, self.counted)
    }
}

/// A quota group: what its item says and what was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaGroup {
    /// Level in the upper 16 bits, subvolume or number in the lower 48.
    pub id: u64,
    /// Bytes that its members refer to.
    pub referenced: Counter,
    /// Bytes that nobody else refers to.
    pub exclusive: Counter,
}

impl QuotaGroup {
    /// Whether stored and counted bytes are the same.
    pub fn agrees(&self) -> bool {
        [self.referenced, self.exclusive].iter().all(|counter| counter.stored == counter.counted)
    }
}

/// Prints `0/5: referenced 16384 (counted 16384), exclusive ...`.
impl fmt::Display for QuotaGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: referenced {}, exclusive {}", qgroup_name(self.id), self.referenced, self.exclusive)
    }
}

/// The outcome of a check.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was found, in the order of finding.
    pub findings: Vec<Finding>,
    /// What was looked at.
    pub statistics: Statistics,
    /// Quota groups in order, if quotas are on and could be counted.
    pub quota_groups: Vec<QuotaGroup>,
}

impl Report {
    /// Whether no error was found.
    pub fn is_clean(&self) -> bool {
        self.statistics.suppressed == 0 && self.worst() < Some(Severity::Error)
    }

    /// The gravest severity found, if anything was. After an orderly commit by a current writer it
    /// should be [`Severity::Note`] at most.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|f| f.severity).max()
    }

    /// Whether there is a finding of this kind.
    pub fn has(&self, kind: Kind) -> bool {
        self.findings.iter().any(|f| f.kind == kind)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let s = &self.statistics;
        if s.suppressed > 0 {
            writeln!(f, "{} more findings are not listed", s.suppressed)?;
        }
        write!(
            f,
            "{} trees, {} tree blocks in {} copies, {} extents, {} references, {} inodes, {} bytes with checksums",
            s.trees, s.tree_blocks, s.tree_block_copies, s.extents, s.references, s.inodes, s.checksummed_bytes
        )
    }
}

//! Findings: what is wrong, where, and how bad it is; and the report that gathers them.
//!
//! # Invariants
//! * A report never holds more findings than [`crate::Options::max_findings`]; the rest is counted.

use std::fmt;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Something that was not looked at, or that is worth knowing. A filesystem with notes is clean.
    Note,
    /// Odd, and what an older tool or a power cut may leave: a stale superblock mirror, say.
    Warning,
    /// The filesystem breaks a rule of the format.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The class of a finding.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Kind {
            $($(#[$doc])* $name,)*
        }

        impl Kind {
            /// The kind in words.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

kinds! {
    /// The filesystem uses what this checker cannot judge.
    Unsupported = "unsupported",
    /// A superblock copy is unreadable, or its checksum or fields are wrong.
    Superblock = "superblock",
    /// Superblock copies disagree.
    SuperblockMirror = "superblock mirror",
    /// A tree block cannot be used in any copy.
    TreeBlock = "tree block",
    /// One copy of a tree block is bad.
    TreeBlockCopy = "tree block copy",
    /// A tree's structure is wrong: a child outside its parent's range, a block used twice.
    TreeStructure = "tree structure",
    /// A ROOT_ITEM is wrong or missing.
    RootItem = "root item",
    /// A key that has no business in its tree.
    UnknownKey = "unknown key",
    /// A chunk is wrong, or has no device extent.
    Chunk = "chunk",
    /// A device item or the devices' totals are wrong.
    Device = "device",
    /// A device extent is wrong, or has no chunk.
    DeviceExtent = "device extent",
    /// A block group is wrong, or has no chunk.
    BlockGroup = "block group",
    /// A usage counter is wrong: of a block group, or of the superblock.
    Usage = "usage",
    /// An extent item is wrong.
    Extent = "extent",
    /// Something refers to an extent that has no extent item.
    MissingExtent = "missing extent",
    /// Back references and references disagree.
    BackReference = "back reference",
    /// The free space tree disagrees with the extent tree, or with itself.
    FreeSpace = "free space",
    /// An inode item is missing or wrong.
    Inode = "inode",
    /// An inode's link count is wrong.
    LinkCount = "link count",
    /// Directory items, indexes and inode references disagree.
    DirectoryEntry = "directory entry",
    /// A file's extents are wrong.
    FileExtent = "file extent",
    /// An inode or a subvolume without links has no orphan item.
    Orphan = "orphan",
    /// Root references and directory entries of a subvolume disagree.
    Subvolume = "subvolume",
    /// Checksums are missing, or there are some where no data is.
    Checksum = "checksum",
    /// Data does not have its checksum.
    DataChecksum = "data checksum",
    /// A log tree waits to be replayed, or is wrong.
    Log = "log",
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Its class.
    pub kind: Kind,
    /// Where it is.
    pub place: String,
    /// Which rule is broken, with the values found.
    pub problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}: {}", self.severity, self.kind, self.place, self.problem)
    }
}

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

/// The outcome of a check.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was found, in the order of finding.
    pub findings: Vec<Finding>,
    /// What was looked at.
    pub statistics: Statistics,
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

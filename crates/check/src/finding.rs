//! Findings: what is wrong, where, and how bad it is; and the report that gathers them.
//!
//! # Invariants
//! * The name of a [`Kind`] never changes: scripts look for it.

mod place;
mod report;

use std::fmt;

use butterfs_format::ItemType;

pub use place::Place;
pub(crate) use place::qgroup_name;
pub use report::{Counter, QuotaGroup, Report, Statistics};

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

impl Severity {
    /// The severity as a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
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
            /// Every kind there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The stable name, for machines.
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
    SuperblockMirror = "superblock-mirror",
    /// A backup of tree roots in the superblock is wrong.
    BackupRoot = "backup-root",
    /// A tree block cannot be used in any copy.
    TreeBlock = "tree-block",
    /// One copy of a tree block is bad.
    TreeBlockCopy = "tree-block-copy",
    /// The flags in a tree block's header are wrong.
    BlockFlags = "block-flags",
    /// A tree's structure is wrong: a child outside its parent's range, a block used twice.
    TreeStructure = "tree-structure",
    /// A ROOT_ITEM is wrong.
    RootItem = "root-item",
    /// There is no ROOT_ITEM of a tree that must be.
    MissingTree = "missing-tree",
    /// A key that has no business in its tree.
    UnknownKey = "unknown-key",
    /// A chunk is wrong, or has no device extent.
    Chunk = "chunk",
    /// A device item or the devices' totals are wrong.
    Device = "device",
    /// A device extent is wrong, or has no chunk.
    DeviceExtent = "device-extent",
    /// Statistics of a device, or the state of a replacement, are wrong.
    DeviceItem = "device-item",
    /// The state of a balance is wrong.
    Balance = "balance",
    /// A block group is wrong, or has no chunk.
    BlockGroup = "block-group",
    /// A usage counter is wrong: of a block group, or of the superblock.
    Usage = "usage",
    /// An extent item is wrong.
    Extent = "extent",
    /// Something refers to an extent that has no extent item.
    MissingExtent = "missing-extent",
    /// Back references and references disagree.
    BackReference = "back-reference",
    /// The free space tree disagrees with the extent tree, or with itself.
    FreeSpace = "free-space",
    /// The v1 space cache disagrees with the extent tree, or with itself.
    SpaceCache = "space-cache",
    /// An inode item is wrong.
    Inode = "inode",
    /// Something belongs to an inode that has no item.
    MissingInode = "missing-inode",
    /// An inode's size is wrong.
    InodeSize = "inode-size",
    /// An inode's count of bytes is not that of its extents.
    InodeBytes = "inode-bytes",
    /// An inode's mode is wrong.
    InodeMode = "inode-mode",
    /// An inode is of a generation to come.
    InodeGeneration = "inode-generation",
    /// An inode has flags that it must not have.
    InodeFlags = "inode-flags",
    /// The inode number cache of kernels before 5.11.
    InodeCache = "inode-cache",
    /// An inode's link count is wrong.
    LinkCount = "link-count",
    /// Directory items, indexes and inode references disagree, or one is wrong.
    DirectoryEntry = "directory-entry",
    /// Directories lie within each other in a circle, out of reach of the root.
    DirectoryLoop = "directory-loop",
    /// A directory has two entries of one name.
    DuplicateName = "duplicate-name",
    /// An INODE_REF or INODE_EXTREF is wrong.
    InodeRef = "inode-ref",
    /// An extended attribute is wrong.
    Xattr = "xattr",
    /// A file's extents are wrong.
    FileExtent = "file-extent",
    /// A part of a file has no extent, and must have one.
    FileHole = "file-hole",
    /// An inode or a subvolume without links has no orphan item.
    Orphan = "orphan",
    /// Root references and directory entries of a subvolume disagree.
    Subvolume = "subvolume",
    /// The UUID tree and the subvolumes disagree.
    UuidTree = "uuid-tree",
    /// Checksums are missing, or there are some where no data is.
    Checksum = "checksum",
    /// Data does not have its checksum.
    DataChecksum = "data-checksum",
    /// A quota group's counters are not what its subvolumes take.
    QuotaUsage = "quota-usage",
    /// Quota groups, their limits or relations are wrong.
    Quota = "quota",
    /// A log tree waits to be replayed, or is wrong.
    Log = "log",
}

impl Kind {
    /// The kind of a finding in an item that breaks a rule of its own.
    pub(crate) fn of_item(item_type: ItemType) -> Self {
        use ItemType as T;
        match item_type {
            T::INODE_ITEM => Self::Inode,
            T::INODE_REF | T::INODE_EXTREF => Self::InodeRef,
            T::DIR_ITEM | T::DIR_INDEX => Self::DirectoryEntry,
            T::XATTR_ITEM => Self::Xattr,
            T::EXTENT_DATA => Self::FileExtent,
            T::EXTENT_CSUM => Self::Checksum,
            T::ROOT_ITEM => Self::RootItem,
            T::ROOT_REF | T::ROOT_BACKREF => Self::Subvolume,
            T::EXTENT_ITEM | T::METADATA_ITEM => Self::Extent,
            T::TREE_BLOCK_REF | T::SHARED_BLOCK_REF | T::SHARED_DATA_REF | T::EXTENT_DATA_REF => Self::BackReference,
            T::BLOCK_GROUP_ITEM => Self::BlockGroup,
            T::FREE_SPACE_INFO | T::FREE_SPACE_EXTENT | T::FREE_SPACE_BITMAP => Self::FreeSpace,
            T::DEV_EXTENT => Self::DeviceExtent,
            T::DEV_ITEM => Self::Device,
            T::CHUNK_ITEM => Self::Chunk,
            _ => Self::UnknownKey,
        }
    }
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
    pub place: Place,
    /// Which rule is broken, with the values found.
    pub problem: String,
}

impl Finding {
    pub(crate) fn error(kind: Kind, place: Place, problem: impl Into<String>) -> Self {
        Self { severity: Severity::Error, kind, place, problem: problem.into() }
    }

    pub(crate) fn warning(kind: Kind, place: Place, problem: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, kind, place, problem: problem.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}: {}", self.severity, self.kind, self.place, self.problem)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_kebab_case_and_unique() {
        let names: HashSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        assert!(names.iter().all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '-')), "{names:?}");
    }
}

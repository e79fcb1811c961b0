//! Findings: what is wrong, where, and how bad it is; and the report that gathers them.
//!
//! # Invariants
//! * A report never holds more findings than [`crate::Options::max_findings`]; the rest is counted.
//! * The name of a [`Kind`] never changes: scripts look for it.

use std::fmt;

use butterfs_format::{DevId, Ino, ItemType, Key, Logical, TreeId};

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

/// Where a finding is: the coordinates that are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// What lies there, in words; empty if the coordinates tell.
    pub what: &'static str,
    /// The tree.
    pub tree: Option<TreeId>,
    /// The inode, in that tree.
    pub inode: Option<Ino>,
    /// The item's key, in that tree.
    pub key: Option<Key>,
    /// The logical address; of an item, that of its leaf.
    pub bytenr: Option<Logical>,
    /// The end of a logical range.
    pub end: Option<Logical>,
    /// Which copy, from 1.
    pub copy: Option<usize>,
    /// The device's number.
    pub devid: Option<DevId>,
    /// The device's path.
    pub device: Option<String>,
    /// The offset on the device, or in the file, in bytes.
    pub offset: Option<u64>,
    /// The quota group.
    pub qgroup: Option<u64>,
}

impl Place {
    fn of(what: &'static str) -> Self {
        Self { what, ..Self::default() }
    }

    fn at(what: &'static str, bytenr: u64) -> Self {
        Self { bytenr: Some(Logical(bytenr)), ..Self::of(what) }
    }

    /// The superblock.
    pub fn superblock() -> Self {
        Self::of("superblock")
    }

    /// A superblock copy, at an offset of a device.
    pub fn superblock_copy(device: String, offset: u64) -> Self {
        Self { device: Some(device), offset: Some(offset), ..Self::superblock() }
    }

    /// A tree.
    pub fn tree(id: TreeId) -> Self {
        Self { tree: Some(id), ..Self::default() }
    }

    /// An item.
    pub fn item(tree: TreeId, key: &Key) -> Self {
        Self { key: Some(*key), ..Self::tree(tree) }
    }

    /// A tree block.
    pub fn block(tree: TreeId, bytenr: Logical) -> Self {
        Self { bytenr: Some(bytenr), what: "block", ..Self::tree(tree) }
    }

    /// An inode.
    pub fn inode(tree: TreeId, ino: u64) -> Self {
        Self { inode: Some(Ino(ino)), ..Self::tree(tree) }
    }

    /// An extent.
    pub fn extent(bytenr: u64) -> Self {
        Self::at("extent", bytenr)
    }

    /// A chunk.
    pub fn chunk(start: u64) -> Self {
        Self::at("chunk", start)
    }

    /// A block group.
    pub fn block_group(start: u64) -> Self {
        Self::at("block group", start)
    }

    /// Data at a logical address.
    pub fn data(bytenr: u64) -> Self {
        Self::at("data", bytenr)
    }

    /// Checksums of a logical range.
    pub fn checksums(start: u64, end: u64) -> Self {
        Self { tree: Some(TreeId::CSUM), ..Self::range("checksums", start, end) }
    }

    /// A logical range.
    pub fn range(what: &'static str, start: u64, end: u64) -> Self {
        Self { end: Some(Logical(end)), ..Self::at(what, start) }
    }

    /// A device.
    pub fn device(devid: u64) -> Self {
        Self { devid: Some(DevId(devid)), ..Self::default() }
    }

    /// A range of a device.
    pub fn device_extent(devid: u64, offset: u64) -> Self {
        Self { devid: Some(DevId(devid)), offset: Some(offset), ..Self::of("device extent") }
    }

    /// A subvolume.
    pub fn subvolume(id: u64) -> Self {
        Self { what: "subvolume", ..Self::tree(TreeId(id)) }
    }

    /// A quota group.
    pub fn qgroup(id: u64) -> Self {
        Self { qgroup: Some(id), ..Self::tree(TreeId::QUOTA) }
    }

    /// This place in a copy, counted from 0.
    pub fn copy(self, copy: usize) -> Self {
        Self { copy: Some(copy + 1), ..self }
    }

    /// This place, at an offset in the file, in bytes.
    pub fn file_offset(self, offset: u64) -> Self {
        Self { offset: Some(offset), ..self }
    }
}

/// A quota group's number as `btrfs qgroup` writes it.
pub(crate) fn qgroup_name(id: u64) -> String {
    format!("{}/{}", id >> 48, id & ((1 << 48) - 1))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leaf = if self.key.is_some() { "in block " } else { "" };
        let mut words = Vec::new();
        words.extend(self.device.clone());
        words.extend(self.tree.map(|tree| format!("tree {}", tree.0 as i64)));
        words.extend(self.inode.map(|ino| format!("inode {}", ino.0 as i64)));
        words.extend(self.key.map(|key| format!("item {key}")));
        words.extend(self.qgroup.map(|id| format!("quota group {}", qgroup_name(id))));
        words.extend((!self.what.is_empty()).then(|| self.what.to_owned()));
        words.extend(self.bytenr.map(|bytenr| format!("{leaf}{bytenr}")));
        words.extend(self.end.map(|end| format!("to {end}")));
        words.extend(self.copy.map(|copy| format!("copy {copy}")));
        words.extend(self.offset.map(|offset| format!("at {offset}")));
        words.extend(self.devid.map(|devid| format!("device {devid}")));
        f.write_str(&words.join(" "))
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

    #[test]
    fn a_place_prints_what_is_known() {
        assert_eq!(Place::inode(TreeId(5), 257).file_offset(4096).to_string(), "tree 5 inode 257 at 4096");
        assert_eq!(Place::block(TreeId(2), Logical(65536)).copy(1).to_string(), "tree 2 block 65536 copy 2");
        assert_eq!(Place::qgroup(1 << 48 | 7).to_string(), "tree 8 quota group 1/7");
        assert_eq!(Place::device_extent(1, 9).to_string(), "device extent at 9 device 1");
    }
}

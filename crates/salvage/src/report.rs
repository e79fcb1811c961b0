//! What was had and what was not.

use std::fmt;
use std::ops::Range;

use butterfs_format::{Ino, Key, TreeId};

use crate::scan::Name;

/// More losses than this are counted and not told of.
const MOST: usize = 1 << 20;

/// What of an inode is lost, or cannot be vouched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LossKind {
    /// Nothing of it could be had but its name.
    Inode,
    /// Owner, permissions, times and the exact size: they are guessed.
    InodeItem,
    /// Bytes of a file, or the target of a symbolic link.
    Data,
    /// Extended attributes.
    Xattrs,
    /// Its name, or one of its names.
    Name,
    /// Entries of a directory.
    Listing,
    /// It comes from an older commit than the last, and may have changed since.
    Outdated,
    /// Its bytes were read, and there is no checksum to hold them against.
    Unverified,
    /// It could be read, and not be made where it was to go.
    NotWritten,
    /// A whole subvolume.
    Subvolume,
    /// Where a subvolume begins: that was guessed.
    Root,
}

impl LossKind {
    /// All kinds.
    pub const ALL: [Self; 11] = [
        Self::Subvolume,
        Self::Root,
        Self::Inode,
        Self::Data,
        Self::Outdated,
        Self::InodeItem,
        Self::Listing,
        Self::Name,
        Self::Xattrs,
        Self::NotWritten,
        Self::Unverified,
    ];

    /// Its name in output for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inode => "inode",
            Self::InodeItem => "inode-item",
            Self::Data => "data",
            Self::Xattrs => "xattrs",
            Self::Name => "name",
            Self::Listing => "listing",
            Self::Outdated => "outdated",
            Self::Unverified => "unverified",
            Self::NotWritten => "not-written",
            Self::Subvolume => "subvolume",
            Self::Root => "root",
        }
    }

    /// What it means, for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Inode => "lost",
            Self::InodeItem => "restored without owner, mode, times and exact size",
            Self::Data => "restored in part, with zeros for the rest",
            Self::Xattrs => "extended attributes may be lost",
            Self::Name => "a name is lost",
            Self::Listing => "directory may have had more entries",
            Self::Outdated => "from an older commit, may have changed since",
            Self::Unverified => "restored, but there is no checksum to verify it",
            Self::NotWritten => "could not be written",
            Self::Subvolume => "subvolume lost",
            Self::Root => "files of the subvolume may be lost or old",
        }
    }
}

/// One thing that could not be had, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Which kind.
    pub kind: LossKind,
    /// The subvolume.
    pub tree: TreeId,
    /// The inode in it.
    pub ino: Ino,
    /// Where it was to go, below the destination; what lost its name goes by its number.
    pub path: Vec<u8>,
    /// Which bytes of the file.
    pub ranges: Vec<Range<u64>>,
    /// Why.
    pub cause: String,
}

/// A path for people: as it is where it is text, but for what would move a terminal's cursor.
pub fn shown(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) if !text.contains(char::is_control) => text.into(),
        _ => path.escape_ascii().to_string(),
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = shown(&self.path);
        write!(f, "{path} (inode {} of tree {}): {}", self.ino, self.tree, self.kind.text())?;
        if !self.ranges.is_empty() {
            let ranges = self.ranges.iter().map(|range| format!("{}-{}", range.start, range.end.saturating_sub(1)));
            write!(f, "; bytes {}", ranges.collect::<Vec<_>>().join(", "))?;
        }
        write!(f, "; {}", self.cause)
    }
}

/// What became of the keys below a tree block that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MadeUp {
    /// All of them were found elsewhere, as they were.
    Whole,
    /// Some come from older blocks, which may have changed since.
    Older,
    /// None, or too few to tell.
    Nothing,
}

impl MadeUp {
    /// Its name in output for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Older => "older",
            Self::Nothing => "nothing",
        }
    }
}

/// A tree block that cannot be read.
#[derive(Clone, Debug)]
pub struct LostBlock {
    /// The tree in which it was met.
    pub tree: TreeId,
    /// Its address and generation.
    pub name: Name,
    /// 0 for a leaf.
    pub level: u8,
    /// The keys that it has, or that lie below it.
    pub keys: Range<Key>,
    /// What is wrong with it.
    pub problem: String,
    /// What stands in for it.
    pub made_up: MadeUp,
}

impl fmt::Display for LostBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tree, (at, generation)) = (self.tree, self.name);
        let made_up = match self.made_up {
            MadeUp::Whole => "all below it was found elsewhere",
            MadeUp::Older => "older blocks stand in for it",
            MadeUp::Nothing => "nothing stands in for it",
        };
        let what = if self.level == 0 { "leaf" } else { "node" };
        let (first, end) = (self.keys.start, self.keys.end);
        write!(f, "{what} {at} of tree {tree}, generation {generation}, keys {first} up to {end}: {made_up}; ")?;
        f.write_str(&self.problem)
    }
}

/// How much was had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Regular files.
    pub files: u64,
    /// Directories, subvolumes among them.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Second and further names.
    pub links: u64,
    /// Pipes, sockets and devices.
    pub specials: u64,
    /// Bytes of files, holes left out.
    pub bytes: u64,
    /// Subvolumes.
    pub subvolumes: u64,
    /// What was there already.
    pub existing: u64,
    /// Symbolic links and special files that were not asked for.
    pub unwanted: u64,
    /// Snapshots that were not asked for.
    pub snapshots: u64,
}

impl Counts {
    /// Each with its name.
    pub fn named(&self) -> [(&'static str, u64); 10] {
        [
            ("files", self.files),
            ("directories", self.directories),
            ("symlinks", self.symlinks),
            ("links", self.links),
            ("specials", self.specials),
            ("bytes", self.bytes),
            ("subvolumes", self.subvolumes),
            ("existing", self.existing),
            ("unwanted", self.unwanted),
            ("snapshots_skipped", self.snapshots),
        ]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.directories += other.directories;
        self.symlinks += other.symlinks;
        self.links += other.links;
        self.specials += other.specials;
        self.bytes += other.bytes;
        self.subvolumes += other.subvolumes;
        self.existing += other.existing;
        self.unwanted += other.unwanted;
        self.snapshots += other.snapshots;
    }
}

/// All that there is to say.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How much was had.
    pub counts: Counts,
    /// What was not, by path.
    pub losses: Vec<Loss>,
    /// Losses beyond those.
    pub more_losses: u64,
    /// Tree blocks that cannot be read.
    pub blocks: Vec<LostBlock>,
    /// How the filesystem was read, where not in the usual way.
    pub notes: Vec<String>,
    /// It was told to stop before the end.
    pub stopped: bool,
}

impl Report {
    pub(crate) fn lose(&mut self, loss: Loss) {
        if self.losses.len() < MOST { self.losses.push(loss) } else { self.more_losses += 1 }
    }

    /// Whether all that was asked for was had, as it was.
    pub fn is_whole(&self) -> bool {
        let harmless = |loss: &Loss| loss.kind == LossKind::Unverified;
        // Of what a lost block had nobody knows for certain that it is all there.
        let certain = |block: &LostBlock| block.made_up == MadeUp::Whole || !block.tree.is_subvolume();
        let all = self.losses.iter().all(harmless) && self.more_losses == 0;
        all && self.blocks.iter().all(certain) && !self.stopped
    }

    /// How many losses there are of each kind.
    pub fn tally(&self) -> Vec<(LossKind, usize)> {
        let count = |kind| self.losses.iter().filter(|loss| loss.kind == kind).count();
        LossKind::ALL.into_iter().map(|kind| (kind, count(kind))).filter(|(_, count)| *count > 0).collect()
    }

    pub(crate) fn sort(&mut self) {
        let order = |a: &Loss, b: &Loss| (&a.path, a.tree, a.ino, a.kind).cmp(&(&b.path, b.tree, b.ino, b.kind));
        self.losses.sort_by(order);
    }
}

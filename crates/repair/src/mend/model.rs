//! One subvolume as its items tell it: inodes, and the claims that name them.
//!
//! # Memory
//! About 300 bytes for each inode and as much for each name, for one subvolume at a time.

use std::collections::{BTreeMap, BTreeSet};

use butterfs_format::hash::name_hash;
use butterfs_format::items::{DirEntry, FileType, InodeExtref, InodeItem, InodeRef, read_exact};
use butterfs_format::{ItemType, Key, TreeId};

use super::items::{entries, inode_extrefs, inode_refs};

/// What a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// An inode of this subvolume.
    Inode(u64),
    /// Another subvolume.
    Subvolume(u64),
}

impl Target {
    /// The target of an entry's location.
    pub fn of(location: &Key) -> Option<Self> {
        match location.item_type {
            ItemType::INODE_ITEM => Some(Self::Inode(location.objectid)),
            ItemType::ROOT_ITEM => Some(Self::Subvolume(location.objectid)),
            _ => None,
        }
    }

    /// The location of an entry that leads there.
    pub fn location(self) -> Key {
        match self {
            Self::Inode(ino) => Key::new(ino, ItemType::INODE_ITEM, 0),
            Self::Subvolume(id) => Key::new(id, ItemType::ROOT_ITEM, u64::MAX),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Inode(ino) => write!(f, "inode {ino}"),
            Self::Subvolume(id) => write!(f, "subvolume {id}"),
        }
    }
}

/// One of the three items that name an inode in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// DIR_ITEM.
    Item,
    /// DIR_INDEX.
    Index,
    /// INODE_REF or INODE_EXTREF; of subvolumes ROOT_REF or ROOT_BACKREF.
    Ref,
}

/// What one item says of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which kind of item.
    pub kind: Kind,
    /// Its key.
    pub key: Key,
    /// What it says the name leads to.
    pub target: Target,
    /// The index it says; none in a DIR_ITEM.
    pub index: Option<u64>,
    /// The type it says; unknown in a reference.
    pub file_type: FileType,
    /// The transaction it says; zero in a reference.
    pub transid: u64,
}

impl Claim {
    /// Whether the item lies where its name says.
    pub fn is_at_home(&self, dir: u64, name: &[u8]) -> bool {
        match self.kind {
            Kind::Item => self.key.objectid == dir && self.key.offset == name_hash(name),
            Kind::Index => self.key.objectid == dir,
            Kind::Ref => {
                let hash = || butterfs_format::hash::extref_hash(butterfs_format::Ino(dir), name);
                self.key.item_type != ItemType::INODE_EXTREF || self.key.offset == hash()
            }
        }
    }
}

/// What is known of a file's extents, after they were mended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extents {
    /// How many there are.
    pub count: u64,
    /// Bytes that nbytes counts.
    pub bytes: u64,
    /// Where the last one ends.
    pub end: u64,
    /// The length of the inline one.
    pub inline: Option<u64>,
    /// The inode says that there are no checksums, but some data has them, or must: it is compressed.
    pub needs_sums: bool,
    /// Some data that needs checksums has none.
    pub without_sums: bool,
}

/// An inode, by whatever items there are of it.
#[derive(Clone, Debug, Default)]
pub struct Inode {
    /// Its item, if it can be read.
    pub item: Option<InodeItem>,
    /// The generation of the leaf with its item: nothing in it is younger.
    pub leaf_generation: u64,
    /// Some item or entry says that there is such an inode.
    pub exists: bool,
    /// It was not there before: a directory for what has no name.
    pub is_new: bool,
    /// It has its own name "..".
    pub root_name: bool,
    /// Entries in it, of either kind.
    pub entries: u64,
    /// Its extents.
    pub extents: Extents,
}

/// A subvolume.
#[derive(Debug, Default)]
pub struct Model {
    /// Inodes by number.
    pub inodes: BTreeMap<u64, Inode>,
    /// Claims by directory and name.
    pub names: BTreeMap<(u64, Vec<u8>), Vec<Claim>>,
    /// Inodes with an orphan item.
    pub orphans: BTreeSet<u64>,
    /// Items of names that cannot be used at all; they are made anew from the others.
    pub spoiled: BTreeSet<Key>,
}

impl Model {
    /// The inode of this number.
    pub fn inode(&mut self, ino: u64) -> &mut Inode {
        let inode = self.inodes.entry(ino).or_default();
        inode.exists = true;
        inode
    }

    /// Takes in an INODE_ITEM.
    pub fn inode_item(&mut self, key: &Key, data: &[u8], leaf_generation: u64) {
        let inode = self.inode(key.objectid);
        inode.item = read_exact(data).ok();
        inode.leaf_generation = leaf_generation;
    }

    /// Takes in an INODE_REF or INODE_EXTREF.
    pub fn references(&mut self, key: &Key, data: &[u8]) {
        let is_ref = key.item_type == ItemType::INODE_REF;
        let names = if is_ref { inode_refs(key, data) } else { inode_extrefs(data) };
        let can_be_read = if is_ref { InodeRef::parse_all(data).is_ok() } else { InodeExtref::parse_all(data).is_ok() };
        if names.is_empty() || !can_be_read {
            self.spoiled.insert(*key);
        }
        self.inode(key.objectid);
        for name in names {
            if key.objectid == 256 && name.dir == 256 && name.name == b".." {
                self.inode(256).root_name = name.index == 0;
                continue;
            }
            let claim = Claim {
                kind: Kind::Ref,
                key: *key,
                target: Target::Inode(key.objectid),
                index: Some(name.index),
                file_type: FileType::Unknown,
                transid: 0,
            };
            self.claim(name.dir, name.name, claim);
        }
    }

    /// Takes in the entries of a DIR_ITEM or DIR_INDEX.
    pub fn entries(&mut self, key: &Key, data: &[u8]) {
        let entries = entries(key, data);
        let is_item = key.item_type == ItemType::DIR_ITEM;
        let dir = self.inode(key.objectid);
        dir.entries += entries.len() as u64;
        if entries.is_empty() || DirEntry::parse_all(data).is_err() {
            self.spoiled.insert(*key);
        }
        for entry in entries {
            let Some(target) = Target::of(&entry.location) else {
                self.spoiled.insert(*key);
                continue;
            };
            let claim = Claim {
                kind: if is_item { Kind::Item } else { Kind::Index },
                key: *key,
                target,
                index: (!is_item).then_some(key.offset),
                file_type: entry.file_type,
                transid: entry.transid,
            };
            self.claim(key.objectid, entry.name, claim);
        }
    }

    /// Takes in what the root tree says of another subvolume that hangs here.
    pub fn root_reference(&mut self, child: TreeId, dir: u64, index: u64, name: &[u8]) {
        let claim = Claim {
            kind: Kind::Ref,
            key: Key::MIN,
            target: Target::Subvolume(child.0),
            index: Some(index),
            file_type: FileType::Directory,
            transid: 0,
        };
        self.claim(dir, name.to_vec(), claim);
    }

    fn claim(&mut self, dir: u64, name: Vec<u8>, claim: Claim) {
        self.names.entry((dir, name)).or_default().push(claim);
    }
}

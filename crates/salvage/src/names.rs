//! The names of a subvolume: from directory entries and from what inodes say of themselves, which tell the same unless
//! some of it is lost.
//!
//! # Invariants
//! * A name from an older leaf counts only where nothing current can speak against it.
//! * `.` and `..` are no names.
//!
//! # Memory
//! About 100 bytes for each name, three times as much until they are brought together.

use std::collections::{HashMap, HashSet};

use butterfs_format::hash::name_hash;
use butterfs_format::items::{DirEntry, FileType, InodeExtref, InodeItem, InodeRef, read_exact};
use butterfs_format::key::is_user_objectid;
use butterfs_format::{Ino, ItemType, Key, TreeId};

use crate::outline::{LeafRef, Outline, Trust};
use crate::source::Block;

/// A name of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The inode.
    pub ino: u64,
    /// The directory.
    pub parent: u64,
    /// The name itself.
    pub bytes: Box<[u8]>,
    /// How far it is to be believed.
    pub trust: Trust,
    /// An entry says that it is that of a directory.
    pub is_dir: bool,
}

/// A name of a subvolume.
#[derive(Clone, Debug)]
pub struct SubvolumeName {
    /// The subvolume.
    pub tree: TreeId,
    /// The directory.
    pub parent: u64,
    /// The name itself.
    pub bytes: Box<[u8]>,
    /// How far it is to be believed.
    pub trust: Trust,
}

/// What one thread found; then what all did.
#[derive(Default)]
pub struct Found {
    /// Sorted by inode, directory and name once they are settled.
    pub names: Vec<Name>,
    /// Subvolumes that have entries.
    pub subvolumes: Vec<SubvolumeName>,
    /// Directories that have an inode item.
    pub dirs: HashMap<u64, (Trust, InodeItem)>,
    /// Inodes all of whose names speak of a time before they were deleted.
    pub deleted: HashSet<u64>,
}

impl Found {
    /// Takes what a leaf has.
    pub fn take(&mut self, leaf: &LeafRef, block: &Block) {
        for (key, data) in leaf.items(block).filter(|(key, _)| is_user_objectid(key.objectid)) {
            let (ino, trust) = (key.objectid, leaf.trust);
            match key.item_type {
                ItemType::INODE_ITEM => self.dir(ino, trust, data),
                ItemType::INODE_REF => {
                    InodeRef::each(data)
                        .flatten()
                        .for_each(|one| self.name((ino, key.offset), one.name, trust, FileType::Unknown));
                }
                ItemType::INODE_EXTREF => {
                    let refs = InodeExtref::parse_all(data).unwrap_or_default();
                    refs.iter().for_each(|one| self.name((ino, one.parent), one.name, trust, FileType::Unknown));
                }
                ItemType::DIR_ITEM | ItemType::DIR_INDEX => {
                    DirEntry::each(data).flatten().for_each(|entry| self.entry(ino, &entry, trust));
                }
                _ => {}
            }
        }
    }

    fn dir(&mut self, ino: u64, trust: Trust, data: &[u8]) {
        let Ok(item) = read_exact::<InodeItem>(data) else { return };
        if item.is_dir() {
            let known = self.dirs.entry(ino).or_insert((trust, item));
            if trust < known.0 {
                *known = (trust, item);
            }
        }
    }

    fn entry(&mut self, parent: u64, entry: &DirEntry<'_>, trust: Trust) {
        let target = entry.location.objectid;
        match entry.location.item_type {
            ItemType::ROOT_ITEM if is_name(entry.name) => {
                self.subvolumes.push(SubvolumeName { tree: TreeId(target), parent, bytes: entry.name.into(), trust });
            }
            ItemType::INODE_ITEM => {
                self.name((target, parent), entry.name, trust, entry.file_type);
            }
            _ => {}
        }
    }

    fn name(&mut self, (ino, parent): (u64, u64), name: &[u8], trust: Trust, kind: FileType) {
        // The top directory has a reference to itself.
        if is_name(name) && ino != Ino::ROOT_DIR.0 && is_user_objectid(ino) && is_user_objectid(parent) {
            let is_dir = kind == FileType::Directory;
            self.names.push(Name { ino, parent, bytes: name.into(), trust, is_dir });
        }
    }

    /// Brings together what all threads found.
    pub fn settle(parts: Vec<Self>, outline: &Outline) -> Self {
        let mut all = Self::default();
        for part in parts {
            all.names.extend(part.names);
            all.subvolumes.extend(part.subvolumes);
            for (ino, (trust, item)) in part.dirs {
                let known = all.dirs.entry(ino).or_insert((trust, item));
                if trust < known.0 {
                    *known = (trust, item);
                }
            }
        }
        all.join_names();
        all.join_subvolumes();
        if !outline.has_all() {
            all.drop_outdated(outline);
        }
        all.drop_twins();
        all
    }

    /// Each name once, with the best that is known of it.
    fn join_names(&mut self) {
        let order = |a: &Name, b: &Name| {
            (a.ino, a.parent, &a.bytes, a.trust, b.is_dir).cmp(&(b.ino, b.parent, &b.bytes, b.trust, a.is_dir))
        };
        self.names.sort_unstable_by(order);
        self.names.dedup_by(|later, kept| {
            let same = (later.ino, later.parent) == (kept.ino, kept.parent) && later.bytes == kept.bytes;
            kept.is_dir |= same && later.is_dir;
            same
        });
        self.names.shrink_to_fit();
    }

    fn join_subvolumes(&mut self) {
        self.subvolumes
            .sort_by(|a, b| (a.tree, a.parent, &a.bytes, a.trust).cmp(&(b.tree, b.parent, &b.bytes, b.trust)));
        self.subvolumes.dedup_by(|a, b| (a.tree, a.parent, &a.bytes) == (b.tree, b.parent, &b.bytes));
    }

    fn drop_outdated(&mut self, outline: &Outline) {
        let taken: HashSet<(u64, Box<[u8]>)> = {
            let of_older: HashSet<(u64, &[u8])> = self.older().map(|name| (name.parent, &*name.bytes)).collect();
            let current = self.names.iter().filter(|name| name.trust == Trust::Current);
            let same = current.filter(|name| of_older.contains(&(name.parent, &*name.bytes)));
            same.map(|name| (name.parent, name.bytes.clone())).collect()
        };
        let outdated = |name: &Name| {
            name.trust == Trust::Older
                && (taken.contains(&(name.parent, name.bytes.clone())) || is_denied(name, outline))
        };
        let gone: HashSet<u64> = self.older().filter(|name| outdated(name)).map(|name| name.ino).collect();
        self.names.retain(|name| !outdated(name));
        let alive: HashSet<u64> = self.names.iter().map(|name| name.ino).filter(|ino| gone.contains(ino)).collect();
        self.deleted = gone.difference(&alive).copied().collect();
        self.subvolumes.retain(|name| {
            let key = Key::new(name.parent, ItemType::DIR_ITEM, name_hash(&name.bytes));
            name.trust == Trust::Current || !outline.is_whole(&(key..key.next()))
        });
    }

    /// One name for two inodes is that of the first; the other goes by its number.
    fn drop_twins(&mut self) {
        let names = &self.names;
        let mut order: Vec<(u64, u64, u32)> = Vec::with_capacity(names.len());
        order.extend(names.iter().zip(0..).map(|(name, index)| (name.parent, name_hash(&name.bytes), index)));
        let bytes = |index: u32| &names[index as usize].bytes;
        order.sort_unstable_by(|a, b| (a.0, a.1, bytes(a.2), a.2).cmp(&(b.0, b.1, bytes(b.2), b.2)));
        let same = |a: &(u64, u64, u32), b: &(u64, u64, u32)| (a.0, a.1) == (b.0, b.1) && bytes(a.2) == bytes(b.2);
        let twins: HashSet<u32> = order.windows(2).filter(|pair| same(&pair[0], &pair[1])).map(|p| p[1].2).collect();
        if twins.is_empty() {
            return;
        }
        let mut index = 0;
        self.names.retain(|_| {
            index += 1;
            !twins.contains(&(index - 1))
        });
    }

    fn older(&self) -> impl Iterator<Item = &Name> {
        self.names.iter().filter(|name| name.trust == Trust::Older)
    }
}

/// Whether what is current would have this name too, if it still were one.
fn is_denied(name: &Name, outline: &Outline) -> bool {
    let refs = Key::new(name.ino, ItemType::INODE_REF, 0)..Key::new(name.ino, ItemType::INODE_EXTREF, u64::MAX);
    let entry = Key::new(name.parent, ItemType::DIR_ITEM, name_hash(&name.bytes));
    outline.is_whole(&refs) || outline.is_whole(&(entry..entry.next()))
}

fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0)
}

//! The inodes of one subvolume, and how names bind them together.
//!
//! Names are compared as sums of fingerprints: each DIR_INDEX adds (directory, index, name) to its
//! target, each INODE_REF the same to its inode, and the two sums must be equal. Memory: [`Links`]
//! (48 bytes) for each inode whose sums are not settled yet, for one subvolume at a time.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use butterfs_format::ids::objectid;
use butterfs_format::items::{DirEntry, FileType, InodeExtref, InodeItem, InodeRef, read_exact};
use butterfs_format::{ItemType, Key, TreeBlock, TreeId};

use crate::checksums::Checksums;
use crate::context::Context;
use crate::finding::{Kind, Place};
use crate::inode::{Entries, Inode};
use crate::walk::Visitor;

/// The inode of a subvolume's top directory.
const ROOT_DIR: u64 = 256;

/// How an inode is named: by itself and by directories.
#[derive(Clone, Copy, Default)]
struct Links {
    nlink: u32,
    mode: u32,
    /// The inode item was met.
    item: bool,
    names: u32,
    name_sum: u64,
    entries: u32,
    entry_sum: u64,
    /// Types that the entries say, one bit each.
    types: u16,
}

/// A directory entry that leads to another subvolume.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SubvolumeEntry {
    pub child: u64,
    pub parent: u64,
    pub dirid: u64,
    pub index: u64,
    pub name: Vec<u8>,
}

/// Checks a subvolume while its leaves are visited in key order.
pub(crate) struct Subvolume<'a> {
    tree: TreeId,
    sums: &'a Checksums,
    current: Option<Inode>,
    links: HashMap<u64, Links>,
    orphans: HashSet<u64>,
    /// Entries to other subvolumes, of all trees.
    pub entries: &'a mut Vec<SubvolumeEntry>,
    root_dir: bool,
    /// The root directory's own name was met: "..", at index 0.
    root_name: bool,
    /// The old inode cache was told of.
    cache_told: bool,
    /// Some item could not be read, so that names and links cannot be judged.
    unreadable: bool,
    /// A part of the tree before the next inode could not be read.
    after_hole: bool,
}

impl<'a> Subvolume<'a> {
    pub fn new(tree: TreeId, sums: &'a Checksums, entries: &'a mut Vec<SubvolumeEntry>) -> Self {
        Self {
            tree,
            sums,
            current: None,
            links: HashMap::new(),
            orphans: HashSet::new(),
            entries,
            root_dir: false,
            root_name: false,
            cache_told: false,
            unreadable: false,
            after_hole: false,
        }
    }

    /// Judges what needs the whole tree.
    pub fn finish(mut self, context: &mut Context<'_>, complete: bool) {
        self.close(context);
        if !complete || self.unreadable {
            return;
        }
        if !self.root_dir {
            context.error(Kind::MissingInode, Place::inode(self.tree, ROOT_DIR), "the subvolume has no root directory");
        }
        if self.root_dir && !self.root_name {
            let problem = "the root directory lacks its own name, \"..\"";
            context.error(Kind::InodeRef, Place::inode(self.tree, ROOT_DIR), problem);
        }
        let mut open: Vec<_> = self.links.iter().map(|(ino, links)| (*ino, *links)).collect();
        open.sort_unstable_by_key(|(ino, _)| *ino);
        for (ino, links) in open {
            self.judge(context, ino, &links);
        }
    }

    fn judge(&self, context: &mut Context<'_>, ino: u64, links: &Links) {
        let place = Place::inode(self.tree, ino);
        let orphan = self.orphans.contains(&ino);
        if !links.item {
            if !orphan {
                let problem = format!("no inode item; {} entries lead to it", links.entries);
                context.error(Kind::MissingInode, place, problem);
            }
            return;
        }
        if links.nlink == 0 && links.names == 0 && links.entries == 0 {
            if !orphan {
                context.error(Kind::Orphan, place, "no links, and no orphan item: it will never be deleted");
            }
            return;
        }
        if links.nlink != links.names {
            let problem = format!("{} links, {} names", links.nlink, links.names);
            context.error(Kind::LinkCount, place.clone(), problem);
        }
        if links.names != links.entries || links.name_sum != links.entry_sum {
            let problem =
                format!("{} names and {} directory entries do not match each other", links.names, links.entries);
            context.error(Kind::DirectoryEntry, place.clone(), problem);
        }
        if links.wrong_type() {
            context.error(
                Kind::DirectoryEntry,
                place,
                format!("an entry's type is not that of mode {:#o}", links.mode),
            );
        }
    }

    fn inode(&mut self, context: &mut Context<'_>, ino: u64) -> &mut Inode {
        if self.current.as_ref().is_none_or(|inode| inode.ino != ino) {
            self.close(context);
        }
        let partial = self.current.is_none() && std::mem::take(&mut self.after_hole);
        self.current.get_or_insert_with(|| Inode::new(ino, partial))
    }

    /// All items of the current inode were met.
    fn close(&mut self, context: &mut Context<'_>) {
        let Some(inode) = self.current.take() else { return };
        context.report.statistics.inodes += 1;
        if inode.partial {
            return;
        }
        inode.check(context, self.tree);
        let links = self.links.entry(inode.ino).or_default();
        if let Some(item) = inode.item {
            links.item = true;
            links.nlink = item.nlink.get();
            links.mode = item.mode.get();
        }
        links.names = inode.names;
        let is_root = inode.ino == ROOT_DIR;
        if is_root {
            self.root_dir = inode.item.is_some_and(|item| item.is_dir());
            if inode.item.is_some_and(|item| item.nlink.get() == 0) {
                let place = Place::inode(self.tree, ROOT_DIR);
                context.error(Kind::LinkCount, place, "the root directory has no links");
            }
        }
        // The root directory's one name is "..", which no entry has.
        if links.settled() || is_root && links.names == 0 && links.entries == 0 && self.root_dir {
            self.links.remove(&inode.ino);
        }
    }

    fn name(&mut self, context: &mut Context<'_>, ino: u64, name: Name<'_>) {
        let own = ino == ROOT_DIR && name.parent == ROOT_DIR;
        let inode = self.inode(context, ino);
        if own {
            self.root_name |= name.index == 0 && name.name == b"..";
            return;
        }
        inode.names = inode.names.saturating_add(1);
        let links = self.links.entry(ino).or_default();
        links.name_sum = links.name_sum.wrapping_add(name.fingerprint());
    }

    /// An item that was told of already: what hangs on it cannot be judged.
    fn unreadable(&mut self, context: &mut Context<'_>, key: &Key) {
        self.inode(context, key.objectid).partial = true;
        self.unreadable = true;
    }

    /// No kernel reads or writes it any more; `btrfs check` calls it an error.
    fn inode_cache(&mut self, context: &mut Context<'_>, key: &Key) {
        if !std::mem::replace(&mut self.cache_told, true) {
            let problem = "the inode number cache of old kernels; nothing uses it any more";
            context.error(Kind::InodeCache, Place::item(self.tree, key), problem);
        }
    }

    fn directory_item(&mut self, context: &mut Context<'_>, key: &Key, data: &[u8]) {
        let Ok(entries) = DirEntry::parse_all(data) else { return self.unreadable(context, key) };
        for (at, entry) in entries.iter().enumerate() {
            if entries.iter().take(at).any(|other| other.name == entry.name) {
                let problem = format!("the name {:?} is there twice", String::from_utf8_lossy(entry.name));
                context.error(Kind::DuplicateName, Place::inode(self.tree, key.objectid), problem);
            }
            self.inode(context, key.objectid).items.add(entry);
        }
    }

    fn directory_index(&mut self, context: &mut Context<'_>, key: &Key, data: &[u8]) {
        let Ok(entries) = DirEntry::parse_all(data) else { return self.unreadable(context, key) };
        for entry in &entries {
            self.inode(context, key.objectid).indexes.add(entry);
            match entry.location.item_type {
                ItemType::INODE_ITEM => self.entry(key, entry),
                _ => self.subvolume_entry(context, key, entry),
            }
        }
    }

    fn entry(&mut self, key: &Key, entry: &DirEntry<'_>) {
        let name = Name { parent: key.objectid, index: key.offset, name: entry.name };
        let links = self.links.entry(entry.location.objectid).or_default();
        links.entries = links.entries.saturating_add(1);
        links.entry_sum = links.entry_sum.wrapping_add(name.fingerprint());
        links.types |= 1 << entry.file_type as u8;
        if links.settled() {
            self.links.remove(&entry.location.objectid);
        }
    }

    fn subvolume_entry(&mut self, context: &mut Context<'_>, key: &Key, entry: &DirEntry<'_>) {
        if entry.file_type != FileType::Directory {
            let problem = format!("the entry of subvolume {} has type {}", entry.location.objectid, entry.file_type);
            context.error(Kind::DirectoryEntry, Place::inode(self.tree, key.objectid), problem);
        }
        self.entries.push(SubvolumeEntry {
            child: entry.location.objectid,
            parent: self.tree.0,
            dirid: key.objectid,
            index: key.offset,
            name: entry.name.to_vec(),
        });
    }

    fn item(&mut self, context: &mut Context<'_>, key: &Key, data: &[u8]) {
        let sums = self.sums;
        match key.item_type {
            ItemType::INODE_ITEM => match read_exact::<InodeItem>(data) {
                Ok(item) => self.inode(context, key.objectid).item = Some(item),
                Err(_) => self.unreadable(context, key),
            },
            ItemType::INODE_REF => {
                let Ok(refs) = InodeRef::parse_all(data) else { return self.unreadable(context, key) };
                for r in refs {
                    let name = Name { parent: key.offset, index: r.index, name: r.name };
                    self.name(context, key.objectid, name);
                }
            }
            ItemType::INODE_EXTREF => {
                let Ok(refs) = InodeExtref::parse_all(data) else { return self.unreadable(context, key) };
                for r in refs {
                    let name = Name { parent: r.parent, index: r.index, name: r.name };
                    self.name(context, key.objectid, name);
                }
            }
            ItemType::DIR_ITEM => self.directory_item(context, key, data),
            ItemType::DIR_INDEX => self.directory_index(context, key, data),
            ItemType::EXTENT_DATA => {
                let tree = self.tree;
                self.inode(context, key.objectid);
                if let Some(inode) = &mut self.current {
                    // Relocation copies preallocated extents too, and knows none of their checksums.
                    let sums = (tree != TreeId::DATA_RELOC).then_some(sums);
                    inode.extent(context, tree, sums, key, data);
                }
            }
            ItemType::XATTR_ITEM | ItemType::VERITY_DESC_ITEM | ItemType::VERITY_MERKLE_ITEM => {
                self.inode(context, key.objectid);
            }
            _ => {
                let problem = format!("{key} does not belong here");
                context.error(Kind::UnknownKey, Place::item(self.tree, key), problem);
            }
        }
    }
}

impl Visitor for Subvolume<'_> {
    fn leaf(&mut self, context: &mut Context<'_>, leaf: &TreeBlock, _: bool) {
        for slot in 0..leaf.len() {
            let key = leaf.key(slot);
            match key.objectid {
                objectid::ORPHAN if key.item_type == ItemType::ORPHAN_ITEM => {
                    self.orphans.insert(key.offset);
                }
                // The inode number cache that kernels before 5.11 kept.
                objectid::FREE_INO | objectid::FREE_SPACE => self.inode_cache(context, &key),
                _ => self.item(context, &key, leaf.data(slot)),
            }
        }
    }

    fn hole(&mut self) {
        self.after_hole = true;
        if let Some(inode) = &mut self.current {
            inode.partial = true;
        }
    }

    fn wants_shared(&self) -> bool {
        true
    }
}

/// A name of an inode, as both sides know it.
struct Name<'a> {
    parent: u64,
    index: u64,
    name: &'a [u8],
}

impl Name<'_> {
    fn fingerprint(&self) -> u64 {
        hash(&(self.parent, self.index, self.name))
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Entries {
    fn add(&mut self, entry: &DirEntry<'_>) {
        self.count += 1;
        self.name_bytes = self.name_bytes.saturating_add(entry.name.len() as u64);
        let what = (entry.location.objectid, entry.location.item_type, entry.file_type as u8, entry.name);
        self.sum = self.sum.wrapping_add(hash(&what));
    }
}

impl Links {
    fn wrong_type(&self) -> bool {
        self.types & !(1 << FileType::from_mode(self.mode) as u8) != 0
    }

    /// Whether all that was said agrees, so that nothing needs to be kept.
    fn settled(&self) -> bool {
        self.item
            && self.names == self.nlink
            && (self.names == self.entries && self.name_sum == self.entry_sum)
            && self.nlink > 0
            && !self.wrong_type()
    }
}

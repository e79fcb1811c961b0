//! The inodes of one subvolume, one by one, and how names bind them together: for a subvolume that its
//! sum ([`crate::tally`]) says may have faults.
//!
//! Names are compared as sums of fingerprints: each DIR_INDEX adds (directory, index, name) to its
//! target, each INODE_REF the same to its inode, and the two sums must be equal. Memory: [`Links`]
//! (48 bytes) for each inode whose sums are not settled yet, for one subvolume at a time. If there are too
//! many inodes, the subvolume is read several times, and each time a part of them is compared.

use std::collections::{BTreeMap, HashMap, HashSet};

use butterfs_format::ids::objectid;
use butterfs_format::items::{DirEntry, FileExtent, FileType, InodeExtref, InodeItem, InodeRef, read_exact};
use butterfs_format::{ItemType, Key, TreeBlock, TreeId};

use crate::checksums::Checksums;
use crate::context::Context;
use crate::finding::{Finding, Kind, Place};
use crate::fingerprint::{named, numbers};
use crate::forest::Forest;
use crate::inode::{Entries, Inode, Rules};
use crate::links::{self, SubvolumeEntry};
use crate::loops;
use crate::revisit::{Revisitor, revisit};
use crate::tally::Verdict;
use crate::walk::TreeRoot;
use crate::xattrs;

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

/// Bytes that one inode's [`Links`] take in a map.
const LINKS_SIZE: u64 = 96;

/// Judges a subvolume that was walked: by its sum, or inode by inode.
pub(crate) fn judge(
    context: &mut Context<'_>,
    forest: &Forest,
    root: &TreeRoot,
    verdict: &Verdict,
    complete: bool,
    sums: &Checksums,
    links: &mut links::Links,
) {
    let agree = links.agree(root.id, verdict);
    if complete && agree && !verdict.suspicious {
        context.report.statistics.inodes += verdict.inodes;
    } else {
        look_closely(context, forest, root, verdict, complete, sums, links);
    }
    if complete {
        loops::check(context, root, &verdict.upward);
    } else {
        links.unread.insert(root.id.0);
    }
}

fn look_closely(
    context: &mut Context<'_>,
    forest: &Forest,
    root: &TreeRoot,
    verdict: &Verdict,
    complete: bool,
    sums: &Checksums,
    links: &mut links::Links,
) {
    let room = (context.options.memory / 4 / LINKS_SIZE).max(64);
    let parts = verdict.inodes.div_ceil(room).max(1);
    let mut judged = BTreeMap::new();
    for part in 0..parts {
        let mut visitor = Subvolume::new(root.id, sums, forest, links, Share { part, of: parts }, Rules::of(context));
        revisit(context, root, &mut visitor);
        visitor.finish(context, complete, &mut judged);
    }
    judged.into_values().flatten().for_each(|finding| context.add(finding));
}

/// Which inodes are compared in one reading.
#[derive(Clone, Copy)]
struct Share {
    part: u64,
    of: u64,
}

impl Share {
    fn has(self, ino: u64) -> bool {
        self.of == 1 || numbers(0, [ino]) % self.of == self.part
    }

    /// Faults that need no comparison are told of once.
    fn is_first(self) -> bool {
        self.part == 0
    }
}

/// The kernel lists such a name beside its own `.` and `..`, and no path leads to it. (What has a name with a slash is
/// refused as an item.)
pub(crate) fn is_taken(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

/// Checks a subvolume while its leaves are visited in key order.
struct Subvolume<'a> {
    tree: TreeId,
    sums: &'a Checksums,
    forest: &'a Forest,
    share: Share,
    rules: Rules,
    current: Option<Inode>,
    links: HashMap<u64, Links>,
    orphans: HashSet<u64>,
    /// Where entries to other subvolumes are gathered.
    entries: &'a mut links::Links,
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
    fn new(
        tree: TreeId,
        sums: &'a Checksums,
        forest: &'a Forest,
        entries: &'a mut links::Links,
        share: Share,
        rules: Rules,
    ) -> Self {
        Self {
            tree,
            sums,
            forest,
            share,
            rules,
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

    /// Judges what needs the whole tree; what is found of links goes to `judged`, by inode.
    fn finish(mut self, context: &mut Context<'_>, complete: bool, judged: &mut BTreeMap<u64, Vec<Finding>>) {
        self.close(context);
        if !complete || self.unreadable {
            return;
        }
        if self.share.is_first() {
            self.judge_root(context);
        }
        for (ino, links) in &self.links {
            let found = self.judge(*ino, links);
            if !found.is_empty() {
                judged.insert(*ino, found);
            }
            // What is above the most findings is not kept anyway.
            if judged.len() > context.options.max_findings {
                judged.pop_last();
            }
        }
    }

    fn judge_root(&self, context: &mut Context<'_>) {
        let place = Place::inode(self.tree, ROOT_DIR);
        if !self.root_dir {
            context.error(Kind::MissingInode, place, "the subvolume has no root directory");
        } else if !self.root_name {
            context.error(Kind::InodeRef, place, "the root directory lacks its own name, \"..\"");
        }
    }

    fn judge(&self, ino: u64, links: &Links) -> Vec<Finding> {
        let place = Place::inode(self.tree, ino);
        let orphan = self.orphans.contains(&ino);
        let mut found = Vec::new();
        let mut error = |kind, problem: String| found.push(Finding::error(kind, place.clone(), problem));
        if !links.item {
            if !orphan {
                error(Kind::MissingInode, format!("no inode item; {} entries lead to it", links.entries));
            }
            return found;
        }
        if links.nlink == 0 && links.names == 0 && links.entries == 0 {
            if !orphan {
                error(Kind::Orphan, "no links, and no orphan item: it will never be deleted".into());
            }
            return found;
        }
        if links.nlink != links.names {
            error(Kind::LinkCount, format!("{} links, {} names", links.nlink, links.names));
        }
        if links.names != links.entries || links.name_sum != links.entry_sum {
            let problem =
                format!("{} names and {} directory entries do not match each other", links.names, links.entries);
            error(Kind::DirectoryEntry, problem);
        }
        if links.wrong_type() {
            error(Kind::DirectoryEntry, format!("an entry's type is not that of mode {:#o}", links.mode));
        }
        found
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
        context.report.statistics.inodes += u64::from(self.share.is_first());
        if inode.partial {
            return;
        }
        if self.share.is_first() {
            inode.check(context, &self.rules, self.tree);
            self.check_root_links(context, &inode);
        }
        if inode.ino == ROOT_DIR {
            self.root_dir = inode.item.is_some_and(|item| item.is_dir());
        }
        if !self.share.has(inode.ino) {
            return;
        }
        let links = self.links.entry(inode.ino).or_default();
        if let Some(item) = inode.item {
            links.item = true;
            links.nlink = item.nlink.get();
            links.mode = item.mode.get();
        }
        links.names = inode.names;
        let is_root = inode.ino == ROOT_DIR;
        // The root directory's one name is "..", which no entry has.
        if links.settled() || is_root && links.names == 0 && links.entries == 0 && self.root_dir {
            self.links.remove(&inode.ino);
        }
    }

    fn check_root_links(&self, context: &mut Context<'_>, inode: &Inode) {
        if inode.ino == ROOT_DIR && inode.item.is_some_and(|item| item.nlink.get() == 0) {
            let place = Place::inode(self.tree, ROOT_DIR);
            context.error(Kind::LinkCount, place, "the root directory has no links");
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
        if !self.share.has(ino) {
            return;
        }
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
        if !std::mem::replace(&mut self.cache_told, true) && self.share.is_first() {
            let problem = "the inode number cache of old kernels; nothing uses it any more";
            context.error(Kind::InodeCache, Place::item(self.tree, key), problem);
        }
    }

    fn directory_item(&mut self, context: &mut Context<'_>, key: &Key, data: &[u8]) {
        let Ok(entries) = DirEntry::parse_all(data) else { return self.unreadable(context, key) };
        for (at, entry) in entries.iter().enumerate() {
            if self.share.is_first() && entries.iter().take(at).any(|other| other.name == entry.name) {
                let problem = format!("the name {:?} is there twice", String::from_utf8_lossy(entry.name));
                context.error(Kind::DuplicateName, Place::inode(self.tree, key.objectid), problem);
            }
            self.inode(context, key.objectid).items.add(entry);
        }
    }

    fn directory_index(&mut self, context: &mut Context<'_>, key: &Key, data: &[u8]) {
        let Ok(entries) = DirEntry::parse_all(data) else { return self.unreadable(context, key) };
        for entry in &entries {
            self.taken_name(context, key, entry);
            self.inode(context, key.objectid).indexes.add(entry);
            match entry.location.item_type {
                ItemType::INODE_ITEM => self.entry(key, entry),
                _ => self.subvolume_entry(context, key, entry),
            }
        }
    }

    fn taken_name(&self, context: &mut Context<'_>, key: &Key, entry: &DirEntry<'_>) {
        if self.share.is_first() && is_taken(entry.name) {
            let problem = format!("an entry has the name {:?}, which is taken", String::from_utf8_lossy(entry.name));
            context.error(Kind::DirectoryEntry, Place::inode(self.tree, key.objectid), problem);
        }
    }

    fn entry(&mut self, key: &Key, entry: &DirEntry<'_>) {
        if !self.share.has(entry.location.objectid) {
            return;
        }
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
        if !self.share.is_first() {
            return;
        }
        if entry.file_type != FileType::Directory {
            let problem = format!("the entry of subvolume {} has type {}", entry.location.objectid, entry.file_type);
            context.error(Kind::DirectoryEntry, Place::inode(self.tree, key.objectid), problem);
        }
        let (child, parent) = (entry.location.objectid, self.tree.0);
        let (dirid, index, name) = (key.objectid, key.offset, entry.name.to_vec());
        self.entries.entry(self.forest, SubvolumeEntry { child, parent, dirid, index, name });
    }

    fn item(&mut self, context: &mut Context<'_>, key: &Key, data: &[u8]) {
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
            ItemType::EXTENT_DATA => self.file_extent(context, key, data),
            ItemType::XATTR_ITEM => {
                self.inode(context, key.objectid);
                if let Some(name) = xattrs::twice(data).filter(|_| self.share.is_first()) {
                    let problem = format!("{:?} is there twice", String::from_utf8_lossy(name));
                    context.error(Kind::Xattr, Place::item(self.tree, key), problem);
                }
            }
            ItemType::VERITY_DESC_ITEM | ItemType::VERITY_MERKLE_ITEM => {
                self.inode(context, key.objectid);
            }
            _ if !self.share.is_first() => {}
            _ => {
                let problem = format!("{key} does not belong here");
                context.error(Kind::UnknownKey, Place::item(self.tree, key), problem);
            }
        }
    }

    fn file_extent(&mut self, context: &mut Context<'_>, key: &Key, data: &[u8]) {
        let (tree, sums, rules, first) = (self.tree, self.sums, self.rules, self.share.is_first());
        let inode = self.inode(context, key.objectid);
        let Ok(extent) = FileExtent::parse(data) else {
            inode.partial = true;
            return;
        };
        if first {
            inode.extent(context, &rules, tree, key, &extent);
            // Relocation copies preallocated extents too, and knows none of their checksums.
            if tree != TreeId::DATA_RELOC {
                inode.checksums(context, tree, sums, key, &extent);
            }
        }
    }
}

impl Revisitor for Subvolume<'_> {
    fn block(&mut self, context: &mut Context<'_>, leaf: &TreeBlock) {
        for slot in (0..leaf.len()).filter(|_| leaf.is_leaf()) {
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
}

/// A name of an inode, as both sides know it.
struct Name<'a> {
    parent: u64,
    index: u64,
    name: &'a [u8],
}

impl Name<'_> {
    fn fingerprint(&self) -> u64 {
        named(0, [self.parent, self.index], self.name)
    }
}

impl Entries {
    pub fn add(&mut self, entry: &DirEntry<'_>) {
        self.count += 1;
        self.name_bytes = self.name_bytes.saturating_add(entry.name.len() as u64);
        let kind = u64::from(entry.location.item_type.0) << 8 | entry.file_type as u64;
        self.sum = self.sum.wrapping_add(named(1, [entry.location.objectid, kind], entry.name));
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

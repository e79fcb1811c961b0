//! Whether a subvolume is in order, quickly: what each leaf says of inodes, names and extents is summed up
//! on its own, on any core, and the sums are joined in key order. Only of a subvolume whose sum is
//! suspicious are the inodes looked at one by one ([`crate::subvolume`]).
//!
//! Names are compared as sums of fingerprints: each INODE_REF adds (inode, directory, index, name), each
//! DIR_INDEX takes the same away, so nothing is kept for an inode. What a block contributes with all below
//! it does not depend on the tree: for a block that several trees share it is remembered, and the block is
//! read once however many snapshots have it.
//!
//! Memory: about a kilobyte for each shared block, up to a quarter of [`crate::Options::memory`]; numbers
//! of inodes without links and of directories below later ones.

use std::collections::HashMap;

use butterfs_format::ids::objectid;
use butterfs_format::items::{DirEntry, FileExtent, FileType, InodeExtref, InodeItem, InodeRef, read_exact};
use butterfs_format::validate::Expected;
use butterfs_format::{ItemType, Key, Logical, TreeBlock, TreeId};

use crate::checksums::Checksums;
use crate::context::Context;
use crate::finding::Finding;
use crate::fingerprint::{named, numbers};
use crate::inode::{Coverage, Inode, Rules, Suspicion};
use crate::links::entry_fingerprint;
use crate::subvolume::is_taken;
use crate::walk::{Shape, TreeRoot, Visitor};
use crate::xattrs::twice;

/// The inode of a subvolume's top directory.
const ROOT_DIR: u64 = 256;
/// Domains of fingerprints.
const LINK: u64 = 10;
const TYPE: u64 = 11;

/// One inode, or a part of it.
#[derive(Clone, Default)]
struct Part {
    inode: Inode,
    coverage: Coverage,
    /// A directory that holds it.
    parent: Option<u64>,
    /// The root directory's own name was met: "..", at index 0.
    root_name: bool,
}

impl Part {
    fn begin(key: &Key) -> Box<Self> {
        let inode = match key.item_type {
            ItemType::INODE_ITEM => Inode::new(key.objectid, false),
            _ => Inode::continued(key.objectid),
        };
        Box::new(Self { inode, ..Self::default() })
    }
}

/// What a part of a subvolume contributes.
#[derive(Clone, Default)]
pub(crate) struct Tally {
    inodes: u64,
    links: u64,
    entries: u64,
    entry_sum: u64,
    orphans: Vec<u64>,
    unlinked: Vec<u64>,
    upward: Vec<u64>,
    root_dir: bool,
    root_name: bool,
    suspicious: bool,
    /// The first and the last inode, which may go on in the leaves beside; one alone is the first.
    first: Option<Box<Part>>,
    last: Option<Box<Part>>,
}

/// What is known of a subvolume.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub inodes: u64,
    /// Something may be wrong.
    pub suspicious: bool,
    /// Entries that lead to other subvolumes: how many, and the sum of their fingerprints.
    pub entries: u64,
    pub entry_sum: u64,
    /// Directories in one with a higher number.
    pub upward: Vec<u64>,
}

impl Tally {
    /// Sums up one leaf.
    fn of(context: &Context<'_>, leaf: &TreeBlock, sums: Option<&Checksums>, rules: &Rules, tree: TreeId) -> Self {
        let (mut tally, at) = (Self::default(), Leaf { context, sums, rules, tree });
        for slot in 0..leaf.len() {
            let key = leaf.key(slot);
            match key.objectid {
                objectid::ORPHAN if key.item_type == ItemType::ORPHAN_ITEM => tally.orphans.push(key.offset),
                objectid::FREE_INO | objectid::FREE_SPACE => tally.suspicious = true,
                _ => {
                    if tally.item(&at, &key, leaf.data(slot)).is_none() {
                        tally.suspicious = true;
                    }
                }
            }
        }
        tally
    }

    /// The part that an item belongs to.
    fn part(&mut self, rules: &Rules, key: &Key) -> &mut Part {
        let same = |part: &Option<Box<Part>>| part.as_ref().is_some_and(|part| part.inode.ino == key.objectid);
        let at_first = self.first.is_none() || self.last.is_none() && same(&self.first);
        if !at_first
            && !same(&self.last)
            && let Some(done) = self.last.take()
        {
            self.close(rules, &done);
        }
        let place = if at_first { &mut self.first } else { &mut self.last };
        place.get_or_insert_with(|| Part::begin(key))
    }

    /// Takes an item in; `None` if it is odd in itself.
    fn item(&mut self, at: &Leaf<'_>, key: &Key, data: &[u8]) -> Option<()> {
        let rules = at.rules;
        let part = self.part(rules, key);
        match key.item_type {
            ItemType::INODE_ITEM => {
                let odd = part.inode.item.is_some();
                part.inode.item = Some(read_exact::<InodeItem>(data).ok()?);
                return (!odd).then_some(());
            }
            ItemType::INODE_REF => {
                for one in InodeRef::each(data) {
                    let one = one.ok()?;
                    self.name(rules, key, key.offset, one.index, one.name);
                }
            }
            ItemType::INODE_EXTREF => {
                for one in InodeExtref::parse_all(data).ok()? {
                    self.name(rules, key, one.parent, one.index, one.name);
                }
            }
            ItemType::DIR_ITEM => {
                for (at, entry) in DirEntry::each(data).enumerate() {
                    let entry = entry.ok()?;
                    if DirEntry::each(data).take(at).flatten().any(|other| other.name == entry.name) {
                        return None;
                    }
                    part.inode.items.add(&entry);
                }
            }
            ItemType::DIR_INDEX => {
                for entry in DirEntry::each(data) {
                    let entry = entry.ok().filter(|entry| !is_taken(entry.name))?;
                    self.part(rules, key).inode.indexes.add(&entry);
                    self.entry(key, &entry)?;
                }
            }
            ItemType::EXTENT_DATA => {
                let extent = FileExtent::parse(data).ok()?;
                let mut suspicion = Suspicion::default();
                part.inode.extent(&mut suspicion, rules, at.tree, key, &extent);
                if let Some(sums) = at.sums {
                    part.coverage.add(at.context, &extent, sums);
                }
                return (!suspicion.0).then_some(());
            }
            ItemType::XATTR_ITEM => return twice(data).is_none().then_some(()),
            ItemType::VERITY_DESC_ITEM | ItemType::VERITY_MERKLE_ITEM => {}
            _ => return None,
        }
        Some(())
    }

    fn name(&mut self, rules: &Rules, key: &Key, parent: u64, index: u64, name: &[u8]) {
        let part = self.part(rules, key);
        if key.objectid == ROOT_DIR && parent == ROOT_DIR {
            part.root_name |= index == 0 && name == b"..";
            return;
        }
        part.inode.names = part.inode.names.saturating_add(1);
        part.parent = Some(parent);
        self.links = self.links.wrapping_add(named(LINK, [key.objectid, parent, index], name));
    }

    /// A DIR_INDEX entry.
    fn entry(&mut self, key: &Key, entry: &DirEntry<'_>) -> Option<()> {
        let child = entry.location.objectid;
        if entry.location.item_type == ItemType::INODE_ITEM {
            let link = named(LINK, [child, key.objectid, key.offset], entry.name);
            let type_ = numbers(TYPE, [child, entry.file_type as u64]);
            self.links = self.links.wrapping_sub(link).wrapping_sub(type_);
            return Some(());
        }
        self.entries += 1;
        self.entry_sum = self.entry_sum.wrapping_add(entry_fingerprint(child, key.objectid, key.offset, entry.name));
        (entry.file_type == FileType::Directory).then_some(())
    }

    /// All of an inode was met.
    fn close(&mut self, rules: &Rules, part: &Part) {
        self.inodes += 1;
        let inode = &part.inode;
        let Some(item) = inode.item.filter(|_| !inode.partial) else {
            self.suspicious = true;
            return;
        };
        let mut suspicion = Suspicion(!part.coverage.suits(&item));
        inode.check(&mut suspicion, rules, TreeId::FS);
        self.suspicious |= suspicion.0;
        let file_type = numbers(TYPE, [inode.ino, FileType::from_mode(item.mode.get()) as u64]);
        self.links = self.links.wrapping_add(file_type.wrapping_mul(u64::from(inode.names)));
        if inode.ino == ROOT_DIR {
            self.root_dir = item.is_dir() && item.nlink.get() > 0 && inode.names == 0;
            self.root_name = part.root_name;
        } else if item.nlink.get() == 0 && inode.names == 0 {
            self.unlinked.push(inode.ino);
        } else {
            self.suspicious |= item.nlink.get() != inode.names;
        }
        if item.is_dir() && part.parent.is_some_and(|parent| parent >= inode.ino) {
            self.upward.push(inode.ino);
        }
    }

    /// Takes in what comes behind.
    fn join(&mut self, rules: &Rules, right: Self) {
        self.inodes += right.inodes;
        self.links = self.links.wrapping_add(right.links);
        self.entries += right.entries;
        self.entry_sum = self.entry_sum.wrapping_add(right.entry_sum);
        self.orphans.extend(right.orphans);
        self.unlinked.extend(right.unlinked);
        self.upward.extend(right.upward);
        self.root_dir |= right.root_dir;
        self.root_name |= right.root_name;
        self.suspicious |= right.suspicious;
        let Some(next) = right.first else { return };
        let Some(before) = self.last.as_deref_mut().or(self.first.as_deref_mut()) else {
            (self.first, self.last) = (Some(next), right.last);
            return;
        };
        if before.inode.ino == next.inode.ino {
            self.suspicious |= !before.inode.join(&next.inode);
            before.coverage.join(&next.coverage);
            before.parent = next.parent.or(before.parent);
            before.root_name |= next.root_name;
            self.put_last(rules, right.last);
        } else {
            self.put_last(rules, Some(next));
            self.put_last(rules, right.last);
        }
    }

    /// Puts an inode behind the last one, which is whole then.
    fn put_last(&mut self, rules: &Rules, part: Option<Box<Part>>) {
        if part.is_some()
            && let Some(done) = std::mem::replace(&mut self.last, part)
        {
            self.close(rules, &done);
        }
    }

    fn finish(mut self, rules: &Rules) -> Verdict {
        for part in [self.first.take(), self.last.take()].into_iter().flatten() {
            self.close(rules, &part);
        }
        self.orphans.sort_unstable();
        let forgotten = self.unlinked.iter().any(|ino| self.orphans.binary_search(ino).is_err());
        let whole = self.root_dir && self.root_name && self.links == 0;
        Verdict {
            inodes: self.inodes,
            suspicious: self.suspicious || forgotten || !whole,
            entries: self.entries,
            entry_sum: self.entry_sum,
            upward: self.upward,
        }
    }

    /// About how many bytes this takes.
    fn size(&self) -> u64 {
        let numbers = self.orphans.len() + self.unlinked.len() + self.upward.len();
        let parts = [&self.first, &self.last].into_iter().flatten().count();
        (size_of::<(u64, Shape, Self)>() + 8 * numbers + parts * size_of::<Part>()) as u64
    }
}

/// Where an item is looked at.
struct Leaf<'a> {
    context: &'a Context<'a>,
    sums: Option<&'a Checksums>,
    rules: &'a Rules,
    tree: TreeId,
}

/// What shared blocks contribute.
pub(crate) struct Memory {
    known: HashMap<u64, (Shape, Tally)>,
    left: u64,
}

impl Memory {
    pub fn new(context: &Context<'_>) -> Self {
        Self { known: HashMap::new(), left: context.options.memory / 4 }
    }

    fn keep(&mut self, shape: Shape, tally: &Tally) {
        let size = tally.size();
        if size <= self.left && self.known.insert(shape.bytenr.0, (shape, tally.clone())).is_none() {
            self.left -= size;
        }
    }
}

/// Sums up a subvolume.
pub(crate) struct Fast<'a> {
    tree: TreeId,
    sums: Option<&'a Checksums>,
    memory: &'a mut Memory,
    rules: Rules,
    /// For each shared block that is being walked what was before it.
    outer: Vec<Tally>,
    tally: Tally,
}

impl<'a> Fast<'a> {
    pub fn new(root: &TreeRoot, sums: &'a Checksums, memory: &'a mut Memory, context: &Context<'_>) -> Self {
        // Relocation copies preallocated extents too, and knows none of their checksums.
        let sums = (root.id != TreeId::DATA_RELOC).then_some(sums);
        let rules = Rules::of(context);
        Self { tree: root.id, sums, memory, rules, outer: Vec::new(), tally: Tally::default() }
    }

    pub fn finish(self) -> Verdict {
        self.tally.finish(&self.rules)
    }
}

impl Visitor for Fast<'_> {
    type Work = Tally;

    fn prepare(&self, context: &Context<'_>, leaf: TreeBlock, _: &mut Vec<Finding>) -> Tally {
        Tally::of(context, &leaf, self.sums, &self.rules, self.tree)
    }

    fn absorb(&mut self, _: &mut Context<'_>, work: Tally) {
        self.tally.join(&self.rules, work);
    }

    fn hole(&mut self) {
        self.tally.suspicious = true;
    }

    fn wants_shared(&self) -> bool {
        true
    }

    fn remembers(&self, expected: &Expected, end: Option<Key>) -> bool {
        self.memory.known.get(&expected.bytenr.0).is_some_and(|(shape, _)| shape.fits(expected, end))
    }

    fn recall(&mut self, bytenr: Logical) -> Option<Key> {
        let (shape, tally) = self.memory.known.get(&bytenr.0)?;
        self.tally.join(&self.rules, tally.clone());
        Some(shape.last)
    }

    fn enter(&mut self) {
        self.outer.push(std::mem::take(&mut self.tally));
    }

    fn leave(&mut self, shape: Option<Shape>) {
        let outer = self.outer.pop().unwrap_or_default();
        let inner = std::mem::replace(&mut self.tally, outer);
        if let Some(shape) = shape {
            self.memory.keep(shape, &inner);
        }
        self.tally.join(&self.rules, inner);
    }
}

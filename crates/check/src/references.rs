//! Extents and their references: what the extent tree says, beside what the trees really refer to.
//!
//! A reference becomes a 64-bit fingerprint of who refers; each extent keeps the sum of the
//! fingerprints found in back references, and the sum of those met while walking the trees. Equal sums
//! and counts mean equal references, so memory is [`Extent`] (88 bytes) for each extent and nothing
//! for each reference. A chance collision hides one fault in 2^64.
//!
//! # Invariants
//! * Extents are sorted by address.
//! * References met before the extent tree is loaded (of the chunk, root and extent trees, whose
//!   blocks never have full back references) wait in `pending`.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use butterfs_format::items::{BackRef, ExtentFlags, ExtentItem, FileExtent, FileExtentBody};
use butterfs_format::{Ino, ItemType, Key, Logical, TreeBlock, TreeId};

/// An extent: what its item says, and what was counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub bytenr: u64,
    pub len: u64,
    pub refs: u64,
    pub generation: u64,
    pub flags: u64,
    /// Level of a tree block.
    pub level: u8,
    /// A tree block of the chunk tree was walked here, or of another tree.
    pub walked: Option<BlockOf>,
    /// The item cannot be read: only the range is known.
    pub opaque: bool,
    /// A file refers to it as written.
    pub written: bool,
    found: Tally,
    wanted: Tally,
}

/// Whose block it is, as far as block groups make a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockOf {
    ChunkTree,
    OtherTree,
}

/// A count and a sum of fingerprints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub count: u64,
    sum: u64,
}

impl Tally {
    fn add(&mut self, fingerprint: u64, count: u64) {
        self.count = self.count.saturating_add(count);
        self.sum = self.sum.wrapping_add(fingerprint.wrapping_mul(count));
    }
}

impl Extent {
    pub fn new(key: &Key, item: &ExtentItem, nodesize: u64) -> Self {
        let skinny = key.item_type == ItemType::METADATA_ITEM;
        let level = if skinny { key.offset as u8 } else { item.block_info.map_or(0, |info| info.level) };
        Self {
            bytenr: key.objectid,
            len: if skinny { nodesize } else { key.offset },
            refs: item.refs,
            generation: item.generation,
            flags: item.flags.bits(),
            level,
            walked: None,
            opaque: false,
            written: false,
            found: Tally::default(),
            wanted: Tally::default(),
        }
    }

    /// An extent whose item cannot be read.
    pub fn opaque(key: &Key, nodesize: u64) -> Self {
        let flags = ExtentFlags::empty();
        let item = ExtentItem { refs: 0, generation: 0, flags, block_info: None, owner: None, inline: Vec::new() };
        Self { opaque: true, ..Self::new(key, &item, nodesize) }
    }

    pub fn end(&self) -> u64 {
        self.bytenr.saturating_add(self.len)
    }

    pub fn is_data(&self) -> bool {
        self.flags & ExtentFlags::DATA.bits() != 0
    }

    fn is_full_backref(&self) -> bool {
        self.flags & ExtentFlags::FULL_BACKREF.bits() != 0
    }

    /// Adds a back reference of the extent tree.
    pub fn found(&mut self, back_ref: &BackRef, count: u32) {
        self.found.add(fingerprint(back_ref), u64::from(count));
    }

    /// The first thing wrong with the references, if any. With `partial`, some references may not
    /// have been met.
    pub fn problem(&self, partial: bool) -> Option<String> {
        if self.opaque {
            return None;
        }
        let (found, wanted) = (self.found.count, self.wanted.count);
        if self.refs != found {
            return Some(format!("the item counts {} references, there are {found} back references", self.refs));
        }
        if wanted < found && partial {
            return None;
        }
        if wanted != found {
            return Some(format!("{found} back references, but {wanted} references"));
        }
        (self.found.sum != self.wanted.sum)
            .then(|| format!("the {found} back references name others than those who refer"))
    }
}

/// A hash of who refers.
fn fingerprint(back_ref: &BackRef) -> u64 {
    let mut hasher = DefaultHasher::new();
    back_ref.hash(&mut hasher);
    hasher.finish()
}

/// A reference met before there was an extent to count it at.
#[derive(Clone, Copy, Debug)]
enum Event {
    Reference { target: Target, back_ref: BackRef },
    Block { bytenr: u64, level: u8, generation: u64, of: BlockOf },
}

/// What is referred to.
#[derive(Clone, Copy, Debug)]
struct Target {
    bytenr: u64,
    len: u64,
    data: bool,
    prealloc: bool,
}

impl Target {
    fn block(bytenr: u64, nodesize: u64) -> Self {
        Self { bytenr, len: nodesize, data: false, prealloc: false }
    }
}

/// All extents, and the faults met while counting.
pub(crate) struct References {
    extents: Vec<Extent>,
    loaded: bool,
    pending: Vec<Event>,
    nodesize: u64,
    /// Places of extents without an item, each once.
    missing: HashSet<u64>,
    /// Which subvolumes hold each extent, if quotas are to be counted.
    owners: Option<Owners>,
    /// What was wrong while counting. Drained by the checker.
    pub faults: Vec<Fault>,
}

/// What was wrong with an extent while counting.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// Whether there is no item at all.
    pub missing: bool,
    pub bytenr: u64,
    pub problem: String,
}

/// Faults kept between two drains; more in one go are as good as these.
const MAX_FAULTS: usize = 10_000;

impl References {
    pub fn new(nodesize: u64) -> Self {
        Self {
            extents: Vec::new(),
            loaded: false,
            pending: Vec::new(),
            nodesize,
            missing: HashSet::new(),
            owners: None,
            faults: Vec::new(),
        }
    }

    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Takes the extent tree's extents in, and counts what waited for them.
    pub fn load(&mut self, mut extents: Vec<Extent>) {
        extents.sort_by_key(|e| e.bytenr);
        self.extents = extents;
        self.loaded = true;
        for event in std::mem::take(&mut self.pending) {
            self.event(event);
        }
    }

    /// From now on, remember which subvolumes hold each extent. To be called once extents are loaded.
    pub fn track_owners(&mut self) {
        self.owners = Some(Owners::new(self.extents.len()));
    }

    /// How many bytes each set of subvolumes holds together.
    pub fn owned(&self) -> Vec<(Vec<TreeId>, u64)> {
        self.owners.as_ref().map(|owners| owners.sums(&self.extents)).unwrap_or_default()
    }

    /// A subvolume holds this block and the data that it refers to.
    pub fn own(&mut self, tree: TreeId, block: &TreeBlock) {
        if self.owners.is_none() {
            return;
        }
        let data = (0..block.len()).filter(|_| block.is_leaf()).filter_map(|slot| data_of(block, slot));
        let at: Vec<usize> =
            std::iter::once(block.bytenr().0).chain(data).filter_map(|bytenr| self.index(bytenr)).collect();
        if let Some(owners) = &mut self.owners {
            at.into_iter().for_each(|index| owners.add(index, tree));
        }
    }

    /// The extent that begins at an address.
    pub fn find(&self, bytenr: u64) -> Option<&Extent> {
        let at = self.extents.binary_search_by_key(&bytenr, |e| e.bytenr).ok()?;
        self.extents.get(at)
    }

    /// Whether any extent shares bytes with a range.
    pub fn overlaps(&self, start: u64, len: u64) -> bool {
        let end = start.saturating_add(len);
        let after = self.extents.partition_point(|e| e.bytenr < end);
        after.checked_sub(1).and_then(|at| self.extents.get(at)).is_some_and(|e| e.end() > start)
    }

    /// Counts the reference of a ROOT_ITEM, or of the superblock, to a tree's root.
    pub fn count_root(&mut self, id: TreeId, bytenr: Logical) {
        let back_ref = match id {
            TreeId::TREE_RELOC => BackRef::SharedBlock { parent: bytenr },
            _ => BackRef::TreeBlock { root: id },
        };
        let target = Target::block(bytenr.0, self.nodesize);
        self.event(Event::Reference { target, back_ref });
        if id != TreeId::TREE_RELOC && self.find(bytenr.0).is_some_and(Extent::is_full_backref) {
            self.fault(false, bytenr.0, format!("has full back references, but is the root of tree {}", id.0 as i64));
        }
    }

    /// Counts what a block refers to, but for the children that are `gone`; gives how many.
    pub fn count_block(&mut self, block: &TreeBlock, gone: impl Fn(usize) -> bool) -> u64 {
        let (bytenr, level, generation) = (block.bytenr().0, block.level(), block.generation().0);
        let of = if block.owner() == TreeId::CHUNK { BlockOf::ChunkTree } else { BlockOf::OtherTree };
        self.event(Event::Block { bytenr, level, generation, of });
        let full = self.find(bytenr).is_some_and(Extent::is_full_backref);
        let mut counted = 0;
        for slot in 0..block.len() {
            if block.is_leaf() {
                counted += u64::from(self.count_item(block, slot, full));
            } else if !gone(slot) {
                self.count_child(block, slot, full);
                counted += 1;
            }
        }
        counted
    }

    fn count_child(&mut self, node: &TreeBlock, slot: usize, full: bool) {
        let back_ref = match full {
            true => BackRef::SharedBlock { parent: node.bytenr() },
            false => BackRef::TreeBlock { root: node.owner() },
        };
        let target = Target::block(node.ptr(slot).blockptr.get(), self.nodesize);
        self.event(Event::Reference { target, back_ref });
    }

    fn count_item(&mut self, leaf: &TreeBlock, slot: usize, full: bool) -> bool {
        let key = leaf.key(slot);
        if key.item_type != ItemType::EXTENT_DATA {
            return false;
        }
        let Ok(extent) = FileExtent::parse(leaf.data(slot)) else { return false };
        let FileExtentBody::Extent { disk_bytenr, disk_num_bytes, offset, prealloc, .. } = extent.body else {
            return false;
        };
        if disk_bytenr == 0 {
            return false;
        }
        let back_ref = match full {
            true => BackRef::SharedData { parent: leaf.bytenr() },
            false => BackRef::Data {
                root: leaf.owner(),
                objectid: Ino(key.objectid),
                offset: key.offset.wrapping_sub(offset),
            },
        };
        let target = Target { bytenr: disk_bytenr, len: disk_num_bytes, data: true, prealloc };
        self.event(Event::Reference { target, back_ref });
        true
    }

    fn event(&mut self, event: Event) {
        if !self.loaded {
            self.pending.push(event);
            return;
        }
        match event {
            Event::Reference { target, back_ref } => self.reference(&target, &back_ref),
            Event::Block { bytenr, level, generation, of } => self.walked(bytenr, level, generation, of),
        }
    }

    fn index(&self, bytenr: u64) -> Option<usize> {
        self.extents.binary_search_by_key(&bytenr, |e| e.bytenr).ok()
    }

    fn reference(&mut self, target: &Target, back_ref: &BackRef) {
        let Some(extent) = self.index(target.bytenr).and_then(|at| self.extents.get_mut(at)) else {
            if self.missing.len() < MAX_FAULTS && self.missing.insert(target.bytenr) {
                let what = if target.data { "data" } else { "tree block" };
                let problem = format!("{what} of {} bytes is referred to ({back_ref:?}), but has no item", target.len);
                self.fault(true, target.bytenr, problem);
            }
            return;
        };
        extent.wanted.add(fingerprint(back_ref), 1);
        extent.written |= target.data && !target.prealloc;
        if extent.opaque {
            return;
        }
        let (len, data) = (extent.len, extent.is_data());
        if data != target.data {
            self.fault(false, target.bytenr, "data is taken for a tree block, or a tree block for data".into());
        } else if len != target.len {
            self.fault(false, target.bytenr, format!("{len} bytes long, {back_ref:?} says {}", target.len));
        }
    }

    fn walked(&mut self, bytenr: u64, level: u8, generation: u64, of: BlockOf) {
        let Some(extent) = self.index(bytenr).and_then(|at| self.extents.get_mut(at)) else { return };
        extent.walked = Some(of);
        if extent.opaque {
            return;
        }
        let (item_level, item_generation) = (extent.level, extent.generation);
        if !extent.is_data() && item_level != level {
            self.fault(false, bytenr, format!("the item says level {item_level}, the block {level}"));
        }
        if item_generation != generation {
            self.fault(
                false,
                bytenr,
                format!("the item is of generation {item_generation}, the block of {generation}"),
            );
        }
    }

    fn fault(&mut self, missing: bool, bytenr: u64, problem: String) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(Fault { missing, bytenr, problem });
        }
    }
}

/// The address of the data that a leaf's item refers to.
fn data_of(leaf: &TreeBlock, slot: usize) -> Option<u64> {
    if leaf.key(slot).item_type != ItemType::EXTENT_DATA {
        return None;
    }
    match FileExtent::parse(leaf.data(slot)).ok()?.body {
        FileExtentBody::Extent { disk_bytenr, .. } if disk_bytenr != 0 => Some(disk_bytenr),
        _ => None,
    }
}

/// Which subvolumes hold each extent: 4 bytes for each extent, and each different set of subvolumes once.
struct Owners {
    /// For each extent the number of its set; 0 is the empty one.
    of: Vec<u32>,
    sets: Vec<Vec<TreeId>>,
    /// A set and a tree to the set of both.
    steps: HashMap<(u32, TreeId), u32>,
}

impl Owners {
    fn new(extents: usize) -> Self {
        Self { of: vec![0; extents], sets: vec![Vec::new()], steps: HashMap::new() }
    }

    /// Trees are walked one after the other, so a set that has the tree has it last.
    fn add(&mut self, index: usize, tree: TreeId) {
        let Some(set) = self.of.get_mut(index) else { return };
        let Some(members) = self.sets.get(*set as usize) else { return };
        if members.last() == Some(&tree) {
            return;
        }
        *set = match self.steps.get(&(*set, tree)) {
            Some(next) => *next,
            None => {
                let mut members = members.clone();
                members.push(tree);
                let next = self.sets.len() as u32;
                self.sets.push(members);
                self.steps.insert((*set, tree), next);
                next
            }
        };
    }

    fn sums(&self, extents: &[Extent]) -> Vec<(Vec<TreeId>, u64)> {
        let mut sums = vec![0u64; self.sets.len()];
        for (set, extent) in self.of.iter().zip(extents) {
            if let Some(sum) = sums.get_mut(*set as usize) {
                *sum = sum.saturating_add(extent.len);
            }
        }
        self.sets.iter().cloned().zip(sums).filter(|(set, _)| !set.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_kept_as_sets() {
        let mut owners = Owners::new(3);
        for (index, tree) in [(0, 5), (1, 5), (1, 5), (0, 256), (1, 256), (2, 256)] {
            owners.add(index, TreeId(tree));
        }
        assert_eq!(owners.of, [2, 2, 3]);
        assert_eq!(owners.sets, [vec![], vec![TreeId(5)], vec![TreeId(5), TreeId(256)], vec![TreeId(256)]]);
    }
}

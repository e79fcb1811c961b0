//! Extents and their references: what the extent tree says, beside what the trees really refer to.
//!
//! A reference becomes a 64-bit fingerprint of who refers; each extent keeps the sum of the
//! fingerprints found in back references, and the sum of those met while walking the trees. Equal sums
//! and counts mean equal references, so memory is [`Extent`] (80 bytes) for each extent and nothing
//! for each reference. A chance collision hides one fault in 2^64.
//!
//! # Invariants
//! * Extents are sorted by address.
//! * References met before the extent tree is loaded (of the chunk, root and extent trees, whose
//!   blocks never have full back references) wait in `pending`.

use std::collections::HashSet;
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
    /// A tree block at this address was walked, so that the item may be compared with it.
    pub walked: bool,
    found: Tally,
    wanted: Tally,
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
            walked: false,
            found: Tally::default(),
            wanted: Tally::default(),
        }
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
    Block { bytenr: u64, level: u8, generation: u64 },
}

/// What is referred to.
#[derive(Clone, Copy, Debug)]
struct Target {
    bytenr: u64,
    len: u64,
    data: bool,
}

/// All extents, and the faults met while counting.
pub(crate) struct References {
    extents: Vec<Extent>,
    loaded: bool,
    pending: Vec<Event>,
    nodesize: u64,
    /// Places of extents without an item, each once.
    missing: HashSet<u64>,
    /// What was wrong while counting: address and problem. Drained by the checker.
    pub faults: Vec<(bool, String, String)>,
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
        let target = Target { bytenr: bytenr.0, len: self.nodesize, data: false };
        self.event(Event::Reference { target, back_ref });
    }

    /// Counts what a block refers to, but for the children that are `gone`; gives how many.
    pub fn count_block(&mut self, block: &TreeBlock, gone: impl Fn(usize) -> bool) -> u64 {
        let (bytenr, level, generation) = (block.bytenr().0, block.level(), block.generation().0);
        self.event(Event::Block { bytenr, level, generation });
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
        let target = Target { bytenr: node.ptr(slot).blockptr.get(), len: self.nodesize, data: false };
        self.event(Event::Reference { target, back_ref });
    }

    fn count_item(&mut self, leaf: &TreeBlock, slot: usize, full: bool) -> bool {
        let key = leaf.key(slot);
        if key.item_type != ItemType::EXTENT_DATA {
            return false;
        }
        let Ok(extent) = FileExtent::parse(leaf.data(slot)) else { return false };
        let FileExtentBody::Extent { disk_bytenr, disk_num_bytes, offset, .. } = extent.body else { return false };
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
        let target = Target { bytenr: disk_bytenr, len: disk_num_bytes, data: true };
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
            Event::Block { bytenr, level, generation } => self.walked(bytenr, level, generation),
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
        let (len, data) = (extent.len, extent.is_data());
        if data != target.data {
            self.fault(false, target.bytenr, "data is taken for a tree block, or a tree block for data".into());
        } else if len != target.len {
            self.fault(false, target.bytenr, format!("{len} bytes long, {back_ref:?} says {}", target.len));
        }
    }

    fn walked(&mut self, bytenr: u64, level: u8, generation: u64) {
        let Some(extent) = self.index(bytenr).and_then(|at| self.extents.get_mut(at)) else { return };
        extent.walked = true;
        let (item_level, item_generation) = (extent.level, extent.generation);
        if !extent.is_data() && item_level != level {
            self.fault(false, bytenr, format!("the item says level {item_level}, the block {level}"));
        }
        if item_generation > generation {
            self.fault(
                false,
                bytenr,
                format!("the item is of generation {item_generation}, the block of {generation}"),
            );
        }
    }

    fn fault(&mut self, missing: bool, bytenr: u64, problem: String) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push((missing, format!("extent {bytenr}"), problem));
        }
    }
}

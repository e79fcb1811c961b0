//! Extents and their references: what the extent tree says, beside what the trees really refer to.
//!
//! [`count_block`] lists what a block refers to. While all trees are walked that goes to [`crate::sums`],
//! which say where something is wrong; a [`Table`] then holds the extents there, each with its own sums, to
//! say what. A chance collision hides one fault in 2^64.
//!
//! Memory: [`Extent`] (about 100 bytes) for each extent of the table, whose size is given.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

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
    /// A tree block that the chunk tree refers to.
    pub of_chunk_tree: bool,
    /// The subvolume that made it, where simple quotas are kept.
    pub owner: Option<TreeId>,
    /// The item cannot be read: only the range is known.
    pub opaque: bool,
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
            of_chunk_tree: false,
            owner: item.owner,
            opaque: false,
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

    pub fn is_full_backref(&self) -> bool {
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

/// What is met while walking.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// Something refers to an extent.
    Reference { target: Target, back_ref: BackRef },
    /// A block was walked, for the first time.
    Block { bytenr: u64, level: u8, generation: u64 },
}

impl Event {
    /// The address of the extent that it is about.
    pub fn bytenr(&self) -> u64 {
        match self {
            Self::Reference { target, .. } => target.bytenr,
            Self::Block { bytenr, .. } => *bytenr,
        }
    }
}

/// What is referred to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub bytenr: u64,
    pub len: u64,
    pub data: bool,
}

impl Target {
    fn block(bytenr: u64, nodesize: u64) -> Self {
        Self { bytenr, len: nodesize, data: false }
    }
}

/// The reference of a ROOT_ITEM, or of the superblock, to a tree's root.
pub(crate) fn root_reference(id: TreeId, bytenr: Logical, nodesize: u64) -> Event {
    let back_ref = match id {
        TreeId::TREE_RELOC => BackRef::SharedBlock { parent: bytenr },
        _ => BackRef::TreeBlock { root: id },
    };
    Event::Reference { target: Target::block(bytenr.0, nodesize), back_ref }
}

/// Lists what a block refers to, but for the children that are `gone`, and the block itself; gives how
/// many references there are. `full` says that its references name the block and not its tree.
pub(crate) fn count_block(
    block: &TreeBlock,
    full: bool,
    nodesize: u64,
    gone: impl Fn(usize) -> bool,
    tell: &mut dyn FnMut(Event),
) -> u64 {
    let (bytenr, level, generation) = (block.bytenr().0, block.level(), block.generation().0);
    tell(Event::Block { bytenr, level, generation });
    let mut counted = 0;
    for slot in 0..block.len() {
        let event = match block.is_leaf() {
            true => data_reference(block, slot, full),
            false => (!gone(slot)).then(|| child_reference(block, slot, full, nodesize)),
        };
        if let Some(event) = event {
            tell(event);
            counted += 1;
        }
    }
    counted
}

fn child_reference(node: &TreeBlock, slot: usize, full: bool, nodesize: u64) -> Event {
    let back_ref = match full {
        true => BackRef::SharedBlock { parent: node.bytenr() },
        false => BackRef::TreeBlock { root: node.owner() },
    };
    Event::Reference { target: Target::block(node.ptr(slot).blockptr.get(), nodesize), back_ref }
}

fn data_reference(leaf: &TreeBlock, slot: usize, full: bool) -> Option<Event> {
    let key = leaf.key(slot);
    if key.item_type != ItemType::EXTENT_DATA {
        return None;
    }
    let FileExtentBody::Extent { disk_bytenr, disk_num_bytes, offset, .. } =
        FileExtent::parse(leaf.data(slot)).ok()?.body
    else {
        return None;
    };
    let back_ref = match full {
        true => BackRef::SharedData { parent: leaf.bytenr() },
        false => {
            BackRef::Data { root: leaf.owner(), objectid: Ino(key.objectid), offset: key.offset.wrapping_sub(offset) }
        }
    };
    let target = Target { bytenr: disk_bytenr, len: disk_num_bytes, data: true };
    (disk_bytenr != 0).then_some(Event::Reference { target, back_ref })
}

/// What was wrong with an extent while counting.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fault {
    pub bytenr: u64,
    /// Whether there is no item at all.
    pub missing: bool,
    pub problem: String,
}

/// Faults kept of one table; more are as good as these.
const MAX_FAULTS: usize = 10_000;

/// Some extents, in the order of their addresses, and what is wrong with them.
pub(crate) struct Table {
    extents: Vec<Extent>,
    /// The addresses that this table is about.
    range: Range<u64>,
    faults: BTreeSet<Fault>,
}

impl Table {
    /// A table of extents in the order of their addresses.
    pub fn new(extents: Vec<Extent>, range: Range<u64>) -> Self {
        Self { extents, range, faults: BTreeSet::new() }
    }

    /// Counts something that was met.
    pub fn event(&mut self, event: &Event) {
        if self.range.contains(&event.bytenr()) {
            match event {
                Event::Reference { target, back_ref } => self.reference(target, back_ref),
                Event::Block { bytenr, level, generation } => self.walked(*bytenr, *level, *generation),
            }
        }
    }

    fn find(&mut self, bytenr: u64) -> Option<&mut Extent> {
        let at = self.extents.binary_search_by_key(&bytenr, |e| e.bytenr).ok()?;
        self.extents.get_mut(at)
    }

    fn reference(&mut self, target: &Target, back_ref: &BackRef) {
        let Some(extent) = self.find(target.bytenr) else {
            let what = if target.data { "data" } else { "tree block" };
            let problem = format!("{what} of {} bytes is referred to ({back_ref:?}), but has no item", target.len);
            return self.missing(target.bytenr, problem);
        };
        extent.wanted.add(fingerprint(back_ref), 1);
        if extent.opaque {
            return;
        }
        let (len, data) = (extent.len, extent.is_data());
        if data != target.data {
            self.fault(target.bytenr, "data is taken for a tree block, or a tree block for data".into());
        } else if len != target.len {
            self.fault(target.bytenr, format!("{len} bytes long, {back_ref:?} says {}", target.len));
        }
    }

    fn walked(&mut self, bytenr: u64, level: u8, generation: u64) {
        let Some(extent) = self.find(bytenr).filter(|extent| !extent.opaque) else { return };
        let (data, item_level, item_generation) = (extent.is_data(), extent.level, extent.generation);
        if !data && item_level != level {
            self.fault(bytenr, format!("the item says level {item_level}, the block {level}"));
        }
        if item_generation != generation {
            self.fault(bytenr, format!("the item is of generation {item_generation}, the block of {generation}"));
        }
    }

    /// Of an extent without an item one reference is told, the first met.
    fn missing(&mut self, bytenr: u64, problem: String) {
        let known = Fault { bytenr, missing: true, problem: String::new() };
        let told = self.faults.range(known..).next().is_some_and(|next| next.bytenr == bytenr && next.missing);
        if !told {
            self.add(Fault { bytenr, missing: true, problem });
        }
    }

    fn fault(&mut self, bytenr: u64, problem: String) {
        self.add(Fault { bytenr, missing: false, problem });
    }

    fn add(&mut self, fault: Fault) {
        self.faults.insert(fault);
        if self.faults.len() > MAX_FAULTS {
            self.faults.pop_last();
        }
    }

    /// What was wrong while counting, by address; and extents whose references do not add up.
    pub fn problems(self, partial: bool) -> (Vec<Fault>, Vec<(u64, String)>) {
        let problems = self.extents.iter().filter_map(|e| e.problem(partial).map(|problem| (e.bytenr, problem)));
        let problems = problems.take(MAX_FAULTS).collect();
        (self.faults.into_iter().collect(), problems)
    }
}

/// The address of the data that a leaf's item refers to.
pub(crate) fn data_of(leaf: &TreeBlock, slot: usize) -> Option<u64> {
    if leaf.key(slot).item_type != ItemType::EXTENT_DATA {
        return None;
    }
    match FileExtent::parse(leaf.data(slot)).ok()?.body {
        FileExtentBody::Extent { disk_bytenr, .. } if disk_bytenr != 0 => Some(disk_bytenr),
        _ => None,
    }
}

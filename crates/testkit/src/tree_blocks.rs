//! Every tree block of a filesystem, by a walk of its own; and how to destroy some.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use butterfs_format::items::{Chunk, DirEntry, RootItem};
use butterfs_format::validate::Expected;
use butterfs_format::{Ino, ItemType, Key, Logical, TreeBlock, TreeId};
use butterfs_volume::{BlockDevice, OpenMode, Volume};

/// A tree block, and the trees that have it.
#[derive(Clone, Debug)]
pub struct Dumped {
    /// The block.
    pub block: Arc<Vec<u8>>,
    /// 0 for a leaf.
    pub level: u8,
    /// The trees.
    pub trees: BTreeSet<TreeId>,
}

/// By address.
pub type Dump = BTreeMap<Logical, Dumped>;

impl Dumped {
    /// The block as one.
    pub fn block(&self) -> TreeBlock {
        TreeBlock::from_bytes(self.block.to_vec())
    }
}

/// Opens a filesystem on one device that is whole.
#[track_caller]
pub fn open(device: &Arc<dyn BlockDevice>) -> Volume {
    Volume::open(vec![device.clone()], OpenMode::ReadOnly).expect("a whole filesystem opens")
}

/// All trees that the root tree knows, and that itself.
#[track_caller]
pub fn dump(device: &Arc<dyn BlockDevice>) -> Dump {
    let volume = open(device);
    let mut dump = Dump::new();
    walk(&volume, TreeId::ROOT, volume.superblock().root(), &mut dump);
    let mut roots = Vec::new();
    for dumped in dump.values().filter(|dumped| dumped.level == 0) {
        for (key, data) in items(&dumped.block()).filter(|(key, _)| key.item_type == ItemType::ROOT_ITEM) {
            roots.push((TreeId(key.objectid), RootItem::parse(data).expect("a root item").bytenr()));
        }
    }
    roots.into_iter().for_each(|(tree, at)| walk(&volume, tree, at, &mut dump));
    dump
}

/// The items of a leaf.
pub fn items(leaf: &TreeBlock) -> impl Iterator<Item = (Key, &[u8])> {
    (0..leaf.len()).map(|slot| (leaf.key(slot), leaf.data(slot)))
}

fn walk(volume: &Volume, tree: TreeId, at: Logical, dump: &mut Dump) {
    let block = volume.read_block(&Expected::at(at)).expect("a tree block reads");
    let children: Vec<_> = match block.is_leaf() {
        true => Vec::new(),
        false => block.ptrs(0..block.len()).iter().map(|ptr| Logical(ptr.blockptr.get())).collect(),
    };
    let new = || Dumped { block: Arc::new(block.bytes().to_vec()), level: block.level(), trees: BTreeSet::new() };
    dump.entry(at).or_insert_with(new).trees.insert(tree);
    children.into_iter().for_each(|child| walk(volume, tree, child, dump));
}

/// The blocks of a tree.
pub fn blocks_of(dump: &Dump, tree: TreeId) -> Vec<Logical> {
    dump.iter().filter(|(_, one)| one.trees.contains(&tree)).map(|(at, _)| *at).collect()
}

/// Where the copies of an address lie, in a chunk that is not striped.
#[track_caller]
pub fn places(volume: &Volume, at: Logical) -> Vec<u64> {
    let (start, chunk): (Logical, Chunk) = volume.chunk_containing(at).expect("a chunk has the address");
    chunk.stripes.iter().map(|stripe| stripe.offset.get() + at.0 - start.0).collect()
}

/// Zeroes blocks in some of their copies.
#[track_caller]
pub fn zero(device: &Arc<dyn BlockDevice>, blocks: impl IntoIterator<Item = Logical>, copies: Range<usize>) {
    let volume = open(device);
    let nodesize = volume.geometry().nodesize as usize;
    for at in blocks {
        for place in &places(&volume, at)[copies.clone()] {
            device.write_at(*place, &vec![0; nodesize]).expect("a device writes");
        }
    }
}

/// The inodes of subvolumes that have items of some kinds in these blocks, in each subvolume that has the block.
pub fn touched(dump: &Dump, blocks: &BTreeSet<Logical>, of: impl Fn(ItemType) -> bool) -> BTreeSet<(TreeId, u64)> {
    let mut inodes = BTreeSet::new();
    for one in blocks.iter().filter_map(|at| dump.get(at)).filter(|one| one.level == 0) {
        for (key, _) in items(&one.block()).filter(|(key, _)| of(key.item_type)) {
            let trees = one.trees.iter().filter(|tree| tree.is_subvolume());
            inodes.extend(trees.map(|tree| (*tree, key.objectid)));
        }
    }
    inodes
}

/// The top directories of subvolumes that have their names in these blocks.
pub fn subvolumes_named_in(dump: &Dump, blocks: &BTreeSet<Logical>) -> BTreeSet<(TreeId, u64)> {
    let mut tops = BTreeSet::new();
    for one in blocks.iter().filter_map(|at| dump.get(at)).filter(|one| one.level == 0) {
        let leaf = one.block();
        let entries = items(&leaf).filter(|(key, _)| matches!(key.item_type, ItemType::DIR_ITEM | ItemType::DIR_INDEX));
        let entries = entries.flat_map(|(_, data)| DirEntry::each(data).flatten().collect::<Vec<_>>());
        let named = entries.map(|entry| entry.location).filter(|location| location.item_type == ItemType::ROOT_ITEM);
        tops.extend(named.map(|location| (TreeId(location.objectid), Ino::ROOT_DIR.0)));
    }
    tops
}

/// Those of which something is there that nothing else tells: the inode itself, its content, its attributes. An inode
/// that no other block has a word of, neither item nor entry, is left out: nobody can know that it was.
pub fn only_in(dump: &Dump, blocks: &BTreeSet<Logical>) -> BTreeSet<(TreeId, u64)> {
    let kinds = [ItemType::INODE_ITEM, ItemType::EXTENT_DATA, ItemType::XATTR_ITEM];
    let others: BTreeSet<Logical> = dump.keys().filter(|at| !blocks.contains(at)).copied().collect();
    let mentioned = mentioned(dump, &others);
    touched(dump, blocks, |kind| kinds.contains(&kind)).intersection(&mentioned).copied().collect()
}

/// The inodes that have items or entries in these blocks.
fn mentioned(dump: &Dump, blocks: &BTreeSet<Logical>) -> BTreeSet<(TreeId, u64)> {
    let mut inodes = touched(dump, blocks, |_| true);
    for one in blocks.iter().filter_map(|at| dump.get(at)).filter(|one| one.level == 0) {
        let leaf = one.block();
        let entries = items(&leaf).filter(|(key, _)| matches!(key.item_type, ItemType::DIR_ITEM | ItemType::DIR_INDEX));
        for entry in entries.flat_map(|(_, data)| DirEntry::each(data).flatten().collect::<Vec<_>>()) {
            inodes.extend(one.trees.iter().map(|tree| (*tree, entry.location.objectid)));
        }
    }
    inodes
}

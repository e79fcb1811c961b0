//! Which chunks there are, from what the found blocks say: the chunk tree where it can be read, and for the rest
//! the device tree and the block groups, which together say the same but for the order of stripes.

use std::collections::{BTreeMap, BTreeSet};

use butterfs_format::items::{
    BlockGroupFlags, BlockGroupItem, Chunk, ChunkHeader, DevExtent, DevItem, RootItem, STRIPE_LEN, Stripe, read_exact,
};
use butterfs_format::{Generation, ItemType, Logical, Superblock, TreeBlock, TreeId};

use crate::error::{Error, Result};
use crate::scan::{Blocks, Name};

/// Chunks and devices as they should be.
#[derive(Default)]
pub struct Truth {
    /// Chunks by address.
    pub chunks: BTreeMap<u64, Chunk>,
    /// Devices by number.
    pub devices: BTreeMap<u64, DevItem>,
    /// Chunks that no chunk item of the current tree described rightly.
    pub rebuilt: BTreeSet<u64>,
    /// Some item of the current tree cannot be read.
    has_unreadable: bool,
}

/// What the device tree and the block groups say.
#[derive(Default)]
struct Evidence {
    /// Chunk address to its stripes: device and offset.
    stripes: BTreeMap<u64, BTreeSet<(u64, u64)>>,
    /// Block group start to length and flags.
    groups: BTreeMap<u64, (u64, BlockGroupFlags)>,
    /// All of the device tree was found.
    whole_devices: bool,
    /// All block groups were found.
    whole_groups: bool,
}

/// Profiles whose stripes can be in any order.
const MIRRORED: [BlockGroupFlags; 5] = [
    BlockGroupFlags::empty(),
    BlockGroupFlags::DUP,
    BlockGroupFlags::RAID1,
    BlockGroupFlags::RAID1C3,
    BlockGroupFlags::RAID1C4,
];

/// Which chunks there may be, for reading only: the newest item of each address, of those that overlap the newest.
/// Bytes that a wrong one leads to do not pass for a tree block, or have no right checksum.
pub fn guess(blocks: &Blocks) -> Truth {
    let mut truth = Truth::default();
    for leaf in blocks.chunk_leaves() {
        let mut one = Truth::default();
        one.take_leaf(&leaf);
        for (start, chunk) in one.chunks {
            let end = start.saturating_add(chunk.length());
            let before = truth.chunks.range(..end).next_back();
            if before.is_none_or(|(at, other)| at.saturating_add(other.length()) <= start) {
                truth.chunks.insert(start, chunk);
            }
        }
        for (devid, item) in one.devices {
            truth.devices.entry(devid).or_insert(item);
        }
    }
    truth
}

/// Finds out which chunks there are.
///
/// # Errors
/// [`Error::Unknown`], with the reason, if it cannot be known for certain.
pub fn find(blocks: &Blocks, sb: &Superblock, own: &[DevItem]) -> Result<Truth> {
    let mut truth = Truth::default();
    let root = (Logical(sb.chunk_root.get()), Generation(sb.chunk_root_generation.get()));
    let walked = blocks.walk(TreeId::CHUNK, root, sb.chunk_root_level, &mut |leaf| truth.take_leaf(leaf));
    let whole = walked && !truth.has_unreadable;
    let evidence = gather(blocks, sb);
    // A tree that can be read is believed where the two others do not speak against it with one voice.
    if !whole || evidence.whole_groups && evidence.whole_devices {
        let older = older_chunks(blocks);
        complete(&mut truth, &evidence, &older, sb, own)?;
    }
    for item in own {
        truth.devices.entry(item.devid.get()).or_insert(*item);
    }
    Ok(truth)
}

impl Truth {
    fn take_leaf(&mut self, leaf: &TreeBlock) {
        for slot in 0..leaf.len() {
            let (key, data) = (leaf.key(slot), leaf.data(slot));
            match key.item_type {
                ItemType::CHUNK_ITEM => match Chunk::parse(data) {
                    Ok((chunk, size)) if size == data.len() => drop(self.chunks.insert(key.offset, chunk)),
                    _ => self.has_unreadable = true,
                },
                ItemType::DEV_ITEM => {
                    if let Ok(item) = read_exact::<DevItem>(data) {
                        self.devices.insert(key.offset, item);
                    }
                }
                _ => {}
            }
        }
    }
}

/// Chunk items of older versions of the tree, by address, the newest first: they know the order of stripes.
fn older_chunks(blocks: &Blocks) -> BTreeMap<u64, Vec<Chunk>> {
    let mut older: BTreeMap<u64, Vec<Chunk>> = BTreeMap::new();
    for leaf in blocks.chunk_leaves() {
        let mut one = Truth::default();
        one.take_leaf(&leaf);
        one.chunks.into_iter().for_each(|(at, chunk)| older.entry(at).or_default().push(chunk));
    }
    older
}

fn gather(blocks: &Blocks, sb: &Superblock) -> Evidence {
    let mut roots: BTreeMap<u64, (Name, u8)> = BTreeMap::new();
    blocks.walk(TreeId::ROOT, (sb.root(), sb.generation()), sb.root_level, &mut |leaf| {
        for slot in (0..leaf.len()).filter(|slot| leaf.key(*slot).item_type == ItemType::ROOT_ITEM) {
            if let Ok(item) = RootItem::parse(leaf.data(slot)) {
                roots.insert(leaf.key(slot).objectid, ((item.bytenr(), item.generation()), item.level));
            }
        }
    });
    let mut evidence = Evidence::default();
    if let Some((root, level)) = roots.get(&TreeId::DEV.0) {
        let stripes = &mut evidence.stripes;
        evidence.whole_devices = blocks.walk(TreeId::DEV, *root, *level, &mut |leaf| take_extents(stripes, leaf));
    }
    let home = if roots.contains_key(&TreeId::BLOCK_GROUP.0) { TreeId::BLOCK_GROUP } else { TreeId::EXTENT };
    if let Some((root, level)) = roots.get(&home.0) {
        let groups = &mut evidence.groups;
        evidence.whole_groups = blocks.walk(home, *root, *level, &mut |leaf| take_groups(groups, leaf));
    }
    evidence
}

fn take_extents(stripes: &mut BTreeMap<u64, BTreeSet<(u64, u64)>>, leaf: &TreeBlock) {
    for slot in (0..leaf.len()).filter(|slot| leaf.key(*slot).item_type == ItemType::DEV_EXTENT) {
        if let Ok(extent) = read_exact::<DevExtent>(leaf.data(slot)) {
            let key = leaf.key(slot);
            stripes.entry(extent.chunk_offset.get()).or_default().insert((key.objectid, key.offset));
        }
    }
}

fn take_groups(groups: &mut BTreeMap<u64, (u64, BlockGroupFlags)>, leaf: &TreeBlock) {
    for slot in (0..leaf.len()).filter(|slot| leaf.key(*slot).item_type == ItemType::BLOCK_GROUP_ITEM) {
        if let Ok(group) = read_exact::<BlockGroupItem>(leaf.data(slot)) {
            let key = leaf.key(slot);
            groups.insert(key.objectid, (key.offset, group.flags()));
        }
    }
}

/// Adds the chunks that the chunk tree does not tell of.
fn complete(
    truth: &mut Truth,
    evidence: &Evidence,
    older: &BTreeMap<u64, Vec<Chunk>>,
    sb: &Superblock,
    own: &[DevItem],
) -> Result<()> {
    if !evidence.whole_groups {
        let text = "some block group items were not found on the devices, so it is not known which chunks there are";
        return Err(Error::Unknown(format!("the chunk tree cannot be recovered: {text}")));
    }
    for (start, (length, flags)) in &evidence.groups {
        let stripes = evidence.stripes.get(start);
        let agrees = |chunk: &Chunk| stripes.is_none_or(|stripes| *stripes == places(chunk) || !evidence.whole_devices);
        let right = |chunk: &Chunk| chunk.length() == *length && chunk.flags() == *flags && agrees(chunk);
        if truth.chunks.get(start).is_some_and(right) {
            continue;
        }
        let chunk = rebuild(*start, (*length, *flags), evidence, older, sb, own)?;
        truth.chunks.insert(*start, chunk);
        truth.rebuilt.insert(*start);
    }
    truth.chunks.retain(|start, _| evidence.groups.contains_key(start));
    Ok(())
}

fn places(chunk: &Chunk) -> BTreeSet<(u64, u64)> {
    chunk.stripes.iter().map(|stripe| (stripe.devid.get(), stripe.offset.get())).collect()
}

fn rebuild(
    start: u64,
    (length, flags): (u64, BlockGroupFlags),
    evidence: &Evidence,
    older: &BTreeMap<u64, Vec<Chunk>>,
    sb: &Superblock,
    own: &[DevItem],
) -> Result<Chunk> {
    let refuse = |text: &str| Err(Error::Unknown(format!("chunk {start} cannot be recovered: {text}")));
    let stripes = evidence.stripes.get(&start);
    let fits = |chunk: &&Chunk| {
        let agrees = stripes.map_or(!evidence.whole_devices, |stripes| *stripes == places(chunk));
        chunk.length() == length && chunk.flags() == flags && agrees
    };
    if let Some(chunk) = older.get(&start).and_then(|chunks| chunks.iter().find(fits)) {
        return Ok(chunk.clone());
    }
    let Some(stripes) = stripes.filter(|_| evidence.whole_devices) else {
        return refuse("its device extents were not found");
    };
    if !MIRRORED.contains(&flags.profile()) && stripes.len() > 1 {
        return refuse("its stripes are striped, and no chunk item was found that knows their order");
    }
    let mut list = Vec::new();
    for (devid, offset) in stripes {
        let Some(device) = own.iter().find(|item| item.devid.get() == *devid) else {
            return refuse(&format!("device {devid} is missing; name all devices"));
        };
        list.push(Stripe { devid: (*devid).into(), offset: (*offset).into(), dev_uuid: device.uuid });
    }
    let header = ChunkHeader {
        length: length.into(),
        owner: TreeId::EXTENT.0.into(),
        stripe_len: STRIPE_LEN.into(),
        chunk_type: flags.bits().into(),
        io_align: (STRIPE_LEN as u32).into(),
        io_width: (STRIPE_LEN as u32).into(),
        sector_size: sb.sectorsize,
        num_stripes: (list.len() as u16).into(),
        sub_stripes: 1.into(),
    };
    Ok(Chunk { header, stripes: list })
}

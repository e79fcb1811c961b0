//! Opening: from devices to a chunk map, trusting nothing.
//!
//! 1. Each device's superblock: the primary as the kernel takes it, or if that is bad the newest copy.
//! 2. The system chunks in the superblock, which lead to the chunk tree.
//! 3. The chunk tree: all chunks and devices.
//!
//! # Invariants
//! * Every block of the chunk tree is visited once, and there are bounds on blocks, chunks and
//!   devices: a hostile image costs bounded time and memory.
//! * Nothing is written while a volume is being opened.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use butterfs_format::items::{BlockGroupFlags, Chunk, DevItem, read_exact, read_front};
use butterfs_format::key::{DiskKey, ItemType, Key};
use butterfs_format::superblock::{Incompat, MAGIC, SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_format::validate::Expected;
use butterfs_format::{Corruption, DevId, Generation, Logical, Superblock, TreeBlock, TreeId};

use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::volume::{Member, OpenMode, Seen, Volume, missing};

/// More chunks than a filesystem of a pebibyte has.
const MAX_CHUNKS: usize = 1 << 20;
/// Blocks that the chunk tree may have.
const MAX_BLOCKS: usize = 1 << 16;
/// Devices that a filesystem may have.
const MAX_DEVICES: usize = 1 << 12;
/// Where the magic is within a superblock.
const MAGIC_AT: std::ops::Range<usize> = 64..72;

impl Seen {
    /// What the bytes at `offset` of a device are.
    pub(crate) fn of_bytes(bytes: &[u8], offset: u64) -> Self {
        match Superblock::parse(bytes, offset) {
            Ok(sb) => Self::Valid { generation: sb.generation.get(), csum: sb.csum },
            Err(_) => Self::Invalid,
        }
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown => f.write_str("superblock unknown"),
            Self::Invalid => f.write_str("no valid superblock"),
            Self::Valid { generation, .. } => write!(f, "generation {generation}"),
        }
    }
}

/// Reads the primary superblock.
pub(crate) fn look_at_primary(device: &dyn BlockDevice) -> io::Result<Seen> {
    let offset = SUPERBLOCK_OFFSETS[0];
    let mut bytes = vec![0; SUPERBLOCK_SIZE];
    device.read_at(offset, &mut bytes)?;
    Ok(Seen::of_bytes(&bytes, offset))
}

/// A device and what its superblocks say.
struct Found {
    device: Arc<dyn BlockDevice>,
    superblock: Superblock,
    seen: Seen,
}

pub(crate) fn open(devices: Vec<Arc<dyn BlockDevice>>, mode: OpenMode) -> Result<Volume> {
    let found = devices.into_iter().map(|device| scan(device, mode)).collect::<Result<Vec<_>>>()?;
    let Some(newest) = found.iter().map(|f| f.superblock).max_by_key(|sb| sb.generation.get()) else {
        return Err(Error::Unsupported("no device was given".into()));
    };
    refuse_features(&newest)?;
    let members = assemble_members(found, &newest)?;
    let mut volume = Volume::assemble(members, &newest, mode, [0; 16]);
    add_system_chunks(&volume, &newest)?;
    let devices = load_chunk_tree(&mut volume, &newest)?;
    settle_devices(&volume, &newest, &devices)?;
    volume.repairs.store(mode == OpenMode::ReadWrite, Ordering::Relaxed);
    Ok(volume)
}

/// Features that put bytes elsewhere than the chunks say.
fn refuse_features(sb: &Superblock) -> Result<()> {
    for (bit, name) in [(Incompat::RAID_STRIPE_TREE, "raid-stripe-tree"), (Incompat::REMAP_TREE, "remap-tree")] {
        if sb.incompat().contains(bit) {
            return Err(Error::Unsupported(format!("the filesystem uses {name}, which is not supported yet")));
        }
    }
    Ok(())
}

/// One superblock place of a device.
enum Copy {
    /// The device ends before, or could not be read.
    Unread(Option<io::Error>),
    /// Other bytes.
    Foreign,
    /// A superblock that breaks a rule.
    Bad(Corruption),
    Good(Box<Superblock>),
}

fn read_superblock(device: &dyn BlockDevice, offset: u64) -> Copy {
    if offset + SUPERBLOCK_SIZE as u64 > device.len() {
        return Copy::Unread(None);
    }
    let mut bytes = vec![0; SUPERBLOCK_SIZE];
    if let Err(error) = device.read_at(offset, &mut bytes) {
        return Copy::Unread(Some(error));
    }
    if bytes[MAGIC_AT] != MAGIC {
        return Copy::Foreign;
    }
    match Superblock::parse(&bytes, offset) {
        Ok(sb) => Copy::Good(Box::new(sb)),
        Err(corruption) => Copy::Bad(corruption),
    }
}

/// Finds the superblock to use. A good primary is always it, as for the kernel: a newer copy
/// elsewhere may be what is left of an older filesystem.
fn scan(device: Arc<dyn BlockDevice>, mode: OpenMode) -> Result<Found> {
    let primary = read_superblock(&*device, SUPERBLOCK_OFFSETS[0]);
    if let Copy::Good(sb) = primary {
        let seen = Seen::Valid { generation: sb.generation.get(), csum: sb.csum };
        return Ok(Found { device, superblock: *sb, seen });
    }
    let others = SUPERBLOCK_OFFSETS[1..].iter().filter_map(|offset| match read_superblock(&*device, *offset) {
        Copy::Good(sb) => Some(*sb),
        _ => None,
    });
    let Some(superblock) = others.max_by_key(|sb| sb.generation.get()) else {
        return Err(no_superblock(&*device, primary));
    };
    if mode == OpenMode::ReadWrite && matches!(primary, Copy::Foreign) {
        return Err(Error::NotWritable(format!(
            "{}: there is no Btrfs superblock at 64 KiB, only a copy further on (was the device wiped or reused?); \
             open it read-only, or restore the superblock first",
            device.name()
        )));
    }
    tracing::warn!(
        device = device.name(),
        offset = superblock.bytenr.get(),
        "primary superblock is bad; using another copy"
    );
    Ok(Found { device, superblock, seen: Seen::Invalid })
}

fn no_superblock(device: &dyn BlockDevice, primary: Copy) -> Error {
    let name = device.name();
    match primary {
        Copy::Unread(Some(source)) => Error::Device { name, devid: None, source },
        Copy::Bad(Corruption { place, problem }) => Corruption::new(format!("{name}: {place}"), problem).into(),
        _ => Error::NotBtrfs { name },
    }
}

fn assemble_members(found: Vec<Found>, newest: &Superblock) -> Result<Vec<Member>> {
    let mut members: Vec<Member> = Vec::with_capacity(found.len());
    for Found { device, superblock: sb, seen } in found {
        let (name, devid) = (device.name(), DevId(sb.dev_item.devid.get()));
        if sb.fsid != newest.fsid || sb.block_fsid() != newest.block_fsid() {
            return Err(Error::Unsupported(format!(
                "{name}: belongs to another filesystem (seed devices are not supported yet); name only devices of one"
            )));
        }
        if let Some(twin) = members.iter().find(|member| member.devid == devid) {
            let twin = twin.device.name();
            return Err(Error::Unsupported(format!(
                "{name} and {twin} are both device {devid}; name only one of them"
            )));
        }
        if sb.generation != newest.generation {
            tracing::warn!(device = name, generation = sb.generation.get(), "device is behind the others");
        }
        check_length(&*device, &sb.dev_item)?;
        members.push(Member::new(device, sb.dev_item, seen));
    }
    Ok(members)
}

fn check_length(device: &dyn BlockDevice, item: &DevItem) -> Result<()> {
    let (have, want) = (device.len(), item.total_bytes.get());
    if have >= want {
        return Ok(());
    }
    let problem = format!("truncated image: the filesystem needs {want} bytes, there are {have}; get a complete copy");
    Err(Corruption::new(device.name(), problem).into())
}

/// The chunks that the superblock itself holds, which lead to the chunk tree.
fn add_system_chunks(volume: &Volume, sb: &Superblock) -> Result<()> {
    let corrupt = |at: usize, problem: String| Corruption::new(format!("sys_chunk_array offset {at}"), problem);
    let array = sb.sys_chunk_array.get(..sb.sys_chunk_array_size.get() as usize);
    let array = array.ok_or_else(|| corrupt(0, format!("size {} is above 2048", sb.sys_chunk_array_size)))?;
    let mut at = 0;
    while at < array.len() {
        let (key, rest) = read_front::<DiskKey>(&array[at..]).map_err(|problem| corrupt(at, problem))?;
        let key = Key::from(key);
        let (chunk, size) = Chunk::parse(rest).map_err(|problem| corrupt(at, problem))?;
        let system = key.item_type == ItemType::CHUNK_ITEM && chunk.flags().contains(BlockGroupFlags::SYSTEM);
        if !system {
            return Err(corrupt(at, format!("{key} is not a system chunk")).into());
        }
        volume.add_chunk(Logical(key.offset), chunk)?;
        at += size_of::<DiskKey>() + size;
    }
    Ok(())
}

/// Reads the whole chunk tree into the volume's map; gives the device items.
fn load_chunk_tree(volume: &mut Volume, sb: &Superblock) -> Result<Vec<DevItem>> {
    let root = Expected {
        level: Some(sb.chunk_root_level),
        generation: Some(Generation(sb.chunk_root_generation.get())),
        owner: Some(TreeId::CHUNK),
        ..Expected::at(Logical(sb.chunk_root.get()))
    };
    let mut devices = Vec::new();
    let mut visited = HashSet::new();
    let mut stack = vec![root];
    while let Some(expected) = stack.pop() {
        if !visited.insert(expected.bytenr) || visited.len() > MAX_BLOCKS {
            let problem = format!("is referred to twice, or the tree has more than {MAX_BLOCKS} blocks");
            return Err(Corruption::new(format!("chunk tree block {}", expected.bytenr), problem).into());
        }
        let block = volume.read_block(&expected)?;
        if visited.len() == 1 {
            volume.chunk_tree_uuid = block.header().chunk_tree_uuid;
        }
        if block.is_leaf() { load_leaf(volume, &block, &mut devices)? } else { push_children(&block, &mut stack) }
    }
    Ok(devices)
}

/// Levels fall with each step and are checked, so a walk cannot go round in circles.
fn push_children(block: &TreeBlock, stack: &mut Vec<Expected>) {
    for slot in 0..block.len() {
        let ptr = block.ptr(slot);
        stack.push(Expected {
            bytenr: Logical(ptr.blockptr.get()),
            level: Some(block.level().saturating_sub(1)),
            generation: Some(Generation(ptr.generation.get())),
            first_key: Some(ptr.key.into()),
            owner: Some(TreeId::CHUNK),
        });
    }
}

fn load_leaf(volume: &Volume, block: &TreeBlock, devices: &mut Vec<DevItem>) -> Result<()> {
    for slot in 0..block.len() {
        let (key, data) = (block.key(slot), block.data(slot));
        let corrupt =
            |problem: String| Corruption::new(format!("tree block {} slot {slot} key {key}", block.bytenr()), problem);
        match key.item_type {
            ItemType::DEV_ITEM => devices.push(read_exact(data).map_err(corrupt)?),
            ItemType::CHUNK_ITEM => {
                let (chunk, _) = Chunk::parse(data).map_err(corrupt)?;
                add_tree_chunk(volume, Logical(key.offset), chunk)?;
            }
            _ => {}
        }
        if devices.len() > MAX_DEVICES || volume.map().len() > MAX_CHUNKS {
            return Err(corrupt(format!("more than {MAX_DEVICES} devices or {MAX_CHUNKS} chunks")).into());
        }
    }
    Ok(())
}

/// System chunks are known from the superblock already, and must be the same here.
fn add_tree_chunk(volume: &Volume, logical: Logical, chunk: Chunk) -> Result<()> {
    let known = volume.chunk_containing(logical).filter(|(start, _)| *start == logical);
    let Some((_, known)) = known else { return volume.add_chunk(logical, chunk) };
    let same = known.header.length == chunk.header.length
        && known.header.chunk_type == chunk.header.chunk_type
        && known.stripes == chunk.stripes;
    if same {
        return Ok(());
    }
    Err(Corruption::new(format!("chunk {logical}"), "differs between the superblock and the chunk tree").into())
}

/// Compares the devices that the chunk tree knows with those that were given.
fn settle_devices(volume: &Volume, sb: &Superblock, devices: &[DevItem]) -> Result<()> {
    for item in devices {
        let found = volume.member(DevId(item.devid.get()));
        let Some(index) = found.filter(|index| volume.members[*index].item().uuid == item.uuid) else {
            return Err(missing(item.devid.get(), item.uuid));
        };
        check_length(&*volume.members[index].device, item)?;
        volume.members[index].set_item(*item);
    }
    for member in &volume.members {
        if !devices.iter().any(|item| DevId(item.devid.get()) == member.devid) {
            let problem = format!("device {} is not in the chunk tree", member.devid);
            return Err(Corruption::new(member.device.name(), problem).into());
        }
    }
    check_stripes_within(volume)?;
    check_totals(volume, sb, devices)
}

/// Stripes were checked against the devices; now also against what the filesystem says of them.
fn check_stripes_within(volume: &Volume) -> Result<()> {
    for mapped in volume.map().iter() {
        let length = crate::map::stripe_length(mapped.start, &mapped.chunk)?;
        for stripe in &mapped.chunk.stripes {
            let total = volume.member(DevId(stripe.devid.get())).map(|index| volume.members[index].item().total_bytes);
            let end = stripe.offset.get().saturating_add(length);
            if total.is_none_or(|total| end > total.get()) {
                let problem = format!("stripe ends at {end}, past the end of device {}", stripe.devid);
                return Err(Corruption::new(format!("chunk {}", mapped.start), problem).into());
            }
        }
    }
    Ok(())
}

/// Sums that the kernel checks too. For reading they do not matter.
fn check_totals(volume: &Volume, sb: &Superblock, devices: &[DevItem]) -> Result<()> {
    if sb.num_devices.get() != devices.len() as u64 {
        tracing::warn!(superblock = sb.num_devices.get(), found = devices.len(), "number of devices differs");
    }
    let total = devices.iter().fold(0u64, |sum, item| sum.saturating_add(item.total_bytes.get()));
    if sb.total_bytes.get() >= total || volume.is_read_only() {
        return Ok(());
    }
    let problem = format!("total_bytes is {}, the devices have {total}", sb.total_bytes);
    Err(Corruption::new("superblock", problem).into())
}

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
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use butterfs_format::items::{BlockGroupFlags, Chunk, DevItem, read_exact, read_front};
use butterfs_format::key::{DiskKey, ItemType, Key};
use butterfs_format::superblock::{Incompat, SUPER_FLAG_CHANGING_FSID_V2, SUPER_FLAG_SEEDING};
use butterfs_format::validate::Expected;
use butterfs_format::{Corruption, DevId, Generation, Logical, Superblock, TreeBlock, TreeId};

use crate::apart;
use crate::device::BlockDevice;
use crate::error::{DeviceId, Error, Result, uuid_text};
use crate::member::{Member, Role, Seen};
use crate::returning::is_half_way;
use crate::superblock::{self, Found};
use crate::targets::{self, is_target};
use crate::twins;
use crate::volume::{BadChunks, Missing, OpenMode, OpenOptions, Volume};

/// More chunks than a filesystem of a pebibyte has.
const MAX_CHUNKS: usize = 1 << 20;
/// Blocks that the chunk tree may have.
const MAX_BLOCKS: usize = 1 << 16;
/// Devices that a filesystem may have.
const MAX_DEVICES: usize = 1 << 12;

pub(crate) fn open(devices: Vec<Arc<dyn BlockDevice>>, options: &OpenOptions) -> Result<Volume> {
    let mode = options.mode;
    let found = devices.into_iter().map(|device| superblock::find(device, mode)).collect::<Result<Vec<_>>>()?;
    let Some(mut newest) = choose(&found) else {
        return Err(Error::Unsupported("no device was given".into()));
    };
    refuse_features(&newest)?;
    if is_half_way(&newest) {
        return Err(Error::Unsupported(
            "the device was being brought up to date when that ended: half of it is old, and without the others it is \
             no filesystem; open it with them"
                .into(),
        ));
    }
    let (targets, found): (Vec<Found>, Vec<Found>) = found.into_iter().partition(|found| is_target(&found.superblock));
    let (found, replaced) = twins::leave_out_replaced(found)?;
    newest.dev_item = own_item(&newest, &found, &targets)?;
    let superblocks: Vec<Superblock> = found.iter().map(|found| found.superblock).collect();
    let members = assemble_members(found, &newest)?;
    let mut volume = Volume::assemble(members, &newest, options, [0; 16]);
    load(&mut volume, &newest, options.bad_chunks).map_err(|error| blame_missing(&volume, options, error))?;
    settle_missing(&volume, options.missing, mode)?;
    apart::examine(&volume, &newest, &superblocks)?;
    let half_way = volume.members.iter().zip(&superblocks).filter(|(_, sb)| is_half_way(sb));
    half_way.for_each(|(member, _)| member.missed.store(true, Ordering::Release));
    targets::settle(&volume, &newest, targets);
    volume.left_over.lock().unwrap_or_else(PoisonError::into_inner).extend(replaced);
    volume.repairs.store(mode == OpenMode::ReadWrite, Ordering::Relaxed);
    Ok(volume)
}

/// The item of a device of the filesystem, in the place of that of a target.
fn own_item(newest: &Superblock, found: &[Found], targets: &[Found]) -> Result<DevItem> {
    if !is_target(newest) {
        return Ok(newest.dev_item);
    }
    let own = found.iter().find(|found| role(&found.superblock, newest).is_some_and(|role| role != Role::Seed));
    own.map(|found| found.superblock.dev_item).ok_or_else(|| {
        let names: Vec<String> = targets.iter().map(|found| found.device.name()).collect();
        let text = "was to replace a device of the filesystem when that was last used; name its other devices";
        Error::Unsupported(format!("{} {text}", names.join(", ")))
    })
}

/// The superblock to believe: of seed devices and one that grew from them, the latter's; then the newest;
/// then one where no change of the filesystem's UUID was under way; then that of a device that belongs to it.
pub(crate) fn choose(found: &[Found]) -> Option<Superblock> {
    let seeding = |sb: &Superblock| sb.flags.get() & SUPER_FLAG_SEEDING != 0;
    let changing = |sb: &Superblock| sb.flags.get() & SUPER_FLAG_CHANGING_FSID_V2 != 0;
    let superblocks = found.iter().map(|f| f.superblock);
    superblocks.max_by_key(|sb| (!seeding(sb), sb.generation.get(), !changing(sb), !is_target(sb)))
}

/// What the superblock leads to: its own chunks, the chunk tree, the devices.
fn load(volume: &mut Volume, sb: &Superblock, bad_chunks: BadChunks) -> Result<()> {
    add_system_chunks(volume, sb)?;
    let devices = load_chunk_tree(volume, sb, bad_chunks)?;
    settle_devices(volume, sb, &devices)
}

/// What cannot be read without a missing device is that device's fault.
fn blame_missing(volume: &Volume, options: &OpenOptions, error: Error) -> Error {
    let missing = volume.missing_devices();
    let unreadable = matches!(error, Error::NoCopy { .. } | Error::Device { .. });
    if unreadable && !missing.is_empty() && options.missing == Missing::Refuse {
        return Error::MissingDevices(missing);
    }
    error
}

pub(crate) fn settle_missing(volume: &Volume, accepted: Missing, mode: OpenMode) -> Result<()> {
    let missing = volume.missing_devices();
    if missing.is_empty() {
        return Ok(());
    }
    if accepted == Missing::Refuse {
        return Err(Error::MissingDevices(missing));
    }
    let problem = Error::MissingDevices(missing);
    let lost = volume.map().iter().find(|mapped| !mapped.survives(|member| is_there(volume, member))).map(|m| m.start);
    match lost {
        Some(chunk) if mode == OpenMode::ReadWrite => {
            let text = format!("{problem}; chunk {chunk} is lost without; the filesystem can be opened read-only");
            Err(Error::NotWritable(text))
        }
        Some(_) => {
            tracing::warn!("{problem}; what other devices make up for can be read");
            Ok(())
        }
        None => {
            tracing::warn!("{problem}; other devices make up for all of it");
            Ok(())
        }
    }
}

fn is_there(volume: &Volume, member: usize) -> bool {
    volume.members[member].role() != Role::Missing
}

/// Opens with chunks and devices that are given, in place of a chunk tree that cannot be read. Where bad chunks are
/// left out, so are devices and seeds that cannot be.
pub(crate) fn open_with_chunks(
    devices: Vec<Arc<dyn BlockDevice>>,
    options: &OpenOptions,
    chunk_tree_uuid: [u8; 16],
    chunks: &[(Logical, Chunk)],
    items: &[DevItem],
) -> Result<Volume> {
    let find = |device| superblock::find(device, OpenMode::ReadOnly);
    let mut found = devices.into_iter().map(find).collect::<Result<Vec<_>>>()?;
    found.retain(|found| !is_target(&found.superblock));
    let Some(newest) = choose(&found) else {
        return Err(Error::Unsupported("no device was given".into()));
    };
    refuse_features(&newest)?;
    let members = assemble_members(found, &newest)?;
    let volume = Volume::assemble(members, &newest, options, chunk_tree_uuid);
    if options.bad_chunks == BadChunks::LeaveOut {
        return Ok(take_what_fits(volume, chunks, items));
    }
    chunks.iter().try_for_each(|(logical, chunk)| volume.add_chunk(*logical, chunk.clone()))?;
    items.iter().for_each(|item| volume.set_dev_item(*item));
    check_stripes_within(&volume)?;
    Ok(volume)
}

fn take_what_fits(mut volume: Volume, chunks: &[(Logical, Chunk)], items: &[DevItem]) -> Volume {
    for item in items {
        let id = DeviceId { devid: DevId(item.devid.get()), uuid: item.uuid };
        match volume.know_device(id) {
            Ok(index) => volume.members[index].set_item(*item),
            Err(error) => tracing::warn!(%error, "device left out"),
        }
        if let Err(error) = volume.know_seed(item.fsid) {
            tracing::warn!(%error, "seed left out");
        }
    }
    for (logical, chunk) in chunks {
        if let Err(error) = add_chunk(&mut volume, *logical, chunk.clone()) {
            tracing::warn!(%logical, %error, "chunk left out");
        }
    }
    volume
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

fn assemble_members(found: Vec<Found>, newest: &Superblock) -> Result<Vec<Member>> {
    let mut members: Vec<Member> = Vec::with_capacity(found.len());
    for Found { device, superblock: sb, seen } in found {
        let (name, role) = (device.name(), role(&sb, newest));
        let Some(role) = role else { return Err(stranger(&name)) };
        let member = Member::new(device, sb.dev_item, role, seen);
        let same = |other: &&Member| {
            let same_number = other.devid() == member.devid() && other.item().fsid == sb.dev_item.fsid;
            // One that was removed may be of the number that another one got afterwards.
            other.id.uuid == member.id.uuid || same_number && other.role() == member.role()
        };
        if let Some(twin) = members.iter().find(same) {
            let (twin, devid) = (twin.device.name(), member.devid());
            return Err(Error::Unsupported(format!(
                "{name} and {twin} are both device {devid}; name only one of them"
            )));
        }
        if role == Role::Behind {
            tracing::warn!(device = name, generation = sb.generation.get(), "device is behind the others");
        }
        check_length(&*member.device, &sb.dev_item)?;
        members.push(member);
    }
    Ok(members)
}

/// What a device with this superblock is to the filesystem; `None` if it is a stranger.
pub(crate) fn role(sb: &Superblock, newest: &Superblock) -> Option<Role> {
    if sb.block_fsid() != newest.block_fsid() {
        return (sb.flags.get() & SUPER_FLAG_SEEDING != 0).then_some(Role::Seed);
    }
    // While the UUID that users see is changed, devices differ in it.
    let changing = (sb.flags.get() | newest.flags.get()) & SUPER_FLAG_CHANGING_FSID_V2 != 0;
    if sb.fsid != newest.fsid && !changing {
        return None;
    }
    Some(if sb.generation == newest.generation { Role::Current } else { Role::Behind })
}

fn stranger(name: &str) -> Error {
    Error::Unsupported(format!("{name}: belongs to another filesystem; name only devices of one"))
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
pub(crate) fn add_system_chunks(volume: &mut Volume, sb: &Superblock) -> Result<()> {
    each_system_chunk(sb, |start, chunk| add_chunk(volume, start, chunk))
}

/// Does something with each chunk that a superblock holds.
pub(crate) fn each_system_chunk(sb: &Superblock, mut work: impl FnMut(Logical, Chunk) -> Result<()>) -> Result<()> {
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
        work(Logical(key.offset), chunk)?;
        at += size_of::<DiskKey>() + size;
    }
    Ok(())
}

/// Reads the whole chunk tree into the volume's map; gives the device items.
pub(crate) fn load_chunk_tree(volume: &mut Volume, sb: &Superblock, bad_chunks: BadChunks) -> Result<Vec<DevItem>> {
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
        match block.is_leaf() {
            true => load_leaf(volume, &block, &mut devices, bad_chunks)?,
            false => push_children(&block, &mut stack),
        }
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

fn load_leaf(volume: &mut Volume, block: &TreeBlock, devices: &mut Vec<DevItem>, bad_chunks: BadChunks) -> Result<()> {
    for slot in 0..block.len() {
        let (key, data) = (block.key(slot), block.data(slot));
        let corrupt =
            |problem: String| Corruption::new(format!("tree block {} slot {slot} key {key}", block.bytenr()), problem);
        match key.item_type {
            ItemType::DEV_ITEM => {
                let item: DevItem = read_exact(data).map_err(corrupt)?;
                volume.know_seed(item.fsid)?;
                devices.push(item);
            }
            ItemType::CHUNK_ITEM => {
                let (chunk, _) = Chunk::parse(data).map_err(corrupt)?;
                match add_tree_chunk(volume, Logical(key.offset), chunk) {
                    Err(error) if bad_chunks == BadChunks::LeaveOut => {
                        tracing::warn!(logical = key.offset, %error, "chunk left out");
                    }
                    added => added?,
                }
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
fn add_tree_chunk(volume: &mut Volume, logical: Logical, chunk: Chunk) -> Result<()> {
    let known = volume.chunk_containing(logical).filter(|(start, _)| *start == logical);
    let Some((_, known)) = known else { return add_chunk(volume, logical, chunk) };
    let same = known.header.length == chunk.header.length
        && known.header.chunk_type == chunk.header.chunk_type
        && known.stripes == chunk.stripes;
    if same {
        return Ok(());
    }
    Err(Corruption::new(format!("chunk {logical}"), "differs between the superblock and the chunk tree").into())
}

/// Makes a chunk known, and the devices it lies on: those that were not given are missing.
fn add_chunk(volume: &mut Volume, logical: Logical, chunk: Chunk) -> Result<()> {
    for stripe in &chunk.stripes {
        let id = DeviceId { devid: DevId(stripe.devid.get()), uuid: stripe.dev_uuid };
        volume.know_device(id)?;
    }
    volume.add_chunk(logical, chunk)
}

/// Compares the devices that the chunk tree knows with those that were given.
fn settle_devices(volume: &mut Volume, sb: &Superblock, devices: &[DevItem]) -> Result<()> {
    for item in devices {
        let id = DeviceId { devid: DevId(item.devid.get()), uuid: item.uuid };
        let index = volume.know_device(id)?;
        let member = &volume.members[index];
        if member.role() != Role::Missing {
            check_length(&*member.device, item)?;
        }
        require_unchanged_seed(member, item)?;
        member.set_item(*item);
    }
    volume.members.iter().try_for_each(|member| require_item(member, devices))?;
    check_stripes_within(volume)?;
    if volume.is_read_only() {
        // For reading they do not matter.
        return Ok(());
    }
    check_totals(sb, devices)
}

/// A seed that was written after something grew from it has other bytes where the trees of that lead.
fn require_unchanged_seed(member: &Member, item: &DevItem) -> Result<()> {
    let Seen::Valid { generation, .. } = *member.seen() else { return Ok(()) };
    if member.role() != Role::Seed || generation == item.generation.get() {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "{}: the seed was changed after this filesystem grew from it: it is of generation {generation}, and was of {}; an \
         unchanged copy of it is needed",
        member.device.name(),
        item.generation
    )))
}

/// Every device has an item in the chunk tree.
fn require_item(member: &Member, devices: &[DevItem]) -> Result<()> {
    let DeviceId { devid, uuid } = member.id;
    let same_number = devices.iter().find(|item| DevId(item.devid.get()) == devid);
    if same_number.is_some_and(|item| item.uuid == uuid) {
        return Ok(());
    }
    if member.role() == Role::Behind {
        // A power cut came between the commit that removed it and the end of its superblocks.
        tracing::warn!(device = member.device.name(), "it was removed from the filesystem; leaving it out");
        member.removed.store(true, Ordering::Release);
        return Ok(());
    }
    let problem = match (member.role(), same_number) {
        (Role::Seed, _) => return Err(stranger(&member.device.name())),
        (Role::Current, Some(item)) => {
            let own = uuid_text(&item.uuid);
            format!("device {devid} has UUID {own} in the chunk tree, another in its superblock")
        }
        _ => format!("device {devid} is not in the chunk tree"),
    };
    Err(Corruption::new(member.device.name(), problem).into())
}

/// Stripes were checked against the devices; now also against what the filesystem says of them.
fn check_stripes_within(volume: &Volume) -> Result<()> {
    for mapped in volume.map().iter() {
        let length = mapped.grid.stripe_length(mapped.chunk.length());
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

/// Sums that the kernel checks too.
pub(crate) fn check_totals(sb: &Superblock, devices: &[DevItem]) -> Result<()> {
    if sb.num_devices.get() != devices.len() as u64 {
        tracing::warn!(superblock = sb.num_devices.get(), found = devices.len(), "number of devices differs");
    }
    let total = devices.iter().fold(0u64, |sum, item| sum.saturating_add(item.total_bytes.get()));
    if sb.total_bytes.get() >= total {
        return Ok(());
    }
    let problem = format!("total_bytes is {}, the devices have {total}", sb.total_bytes);
    Err(Corruption::new("superblock", problem).into())
}

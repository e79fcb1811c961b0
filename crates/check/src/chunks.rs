//! Chunks, device extents and devices: three descriptions of one layout, and the superblock's totals.

use std::collections::{BTreeMap, HashMap};

use butterfs_format::ids::objectid;
use butterfs_format::items::{BlockGroupFlags, Chunk, DevExtent, DevItem, STRIPE_LEN, read_exact};
use butterfs_format::superblock::SUPERBLOCK_OFFSETS;
use butterfs_format::{ItemType, Key, TreeBlock, TreeId};

use crate::context::Context;
use crate::device_items;
use crate::finding::{Kind, Place};
use crate::walk::LeafVisitor;

/// The chunk tree's content.
#[derive(Default)]
pub(crate) struct Chunks {
    /// By logical address.
    pub chunks: BTreeMap<u64, Chunk>,
    /// By device number.
    pub devices: BTreeMap<u64, DevItem>,
}

impl LeafVisitor for Chunks {
    fn leaf(&mut self, context: &mut Context<'_>, leaf: &TreeBlock) {
        for slot in 0..leaf.len() {
            let (key, data) = (leaf.key(slot), leaf.data(slot));
            match key.item_type {
                ItemType::CHUNK_ITEM => {
                    if let Ok((chunk, _)) = Chunk::parse(data) {
                        self.chunks.insert(key.offset, chunk);
                        context.report.statistics.chunks += 1;
                    }
                }
                ItemType::DEV_ITEM => {
                    if let Ok(item) = read_exact::<DevItem>(data) {
                        self.devices.insert(key.offset, item);
                    }
                }
                _ => context.error(
                    Kind::UnknownKey,
                    Place::item(TreeId::CHUNK, &key),
                    format!("{key} does not belong here"),
                ),
            }
        }
    }
}

/// How many stripes of a chunk hold different data.
fn data_stripes(chunk: &Chunk) -> u64 {
    use BlockGroupFlags as F;
    let n = chunk.stripes.len() as u64;
    match chunk.flags().profile() {
        F::RAID0 => n,
        F::RAID10 => n / 2,
        F::RAID5 => n.saturating_sub(1),
        F::RAID6 => n.saturating_sub(2),
        _ => 1,
    }
    .max(1)
}

/// How many bytes each stripe of a chunk takes on its device.
pub(crate) fn stripe_size(chunk: &Chunk) -> u64 {
    chunk.length() / data_stripes(chunk)
}

impl Chunks {
    /// The logical ranges, sorted, that superblock copies take from chunks.
    pub fn superblock_ranges(&self) -> Vec<(u64, u64)> {
        let mut ranges = Vec::new();
        for (start, chunk) in &self.chunks {
            for (index, stripe) in chunk.stripes.iter().enumerate() {
                for copy in SUPERBLOCK_OFFSETS {
                    let inside = copy.checked_sub(stripe.offset.get()).filter(|at| *at < stripe_size(chunk));
                    if let Some(at) = inside.and_then(|at| logical_of(chunk, index as u64, at)) {
                        let from = start.saturating_add(at);
                        let end = start.saturating_add(chunk.length());
                        ranges.push((from, from.saturating_add(STRIPE_LEN * parity_width(chunk)).min(end)));
                    }
                }
            }
        }
        ranges.sort_unstable();
        ranges
    }
}

/// With parity a whole row of stripes is kept clear.
fn parity_width(chunk: &Chunk) -> u64 {
    let parity = BlockGroupFlags::RAID5 | BlockGroupFlags::RAID6;
    if chunk.flags().intersects(parity) { data_stripes(chunk) } else { 1 }
}

/// The offset in a chunk of the byte `at` of one of its stripes.
fn logical_of(chunk: &Chunk, index: u64, at: u64) -> Option<u64> {
    use BlockGroupFlags as F;
    let (row, within) = (at / STRIPE_LEN, at % STRIPE_LEN);
    let number = match chunk.flags().profile() {
        F::RAID0 => row.checked_mul(data_stripes(chunk))?.checked_add(index)?,
        F::RAID10 => row.checked_mul(data_stripes(chunk))?.checked_add(index / 2)?,
        F::RAID5 | F::RAID6 => return row.checked_mul(data_stripes(chunk))?.checked_mul(STRIPE_LEN),
        _ => row,
    };
    number.checked_mul(STRIPE_LEN)?.checked_add(within)
}

/// The device tree's extents: (device, offset) to what is there.
#[derive(Default)]
pub(crate) struct DeviceExtents {
    extents: BTreeMap<(u64, u64), DevExtent>,
    /// Statistics of devices.
    statistics: Vec<(Key, Vec<u8>)>,
}

impl LeafVisitor for DeviceExtents {
    fn leaf(&mut self, context: &mut Context<'_>, leaf: &TreeBlock) {
        for slot in 0..leaf.len() {
            let (key, data) = (leaf.key(slot), leaf.data(slot));
            match key.item_type {
                ItemType::DEV_EXTENT => {
                    if let Ok(item) = read_exact::<DevExtent>(data) {
                        self.extents.insert((key.objectid, key.offset), item);
                    }
                }
                ItemType::PERSISTENT_ITEM => self.statistics.push((key, data.to_vec())),
                ItemType::DEV_REPLACE => device_items::check_replace(context, &key, data),
                ItemType::TEMPORARY_ITEM => {}
                _ => context.error(
                    Kind::UnknownKey,
                    Place::item(TreeId::DEV, &key),
                    format!("{key} does not belong here"),
                ),
            }
        }
    }
}

/// Compares the three with each other and with the superblock.
pub(crate) fn check(context: &mut Context<'_>, chunks: &Chunks, extents: &DeviceExtents) {
    chunks_have_extents(context, chunks, extents);
    extents_have_chunks(context, chunks, extents);
    extents_lie_well(context, chunks, extents);
    devices_add_up(context, chunks, extents);
    system_chunks_agree(context, chunks);
    overlapping_chunks(context, chunks);
    for (key, data) in &extents.statistics {
        device_items::check_statistics(context, key, data, chunks);
    }
}

fn chunks_have_extents(context: &mut Context<'_>, chunks: &Chunks, extents: &DeviceExtents) {
    for (start, chunk) in &chunks.chunks {
        let sectorsize = context.sectorsize();
        if u64::from(chunk.header.sector_size.get()) != sectorsize {
            let problem = format!("sector size is {}, want {sectorsize}", chunk.header.sector_size);
            context.error(Kind::Chunk, Place::chunk(*start), problem);
        }
        for stripe in &chunk.stripes {
            let (devid, offset) = (stripe.devid.get(), stripe.offset.get());
            match chunks.devices.get(&devid) {
                None => context.error(Kind::Chunk, Place::chunk(*start), format!("no device {devid}")),
                Some(device) if device.uuid != stripe.dev_uuid => {
                    context.error(Kind::Chunk, Place::chunk(*start), format!("another UUID than device {devid}"));
                }
                Some(_) => {}
            }
            let size = stripe_size(chunk);
            let matches = |e: &&DevExtent| e.chunk_offset.get() == *start && e.length.get() == size;
            if extents.extents.get(&(devid, offset)).filter(matches).is_none() {
                let problem = format!("no device extent of {size} bytes at {offset} of device {devid}");
                context.error(Kind::Chunk, Place::chunk(*start), problem);
            }
        }
    }
}

fn extents_have_chunks(context: &mut Context<'_>, chunks: &Chunks, extents: &DeviceExtents) {
    for ((devid, offset), extent) in &extents.extents {
        let chunk = chunks.chunks.get(&extent.chunk_offset.get());
        let known =
            chunk.is_some_and(|c| c.stripes.iter().any(|s| s.devid.get() == *devid && s.offset.get() == *offset));
        if !known {
            let problem = format!("chunk {} has no such stripe", extent.chunk_offset);
            context.error(Kind::DeviceExtent, Place::device_extent(*devid, *offset), problem);
        }
        let owner = (extent.chunk_tree.get(), extent.chunk_objectid.get());
        if owner != (TreeId::CHUNK.0, objectid::FIRST_CHUNK_TREE) {
            let problem = format!("belongs to object {} of tree {}", owner.1, owner.0);
            context.error(Kind::DeviceExtent, Place::device_extent(*devid, *offset), problem);
        }
    }
}

fn extents_lie_well(context: &mut Context<'_>, chunks: &Chunks, extents: &DeviceExtents) {
    let mut last: Option<(u64, u64)> = None;
    for ((devid, offset), extent) in &extents.extents {
        let end = offset.saturating_add(extent.length.get());
        if last.is_some_and(|(device, last_end)| device == *devid && last_end > *offset) {
            context.error(Kind::DeviceExtent, Place::device_extent(*devid, *offset), "overlaps the one before");
        }
        match chunks.devices.get(devid) {
            Some(device) if end > device.total_bytes.get() => {
                let problem = format!("ends at {end}, the device at {}", device.total_bytes);
                context.error(Kind::DeviceExtent, Place::device_extent(*devid, *offset), problem);
            }
            Some(_) => {}
            None => context.error(Kind::DeviceExtent, Place::device_extent(*devid, *offset), "there is no such device"),
        }
        last = Some((*devid, end));
    }
}

fn devices_add_up(context: &mut Context<'_>, chunks: &Chunks, extents: &DeviceExtents) {
    let mut used: HashMap<u64, u64> = HashMap::new();
    for ((devid, _), extent) in &extents.extents {
        let sum = used.entry(*devid).or_default();
        *sum = sum.saturating_add(extent.length.get());
    }
    let mut total = 0u64;
    for (devid, device) in &chunks.devices {
        total = total.saturating_add(device.total_bytes.get());
        device_fields(context, device, used.get(devid).copied().unwrap_or(0));
    }
    let (super_total, super_count) = (context.superblock().total_bytes.get(), context.superblock().num_devices.get());
    if super_total < total || super_total > total && !context.is_dump() {
        let problem = format!("total_bytes is {super_total}, the devices have {total}");
        // The kernel mounts a filesystem that says too much, not one that says too little.
        if super_total < total {
            context.error(Kind::Device, Place::superblock(), problem);
        } else {
            context.warn(Kind::Device, Place::superblock(), problem);
        }
    }
    if super_count != chunks.devices.len() as u64 {
        let problem = format!("num_devices is {super_count}, there are {}", chunks.devices.len());
        context.error(Kind::Device, Place::superblock(), problem);
    }
}

fn device_fields(context: &mut Context<'_>, device: &DevItem, used: u64) {
    let place = Place::device(device.devid.get());
    if device.bytes_used.get() != used {
        let problem = format!("bytes_used is {}, its extents take {used}", device.bytes_used);
        context.error(Kind::Device, place.clone(), problem);
    }
    let sectorsize = context.sectorsize();
    if device.fsid != context.superblock().block_fsid() && !context.access.is_seed(device.devid.get()) {
        context.error(Kind::Device, place.clone(), "has the UUID of another filesystem");
    }
    if !device.total_bytes.get().is_multiple_of(sectorsize) {
        let problem = format!("total_bytes {} is not a multiple of {sectorsize}", device.total_bytes);
        context.warn(Kind::Device, place.clone(), problem);
    }
    for (devid, own) in context.access.device_items() {
        if devid == device.devid.get() {
            own_item(context, &place, device, &own);
        }
    }
}

/// The superblock of each device carries a copy of its item.
fn own_item(context: &mut Context<'_>, place: &Place, device: &DevItem, own: &DevItem) {
    if device.total_bytes != own.total_bytes {
        let problem = format!("total_bytes is {}, its superblock says {}", device.total_bytes, own.total_bytes);
        context.error(Kind::Device, place.clone(), problem);
    }
    // Old kernels forgot this when a chunk was removed; nobody reads it.
    if device.bytes_used != own.bytes_used {
        let problem = format!("bytes_used is {}, its superblock says {}", device.bytes_used, own.bytes_used);
        context.warn(Kind::Device, place.clone(), problem);
    }
    if device.uuid != own.uuid {
        context.error(Kind::Device, place.clone(), "its superblock has another device UUID");
    }
}

/// The superblock's array of system chunks against the chunk tree.
fn system_chunks_agree(context: &mut Context<'_>, chunks: &Chunks) {
    let mut array = BTreeMap::new();
    for (key, chunk) in context.access.system_chunks() {
        array.insert(key.offset, chunk);
    }
    for (start, chunk) in &array {
        match chunks.chunks.get(start) {
            Some(other) if other == chunk => {}
            Some(_) => context.error(Kind::Chunk, Place::chunk(*start), "the superblock's array has it otherwise"),
            None => context.error(Kind::Chunk, Place::chunk(*start), "is in the superblock's array only"),
        }
    }
    for (start, chunk) in &chunks.chunks {
        if chunk.flags().contains(BlockGroupFlags::SYSTEM) && !array.contains_key(start) {
            context.error(Kind::Chunk, Place::chunk(*start), "is not in the superblock's array of system chunks");
        }
    }
}

fn overlapping_chunks(context: &mut Context<'_>, chunks: &Chunks) {
    let mut last = 0u64;
    for (start, chunk) in &chunks.chunks {
        if *start < last {
            context.error(Kind::Chunk, Place::chunk(*start), format!("overlaps the one before, which ends at {last}"));
        }
        last = start.saturating_add(chunk.length());
    }
}

/// The system chunks in a superblock's array, as far as they can be read.
pub(crate) fn parse_system_chunks(mut bytes: &[u8]) -> Vec<(Key, Chunk)> {
    use butterfs_format::items::read_front;
    use butterfs_format::key::DiskKey;
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let Ok((key, rest)) = read_front::<DiskKey>(bytes) else { break };
        let Ok((chunk, size)) = Chunk::parse(rest) else { break };
        let Some(rest) = rest.get(size..) else { break };
        found.push((Key::from(key), chunk));
        bytes = rest;
    }
    found
}

//! Chunks: device space becomes logical space, and is given back.
//!
//! # Invariants
//! * A chunk, its device extents, its block group and its free space come and go in one transaction.
//! * The superblock's array holds exactly the system chunks.
//! * Device space of a removed group held no extent since the last commit, so it may be used again
//!   at once.

use std::ops::Range;

use butterfs_format::ids::objectid;
use butterfs_format::items::{BlockGroupFlags, Chunk, ChunkHeader, DevExtent, DevItem, STRIPE_LEN, Stripe};
use butterfs_format::key::DiskKey;
use butterfs_format::superblock::{RESERVED_START, SYS_CHUNK_ARRAY_SIZE};
use butterfs_format::{Corruption, ItemType, Key, Logical, TreeId};
use zerocopy::{FromBytes, IntoBytes};

use super::{Transaction, WhyCommit};
use crate::error::{Error, Result};
use crate::space::{BlockGroup, FreeRanges, GroupState};

/// Kinds of which empty groups are given back.
const REMOVABLE: [BlockGroupFlags; 2] = [BlockGroupFlags::DATA, BlockGroupFlags::METADATA];

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The key of a chunk.
pub(super) fn chunk_key(start: Logical) -> Key {
    Key::new(objectid::FIRST_CHUNK_TREE, ItemType::CHUNK_ITEM, start.0)
}

/// How many stripes on one device the profile of a chunk on one device takes.
fn stripes_on_one_device(flags: BlockGroupFlags) -> Result<u64> {
    match flags.profile() {
        p if p.is_empty() => Ok(1),
        BlockGroupFlags::DUP => Ok(2),
        _ => Err(Error::Unsupported(format!("making {} chunks", flags.profile_name()))),
    }
}

impl Transaction {
    /// The profile new chunks of a kind get: that of the newest chunk of the kind.
    fn profile_for(&self, kind: BlockGroupFlags) -> BlockGroupFlags {
        self.space.last_of(kind).map_or(kind, |group| group.flags)
    }

    /// Makes a new chunk of this kind, as large as the kernel would.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if the devices have no room; nothing is changed then.
    pub(super) fn allocate_chunk(&mut self, kind: BlockGroupFlags) -> Result<()> {
        if kind != BlockGroupFlags::SYSTEM {
            self.ensure_system_space()?;
        }
        let flags = self.profile_for(kind);
        let copies = stripes_on_one_device(flags)?;
        let device = self.devices[0];
        let (stripe_offsets, len) = self.place_chunk(&device, flags, copies)?;
        self.make_chunk(flags, &stripe_offsets, len)?;
        if kind != BlockGroupFlags::DATA || self.wanted_metadata_groups() <= self.space.count(BlockGroupFlags::METADATA)
        {
            return Ok(());
        }
        match self.allocate_chunk(BlockGroupFlags::METADATA) {
            Err(Error::NoSpace) => Ok(()),
            result => result,
        }
    }

    /// How many metadata groups `metadata_ratio` asks for.
    fn wanted_metadata_groups(&self) -> usize {
        self.space.count(BlockGroupFlags::DATA).checked_div(self.rules.metadata_ratio as usize).unwrap_or(0)
    }

    /// The chunk tree lives in system chunks: there must be room to change it before it is changed.
    fn ensure_system_space(&mut self) -> Result<()> {
        let available = self.space.totals(BlockGroupFlags::SYSTEM).available;
        if available >= 16 * u64::from(self.geometry.nodesize) {
            return Ok(());
        }
        match self.allocate_chunk(BlockGroupFlags::SYSTEM) {
            Err(Error::NoSpace) if available >= 4 * u64::from(self.geometry.nodesize) => Ok(()),
            result => result,
        }
    }

    /// The largest size of a chunk: as the kernel, by kind and by the size of the filesystem.
    fn chunk_size_limit(&self, kind: BlockGroupFlags, copies: u64) -> u64 {
        let total: u64 = self.devices.iter().map(|d| d.total_bytes.get()).sum();
        let by_kind = match kind {
            BlockGroupFlags::SYSTEM => 32 * MIB,
            BlockGroupFlags::METADATA if total <= 50 * GIB => 256 * MIB,
            BlockGroupFlags::METADATA => GIB,
            _ => GIB,
        };
        let tenth = total / 10 / copies.max(1);
        by_kind.min(tenth.max(8 * MIB)) / STRIPE_LEN * STRIPE_LEN
    }

    /// Finds room on the device: where each stripe begins, and how long they are.
    fn place_chunk(&mut self, device: &DevItem, flags: BlockGroupFlags, copies: u64) -> Result<(Vec<u64>, u64)> {
        let (limit, nodesize) = (self.chunk_size_limit(flags.kind(), copies), u64::from(self.geometry.nodesize));
        let free = self.device_space(device)?;
        if let Some(start) = free.first_fit(limit * copies) {
            return Ok(((0..copies).map(|n| start + n * limit).collect(), limit));
        }
        let len = free.longest() / copies / STRIPE_LEN * STRIPE_LEN;
        if len < MIB.max(16 * nodesize).min(limit) {
            return Err(Error::NoSpace);
        }
        let start = free.first_fit(len * copies).ok_or(Error::NoSpace)?;
        Ok(((0..copies).map(|n| start + n * len).collect(), len))
    }

    /// The holes between device extents; read once, then kept.
    pub(super) fn device_space(&mut self, device: &DevItem) -> Result<&FreeRanges> {
        let found = match self.device_space.take() {
            Some(found) => found,
            None => self.read_device_space(device)?,
        };
        Ok(self.device_space.insert(found))
    }

    fn read_device_space(&self, device: &DevItem) -> Result<FreeRanges> {
        let mut free = FreeRanges::default();
        let end = device.total_bytes.get() / STRIPE_LEN * STRIPE_LEN;
        free.add(RESERVED_START, end.saturating_sub(RESERVED_START));
        let devid = device.devid.get();
        let mut cursor = self.cursor(TreeId::DEV, &Key::new(devid, ItemType::DEV_EXTENT, 0))?;
        while let Some((key, data)) = cursor.item() {
            if key.objectid != devid || key.item_type != ItemType::DEV_EXTENT {
                break;
            }
            let extent = DevExtent::read_from_bytes(data)
                .map_err(|_| Corruption::new(format!("device tree {key}"), "bad size"))?;
            free.remove(key.offset, extent.length.get());
            cursor.advance()?;
        }
        Ok(free)
    }

    /// Enters a chunk with stripes on the first device everywhere it must be known.
    pub(super) fn make_chunk(&mut self, flags: BlockGroupFlags, offsets: &[u64], len: u64) -> Result<()> {
        let start = Logical(self.next_chunk_start());
        let chunk = self.describe_chunk(flags, offsets, len);
        if flags.contains(BlockGroupFlags::SYSTEM) && self.system_array_entry(start, &chunk).is_none() {
            return Err(Error::NoSpace);
        }
        // The last commit does not know it.
        self.refuse_log(WhyCommit::NewChunk);
        self.changes += 1;
        self.volume.add_chunk(start, chunk.clone())?;
        let mut group = self.block_group(start, &chunk, 0);
        group.free = Some(self.all_free(&group));
        group.dirty = true;
        self.space.add(group.clone());
        if flags.contains(BlockGroupFlags::SYSTEM) {
            self.add_to_system_array(start, &chunk)?;
        }
        self.insert(TreeId::CHUNK, &chunk_key(start), &chunk.pack())?;
        self.change_device_extents(start, &chunk, DeviceSpace::Take)?;
        self.put_block_group_item(start.0, len, flags, 0)?;
        if self.has_free_space_tree() { self.create_free_space(&group) } else { Ok(()) }
    }

    fn next_chunk_start(&self) -> u64 {
        self.space.end().max(RESERVED_START).next_multiple_of(STRIPE_LEN)
    }

    pub(super) fn describe_chunk(&self, flags: BlockGroupFlags, offsets: &[u64], len: u64) -> Chunk {
        let device = self.devices[0];
        let stripes: Vec<Stripe> = offsets
            .iter()
            .map(|offset| Stripe { devid: device.devid, offset: (*offset).into(), dev_uuid: device.uuid })
            .collect();
        let header = ChunkHeader {
            length: len.into(),
            owner: TreeId::EXTENT.0.into(),
            stripe_len: STRIPE_LEN.into(),
            chunk_type: flags.bits().into(),
            io_align: (STRIPE_LEN as u32).into(),
            io_width: (STRIPE_LEN as u32).into(),
            sector_size: self.geometry.sectorsize.into(),
            num_stripes: (stripes.len() as u16).into(),
            sub_stripes: 1.into(),
        };
        Chunk { header, stripes }
    }

    /// Puts in, or takes out, the device extents of a chunk, and counts them in the device item.
    pub(super) fn change_device_extents(&mut self, start: Logical, chunk: &Chunk, to: DeviceSpace) -> Result<()> {
        for stripe in &chunk.stripes {
            let key = Key::new(stripe.devid.get(), ItemType::DEV_EXTENT, stripe.offset.get());
            match to {
                DeviceSpace::Take => {
                    let extent = DevExtent {
                        chunk_tree: TreeId::CHUNK.0.into(),
                        chunk_objectid: objectid::FIRST_CHUNK_TREE.into(),
                        chunk_offset: start.0.into(),
                        length: chunk.length().into(),
                        chunk_tree_uuid: self.chunk_tree_uuid,
                    };
                    self.insert(TreeId::DEV, &key, extent.as_bytes())?;
                    if let Some(space) = &mut self.device_space {
                        space.remove(stripe.offset.get(), chunk.length());
                    }
                }
                DeviceSpace::Return => {
                    self.remove(TreeId::DEV, &key)?;
                    if let Some(space) = &mut self.device_space {
                        space.add(stripe.offset.get(), chunk.length());
                    }
                    self.note_unallocated(stripe.offset.get(), chunk.length());
                }
            }
        }
        let by = chunk.length() as i64 * chunk.stripes.len() as i64;
        self.change_device_used(if to == DeviceSpace::Take { by } else { -by })
    }

    fn change_device_used(&mut self, by: i64) -> Result<()> {
        let device = &mut self.devices[0];
        let used = device.bytes_used.get().checked_add_signed(by).ok_or_else(|| {
            Corruption::new(
                format!("device {}", device.devid),
                format!("{} bytes used change by {by}", device.bytes_used),
            )
        })?;
        device.bytes_used = used.into();
        let item = *device;
        let key = Key::new(objectid::DEV_ITEMS, ItemType::DEV_ITEM, item.devid.get());
        self.put(TreeId::CHUNK, &key, item.as_bytes())
    }

    pub(super) fn add_to_system_array(&mut self, start: Logical, chunk: &Chunk) -> Result<()> {
        let (place, entry) = self.system_array_entry(start, chunk).ok_or(Error::NoSpace)?;
        self.superblock.sys_chunk_array_size = (place.end as u32).into();
        self.superblock.sys_chunk_array[place].copy_from_slice(&entry);
        Ok(())
    }

    /// A chunk's place in the superblock's array, and what goes there; `None` if it is full.
    fn system_array_entry(&self, start: Logical, chunk: &Chunk) -> Option<(Range<usize>, Vec<u8>)> {
        let used = self.superblock.sys_chunk_array_size.get() as usize;
        let entry = [DiskKey::from(chunk_key(start)).as_bytes(), &chunk.pack()].concat();
        let place = used..used + entry.len();
        (place.end <= SYS_CHUNK_ARRAY_SIZE).then_some((place, entry))
    }

    /// Writes the array anew from the system chunks there are.
    fn rebuild_system_array(&mut self) -> Result<()> {
        self.superblock.sys_chunk_array = [0; SYS_CHUNK_ARRAY_SIZE];
        self.superblock.sys_chunk_array_size = 0.into();
        for (start, chunk) in self.volume.chunks() {
            if chunk.flags().contains(BlockGroupFlags::SYSTEM) {
                self.add_to_system_array(start, &chunk)?;
            }
        }
        Ok(())
    }

    /// Gives the device space of empty block groups back; the last group of each kind stays.
    pub(super) fn remove_empty_groups(&mut self) -> Result<()> {
        for kind in REMOVABLE {
            for start in self.removable_groups(kind) {
                // Taking one away may have put blocks into another.
                if self.space.containing(start).is_some_and(is_empty) {
                    self.remove_group(start)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn has_removable_group(&self) -> bool {
        REMOVABLE.into_iter().any(|kind| !self.removable_groups(kind).is_empty())
    }

    /// Groups that are empty, in memory too, and not needed for what is promised.
    fn removable_groups(&self, kind: BlockGroupFlags) -> Vec<u64> {
        let totals = self.space.totals(kind);
        let promised = if kind == BlockGroupFlags::DATA { self.promised.data } else { self.metadata_floor() };
        let mut spare = totals.available.saturating_sub(promised);
        let mut left = totals.total;
        let kept = if kind == BlockGroupFlags::METADATA { self.wanted_metadata_groups() } else { 0 };
        let most = self.space.count(kind).saturating_sub(kept);
        let mut found = Vec::new();
        for group in self.space.unused(kind).filter(|g| is_empty(g)) {
            if found.len() < most && group.len < left && group.available() <= spare {
                (left, spare) = (left - group.len, spare - group.available());
                found.push(group.start);
            }
        }
        found
    }

    fn remove_group(&mut self, start: u64) -> Result<()> {
        let Some((_, chunk)) = self.volume.chunk_containing(Logical(start)) else { return Ok(()) };
        let Some(group) = self.space.remove(start) else { return Ok(()) };
        self.changes += 1;
        self.forget_discards(start, group.len);
        if self.has_free_space_tree() {
            self.remove_free_space(&group)?;
        }
        let tree = self.block_group_tree();
        self.remove(tree, &Key::new(start, ItemType::BLOCK_GROUP_ITEM, group.len))?;
        self.remove(TreeId::CHUNK, &chunk_key(Logical(start)))?;
        self.change_device_extents(Logical(start), &chunk, DeviceSpace::Return)?;
        self.volume.remove_chunk(Logical(start));
        if chunk.flags().contains(BlockGroupFlags::SYSTEM) { self.rebuild_system_array() } else { Ok(()) }
    }
}

fn is_empty(group: &BlockGroup) -> bool {
    let empty = group.free.as_ref().is_none_or(|free| free.total() == group.len - group.excluded);
    empty && group.used == 0 && !group.dirty && matches!(group.state, GroupState::Open | GroupState::Emptied)
}

/// Which way device space goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum DeviceSpace {
    Take,
    Return,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

    use super::*;
    use crate::environment::SystemEnvironment;
    use crate::mkfs::{self, MakeOptions};
    use crate::tx::{Gate, GateSettings, Need};

    fn open(device: &Arc<MemDevice>, mode: OpenMode) -> Arc<Volume> {
        Arc::new(Volume::open(vec![device.clone()], mode).unwrap())
    }

    /// The chunk tree grows past its first chunk. Most of that is set aside in memory, or it would
    /// take 60,000 chunks.
    #[test]
    fn the_chunk_tree_outgrows_its_first_chunk() {
        const CHUNKS: u64 = 3000;
        const LEN: u64 = STRIPE_LEN;
        const NODE: u64 = 4096;
        let device = Arc::new(MemDevice::new(GIB + CHUNKS * LEN));
        let made = MakeOptions { nodesize: NODE as u32, ..MakeOptions::new(device.len(), &SystemEnvironment) };
        mkfs::make(device.clone(), &made).unwrap();
        let settings = GateSettings { read_only: false, cache_bytes: 64 << 20, ..GateSettings::default() };
        let gate = Gate::open(open(&device, OpenMode::ReadWrite), settings).unwrap();
        gate.change(Need::Items(8 * CHUNKS as u32), |tx| {
            let first = tx.space.of_kind(BlockGroupFlags::SYSTEM).next().unwrap().start;
            tx.load_free_ranges(first)?;
            tx.space.change(first, |group| {
                let free = group.free.as_mut().unwrap();
                free.allocate_first(free.longest() - 30 * NODE).unwrap();
            });
            for number in 0..CHUNKS {
                tx.ensure_system_space()?;
                tx.make_chunk(BlockGroupFlags::DATA, &[GIB + number * LEN], LEN)?;
            }
            Ok(())
        })
        .unwrap();
        let system = |tx: &Transaction| tx.space.count(BlockGroupFlags::SYSTEM);
        assert!(gate.view(|tx| Ok(system(tx))).unwrap() >= 2, "no new system chunk");
        gate.commit().unwrap();
        drop(gate);
        let options = butterfs_check::Options { devices: vec![device.clone()], ..Default::default() };
        let report = butterfs_check::check(&open(&device, OpenMode::ReadOnly), &options);
        assert!(report.worst().is_none(), "{report}");
    }
}

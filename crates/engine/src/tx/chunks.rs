//! Chunks: device space becomes logical space, and is given back.
//!
//! # Invariants
//! * A chunk, its device extents, its block group and its free space come and go in one transaction.
//! * The superblock's array holds exactly the system chunks.
//! * Device space of a removed group held no extent since the last commit, so it may be used again
//!   at once.

use std::ops::Range;

use butterfs_format::block::ITEM_HEADER_SIZE;
use butterfs_format::ids::objectid;
use butterfs_format::items::{BlockGroupFlags, Chunk, ChunkHeader, STRIPE_LEN, Stripe};
use butterfs_format::key::DiskKey;
use butterfs_format::superblock::{Incompat, RESERVED_START, SYS_CHUNK_ARRAY_SIZE};
use butterfs_format::{ItemType, Key, Logical, TreeBlock, TreeId};
use butterfs_volume::Profile;
use zerocopy::IntoBytes;

use super::device_space::DeviceSpace;
use super::{Transaction, WhyCommit};
use crate::error::{Error, Result};
use crate::space::placement::{Limits, Placement, place};
use crate::space::{BlockGroup, GroupState};

/// Kinds of which empty groups are given back.
const REMOVABLE: [BlockGroupFlags; 3] = [BlockGroupFlags::DATA, BlockGroupFlags::METADATA, BlockGroupFlags::SYSTEM];

/// Profiles, the safest first, as the kernel ranks them.
const SAFEST_FIRST: [BlockGroupFlags; 8] = [
    BlockGroupFlags::RAID1C4,
    BlockGroupFlags::RAID6,
    BlockGroupFlags::RAID1C3,
    BlockGroupFlags::RAID5,
    BlockGroupFlags::RAID10,
    BlockGroupFlags::RAID1,
    BlockGroupFlags::DUP,
    BlockGroupFlags::RAID0,
];

/// The most devices of a system chunk: the superblock has room for two of the largest.
pub(super) const SYSTEM_CHUNK_DEVICES: usize =
    (SYS_CHUNK_ARRAY_SIZE - 2 * size_of::<DiskKey>() - 2 * size_of::<ChunkHeader>()) / size_of::<Stripe>() / 2;

/// There is room for so many more blocks of the chunk tree before it is changed.
pub(super) const SYSTEM_NODES: u64 = 16;
/// The least that will do.
const SYSTEM_PATH: u64 = 4;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The key of a chunk.
pub(super) fn chunk_key(start: Logical) -> Key {
    Key::new(objectid::FIRST_CHUNK_TREE, ItemType::CHUNK_ITEM, start.0)
}

/// What readers must know to find their way in chunks with these flags.
pub(crate) fn feature_of(flags: BlockGroupFlags) -> Incompat {
    match () {
        () if flags.intersects(BlockGroupFlags::RAID1C3 | BlockGroupFlags::RAID1C4) => Incompat::RAID1C34,
        () if flags.intersects(BlockGroupFlags::RAID5 | BlockGroupFlags::RAID6) => Incompat::RAID56,
        () => Incompat::empty(),
    }
}

/// The safest profile for so many devices, of those that there are or of what stands in for them.
fn safest_of(have: BlockGroupFlags, devices: usize) -> BlockGroupFlags {
    let is_possible = |flags: &BlockGroupFlags| Profile::of(*flags).is_some_and(|p| p.min_devices <= devices);
    let good = have | stand_ins(have);
    SAFEST_FIRST
        .into_iter()
        .filter(|profile| good.contains(*profile))
        .find(is_possible)
        .unwrap_or(BlockGroupFlags::empty())
}

/// What keeps no fewer copies than the devices that are left allow, where too many are missing for a profile.
fn stand_ins(have: BlockGroupFlags) -> BlockGroupFlags {
    use BlockGroupFlags as F;
    match have {
        have if have.intersects(F::RAID1C4) => F::RAID1C3 | F::RAID1 | F::DUP,
        have if have.intersects(F::RAID1C3 | F::RAID6 | F::RAID5 | F::RAID10 | F::RAID1) => F::RAID1 | F::DUP,
        _ => F::empty(),
    }
}

/// The profile of chunks with these flags.
fn known_profile(flags: BlockGroupFlags) -> Result<Profile> {
    Profile::of(flags).ok_or_else(|| Error::Unsupported(format!("making {} chunks", flags.profile_name())))
}

impl Transaction {
    /// The profile new chunks of a kind get: of those that the kind has, the safest that the devices allow. Source:
    /// `btrfs_reduce_alloc_profile`. Where devices are missing and none is possible, as many copies as the others allow are
    /// better than the one that the kernel makes.
    pub(super) fn profile_for(&self, kind: BlockGroupFlags) -> BlockGroupFlags {
        let kind = self.space.pool(kind);
        if let Some(wished) = self.wished(kind) {
            return wished;
        }
        let have = self.space.of_kind(kind).fold(BlockGroupFlags::empty(), |all, group| all | group.flags);
        kind | safest_of(have, self.writable_devices())
    }

    /// Makes a new chunk of this kind, as large as the kernel would.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if the devices have no room; nothing is changed then.
    pub(super) fn allocate_chunk(&mut self, kind: BlockGroupFlags) -> Result<()> {
        self.allocate_one_chunk(kind)?;
        let is_data = self.space.pool(kind) == BlockGroupFlags::DATA;
        if !is_data || self.wanted_metadata_groups() <= self.space.count(BlockGroupFlags::METADATA) {
            return Ok(());
        }
        match self.allocate_one_chunk(BlockGroupFlags::METADATA) {
            Err(Error::NoSpace) => Ok(()),
            result => result,
        }
    }

    /// Both chunks are usable before either is entered: where devices are missing there may be no space left in old
    /// chunks for what entering them changes.
    fn allocate_one_chunk(&mut self, kind: BlockGroupFlags) -> Result<()> {
        let system = if kind == BlockGroupFlags::SYSTEM { None } else { self.map_system_chunk()? };
        let wanted = match self.map_new_chunk(kind) {
            Ok(wanted) => wanted,
            Err(error) => {
                system.iter().for_each(|system| self.unmap_chunk(system));
                return Err(error);
            }
        };
        system.into_iter().chain([wanted]).try_for_each(|chunk| self.enter_chunk(chunk))
    }

    /// The chunk tree lives in system chunks: there must be room to change it before it is changed.
    fn map_system_chunk(&mut self) -> Result<Option<NewChunk>> {
        let available = self.space.totals(BlockGroupFlags::SYSTEM).available;
        if available >= SYSTEM_NODES * u64::from(self.geometry.nodesize) {
            return Ok(None);
        }
        match self.map_new_chunk(BlockGroupFlags::SYSTEM) {
            Err(Error::NoSpace) if self.has_system_room() => Ok(None),
            result => result.map(Some),
        }
    }

    /// Whether a path of the chunk tree can be copied. It cannot where all system chunks lack a device.
    fn has_system_room(&self) -> bool {
        let available = self.space.totals(BlockGroupFlags::SYSTEM).available;
        available >= SYSTEM_PATH * u64::from(self.geometry.nodesize)
    }

    /// Makes sure that the chunk tree can be changed by something that makes no chunk of another kind.
    pub(crate) fn ensure_system(&mut self) -> Result<()> {
        self.map_system_chunk()?.map_or(Ok(()), |chunk| self.enter_chunk(chunk))
    }

    fn map_new_chunk(&mut self, kind: BlockGroupFlags) -> Result<NewChunk> {
        let flags = self.profile_for(kind);
        let placement = self.place_chunk(flags)?;
        self.use_feature(feature_of(flags));
        self.map_chunk(flags, &placement)
    }

    /// How many metadata groups `metadata_ratio` asks for.
    fn wanted_metadata_groups(&self) -> usize {
        self.space.count(BlockGroupFlags::DATA).checked_div(self.rules.metadata_ratio as usize).unwrap_or(0)
    }

    /// Whether chunks with these flags can be made at all.
    pub fn require_writable_profile(&self, flags: BlockGroupFlags) -> Result<()> {
        known_profile(flags).map(drop)
    }

    /// The largest size of a chunk and its stripes, by kind and by the size of the filesystem.
    /// Source: `init_alloc_chunk_ctl_policy_regular` and `calc_chunk_size`.
    fn chunk_limits(&self, kind: BlockGroupFlags, profile: &Profile) -> Limits {
        // As the kernel's total_rw_bytes: a chunk that is a tenth of what is missing would take all that is left.
        let there = self.devices.iter().filter(|device| self.takes_chunks(device));
        let total: u64 = there.map(|device| device.total_bytes.get()).sum();
        let (chunk, devices) = match kind {
            BlockGroupFlags::SYSTEM => (32 * MIB, SYSTEM_CHUNK_DEVICES),
            BlockGroupFlags::METADATA if total <= 50 * GIB => (256 * MIB, usize::MAX),
            BlockGroupFlags::METADATA => (GIB, usize::MAX),
            _ => (10 * GIB, usize::MAX),
        };
        Limits {
            stripe: chunk.min(GIB),
            chunk: chunk.min(total / 10),
            least: MIB.max(16 * u64::from(self.geometry.nodesize)),
            devices: devices.min(self.most_stripes() / profile.stripes_per_device),
        }
    }

    /// How many stripes a chunk item in a leaf can have.
    fn most_stripes(&self) -> usize {
        let item = TreeBlock::leaf_capacity(self.geometry.nodesize as usize) - ITEM_HEADER_SIZE;
        (item - size_of::<ChunkHeader>()) / size_of::<Stripe>()
    }

    /// Finds room on the devices.
    pub(super) fn place_chunk(&mut self, flags: BlockGroupFlags) -> Result<Placement> {
        let profile = known_profile(flags)?;
        let limits = self.chunk_limits(flags.kind(), &profile);
        self.load_device_space()?;
        place(&profile, &limits, &self.rooms()).ok_or(Error::NoSpace)
    }

    /// Makes a chunk usable, though no tree knows of it yet.
    fn map_chunk(&mut self, flags: BlockGroupFlags, placement: &Placement) -> Result<NewChunk> {
        let start = Logical(self.next_chunk_start());
        let chunk = self.describe_chunk(flags, placement)?;
        if flags.contains(BlockGroupFlags::SYSTEM) && self.system_array_entry(start, &chunk).is_none() {
            return Err(Error::NoSpace);
        }
        self.volume.add_chunk(start, chunk.clone())?;
        let mut group = self.block_group(start, &chunk, 0);
        group.set_free(self.all_free(&group));
        group.dirty = true;
        self.space.add(group.clone());
        if let Some(space) = &mut self.device_space {
            placement.stripes.iter().for_each(|(index, at)| space[*index].remove(*at, placement.stripe_len));
        }
        Ok(NewChunk { start, chunk, group, placement: placement.clone() })
    }

    /// Nothing was put into it yet.
    fn unmap_chunk(&mut self, new: &NewChunk) {
        self.space.remove(new.group.start);
        self.volume.remove_chunk(new.start);
        if let Some(space) = &mut self.device_space {
            new.placement.stripes.iter().for_each(|(index, at)| space[*index].add(*at, new.placement.stripe_len));
        }
    }

    /// Enters a chunk everywhere it must be known.
    fn enter_chunk(&mut self, new: NewChunk) -> Result<()> {
        let NewChunk { start, chunk, group, .. } = new;
        let flags = chunk.flags();
        // The last commit does not know it.
        self.refuse_log(WhyCommit::NewChunk);
        self.changes += 1;
        if flags.contains(BlockGroupFlags::SYSTEM) {
            self.add_to_system_array(start, &chunk)?;
        }
        self.insert(TreeId::CHUNK, &chunk_key(start), &chunk.pack())?;
        self.change_device_extents(start, &chunk, DeviceSpace::Take)?;
        self.put_block_group_item(start.0, chunk.length(), flags, 0)?;
        if self.has_free_space_tree() { self.create_free_space(&group) } else { Ok(()) }
    }

    fn next_chunk_start(&self) -> u64 {
        self.space.end().max(RESERVED_START).next_multiple_of(STRIPE_LEN)
    }

    pub(super) fn describe_chunk(&self, flags: BlockGroupFlags, placement: &Placement) -> Result<Chunk> {
        let stripe = |(index, offset): &(usize, u64)| {
            let device = &self.devices[*index];
            Stripe { devid: device.devid, offset: (*offset).into(), dev_uuid: device.uuid }
        };
        let stripes: Vec<Stripe> = placement.stripes.iter().map(stripe).collect();
        let header = ChunkHeader {
            length: placement.len.into(),
            owner: TreeId::EXTENT.0.into(),
            stripe_len: STRIPE_LEN.into(),
            chunk_type: flags.bits().into(),
            io_align: (STRIPE_LEN as u32).into(),
            io_width: (STRIPE_LEN as u32).into(),
            sector_size: self.geometry.sectorsize.into(),
            num_stripes: (stripes.len() as u16).into(),
            sub_stripes: known_profile(flags)?.sub_stripes().into(),
        };
        Ok(Chunk { header, stripes })
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
        // Within a commit it is too late to make room for that.
        if !self.has_system_room() {
            return Vec::new();
        }
        let totals = self.space.totals(kind);
        let mut spare = totals.available.saturating_sub(self.kept(kind));
        let mut left = totals.total;
        let is_metadata = self.space.pool(kind) == BlockGroupFlags::METADATA;
        let kept = if is_metadata { self.wanted_metadata_groups() } else { 0 };
        let most = self.space.count(kind).saturating_sub(kept);
        let mut found = Vec::new();
        // One that is being emptied, or was, does not make up for the last one that can be used.
        let is_usable = |group: &BlockGroup| matches!(group.state, GroupState::Open | GroupState::Fixed);
        let mut usable: u64 = self.space.of_kind(kind).filter(|g| is_usable(g)).map(|g| g.len).sum();
        for group in self.space.unused(kind).filter(|g| is_empty(g) && goes_by_itself(g)) {
            let is_last = group.len >= left || is_usable(group) && group.len >= usable;
            if found.len() < most && !is_last && group.available() <= spare {
                (left, spare) = (left - group.len, spare - group.available());
                usable -= if is_usable(group) { group.len } else { 0 };
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

/// A chunk that is usable, and that no tree knows of yet.
struct NewChunk {
    start: Logical,
    chunk: Chunk,
    group: BlockGroup,
    placement: Placement,
}

/// Empty system groups are kept for what comes, unless somebody emptied them.
fn goes_by_itself(group: &BlockGroup) -> bool {
    group.flags.kind() != BlockGroupFlags::SYSTEM || group.state == GroupState::Emptied
}

fn is_empty(group: &BlockGroup) -> bool {
    let empty = group.free.as_ref().is_none_or(|free| free.total() == group.len - group.excluded);
    empty && group.used == 0 && !group.dirty && matches!(group.state, GroupState::Open | GroupState::Emptied)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

    use super::*;
    use crate::environment::SystemEnvironment;
    use crate::mkfs::{self, MakeOptions};
    use crate::space::Due;
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
                free.allocate_best(free.longest(Due::Commit) - 30 * NODE, Due::Commit).unwrap();
            });
            for number in 0..CHUNKS {
                let system = tx.map_system_chunk()?;
                system.into_iter().try_for_each(|chunk| tx.enter_chunk(chunk))?;
                let stripes = vec![(0, GIB + number * LEN)];
                let data = tx.map_chunk(BlockGroupFlags::DATA, &Placement { stripes, stripe_len: LEN, len: LEN })?;
                tx.enter_chunk(data)?;
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

//! The devices of one filesystem as one logical address space.
//!
//! # Invariants
//! * Every stripe of every chunk lies on a known device and within it; a device that is missing is known.
//! * The superblock remembered is the one last found on, or written to, the devices.
//!
//! # Locking
//! Device rank, the lowest. The chunk map and the superblock each have a lock that is held for a
//! look-up or change in memory only; for those of a member see [`crate::member`].

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use butterfs_format::items::{Chunk, DevItem};
use butterfs_format::key::{ItemType, Key};
use butterfs_format::validate::item::check_chunk;
use butterfs_format::validate::{Checksum, Geometry};
use butterfs_format::{Corruption, DevId, Generation, Logical, Superblock, ids::objectid};
use zerocopy::FromZeros;

use crate::device::BlockDevice;
use crate::error::{DeviceId, Error, Result};
use crate::map::{ChunkMap, Mapped, unmapped};
use crate::member::{Member, Role, Seen};
use crate::members::Members;
use crate::profile::Grid;
use crate::rows::BusyRows;
use crate::stats::DeviceStats;
use crate::targets::Unfit;

/// What a volume is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Nothing is written, not even a repair.
    ReadOnly,
    /// Writes are allowed, and bad copies are repaired when they are met.
    ReadWrite,
}

/// What to do about devices that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The filesystem does not open.
    Refuse,
    /// What other devices make up for can be read; where they make up for all, new chunks can be written.
    Accept,
}

/// What to do about a chunk that cannot be, as one that lies past the end of its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadChunks {
    /// The filesystem does not open.
    Refuse,
    /// It is left out: what lies in it cannot be read.
    LeaveOut,
}

/// How a volume is opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// What for.
    pub mode: OpenMode,
    /// What to do about devices that are missing.
    pub missing: Missing,
    /// What to do about chunks that cannot be.
    pub bad_chunks: BadChunks,
    /// Whether a tree block may be used whose copies all have a wrong checksum, if all else is right.
    pub block_checksums: Checksum,
}

impl OpenOptions {
    /// All devices, and nothing that is not right.
    pub fn new(mode: OpenMode) -> Self {
        Self { mode, missing: Missing::Refuse, bad_chunks: BadChunks::Refuse, block_checksums: Checksum::Verify }
    }
}

/// More devices than a filesystem has, with those that a damaged chunk tree invents.
const MAX_MEMBERS: usize = 1 << 13;

/// The devices of one filesystem: logical addresses in, bytes out.
pub struct Volume {
    pub(crate) members: Members,
    pub(crate) writable: AtomicBool,
    pub(crate) block_checksums: Checksum,
    pub(crate) repairs: AtomicBool,
    pub(crate) geometry: Geometry,
    /// What took its place when this one grew from a seed.
    pub(crate) sprouted: OnceLock<Geometry>,
    pub(crate) chunk_tree_uuid: [u8; 16],
    pub(crate) superblock: RwLock<Superblock>,
    pub(crate) map: RwLock<ChunkMap>,
    /// Held by who decides whether a device can be spared.
    pub(crate) dropping: Mutex<()>,
    /// The newest generation that a missing device may be of.
    pub(crate) opened_at: Generation,
    /// A log was written since.
    pub(crate) logged: AtomicBool,
    pub(crate) busy_rows: BusyRows,
    pub(crate) torn_rows: AtomicBool,
    pub(crate) missing: Missing,
    /// Why a target that is there is not used.
    pub(crate) unfit_target: OnceLock<Unfit>,
    /// What is left of replacements that have ended: targets, and devices that were replaced.
    pub(crate) left_over: Mutex<Vec<Arc<dyn BlockDevice>>>,
}

impl Volume {
    /// Opens a filesystem on all its devices, in any order: superblocks, system chunks, chunk tree.
    ///
    /// # Errors
    /// If a device is no part of a filesystem, or of another one, or missing, or too short; if the
    /// chunks cannot be read.
    pub fn open(devices: Vec<Arc<dyn BlockDevice>>, mode: OpenMode) -> Result<Self> {
        Self::open_with(devices, &OpenOptions::new(mode))
    }

    /// Opens a filesystem on those of its devices that there are. Seed devices are named with the others.
    ///
    /// # Errors
    /// As [`Volume::open`], but for what `options` allow.
    pub fn open_with(devices: Vec<Arc<dyn BlockDevice>>, options: &OpenOptions) -> Result<Self> {
        crate::open::open(devices, options)
    }

    /// Opens a filesystem whose chunk tree cannot be read: chunks and device items are given instead. Where bad
    /// chunks are left out, so is what else of these cannot be used.
    ///
    /// # Errors
    /// As [`Volume::open`], but that the chunk tree is not looked at.
    pub fn open_with_chunks(
        devices: Vec<Arc<dyn BlockDevice>>,
        options: &OpenOptions,
        chunk_tree_uuid: [u8; 16],
        chunks: &[(Logical, Chunk)],
        items: &[DevItem],
    ) -> Result<Self> {
        crate::open::open_with_chunks(devices, options, chunk_tree_uuid, chunks, items)
    }

    /// A volume for a filesystem that is being made: devices with their items, no chunks; nothing is read.
    pub fn create(
        devices: Vec<(Arc<dyn BlockDevice>, DevItem)>,
        superblock: Superblock,
        chunk_tree_uuid: [u8; 16],
    ) -> Self {
        let member = |(device, item)| Member::new(device, item, Role::Current, Seen::Unknown);
        let members = devices.into_iter().map(member).collect();
        let options = OpenOptions::new(OpenMode::ReadWrite);
        let volume = Self::assemble(members, &superblock, &options, chunk_tree_uuid);
        volume.repairs.store(true, Ordering::Relaxed);
        volume
    }

    pub(crate) fn assemble(
        members: Vec<Member>,
        sb: &Superblock,
        options: &OpenOptions,
        chunk_tree_uuid: [u8; 16],
    ) -> Self {
        let mut geometry = Geometry::of(sb);
        for member in members.iter().filter(|member| member.role() == Role::Seed) {
            // More seeds than there can be are refused when the devices' items are read.
            let _ = geometry.add_seed(member.item().fsid);
        }
        Self {
            members: members.into(),
            writable: AtomicBool::new(options.mode == OpenMode::ReadWrite),
            block_checksums: options.block_checksums,
            repairs: AtomicBool::new(false),
            geometry,
            sprouted: OnceLock::new(),
            chunk_tree_uuid,
            superblock: RwLock::new(*sb),
            map: RwLock::default(),
            dropping: Mutex::default(),
            opened_at: sb.generation(),
            logged: AtomicBool::new(false),
            busy_rows: BusyRows::default(),
            torn_rows: AtomicBool::new(false),
            missing: options.missing,
            unfit_target: OnceLock::new(),
            left_over: Mutex::default(),
        }
    }

    /// Makes a device known, as missing if it was not given; gives its place in the list.
    pub(crate) fn know_device(&mut self, id: DeviceId) -> Result<usize> {
        if let Some(index) = self.members.iter().position(|member| member.id == id) {
            return Ok(index);
        }
        if self.members.len() >= MAX_MEMBERS {
            return Err(Corruption::new("chunk tree", format!("more than {MAX_MEMBERS} devices")).into());
        }
        let mut item = DevItem::new_zeroed();
        (item.devid, item.uuid) = (id.devid.0.into(), id.uuid);
        self.members.push(Member::missing(item));
        Ok(self.members.len() - 1)
    }

    /// Makes the UUID known that a seed's blocks carry.
    pub(crate) fn know_seed(&mut self, fsid: [u8; 16]) -> Result<()> {
        self.geometry.add_seed(fsid).map_err(|problem| Error::Unsupported(format!("the filesystem has {problem}")))
    }

    /// What was to be done about devices that are missing.
    pub fn accepts_missing(&self) -> Missing {
        self.missing
    }

    /// The devices that are missing.
    pub fn missing_devices(&self) -> Vec<DeviceId> {
        self.members.present().filter(|member| member.role() == Role::Missing).map(|member| member.id).collect()
    }

    /// The devices that missed commits, with the generation of the last one they have. A power cut between two superblocks
    /// leaves one behind that has all of the newest commit but its superblock: that is none of them.
    pub fn devices_behind(&self) -> Vec<(DeviceId, Generation)> {
        let newest = self.superblock().generation();
        let behind = |member: &Member| {
            let Seen::Valid { generation, .. } = *member.seen() else { return None };
            let missed = Generation(generation).next() < newest || member.missed.load(Ordering::Acquire);
            (member.role() == Role::Behind && missed).then_some((member.id, Generation(generation)))
        };
        self.members.present().filter_map(behind).collect()
    }

    /// Whether a device is that of a filesystem that this one grew from.
    pub fn is_seed(&self, devid: DevId) -> bool {
        let foreign =
            |member: &Member| member.role() == Role::Missing && member.item().fsid != self.geometry_ref().fsid;
        self.member(devid).is_some_and(|index| {
            let member = &self.members[index];
            member.role() == Role::Seed || foreign(member)
        })
    }

    /// What went wrong with each device, as far as is known.
    pub fn device_stats(&self) -> Vec<(DevId, DeviceStats)> {
        self.members.present().map(|member| (member.devid(), member.counters.get())).collect()
    }

    /// Sets a device's counters to zero, for the next commit to write; gives what was counted, `None` if there is no such
    /// device.
    pub fn reset_device_stats(&self, devid: DevId) -> Option<DeviceStats> {
        self.member(devid).map(|index| self.members[index].counters.reset())
    }

    /// Adds what was counted for a device in earlier days.
    pub fn add_device_stats(&self, devid: DevId, stats: &DeviceStats) {
        if let Some(index) = self.member(devid) {
            self.members[index].counters.add(stats);
        }
    }

    /// Whether a counter changed since they were last taken. So that there is a commit, those of a dropped device count
    /// as changed while [`Volume::owes_commit`].
    pub fn device_stats_changed(&self) -> bool {
        self.owes_commit() || self.members.present().any(|member| member.counters.has_changed())
    }

    /// The counters of the devices whose counters changed since they were last taken.
    pub fn take_changed_device_stats(&self) -> Vec<(DevId, DeviceStats)> {
        let owes = self.owes_commit();
        let changed = |member: &Member| {
            let stats = member.counters.take_changed();
            let stats = stats.or_else(|| (owes && !member.is_there()).then(|| member.counters.get()));
            Some((member.devid(), stats?))
        };
        self.members.present().filter_map(changed).collect()
    }

    /// The superblock as opened, or as last written.
    pub fn superblock(&self) -> Superblock {
        *self.superblock.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of tree blocks and sectors.
    pub fn geometry(&self) -> Geometry {
        *self.geometry_ref()
    }

    pub(crate) fn geometry_ref(&self) -> &Geometry {
        self.sprouted.get().unwrap_or(&self.geometry)
    }

    /// The UUID of the chunk tree, which all tree blocks carry.
    pub fn chunk_tree_uuid(&self) -> [u8; 16] {
        self.chunk_tree_uuid
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        !self.writable.load(Ordering::Acquire)
    }

    /// The device items, as the chunk tree had them or as last set.
    pub fn dev_items(&self) -> Vec<DevItem> {
        self.members.present().map(Member::item).collect()
    }

    /// Whether the filesystem writes to a device: it is there, and no seed.
    pub fn is_written(&self, devid: DevId) -> bool {
        self.member(devid).is_some_and(|index| self.members[index].is_written())
    }

    /// Nothing will be written any more: others may have the devices, though this one can still be read.
    pub fn close(&self) {
        self.members.iter().for_each(|member| member.device.close());
        self.on_target(|target| {
            target.device.close();
            Ok(())
        });
    }

    /// The path of a device, for messages.
    pub fn device_name(&self, devid: DevId) -> Option<String> {
        self.member(devid).map(|index| self.members[index].device.name())
    }

    /// Remembers a changed device item; each device's superblocks carry its item.
    pub fn set_dev_item(&self, item: DevItem) {
        if let Some(index) = self.member(DevId(item.devid.get())) {
            self.members[index].set_item(item);
        }
    }

    pub(crate) fn member(&self, devid: DevId) -> Option<usize> {
        self.members.iter().position(|member| member.devid() == devid && !member.is_removed())
    }

    pub(crate) fn map(&self) -> RwLockReadGuard<'_, ChunkMap> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// All chunks, by address.
    pub fn chunks(&self) -> Vec<(Logical, Chunk)> {
        self.map().iter().map(|mapped| (mapped.start, mapped.chunk.clone())).collect()
    }

    /// The chunk that an address lies in, and where it begins.
    pub fn chunk_containing(&self, logical: Logical) -> Option<(Logical, Chunk)> {
        self.map().find(logical).map(|mapped| (mapped.start, mapped.chunk.clone()))
    }

    /// How many bytes there are from an address to the end of its chunk; none if it is in no chunk.
    pub fn contiguous(&self, logical: Logical) -> u64 {
        let end = |mapped: &Arc<Mapped>| mapped.start.0.saturating_add(mapped.chunk.length());
        self.map().find(logical).map_or(0, |mapped| end(mapped).saturating_sub(logical.0))
    }

    /// Makes a chunk known.
    ///
    /// # Errors
    /// If it breaks a rule, overlaps another, does not lie within known devices, or cannot be mapped.
    pub fn add_chunk(&self, logical: Logical, chunk: Chunk) -> Result<()> {
        let mapped = self.prepare(logical, chunk)?;
        self.map.write().unwrap_or_else(PoisonError::into_inner).insert(mapped)
    }

    fn prepare(&self, logical: Logical, chunk: Chunk) -> Result<Mapped> {
        let key = Key::new(objectid::FIRST_CHUNK_TREE, ItemType::CHUNK_ITEM, logical.0);
        let corrupt = |problem| Corruption::new(format!("chunk {logical}"), problem);
        check_chunk(&key, &chunk, &self.geometry).map_err(corrupt)?;
        let length = Grid::of(logical, &chunk)?.stripe_length(chunk.length());
        let mut members = Vec::with_capacity(chunk.stripes.len());
        for stripe in &chunk.stripes {
            let id = DeviceId { devid: DevId(stripe.devid.get()), uuid: stripe.dev_uuid };
            let Some(index) = self.members.iter().position(|member| member.id == id && !member.is_removed()) else {
                return Err(Error::MissingDevices(vec![id]));
            };
            let device_len = self.members[index].device.len();
            if stripe.offset.get().checked_add(length).is_none_or(|end| end > device_len) {
                let problem = format!(
                    "stripe of {length} bytes at {} is past the end of device {} at {device_len}",
                    stripe.offset, stripe.devid
                );
                return Err(corrupt(problem).into());
            }
            members.push(index);
        }
        Mapped::new(logical, chunk, members)
    }

    /// Forgets a chunk.
    pub fn remove_chunk(&self, logical: Logical) {
        self.map.write().unwrap_or_else(PoisonError::into_inner).remove(logical);
    }

    /// How many ways there are to the byte at an address: its copies, and with RAID5 and RAID6 what can
    /// be rebuilt from parity.
    ///
    /// # Errors
    /// If the address is in no chunk.
    pub fn copies(&self, logical: Logical) -> Result<usize> {
        self.map().find(logical).map(|mapped| mapped.grid.ways()).ok_or_else(|| unmapped(logical, 1))
    }

    /// How often a byte of this address is stored.
    ///
    /// # Errors
    /// If the address is in no chunk.
    pub fn stored_copies(&self, logical: Logical) -> Result<usize> {
        self.map().find(logical).map(|mapped| mapped.grid.copies()).ok_or_else(|| unmapped(logical, 1))
    }

    /// The parts of the chunk at `chunk` that lie over superblocks, in whole stripes of 64 KiB:
    /// nothing may be allocated there.
    pub fn superblock_ranges(&self, chunk: Logical) -> Vec<Range<Logical>> {
        self.map().find(chunk).map(|mapped| mapped.superblock_ranges()).unwrap_or_default()
    }

    pub(crate) fn require_writable(&self) -> Result<()> {
        if !self.is_read_only() {
            return Ok(());
        }
        let names: Vec<_> = self.members.iter().map(|member| member.device.name()).collect();
        Err(Error::NotWritable(format!("{}: opened for reading only", names.join(", "))))
    }
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.members.iter().map(|member| member.device.name()).collect();
        f.debug_struct("Volume").field("devices", &names).field("writable", &self.writable).finish_non_exhaustive()
    }
}

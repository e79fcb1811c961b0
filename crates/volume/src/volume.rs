//! The devices of one filesystem as one logical address space.
//!
//! # Invariants
//! * Every stripe of every chunk lies on a known device and within it.
//! * The superblock remembered is the one last found on, or written to, the devices.
//!
//! # Locking
//! Device rank, the lowest. The chunk map and the superblock each have a lock that is held for a
//! look-up or change in memory only. A member's `seen` is held while its superblocks are read or
//! written, so that a check never meets a half-done update.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use butterfs_format::items::{Chunk, DevItem};
use butterfs_format::key::{ItemType, Key};
use butterfs_format::validate::Geometry;
use butterfs_format::validate::item::check_chunk;
use butterfs_format::{Corruption, DevId, Logical, Superblock, ids::objectid};

use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::map::{ChunkMap, Mapped, stripe_length, unmapped};

/// What a volume is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Nothing is written, not even a repair.
    ReadOnly,
    /// Writes are allowed, and bad copies are repaired when they are met.
    ReadWrite,
}

/// What was last seen or written where a member's primary superblock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing was looked at: a filesystem is being made.
    Unknown,
    /// There was no valid superblock.
    Invalid,
    /// A superblock with this generation and checksum.
    Valid { generation: u64, csum: [u8; 32] },
}

/// A device and its place in the filesystem.
pub(crate) struct Member {
    pub device: Arc<dyn BlockDevice>,
    pub devid: DevId,
    pub item: RwLock<DevItem>,
    pub seen: Mutex<Seen>,
}

impl Member {
    pub fn new(device: Arc<dyn BlockDevice>, item: DevItem, seen: Seen) -> Self {
        Self { device, devid: DevId(item.devid.get()), item: RwLock::new(item), seen: Mutex::new(seen) }
    }

    pub fn item(&self) -> DevItem {
        *self.item.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_item(&self, item: DevItem) {
        *self.item.write().unwrap_or_else(PoisonError::into_inner) = item;
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Member::error`]; the text says what was being done, and where on the device.
    pub fn error_while(&self, action: impl std::fmt::Display, source: std::io::Error) -> Error {
        self.error(std::io::Error::new(source.kind(), format!("{action}: {source}")))
    }

    pub fn error(&self, source: std::io::Error) -> Error {
        Error::Device { name: self.device.name(), devid: Some(self.devid), source }
    }
}

/// The devices of one filesystem: logical addresses in, bytes out.
pub struct Volume {
    pub(crate) members: Vec<Member>,
    pub(crate) mode: OpenMode,
    pub(crate) repairs: AtomicBool,
    pub(crate) geometry: Geometry,
    pub(crate) chunk_tree_uuid: [u8; 16],
    pub(crate) superblock: RwLock<Superblock>,
    pub(crate) map: RwLock<ChunkMap>,
}

impl Volume {
    /// Opens a filesystem on its devices, in any order: superblocks, system chunks, chunk tree.
    ///
    /// # Errors
    /// If a device is no part of a filesystem, or of another one, or missing, or too short; if the
    /// chunks cannot be read, or have a profile that this crate cannot map.
    pub fn open(devices: Vec<Arc<dyn BlockDevice>>, mode: OpenMode) -> Result<Self> {
        crate::open::open(devices, mode)
    }

    /// A volume for a filesystem that is being made: one device, no chunks; nothing is read.
    pub fn create(device: Arc<dyn BlockDevice>, superblock: Superblock, chunk_tree_uuid: [u8; 16]) -> Self {
        let member = Member::new(device, superblock.dev_item, Seen::Unknown);
        let volume = Self::assemble(vec![member], &superblock, OpenMode::ReadWrite, chunk_tree_uuid);
        volume.repairs.store(true, Ordering::Relaxed);
        volume
    }

    pub(crate) fn assemble(members: Vec<Member>, sb: &Superblock, mode: OpenMode, chunk_tree_uuid: [u8; 16]) -> Self {
        Self {
            members,
            mode,
            repairs: AtomicBool::new(false),
            geometry: Geometry::of(sb),
            chunk_tree_uuid,
            superblock: RwLock::new(*sb),
            map: RwLock::default(),
        }
    }

    /// The superblock as opened, or as last written.
    pub fn superblock(&self) -> Superblock {
        *self.superblock.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of tree blocks and sectors.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The UUID of the chunk tree, which all tree blocks carry.
    pub fn chunk_tree_uuid(&self) -> [u8; 16] {
        self.chunk_tree_uuid
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.mode == OpenMode::ReadOnly
    }

    /// The device items, as the chunk tree had them or as last set.
    pub fn dev_items(&self) -> Vec<DevItem> {
        self.members.iter().map(Member::item).collect()
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
        self.members.iter().position(|member| member.devid == devid)
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
        let length = stripe_length(logical, &chunk)?;
        let mut members = Vec::with_capacity(chunk.stripes.len());
        for stripe in &chunk.stripes {
            let found = self.member(DevId(stripe.devid.get()));
            let Some(index) = found.filter(|index| self.members[*index].item().uuid == stripe.dev_uuid) else {
                return Err(missing(stripe.devid.get(), stripe.dev_uuid));
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

    /// How many copies there are of the byte at an address.
    ///
    /// # Errors
    /// If the address is in no chunk.
    pub fn copies(&self, logical: Logical) -> Result<usize> {
        self.map().find(logical).map(|mapped| mapped.copies).ok_or_else(|| unmapped(logical, 1))
    }

    /// The parts of the chunk at `chunk` that lie over superblocks, in whole stripes of 64 KiB:
    /// nothing may be allocated there.
    pub fn superblock_ranges(&self, chunk: Logical) -> Vec<Range<Logical>> {
        self.map().find(chunk).map(|mapped| mapped.superblock_ranges()).unwrap_or_default()
    }

    pub(crate) fn require_writable(&self) -> Result<()> {
        if self.mode == OpenMode::ReadWrite {
            return Ok(());
        }
        let names: Vec<_> = self.members.iter().map(|member| member.device.name()).collect();
        Err(Error::NotWritable(format!("{}: opened for reading only", names.join(", "))))
    }
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.members.iter().map(|member| member.device.name()).collect();
        f.debug_struct("Volume").field("devices", &names).field("mode", &self.mode).finish_non_exhaustive()
    }
}

pub(crate) fn missing(devid: u64, uuid: [u8; 16]) -> Error {
    Error::MissingDevice { devid: DevId(devid), uuid: uuid_text(&uuid) }
}

fn uuid_text(uuid: &[u8; 16]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    [&uuid[..4], &uuid[4..6], &uuid[6..8], &uuid[8..10], &uuid[10..]].map(hex).join("-")
}

//! A device and its place in a filesystem.
//!
//! # Invariants
//! * Each request that fails is counted, but for those to a missing device.
//!
//! # Locking
//! `seen` is held while the device's superblocks are read or written, so that a check never meets a
//! half-done update; `item` for a look only.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use butterfs_format::items::DevItem;
use butterfs_format::{DevId, Generation};

use crate::device::{BlockDevice, MissingDevice, dropped};
use crate::error::{DeviceId, Error, Result};
use crate::replacing::Target;
use crate::stats::{Counters, Fault};

/// What was last seen or written where a member's primary superblock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing was looked at: a filesystem is being made, or the device is missing.
    Unknown,
    /// There was no valid superblock.
    Invalid,
    /// A superblock with this generation and checksum.
    Valid { generation: u64, csum: [u8; 32] },
}

/// What a device is to the filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// One of its devices, up to date.
    Current,
    /// One of its devices that missed the last commits: what it holds may be old.
    Behind,
    /// A device of the filesystem that this one grew from; never written.
    Seed,
    /// One that is not there.
    Missing,
}

/// A device and its place in the filesystem.
pub(crate) struct Member {
    pub device: Arc<dyn BlockDevice>,
    pub id: DeviceId,
    role: Role,
    /// The filesystem grew from this one while it was open: it is a seed now.
    pub became_seed: AtomicBool,
    pub item: RwLock<DevItem>,
    pub seen: Mutex<Seen>,
    pub counters: Counters,
    /// Set once it is not used any more: the newest generation that its superblock may be of.
    dropped_at: OnceLock<Generation>,
    /// It came since the last commit: no superblock of its own tells of it yet.
    pub is_new: AtomicBool,
    /// It has nothing of the newest commit.
    pub missed: AtomicBool,
    /// It is no part of the filesystem any more.
    pub removed: AtomicBool,
    /// It missed commits, and is being brought up to date: see [`crate::returning`].
    pub catching_up: AtomicBool,
    /// No superblock remembered its generation any more when that began.
    pub forgotten: AtomicBool,
    /// It is the last to be asked: it is being replaced, and is not to be read (`-r`).
    pub avoided: AtomicBool,
    /// A device that is about to take its place: see [`crate::replacing`].
    pub target: RwLock<Option<Arc<Target>>>,
}

impl Member {
    pub fn new(device: Arc<dyn BlockDevice>, item: DevItem, role: Role, seen: Seen) -> Self {
        let id = DeviceId { devid: DevId(item.devid.get()), uuid: item.uuid };
        Self {
            device,
            id,
            role,
            became_seed: AtomicBool::new(false),
            item: RwLock::new(item),
            seen: Mutex::new(seen),
            counters: Counters::default(),
            dropped_at: OnceLock::new(),
            is_new: AtomicBool::new(false),
            missed: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            catching_up: AtomicBool::new(false),
            forgotten: AtomicBool::new(false),
            avoided: AtomicBool::new(false),
            target: RwLock::default(),
        }
    }

    /// A member for a device that is not there.
    pub fn missing(item: DevItem) -> Self {
        let device = MissingDevice { name: format!("device {}", item.devid) };
        Self::new(Arc::new(device), item, Role::Missing, Seen::Unknown)
    }

    /// What it is to the filesystem.
    pub fn role(&self) -> Role {
        if self.became_seed.load(Ordering::Acquire) { Role::Seed } else { self.role }
    }

    pub fn devid(&self) -> DevId {
        self.id.devid
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

    /// The generation of the superblock that it has.
    pub fn last_seen(&self) -> Generation {
        match *self.seen() {
            Seen::Valid { generation, .. } => Generation(generation),
            Seen::Unknown | Seen::Invalid => Generation(0),
        }
    }

    /// Whether it was removed.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Whether the filesystem writes to it.
    pub fn is_written(&self) -> bool {
        matches!(self.role(), Role::Current | Role::Behind) && !self.is_dropped() && !self.is_removed()
    }

    /// Whether it is being brought up to date: it is written, but not read, and its superblock stays as it is.
    pub fn is_catching_up(&self) -> bool {
        self.catching_up.load(Ordering::Acquire)
    }

    /// Whether it failed, and is neither written nor read any more.
    pub fn is_dropped(&self) -> bool {
        self.dropped_at.get().is_some()
    }

    /// The newest generation that the superblock of a dropped device may be of.
    pub fn dropped_at(&self) -> Option<Generation> {
        self.dropped_at.get().copied()
    }

    /// From now on it is not used. The caller holds `seen`.
    pub fn set_dropped(&self, newest: Generation) {
        // The first time counts.
        let _ = self.dropped_at.set(newest);
    }

    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if self.is_dropped() {
            return Err(self.error(dropped()));
        }
        self.device.read_at(offset, buf).map_err(|source| self.failed(Fault::Read, source))
    }

    pub fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        if self.is_dropped() {
            return Err(self.error(dropped()));
        }
        self.with_target(|device| device.write_at(offset, buf)).map_err(|source| self.failed(Fault::Write, source))
    }

    /// Writes to the device, and to the one that is about to take its place.
    fn with_target(&self, write: impl Fn(&dyn BlockDevice) -> std::io::Result<()>) -> std::io::Result<()> {
        let target = self.target.read().unwrap_or_else(PoisonError::into_inner);
        target.iter().for_each(|target| target.attempt(|device| write(device)));
        write(&*self.device)
    }

    pub fn write_superblock(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let action = format!("write of the superblock at offset {offset}");
        self.device.write_at(offset, bytes).map_err(|source| self.failed(Fault::Write, while_doing(&action, &source)))
    }

    pub fn write_batch(&self, writes: &[(u64, &[u8])]) -> Result<()> {
        let failed = |source| self.failed(Fault::Write, while_doing(&span(writes), &source));
        self.with_target(|device| device.write_batch(writes)).map_err(failed)
    }

    pub fn flush(&self) -> Result<()> {
        self.device.flush().map_err(|source| self.failed(Fault::Flush, while_doing("flush", &source)))
    }

    /// Counts a fault.
    pub fn failed(&self, fault: Fault, source: std::io::Error) -> Error {
        if self.role() != Role::Missing {
            self.counters.note(fault);
        }
        self.error(source)
    }

    pub fn error(&self, source: std::io::Error) -> Error {
        // The name of a missing device is its number.
        let devid = (self.role() != Role::Missing).then_some(self.id.devid);
        Error::Device { name: self.device.name(), devid, source }
    }
}

/// The error with what was being done, and where on the device.
fn while_doing(action: &str, source: &std::io::Error) -> std::io::Error {
    std::io::Error::new(source.kind(), format!("{action}: {source}"))
}

/// What a batch writes, for messages.
fn span(batch: &[(u64, &[u8])]) -> String {
    let start = batch.first().map_or(0, |(offset, _)| *offset);
    let end = batch.last().map_or(0, |(offset, bytes)| offset + bytes.len() as u64);
    match batch.len() {
        1 => format!("write of {} bytes at offset {start}", end - start),
        parts => format!("write in {parts} parts from offset {start} to {end}"),
    }
}

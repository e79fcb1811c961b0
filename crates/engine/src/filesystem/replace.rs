//! A device is replaced by another, which takes its number.
//!
//! # Invariants
//! * Until the last commit the target has no superblock, and nothing on disk says that it is there: a power cut leaves the
//!   filesystem as if the replacement had not begun.
//! * The target is given the place only when it has all that the device has, durably.
//!
//! # Locking
//! One operation at a time, by its exclusive turn.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use butterfs_format::{DevId, ItemType, Key, TreeId};
use butterfs_volume::{BlockDevice, FileDevice, erase_superblocks, signatures};

use super::Filesystem;
use super::devices::{WhichDevice, device_error};
use super::exclusive::{Exclusive, ExclusiveTurn};
use crate::error::{Error, Result};
use crate::inode::lock;
use crate::scrub::{ResyncMonitor, ResyncProgress, fill_target};
use crate::tx::{Need, Transaction};

/// What is on disk of the last replacement.
const KEY: Key = Key { objectid: 0, item_type: ItemType::DEV_REPLACE, offset: 0 };
const FINISHED: u64 = 2;

/// Whether the kernel began to replace a device and has not ended that.
pub(super) fn is_under_way(tx: &Transaction) -> Result<bool> {
    const STATE_AT: usize = 32;
    const STARTED: u64 = 1;
    const SUSPENDED: u64 = 4;
    let item = tx.get(TreeId::DEV, &KEY)?;
    let state = item.and_then(|item| item.get(STATE_AT..STATE_AT + 8)?.try_into().ok()).map(u64::from_le_bytes);
    Ok(matches!(state, Some(STARTED | SUSPENDED)))
}

/// A replacement that is about to begin.
#[derive(Debug)]
pub struct Replacement {
    turn: ExclusiveTurn,
    devid: DevId,
}

/// How a replacement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplaceEnd {
    /// The target is the device.
    Done(ResyncProgress),
    /// Somebody wanted it to end. The device is what it was.
    Cancelled,
}

/// How far the replacement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplaceStatus {
    /// None was begun since the filesystem was opened.
    Never,
    /// One is under way.
    Running(DevId, ResyncProgress),
    /// The last one came to its end.
    Finished(DevId, ResyncProgress),
    /// The last one was cancelled, or failed.
    Cancelled(DevId, ResyncProgress),
}

/// The replacement that runs, or ran.
#[derive(Debug, Default)]
pub(super) struct Replacing {
    monitor: std::sync::Mutex<Option<(DevId, Arc<ResyncMonitor>)>>,
    ended: AtomicBool,
    finished: AtomicBool,
    /// When it began and ended, in seconds.
    times: [AtomicU64; 2],
}

/// Nothing may take the target for what it was.
fn clear(target: &dyn BlockDevice) -> Result<()> {
    signatures::erase_others(target).map_err(|source| device_error(target, source))?;
    Ok(erase_superblocks(target)?)
}

impl Filesystem {
    /// Begins to replace a device: all that is refused is refused here. [`Filesystem::run_replacement`] does it. What the target
    /// holds is lost: the caller has looked.
    ///
    /// # Errors
    /// If there is no such device, the target is too small, or another operation is under way.
    pub fn begin_replacement(&self, devid: DevId, target: &Arc<dyn BlockDevice>) -> Result<Replacement> {
        let gate = &self.shared.gate;
        gate.check_writable()?;
        let turn = self.exclusive.begin(Exclusive::DeviceReplace)?;
        self.check_replacement(devid, &**target)?;
        self.require_up_to_date()?;
        gate.volume().begin_replacing(devid, Arc::clone(target))?;
        clear(&**target).inspect_err(|_| gate.volume().forget_target(devid))?;
        *lock(&self.replacing.monitor) = Some((devid, Arc::new(ResyncMonitor::default())));
        self.replacing.times[0].store(self.now().sec.get(), Ordering::Release);
        self.replacing.ended.store(false, Ordering::Release);
        self.replacing.finished.store(false, Ordering::Release);
        Ok(Replacement { turn, devid })
    }

    /// Whether a target is large enough for a device.
    ///
    /// # Errors
    /// If not, with the size that is needed; if there is no such device.
    pub fn check_replacement(&self, devid: DevId, target: &dyn BlockDevice) -> Result<()> {
        let needed = self.device_item(devid)?.total_bytes.get();
        if target.len() < needed {
            let (name, len) = (target.name(), target.len());
            return Err(Error::Refused(format!("{name}: has {len} bytes, at least {needed} are needed")));
        }
        Ok(())
    }

    /// The same for a device that is named, and a block device or an image file by its path from the root.
    ///
    /// # Errors
    /// As [`Filesystem::begin_replacement`]; if it cannot be opened alone.
    pub fn begin_replacement_at(&self, source: &WhichDevice, target: &Path) -> Result<Replacement> {
        if !target.is_absolute() {
            return Err(Error::Invalid("the device is to be named by its path from the root"));
        }
        let devid = self.find_device(source, &[])?;
        let target: Arc<dyn BlockDevice> = Arc::new(FileDevice::open_read_write(target)?);
        self.begin_replacement(devid, &target)
    }

    /// Copies all that the device has, from it or from the others, and puts the target in its place.
    ///
    /// # Errors
    /// If the target fails, or the device fails to write. It stays part of the filesystem then.
    pub fn run_replacement(&self, replacement: Replacement) -> Result<ReplaceEnd> {
        let Replacement { turn, devid } = replacement;
        let done = self.replace(devid);
        self.replacing.finished.store(matches!(done, Ok(ReplaceEnd::Done(_))), Ordering::Release);
        self.replacing.times[1].store(self.now().sec.get(), Ordering::Release);
        self.replacing.ended.store(true, Ordering::Release);
        if !matches!(done, Ok(ReplaceEnd::Done(_))) {
            self.shared.gate.volume().forget_target(devid);
        }
        drop(turn);
        done
    }

    fn replace(&self, devid: DevId) -> Result<ReplaceEnd> {
        let (gate, volume) = (&self.shared.gate, self.shared.gate.volume());
        let monitor =
            lock(&self.replacing.monitor).as_ref().map(|(_, monitor)| Arc::clone(monitor)).unwrap_or_default();
        // What was written before the target came, and is in no tree yet, would not be found.
        self.sync()?;
        match fill_target(&self.shared, devid, &monitor, &|| self.exclusive.is_cancelled()) {
            Err(Error::Cancelled) => return Ok(ReplaceEnd::Cancelled),
            filled => filled?,
        }
        volume.flush_target(devid)?;
        let now = self.now().sec.get();
        let mut old = None;
        gate.commit_with(Need::Deletion, |tx| {
            // All that was copied before, and all that was written since, must be there when the first superblock is.
            volume.flush_target(devid)?;
            old = volume.finish_replacing(devid)?;
            tx.put(TreeId::DEV, &KEY, &finished_item(devid, now, monitor.progress()))
        })?;
        if let Some(old) = old {
            if let Err(error) = erase_superblocks(&*old) {
                tracing::warn!(device = old.name(), %error, "it was replaced, but its superblocks could not be erased");
            }
            old.close();
        }
        tracing::info!("replaced device {devid}");
        Ok(ReplaceEnd::Done(monitor.progress()))
    }

    /// When the last replacement began and ended, in seconds since 1970.
    pub fn replace_times(&self) -> (u64, u64) {
        let [begun, ended] = &self.replacing.times;
        (begun.load(Ordering::Acquire), ended.load(Ordering::Acquire))
    }

    /// How far the replacement is, or how the last one ended.
    pub fn replace_status(&self) -> ReplaceStatus {
        let found = lock(&self.replacing.monitor);
        let Some((devid, progress)) = found.as_ref().map(|(devid, monitor)| (*devid, monitor.progress())) else {
            return ReplaceStatus::Never;
        };
        let is = |flag: &AtomicBool| flag.load(Ordering::Acquire);
        match (is(&self.replacing.ended), is(&self.replacing.finished)) {
            (false, _) => ReplaceStatus::Running(devid, progress),
            (true, true) => ReplaceStatus::Finished(devid, progress),
            (true, false) => ReplaceStatus::Cancelled(devid, progress),
        }
    }
}

/// The item as the kernel leaves it at the end.
fn finished_item(devid: DevId, now: u64, progress: ResyncProgress) -> Vec<u8> {
    let fields = [devid.0, u64::MAX, u64::MAX, 0, FINISHED, now, now, 0, progress.unreadable / 4096];
    fields.iter().flat_map(|field| field.to_le_bytes()).collect()
}

//! A device is replaced by another, which takes its number.
//!
//! While that lasts, the device tree has the kernel's item for it, and the target a superblock with the number 0: whoever opens
//! the filesystem next, after whatever end, finds both and goes on. See `docs/decisions/0027-interrupted-replacements.md`.
//!
//! # Invariants
//! * The target's first superblock is durable before any that says that it is there.
//! * What the item says was copied was written to the target before the commit that wrote the item, and that flushed it.
//! * The target is given the place only when it has all that the device has, durably.
//!
//! # Locking
//! One operation at a time, by its exclusive turn. `state` is a leaf.

use std::cell::Cell;
use std::path::Path;
use std::sync::{Arc, Mutex};

use butterfs_format::items::{DevReplaceItem, ReadSource, ReplaceState};
use butterfs_format::{DevId, TreeId};
use butterfs_volume::{
    BlockDevice, FileDevice, Missing, Unfit, Volume, erase_superblocks, from_the_beginning, make_unknown,
};
use zerocopy::IntoBytes;

use super::Filesystem;
use super::devices::WhichDevice;
use super::exclusive::{Exclusive, ExclusiveTurn};
use crate::error::{Error, Result};
use crate::inode::lock;
use crate::replay::{self, Replayed};
use crate::scrub::{FillTarget, ResyncMonitor, ResyncProgress, fill_target};
use crate::tx::{Gate, Need, Transaction};

/// A replacement that is about to begin, or to go on.
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
    /// It goes on when the filesystem is opened next.
    Suspended,
}

/// How far a replacement is, or how the last one ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplaceStatus {
    /// What it is about.
    pub state: ReplaceState,
    /// The device that goes, while that is known.
    pub source: Option<DevId>,
    /// How much of the device is done.
    pub thousandths: u64,
    /// When it began, in seconds since 1970.
    pub started: u64,
    /// When it ended or was suspended.
    pub stopped: u64,
    /// Writes to the target that failed.
    pub write_errors: u64,
    /// Sectors that could not be read anywhere.
    pub read_errors: u64,
    /// Why it failed, if it did since the filesystem was opened.
    pub failure: Option<String>,
}

/// The replacement that runs, or ran.
#[derive(Debug, Default)]
pub(super) struct Replacing {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What is on disk, but for one that runs: of that the volume knows more.
    item: DevReplaceItem,
    source: Option<DevId>,
    failure: Option<String>,
    running: bool,
    /// Who asks it to stop wants it to go on later.
    suspend: bool,
    /// Bytes of the source.
    size: u64,
}

fn read_item(tx: &Transaction) -> Result<DevReplaceItem> {
    let item = tx.get(TreeId::DEV, &DevReplaceItem::KEY)?;
    Ok(item.and_then(|item| DevReplaceItem::parse(&item)).unwrap_or_default())
}

fn write_item(tx: &mut Transaction, item: &DevReplaceItem) -> Result<()> {
    tx.put(TreeId::DEV, &DevReplaceItem::KEY, item.as_bytes())
}

/// Up to where the target is filled for certain: the kernel sets the cursor to the end of a device extent also when it was
/// interrupted within.
fn filled_up_to(volume: &Volume, devid: DevId, item: &DevReplaceItem) -> u64 {
    let left = item.cursor_left.get();
    if left != item.cursor_right.get() {
        return left;
    }
    let starts = volume.device_extents(devid).into_iter().map(|extent| extent.physical);
    starts.filter(|start| *start < left).max().unwrap_or(0)
}

/// As the kernel, a filesystem of which a device is being replaced is not written without the target unless the user accepts
/// that devices are missing.
pub(super) fn require_target(tx: &Transaction, volume: &Volume) -> Result<()> {
    let item = read_item(tx)?;
    if !item.is_under_way() || volume.replaced_device().is_some() || volume.accepts_missing() == Missing::Accept {
        return Ok(());
    }
    let source = item.src_devid;
    match volume.unfit_target() {
        // That is brought up to date first; the target is filled with the next mount.
        Some(Unfit::SourceBehind) => return Ok(()),
        Some(Unfit::Useless(why)) => {
            return Err(Error::Refused(format!("device {source} is being replaced, but {why}")));
        }
        None => {}
    }
    Err(Error::Refused(format!(
        "device {source} is being replaced, and the device that takes its place is missing: name it, too, or mount with -o \
         degraded to go on without it (`butterfs device replace cancel` ends the replacement)"
    )))
}

/// What the item is to say before anything is written, if it says something else: what is written without the target, or with
/// one that lacks commits, is to be copied again.
fn anew(tx: &Transaction, volume: &Volume) -> Result<Option<DevReplaceItem>> {
    let on_disk = read_item(tx)?;
    let wanted = match volume.replace_item() {
        Some(item) => item,
        None if on_disk.is_under_way() => from_the_beginning(on_disk).with_state(ReplaceState::Suspended),
        None => on_disk,
    };
    Ok((wanted != on_disk).then_some(wanted))
}

/// Replays the log; the commit that brings it in says where a replacement goes on.
pub(super) fn replay_log(tx: &mut Transaction, volume: &Volume) -> Result<Replayed> {
    let replayed = replay::replay(tx)?;
    if let Some(item) = anew(tx, volume)? {
        write_item(tx, &item)?;
    }
    Ok(replayed)
}

/// Says durably where a replacement goes on: data that is overwritten in place, and a log, become durable without a commit.
pub(super) fn settle(gate: &Gate) -> Result<()> {
    let volume = gate.volume();
    let Some(item) = gate.view(|tx| anew(tx, volume))? else { return Ok(()) };
    gate.commit_with(Need::Deletion, |tx| write_item(tx, &item))
}

impl Filesystem {
    /// Begins to replace a device: all that is refused is refused here. [`Filesystem::run_replacement`] does it. What the target
    /// holds is lost: the caller has looked.
    ///
    /// # Errors
    /// If there is no such device, the target is too small, or another operation is under way.
    pub fn begin_replacement(
        &self,
        devid: DevId,
        target: &Arc<dyn BlockDevice>,
        read: ReadSource,
    ) -> Result<Replacement> {
        self.require_no_replacement()?;
        let turn = self.begin_exclusive(Exclusive::DeviceReplace)?;
        self.require_fit(devid, &**target)?;
        let volume = self.shared.gate.volume();
        make_unknown(&**target)?;
        let item = DevReplaceItem {
            src_devid: devid.0.into(),
            read_mode: (read as u64).into(),
            time_started: self.now().sec,
            ..DevReplaceItem::default().with_state(ReplaceState::Started)
        };
        volume.begin_replacing(Arc::clone(target), self.shared.environment.new_uuid(), item)?;
        self.note_running(devid, item);
        Ok(Replacement { turn, devid })
    }

    fn note_running(&self, devid: DevId, item: DevReplaceItem) {
        let size = self.device_item(devid).map_or(0, |item| item.total_bytes.get());
        let mut state = lock(&self.replacing.state);
        // Somebody may want it to be suspended already.
        let suspend = state.suspend;
        *state = State { item, source: Some(devid), failure: None, running: true, suspend, size };
    }

    /// Whether a replacement can begin at this moment. Nothing is written.
    ///
    /// # Errors
    /// As [`Filesystem::begin_replacement`].
    pub fn check_replacement(&self, devid: DevId, target: &dyn BlockDevice) -> Result<()> {
        self.require_no_replacement()?;
        let _turn = self.begin_exclusive(Exclusive::DeviceReplace)?;
        self.require_fit(devid, target)
    }

    fn require_no_replacement(&self) -> Result<()> {
        match self.replace_status().is_under_way() {
            true => Err(Error::InProgress(Exclusive::DeviceReplace.name())),
            false => Ok(()),
        }
    }

    fn require_fit(&self, devid: DevId, target: &dyn BlockDevice) -> Result<()> {
        let needed = self.device_item(devid)?.total_bytes.get();
        if target.len() < needed {
            let (name, len) = (target.name(), target.len());
            return Err(Error::Refused(format!("{name}: has {len} bytes, at least {needed} are needed")));
        }
        Ok(self.shared.gate.volume().check_replacing(devid, target)?)
    }

    /// The same for a device that is named, and a block device or an image file by its path from the root.
    ///
    /// # Errors
    /// As [`Filesystem::begin_replacement`]; if it cannot be opened alone.
    pub fn begin_replacement_at(&self, source: &WhichDevice, target: &Path, read: ReadSource) -> Result<Replacement> {
        let (devid, target) = self.open_for_replacement(source, target)?;
        self.begin_replacement(devid, &target, read)
    }

    /// [`Filesystem::check_replacement`] for devices that are named.
    ///
    /// # Errors
    /// As [`Filesystem::begin_replacement_at`].
    pub fn check_replacement_at(&self, source: &WhichDevice, target: &Path) -> Result<()> {
        let (devid, target) = self.open_for_replacement(source, target)?;
        self.check_replacement(devid, &*target)
    }

    fn open_for_replacement(&self, source: &WhichDevice, target: &Path) -> Result<(DevId, Arc<dyn BlockDevice>)> {
        if !target.is_absolute() {
            return Err(Error::Invalid("the device is to be named by its path from the root"));
        }
        self.require_no_replacement()?;
        let devid = self.find_device(source, &[])?;
        Ok((devid, Arc::new(FileDevice::open_read_write(target)?)))
    }

    /// Finds out about the last replacement. One that was interrupted keeps other operations out.
    pub(super) fn find_replacement(&self) -> Result<()> {
        let (gate, volume) = (&self.shared.gate, self.shared.gate.volume());
        let item = volume.replace_item().map_or_else(|| gate.view(read_item), Ok)?;
        let source = item.is_under_way().then(|| DevId(item.src_devid.get()));
        let size = source.and_then(|devid| self.device_item(devid).ok()).map_or(0, |item| item.total_bytes.get());
        let state = State { item, source, failure: None, running: false, suspend: false, size };
        *lock(&self.replacing.state) = state;
        if gate.is_read_only() {
            return Ok(());
        }
        volume.erase_left_over();
        self.exclusive.set_suspended(source.is_some());
        if source.is_some() && volume.replaced_device().is_none() {
            tracing::warn!("device {} is being replaced, but not by any device that is there", item.src_devid);
        }
        Ok(())
    }

    /// Goes on with a replacement that was interrupted, up to the first byte; [`Filesystem::run_replacement`] does it.
    ///
    /// # Errors
    /// [`Error::NotRunning`] if there is none, or its target is not there; [`Error::InProgress`] if it runs.
    pub fn begin_resumed_replacement(&self) -> Result<Replacement> {
        let volume = self.shared.gate.volume();
        if !self.replace_status().is_under_way() {
            return Err(Error::NotRunning);
        }
        let turn = self.begin_exclusive(Exclusive::DeviceReplace)?;
        let devid = volume.replaced_device().ok_or(Error::NotRunning)?;
        volume.change_replace_item(|item| *item = item.with_state(ReplaceState::Started));
        self.note_running(devid, volume.replace_item().unwrap_or_default());
        Ok(Replacement { turn, devid })
    }

    /// Copies all that the device has to the target, which takes its place then. Others may read and write meanwhile.
    ///
    /// # Errors
    /// If the target or the device fails: the device is what it was. If the filesystem can be written no more.
    pub fn run_replacement(&self, replacement: Replacement) -> Result<ReplaceEnd> {
        self.run_replacement_until(replacement, &|| false)
    }

    /// The same, and between two windows `stop` is asked, while nothing is held that files need; if it says so, the replacement is
    /// suspended.
    ///
    /// # Errors
    /// As [`Filesystem::run_replacement`].
    pub fn run_replacement_until(&self, replacement: Replacement, stop: &dyn Fn() -> bool) -> Result<ReplaceEnd> {
        let Replacement { turn, devid } = replacement;
        let is_stopped = Cell::new(false);
        let done = self.replace(devid, &|| {
            is_stopped.set(is_stopped.get() || stop());
            is_stopped.get() || self.exclusive.is_cancelled()
        });
        let end = match done {
            Ok(progress) => Ok(ReplaceEnd::Done(progress)),
            // What is on disk says that it goes on.
            Err(error) if self.shared.gate.check_writable().is_err() => Err(error),
            Err(Error::Cancelled) if is_stopped.get() || lock(&self.replacing.state).suspend => {
                self.suspend().map(|()| ReplaceEnd::Suspended)
            }
            Err(Error::Cancelled) => self.abandon(None).map(|()| ReplaceEnd::Cancelled),
            Err(error) => {
                // What went wrong first is what is told.
                let ended = self.abandon(Some(error.to_string()));
                Err(error).and_then(|()| ended.map(|()| ReplaceEnd::Cancelled))
            }
        };
        lock(&self.replacing.state).running = false;
        self.exclusive.set_suspended(self.replace_status().is_under_way());
        drop(turn);
        end
    }

    fn replace(&self, devid: DevId, stop: &dyn Fn() -> bool) -> Result<ResyncProgress> {
        let (gate, volume) = (&self.shared.gate, self.shared.gate.volume());
        // Where all groups lack a device, a commit of the item alone has no room.
        gate.commit_with(Need::Deletion, |_| Ok(()))?;
        // What was written before the target came, and is in no tree yet, would not be found. The target's superblock and the
        // item come with it.
        self.sync_quietly()?;
        let item = volume.replace_item().unwrap_or_default();
        let (monitor, sector) = (ResyncMonitor::default(), u64::from(volume.geometry().sectorsize));
        let note = |done: u64, end: u64| {
            let lost = monitor.progress().unreadable / sector;
            volume.change_replace_item(|now| {
                (now.cursor_left, now.cursor_right) = (done.into(), end.into());
                now.read_errors = (item.read_errors.get() + lost).into();
            });
        };
        let filling =
            FillTarget { devid, from: filled_up_to(volume, devid, &item), monitor: &monitor, stop, note: &note };
        fill_target(&self.shared, &filling)?;
        volume.flush_target(devid)?;
        let mut old = None;
        let item = self.stopped_item(ReplaceState::Finished);
        gate.commit_with(Need::Deletion, |tx| {
            // All that was copied before, and all that was written since, must be there when the first superblock is.
            volume.flush_target(devid)?;
            old = volume.finish_replacing(devid)?;
            write_item(tx, &item)
        })?;
        // Not within the commit, which has the space that was promised to it.
        gate.change(Need::Promised, |tx| {
            tx.open_fixed_groups();
            Ok(())
        })?;
        lock(&self.replacing.state).item = item;
        if let Some(old) = old {
            end_of(&*old, "it was replaced");
        }
        tracing::info!("replaced device {devid}");
        Ok(monitor.progress())
    }

    /// The item of one that stops now. At the end it names no source any more, as the kernel's.
    fn stopped_item(&self, state: ReplaceState) -> DevReplaceItem {
        let known = lock(&self.replacing.state).item;
        let item = self.shared.gate.volume().replace_item().unwrap_or(known).with_state(state);
        let src_devid = if item.is_under_way() { item.src_devid } else { u64::MAX.into() };
        DevReplaceItem { src_devid, time_stopped: self.now().sec, ..item }
    }

    fn suspend(&self) -> Result<()> {
        let item = self.stopped_item(ReplaceState::Suspended);
        self.shared.gate.volume().change_replace_item(|now| *now = item);
        lock(&self.replacing.state).item = item;
        self.shared.gate.commit()?;
        tracing::info!("the replacement of device {} is suspended", item.src_devid);
        Ok(())
    }

    /// Ends it: the device stays, and the target is nothing any more.
    fn abandon(&self, failure: Option<String>) -> Result<()> {
        let volume = self.shared.gate.volume();
        let item = self.stopped_item(ReplaceState::Canceled);
        let mut target = None;
        self.shared.gate.commit_with(Need::Deletion, |tx| {
            // It does not get this commit's superblock.
            target = volume.replaced_device().and_then(|devid| volume.forget_target(devid));
            write_item(tx, &item)
        })?;
        {
            let mut state = lock(&self.replacing.state);
            (state.item, state.failure) = (item, failure);
        }
        if let Some(target) = target {
            end_of(&*target, "it is not to replace a device any more");
        }
        Ok(())
    }

    /// Ends the replacement that runs, or one that was interrupted: the device stays what it was. Returns when that is done.
    ///
    /// # Errors
    /// [`Error::NotRunning`] if there is none.
    pub fn cancel_replacement(&self) -> Result<()> {
        match self.exclusive.cancel(Exclusive::DeviceReplace) {
            Err(Error::NotRunning) => {}
            Ok(()) if self.replace_status().state == ReplaceState::Canceled => return Ok(()),
            // It came to its end before, or is suspended.
            Ok(()) => {}
            Err(error) => return Err(error),
        }
        if !self.replace_status().is_under_way() {
            return Err(Error::NotRunning);
        }
        let turn = self.begin_exclusive(Exclusive::DeviceReplace)?;
        self.abandon(None)?;
        self.exclusive.set_suspended(false);
        drop(turn);
        Ok(())
    }

    /// Has the replacement that runs stop, to go on when the filesystem is opened next. Returns when it has.
    ///
    /// # Errors
    /// [`Error::NotRunning`] if none runs.
    pub fn suspend_replacement(&self) -> Result<()> {
        lock(&self.replacing.state).suspend = true;
        let ended = self.exclusive.cancel(Exclusive::DeviceReplace);
        lock(&self.replacing.state).suspend = false;
        ended
    }

    /// How far the replacement is, or how the last one ended.
    pub fn replace_status(&self) -> ReplaceStatus {
        let state = lock(&self.replacing.state);
        let running = if state.running { self.shared.gate.volume().replace_item() } else { None };
        let item = running.unwrap_or(state.item);
        let thousandths = match item.state() {
            ReplaceState::Finished => 1000,
            ReplaceState::Started | ReplaceState::Suspended => {
                let done = u128::from(item.cursor_left.get()) * 1000 / u128::from(state.size.max(1));
                done.min(1000) as u64
            }
            // As the kernel tells it.
            ReplaceState::Never | ReplaceState::Canceled => 0,
        };
        ReplaceStatus {
            // Of one that was cut nobody wrote that it is suspended.
            state: if item.is_under_way() && !state.running { ReplaceState::Suspended } else { item.state() },
            source: state.source,
            thousandths,
            started: item.time_started.get(),
            stopped: item.time_stopped.get(),
            write_errors: item.write_errors.get(),
            read_errors: item.read_errors.get(),
            failure: state.failure.clone(),
        }
    }
}

impl ReplaceStatus {
    /// Whether it runs or is suspended.
    pub fn is_under_way(&self) -> bool {
        matches!(self.state, ReplaceState::Started | ReplaceState::Suspended)
    }
}

/// A device is no part of the filesystem any more.
fn end_of(device: &dyn BlockDevice, why: &str) {
    if let Err(error) = erase_superblocks(device) {
        tracing::warn!(device = device.name(), %error, "{why}, but its superblocks could not be erased");
    }
    device.close();
}

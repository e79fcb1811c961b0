//! Devices that were away and are back are brought up to date, while the filesystem is in use.
//!
//! # Invariants
//! * Before the first byte is copied, the others are two commits beyond the device at least: one that is a single commit
//!   behind and has the newest roots counts as whole.
//! * The first commit whose superblock the device gets is one that was frozen when the device had everything. What an earlier
//!   commit, or a log of it, leads to and was freed since is not copied.
//!
//! # Locking
//! A leaf, held for a look.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use butterfs_format::{DevId, Generation};

use super::Filesystem;
use crate::error::{Error, Result};
use crate::inode::lock;
use crate::scrub::{ResyncMonitor, ResyncProgress, resync};
use crate::tx::Need;

/// The resync that runs.
#[derive(Debug, Default)]
pub(super) struct Resyncs {
    running: Mutex<Option<(DevId, Arc<ResyncMonitor>)>>,
    one: Mutex<()>,
    stopped: AtomicBool,
}

/// A device that was brought up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resynced {
    /// Its number.
    pub devid: DevId,
    /// The generation that it had.
    pub since: Generation,
    /// What was done.
    pub progress: ResyncProgress,
}

struct Ended<'a>(&'a Resyncs);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        *lock(&self.0.running) = None;
    }
}

impl Filesystem {
    /// Brings all devices up to date that missed commits, one after the other. Others may read and write meanwhile.
    ///
    /// # Errors
    /// If a device fails, or [`Filesystem::cancel_resync`] was called: those that are not done stay as old as they were.
    pub fn resync(&self) -> Result<Vec<Resynced>> {
        self.resync_until(&|| false)
    }

    /// The same, and between two windows `stop` is asked, while nothing is held that files need.
    ///
    /// # Errors
    /// As [`Filesystem::resync`]; [`Error::Cancelled`] if `stop` says so.
    pub fn resync_until(&self, stop: &dyn Fn() -> bool) -> Result<Vec<Resynced>> {
        let _one = lock(&self.resyncs.one);
        let gate = &self.shared.gate;
        let volume = gate.volume();
        let mut done = Vec::new();
        let _at_the_end = Ended(&self.resyncs);
        for (id, since) in volume.devices_behind() {
            if !volume.catching_up().contains(&id.devid) {
                continue;
            }
            while volume.owes_commit() {
                gate.commit()?;
            }
            let name = volume.device_name(id.devid).unwrap_or_default();
            tracing::info!("bringing {name} (device {}) up to date from generation {since} on", id.devid);
            let monitor = Arc::new(ResyncMonitor::default());
            *lock(&self.resyncs.running) = Some((id.devid, Arc::clone(&monitor)));
            if self.resyncs.stopped.load(Ordering::Acquire) {
                return Err(Error::Cancelled);
            }
            let copied = resync(&self.shared, id.devid, since, &monitor, stop);
            copied?;
            // What follows within the commit is short then.
            volume.flush()?;
            gate.commit_with(Need::Promised, |_| Ok(volume.finish_catching_up(id.devid)?))?;
            let progress = monitor.progress();
            let (copied, compared) = (progress.copied, progress.compared);
            tracing::info!("{name} (device {}) is up to date: {copied} bytes copied, {compared} compared", id.devid);
            done.push(Resynced { devid: id.devid, since, progress });
        }
        Ok(done)
    }

    /// Operations that move what there is wait until all devices can be counted on.
    ///
    /// # Errors
    /// If a device is being brought up to date.
    pub(super) fn require_up_to_date(&self) -> Result<()> {
        match self.shared.gate.volume().catching_up().is_empty() {
            true => Ok(()),
            false => {
                Err(Error::Busy("a device is being brought up to date; try again when that has ended (see the log)"))
            }
        }
    }

    /// The device that is being brought up to date, and how far that is.
    pub fn resync_status(&self) -> Option<(DevId, ResyncProgress)> {
        lock(&self.resyncs.running).as_ref().map(|(devid, monitor)| (*devid, monitor.progress()))
    }

    /// Has the resync stop, and none begin any more until the filesystem is opened anew; without waiting.
    pub fn cancel_resync(&self) {
        self.resyncs.stopped.store(true, Ordering::Release);
        if let Some((_, monitor)) = lock(&self.resyncs.running).as_ref() {
            monitor.cancel();
        }
    }
}

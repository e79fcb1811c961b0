//! Scrubs of this filesystem's devices: one of each device at a time, seen and stopped by others.
//!
//! # Locking
//! A leaf: held for a look or a change in memory, but for who waits until the scrubs have ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use butterfs_format::{DevId, Logical};

use super::{Filesystem, OnlyByte};
use crate::dir::path;
use crate::error::{Error, Result};
use crate::inode::{BadData, InodeId, lock};
use crate::scrub::{ScrubEnd, ScrubFinding, ScrubMode, ScrubMonitor, ScrubOptions, ScrubProgress, Together, scrub};

/// Those that run, and what devices are limited to.
#[derive(Default)]
pub(super) struct Scrubs {
    running: Mutex<BTreeMap<DevId, Arc<ScrubMonitor>>>,
    together: Together,
    ended: Condvar,
    limits: Mutex<BTreeMap<DevId, u64>>,
    outcomes: Mutex<BTreeMap<DevId, ScrubOutcome>>,
}

/// How the last scrub of a device ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubOutcome {
    /// What it did.
    pub progress: ScrubProgress,
    /// How it ended, or the number of the error.
    pub end: std::result::Result<ScrubEnd, i32>,
    /// What was found, a line each, with the files that are hit.
    pub report: Vec<String>,
}

/// A byte of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileAt {
    /// The file.
    pub id: InodeId,
    /// Where in it.
    pub offset: u64,
    /// Its paths from the top level.
    pub paths: Vec<Vec<u8>>,
}

/// Takes a scrub from the list when it ends, however that is.
struct Registered<'a> {
    scrubs: &'a Scrubs,
    devid: DevId,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.scrubs.together.leave(self.devid);
        lock(&self.scrubs.running).remove(&self.devid);
        self.scrubs.ended.notify_all();
    }
}

impl Filesystem {
    /// Scrubs a device; see [`scrub`].
    ///
    /// # Errors
    /// [`Error::Busy`] if it is being scrubbed; [`Error::NotFound`] if it is not there; what is wrong with the trees.
    pub fn scrub(&self, devid: DevId, options: &ScrubOptions, monitor: &Arc<ScrubMonitor>) -> Result<ScrubEnd> {
        self.begin_scrub(devid, options, monitor)?;
        self.run_scrub(devid, options, monitor)
    }

    /// The first part of a scrub: from now on it counts as running, and [`Filesystem::run_scrub`] must follow, with the
    /// same options. Of devices whose scrubs all began before the first of them runs, each row with parity is read once.
    ///
    /// # Errors
    /// [`Error::Busy`] if the device is being scrubbed; [`Error::NotFound`] if it is not there; [`Error::ReadOnly`] if
    /// repairs are wanted and nothing may be written.
    pub fn begin_scrub(&self, devid: DevId, options: &ScrubOptions, monitor: &Arc<ScrubMonitor>) -> Result<()> {
        if !self.shared.gate.volume().is_readable(devid) {
            return Err(Error::NotFound);
        }
        if self.shared.options.bad_data == BadData::Give {
            return Err(Error::Invalid("checksums are not asked for in this mount (rescue=ignoredatacsums)"));
        }
        if options.mode == ScrubMode::Repair {
            self.shared.gate.check_writable()?;
        }
        monitor.set_limit(self.scrub_limit(devid));
        let mut running = lock(&self.scrubs.running);
        if running.contains_key(&devid) {
            return Err(Error::Busy("the device is being scrubbed"));
        }
        running.insert(devid, Arc::clone(monitor));
        self.scrubs.together.join(devid, options, monitor);
        Ok(())
    }

    /// The second part of a scrub, to its end.
    ///
    /// # Errors
    /// What is wrong with the trees.
    pub fn run_scrub(&self, devid: DevId, options: &ScrubOptions, monitor: &Arc<ScrubMonitor>) -> Result<ScrubEnd> {
        let _registered = Registered { scrubs: &self.scrubs, devid };
        let end = scrub(&self.shared, &self.scrubs.together, devid, options, monitor);
        let report = monitor.findings().iter().flat_map(|finding| self.describe_finding(finding)).collect();
        let told = end.as_ref().map(|end| *end).map_err(Error::errno);
        let outcome = ScrubOutcome { progress: monitor.progress(), end: told, report };
        lock(&self.scrubs.outcomes).insert(devid, outcome);
        end
    }

    /// How the last scrub of a device ended, if one did since the filesystem was opened.
    pub fn scrub_outcome(&self, devid: DevId) -> Option<ScrubOutcome> {
        lock(&self.scrubs.outcomes).get(&devid).cloned()
    }

    /// What was found, and the files that have it.
    fn describe_finding(&self, finding: &ScrubFinding) -> Vec<String> {
        let files = match finding.logical.filter(|_| finding.is_data) {
            Some(at) => self.files_at(at).unwrap_or_default(),
            None => Vec::new(),
        };
        if files.is_empty() {
            return vec![finding.to_string()];
        }
        let line = |file: &FileAt| {
            let paths: Vec<_> = file.paths.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
            let (tree, ino, offset) = (file.id.tree, file.id.ino, file.offset);
            format!("{finding}; root {tree} inode {ino} offset {offset} path {}", paths.join(", "))
        };
        files.iter().map(line).collect()
    }

    /// How far the scrub of a device is, if one runs.
    pub fn scrub_progress(&self, devid: DevId) -> Option<ScrubProgress> {
        lock(&self.scrubs.running).get(&devid).map(|monitor| monitor.progress())
    }

    /// Stops all scrubs, and waits until they have ended; says whether there were any.
    pub fn cancel_scrubs(&self) -> bool {
        let mut running = lock(&self.scrubs.running);
        let any = !running.is_empty();
        while !running.is_empty() {
            running.values().for_each(|monitor| monitor.cancel());
            running = self.scrubs.ended.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
        any
    }

    /// How many bytes scrubs read of a device in a second; 0: as many as there come.
    pub fn scrub_limit(&self, devid: DevId) -> u64 {
        lock(&self.scrubs.limits).get(&devid).copied().unwrap_or(0)
    }

    /// Changes that, also for one that runs.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn set_scrub_limit(&self, devid: DevId, bytes_per_second: u64) -> Result<()> {
        let items = self.shared.gate.volume().dev_items();
        if !items.iter().any(|item| item.devid.get() == devid.0) {
            return Err(Error::NotFound);
        }
        lock(&self.scrubs.limits).insert(devid, bytes_per_second);
        if let Some(monitor) = lock(&self.scrubs.running).get(&devid) {
            monitor.set_limit(bytes_per_second);
        }
        Ok(())
    }

    /// The files that have the byte of data at an address.
    ///
    /// # Errors
    /// If there is no data, or the trees cannot be read.
    pub fn files_at(&self, at: Logical) -> Result<Vec<FileAt>> {
        let users = self.extent_users(at, OnlyByte::Yes)?;
        let file = |user: &crate::file::FileExtentUse| {
            let id = InodeId::new(user.tree, user.ino);
            let paths = self.shared.gate.view(|tx| {
                let subvolume = path::of_subvolume(tx, id.tree)?.unwrap_or_default();
                let paths = path::all_in_subvolume(tx, id)?;
                Ok(paths.into_iter().map(|path| joined(&subvolume, &path)).collect())
            })?;
            Ok(FileAt { id, offset: user.offset, paths })
        };
        users.iter().map(file).collect()
    }
}

/// A path in a subvolume, from the top level.
fn joined(subvolume: &[u8], path: &[u8]) -> Vec<u8> {
    if subvolume.is_empty() { path.to_vec() } else { [subvolume, b"/", path].concat() }
}

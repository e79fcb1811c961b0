//! Scrub: all that is in use on a device is read once, compared with what tells that it is right, and repaired.
//!
//! Each device in the order of its addresses ([`walk`]): a thread gathers what is in use (the only moment at which the
//! trees are held), reads it in long stretches and looks ahead; another one verifies on all cores what was read before. Rows
//! with parity are read once for all devices that are scrubbed at the same time ([`together`]).
//!
//! # Invariants
//! * What is read is in use by the trees as they were a moment ago. What does not match is looked at again before it
//!   is said to be wrong.
//!
//! # Locking
//! None is held while bytes are read and verified.

mod fit;
mod gather;
pub(crate) mod history;
mod load;
mod mend;
mod mirrors;
mod progress;
mod resync;
mod row_pass;
mod row_window;
mod rows;
mod throttle;
mod together;
mod verify;
mod walk;
mod windows;

use std::sync::Mutex;

use butterfs_format::validate::Geometry;
use butterfs_format::{DevId, Generation};
use butterfs_volume::Volume;

use crate::error::{Error, Result};
use crate::inode::{Shared, lock};
use crate::tx::Gate;
pub use progress::{Remedy, ScrubFinding, ScrubMonitor, ScrubProgress, Trouble};
pub(crate) use resync::{FillTarget, fill_target, resync};
pub use resync::{ResyncMonitor, ResyncProgress};
pub(crate) use together::Together;

/// Whether bad copies are repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubMode {
    /// They are.
    Repair,
    /// Nothing is written.
    ReadOnly,
}

/// What is scrubbed.
#[derive(Clone, Copy, Debug)]
pub struct ScrubOptions {
    /// From here on the device.
    pub start: u64,
    /// Up to here.
    pub end: u64,
    /// Whether bad copies are repaired.
    pub mode: ScrubMode,
}

impl ScrubOptions {
    /// A whole device.
    pub fn whole(mode: ScrubMode) -> Self {
        Self { start: 0, end: u64::MAX, mode }
    }
}

/// How a scrub ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubEnd {
    /// All was looked at.
    Finished,
    /// It was asked to stop; [`ScrubProgress::last_physical`] tells where.
    Cancelled,
}

/// What the parts of a scrub share.
struct Run<'a> {
    shared: &'a Shared,
    gate: &'a Gate,
    volume: &'a Volume,
    monitor: &'a ScrubMonitor,
    devid: DevId,
    mode: ScrubMode,
    geometry: Geometry,
    sector: u64,
    /// Parity to look at again at the end.
    later: Mutex<Vec<rows::Unjudged>>,
}

impl Run<'_> {
    /// The newest generation that is on the devices for certain.
    fn durable(&self) -> Generation {
        self.volume.superblock().generation()
    }

    /// Looks at some parity again at the end; too much of it is forgotten.
    fn look_later(&self, more: Vec<rows::Unjudged>) {
        let mut later = lock(&self.later);
        let room = rows::MOST_LATER.saturating_sub(later.len());
        later.extend(more.into_iter().take(room));
    }
}

/// Scrubs a device; it joined `together` before.
///
/// # Errors
/// [`Error::NotFound`] if it is not there; what is wrong with the trees; [`Error::ReadOnly`] if repairs are wanted and
/// nothing may be written. What is wrong with the device's bytes is no error: see `monitor`.
pub(crate) fn scrub(
    shared: &Shared,
    together: &Together,
    devid: DevId,
    options: &ScrubOptions,
    monitor: &ScrubMonitor,
) -> Result<ScrubEnd> {
    let (gate, volume) = (&shared.gate, &**shared.gate.volume());
    if !volume.is_readable(devid) {
        return Err(Error::NotFound);
    }
    if options.mode == ScrubMode::Repair {
        gate.check_writable()?;
    }
    let geometry = volume.geometry();
    let sector = u64::from(geometry.sectorsize);
    let run =
        Run { shared, gate, volume, monitor, devid, mode: options.mode, geometry, sector, later: Mutex::default() };
    superblocks(&run)?;
    let end = walk::all_windows(&run, together, options);
    together.leave(devid).into_iter().for_each(|finding| monitor.report(finding, sector));
    let end = end?;
    rows::verify_later(&run)?;
    if options.mode == ScrubMode::Repair && !monitor.progress().is_clean() {
        // Makes repairs durable, writes the counters, and superblocks anew.
        gate.commit()?;
        volume.flush()?;
    }
    Ok(end)
}

fn superblocks(run: &Run<'_>) -> Result<()> {
    for (physical, problem) in run.volume.bad_superblocks(run.devid)? {
        let remedy = match run.mode {
            // By the commit at the end.
            ScrubMode::Repair if run.volume.is_written(run.devid) => Remedy::Repaired,
            ScrubMode::Repair => Remedy::None,
            ScrubMode::ReadOnly => Remedy::Possible,
        };
        let finding = ScrubFinding {
            devid: run.devid,
            physical,
            len: 4096,
            logical: None,
            is_data: false,
            trouble: Trouble::Superblock(problem),
            remedy,
        };
        run.monitor.report(finding, run.sector);
    }
    Ok(())
}

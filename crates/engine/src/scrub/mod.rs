//! Scrub: all that is in use on a device is read once, compared with what tells that it is right, and repaired.
//!
//! One device at a time, in the order of its addresses: a thread gathers what is in use (the only moment at which the
//! trees are held), reads it in long stretches and looks ahead; another one verifies on all cores what was read before.
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
mod rows;
mod throttle;
mod verify;
mod windows;

use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use butterfs_format::validate::Geometry;
use butterfs_format::{DevId, Generation};
use butterfs_volume::{DeviceExtent, StoredPart, Volume};

use crate::error::{Error, Result};
use crate::inode::Shared;
use crate::tx::Gate;
use gather::{Piece, gather};
use load::{Loaded, Stretch, stretches};
pub use progress::{Remedy, ScrubFinding, ScrubMonitor, ScrubProgress, Trouble};
pub(crate) use resync::{FillTarget, fill_target, resync};
pub use resync::{ResyncMonitor, ResyncProgress};
use throttle::Throttle;
use windows::windows;

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
}

/// A stretch of a device, and what was found to be in use there.
struct Window {
    extent: DeviceExtent,
    /// Where it ends on the device.
    end: u64,
    parts: Vec<StoredPart>,
    pieces: Vec<Piece>,
    stretches: Vec<Stretch>,
}

/// Scrubs a device.
///
/// # Errors
/// [`Error::NotFound`] if it is not there; what is wrong with the trees; [`Error::ReadOnly`] if repairs are wanted and
/// nothing may be written. What is wrong with the device's bytes is no error: see `monitor`.
pub(crate) fn scrub(shared: &Shared, devid: DevId, options: &ScrubOptions, monitor: &ScrubMonitor) -> Result<ScrubEnd> {
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
    let end = all_windows(&run, options)?;
    rows::verify_later(&run)?;
    if options.mode == ScrubMode::Repair && monitor.progress().errors() > 0 {
        // Makes repairs durable, writes the counters, and superblocks anew.
        gate.commit()?;
        volume.flush()?;
    }
    Ok(end)
}

fn superblocks(run: &Run<'_>) -> Result<()> {
    for (physical, problem) in run.volume.bad_superblocks(run.devid)? {
        run.monitor.count(|progress| progress.super_errors += 1);
        let remedy = match run.mode {
            // By the commit at the end.
            ScrubMode::Repair if run.volume.is_written(run.devid) => Remedy::Repaired,
            ScrubMode::Repair => Remedy::None,
            ScrubMode::ReadOnly => Remedy::Possible,
        };
        run.monitor.report(ScrubFinding {
            devid: run.devid,
            physical,
            len: 4096,
            logical: None,
            is_data: false,
            trouble: Trouble::Superblock(problem),
            remedy,
        });
    }
    Ok(())
}

fn all_windows(run: &Run<'_>, options: &ScrubOptions) -> Result<ScrubEnd> {
    let (send, receive) = sync_channel(1);
    std::thread::scope(|scope| {
        let verifier = scope.spawn(move || verify_all(run, &receive));
        let read = read_all(run, options, &send);
        drop(send);
        let verified = verifier.join().unwrap_or_else(|panic| resume_unwind(panic));
        // Who reads stops when nobody verifies any more, so the verifier's error is the first.
        verified.and(read)
    })
}

/// Reads all windows, each while the next one is on its way to memory.
fn read_all(run: &Run<'_>, options: &ScrubOptions, send: &SyncSender<(Window, Loaded)>) -> Result<ScrubEnd> {
    let mut throttle = Throttle::default();
    let mut ahead: Option<Window> = None;
    for (extent, range) in windows(run.volume, run.devid, options.start..options.end) {
        if run.monitor.is_cancelled() {
            return Ok(ScrubEnd::Cancelled);
        }
        let next = open_window(run, extent, range)?;
        for stretch in &next.stretches {
            run.volume.prefetch_device(run.devid, stretch.physical, stretch.len);
        }
        if let Some(window) = ahead.replace(next)
            && !load(run, &mut throttle, window, send)
        {
            return Ok(ScrubEnd::Cancelled);
        }
    }
    if let Some(window) = ahead {
        load(run, &mut throttle, window, send);
    }
    Ok(if run.monitor.is_cancelled() { ScrubEnd::Cancelled } else { ScrubEnd::Finished })
}

/// Says whether the scrub goes on.
fn load(run: &Run<'_>, throttle: &mut Throttle, window: Window, send: &SyncSender<(Window, Loaded)>) -> bool {
    throttle.wait(run.monitor, window.stretches.iter().map(|stretch| stretch.len).sum());
    if run.monitor.is_cancelled() {
        return false;
    }
    let loaded = Loaded::read(run.volume, run.devid, &window.stretches);
    send.send((window, loaded)).is_ok()
}

fn open_window(run: &Run<'_>, extent: DeviceExtent, range: Range<u64>) -> Result<Window> {
    let end = extent.physical + range.end;
    let parts = run.volume.stored_parts(&extent, range);
    let durable = run.durable();
    let pieces = run.gate.view(|tx| gather(tx, &parts, durable))?;
    let stretches = stretches(&pieces);
    Ok(Window { extent, end, parts, pieces, stretches })
}

fn verify_all(run: &Run<'_>, receive: &Receiver<(Window, Loaded)>) -> Result<()> {
    for (window, loaded) in receive {
        verify::verify(run, &window.extent, &window.pieces, &loaded)?;
        rows::verify(run, &window.parts)?;
        run.monitor.count(|progress| progress.last_physical = window.end);
    }
    Ok(())
}

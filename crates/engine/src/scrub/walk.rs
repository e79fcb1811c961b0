//! The way over a device: windows in the order of its addresses, each read while the one before is verified.
//!
//! # Locking
//! As [`super`].

use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use butterfs_format::items::STRIPE_LEN;
use butterfs_volume::DeviceExtent;

use super::gather::{Piece, gather};
use super::load::{Loaded, Stretch, stretches};
use super::row_window::RowWindow;
use super::together::{Claim, Reader, Share, Together};
use super::windows::{WINDOW, windows_by};
use super::{Run, ScrubEnd, ScrubOptions, row_pass, verify};
use crate::error::Result;
use crate::inode::lock;

/// A stretch of a device.
#[derive(Clone)]
struct Window {
    extent: DeviceExtent,
    range: Range<u64>,
}

impl Window {
    /// Where it ends on the device.
    fn end(&self) -> u64 {
        self.extent.physical + self.range.end
    }
}

/// What was found to be in use in a window.
enum Content {
    /// Bytes and no parity.
    Pieces(Vec<Piece>, Vec<Stretch>),
    /// Rows with parity.
    Rows(RowWindow),
    /// Rows that another scrub reads.
    Elsewhere(Arc<Share>),
}

/// A window that was read.
enum Read {
    Pieces(Vec<Piece>, Loaded),
    Rows(RowWindow, Vec<Loaded>),
    Elsewhere(Arc<Share>),
}

/// Whether the walk goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Onward {
    Yes,
    No,
}

/// Looks at all windows of a device.
pub(super) fn all_windows(run: &Run<'_>, together: &Together, options: &ScrubOptions) -> Result<ScrubEnd> {
    let (send, receive) = sync_channel(1);
    std::thread::scope(|scope| {
        let verifier = scope.spawn(move || verify_all(run, receive));
        let read = read_all(run, together, options, &send);
        drop(send);
        let verified = verifier.join().unwrap_or_else(|panic| resume_unwind(panic));
        // Who reads stops when nobody verifies any more, so the verifier's error is the first.
        verified.and(read)
    })
}

/// Windows of rows are shorter: what all devices have of one is as much as another window.
fn window_len(run: &Run<'_>, extent: &DeviceExtent) -> u64 {
    let stripes = run.volume.row_extents(extent).len().max(1) as u64;
    (WINDOW / stripes / STRIPE_LEN).max(1) * STRIPE_LEN
}

/// Reads all windows, each while the next one is on its way to memory.
fn read_all(
    run: &Run<'_>,
    together: &Together,
    options: &ScrubOptions,
    send: &SyncSender<(Window, Read)>,
) -> Result<ScrubEnd> {
    let mut ahead: Option<(Window, Content)> = None;
    let range = options.start..options.end;
    for (extent, range) in windows_by(run.volume, run.devid, range, |extent| window_len(run, extent)) {
        if run.monitor.is_cancelled() {
            return Ok(ScrubEnd::Cancelled);
        }
        let window = Window { extent, range };
        let content = open(run, together, &window)?;
        prefetch(run, &content);
        if let Some((window, content)) = ahead.replace((window, content))
            && load(run, window, content, send) == Onward::No
        {
            return Ok(ScrubEnd::Cancelled);
        }
    }
    if let Some((window, content)) = ahead {
        load(run, window, content, send);
    }
    Ok(if run.monitor.is_cancelled() { ScrubEnd::Cancelled } else { ScrubEnd::Finished })
}

fn open(run: &Run<'_>, together: &Together, window: &Window) -> Result<Content> {
    let extents = run.volume.row_extents(&window.extent);
    if extents.is_empty() {
        let parts = run.volume.stored_parts(&window.extent, window.range.clone());
        let durable = run.durable();
        let pieces = run.gate.view(|tx| gather(tx, &parts, durable))?;
        let stretches = stretches(&pieces);
        return Ok(Content::Pieces(pieces, stretches));
    }
    match together.open(run.mode, &extents, &window.extent, &window.range) {
        Reader::Other(share) => Ok(Content::Elsewhere(share)),
        Reader::Own(claim) => RowWindow::open(run, &extents, &window.extent, &window.range, claim).map(Content::Rows),
    }
}

fn prefetch(run: &Run<'_>, content: &Content) {
    match content {
        Content::Pieces(_, stretches) => {
            stretches.iter().for_each(|stretch| run.volume.prefetch_device(run.devid, stretch.physical, stretch.len));
        }
        Content::Rows(rows) => rows.prefetch(run.volume),
        Content::Elsewhere(_) => {}
    }
}

fn load(run: &Run<'_>, window: Window, content: Content, send: &SyncSender<(Window, Read)>) -> Onward {
    let read = match content {
        Content::Pieces(pieces, stretches) => {
            run.monitor.wait_to_read(stretches.iter().map(|stretch| stretch.len).sum(), run.monitor);
            if run.monitor.is_cancelled() {
                return Onward::No;
            }
            let loaded = Loaded::read(run.volume, run.devid, &stretches);
            Read::Pieces(pieces, loaded)
        }
        Content::Rows(rows) => {
            let loaded = rows.load(run);
            if run.monitor.is_cancelled() {
                return Onward::No;
            }
            Read::Rows(rows, loaded)
        }
        Content::Elsewhere(share) => Read::Elsewhere(share),
    };
    if send.send((window, read)).is_ok() { Onward::Yes } else { Onward::No }
}

fn verify_all(run: &Run<'_>, receive: Receiver<(Window, Read)>) -> Result<()> {
    for (window, read) in receive {
        let onward = match read {
            Read::Pieces(pieces, loaded) => {
                verify::verify(run, &window.extent, &pieces, &loaded)?;
                Onward::Yes
            }
            Read::Rows(rows, loaded) => {
                row_pass::verify(run, rows, &loaded)?;
                Onward::Yes
            }
            Read::Elsewhere(share) => take_over(run, &window, &share)?,
        };
        if onward == Onward::No {
            break;
        }
        run.monitor.count(|progress| progress.last_physical = window.end());
    }
    Ok(())
}

/// Takes what another scrub did, or does it if that one stopped.
fn take_over(run: &Run<'_>, window: &Window, share: &Share) -> Result<Onward> {
    if share.wait(run.monitor) {
        run.monitor.absorb(&share.tally);
        run.look_later(std::mem::take(&mut *lock(&share.later)));
        return Ok(Onward::Yes);
    }
    if run.monitor.is_cancelled() {
        return Ok(Onward::No);
    }
    let extents = run.volume.row_extents(&window.extent);
    if !extents.is_empty() {
        let rows = RowWindow::open(run, &extents, &window.extent, &window.range, Claim::default())?;
        let loaded = rows.load(run);
        row_pass::verify(run, rows, &loaded)?;
    }
    Ok(Onward::Yes)
}

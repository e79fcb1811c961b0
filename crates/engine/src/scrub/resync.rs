//! Resync: a device that was away gets what it missed, by generation.
//!
//! A device whose superblock is of generation G has all that was written up to G. It gets, of what is in use at its
//! places: tree blocks and data that are newer than G; data without checksums, which may have been overwritten in place; and
//! data whose checksums are newer (space that was preallocated before and written after). Rows with parity are compared
//! whole, where anything in them is in use: what was written there and freed again left its trace in parity.
//!
//! Of a device that missed so many commits that no superblock tells of its last one, everything else is compared with its
//! checksums, too: it may have been written by itself in a way that [`super::history`] does not see.
//!
//! # Invariants
//! * What is copied passed its check. Where there is none, it is what the other devices have.
//! * Nothing is read from the device as a source, but to be compared.
//!
//! # Locking
//! For a window of 4 MiB nobody overwrites in place, and the trees are held shared: so nothing is given out anew where it
//! is copied to. Rows are held from the reading to the end of the write.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use butterfs_format::items::STRIPE_LEN;
use butterfs_format::{Corruption, DevId, Generation, ItemType, Key, Logical, TreeId};
use butterfs_volume::{DeviceExtent, Held, Parity, Profile, StoredPart, Volume};

use super::fit::{Column, fit};
use super::gather::{Piece, What, gather, gather_range};
use super::mend::{mend, take_good};
use super::progress::ScrubMonitor;
use super::verify::{block_trouble, is_good};
use super::windows::windows;
use super::{Run, ScrubMode};
use crate::error::{Error, Result};
use crate::inode::Shared;
use crate::tx::Transaction;

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResyncProgress {
    /// Bytes that were written to the device.
    pub copied: u64,
    /// Bytes of the device that were compared, because nothing else tells whether they are old.
    pub compared: u64,
    /// Bytes that no other device has as their checksums say. What the device has of them is left as it is.
    pub unreadable: u64,
}

/// Seen and stopped by others.
#[derive(Debug, Default)]
pub struct ResyncMonitor {
    copied: AtomicU64,
    compared: AtomicU64,
    unreadable: AtomicU64,
    cancelled: AtomicBool,
    /// For what is shared with scrubs; nobody looks at it.
    scrub: ScrubMonitor,
}

impl ResyncMonitor {
    /// How far it is.
    pub fn progress(&self) -> ResyncProgress {
        ResyncProgress {
            copied: self.copied.load(Ordering::Relaxed),
            compared: self.compared.load(Ordering::Relaxed),
            unreadable: self.unreadable.load(Ordering::Relaxed),
        }
    }

    /// Asks it to stop. The device stays as old as it was.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// Which device gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Onto {
    /// The one that missed it.
    Itself,
    /// The one that is about to take its place.
    Target,
}

/// What is done about what the device should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Older {
    Trust,
    Compare,
}

/// What the parts of a resync share.
struct Copying<'a> {
    run: Run<'a>,
    monitor: &'a ResyncMonitor,
    onto: Onto,
    since: Generation,
    /// Whether what is older is compared.
    older: Older,
    /// Where checksums are newer, by address.
    fresh: Vec<Range<u64>>,
}

/// Copies to a device that is being brought up to date what is newer than `since`.
///
/// # Errors
/// If it was stopped; if something without a checksum cannot be read from the others; those of the trees.
pub(crate) fn resync(
    shared: &Shared,
    devid: DevId,
    since: Generation,
    monitor: &ResyncMonitor,
    stop: &dyn Fn() -> bool,
) -> Result<()> {
    let copying = Copying::new(shared, devid, (Onto::Itself, since), monitor)?;
    for (extent, range) in windows(copying.run.volume, devid, 0..u64::MAX) {
        if monitor.is_cancelled() || stop() {
            return Err(Error::Cancelled);
        }
        window(&copying, &extent, range)?;
    }
    Ok(())
}

/// A device that is being filled with what another one has.
pub(crate) struct FillTarget<'a> {
    /// The device that it is to replace.
    pub devid: DevId,
    /// What lies before this on the device is there.
    pub from: u64,
    pub monitor: &'a ResyncMonitor,
    pub stop: &'a dyn Fn() -> bool,
    /// Hears how far it is, and where the part of a chunk ends that is being copied.
    pub note: &'a dyn Fn(u64, u64),
}

/// Copies all that a device has, or should have, to the one that is about to take its place. What cannot be read anywhere is
/// counted and left out.
///
/// # Errors
/// [`Error::Cancelled`] if `stop` says so; if the target fails; those of the trees.
pub(crate) fn fill_target(shared: &Shared, filling: &FillTarget<'_>) -> Result<()> {
    let devid = filling.devid;
    let copying = Copying::new(shared, devid, (Onto::Target, Generation(0)), filling.monitor)?;
    for (extent, range) in windows(copying.run.volume, devid, filling.from..u64::MAX) {
        if (filling.stop)() {
            return Err(Error::Cancelled);
        }
        let done = extent.physical + range.end;
        window(&copying, &extent, range)?;
        (filling.note)(done, extent.physical + extent.length);
    }
    Ok(())
}

impl<'a> Copying<'a> {
    fn new(
        shared: &'a Shared,
        devid: DevId,
        (onto, since): (Onto, Generation),
        monitor: &'a ResyncMonitor,
    ) -> Result<Self> {
        let (gate, volume) = (&shared.gate, &**shared.gate.volume());
        let geometry = volume.geometry();
        let sector = u64::from(geometry.sectorsize);
        let run = Run {
            shared,
            gate,
            volume,
            monitor: &monitor.scrub,
            devid,
            mode: ScrubMode::ReadOnly,
            geometry,
            sector,
            later: Mutex::default(),
        };
        let fresh = match onto {
            Onto::Itself => gate.view(|tx| fresh_checksums(tx, since))?,
            Onto::Target => Vec::new(),
        };
        let forgotten = volume.forgotten_devices().iter().any(|(forgotten, _)| *forgotten == devid);
        let older = if forgotten { Older::Compare } else { Older::Trust };
        Ok(Self { run, monitor, onto, since, older, fresh })
    }
}

/// The addresses whose checksums lie in leaves that are newer.
fn fresh_checksums(tx: &Transaction, since: Generation) -> Result<Vec<Range<u64>>> {
    let geometry = tx.geometry();
    let (size, sector) = (geometry.csum_type.size() as u64, u64::from(geometry.sectorsize));
    let mut fresh: Vec<Range<u64>> = Vec::new();
    let mut cursor = tx.cursor(TreeId::CSUM, &Key::new(0, ItemType(0), 0))?;
    while let Some((key, data)) = cursor.item() {
        let is_newer = cursor.leaf().is_some_and(|leaf| leaf.generation() > since);
        if key.item_type == ItemType::EXTENT_CSUM && is_newer {
            let range = key.offset..key.offset.saturating_add(data.len() as u64 / size * sector);
            match fresh.last_mut().filter(|last| last.end == range.start) {
                Some(last) => last.end = range.end,
                None => fresh.push(range),
            }
        }
        cursor.advance()?;
    }
    Ok(fresh)
}

fn window(copying: &Copying<'_>, extent: &DeviceExtent, range: Range<u64>) -> Result<()> {
    let run = &copying.run;
    let parts = run.volume.stored_parts(extent, range);
    let columns = parity_columns(run.volume, extent)?;
    let _nobody_overwrites = run.shared.no_overwriting();
    run.gate.view(|tx| {
        if let Some(columns) = columns {
            return parts.iter().try_for_each(|part| row(copying, tx, extent, part, columns));
        }
        let pieces = gather(tx, &parts, run.durable())?;
        pieces.iter().try_for_each(|piece| copy(copying, piece))
    })
}

/// The data stripes of a row, if the chunk has parity.
fn parity_columns(volume: &Volume, extent: &DeviceExtent) -> Result<Option<u64>> {
    let Some((_, chunk)) = volume.chunk_containing(extent.chunk) else { return Ok(None) };
    let unknown = || Corruption::new(format!("chunk {}", extent.chunk), "its profile is not known");
    let profile = Profile::of(chunk.flags()).ok_or_else(unknown)?;
    let columns = chunk.stripes.len().saturating_sub(profile.parity) as u64;
    Ok((profile.parity > 0).then_some(columns))
}

fn copy(copying: &Copying<'_>, piece: &Piece) -> Result<()> {
    let is_newer = piece.generation > copying.since.0;
    match &piece.what {
        What::Block { .. } if is_newer => copy_block(copying, piece),
        What::Block { .. } if copying.older == Older::Compare => compare_block(copying, piece),
        What::Block { .. } => Ok(()),
        What::Data { sums } => {
            let sector = copying.run.sector;
            let wanted = |number: usize| match sums[number] {
                _ if is_newer => Wanted::Copy,
                None => Wanted::Copy,
                Some(_) if copying.older == Older::Compare => Wanted::Compare,
                Some(_) if copying.is_fresh(piece.at.0 + number as u64 * sector) => Wanted::Compare,
                Some(_) => Wanted::Nothing,
            };
            let wanted: Vec<Wanted> = (0..sums.len()).map(wanted).collect();
            let mut first = 0;
            for same in wanted.chunk_by(|a, b| a == b) {
                let sectors = first..first + same.len();
                first = sectors.end;
                match same[0] {
                    Wanted::Copy => copy_data(copying, piece, sectors)?,
                    Wanted::Compare => compare_data(copying, piece, sectors)?,
                    Wanted::Nothing => {}
                }
            }
            Ok(())
        }
    }
}

/// What is done about a sector.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Copy,
    Compare,
    Nothing,
}

impl Copying<'_> {
    fn is_fresh(&self, at: u64) -> bool {
        let after = self.fresh.partition_point(|range| range.start <= at);
        after > 0 && at < self.fresh[after - 1].end
    }

    fn write(&self, physical: u64, bytes: &[u8]) -> Result<()> {
        match self.onto {
            Onto::Itself => self.run.volume.write_missed(self.run.devid, physical, bytes)?,
            Onto::Target => self.run.volume.write_target(self.run.devid, physical, bytes)?,
        }
        self.monitor.copied.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// What the device itself has; zeros where it cannot be read.
    fn own(&self, physical: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        if self.run.volume.read_device(self.run.devid, physical, &mut bytes).is_err() {
            bytes.fill(0);
        }
        self.monitor.compared.fetch_add(len as u64, Ordering::Relaxed);
        bytes
    }

    fn note_unreadable(&self, piece: &Piece, at: u64, len: u64) {
        let devid = self.run.devid;
        tracing::warn!(%devid, logical = at, extent = %piece.at, "no other device has this as its checksum says");
        self.monitor.unreadable.fetch_add(len, Ordering::Relaxed);
    }
}

fn copy_block(copying: &Copying<'_>, piece: &Piece) -> Result<()> {
    let run = &copying.run;
    let mut bytes = vec![0; piece.len as usize];
    if take_good(run, piece.at, 0, &mut bytes, |bytes| block_trouble(run, piece, bytes).is_none()) {
        return copying.write(piece.physical, &bytes);
    }
    copying.note_unreadable(piece, piece.at.0, piece.len);
    Ok(())
}

/// Copies a block unless the device has it.
fn compare_block(copying: &Copying<'_>, piece: &Piece) -> Result<()> {
    let own = copying.own(piece.physical, piece.len as usize);
    if block_trouble(&copying.run, piece, &own).is_some() { copy_block(copying, piece) } else { Ok(()) }
}

/// Copies sectors of a piece, those that are good.
fn copy_data(copying: &Copying<'_>, piece: &Piece, sectors: Range<usize>) -> Result<()> {
    let What::Data { sums } = &piece.what else { return Ok(()) };
    let run = &copying.run;
    let at = piece.at.0 + sectors.start as u64 * run.sector;
    let physical = piece.physical + sectors.start as u64 * run.sector;
    let sums = &sums[sectors];
    let mut bytes = vec![0; sums.len() * run.sector as usize];
    let good = |number: usize, bytes: &[u8]| is_good(run, sums[number].as_ref(), bytes);
    if run.volume.read_verified(Logical(at), &mut bytes, &good).is_ok() {
        return copying.write(physical, &bytes);
    }
    for (number, bytes) in bytes.chunks_mut(run.sector as usize).enumerate() {
        let skip = number as u64 * run.sector;
        let at = Logical(at + skip);
        if take_good(run, at, 0, bytes, |bytes| is_good(run, sums[number].as_ref(), bytes)) {
            copying.write(physical + skip, bytes)?;
        } else if sums[number].is_some() || copying.onto == Onto::Target {
            copying.note_unreadable(piece, at.0, run.sector);
        } else {
            // Nobody could tell later that what the device has is old.
            return Err(Corruption::new(format!("data at logical {at}"), "no other device can read it").into());
        }
    }
    Ok(())
}

/// Copies those of the sectors that do not have their checksums on the device.
fn compare_data(copying: &Copying<'_>, piece: &Piece, sectors: Range<usize>) -> Result<()> {
    let What::Data { sums } = &piece.what else { return Ok(()) };
    let run = &copying.run;
    let physical = piece.physical + sectors.start as u64 * run.sector;
    let own = copying.own(physical, sectors.len() * run.sector as usize);
    for (number, bytes) in sectors.zip(own.chunks(run.sector as usize)) {
        if !is_good(run, sums[number].as_ref(), bytes) {
            copy_data(copying, piece, number..number + 1)?;
        }
    }
    Ok(())
}

/// Brings the device's part of a row to what the others say.
fn row(copying: &Copying<'_>, tx: &Transaction, extent: &DeviceExtent, part: &StoredPart, columns: u64) -> Result<()> {
    let run = &copying.run;
    let width = columns * STRIPE_LEN;
    let start = match part.held {
        Held::Parity(parity) => parity.row,
        Held::Bytes(at) => Logical(at.0 - (at.0 - extent.chunk.0) % width),
    };
    let pieces = gather_range(tx, start, width, run.durable())?;
    if pieces.is_empty() {
        return Ok(());
    }
    let _row = run.volume.hold_row(start);
    let wanted = match part.held {
        Held::Bytes(at) => {
            let mut bytes = column(run, at, part.len, &pieces)?;
            if copying.onto == Onto::Target {
                let number = (at.0 - start.0) / STRIPE_LEN;
                fit(&Column { run, tx, row: start, columns, number, pieces: &pieces }, &mut bytes)?;
            }
            bytes
        }
        Held::Parity(parity) => parity_of(run, &parity, &pieces)?,
    };
    if copying.onto == Onto::Target {
        return copying.write(part.physical, &wanted);
    }
    let sector = run.sector as usize;
    let own = copying.own(part.physical, wanted.len());
    let differs: Vec<bool> = wanted.chunks(sector).zip(own.chunks(sector)).map(|(a, b)| a != b).collect();
    let mut first = 0;
    for same in differs.chunk_by(|a, b| a == b) {
        let range = first * sector..(first + same.len()) * sector;
        first += same.len();
        if same[0] && !is_good_already(run, part, &pieces, &own, &range) {
            copying.write(part.physical + range.start as u64, &wanted[range])?;
        }
    }
    Ok(())
}

/// Whether all of a stretch of the device's data is as its checksums say: then it is the parity that is wrong, which a
/// scrub sees to.
fn is_good_already(run: &Run<'_>, part: &StoredPart, pieces: &[Piece], own: &[u8], range: &Range<usize>) -> bool {
    let Held::Bytes(at) = part.held else { return false };
    let sector = run.sector as usize;
    range.clone().step_by(sector).all(|from| {
        let sector_at = at.0 + from as u64;
        let piece = pieces.iter().find(|piece| (piece.at.0..piece.at.0 + piece.len).contains(&sector_at));
        let Some(piece) = piece else { return false };
        match &piece.what {
            What::Block { .. } => {
                let block =
                    own.get((piece.at.0.wrapping_sub(at.0)) as usize..).and_then(|own| own.get(..piece.len as usize));
                block.is_some_and(|bytes| block_trouble(run, piece, bytes).is_none())
            }
            What::Data { sums } => {
                let sum = sums[((sector_at - piece.at.0) / run.sector) as usize].as_ref();
                sum.is_some() && is_good(run, sum, &own[from..from + sector])
            }
        }
    })
}

/// A column of a row, by what the other devices have.
fn column(run: &Run<'_>, at: Logical, len: u64, pieces: &[Piece]) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    run.volume.read(at, &mut bytes)?;
    for piece in pieces {
        // What nobody has right stays: it is what the row's parity was made of.
        mend(run, piece, 0, at.0, &mut bytes);
    }
    Ok(bytes)
}

fn parity_of(run: &Run<'_>, parity: &Parity, pieces: &[Piece]) -> Result<Vec<u8>> {
    let column_at = |number: u64| {
        let at = Logical(parity.row.0 + number * STRIPE_LEN);
        let len = STRIPE_LEN.min(run.volume.contiguous(at));
        let mut bytes = column(run, at, len, pieces)?;
        bytes.resize(STRIPE_LEN as usize, 0);
        Ok(bytes)
    };
    let columns = (0..parity.columns).map(column_at).collect::<Result<Vec<_>>>()?;
    Ok(Volume::parity_of(parity.kind, &columns))
}

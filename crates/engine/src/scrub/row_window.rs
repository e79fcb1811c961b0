//! A window of rows with parity: what of it is to be read, for which devices, and its bytes.
//!
//! # Invariants
//! * Of a row whose parity is judged, all columns are read in all lines that anything is in use of; of other rows what is
//!   in use of the devices that are scrubbed.
//! * Parity is judged where all columns are on devices that hold what they should.

use std::ops::Range;
use std::sync::Arc;

use butterfs_format::items::STRIPE_LEN;
use butterfs_format::{DevId, Generation};
use butterfs_volume::{DeviceExtent, Held, Parity, ParityKind, StoredPart, Volume};

use super::Run;
use super::gather::{Piece, gather};
use super::load::{Loaded, Stretch, joined};
use super::progress::ScrubMonitor;
use super::together::{Claim, Share};
use crate::error::Result;
use crate::tx::Transaction;

/// For whom a stripe of a window is read.
pub(super) enum For {
    /// The scrub that reads.
    Own,
    /// The scrub of another device.
    Other(Arc<Share>, Arc<ScrubMonitor>),
    /// Nobody; what the parity of others is judged by.
    Parity,
}

/// What one of a chunk's stripes has of a window.
pub(super) struct Stripe {
    pub devid: DevId,
    pub wanted: For,
    pub stretches: Vec<Stretch>,
}

impl Stripe {
    pub fn is_scrubbed(&self) -> bool {
        !matches!(self.wanted, For::Parity)
    }
}

/// What one stripe has of a row.
pub(super) struct Column {
    /// None beyond the chunk's end.
    pub part: Option<StoredPart>,
    /// What is in use of it, if it is read.
    pub pieces: Vec<Piece>,
}

/// A row.
pub(super) struct Row {
    /// By stripe.
    pub columns: Vec<Column>,
    /// Offsets within the row's stripes: the lines that parity is computed of. None, if it is not judged.
    pub lines: Vec<Range<u64>>,
}

impl Row {
    /// Its parity stripes that are scrubbed, by stripe.
    pub fn parities<'a>(&'a self, stripes: &'a [Stripe]) -> impl Iterator<Item = (usize, &'a StoredPart, Parity)> {
        let parts = self.columns.iter().enumerate().filter(|(stripe, _)| stripes[*stripe].is_scrubbed());
        parts.filter_map(|(stripe, column)| match column.part.as_ref()? {
            part @ StoredPart { held: Held::Parity(parity), .. } => Some((stripe, part, *parity)),
            _ => None,
        })
    }
}

/// A window, and who is to do it.
pub(super) struct RowWindow {
    pub stripes: Vec<Stripe>,
    pub rows: Vec<Row>,
    pub claim: Claim,
}

impl RowWindow {
    /// Finds out what is in use of the rows at a range of the stripes.
    pub fn open(
        run: &Run<'_>,
        extents: &[(DevId, DeviceExtent)],
        own: &DeviceExtent,
        range: &Range<u64>,
        claim: Claim,
    ) -> Result<Self> {
        let wanted = |stripe: usize| match claim.others.iter().find(|other| other.stripe == stripe) {
            _ if stripe == own.stripe => For::Own,
            Some(other) => For::Other(Arc::clone(&other.share), Arc::clone(&other.monitor)),
            None => For::Parity,
        };
        let stripe = |(devid, extent): &(DevId, DeviceExtent)| Stripe {
            devid: *devid,
            wanted: wanted(extent.stripe),
            stretches: Vec::new(),
        };
        let mut stripes: Vec<Stripe> = extents.iter().map(stripe).collect();
        let mut rows = rows_of(run.volume, extents, range);
        let durable = run.durable();
        let is_source: Vec<bool> = stripes.iter().map(|stripe| run.volume.is_source(stripe.devid)).collect();
        run.gate.view(|tx| rows.iter_mut().try_for_each(|row| fill(tx, durable, &stripes, &is_source, row)))?;
        for (number, stripe) in stripes.iter_mut().enumerate() {
            stripe.stretches = joined(rows.iter().flat_map(|row| reads(row, number, stripe.is_scrubbed())));
        }
        Ok(Self { stripes, rows, claim })
    }

    /// Says that it will be read soon.
    pub fn prefetch(&self, volume: &Volume) {
        for stripe in &self.stripes {
            stripe
                .stretches
                .iter()
                .for_each(|stretch| volume.prefetch_device(stripe.devid, stretch.physical, stretch.len));
        }
    }

    /// Reads it, within the limits of the devices that are scrubbed.
    pub fn load(&self, run: &Run<'_>) -> Vec<Loaded> {
        let load = |stripe: &Stripe| {
            let bytes = stripe.stretches.iter().map(|stretch| stretch.len).sum();
            match &stripe.wanted {
                For::Own => run.monitor.wait_to_read(bytes, run.monitor),
                For::Other(_, monitor) => monitor.wait_to_read(bytes, run.monitor),
                For::Parity => {}
            }
            Loaded::read(run.volume, stripe.devid, &stripe.stretches)
        };
        self.stripes.iter().map(load).collect()
    }
}

/// The rows at a range of the stripes, with what each stripe has of them.
fn rows_of(volume: &Volume, extents: &[(DevId, DeviceExtent)], range: &Range<u64>) -> Vec<Row> {
    let count = (range.end - range.start).div_ceil(STRIPE_LEN) as usize;
    let no_columns = || extents.iter().map(|_| Column { part: None, pieces: Vec::new() }).collect();
    let mut rows: Vec<Row> = (0..count).map(|_| Row { columns: no_columns(), lines: Vec::new() }).collect();
    for (number, (_, extent)) in extents.iter().enumerate() {
        for part in volume.stored_parts(extent, range.clone()) {
            let row = (part.physical - extent.physical - range.start) / STRIPE_LEN;
            rows[row as usize].columns[number].part = Some(part);
        }
    }
    rows
}

/// Gathers what is in use of a row's columns that are read.
fn fill(tx: &Transaction, durable: Generation, stripes: &[Stripe], is_source: &[bool], row: &mut Row) -> Result<()> {
    let is_data = |column: &Column| column.part.is_some_and(|part| matches!(part.held, Held::Bytes(_)));
    let is_known = row.columns.iter().zip(is_source).all(|(column, is_source)| *is_source || !is_data(column));
    let is_judged = is_known && row.parities(stripes).next().is_some();
    for (column, stripe) in row.columns.iter_mut().zip(stripes) {
        if let Some(part) = column.part.filter(|_| is_judged || stripe.is_scrubbed()) {
            column.pieces = gather(tx, &[part], durable)?;
        }
    }
    if is_judged {
        row.lines = used_lines(row);
    }
    Ok(())
}

/// The lines of a row that anything is in use of, as ranges of offsets within its stripes.
fn used_lines(row: &Row) -> Vec<Range<u64>> {
    let within = |column: &Column| {
        let start = column.part.map_or(0, |part| part.physical);
        let stretch = |piece: &Piece| Stretch { physical: piece.physical - start, len: piece.len };
        column.pieces.iter().map(stretch).collect::<Vec<_>>()
    };
    let mut used: Vec<Stretch> = row.columns.iter().flat_map(within).collect();
    used.sort_unstable_by_key(|stretch| stretch.physical);
    joined(used.into_iter()).into_iter().map(|stretch| stretch.physical..stretch.physical + stretch.len).collect()
}

/// What is read of a row's column.
fn reads(row: &Row, stripe: usize, is_scrubbed: bool) -> Vec<Stretch> {
    let column = &row.columns[stripe];
    let Some(part) = column.part else { return Vec::new() };
    let lines = || {
        let stretch = |lines: &Range<u64>| {
            let end = lines.end.min(part.len);
            (lines.start < end).then(|| Stretch { physical: part.physical + lines.start, len: end - lines.start })
        };
        row.lines.iter().filter_map(stretch).collect()
    };
    match part.held {
        Held::Parity(_) if !is_scrubbed => Vec::new(),
        Held::Bytes(_) if row.lines.is_empty() => {
            column.pieces.iter().map(|piece| Stretch { physical: piece.physical, len: piece.len }).collect()
        }
        _ => lines(),
    }
}

/// Whether Q is among the parities of a row.
pub(super) fn has_q(parities: &[(usize, &StoredPart, Parity)]) -> bool {
    parities.iter().any(|(_, _, parity)| parity.kind == ParityKind::Q)
}

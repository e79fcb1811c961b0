//! Writes to chunks with parity: whole lines of a row, data and parity together.
//!
//! A *row* is what lies at the same 64 KiB of all stripes of a chunk; a *line* is the sectors of a row at the same
//! offset of their stripes: those that share their sector of P and of Q. A write of some sectors of a line makes the
//! parity of the whole line anew. What it does not bring is read from the devices, or rebuilt if its device is not
//! there.
//!
//! # Invariants
//! * Parity is written only in lines of which data is written.
//! * A line that was written, and none of whose devices failed, fits its parity, whatever it held before.
//! * Parity is made of what is on the devices. A device that was not asked (it catches up, is avoided, or could not read), and
//!   a target of a replacement, may hold something else than what parity was made of: so they get the line whole.
//! * The caller writes only to lines in which nothing is that must survive a power cut at this moment: see
//!   `docs/decisions/0020-rows.md`.
//! * A device that fails is dropped if it can be spared (see [`crate::tolerance`]); then its part of a line is what the
//!   others say. Once another one failed, nobody knows which lines fit their parity: no flush succeeds any more.
//!
//! # Locking
//! A row is busy from the reading of what a write does not bring to the end of the write, and while a scrub compares and
//! repairs its parity. All rows of a batch become busy
//! at once, so nobody waits for one row with another in hand.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use butterfs_format::Logical;
use butterfs_format::items::STRIPE_LEN;

use crate::error::{Error, Result};
use crate::map::{Mapped, touches_superblock};
use crate::member::Role;
use crate::parity::{self, Part};
use crate::volume::Volume;

/// Writes for one device: physical addresses and bytes.
type Writes<'a> = Vec<(u64, &'a [u8])>;

/// So many rows are written at a time.
const ROWS_AT_ONCE: usize = 64;

/// The rows that are being written, by the address of their first byte.
#[derive(Default)]
pub(crate) struct BusyRows {
    busy: Mutex<HashSet<u64>>,
    done: Condvar,
}

impl BusyRows {
    fn busy(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until none of the rows is busy, and makes them so.
    fn take(&self, rows: Vec<u64>) -> TakenRows<'_> {
        let mut busy = self.busy();
        while rows.iter().any(|row| busy.contains(row)) {
            busy = self.done.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        busy.extend(&rows);
        TakenRows { all: self, rows }
    }
}

/// Rows that nobody else writes, until it is dropped.
pub struct TakenRows<'a> {
    all: &'a BusyRows,
    rows: Vec<u64>,
}

impl Drop for TakenRows<'_> {
    fn drop(&mut self) {
        let mut busy = self.all.busy();
        for row in &self.rows {
            busy.remove(row);
        }
        self.all.done.notify_all();
    }
}

/// What a batch brings for one column of a row.
struct Brought<'a> {
    column: u64,
    /// Offset within the row's stripe.
    within: u64,
    bytes: &'a [u8],
}

impl Brought<'_> {
    fn range(&self) -> Range<u64> {
        self.within..self.within + self.bytes.len() as u64
    }
}

/// What a batch brings for one row.
struct RowWrite<'a> {
    mapped: Arc<Mapped>,
    row: u64,
    parts: Vec<Brought<'a>>,
}

/// The parity of some lines of a row.
struct Lines {
    /// Offset within the row's stripe.
    within: u64,
    p: Vec<u8>,
    q: Option<Vec<u8>>,
    /// Columns that are written whole, so that what parity was made of is what their devices hold.
    told: Vec<(u64, Vec<u8>)>,
}

/// Whether a column's device holds what a write does not bring.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnDevice {
    /// It said so.
    Known,
    /// It was not asked, or another one is to hold it, too.
    Unknown,
}

/// A column in some lines, as it will be.
struct Column<'r> {
    bytes: Cow<'r, [u8]>,
    on_device: OnDevice,
}

impl Lines {
    /// Whether a column that is written whole has this part in it.
    fn tell(&self, part: &Brought<'_>) -> bool {
        let here = (self.within..self.within + self.p.len() as u64).contains(&part.within);
        here && self.told.iter().any(|(column, _)| *column == part.column)
    }
}

/// Writes to chunks with parity, by chunk and row.
#[derive(Default)]
pub(crate) struct RowWrites<'a> {
    rows: BTreeMap<u64, RowWrite<'a>>,
}

impl<'a> RowWrites<'a> {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds a write that lies in one chunk, from `offset` in it on.
    pub fn add(&mut self, mapped: &Arc<Mapped>, offset: u64, bytes: &'a [u8]) {
        for (row, column, within, in_buf) in mapped.columns_in(offset, bytes.len()) {
            let new = || RowWrite { mapped: Arc::clone(mapped), row, parts: Vec::new() };
            let row = self.rows.entry(mapped.row_start(row)).or_insert_with(new);
            row.parts.push(Brought { column, within, bytes: &bytes[in_buf] });
        }
    }
}

/// Ranges that touch or overlap, as one each.
fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    let mut all: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match all.last_mut().filter(|last| range.start <= last.end) {
            Some(last) => last.end = last.end.max(range.end),
            None => all.push(range),
        }
    }
    all
}

impl RowWrite<'_> {
    /// The lines that are written, as ranges of offsets within the row's stripes.
    fn lines(&self) -> Vec<Range<u64>> {
        joined(self.parts.iter().map(Brought::range).collect())
    }

    /// What the batch brings of a column within some lines.
    fn of_column(&self, column: u64, lines: &Range<u64>) -> impl Iterator<Item = &Brought<'_>> {
        let within = move |part: &&Brought<'_>| part.within < lines.end && lines.start < part.range().end;
        self.parts.iter().filter(move |part| part.column == column).filter(within)
    }
}

impl Volume {
    /// Keeps writers from the row with parity that begins at an address: what is read meanwhile fits together. Who has
    /// it writes with [`Volume::repair_device`] only, and waits for nobody.
    pub fn hold_row(&self, row: Logical) -> TakenRows<'_> {
        self.busy_rows.take(vec![row.0])
    }

    /// Writes lines whole, some rows at a time.
    pub(crate) fn write_rows(&self, writes: &RowWrites<'_>) -> Result<()> {
        let rows: Vec<(&u64, &RowWrite<'_>)> = writes.rows.iter().collect();
        rows.chunks(ROWS_AT_ONCE).try_for_each(|rows| {
            let _taken = self.busy_rows.take(rows.iter().map(|(start, _)| **start).collect());
            self.write_taken(rows)
        })
    }

    fn write_taken(&self, rows: &[(&u64, &RowWrite<'_>)]) -> Result<()> {
        rows.iter().try_for_each(|(_, row)| self.check_row(row))?;
        let parity: Vec<Vec<Lines>> = rows.iter().map(|(_, row)| self.parity_lines(row)).collect::<Result<_>>()?;
        let mut batches: Vec<Writes<'_>> = vec![Vec::new(); self.members.len()];
        for ((_, row), lines) in rows.iter().zip(&parity) {
            for part in row.parts.iter().filter(|part| !lines.iter().any(|lines| lines.tell(part))) {
                put(&mut batches, row, Part::Data(part.column), part.within, part.bytes);
            }
            for lines in lines {
                put(&mut batches, row, Part::P, lines.within, &lines.p);
                lines.q.iter().for_each(|q| put(&mut batches, row, Part::Q, lines.within, q));
                lines.told.iter().for_each(|(column, all)| {
                    put(&mut batches, row, Part::Data(*column), lines.within, all);
                });
            }
        }
        for (index, batch) in batches.iter_mut().enumerate() {
            batch.sort_by_key(|(physical, _)| *physical);
            // What a device that is not there should hold is in the others.
            if batch.is_empty() || !self.members[index].is_written() {
                continue;
            }
            self.write_or_drop(index, batch).inspect_err(|_| self.note_torn_rows())?;
        }
        Ok(())
    }

    /// Refuses what must not be written, before anything is.
    fn check_row(&self, row: &RowWrite<'_>) -> Result<()> {
        let mapped = &row.mapped;
        let refuse = |what: String| {
            let start = mapped.row_start(row.row);
            Err(Error::NotWritable(format!("a write to the row at logical {start} would {what}")))
        };
        let mut missing = 0;
        for place in mapped.row_places(row.row) {
            let member = &self.members[place.member];
            if touches_superblock(place.physical, STRIPE_LEN) {
                return refuse(format!("overwrite a superblock of {}", member.device.name()));
            }
            match member.role() {
                _ if !member.is_there() => missing += 1,
                Role::Seed => return refuse(format!("change {}, which is a seed", member.device.name())),
                Role::Current | Role::Behind | Role::Missing => {}
            }
        }
        match missing > mapped.grid.parity() {
            true => refuse(format!("lack {missing} devices")),
            false => Ok(()),
        }
    }

    fn parity_lines(&self, row: &RowWrite<'_>) -> Result<Vec<Lines>> {
        let parity_of = |lines: Range<u64>| {
            let columns: Vec<Column<'_>> =
                (0..row.mapped.grid.columns).map(|column| self.column(row, column, &lines)).collect::<Result<_>>()?;
            let data: Vec<&[u8]> = columns.iter().map(|column| &*column.bytes).collect();
            let len = (lines.end - lines.start) as usize;
            let mut made = Lines { within: lines.start, p: vec![0; len], q: None, told: Vec::new() };
            made.q = (row.mapped.grid.parity() > 1).then(|| vec![0; len]);
            parity::compute(&data, &mut made.p, made.q.as_deref_mut());
            let told = columns.into_iter().zip(0..).filter(|(column, _)| column.on_device == OnDevice::Unknown);
            made.told = told.map(|(column, number)| (number, column.bytes.into_owned())).collect();
            Ok(made)
        };
        row.lines().into_iter().map(parity_of).collect()
    }

    /// What a column holds in some lines after the write.
    fn column<'r>(&self, row: &'r RowWrite<'_>, column: u64, lines: &Range<u64>) -> Result<Column<'r>> {
        if let Some(part) = row.of_column(column, lines).find(|part| part.range() == *lines) {
            return Ok(Column { bytes: Cow::Borrowed(part.bytes), on_device: OnDevice::Known });
        }
        let mut bytes = vec![0; (lines.end - lines.start) as usize];
        let mut on_device = OnDevice::Known;
        let brought = joined(row.of_column(column, lines).map(Brought::range).collect());
        let mut from = lines.start;
        for gap in brought.iter().cloned().chain(std::iter::once(lines.end..lines.end)) {
            let there = &mut bytes[(from - lines.start) as usize..(gap.start - lines.start) as usize];
            if !there.is_empty() && self.read_column(row, column, from, there)? == OnDevice::Unknown {
                on_device = OnDevice::Unknown;
            }
            from = gap.end;
        }
        for part in row.of_column(column, lines) {
            bytes[(part.within - lines.start) as usize..][..part.bytes.len()].copy_from_slice(part.bytes);
        }
        Ok(Column { bytes: Cow::Owned(bytes), on_device })
    }

    /// What a column holds from `within` on: by the word of its own device, if that can be asked. What is rebuilt from the
    /// others is something else where the row's parity was never made, or is of something that was there before.
    fn read_column(&self, row: &RowWrite<'_>, column: u64, within: u64, bytes: &mut [u8]) -> Result<OnDevice> {
        let place = row.mapped.part_place(row.row, Part::Data(column), within);
        let member = &self.members[place.member];
        let is_asked = member.is_there() && !member.avoided.load(Ordering::Relaxed);
        if is_asked && member.read_at(place.physical, bytes).is_ok() {
            return Ok(if member.target().is_some() { OnDevice::Unknown } else { OnDevice::Known });
        }
        self.read(row.mapped.address(row.row, column, within), bytes)?;
        Ok(OnDevice::Unknown)
    }
}

fn put<'b>(batches: &mut [Writes<'b>], row: &RowWrite<'_>, part: Part, within: u64, bytes: &'b [u8]) {
    let place = row.mapped.part_place(row.row, part, within);
    batches[place.member].push((place.physical, bytes));
}

impl Mapped {
    /// The address of a row's first byte.
    fn row_start(&self, row: u64) -> u64 {
        self.address(row, 0, 0).0
    }
}

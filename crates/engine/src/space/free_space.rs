//! The free space of one block group, and what of it may be given out at this moment.
//!
//! # Invariants
//! * With parity only what [`Rows`] allow is given out; without, everything.

use std::ops::Range;

use super::{Due, FreeRanges, Rows};

/// The free space of one block group.
#[derive(Clone, Debug)]
pub struct FreeSpace {
    ranges: FreeRanges,
    rows: Option<Rows>,
}

impl FreeSpace {
    /// Of the group that begins at `start`; with parity, the group has `columns` of data.
    pub fn new(ranges: FreeRanges, start: u64, columns: Option<u64>) -> Self {
        let rows = columns.map(|columns| Rows::new(start, columns, &ranges));
        Self { ranges, rows }
    }

    /// Free bytes.
    pub fn total(&self) -> u64 {
        self.ranges.total()
    }

    /// Whether all of a range is free.
    pub fn has_all(&self, range: Range<u64>) -> bool {
        let len = range.end - range.start;
        self.ranges.within(range).iter().map(|(_, len)| len).sum::<u64>() == len
    }

    /// Bytes that can be given out for sure, in parts as small as may be and with commits between them.
    pub fn sure(&self) -> u64 {
        self.rows.as_ref().map_or_else(|| self.total(), Rows::sure)
    }

    /// Bytes that can be given out at this moment.
    pub fn open(&self) -> u64 {
        self.rows.as_ref().map_or_else(|| self.total(), Rows::open_bytes)
    }

    /// All of it, if devices can be told of it: parity covers free space too.
    pub fn discardable(&self) -> Option<&FreeRanges> {
        self.rows.is_none().then_some(&self.ranges)
    }

    /// Makes a range free, which must not be so yet.
    pub fn add(&mut self, at: u64, len: u64) {
        self.ranges.add(at, len);
        if let Some(rows) = &mut self.rows {
            rows.give_back(at, len, &self.ranges);
        }
    }

    /// A range is in use by what is durable, or set aside.
    pub fn claim(&mut self, at: u64, len: u64) {
        self.ranges.remove(at, len);
        if let Some(rows) = &mut self.rows {
            rows.claim(at, len);
        }
    }

    /// About how many contiguous bytes can be given out.
    pub fn longest(&self, due: Due) -> u64 {
        self.rows.as_ref().map_or_else(|| self.ranges.longest(), |rows| rows.longest(due))
    }

    /// Takes `len` bytes, as near behind `hint` as may be. For tree blocks.
    pub fn allocate_near(&mut self, hint: u64, len: u64, due: Due) -> Option<u64> {
        let Some(rows) = &mut self.rows else { return self.ranges.allocate_near(hint, len) };
        let at = rows.allocate_first(len, due)?;
        self.ranges.remove(at, len);
        Some(at)
    }

    /// Takes up to `want` bytes as one range. For data.
    pub fn allocate_best(&mut self, want: u64, due: Due) -> Option<(u64, u64)> {
        let Some(rows) = &mut self.rows else { return self.ranges.allocate_best(want) };
        let (at, len) = rows.allocate_best(want, due)?;
        self.ranges.remove(at, len);
        Some((at, len))
    }

    /// What was given out for then is becoming durable.
    pub fn close_rows(&mut self, due: Due) {
        if let Some(rows) = &mut self.rows {
            rows.close(due);
        }
    }
}

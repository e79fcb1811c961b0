//! Where a logical address lies: chunks over devices, by the grids of [`crate::profile`].
//!
//! # Invariants
//! * Chunks in a [`ChunkMap`] do not overlap.
//! * A [`Mapped`] chunk's stripes lie on known devices and within them, so the arithmetic here
//!   cannot overflow.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use butterfs_format::items::{Chunk, STRIPE_LEN, Stripe};
use butterfs_format::superblock::{SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_format::{Corruption, Logical};

use crate::error::{Error, Result};
use crate::parity::{self, Part};
use crate::profile::{Grid, Way};

/// A chunk whose devices are known.
#[derive(Clone, Debug)]
pub(crate) struct Mapped {
    pub start: Logical,
    pub chunk: Chunk,
    pub grid: Grid,
    /// For each stripe, the place of its device in the volume's list.
    members: Vec<usize>,
}

/// A place on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub member: usize,
    pub physical: u64,
}

/// A part of a request that lies in one piece on one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub place: Place,
    pub in_buf: Range<usize>,
}

/// Where the bytes of a part of a request come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// They are stored there.
    Stored(Place),
    /// They are the sum of what is stored in other places, each times a factor.
    Rebuilt(Vec<(Place, u8)>),
}

/// How to read a part of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub source: Source,
    pub in_buf: Range<usize>,
}

impl Read {
    /// All places that are read for it.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        let (stored, rebuilt) = match &self.source {
            Source::Stored(place) => (Some(*place), &[][..]),
            Source::Rebuilt(terms) => (None, &terms[..]),
        };
        stored.into_iter().chain(rebuilt.iter().map(|(place, _)| *place))
    }
}

/// A part of a request that lies in one stripe of a chunk.
struct Span {
    row: u64,
    column: u64,
    /// Offset within the row's stripe.
    within: u64,
    in_buf: Range<usize>,
}

impl Mapped {
    /// `members` gives the device of each stripe; the caller has checked that stripes lie within.
    pub fn new(start: Logical, chunk: Chunk, members: Vec<usize>) -> Result<Self> {
        let grid = Grid::of(start, &chunk)?;
        debug_assert_eq!(members.len(), chunk.stripes.len());
        Ok(Self { start, chunk, grid, members })
    }

    fn end(&self) -> u64 {
        self.start.0.saturating_add(self.chunk.length())
    }

    /// Cuts the bytes from `offset` within the chunk on at the ends of stripes; `in_buf` says where in
    /// the request they are, and how many.
    fn spans(&self, mut offset: u64, in_buf: Range<usize>) -> impl Iterator<Item = Span> {
        let (columns, straight) = (self.grid.columns, self.grid.is_straight());
        let mut at = in_buf.start;
        std::iter::from_fn(move || {
            if at >= in_buf.end {
                return None;
            }
            let (number, within) = (offset / STRIPE_LEN, offset % STRIPE_LEN);
            let left = (in_buf.end - at) as u64;
            let take = if straight { left } else { left.min(STRIPE_LEN - within) };
            let end = at + take as usize;
            let span = Span { row: number / columns, column: number % columns, within, in_buf: at..end };
            (offset, at) = (offset + take, end);
            Some(span)
        })
    }

    fn place(&self, stripe: usize, span: &Span) -> Place {
        let physical = self.chunk.stripes[stripe].offset.get() + span.row * STRIPE_LEN + span.within;
        Place { member: self.members[stripe], physical }
    }

    /// The parts of a range of the chunk by row, column and offset within the column; and where in the range they are.
    pub fn columns_in(&self, offset: u64, bytes: usize) -> impl Iterator<Item = (u64, u64, u64, Range<usize>)> {
        self.spans(offset, 0..bytes).map(|span| (span.row, span.column, span.within, span.in_buf))
    }

    /// The address of a byte of a column in a row.
    pub fn address(&self, row: u64, column: u64, within: u64) -> Logical {
        Logical(self.start.0 + (row * self.grid.columns + column) * STRIPE_LEN + within)
    }

    /// Where a part of a row with parity lies, from `within` on.
    pub fn part_place(&self, row: u64, part: Part, within: u64) -> Place {
        let stripe = self.grid.part(row, part);
        let physical = self.chunk.stripes[stripe].offset.get() + row * STRIPE_LEN + within;
        Place { member: self.members[stripe], physical }
    }

    /// Where all parts of a row with parity begin.
    pub fn row_places(&self, row: u64) -> impl Iterator<Item = Place> {
        let place = move |(stripe, member): (&Stripe, &usize)| Place {
            member: *member,
            physical: stripe.offset.get() + row * STRIPE_LEN,
        };
        self.chunk.stripes.iter().zip(&self.members).map(place)
    }

    /// Where `copy` of the span is stored.
    fn stored(&self, span: &Span, copy: usize) -> Place {
        self.place(self.grid.stored(span.row, span.column, copy), span)
    }

    fn source(&self, span: &Span, way: usize) -> Source {
        match self.grid.way(way, span.column) {
            Way::Stored(copy) => Source::Stored(self.stored(span, copy)),
            Way::Rebuilt(recipe) => {
                let terms = parity::terms(recipe, span.column, self.grid.columns).into_iter();
                let place = |part| self.place(self.grid.part(span.row, part), span);
                Source::Rebuilt(terms.map(|(part, factor)| (place(part), factor)).collect())
            }
        }
    }

    /// Whether a stripe lies on the device at a place of the volume's list.
    pub fn uses(&self, member: usize) -> bool {
        self.members.contains(&member)
    }

    /// Whether the devices that are there have all of it.
    pub fn survives(&self, is_there: impl Fn(usize) -> bool) -> bool {
        let lost = |stripe: &usize| !is_there(self.members[*stripe]);
        if self.grid.has_parity() {
            return (0..self.members.len()).filter(lost).count() <= self.grid.parity();
        }
        (0..self.grid.columns)
            .all(|column| (0..self.grid.copies()).any(|copy| !lost(&self.grid.stored(0, column, copy))))
    }

    /// The logical ranges, in whole stripes, that lie over superblock copies.
    pub fn superblock_ranges(&self) -> Vec<Range<Logical>> {
        let mut ranges: Vec<Range<Logical>> = Vec::new();
        for stripe in 0..self.members.len() {
            for sb in SUPERBLOCK_OFFSETS {
                ranges.extend(self.stripes_over(stripe, sb..sb + SUPERBLOCK_SIZE as u64));
            }
        }
        ranges.sort_by_key(|range| range.start);
        ranges.dedup();
        ranges
    }

    /// The logical 64 KiB pieces of one stripe (with parity: the rows) that touch a physical range.
    fn stripes_over(&self, stripe: usize, physical: Range<u64>) -> Vec<Range<Logical>> {
        let begin = self.chunk.stripes[stripe].offset.get();
        let end = begin + self.grid.stripe_length(self.chunk.length());
        let (from, to) = (physical.start.max(begin), physical.end.min(end));
        if from >= to {
            return Vec::new();
        }
        let columns = self.grid.columns_of(stripe);
        let width = (columns.end - columns.start).saturating_mul(STRIPE_LEN);
        let rows = (from - begin) / STRIPE_LEN..(to - begin).div_ceil(STRIPE_LEN);
        let logical = |row: u64| (row * self.grid.columns + columns.start).saturating_mul(STRIPE_LEN);
        rows.map(|row| (logical(row), logical(row).saturating_add(width).min(self.chunk.length())))
            .filter(|(from, to)| from < to)
            .map(|(from, to)| Logical(self.start.0 + from)..Logical(self.start.0 + to))
            .collect()
    }
}

/// All chunks by logical address.
#[derive(Debug, Default)]
pub(crate) struct ChunkMap {
    chunks: BTreeMap<Logical, Arc<Mapped>>,
}

impl ChunkMap {
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Mapped>> {
        self.chunks.values()
    }

    pub fn find(&self, logical: Logical) -> Option<&Arc<Mapped>> {
        let (_, mapped) = self.chunks.range(..=logical).next_back()?;
        (logical.0 < mapped.end()).then_some(mapped)
    }

    /// Puts a chunk in that overlaps no other.
    pub fn insert(&mut self, mapped: Mapped) -> Result<()> {
        let (start, end) = (mapped.start, mapped.end());
        let before = self.chunks.range(..Logical(end)).next_back();
        if let Some((other, found)) = before.filter(|(_, found)| found.end() > start.0) {
            let problem = format!("overlaps the chunk at {other} of {} bytes", found.chunk.length());
            return Err(Corruption::new(format!("chunk {start} of {} bytes", mapped.chunk.length()), problem).into());
        }
        self.chunks.insert(start, Arc::new(mapped));
        Ok(())
    }

    /// What lies on the device at one place of the volume's list lies on that at another from now on.
    pub fn move_member(&mut self, from: usize, to: usize) {
        for mapped in self.chunks.values_mut().filter(|mapped| mapped.uses(from)) {
            let mut moved = Mapped::clone(mapped);
            moved.members.iter_mut().filter(|member| **member == from).for_each(|member| *member = to);
            *mapped = Arc::new(moved);
        }
    }

    pub fn remove(&mut self, start: Logical) {
        self.chunks.remove(&start);
    }

    /// How to read the range by the way number `way`.
    pub fn reads(&self, logical: Logical, bytes: usize, way: usize) -> Result<Vec<Read>> {
        let mut reads = Vec::new();
        self.each_chunk(logical, bytes, |mapped, offset, in_buf| {
            let ways = mapped.grid.ways();
            if way >= ways {
                let problems = format!("copy {way} was asked for, there are {ways}");
                return Err(Error::NoCopy { logical, problems });
            }
            let read = |span: Span| Read { source: mapped.source(&span, way), in_buf: span.in_buf };
            reads.extend(mapped.spans(offset, in_buf).map(read));
            Ok(())
        })?;
        Ok(reads)
    }

    /// The pieces in which the range is stored as it is, all copies.
    pub fn stored(&self, logical: Logical, bytes: usize) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        self.each_chunk(logical, bytes, |mapped, offset, in_buf| {
            for copy in 0..mapped.grid.copies() {
                let piece = |span: Span| Piece { place: mapped.stored(&span, copy), in_buf: span.in_buf };
                pieces.extend(mapped.spans(offset, in_buf.clone()).map(piece));
            }
            Ok(())
        })?;
        Ok(pieces)
    }

    /// Whether any part of the range has parity.
    pub fn has_parity(&self, logical: Logical, bytes: usize) -> bool {
        let mut found = false;
        let walked = self.each_chunk(logical, bytes, |mapped, _, _| {
            found |= mapped.grid.has_parity();
            Ok(())
        });
        walked.is_ok() && found
    }

    /// Cuts a range at the ends of chunks: gives each chunk, the offset in it, and the part of the request.
    pub fn each_chunk(
        &self,
        logical: Logical,
        bytes: usize,
        mut work: impl FnMut(&Arc<Mapped>, u64, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0usize;
        while done < bytes {
            let at = logical.checked_add(done as u64);
            let mapped = at.and_then(|at| self.find(at)).ok_or_else(|| unmapped(logical, bytes))?;
            let offset = logical.0 + done as u64 - mapped.start.0;
            let take = usize::try_from(mapped.chunk.length() - offset).unwrap_or(usize::MAX).min(bytes - done);
            work(mapped, offset, done..done + take)?;
            done += take;
        }
        Ok(())
    }
}

pub(crate) fn unmapped(logical: Logical, bytes: usize) -> Error {
    Corruption::new(format!("logical address {logical}"), format!("{bytes} bytes there are not all in chunks")).into()
}

/// Whether a physical range touches a superblock copy.
pub(crate) fn touches_superblock(physical: u64, bytes: u64) -> bool {
    SUPERBLOCK_OFFSETS.iter().any(|sb| physical < sb + SUPERBLOCK_SIZE as u64 && *sb < physical.saturating_add(bytes))
}

/// A physical range without the superblock copies in it.
pub(crate) fn without_superblocks(range: Range<u64>) -> Vec<Range<u64>> {
    let mut parts = Vec::new();
    let mut from = range.start;
    for sb in SUPERBLOCK_OFFSETS {
        if touches_superblock(from, range.end.saturating_sub(from)) && sb < range.end {
            parts.push(from..sb);
            from = from.max(sb + SUPERBLOCK_SIZE as u64);
        }
    }
    parts.push(from..range.end);
    parts.retain(|part| part.start < part.end);
    parts
}

#[cfg(test)]
mod tests;

//! Where a logical address lies: chunks over devices, by the grids of [`crate::profile`].
//!
//! # Invariants
//! * Chunks in a [`ChunkMap`] do not overlap.
//! * A [`Mapped`] chunk's stripes lie on known devices and within them, so the arithmetic here
//!   cannot overflow.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use butterfs_format::items::{Chunk, STRIPE_LEN};
use butterfs_format::superblock::{SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_format::{Corruption, Logical};

use crate::error::{Error, Result};
use crate::parity;
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
    fn each_chunk(
        &self,
        logical: Logical,
        bytes: usize,
        mut work: impl FnMut(&Mapped, u64, Range<usize>) -> Result<()>,
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
mod tests {
    use super::*;
    use butterfs_format::items::{BlockGroupFlags, ChunkHeader, Stripe};

    const KIB64: u64 = 64 << 10;

    fn mapped(profile: BlockGroupFlags, stripes: usize, length: u64) -> Mapped {
        let header = ChunkHeader {
            length: length.into(),
            owner: 2.into(),
            stripe_len: STRIPE_LEN.into(),
            chunk_type: (BlockGroupFlags::DATA | profile).bits().into(),
            io_align: 65536.into(),
            io_width: 65536.into(),
            sector_size: 4096.into(),
            num_stripes: (stripes as u16).into(),
            sub_stripes: 2.into(),
        };
        let stripe = |i: usize| Stripe {
            devid: (i as u64 + 1).into(),
            offset: ((i as u64 + 1) << 20).into(),
            dev_uuid: [0; 16],
        };
        let chunk = Chunk { header, stripes: (0..stripes).map(stripe).collect() };
        Mapped::new(Logical(1 << 30), chunk, (0..stripes).collect()).unwrap()
    }

    fn map(profile: BlockGroupFlags, stripes: usize) -> ChunkMap {
        let mut map = ChunkMap::default();
        map.insert(mapped(profile, stripes, 12 * KIB64)).unwrap();
        map
    }

    /// (device, physical, bytes) of each piece of a copy.
    fn places(map: &ChunkMap, offset: u64, bytes: usize, copy: usize) -> Vec<(usize, u64, usize)> {
        let reads = map.reads(Logical((1 << 30) + offset), bytes, copy).unwrap();
        let place = |read: Read| match read.source {
            Source::Stored(place) => (place.member, place.physical, read.in_buf.len()),
            Source::Rebuilt(_) => panic!("copy {copy} is not stored"),
        };
        reads.into_iter().map(place).collect()
    }

    #[test]
    fn profiles_without_columns_map_straight() {
        use BlockGroupFlags as F;
        for (profile, copies) in [(F::empty(), 1), (F::DUP, 2), (F::RAID1, 2), (F::RAID1C3, 3), (F::RAID1C4, 4)] {
            let map = map(profile, copies);
            for copy in 0..copies {
                let base = (copy as u64 + 1) << 20;
                assert_eq!(places(&map, 5000, 200_000, copy), [(copy, base + 5000, 200_000)]);
            }
            assert!(matches!(map.reads(Logical(1 << 30), 1, copies), Err(Error::NoCopy { .. })));
        }
    }

    #[test]
    fn raid0_goes_round_the_devices() {
        let map = map(BlockGroupFlags::RAID0, 3);
        let (a, b, c) = (1 << 20, 2 << 20, 3 << 20);
        assert_eq!(
            places(&map, KIB64 - 4096, 3 * KIB64 as usize, 0),
            [(0, a + KIB64 - 4096, 4096), (1, b, 65536), (2, c, 65536), (0, a + KIB64, 61440)]
        );
    }

    #[test]
    fn raid10_pairs_neighbours() {
        let map = map(BlockGroupFlags::RAID10, 4);
        let base = |i: u64| (i + 1) << 20;
        for copy in 0..2usize {
            let c = copy as u64;
            assert_eq!(
                places(&map, 0, 3 * KIB64 as usize, copy),
                [(copy, base(c), 65536), (2 + copy, base(2 + c), 65536), (copy, base(c) + KIB64, 65536)]
            );
        }
        assert_eq!(map.stored(Logical(1 << 30), 4096).unwrap().len(), 2);
    }

    /// RAID5 over three devices: rows of two data stripes, and parity one device further each row.
    #[test]
    fn raid5_rotates() {
        let map = map(BlockGroupFlags::RAID5, 3);
        let base = |i: u64| (i + 1) << 20;
        assert_eq!(
            places(&map, 4096, 5 * KIB64 as usize, 0),
            [
                (0, base(0) + 4096, 61440),
                (1, base(1), 65536),
                (1, base(1) + KIB64, 65536),
                (2, base(2) + KIB64, 65536),
                (2, base(2) + 2 * KIB64, 65536),
                (0, base(0) + 2 * KIB64, 4096),
            ]
        );
        let rebuilt = map.reads(Logical((1 << 30) + 2 * KIB64 + 8192), 4096, 1).unwrap();
        let place = |member: usize| Place { member, physical: base(member as u64) + KIB64 + 8192 };
        // The first data stripe of row 1 is on device 1; P is on device 0, the other data on device 2.
        assert_eq!(rebuilt, [Read { source: Source::Rebuilt(vec![(place(0), 1), (place(2), 1)]), in_buf: 0..4096 }]);
        assert!(map.reads(Logical(1 << 30), 1, 2).is_err());
    }

    /// With two devices the parity of RAID5 is a mirror, and with three both parities of RAID6 are.
    #[test]
    fn one_column_with_parity_is_mirrored() {
        let base = |i: u64| (i + 1) << 20;
        for (profile, stripes) in [(BlockGroupFlags::RAID5, 2), (BlockGroupFlags::RAID6, 3)] {
            let map = map(profile, stripes);
            assert_eq!(map.find(Logical(1 << 30)).unwrap().grid.ways(), stripes);
            for way in 1..stripes {
                let read = map.reads(Logical((1 << 30) + KIB64), 4096, way).unwrap();
                let member = (1 + way) % stripes;
                let place = Place { member, physical: base(member as u64) + KIB64 };
                assert_eq!(read, [Read { source: Source::Rebuilt(vec![(place, 1)]), in_buf: 0..4096 }]);
            }
        }
    }

    /// With parity a whole row is kept clear of a superblock on any of its devices.
    #[test]
    fn superblocks_take_rows_of_raid5() {
        let chunk = mapped(BlockGroupFlags::RAID5, 3, 256 << 20);
        let ranges = chunk.superblock_ranges();
        let row = |stripe: u64| ((64 << 20) - ((stripe + 1) << 20)) / KIB64;
        let range = |stripe: u64| {
            let start = Logical((1 << 30) + row(stripe) * 2 * KIB64);
            start..Logical(start.0 + 2 * KIB64)
        };
        assert_eq!(ranges, [range(2), range(1), range(0)]);
    }

    #[test]
    fn overlapping_chunks_are_refused() {
        let mut map = map(BlockGroupFlags::empty(), 1);
        for (start, length) in [(0u64, u64::MAX), ((1 << 30) + 4096, 4096), ((1 << 30) - 4096, 8192), (1 << 30, 4096)] {
            let mut chunk = mapped(BlockGroupFlags::empty(), 1, length);
            chunk.start = Logical(start);
            assert!(matches!(map.insert(chunk), Err(Error::Corruption(_))), "{start} {length}");
        }
        let mut chunk = mapped(BlockGroupFlags::empty(), 1, 4096);
        chunk.start = Logical((1 << 30) + 12 * KIB64);
        map.insert(chunk).unwrap();
        assert_eq!(map.len(), 2);
    }

    #[test]
    fn requests_cross_chunks_and_end_with_them() {
        let mut map = map(BlockGroupFlags::empty(), 1);
        let mut next = mapped(BlockGroupFlags::DUP, 2, KIB64);
        next.start = Logical((1 << 30) + 12 * KIB64);
        map.insert(next).unwrap();
        assert_eq!(places(&map, 12 * KIB64 - 10, 30, 0), [(0, (1 << 20) + 12 * KIB64 - 10, 10), (0, 1 << 20, 20)]);
        assert_eq!(map.stored(Logical((1 << 30) + 12 * KIB64 - 10), 30).unwrap().len(), 3);
        for (logical, bytes) in [(u64::MAX, 10), (0, 1), ((1 << 30) + 13 * KIB64 - 1, 2)] {
            assert!(map.reads(Logical(logical), bytes, 0).is_err());
        }
    }

    #[test]
    fn superblocks_are_found_in_logical_space() {
        let mut chunk = mapped(BlockGroupFlags::RAID0, 2, 128 << 20);
        chunk.chunk.stripes[1].offset = (1 << 20).into();
        // 64 MiB on the device is 63 MiB into each stripe (the first begins at 1 MiB too).
        let row = (63 << 20) / KIB64;
        let at = |column: u64| Logical((1 << 30) + (row * 2 + column) * KIB64);
        let end = |column: u64| Logical(at(column).0 + KIB64);
        assert_eq!(chunk.superblock_ranges(), [at(0)..end(0), at(1)..end(1)]);
        assert!(mapped(BlockGroupFlags::DUP, 2, 1 << 20).superblock_ranges().is_empty());
    }

    fn vec_of(range: Range<u64>) -> Vec<Range<u64>> {
        std::iter::once(range).collect()
    }

    #[test]
    fn superblocks_are_cut_out_of_ranges() {
        assert_eq!(without_superblocks(0..1 << 20), [0..65536, 69632..1 << 20]);
        assert_eq!(without_superblocks(66000..69632), Vec::<Range<u64>>::new());
        assert_eq!(without_superblocks(68000..70000), vec_of(69632..70000));
        assert_eq!(without_superblocks(69632..(64 << 20) + 1), vec_of(69632..64 << 20));
        let whole = without_superblocks(0..1 << 40);
        assert_eq!(whole.len(), 4);
    }
}

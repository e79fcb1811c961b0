//! Where a logical address lies: chunks over devices.
//!
//! Every profile without parity is a grid: `columns` stripes of 64 KiB side by side, each kept
//! `copies` times. Stripe `column * copies + copy` of the chunk holds a column's copy.
//!
//! # Invariants
//! * Chunks in a [`ChunkMap`] do not overlap.
//! * A [`Mapped`] chunk's stripes lie on known devices and within them, so the arithmetic here
//!   cannot overflow.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use butterfs_format::items::{BlockGroupFlags, Chunk, STRIPE_LEN};
use butterfs_format::superblock::{SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_format::{Corruption, Logical};

use crate::error::{Error, Result};

/// How often each profile stores a byte.
const COPIES: [(BlockGroupFlags, usize); 7] = [
    (BlockGroupFlags::empty(), 1),
    (BlockGroupFlags::RAID0, 1),
    (BlockGroupFlags::DUP, 2),
    (BlockGroupFlags::RAID1, 2),
    (BlockGroupFlags::RAID10, 2),
    (BlockGroupFlags::RAID1C3, 3),
    (BlockGroupFlags::RAID1C4, 4),
];

/// A chunk whose devices are known.
#[derive(Clone, Debug)]
pub(crate) struct Mapped {
    pub start: Logical,
    pub chunk: Chunk,
    pub copies: usize,
    columns: u64,
    /// For each stripe, the place of its device in the volume's list.
    members: Vec<usize>,
}

/// A part of a request that lies in one piece on one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub member: usize,
    pub physical: u64,
    pub in_buf: Range<usize>,
}

/// How a chunk's stripes form a grid: copies and columns.
fn grid(start: Logical, chunk: &Chunk) -> Result<(usize, u64)> {
    let flags = chunk.flags();
    let copies = COPIES.iter().find(|(profile, _)| *profile == flags.profile()).map(|(_, copies)| *copies);
    let Some(copies) = copies else {
        return Err(Error::Unsupported(format!(
            "chunk {start} is {}: RAID5/6 is not supported yet; convert it with the kernel's balance",
            flags.profile_name()
        )));
    };
    let stripes = chunk.stripes.len();
    if stripes == 0 || !stripes.is_multiple_of(copies) {
        let problem = format!("{stripes} stripes for profile {}", flags.profile_name());
        return Err(Corruption::new(format!("chunk {start}"), problem).into());
    }
    Ok((copies, (stripes / copies) as u64))
}

/// How many bytes each stripe of a chunk takes on its device.
///
/// # Errors
/// If the chunk's profile cannot be mapped, or does not fit its stripes.
pub fn stripe_length(start: Logical, chunk: &Chunk) -> Result<u64> {
    let (_, columns) = grid(start, chunk)?;
    Ok(length_on_device(chunk.length(), columns))
}

fn length_on_device(length: u64, columns: u64) -> u64 {
    if columns == 1 { length } else { length.div_ceil(STRIPE_LEN).div_ceil(columns).saturating_mul(STRIPE_LEN) }
}

impl Mapped {
    /// `members` gives the device of each stripe; the caller has checked that stripes lie within.
    pub fn new(start: Logical, chunk: Chunk, members: Vec<usize>) -> Result<Self> {
        let (copies, columns) = grid(start, &chunk)?;
        debug_assert_eq!(members.len(), chunk.stripes.len());
        Ok(Self { start, chunk, copies, columns, members })
    }

    fn end(&self) -> u64 {
        self.start.0.saturating_add(self.chunk.length())
    }

    /// The pieces of `copy` of the bytes from `offset` within the chunk on; `in_buf` says where in
    /// the request they are, and how many.
    fn push_pieces(&self, mut offset: u64, in_buf: Range<usize>, copy: usize, out: &mut Vec<Piece>) {
        let mut at = in_buf.start;
        while at < in_buf.end {
            let (number, within) = (offset / STRIPE_LEN, offset % STRIPE_LEN);
            let stripe = (number % self.columns) as usize * self.copies + copy;
            let left = (in_buf.end - at) as u64;
            let take = if self.columns == 1 { left } else { left.min(STRIPE_LEN - within) };
            let physical = self.chunk.stripes[stripe].offset.get() + number / self.columns * STRIPE_LEN + within;
            let end = at + take as usize;
            out.push(Piece { member: self.members[stripe], physical, in_buf: at..end });
            offset += take;
            at = end;
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

    /// The logical 64 KiB pieces of one stripe that touch a physical range.
    fn stripes_over(&self, stripe: usize, physical: Range<u64>) -> Vec<Range<Logical>> {
        let begin = self.chunk.stripes[stripe].offset.get();
        let end = begin + length_on_device(self.chunk.length(), self.columns);
        let (from, to) = (physical.start.max(begin), physical.end.min(end));
        if from >= to {
            return Vec::new();
        }
        let column = (stripe / self.copies) as u64;
        let rows = (from - begin) / STRIPE_LEN..(to - begin).div_ceil(STRIPE_LEN);
        let logical = |row: u64| (row * self.columns + column).saturating_mul(STRIPE_LEN);
        rows.map(|row| (logical(row), logical(row).saturating_add(STRIPE_LEN).min(self.chunk.length())))
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

    /// The pieces of the range's copy number `copy`.
    pub fn pieces(&self, logical: Logical, bytes: usize, copy: usize) -> Result<Vec<Piece>> {
        self.collect(logical, bytes, |mapped| {
            if copy < mapped.copies {
                return Ok(copy..copy + 1);
            }
            let problems = format!("copy {copy} was asked for, there are {}", mapped.copies);
            Err(Error::NoCopy { logical, problems })
        })
    }

    /// The pieces of all copies of the range.
    pub fn all_pieces(&self, logical: Logical, bytes: usize) -> Result<Vec<Piece>> {
        self.collect(logical, bytes, |mapped| Ok(0..mapped.copies))
    }

    fn collect(
        &self,
        logical: Logical,
        bytes: usize,
        copies: impl Fn(&Mapped) -> Result<Range<usize>>,
    ) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut done = 0usize;
        while done < bytes {
            let at = logical.checked_add(done as u64);
            let mapped = at.and_then(|at| self.find(at)).ok_or_else(|| unmapped(logical, bytes))?;
            let offset = logical.0 + done as u64 - mapped.start.0;
            let take = usize::try_from(mapped.chunk.length() - offset).unwrap_or(usize::MAX).min(bytes - done);
            for copy in copies(mapped)? {
                mapped.push_pieces(offset, done..done + take, copy, &mut pieces);
            }
            done += take;
        }
        Ok(pieces)
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
    use butterfs_format::items::{ChunkHeader, Stripe};

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
        let pieces = map.pieces(Logical((1 << 30) + offset), bytes, copy).unwrap();
        pieces.into_iter().map(|p| (p.member, p.physical, p.in_buf.len())).collect()
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
            assert!(matches!(map.pieces(Logical(1 << 30), 1, copies), Err(Error::NoCopy { .. })));
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
        assert_eq!(map.all_pieces(Logical(1 << 30), 4096).unwrap().len(), 2);
    }

    #[test]
    fn raid5_is_refused_by_name() {
        let chunk = mapped(BlockGroupFlags::empty(), 1, KIB64).chunk;
        let mut chunk = Chunk { stripes: vec![chunk.stripes[0]; 3], ..chunk };
        chunk.header.chunk_type = (BlockGroupFlags::DATA | BlockGroupFlags::RAID5).bits().into();
        let error = Mapped::new(Logical(0), chunk, vec![0; 3]).unwrap_err();
        assert!(error.to_string().contains("RAID5/6"), "{error}");
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
        assert_eq!(map.all_pieces(Logical((1 << 30) + 12 * KIB64 - 10), 30).unwrap().len(), 3);
        for (logical, bytes) in [(u64::MAX, 10), (0, 1), ((1 << 30) + 13 * KIB64 - 1, 2)] {
            assert!(map.pieces(Logical(logical), bytes, 0).is_err());
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

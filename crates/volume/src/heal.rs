//! Self-healing: data that is checked sector by sector, and good bytes written over bad ones.
//!
//! # Invariants
//! * A repair writes only bytes that passed the check that the bad copy failed, only in
//!   [`crate::OpenMode::ReadWrite`], and only while the superblock is still the one we know.
//! * With parity only the bad sector itself is written, never parity: the verified bytes are those that the
//!   parity was made of.
//! * A failed repair never fails the read.
//!
//! # Locking
//! As [`crate::read`].

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use butterfs_format::items::STRIPE_LEN;
use butterfs_format::{Corruption, Logical};

use crate::error::{Error, Result};
use crate::map::{Place, Read, Source, touches_superblock};
use crate::read::only_failures;
use crate::stats::Fault;
use crate::volume::Volume;

/// Tells whether a sector is right, by its number in the request and its bytes.
type Good<'a> = &'a dyn Fn(usize, &[u8]) -> bool;

/// What is wrong with a sector by one way.
#[derive(Clone)]
enum Problem {
    /// It could not be read; shared by all sectors of the request that failed.
    Unread(Arc<Error>),
    /// It could be read, and its checksum does not match.
    Mismatch,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unread(error) => error.fmt(f),
            Self::Mismatch => f.write_str("checksum does not match"),
        }
    }
}

impl Problem {
    fn failure(&self) -> Option<Error> {
        match self {
            Self::Unread(error) => error.failure(),
            Self::Mismatch => None,
        }
    }
}

/// A sector whose first way is no good.
struct BadSector {
    /// Its number in the request.
    index: usize,
    /// What is wrong with it by each way that was tried, in that order.
    problems: Vec<Problem>,
    /// How many ways were tried before the one that gave good bytes.
    healed_by: Option<usize>,
}

/// Who reads: of copies on several devices each reader has another one to begin with, so that many readers keep all
/// devices busy. By the number of a thread, as in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Reader(pub u32);

impl Volume {
    /// Reads sectors and checks each with `good` (the sector's number within `buf`, its bytes).
    /// What fails is read by other ways, and bad copies are repaired.
    ///
    /// # Errors
    /// If a sector cannot be had: [`Error::Corruption`] with its logical address and, for each way,
    /// device, physical offset and problem; [`Error::Device`] if it could not be read by any way: it is the
    /// device that failed, and what is on it may well be good. Those that can be had are in `buf` all the same.
    pub fn read_verified(&self, logical: Logical, buf: &mut [u8], good: Good<'_>) -> Result<()> {
        self.read_verified_for(Reader::default(), logical, buf, good)
    }

    /// As [`Volume::read_verified`], for this reader.
    ///
    /// # Errors
    /// As [`Volume::read_verified`].
    pub fn read_verified_for(&self, reader: Reader, logical: Logical, buf: &mut [u8], good: Good<'_>) -> Result<()> {
        let sector = self.geometry.sectorsize as usize;
        let first_way = self.first_way(reader, logical);
        let bad = self.read_first(first_way, logical, buf, good)?;
        if bad.is_empty() {
            return Ok(());
        }
        let others = (0..self.copies(logical)?).filter(|way| *way != first_way);
        let ways: Vec<usize> = std::iter::once(first_way).chain(others).collect();
        let mut result = Ok(());
        for run in self.runs(logical, bad) {
            let first = run.first().map_or(0, |bad| bad.index * sector);
            let last = buf.len().min(first + run.len() * sector);
            let healed = self.heal(Logical(logical.0 + first as u64), &mut buf[first..last], run, &ways, good);
            result = result.and(healed);
        }
        result
    }

    /// The way that a reader tries first: one of the copies, if they lie on several devices that have all that was written.
    fn first_way(&self, reader: Reader, logical: Logical) -> usize {
        if let Some(way) = self.unavoided_way(logical) {
            return way;
        }
        let copies = self.stored_copies(logical).unwrap_or(1);
        let way = reader.0 as usize % copies;
        if way == 0 {
            return 0;
        }
        let read = |way| self.map().reads(logical, 1, way).ok().and_then(|reads| reads.into_iter().next());
        let (Some(first), Some(own)) = (read(0), read(way)) else { return 0 };
        let member = |read: &Read| read.places().next().map(|place| place.member);
        if member(&first) != member(&own) && self.is_up_to_date(&own) { way } else { 0 }
    }

    /// Reads everything by one way; gives the sectors that are not good.
    fn read_first(&self, way: usize, logical: Logical, buf: &mut [u8], good: Good<'_>) -> Result<Vec<BadSector>> {
        let sector = self.geometry.sectorsize as usize;
        let reads = self.map().reads(logical, buf.len(), way)?;
        let mut failures: Vec<(Range<usize>, Problem)> = Vec::new();
        for read in reads {
            if let Err(error) = self.try_read(&read, &mut buf[read.in_buf.clone()]) {
                failures.push((read.in_buf, Problem::Unread(Arc::new(error))));
            }
        }
        let mut bad = Vec::new();
        for (index, bytes) in buf.chunks(sector).enumerate() {
            let (from, to) = (index * sector, index * sector + bytes.len());
            let unread = failures.iter().find(|(range, _)| range.start < to && from < range.end);
            let problem = match unread {
                Some((_, problem)) => problem.clone(),
                None if good(index, bytes) => continue,
                None => {
                    self.blame(Logical(logical.0 + from as u64), bytes.len(), way, Fault::Corruption);
                    Problem::Mismatch
                }
            };
            bad.push(BadSector { index, problems: vec![problem], healed_by: None });
        }
        Ok(bad)
    }

    /// Bad sectors that follow each other within one stripe, and so have the same ways.
    fn runs(&self, logical: Logical, bad: Vec<BadSector>) -> Vec<Vec<BadSector>> {
        let sector = u64::from(self.geometry.sectorsize);
        let stripe = |index: usize| {
            let at = logical.0 + index as u64 * sector;
            self.map().find(Logical(at)).map(|mapped| (mapped.start, (at - mapped.start.0) / STRIPE_LEN))
        };
        let mut runs: Vec<Vec<BadSector>> = Vec::new();
        for bad in bad {
            match runs.last_mut() {
                Some(run) if follows(run, bad.index) && stripe(run[0].index) == stripe(bad.index) => run.push(bad),
                _ => runs.push(vec![bad]),
            }
        }
        runs
    }

    /// Reads a run of bad sectors by the other ways, and repairs the copies that are bad.
    fn heal(
        &self,
        start: Logical,
        target: &mut [u8],
        mut run: Vec<BadSector>,
        ways: &[usize],
        good: Good<'_>,
    ) -> Result<()> {
        let mut bytes = vec![0; target.len()];
        for (tried, way) in ways.iter().copied().enumerate().skip(1) {
            if run.iter().all(|bad| bad.healed_by.is_some()) {
                break;
            }
            let failed = self.read_copy(start, &mut bytes, way).err().map(|error| Problem::Unread(Arc::new(error)));
            self.take_good(start, target, &mut run, Attempt { way, tried, bytes: &bytes, failed }, good);
        }
        self.repair_run(start, target, &run, ways);
        let sector = u64::from(self.geometry.sectorsize);
        let lost = run.into_iter().zip(0u64..).find(|(bad, _)| bad.healed_by.is_none());
        let Some((bad, number)) = lost else { return Ok(()) };
        let at = Logical(start.0 + number * sector);
        if let Some(failure) = only_failures(bad.problems.iter().map(Problem::failure)) {
            return Err(failure);
        }
        let mut problems = vec![String::new(); ways.len()];
        ways.iter().zip(&bad.problems).for_each(|(way, problem)| problems[*way] = problem.to_string());
        Err(Corruption::new(format!("data at logical {at}"), self.name_ways(at, problems)).into())
    }

    /// Takes the good sectors of what a way gave.
    fn take_good(
        &self,
        start: Logical,
        target: &mut [u8],
        run: &mut [BadSector],
        attempt: Attempt<'_>,
        good: Good<'_>,
    ) {
        let sector = self.geometry.sectorsize as usize;
        let parts = attempt.bytes.chunks(sector).zip(target.chunks_mut(sector)).enumerate();
        for (bad, (number, (from, to))) in run.iter_mut().zip(parts).filter(|(bad, _)| bad.healed_by.is_none()) {
            match &attempt.failed {
                None if good(bad.index, from) => {
                    to.copy_from_slice(from);
                    bad.healed_by = Some(attempt.tried);
                }
                None => {
                    let at = Logical(start.0 + (number * sector) as u64);
                    self.blame(at, from.len(), attempt.way, Fault::Corruption);
                    bad.problems.push(Problem::Mismatch);
                }
                Some(problem) => bad.problems.push(problem.clone()),
            }
        }
    }

    /// Repairs what a run has of sectors that were healed by the same way, together.
    fn repair_run(&self, start: Logical, bytes: &[u8], run: &[BadSector], ways: &[usize]) {
        let sector = self.geometry.sectorsize as usize;
        let mut from = 0;
        for same in run.chunk_by(|a, b| a.healed_by == b.healed_by) {
            let part = from * sector..bytes.len().min((from + same.len()) * sector);
            from += same.len();
            if let Some(tried) = same[0].healed_by {
                self.repair_ways(Logical(start.0 + part.start as u64), &bytes[part], &ways[..tried]);
            }
        }
    }

    /// Writes good bytes over the copies before `way`, which are bad, if the volume may be written.
    pub(crate) fn repair(&self, logical: Logical, bytes: &[u8], way: usize) {
        let before: Vec<usize> = (0..way).collect();
        self.repair_ways(logical, bytes, &before);
    }

    fn repair_ways(&self, logical: Logical, bytes: &[u8], bad: &[usize]) {
        if bad.is_empty() || !self.repairs.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.check_unchanged() {
            tracing::warn!(%logical, %error, "bad copy not repaired");
            return;
        }
        for way in bad {
            // What cannot be mapped was not read before.
            let Ok(reads) = self.map().reads(logical, bytes.len(), *way) else { return };
            for read in reads {
                if let Source::Stored(place) = read.source {
                    self.repair_place(logical, place, &bytes[read.in_buf]);
                }
            }
        }
    }

    fn repair_place(&self, logical: Logical, place: Place, bytes: &[u8]) {
        let member = &self.members[place.member];
        if !member.is_written() || member.is_catching_up() {
            return;
        }
        let name = self.name_place(place);
        if touches_superblock(place.physical, bytes.len() as u64) {
            tracing::warn!(%logical, place = name, "bad copy not repaired: a superblock is there");
            return;
        }
        match member.write_at(place.physical, bytes) {
            Ok(()) => tracing::warn!(%logical, place = name, "bad copy repaired"),
            Err(error) => tracing::warn!(%logical, place = name, %error, "bad copy could not be repaired"),
        }
    }
}

/// What a way gave.
struct Attempt<'a> {
    way: usize,
    /// How many were tried before.
    tried: usize,
    bytes: &'a [u8],
    failed: Option<Problem>,
}

fn follows(run: &[BadSector], index: usize) -> bool {
    run.last().is_some_and(|last| last.index + 1 == index)
}

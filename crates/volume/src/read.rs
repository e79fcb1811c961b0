//! Reads: tree blocks, any copy, one copy. For data with checksums see [`crate::heal`].
//!
//! A *way* to bytes is a copy, or with RAID5 and RAID6 a sum of other stripes; ways are tried in turn.
//!
//! # Invariants
//! * No byte is given out that did not pass the check that was asked for.
//! * What is wrong with a copy is counted for its device; a way that rebuilds blames none.
//!
//! # Locking
//! No lock is held during I/O. The caller must make sure that what it reads is not written at the
//! same time (tree blocks and checksummed data never are: they are copied on write).

use std::sync::atomic::Ordering;

use butterfs_format::validate::{Checksum, Expected, check_block};
use butterfs_format::{Logical, TreeBlock};

use crate::device::catching_up;
use crate::error::{Error, Result};
use crate::map::{Place, Read, Source};
use crate::member::{Member, Role};
use crate::parity::add_scaled;
use crate::stats::Fault;
use crate::volume::Volume;

impl Volume {
    /// Reads and checks a tree block. All ways are tried in turn; bad copies are repaired.
    ///
    /// # Errors
    /// [`Error::NoCopy`] with what is wrong with each copy; [`Error::Device`] if none could be read at all.
    pub fn read_block(&self, expected: &Expected) -> Result<TreeBlock> {
        let mut problems = Vec::new();
        for way in self.ways(expected.bytenr)? {
            match self.read_block_copy(expected, way) {
                Ok(block) => {
                    self.repair(expected.bytenr, block.bytes(), way);
                    return Ok(block);
                }
                Err(error) => problems.push(error),
            }
        }
        if let Some(failure) = only_failures(problems.iter().map(Error::failure)) {
            return Err(failure);
        }
        if self.block_checksums == Checksum::Skip
            && let Some(block) = self.read_block_unsummed(expected)
        {
            tracing::warn!(logical = %expected.bytenr, "using a tree block in spite of its checksum");
            return Ok(block);
        }
        let problems = problems.iter().map(ToString::to_string).collect();
        Err(Error::NoCopy { logical: expected.bytenr, problems: self.name_ways(expected.bytenr, problems) })
    }

    /// A tree block of which only the checksum is wrong.
    fn read_block_unsummed(&self, expected: &Expected) -> Option<TreeBlock> {
        let ways = self.copies(expected.bytenr).ok()?;
        (0..ways).find_map(|way| {
            let block = self.read_raw_block(expected.bytenr, way).ok()?;
            check_block(&block, self.geometry_ref(), expected, Checksum::Skip).is_ok().then_some(block)
        })
    }

    /// Reads and checks a tree block by one way; nothing is repaired.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read_block_copy(&self, expected: &Expected, way: usize) -> Result<TreeBlock> {
        let block = self.read_raw_block(expected.bytenr, way)?;
        check_block(&block, self.geometry_ref(), expected, Checksum::Verify).inspect_err(|_| {
            self.blame(expected.bytenr, block.bytes().len(), way, self.fault_of(&block, expected));
        })?;
        Ok(block)
    }

    fn read_raw_block(&self, at: Logical, way: usize) -> Result<TreeBlock> {
        let mut bytes = vec![0; self.geometry_ref().nodesize as usize];
        self.read_copy(at, &mut bytes, way)?;
        Ok(TreeBlock::from_bytes(bytes))
    }

    /// A whole block of another generation is a write that was lost; all else is corruption.
    fn fault_of(&self, block: &TreeBlock, expected: &Expected) -> Fault {
        let whole = self.geometry_ref().csum_type.matches_block(block.bytes()) && block.bytenr() == expected.bytenr;
        let stale = expected.generation.is_some_and(|generation| generation != block.generation());
        if whole && stale { Fault::Generation } else { Fault::Corruption }
    }

    /// Counts a fault for the devices that hold what a way reads; of what was rebuilt nobody knows.
    pub(crate) fn blame(&self, logical: Logical, bytes: usize, way: usize, fault: Fault) {
        let Ok(reads) = self.map().reads(logical, bytes, way) else { return };
        for read in reads {
            if let Source::Stored(place) = read.source {
                self.members[place.member].counters.note(fault);
            }
        }
    }

    /// Reads by any way, unverified; a device that fails is made up for by others, and one that missed
    /// commits is the last to be asked.
    ///
    /// # Errors
    /// If part of the range is in no chunk, or cannot be read.
    pub fn read(&self, logical: Logical, buf: &mut [u8]) -> Result<()> {
        let reads = self.map().reads(logical, buf.len(), 0)?;
        for read in reads {
            let part = &mut buf[read.in_buf.clone()];
            if self.is_up_to_date(&read) && self.try_read(&read, part).is_ok() {
                continue;
            }
            self.read_elsewhere(Logical(logical.0 + read.in_buf.start as u64), part)?;
        }
        Ok(())
    }

    /// The ways to an address, in the order in which they are to be tried: those that lead to a device that is to be spared
    /// come last.
    ///
    /// # Errors
    /// If the address is in no chunk.
    pub fn ways(&self, logical: Logical) -> Result<Vec<usize>> {
        let mut ways: Vec<usize> = (0..self.copies(logical)?).collect();
        if let Some(best) = self.unavoided_way(logical) {
            ways.sort_by_key(|way| (*way != best, *way));
        }
        Ok(ways)
    }

    /// While a device is to be spared: the first way that does without it.
    pub(crate) fn unavoided_way(&self, logical: Logical) -> Option<usize> {
        if !self.members.present().any(|member| member.avoided.load(Ordering::Relaxed)) {
            return None;
        }
        let map = self.map();
        let does_without = |way: &usize| {
            let reads = map.reads(logical, 1, *way);
            reads.is_ok_and(|reads| reads.iter().all(|read| self.is_up_to_date(read)))
        };
        (0..self.copies(logical).ok()?).find(does_without)
    }

    pub(crate) fn is_up_to_date(&self, read: &Read) -> bool {
        let is_current = |member: &Member| {
            member.role() != Role::Behind && member.is_there() && !member.avoided.load(Ordering::Relaxed)
        };
        read.places().all(|place| is_current(&self.members[place.member]))
    }

    /// Reads by the best way there is. The range lies in one stripe.
    fn read_elsewhere(&self, logical: Logical, buf: &mut [u8]) -> Result<()> {
        let mut ways = Vec::new();
        for way in 0..self.copies(logical)? {
            let reads = self.map().reads(logical, buf.len(), way)?;
            ways.push((!reads.iter().all(|read| self.is_up_to_date(read)), way));
        }
        ways.sort_unstable();
        let mut problems = vec![String::new(); ways.len()];
        for (_, way) in ways {
            match self.read_copy(logical, buf, way) {
                Ok(()) => return Ok(()),
                Err(error) if problems.len() == 1 => return Err(error),
                Err(error) => problems[way] = error.to_string(),
            }
        }
        Err(Error::NoCopy { logical, problems: self.name_ways(logical, problems) })
    }

    /// Reads by one way, unverified.
    ///
    /// # Errors
    /// If part of the range is in no chunk or there is no such way, or it cannot be read.
    pub fn read_copy(&self, logical: Logical, buf: &mut [u8], way: usize) -> Result<()> {
        let reads = self.map().reads(logical, buf.len(), way)?;
        reads.iter().try_for_each(|read| self.try_read(read, &mut buf[read.in_buf.clone()]))
    }

    /// Tells the devices that a range will be read soon by one way. What is not mapped is left out.
    pub fn prefetch(&self, logical: Logical, bytes: usize, way: usize) {
        let reads = self.map().reads(logical, bytes, way).unwrap_or_default();
        for read in reads {
            let len = read.in_buf.len() as u64;
            read.places().for_each(|place| self.members[place.member].device.prefetch(place.physical, len));
        }
    }

    pub(crate) fn try_read(&self, read: &Read, buf: &mut [u8]) -> Result<()> {
        match &read.source {
            Source::Stored(place) => self.read_place(*place, buf),
            Source::Rebuilt(terms) => self.rebuild(terms, buf),
        }
    }

    fn read_place(&self, place: Place, buf: &mut [u8]) -> Result<()> {
        let member = &self.members[place.member];
        if member.is_catching_up() {
            return Err(member.error(catching_up()));
        }
        member.read_at(place.physical, buf)
    }

    fn rebuild(&self, terms: &[(Place, u8)], buf: &mut [u8]) -> Result<()> {
        // A device that is not there makes the way useless: no other need be asked.
        for (place, _) in terms {
            let member = &self.members[place.member];
            if !member.is_there() {
                return self.read_place(*place, buf);
            }
        }
        buf.fill(0);
        let mut part = vec![0; buf.len()];
        for (place, factor) in terms {
            self.read_place(*place, &mut part)?;
            add_scaled(buf, &part, *factor);
        }
        Ok(())
    }

    /// What is wrong with each way, in words.
    pub(crate) fn name_ways(&self, logical: Logical, problems: Vec<String>) -> String {
        let text = problems.into_iter().enumerate().map(|(way, problem)| {
            let place = self.name_way(logical, way);
            format!("{place}: {problem}")
        });
        text.collect::<Vec<_>>().join("; ")
    }

    /// Where a way leads, for messages.
    fn name_way(&self, logical: Logical, way: usize) -> String {
        let read = self.map().reads(logical, 1, way).ok().and_then(|reads| reads.into_iter().next());
        match read.map(|read| read.source) {
            Some(Source::Stored(place)) => self.name_place(place),
            Some(Source::Rebuilt(terms)) => {
                let devices = terms.iter().map(|(place, _)| self.members[place.member].devid().to_string());
                format!("rebuilt from devices {}", devices.collect::<Vec<_>>().join(", "))
            }
            None => format!("copy {way}"),
        }
    }

    pub(crate) fn name_place(&self, place: Place) -> String {
        let member = &self.members[place.member];
        format!("device {} ({}) offset {}", member.devid(), member.device.name(), place.physical)
    }
}

/// The failure of a device, if that is all that was met, and of one device alone: then nothing is known of what it
/// holds.
pub(crate) fn only_failures(failures: impl Iterator<Item = Option<Error>>) -> Option<Error> {
    let mut all = failures.collect::<Option<Vec<_>>>()?;
    let last = all.pop()?;
    all.iter().all(|other| other.is_of_device_of(&last)).then_some(last)
}

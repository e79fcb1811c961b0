//! Space that nobody needs, told to the devices.
//!
//! # Invariants
//! * Only free space is discarded. Space that was freed in generation G is free once G's superblock is durable: so
//!   nothing that a superblock or its log leads to after a crash is lost. (What only older, backup roots lead to may
//!   be, as it may be overwritten; so in the kernel.)
//! * A range is taken out of the free space while it is discarded, and given back afterwards; where so much cannot be
//!   spared, it is discarded with the trees held alone.
//! * Where there is parity no device is told of anything: parity covers what was never written, and what was discarded may
//!   read as one thing now and as another after a power cut.
//! * What lies where block groups are moved from is discarded only when the group is gone: it may still be read.

use std::ops::Range;

use butterfs_format::items::BlockGroupFlags;
use butterfs_format::{DevId, Logical};
use butterfs_volume::Volume;

use super::{Gate, Transaction};
use crate::error::{Error, Result};
use crate::space::{DiscardRule, FreeRanges, GroupState, SpaceRules};

/// A device is told of so many bytes at a time at most.
const PIECE: u64 = 64 << 20;
/// So many ranges are remembered; with more, the shortest are left to a trim.
const REMEMBERED: usize = 1 << 16;

/// What is to be discarded later.
#[derive(Default)]
pub(super) struct Discards {
    /// Freed space, by logical address.
    space: FreeRanges,
    /// Space that removed chunks had, by device.
    devices: Vec<FreeRanges>,
}

/// Free space to be discarded.
pub(super) enum Piece {
    /// It was taken out of the free space, and has to be given back.
    Taken(Logical, u64),
    /// It was done.
    Done(u64),
}

/// What a trim is to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trim {
    /// Logical addresses. Space that is in no chunk is trimmed whatever they are, as in the kernel.
    pub range: Range<u64>,
    /// Shorter free ranges are left out, in bytes.
    pub minimum: u64,
}

fn note(ranges: &mut FreeRanges, at: u64, len: u64) {
    ranges.remove(at, len);
    ranges.add(at, len);
    while ranges.count() > REMEMBERED {
        ranges.forget_shortest();
    }
}

/// What was freed in a generation and may be discarded in its commit.
pub(super) fn discard_all(volume: &Volume, freed: &[(Logical, u64)]) {
    let mut ranges = FreeRanges::default();
    freed.iter().for_each(|(at, len)| ranges.add(at.0, *len));
    for (at, len) in ranges.iter() {
        log_failure(volume.discard(Logical(at), len));
    }
}

fn log_failure(result: std::result::Result<(), butterfs_volume::Error>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a discard failed");
    }
}

fn is_unsupported(error: &butterfs_volume::Error) -> bool {
    matches!(error, butterfs_volume::Error::Device { source, .. } if source.kind() == std::io::ErrorKind::Unsupported)
}

impl Discards {
    /// A device is gone; those behind it move up.
    pub(super) fn forget_device(&mut self, index: usize) {
        if index < self.devices.len() {
            self.devices.remove(index);
        }
    }
}

impl Transaction {
    /// Other rules. What was noted to be discarded later is forgotten where nothing is any more.
    pub(super) fn set_rules(&mut self, rules: SpaceRules) {
        self.rules = rules;
        if rules.discard == DiscardRule::Never {
            self.discards = Discards::default();
        }
    }

    /// What of the space freed in this generation its commit discards.
    pub(super) fn freed_to_discard(&self) -> Vec<(Logical, u64)> {
        if self.rules.discard != DiscardRule::Sync {
            return Vec::new();
        }
        self.pinned.iter().filter(|(at, _)| self.is_open(*at)).copied().collect()
    }

    /// Freed space is free now.
    pub(super) fn note_free(&mut self, at: Logical, len: u64) {
        if self.rules.discard == DiscardRule::Async && self.is_open(at) {
            note(&mut self.discards.space, at.0, len);
        }
    }

    /// A chunk gave this space of a device back.
    pub(super) fn note_unallocated(&mut self, device: usize, at: u64, len: u64) {
        if self.rules.discard != DiscardRule::Never && !self.has_rows() {
            let devices = self.devices.len();
            self.discards.devices.resize_with(devices, FreeRanges::default);
            note(&mut self.discards.devices[device], at, len);
        }
    }

    /// There is no such group any more.
    pub(super) fn forget_discards(&mut self, start: u64, len: u64) {
        self.discards.space.remove(start, len);
    }

    /// Takes some of what was freed to be discarded; `None` if there is nothing left.
    fn next_discard(&mut self) -> Result<Option<Piece>> {
        while let Some((at, len)) = self.discards.space.first() {
            let len = len.min(PIECE);
            self.discards.space.remove(at, len);
            let group = self.space.containing(at).filter(|group| group.state == GroupState::Open);
            let free = group.and_then(|group| group.free.as_ref()?.discardable()?.first_within(at..at + len));
            if let Some((start, part)) = free {
                // Some of it may be in use again.
                if start + part < at + len {
                    self.discards.space.add(start + part, at + len - (start + part));
                }
                return self.piece(start, part).map(Some);
            }
        }
        let of_device = |(index, ranges): (usize, &FreeRanges)| ranges.first().map(|(at, len)| (index, at, len));
        let Some((index, at, len)) = self.discards.devices.iter().enumerate().find_map(of_device) else {
            return Ok(None);
        };
        let len = len.min(PIECE);
        self.discards.devices[index].remove(at, len);
        let free = self.holes(index)?.first_within(at..at + len);
        let Some((start, part)) = free else { return Ok(Some(Piece::Done(0))) };
        if start + part < at + len {
            self.discards.devices[index].add(start + part, at + len - (start + part));
        }
        log_failure(self.discard_unallocated(index, start..start + part));
        Ok(Some(Piece::Done(part)))
    }

    fn discard_unallocated(&self, index: usize, range: Range<u64>) -> std::result::Result<(), butterfs_volume::Error> {
        let devid: DevId = self.devices[index].devid.get().into();
        if self.volume.is_written(devid) { self.volume.discard_physical(devid, range) } else { Ok(()) }
    }

    /// Takes a free range out, or discards it at once if it cannot be spared.
    fn piece(&mut self, start: u64, len: u64) -> Result<Piece> {
        let kind = self.space.containing(start).map_or(BlockGroupFlags::DATA, |group| group.flags.kind());
        let spare = self.space.totals(kind).available.saturating_sub(self.kept(kind)) / 2;
        if kind != BlockGroupFlags::SYSTEM && len <= spare {
            self.space.change(start, |group| {
                if let Some(free) = &mut group.free {
                    free.claim(start, len);
                }
            });
            return Ok(Piece::Taken(Logical(start), len));
        }
        self.volume.discard(Logical(start), len)?;
        Ok(Piece::Done(len))
    }

    /// The next part of a trim in block groups from `at` on, and where to go on.
    fn next_to_trim(&mut self, at: u64, trim: &Trim) -> Result<Option<(Piece, u64)>> {
        let mut at = at;
        while let Some(group) = self.space.from(at).filter(|group| group.start < trim.range.end) {
            let (start, end, is_open) =
                (group.start, group.end(), group.state == GroupState::Open && group.columns.is_none());
            if is_open {
                self.load_free_ranges(start)?;
                let within = at.max(start)..end.min(trim.range.end);
                let group = self.space.get(start).and_then(|group| group.free.as_ref()?.discardable());
                let found = group.and_then(|free| free.first_of_at_least(within, trim.minimum));
                if let Some((start, len)) = found {
                    let len = len.min(PIECE);
                    return Ok(Some((self.piece(start, len)?, start + len)));
                }
            }
            at = end;
        }
        Ok(None)
    }

    /// The next part of a trim of space of a device in no chunk from `at` on, and where to go on; done at once.
    fn trim_unallocated(&mut self, index: usize, at: u64, trim: &Trim) -> Result<Option<(u64, u64)>> {
        if self.has_rows() {
            return Ok(None);
        }
        let found = self.holes(index)?.first_of_at_least(at..u64::MAX, trim.minimum);
        let Some((start, len)) = found else { return Ok(None) };
        let len = len.min(PIECE);
        self.discard_unallocated(index, start..start + len)?;
        Ok(Some((len, start + len)))
    }
}

impl Gate {
    /// Discards up to `most` ranges of what was freed; says how many there were.
    pub fn discard_some(&self, most: usize) -> Result<usize> {
        for done in 0..most {
            self.check_writable()?;
            let Some(piece) = self.trees_alone().next_discard()? else { return Ok(done) };
            log_failure(self.finish_discard(piece).map(drop));
        }
        Ok(most)
    }

    /// Discards free space; gives how many bytes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the device can do nothing with that.
    pub fn trim(&self, trim: &Trim) -> Result<u64> {
        self.check_writable()?;
        let told = |error: Error| match error {
            Error::Volume(error) if is_unsupported(&error) => Error::Unsupported("discarding on this device".into()),
            other => other,
        };
        let (mut done, mut at) = (0, trim.range.start);
        loop {
            let step = self.trees_alone().next_to_trim(at, trim).map_err(told)?;
            let Some((piece, next)) = step else { break };
            done += self.finish_discard(piece).map_err(|error| told(error.into()))?;
            at = next;
        }
        let devices = self.trees_alone().devices.len();
        for index in 0..devices {
            at = 0;
            loop {
                let step = self.trees_alone().trim_unallocated(index, at, trim).map_err(told)?;
                let Some((len, next)) = step else { break };
                (done, at) = (done + len, next);
            }
        }
        Ok(done)
    }

    fn finish_discard(&self, piece: Piece) -> std::result::Result<u64, butterfs_volume::Error> {
        match piece {
            Piece::Done(len) => Ok(len),
            Piece::Taken(at, len) => {
                let result = self.volume().discard(at, len);
                self.trees_alone().release_space(at, len);
                result.map(|()| len)
            }
        }
    }
}

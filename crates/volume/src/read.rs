//! Reads: any copy, one copy, or the first good copy, with repair of the bad ones.
//!
//! # Invariants
//! * A repair writes only bytes that passed the check that the bad copy failed, only in
//!   [`crate::OpenMode::ReadWrite`], and only while the superblock is still the one we know.
//! * A failed repair never fails the read.
//!
//! # Locking
//! No lock is held during I/O. The caller must make sure that what it reads is not written at the
//! same time (tree blocks and checksummed data never are: they are copied on write).

use std::sync::atomic::Ordering;

use butterfs_format::validate::{Checksum, Expected, check_block};
use butterfs_format::{Corruption, Logical, TreeBlock};

use crate::error::{Error, Result};
use crate::map::{Piece, touches_superblock};
use crate::volume::Volume;

/// Why a copy of a sector is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
enum BadCopy {
    /// The device failed.
    Unread(String),
    /// The checksum does not match.
    Wrong,
}

impl Volume {
    /// Reads and checks a tree block. Copies are tried in turn; bad ones are repaired.
    ///
    /// # Errors
    /// [`Error::NoCopy`] with what is wrong with each copy; [`Error::Device`] if none could be read at all.
    pub fn read_block(&self, expected: &Expected) -> Result<TreeBlock> {
        let mut problems = Vec::new();
        for copy in 0..self.copies(expected.bytenr)? {
            match self.read_block_copy(expected, copy) {
                Ok(block) => {
                    let bad = problems.iter().map(|(copy, _)| *copy).collect::<Vec<_>>();
                    self.repair(expected.bytenr, block.bytes(), &bad);
                    return Ok(block);
                }
                Err(error) => problems.push((copy, error)),
            }
        }
        if problems.iter().all(|(_, error)| matches!(error, Error::Device { .. }))
            && let Some((_, error)) = problems.pop()
        {
            return Err(error);
        }
        let problems = problems.into_iter().map(|(copy, problem)| {
            let place = self.place(expected.bytenr, copy);
            format!("{place}: {problem}")
        });
        Err(Error::NoCopy { logical: expected.bytenr, problems: problems.collect::<Vec<_>>().join("; ") })
    }

    /// Reads and checks one copy of a tree block; nothing is repaired.
    ///
    /// # Errors
    /// What is wrong with this copy.
    pub fn read_block_copy(&self, expected: &Expected, copy: usize) -> Result<TreeBlock> {
        let mut bytes = vec![0; self.geometry.nodesize as usize];
        self.read_copy(expected.bytenr, &mut bytes, copy)?;
        let block = TreeBlock::from_bytes(bytes);
        check_block(&block, &self.geometry, expected, Checksum::Verify)?;
        Ok(block)
    }

    /// Reads from any copy, unverified; a device that fails is made up for by another.
    ///
    /// # Errors
    /// If part of the range is in no chunk, or no copy of it can be read.
    pub fn read(&self, logical: Logical, buf: &mut [u8]) -> Result<()> {
        let pieces = self.map().pieces(logical, buf.len(), 0)?;
        for piece in pieces {
            let part = &mut buf[piece.in_buf.clone()];
            if let Err(error) = self.read_piece(&piece, part) {
                self.read_elsewhere(Logical(logical.0 + piece.in_buf.start as u64), part, error)?;
            }
        }
        Ok(())
    }

    /// Reads from the first copy after copy 0 that can be read; `error` is what copy 0 said. The
    /// range lies in one stripe.
    fn read_elsewhere(&self, logical: Logical, buf: &mut [u8], error: Error) -> Result<()> {
        tracing::warn!(%error, %logical, "read failed; trying other copies");
        for copy in 1..self.copies(logical)? {
            if self.read_copy(logical, buf, copy).is_ok() {
                return Ok(());
            }
        }
        Err(error)
    }

    /// Reads from one copy, unverified.
    ///
    /// # Errors
    /// If part of the range is in no chunk or has no such copy, or cannot be read.
    pub fn read_copy(&self, logical: Logical, buf: &mut [u8], copy: usize) -> Result<()> {
        let pieces = self.map().pieces(logical, buf.len(), copy)?;
        pieces.iter().try_for_each(|piece| self.read_piece(piece, &mut buf[piece.in_buf.clone()]))
    }

    fn read_piece(&self, piece: &Piece, buf: &mut [u8]) -> Result<()> {
        let member = &self.members[piece.member];
        member.device.read_at(piece.physical, buf).map_err(|source| member.error(source))
    }

    /// Reads sectors and checks each with `good` (the sector's number within `buf`, its bytes).
    /// What fails is read from other copies and repaired.
    ///
    /// # Errors
    /// If a sector has no good copy: [`Error::Corruption`] with its logical address and, for each
    /// copy, device, physical offset and problem. [`Error::Device`] if no copy of it could be read: it
    /// is the device that failed, and what is on it may well be good.
    pub fn read_verified(
        &self,
        logical: Logical,
        buf: &mut [u8],
        good: &dyn Fn(usize, &[u8]) -> bool,
    ) -> std::result::Result<(), Error> {
        let sector = self.geometry.sectorsize as usize;
        let pieces = self.map().pieces(logical, buf.len(), 0)?;
        let mut failures = Vec::new();
        for piece in pieces {
            if let Err(error) = self.read_piece(&piece, &mut buf[piece.in_buf.clone()]) {
                failures.push((piece.in_buf, error));
            }
        }
        for (index, bytes) in buf.chunks_mut(sector).enumerate() {
            let (from, to) = (index * sector, index * sector + bytes.len());
            let unread = failures.iter().position(|(range, _)| range.start < to && from < range.end);
            if unread.is_none() && good(index, bytes) {
                continue;
            }
            let at = Logical(logical.0 + from as u64);
            let first = unread.map_or(BadCopy::Wrong, |unread| BadCopy::Unread(failures[unread].1.to_string()));
            if let Err(problems) = self.heal_sector(at, bytes, first, &|bytes| good(index, bytes))? {
                return Err(match unread {
                    Some(unread) if !problems.contains(&BadCopy::Wrong) => failures.swap_remove(unread).1,
                    _ => self.no_good_sector(at, &problems),
                });
            }
        }
        Ok(())
    }

    /// Reads a sector whose copy 0 is bad from another copy, and repairs what is bad. `first` is what is
    /// wrong with copy 0. Gives what is wrong with each copy, if none is good.
    fn heal_sector(
        &self,
        logical: Logical,
        sector: &mut [u8],
        first: BadCopy,
        good: &dyn Fn(&[u8]) -> bool,
    ) -> Result<std::result::Result<(), Vec<BadCopy>>> {
        let mut problems = vec![first];
        for copy in 1..self.copies(logical)? {
            match self.read_copy(logical, sector, copy) {
                Ok(()) if good(sector) => {
                    self.repair(logical, sector, &(0..copy).collect::<Vec<_>>());
                    return Ok(Ok(()));
                }
                Ok(()) => problems.push(BadCopy::Wrong),
                Err(error) => problems.push(BadCopy::Unread(error.to_string())),
            }
        }
        Ok(Err(problems))
    }

    fn no_good_sector(&self, logical: Logical, problems: &[BadCopy]) -> Error {
        let text = problems.iter().enumerate().map(|(copy, problem)| {
            let place = self.place(logical, copy);
            match problem {
                BadCopy::Unread(error) => format!("{place}: {error}"),
                BadCopy::Wrong => format!("{place}: checksum does not match"),
            }
        });
        let text = text.collect::<Vec<_>>().join("; ");
        Corruption::new(format!("data at logical {logical}"), text).into()
    }

    /// Where a copy lies, for messages.
    fn place(&self, logical: Logical, copy: usize) -> String {
        let piece = self.map().pieces(logical, 1, copy).ok().and_then(|pieces| pieces.into_iter().next());
        piece.map_or_else(|| format!("copy {copy}"), |piece| self.name_piece(&piece))
    }

    fn name_piece(&self, piece: &Piece) -> String {
        let member = &self.members[piece.member];
        format!("device {} ({}) offset {}", member.devid, member.device.name(), piece.physical)
    }

    /// Writes good bytes over bad copies, if the volume may be written.
    fn repair(&self, logical: Logical, bytes: &[u8], bad: &[usize]) {
        if bad.is_empty() || !self.repairs.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.check_unchanged() {
            tracing::warn!(%logical, %error, "bad copy not repaired");
            return;
        }
        for copy in bad {
            match self.repair_copy(logical, bytes, *copy) {
                Ok(()) => tracing::warn!(%logical, place = self.place(logical, *copy), "bad copy repaired"),
                Err(error) => tracing::warn!(%logical, %error, "bad copy could not be repaired"),
            }
        }
    }

    fn repair_copy(&self, logical: Logical, bytes: &[u8], copy: usize) -> Result<()> {
        let pieces = self.map().pieces(logical, bytes.len(), copy)?;
        for piece in pieces {
            let part = &bytes[piece.in_buf.clone()];
            if touches_superblock(piece.physical, part.len() as u64) {
                return Err(Error::NotWritable(format!("{} holds a superblock", self.name_piece(&piece))));
            }
            let member = &self.members[piece.member];
            member.device.write_at(piece.physical, part).map_err(|source| member.error(source))?;
        }
        Ok(())
    }
}

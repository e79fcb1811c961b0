//! What a device that is filled gets where it holds nothing, in rows with parity: bytes that fit the parity.
//!
//! Nobody cares what free space holds, but for those who share its parity: their sectors are rebuilt from it. Where the device
//! that is replaced has other bytes there than the parity was made of, its heir must not get them.
//!
//! # Invariants
//! * Bytes are chosen only where no file has written, and where neither the last commit nor a log leads.
//! * What fits one of the parities stays. Otherwise the first parity says what is there.
//! * A parity that does not fit then is written only where all that shares it was verified, as by a scrub. With one
//!   parity there is none.
//!
//! # Locking
//! The trees are held shared, and the row.

use std::ops::Range;

use butterfs_format::Logical;
use butterfs_format::items::STRIPE_LEN;
use butterfs_volume::{ParityPlace, Volume};

use super::Run;
use super::gather::{Piece, What};
use super::mend::mend;
use super::mirrors::is_written;
use crate::error::Result;
use crate::subvolume::list;
use crate::tx::Transaction;

/// A column of a row.
pub(super) struct Column<'a> {
    pub run: &'a Run<'a>,
    pub tx: &'a Transaction,
    /// The first byte of the row's data.
    pub row: Logical,
    /// Data stripes of the row.
    pub columns: u64,
    /// Which of them it is.
    pub number: u64,
    /// What is in use in the row.
    pub pieces: &'a [Piece],
}

/// A parity as the devices have it.
struct Stored {
    place: ParityPlace,
    bytes: Vec<u8>,
}

/// What is known of a sector.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sector {
    /// It was verified.
    Verified,
    /// Nothing tells whether it is right.
    Unsummed,
    /// No extent has it.
    Bare,
}

/// Changes what the column gets where it holds nothing, so that the lines fit their parity.
pub(super) fn fit(column: &Column<'_>, bytes: &mut [u8]) -> Result<()> {
    let lines = column.candidates(bytes.len());
    if lines.is_empty() {
        return Ok(());
    }
    let Some((mut all, bad)) = column.all_columns(bytes) else { return Ok(()) };
    let parities = column.parities();
    for line in lines.into_iter().filter(|line| !bad.contains(line)) {
        let range = column.range(line);
        if column.fit_line(line, &mut all, &parities)? {
            bytes[range.clone()].copy_from_slice(&all[column.number as usize][range]);
        }
    }
    Ok(())
}

impl Column<'_> {
    fn range(&self, line: usize) -> Range<usize> {
        let sector = self.run.sector as usize;
        line * sector..(line + 1) * sector
    }

    fn address(&self, column: u64, line: usize) -> u64 {
        self.row.0 + column * STRIPE_LEN + line as u64 * self.run.sector
    }

    fn sector(&self, column: u64, line: usize) -> Sector {
        let at = self.address(column, line);
        let piece = self.pieces.iter().find(|piece| (piece.at.0..piece.at.0 + piece.len).contains(&at));
        match piece.map(|piece| (&piece.what, (at - piece.at.0) / self.run.sector)) {
            None => Sector::Bare,
            Some((What::Data { sums }, index)) if sums[index as usize].is_none() => Sector::Unsummed,
            Some(_) => Sector::Verified,
        }
    }

    fn others(&self) -> impl Iterator<Item = u64> {
        let own = self.number;
        (0..self.columns).filter(move |column| *column != own)
    }

    /// The lines in which the column may hold nothing, and others do. (What has no checksums only beside what has: else files
    /// without checksums would make all of their rows be read.)
    fn candidates(&self, len: usize) -> Vec<usize> {
        let is_candidate = |line: &usize| {
            let mut others = self.others().map(|column| self.sector(column, *line));
            match self.sector(self.number, *line) {
                Sector::Bare => others.any(|other| other != Sector::Bare),
                Sector::Unsummed => others.any(|other| other == Sector::Verified),
                Sector::Verified => false,
            }
        };
        (0..len / self.run.sector as usize).filter(is_candidate).collect()
    }

    /// Whether nobody cares what a sector holds.
    fn is_loose(&self, column: u64, line: usize) -> Result<bool> {
        let at = self.address(column, line);
        Ok(match self.sector(column, line) {
            Sector::Bare => self.tx.is_free(at..at + self.run.sector),
            // Space that was never written may hold anything.
            Sector::Unsummed => !is_written(self.tx, Logical(at), &list::trees(self.tx)?)?,
            Sector::Verified => false,
        })
    }

    /// Whether all that a line holds was verified.
    fn is_sure(&self, line: usize) -> Result<bool> {
        for column in 0..self.columns {
            if self.sector(column, line) != Sector::Verified && !self.is_loose(column, line)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The row's columns, with these bytes as its own; and the lines of which nobody has something right. `None` if one
    /// cannot be read.
    fn all_columns(&self, own: &[u8]) -> Option<(Vec<Vec<u8>>, Vec<usize>)> {
        let mut bad = Vec::new();
        let columns = (0..self.columns).map(|number| {
            let mut bytes = own.to_vec();
            if number != self.number {
                let at = Logical(self.address(number, 0));
                bytes = vec![0; STRIPE_LEN.min(self.run.volume.contiguous(at)) as usize];
                self.run.volume.read(at, &mut bytes).ok()?;
                for range in self.pieces.iter().flat_map(|piece| mend(self.run, piece, 0, at.0, &mut bytes)) {
                    bad.extend(range.step_by(self.run.sector as usize).map(|from| from / self.run.sector as usize));
                }
            }
            bytes.resize(STRIPE_LEN as usize, 0);
            Some(bytes)
        });
        let columns = columns.collect::<Option<Vec<_>>>()?;
        Some((columns, bad))
    }

    /// The parities that can be read.
    fn parities(&self) -> Vec<Stored> {
        let read = |place: ParityPlace| {
            let mut bytes = vec![0; STRIPE_LEN as usize];
            let volume = self.run.volume;
            let is_read =
                volume.is_readable(place.devid) && volume.read_device(place.devid, place.physical, &mut bytes).is_ok();
            is_read.then_some(Stored { place, bytes })
        };
        self.run.volume.parity_places(self.row).into_iter().filter_map(read).collect()
    }

    /// Says whether the column was changed.
    fn fit_line(&self, line: usize, all: &mut [Vec<u8>], parities: &[Stored]) -> Result<bool> {
        let (range, own) = (self.range(line), self.number as usize);
        let mut columns: Vec<Vec<u8>> = all.iter().map(|column| column[range.clone()].to_vec()).collect();
        let fits = |columns: &[Vec<u8>], stored: &Stored| {
            Volume::parity_of(stored.place.kind, columns) == stored.bytes[range.clone()]
        };
        let fitting = parities.iter().filter(|stored| fits(&columns, stored)).count();
        if fitting == parities.len() || !self.is_loose(self.number, line)? {
            return Ok(false);
        }
        if fitting == 0 {
            let Stored { place, bytes } = &parities[0];
            columns[own] = Volume::column_of(place.kind, &bytes[range.clone()], &columns, self.number);
            all[own][range.clone()].copy_from_slice(&columns[own]);
        }
        for stored in parities.iter().filter(|stored| !fits(&columns, stored)) {
            self.write_parity(line, stored, &columns)?;
        }
        Ok(fitting == 0)
    }

    fn write_parity(&self, line: usize, stored: &Stored, columns: &[Vec<u8>]) -> Result<()> {
        if !self.is_sure(line)? {
            return Ok(());
        }
        let ParityPlace { kind, devid, physical } = stored.place;
        let at = physical + self.range(line).start as u64;
        if let Err(error) = self.run.volume.repair_device(devid, at, &Volume::parity_of(kind, columns)) {
            // As it was; a scrub tells.
            tracing::warn!(%devid, physical = at, %error, "parity that does not fit was left as it is");
        }
        Ok(())
    }
}

//! Parity: computed from a row's data, and compared, where the row holds anything.
//!
//! # Invariants
//! * Data that has checksums is verified before parity is computed from it, and taken from another way if it is bad;
//!   where there is none that is good, parity is not judged.
//! * Parity that differs is looked at again before it is said to be wrong.

use butterfs_format::Logical;
use butterfs_format::items::STRIPE_LEN;
use butterfs_volume::{Held, Parity, StoredPart, Volume};

use super::gather::{Piece, What, gather_range};
use super::progress::{Remedy, ScrubFinding, Trouble};
use super::verify::{count_remedy, is_good, write};
use super::{Run, ScrubMode};
use crate::error::Result;
use crate::tx::Transaction;

/// What is known of a row.
struct Row {
    /// By sector of a stripe: whether any column uses it, and the data is known.
    judged: Vec<bool>,
    parity: Vec<u8>,
}

/// Looks at the parity among these parts.
pub(super) fn verify(run: &Run<'_>, parts: &[StoredPart]) -> Result<()> {
    for part in parts {
        let Held::Parity(parity) = part.held else { continue };
        if wrong_now(run, part, &parity)?.is_empty() {
            continue;
        }
        // Nobody gets the row's space, nor makes it durable, while the trees are held.
        run.gate.view(|tx| {
            let pieces = gather_row(run, &parity, tx)?;
            let row = compute(run, &parity, &pieces);
            for sector in wrong_sectors(run, part, &row) {
                report(run, part, &row, sector);
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn gather_row(run: &Run<'_>, parity: &Parity, tx: &Transaction) -> Result<Vec<Piece>> {
    gather_range(tx, parity.row, parity.columns * STRIPE_LEN, run.durable())
}

/// The sectors of a parity stripe that do not seem to fit; nothing is held meanwhile.
fn wrong_now(run: &Run<'_>, part: &StoredPart, parity: &Parity) -> Result<Vec<usize>> {
    let pieces = run.gate.view(|tx| gather_row(run, parity, tx))?;
    if pieces.is_empty() {
        return Ok(Vec::new());
    }
    let row = compute(run, parity, &pieces);
    Ok(wrong_sectors(run, part, &row))
}

/// Compares a parity stripe with what was computed. What cannot be read is wrong.
fn wrong_sectors(run: &Run<'_>, part: &StoredPart, row: &Row) -> Vec<usize> {
    let sector = run.sector as usize;
    let mut stored = vec![0; STRIPE_LEN as usize];
    let is_read = run.volume.read_device(run.devid, part.physical, &mut stored).is_ok();
    let compared = stored.chunks(sector).zip(row.parity.chunks(sector)).zip(&row.judged).enumerate();
    compared.filter(|(_, ((a, b), judged))| **judged && (!is_read || a != b)).map(|(index, _)| index).collect()
}

fn compute(run: &Run<'_>, parity: &Parity, pieces: &[Piece]) -> Row {
    let sectors = (STRIPE_LEN / run.sector) as usize;
    let mut judged = vec![false; sectors];
    let within = |at: u64| ((at - parity.row.0) % STRIPE_LEN / run.sector) as usize;
    for piece in pieces {
        let all = (piece.at.0..piece.at.0 + piece.len).step_by(run.sector as usize);
        all.for_each(|at| judged[within(at)] = true);
    }
    let column = |column: u64| {
        let at = Logical(parity.row.0 + column * STRIPE_LEN);
        let len = STRIPE_LEN.min(run.volume.contiguous(at)) as usize;
        let mut bytes = vec![0; STRIPE_LEN as usize];
        let is_read = len == 0 || run.volume.read_copy(at, &mut bytes[..len], 0).is_ok();
        (is_read, bytes)
    };
    let mut columns: Vec<(bool, Vec<u8>)> = (0..parity.columns).map(column).collect();
    for piece in pieces {
        let number = ((piece.at.0 - parity.row.0) / STRIPE_LEN) as usize;
        mend(run, parity, piece, &mut columns[number..], &mut judged);
    }
    // Of a column that could not be read, only what was mended is known, and not where it has nothing.
    if columns.iter().any(|(is_read, _)| !is_read) {
        judged.fill(false);
    }
    let columns: Vec<Vec<u8>> = columns.into_iter().map(|(_, bytes)| bytes).collect();
    Row { judged, parity: Volume::parity_of(parity.kind, &columns) }
}

/// Takes bad sectors of a piece from another way; where none is good, the row's sector is not judged.
fn mend(run: &Run<'_>, parity: &Parity, piece: &Piece, columns: &mut [(bool, Vec<u8>)], judged: &mut [bool]) {
    let What::Data { sums } = &piece.what else { return };
    for (number, sum) in sums.iter().enumerate() {
        let at = piece.at.0 + number as u64 * run.sector;
        let offset = at - parity.row.0;
        let column = ((offset / STRIPE_LEN) - (piece.at.0 - parity.row.0) / STRIPE_LEN) as usize;
        let from = (offset % STRIPE_LEN) as usize;
        let bytes = &mut columns[column].1[from..from + run.sector as usize];
        if is_good(run, sum.as_ref(), bytes) {
            continue;
        }
        let ways = run.volume.copies(Logical(at)).unwrap_or(0);
        let found = (1..ways)
            .any(|way| run.volume.read_copy(Logical(at), bytes, way).is_ok() && is_good(run, sum.as_ref(), bytes));
        if !found {
            judged[from / run.sector as usize] = false;
        }
    }
}

fn report(run: &Run<'_>, part: &StoredPart, row: &Row, sector: usize) {
    let from = sector * run.sector as usize;
    let physical = part.physical + from as u64;
    run.volume.note_corruption(run.devid);
    let remedy = match run.mode {
        ScrubMode::ReadOnly => Remedy::Possible,
        ScrubMode::Repair => write(run, physical, &row.parity[from..from + run.sector as usize]),
    };
    let finding = ScrubFinding {
        devid: run.devid,
        physical,
        len: run.sector,
        logical: None,
        is_data: false,
        trouble: Trouble::Parity,
        remedy,
    };
    run.monitor.count(|progress| progress.verify_errors += 1);
    count_remedy(run, &finding);
    run.monitor.report(finding);
}

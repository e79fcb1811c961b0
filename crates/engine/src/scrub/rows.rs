//! Parity: computed from a row's data, and compared, where the row holds anything.
//!
//! # Invariants
//! * Tree blocks and data with checksums are verified before parity is computed from them, and taken from another way if
//!   they are bad; where there is none that is good, parity is not judged: it may be what they can be rebuilt from.
//! * Where data without checksums is, or something that no extent item tells of, parity is never written.
//! * A device is charged with parity that does not fit only where all that it was made of was verified. Beside space that
//!   holds nothing, that may be what changed: parity is made to fit, for the others rely on it, and nobody is charged.
//! * Parity that differs is looked at again before it is said to be wrong. Where something beside it was freed a moment
//!   ago, that is done once more at the end, when a commit has made the space free.
//!
//! # Locking
//! The trees are held shared, and then the row, while parity is compared for the second time and repaired. What the trees
//! tell is asked for before the row is held.

use butterfs_format::Logical;
use butterfs_format::items::STRIPE_LEN;
use butterfs_volume::{Held, Parity, StoredPart, Volume};

use super::gather::{Piece, What, gather_range};
use super::mend::mend;
use super::mirrors::is_written;
use super::progress::{Remedy, ScrubFinding, Trouble};
use super::verify::write;
use super::{Run, ScrubMode};
use crate::error::Result;
use crate::inode::lock;
use crate::subvolume::list;
use crate::tx::Transaction;

/// What is known of a line: the sectors at one offset of a row's stripes. Of several columns the last counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Line {
    /// It holds nothing, or what may be anything.
    Unused,
    /// All of it is in use, and was verified.
    Verified,
    /// What is in use was verified; the rest may have changed, and nobody cares but for the parity.
    Beside,
    /// Some of it has no checksum: when parity does not fit, nobody knows which of them is right.
    Unsummed,
    /// Some of it is bad, or nothing tells what it is.
    Unknown,
}

/// Lines of a parity stripe that do not seem to fit, beside something that nothing tells of.
pub(super) struct Unjudged {
    part: StoredPart,
    lines: Vec<usize>,
}

/// How often such lines are looked at again: each commit frees what it replaced.
const ROUNDS: usize = 4;
/// So many stripes with such lines are remembered.
pub(super) const MOST_LATER: usize = 1 << 14;

/// A row as it is to be.
struct Row {
    /// By sector of a stripe.
    lines: Vec<Line>,
    parity: Vec<u8>,
}

/// Looks at parity that could not be judged.
pub(super) fn verify_later(run: &Run<'_>) -> Result<()> {
    for _ in 0..ROUNDS {
        let later = std::mem::take(&mut *lock(&run.later));
        if later.is_empty() || run.monitor.is_cancelled() {
            break;
        }
        if run.mode == ScrubMode::Repair {
            run.gate.commit()?;
        }
        for Unjudged { part, lines } in later {
            let Held::Parity(parity) = part.held else { continue };
            let wrong: Vec<usize> =
                wrong_now(run, &part, &parity)?.into_iter().filter(|line| lines.contains(line)).collect();
            if !wrong.is_empty() {
                look_again(run, &part, &parity, &wrong)?;
            }
        }
    }
    Ok(())
}

/// Looks at lines of which the parity does not seem to fit, while nobody writes to the row.
pub(super) fn look_again(run: &Run<'_>, part: &StoredPart, parity: &Parity, wrong: &[usize]) -> Result<()> {
    // Nobody gets the row's space, nor makes it durable, while the trees are held.
    run.gate.view(|tx| {
        let pieces = gather_row(run, parity, tx)?;
        let mut lines = vec![Line::Unused; sectors(run)];
        for line in wrong {
            lines[*line] = told_line(run, parity, tx, &pieces, *line)?;
        }
        let unjudged: Vec<usize> = wrong.iter().copied().filter(|line| lines[*line] == Line::Unknown).collect();
        let _row = run.volume.hold_row(parity.row);
        let row = compute(run, parity, &pieces, lines);
        for sector in wrong_sectors(run, part, &row) {
            report(run, part, &row, sector);
        }
        if !unjudged.is_empty() {
            run.look_later(vec![Unjudged { part: *part, lines: unjudged }]);
        }
        Ok(())
    })
}

fn sectors(run: &Run<'_>) -> usize {
    (STRIPE_LEN / run.sector) as usize
}

fn gather_row(run: &Run<'_>, parity: &Parity, tx: &Transaction) -> Result<Vec<Piece>> {
    gather_range(tx, parity.row, parity.columns * STRIPE_LEN, run.durable())
}

/// The sectors of a parity stripe that do not seem to fit; nothing is held meanwhile.
pub(super) fn wrong_now(run: &Run<'_>, part: &StoredPart, parity: &Parity) -> Result<Vec<usize>> {
    let pieces = run.gate.view(|tx| gather_row(run, parity, tx))?;
    if pieces.is_empty() {
        return Ok(Vec::new());
    }
    let mut lines = vec![Line::Unused; sectors(run)];
    for piece in &pieces {
        for at in (piece.at.0..piece.at.0 + piece.len).step_by(run.sector as usize) {
            let line = &mut lines[((at - parity.row.0) % STRIPE_LEN / run.sector) as usize];
            *line = (*line).max(held_line(run, piece, at));
        }
    }
    let row = compute(run, parity, &pieces, lines);
    Ok(wrong_sectors(run, part, &row))
}

/// What a piece's sector makes of its line, if it is not bad.
fn held_line(run: &Run<'_>, piece: &Piece, at: u64) -> Line {
    match &piece.what {
        What::Data { sums } if sums[((at - piece.at.0) / run.sector) as usize].is_none() => Line::Unsummed,
        _ => Line::Verified,
    }
}

/// What the trees tell of a line.
fn told_line(run: &Run<'_>, parity: &Parity, tx: &Transaction, pieces: &[Piece], number: usize) -> Result<Line> {
    let (mut line, mut is_full) = (Line::Unused, true);
    for column in 0..parity.columns {
        let at = parity.row.0 + column * STRIPE_LEN + number as u64 * run.sector;
        let piece = pieces.iter().find(|piece| (piece.at.0..piece.at.0 + piece.len).contains(&at));
        let told = match piece.map(|piece| held_line(run, piece, at)) {
            // Space that was never written may hold anything.
            Some(Line::Unsummed) if !is_written(tx, Logical(at), &list::trees(tx)?)? => Line::Unused,
            Some(held) => held,
            None if tx.is_free(at..at + run.sector) => Line::Unused,
            // The last commit may lead to it, or a log, or the next commit will.
            None => Line::Unknown,
        };
        is_full &= told != Line::Unused;
        line = line.max(told);
    }
    Ok(if line == Line::Verified && !is_full { Line::Beside } else { line })
}

/// Compares a parity stripe with what was computed. What cannot be read is wrong.
fn wrong_sectors(run: &Run<'_>, part: &StoredPart, row: &Row) -> Vec<usize> {
    let sector = run.sector as usize;
    let mut stored = vec![0; STRIPE_LEN as usize];
    let is_read = run.volume.read_device(run.devid, part.physical, &mut stored).is_ok();
    let is_judged = |line: &Line| matches!(line, Line::Verified | Line::Beside | Line::Unsummed);
    let compared = stored.chunks(sector).zip(row.parity.chunks(sector)).zip(&row.lines).enumerate();
    compared.filter(|(_, ((a, b), line))| is_judged(line) && (!is_read || a != b)).map(|(index, _)| index).collect()
}

fn compute(run: &Run<'_>, parity: &Parity, pieces: &[Piece], mut lines: Vec<Line>) -> Row {
    let mut bytes = vec![0; (parity.columns * STRIPE_LEN) as usize];
    let mut is_read = true;
    for (at, column) in (parity.row.0..).step_by(STRIPE_LEN as usize).zip(bytes.chunks_mut(STRIPE_LEN as usize)) {
        let len = STRIPE_LEN.min(run.volume.contiguous(Logical(at))) as usize;
        is_read &= len == 0 || run.volume.read_copy(Logical(at), &mut column[..len], 0).is_ok();
    }
    for piece in pieces {
        // Where no way is good, nothing is known of the lines.
        for bad in mend(run, piece, 1, parity.row.0, &mut bytes) {
            bad.step_by(run.sector as usize)
                .for_each(|at| lines[at % STRIPE_LEN as usize / run.sector as usize] = Line::Unknown);
        }
    }
    // Of a column that could not be read, only what was mended is known, and not where it has nothing.
    if !is_read {
        lines.fill(Line::Unknown);
    }
    let columns: Vec<Vec<u8>> = bytes.chunks(STRIPE_LEN as usize).map(<[u8]>::to_vec).collect();
    Row { lines, parity: Volume::parity_of(parity.kind, &columns) }
}

fn report(run: &Run<'_>, part: &StoredPart, row: &Row, sector: usize) {
    let from = sector * run.sector as usize;
    let physical = part.physical + from as u64;
    let trouble = if row.lines[sector] == Line::Verified { Trouble::Parity } else { Trouble::Unfit };
    if trouble == Trouble::Parity {
        run.volume.note_corruption(run.devid);
    }
    let remedy = match run.mode {
        _ if row.lines[sector] == Line::Unsummed => Remedy::None,
        ScrubMode::ReadOnly => Remedy::Possible,
        ScrubMode::Repair => write(run, physical, &row.parity[from..from + run.sector as usize]),
    };
    let finding =
        ScrubFinding { devid: run.devid, physical, len: run.sector, logical: None, is_data: false, trouble, remedy };
    run.monitor.report(finding, run.sector);
}

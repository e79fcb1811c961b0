//! One pass over a window of rows: data and tree blocks are verified, and parity is computed from the same bytes and
//! compared.
//!
//! # Invariants
//! * Parity is compared at first sight only where all of the row was right. What does not fit then, and rows in which
//!   something was wrong, are looked at again by [`super::rows`].
//! * What is wrong is repaired before parity is judged.
//!
//! # Locking
//! None, but for what is looked at again.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Mutex;

use butterfs_format::items::STRIPE_LEN;
use butterfs_volume::{Held, ParityKind, Volume};

use super::Run;
use super::gather::Piece;
use super::load::Loaded;
use super::row_window::{For, Row, RowWindow, Stripe, has_q};
use super::rows::{look_again, wrong_now};
use super::verify::{Bad, count, look_at, see_to};
use crate::cores::on_all_cores;
use crate::error::Result;
use crate::inode::lock;

/// What was seen of a row.
struct Seen {
    /// By stripe and piece.
    bad: Vec<(usize, usize, Vec<Bad>)>,
    /// Sectors of a stripe's parity that do not fit; known only if nothing is bad.
    wrong: Vec<(usize, Vec<usize>)>,
}

/// Verifies a window, and sees to what is wrong.
pub(super) fn verify(run: &Run<'_>, window: RowWindow, loaded: &[Loaded]) -> Result<()> {
    let runs: Vec<Run<'_>> = window.stripes.iter().map(|stripe| run_for(run, stripe)).collect();
    let seen = on_all_cores(window.rows.len(), |row| look(run, &window.stripes, &window.rows[row], loaded));
    for (row, seen) in window.rows.iter().zip(seen) {
        settle(&runs, &window.stripes, row, seen)?;
    }
    for (done, stripe) in runs.iter().zip(&window.stripes) {
        let later = std::mem::take(&mut *lock(&done.later));
        match &stripe.wanted {
            For::Own => run.look_later(later),
            For::Other(share, _) => *lock(&share.later) = later,
            For::Parity => {}
        }
    }
    drop(runs);
    window.claim.finish();
    Ok(())
}

/// Who counts and reports what is wrong with a stripe.
fn run_for<'a>(run: &Run<'a>, stripe: &'a Stripe) -> Run<'a> {
    let monitor = match &stripe.wanted {
        For::Other(share, _) => &share.tally,
        For::Own | For::Parity => run.monitor,
    };
    Run { devid: stripe.devid, monitor, later: Mutex::default(), ..*run }
}

fn look(run: &Run<'_>, stripes: &[Stripe], row: &Row, loaded: &[Loaded]) -> Seen {
    let mut bad = Vec::new();
    for (stripe, column) in row.columns.iter().enumerate() {
        for (number, piece) in column.pieces.iter().enumerate() {
            let found = look_at(run, piece, &loaded[stripe]);
            if !found.is_empty() {
                bad.push((stripe, number, found));
            }
        }
    }
    let is_right = bad.is_empty() && !row.lines.is_empty();
    let wrong = if is_right { wrong_parity(run, stripes, row, loaded) } else { Vec::new() };
    Seen { bad, wrong }
}

/// Computes the parity of a row, and gives the sectors of each stripe that differ.
fn wrong_parity(run: &Run<'_>, stripes: &[Stripe], row: &Row, loaded: &[Loaded]) -> Vec<(usize, Vec<usize>)> {
    let parities: Vec<_> = row.parities(stripes).collect();
    let mut wrong: Vec<(usize, Vec<usize>)> = parities.iter().map(|(stripe, ..)| (*stripe, Vec::new())).collect();
    let used = used_sectors(run, row);
    for lines in &row.lines {
        let Some(columns) = columns(row, lines, loaded) else {
            wrong.iter_mut().for_each(|(_, sectors)| sectors.extend(sectors_of(run, lines)));
            continue;
        };
        let columns: Vec<&[u8]> = columns.iter().map(|column| &**column).collect();
        let len = (lines.end - lines.start) as usize;
        let (mut p, mut q) = (vec![0; len], has_q(&parities).then(|| vec![0; len]));
        Volume::row_parity(&columns, &mut p, q.as_deref_mut());
        for ((stripe, part, parity), (_, wrong)) in parities.iter().zip(&mut wrong) {
            let computed = match (parity.kind, &q) {
                (ParityKind::Q, Some(q)) => q,
                _ => &p,
            };
            let at = part.physical + lines.start;
            let stored = loaded[*stripe].bytes(at, len as u64);
            let same = stored.chunks(run.sector as usize).zip(computed.chunks(run.sector as usize));
            let differs = same.map(|(stored, computed)| stored != computed).zip(sectors_of(run, lines));
            let unread =
                |sector: usize| loaded[*stripe].is_unread(part.physical + sector as u64 * run.sector, run.sector);
            wrong.extend(differs.filter(|(differs, sector)| *differs || unread(*sector)).map(|(_, sector)| sector));
        }
    }
    wrong.iter_mut().for_each(|(_, sectors)| sectors.retain(|sector| used[*sector]));
    wrong
}

/// The sectors' numbers of some lines.
fn sectors_of(run: &Run<'_>, lines: &Range<u64>) -> Range<usize> {
    (lines.start / run.sector) as usize..lines.end.div_ceil(run.sector) as usize
}

/// The lines in which something is in use, by sector.
fn used_sectors(run: &Run<'_>, row: &Row) -> Vec<bool> {
    let mut used = vec![false; (STRIPE_LEN / run.sector) as usize];
    for column in &row.columns {
        let start = column.part.map_or(0, |part| part.physical);
        for piece in &column.pieces {
            let from = piece.physical - start;
            used[sectors_of(run, &(from..from + piece.len))].fill(true);
        }
    }
    used
}

/// All data of some lines, by column; none, if some could not be read.
fn columns<'a>(row: &Row, lines: &Range<u64>, loaded: &'a [Loaded]) -> Option<Vec<Cow<'a, [u8]>>> {
    let mut columns: Vec<(u64, Cow<'a, [u8]>)> = Vec::new();
    for (column, loaded) in row.columns.iter().zip(loaded) {
        let Some(part) = column.part else { continue };
        let Held::Bytes(at) = part.held else { continue };
        let end = lines.end.min(part.len);
        let stored = end.saturating_sub(lines.start);
        if stored > 0 && loaded.is_unread(part.physical + lines.start, stored) {
            return None;
        }
        let bytes = if stored > 0 { loaded.bytes(part.physical + lines.start, stored) } else { &[][..] };
        columns.push((at.0, padded(bytes, (lines.end - lines.start) as usize)));
    }
    // Stripes are moved on from row to row, columns are in the order of their addresses.
    columns.sort_unstable_by_key(|(at, _)| *at);
    Some(columns.into_iter().map(|(_, bytes)| bytes).collect())
}

/// Beyond the end of a chunk parity takes zeros.
fn padded(bytes: &[u8], len: usize) -> Cow<'_, [u8]> {
    if bytes.len() == len {
        return Cow::Borrowed(bytes);
    }
    let mut padded = bytes.to_vec();
    padded.resize(len, 0);
    Cow::Owned(padded)
}

/// Sees to what is wrong with a row, and counts.
fn settle(runs: &[Run<'_>], stripes: &[Stripe], row: &Row, seen: Seen) -> Result<()> {
    let is_bad = !seen.bad.is_empty();
    for (stripe, piece, bad) in seen.bad {
        if stripes[stripe].is_scrubbed() {
            see_to(&runs[stripe], &row.columns[stripe].pieces[piece], bad)?;
        }
    }
    for (stripe, part, parity) in row.parities(stripes).filter(|_| !row.lines.is_empty()) {
        let run = &runs[stripe];
        let wrong = match is_bad {
            true => wrong_now(run, part, &parity)?,
            false => seen.wrong.iter().find(|(number, _)| *number == stripe).map_or(Vec::new(), |(_, at)| at.clone()),
        };
        if !wrong.is_empty() {
            look_again(run, part, &parity, &wrong)?;
        }
    }
    let scrubbed = row.columns.iter().zip(runs).zip(stripes).filter(|(_, stripe)| stripe.is_scrubbed());
    scrubbed.for_each(|((column, run), _)| column.pieces.iter().for_each(|piece: &Piece| count(run, piece)));
    Ok(())
}

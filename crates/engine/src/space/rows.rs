//! Which space of a group with parity may be written at this moment.
//!
//! A *line* is the sectors of a row of stripes that share a sector of parity: those at the same offset of their
//! stripes, one in each column. Writing one of them writes the parity of all; so a line is written only while nothing
//! in it must survive a power cut. See `docs/decisions/0020-rows.md`.
//!
//! # Invariants
//! * Each line is in one of three states. *Whole*: all of it is free. *Open*: some of it was given out since the lines of
//!   its [`Due`] were last closed, and nothing else in it is used. *Closed*: something in it may be durable. A closed line
//!   is whole again once all of it is free, and not before.
//! * `rest` holds exactly what is free in open lines.
//! * What is given out at different [`Due`]s never shares a line.
//! * Lines are numbered by their offset in the stripes of the chunk, in bytes: row times 64 KiB, and the offset
//!   within the row's stripe.

use std::ops::Range;

use butterfs_format::items::STRIPE_LEN;

use super::FreeRanges;

/// So many ranges are looked at for one that fits.
const TRIED: usize = 64;

/// When what is put somewhere may become durable at the earliest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// With the next log: data, and the log itself.
    Log,
    /// With the next commit: tree blocks.
    Commit,
}

const ALL: [Due; 2] = [Due::Log, Due::Commit];

/// What may be written of a group's free space.
#[derive(Clone, Debug)]
pub struct Rows {
    start: u64,
    columns: u64,
    /// Lines.
    whole: FreeRanges,
    /// Lines, by their [`Due`].
    open: [FreeRanges; 2],
    /// Logical addresses, by the [`Due`] of their lines.
    rest: [FreeRanges; 2],
}

/// A part of a range within one column of a row.
struct Piece {
    column: u64,
    lines: Range<u64>,
}

/// A range as start and length.
type Run = (u64, u64);

fn both(a: &[Run], b: &[Run]) -> Vec<Run> {
    let (mut found, mut at, mut other) = (Vec::new(), 0, 0);
    while let (Some((a_start, a_len)), Some((b_start, b_len))) = (a.get(at), b.get(other)) {
        let (from, to) = ((*a_start).max(*b_start), (a_start + a_len).min(b_start + b_len));
        if from < to {
            found.push((from, to - from));
        }
        match a_start + a_len < b_start + b_len {
            true => at += 1,
            false => other += 1,
        }
    }
    found
}

impl Rows {
    /// Of a group that begins at `start`, with so many columns of data, in which this is free and nothing was given out.
    pub fn new(start: u64, columns: u64, free: &FreeRanges) -> Self {
        let none = || [FreeRanges::default(), FreeRanges::default()];
        let mut rows = Self { start, columns, whole: FreeRanges::default(), open: none(), rest: none() };
        let mut by_column: Vec<Vec<Run>> = vec![Vec::new(); columns as usize];
        for (at, len) in free.iter() {
            for piece in rows.pieces(at, len) {
                by_column[piece.column as usize].push((piece.lines.start, piece.lines.end - piece.lines.start));
            }
        }
        let whole = by_column.into_iter().reduce(|all, column| both(&all, &column));
        whole.into_iter().flatten().for_each(|(line, len)| rows.whole.add(line, len));
        rows
    }

    fn pieces(&self, at: u64, len: u64) -> Vec<Piece> {
        let (mut offset, end) = (at - self.start, at - self.start + len);
        let mut pieces = Vec::new();
        while offset < end {
            let (number, within) = (offset / STRIPE_LEN, offset % STRIPE_LEN);
            let take = (STRIPE_LEN - within).min(end - offset);
            let line = number / self.columns * STRIPE_LEN + within;
            pieces.push(Piece { column: number % self.columns, lines: line..line + take });
            offset += take;
        }
        pieces
    }

    /// The address of a line's byte in a column.
    fn address(&self, line: u64, column: u64) -> u64 {
        self.start + (line / STRIPE_LEN * self.columns + column) * STRIPE_LEN + line % STRIPE_LEN
    }

    /// Runs of lines, cut at the ends of rows: one is contiguous in each column then.
    fn cut((start, len): Run) -> impl Iterator<Item = Run> {
        let mut at = start;
        std::iter::from_fn(move || {
            let to = (start + len).min((at / STRIPE_LEN + 1) * STRIPE_LEN);
            let run = (at < to).then_some((at, to - at));
            at = to;
            run
        })
    }

    /// Bytes that can be given out for sure, however small the parts and however often lines are closed meanwhile: each
    /// takes a line at worst.
    pub fn sure(&self) -> u64 {
        self.whole.total()
    }

    /// Bytes that could be given out at this moment.
    pub fn open_bytes(&self) -> u64 {
        self.whole.total() * self.columns + self.rest.iter().map(FreeRanges::total).sum::<u64>()
    }

    /// About how many contiguous bytes can be given out.
    pub fn longest(&self, due: Due) -> u64 {
        self.rest[due as usize].longest().max(self.whole.longest_run().map_or(0, |run| self.straight(run).1))
    }

    /// The longest contiguous part of a run of lines: address and length.
    fn straight(&self, (start, len): Run) -> Run {
        if self.columns == 1 {
            return (self.address(start, 0), len);
        }
        let (first, end) = (start.next_multiple_of(STRIPE_LEN), (start + len) / STRIPE_LEN * STRIPE_LEN);
        if first < end {
            return (self.address(first, 0), (end - first) * self.columns);
        }
        let longest = Self::cut((start, len)).max_by_key(|(_, len)| *len).unwrap_or((start, 0));
        (self.address(longest.0, 0), longest.1)
    }

    /// Takes up to `want` contiguous bytes: what is left of open lines first, if that is enough. For data.
    pub fn allocate_best(&mut self, want: u64, due: Due) -> Option<Run> {
        let rest = &self.rest[due as usize];
        let fits = rest.best_fit(want).filter(|(_, len)| *len >= want);
        let found = fits.or_else(|| {
            let whole = self.of_whole(want);
            [whole, rest.longest_run()].into_iter().flatten().max_by_key(|(_, len)| (*len).min(want))
        });
        let (at, len) = found?;
        let len = len.min(want);
        self.take(at, len, due);
        Some((at, len))
    }

    /// The smallest part of whole lines that has so much, or a long one.
    fn of_whole(&self, want: u64) -> Option<Run> {
        let row = self.columns * STRIPE_LEN;
        let least = if self.columns == 1 || want <= STRIPE_LEN { want } else { want.div_ceil(row) * STRIPE_LEN };
        let fitting = self.whole.at_least(least).take(TRIED).map(|run| self.part_for(want, run));
        let fit = fitting.into_iter().find(|(_, len)| *len >= want);
        fit.or_else(|| self.whole.longest_run().map(|run| self.straight(run)))
    }

    /// The part of a run of lines that so much goes to: no row that is whole, if less will do.
    fn part_for(&self, want: u64, run: Run) -> Run {
        let small = self.columns > 1 && want <= STRIPE_LEN;
        let fitting = Self::cut(run).filter(|(_, len)| small && *len >= want).min_by_key(|(_, len)| *len);
        fitting.map_or_else(|| self.straight(run), |(line, len)| (self.address(line, 0), len))
    }

    /// Takes `len` contiguous bytes, no more than a stripe's: the first of open lines, else of whole lines. For tree blocks.
    pub fn allocate_first(&mut self, len: u64, due: Due) -> Option<u64> {
        let at = self.rest[due as usize].first_fit(len).or_else(|| {
            let fits = |run: Run| Self::cut(run).find(|(_, there)| *there >= len);
            self.whole.iter().find_map(fits).map(|(line, _)| self.address(line, 0))
        })?;
        self.take(at, len, due);
        Some(at)
    }

    /// Something was given out.
    fn take(&mut self, at: u64, len: u64, due: Due) {
        for piece in self.pieces(at, len) {
            for (line, len) in self.whole.within(piece.lines.clone()) {
                self.whole.remove(line, len);
                self.open[due as usize].add(line, len);
                (0..self.columns).for_each(|column| self.rest[due as usize].add(self.address(line, column), len));
            }
        }
        self.rest[due as usize].remove(at, len);
    }

    /// Something was found to be used by what is durable: its lines are closed.
    pub fn claim(&mut self, at: u64, len: u64) {
        for Piece { lines, .. } in self.pieces(at, len) {
            self.whole.remove(lines.start, lines.end - lines.start);
            self.forget_open(&lines);
        }
    }

    fn forget_open(&mut self, lines: &Range<u64>) {
        let len = lines.end - lines.start;
        for due in ALL {
            self.open[due as usize].remove(lines.start, len);
            for column in 0..self.columns {
                let at = self.address(lines.start, column);
                self.rest[due as usize].remove(at, len);
            }
        }
    }

    /// Something is free again; `free` has it already.
    pub fn give_back(&mut self, at: u64, len: u64, free: &FreeRanges) {
        for Piece { column, lines } in self.pieces(at, len) {
            let mut whole = vec![(lines.start, lines.end - lines.start)];
            for column in 0..self.columns {
                let first = self.address(lines.start, column);
                let there = free.within(first..first + (lines.end - lines.start));
                let there: Vec<Run> = there.into_iter().map(|(at, len)| (lines.start + (at - first), len)).collect();
                whole = both(&whole, &there);
            }
            for (line, len) in whole {
                self.forget_open(&(line..line + len));
                // Another column of the same lines may have been given back with this one.
                self.whole.remove(line, len);
                self.whole.add(line, len);
            }
            for due in ALL {
                for (line, len) in self.open[due as usize].within(lines.clone()) {
                    let at = self.address(line, column);
                    self.rest[due as usize].add(at, len);
                }
            }
        }
    }

    /// What was given out for then is becoming durable: nothing is put beside it any more.
    pub fn close(&mut self, due: Due) {
        self.open[due as usize] = FreeRanges::default();
        self.rest[due as usize] = FreeRanges::default();
    }
}

#[cfg(test)]
mod tests;

//! Free ranges of one block group, by address and by length.
//!
//! # Invariants
//! * Ranges are disjoint, not empty, and never touch: neighbours are joined.
//! * Both indexes hold the same ranges.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A set of free ranges; all numbers are bytes of logical space.
#[derive(Clone, Debug, Default)]
pub struct FreeRanges {
    by_start: BTreeMap<u64, u64>,
    by_len: BTreeSet<(u64, u64)>,
    total: u64,
}

impl FreeRanges {
    /// Free bytes.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// All ranges as (start, length), by start.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.by_start.iter().map(|(start, len)| (*start, *len))
    }

    fn put(&mut self, start: u64, len: u64) {
        self.by_start.insert(start, len);
        self.by_len.insert((len, start));
        self.total += len;
    }

    fn take_out(&mut self, start: u64, len: u64) {
        self.by_start.remove(&start);
        self.by_len.remove(&(len, start));
        self.total -= len;
    }

    /// Adds a range, which must not be free yet.
    pub fn add(&mut self, mut start: u64, mut len: u64) {
        debug_assert!(!self.overlaps(start, len), "{start}+{len} is freed twice");
        if len == 0 {
            return;
        }
        if let Some((before, before_len)) = self.by_start.range(..start).next_back().map(|(s, l)| (*s, *l))
            && before + before_len == start
        {
            self.take_out(before, before_len);
            start = before;
            len += before_len;
        }
        if let Some(after_len) = self.by_start.get(&(start + len)).copied() {
            self.take_out(start + len, after_len);
            len += after_len;
        }
        self.put(start, len);
    }

    fn overlaps(&self, start: u64, len: u64) -> bool {
        self.by_start.range(..start + len).next_back().is_some_and(|(s, l)| s + l > start)
    }

    /// Takes a range away; parts of it that are not free stay so.
    pub fn remove(&mut self, start: u64, len: u64) {
        let end = start + len;
        while let Some((s, l)) = self.by_start.range(..end).next_back().map(|(s, l)| (*s, *l)) {
            if s + l <= start {
                return;
            }
            self.take_out(s, l);
            if s + l > end {
                self.put(end, s + l - end);
            }
            if s < start {
                self.put(s, start - s);
                return;
            }
        }
    }

    /// How many ranges there are.
    pub fn count(&self) -> usize {
        self.by_start.len()
    }

    /// The first range.
    pub fn first(&self) -> Option<(u64, u64)> {
        self.by_start.first_key_value().map(|(start, len)| (*start, *len))
    }

    /// Forgets the shortest range.
    pub fn forget_shortest(&mut self) {
        if let Some((len, start)) = self.by_len.first().copied() {
            self.take_out(start, len);
        }
    }

    /// The first free part of a range: where it begins, and how long it is.
    pub fn first_within(&self, range: Range<u64>) -> Option<(u64, u64)> {
        self.first_of_at_least(range, 1)
    }

    /// The first part of a range that is free for at least `least` bytes within it.
    pub fn first_of_at_least(&self, range: Range<u64>, least: u64) -> Option<(u64, u64)> {
        let before = self.by_start.range(..range.start).next_back().filter(|(start, len)| *start + *len > range.start);
        let inside = self.by_start.range(range.clone());
        let parts = before.into_iter().chain(inside).map(|(start, len)| {
            let (from, to) = ((*start).max(range.start), (start + len).min(range.end));
            (from, to - from)
        });
        parts.into_iter().find(|(_, len)| *len >= least.max(1))
    }

    /// The parts of a range that are free.
    pub fn within(&self, range: Range<u64>) -> Vec<(u64, u64)> {
        let before = self.by_start.range(..range.start).next_back().filter(|(start, len)| *start + *len > range.start);
        let all = before.into_iter().chain(self.by_start.range(range.clone()));
        all.map(|(start, len)| ((*start).max(range.start), (start + len).min(range.end)))
            .map(|(from, to)| (from, to - from))
            .collect()
    }

    /// The longest range.
    pub fn longest_run(&self) -> Option<(u64, u64)> {
        self.by_len.last().map(|(len, start)| (*start, *len))
    }

    /// The smallest range that has `want` bytes.
    pub fn best_fit(&self, want: u64) -> Option<(u64, u64)> {
        self.at_least(want).next()
    }

    /// Ranges of at least `len` bytes, the shortest first.
    pub fn at_least(&self, len: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.by_len.range((len, 0)..).map(|(len, start)| (*start, *len))
    }

    /// Takes `len` bytes from the first range at or after `hint` that has them, else from the first
    /// of all that has them. For tree blocks: neighbours in time become neighbours on the device.
    pub fn allocate_near(&mut self, hint: u64, len: u64) -> Option<u64> {
        if self.by_len.last()?.0 < len {
            return None;
        }
        let fits = |(_, l): &(&u64, &u64)| **l >= len;
        let inside = self.by_start.range(..hint).next_back().filter(|(s, l)| **s + **l >= hint + len).map(|_| hint);
        let start = inside
            .or_else(|| self.by_start.range(hint..).find(fits).map(|(s, _)| *s))
            .or_else(|| self.by_start.iter().find(fits).map(|(s, _)| *s))?;
        self.remove(start, len);
        Some(start)
    }

    /// Where the first range begins that has `len` bytes; nothing is taken.
    pub fn first_fit(&self, len: u64) -> Option<u64> {
        if self.longest() < len {
            return None;
        }
        self.by_start.iter().find(|(_, l)| **l >= len).map(|(s, _)| *s)
    }

    /// Takes up to `want` bytes as one range: from the smallest range that has them all, else the
    /// whole of the largest. For data.
    pub fn allocate_best(&mut self, want: u64) -> Option<(u64, u64)> {
        let best = self.by_len.range((want, 0)..).next().or_else(|| self.by_len.last()).copied();
        let (len, start) = best?;
        let len = len.min(want);
        self.remove(start, len);
        Some((start, len))
    }

    /// The length of the longest range, in bytes.
    pub fn longest(&self) -> u64 {
        self.by_len.last().map_or(0, |(len, _)| *len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined_and_split() {
        let mut free = FreeRanges::default();
        free.add(0, 10);
        free.add(20, 10);
        free.add(10, 10);
        assert_eq!(free.iter().collect::<Vec<_>>(), [(0, 30)]);
        free.remove(5, 10);
        assert_eq!(free.iter().collect::<Vec<_>>(), [(0, 5), (15, 15)]);
        free.remove(0, 100);
        assert_eq!((free.total(), free.longest()), (0, 0));
    }

    #[test]
    fn parts_of_a_range_are_found() {
        let mut free = FreeRanges::default();
        free.add(10, 10);
        free.add(30, 4);
        free.add(40, 20);
        assert_eq!(free.first_within(0..15), Some((10, 5)));
        assert_eq!(free.first_within(15..100), Some((15, 5)));
        assert_eq!(free.first_within(20..30), None);
        assert_eq!(free.first_of_at_least(15..100, 6), Some((40, 20)));
        assert_eq!(free.first_of_at_least(0..45, 11), None);
        free.forget_shortest();
        assert_eq!((free.count(), free.first()), (2, Some((10, 10))));
    }

    #[test]
    fn allocation_prefers_the_hint_and_the_best_fit() {
        let mut free = FreeRanges::default();
        free.add(0, 8);
        free.add(100, 16);
        assert_eq!(free.allocate_near(50, 8), Some(100));
        assert_eq!(free.allocate_near(108, 8), Some(108));
        assert_eq!(free.allocate_near(108, 8), Some(0));
        assert_eq!(free.allocate_near(0, 8), None);
        free.add(0, 4);
        free.add(50, 20);
        assert_eq!(free.allocate_best(4), Some((0, 4)));
        assert_eq!(free.allocate_best(100), Some((50, 20)));
    }
}

//! Runs of bytes by file offset: the pure part of dirty data.
//!
//! # Invariants
//! * Runs are not empty and do not overlap; they may touch.
//! * A run that was written is at most [`RUN_MAX`] bytes long.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Longer runs are split, so that memory moves in bounded steps; writeback joins them again.
pub(super) const RUN_MAX: usize = 1 << 20;

/// Something that holds bytes.
pub(super) trait Bytes {
    /// The bytes.
    fn bytes(&self) -> &[u8];
}

impl Bytes for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

impl Bytes for Arc<Vec<u8>> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// Runs of bytes, held in `B`.
#[derive(Debug)]
pub(super) struct Runs<B> {
    runs: BTreeMap<u64, B>,
}

impl<B> Default for Runs<B> {
    fn default() -> Self {
        Self { runs: BTreeMap::new() }
    }
}

impl<B: Bytes> Runs<B> {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The runs that share bytes with `range`, lowest first.
    pub fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = (u64, &B)> {
        let first = self.runs.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        self.runs
            .range(first..range.end.max(first))
            .filter(move |(start, run)| **start + run.bytes().len() as u64 > range.start)
            .map(|(start, run)| (*start, run))
    }

    /// The parts of `range` that no run covers.
    pub fn gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let (mut gaps, mut at) = (Vec::new(), range.start);
        for (start, run) in self.overlapping(range.clone()) {
            if start > at {
                gaps.push(at..start);
            }
            at = start + run.bytes().len() as u64;
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    /// Copies what is covered into `buf`, whose first byte is at `offset`; gives the gaps.
    pub fn copy_to(&self, offset: u64, buf: &mut [u8]) -> Vec<Range<u64>> {
        let range = offset..offset + buf.len() as u64;
        for (start, run) in self.overlapping(range.clone()) {
            let from = start.max(range.start);
            let until = (start + run.bytes().len() as u64).min(range.end);
            let source = &run.bytes()[(from - start) as usize..(until - start) as usize];
            buf[(from - offset) as usize..(until - offset) as usize].copy_from_slice(source);
        }
        self.gaps(range)
    }

    /// Where the lowest run begins that ends after `offset`.
    pub fn first_after(&self, offset: u64) -> Option<u64> {
        self.overlapping(offset..u64::MAX).next().map(|(start, _)| start)
    }

    /// Where the unbroken coverage from `offset` on ends; `offset` itself if it is not covered.
    pub fn covered_until(&self, offset: u64) -> u64 {
        let mut end = offset;
        for (start, run) in self.overlapping(offset..u64::MAX) {
            if start > end {
                break;
            }
            end = start + run.bytes().len() as u64;
        }
        end
    }

    /// Puts a run in where there is none.
    pub fn insert(&mut self, start: u64, run: B) {
        debug_assert!(
            !run.bytes().is_empty() && self.overlapping(start..start + run.bytes().len() as u64).next().is_none()
        );
        self.runs.insert(start, run);
    }

    /// Takes all runs that begin below `end`.
    pub fn take_below(&mut self, end: u64) -> BTreeMap<u64, B> {
        let rest = self.runs.split_off(&end);
        std::mem::replace(&mut self.runs, rest)
    }
}

impl Runs<Vec<u8>> {
    /// Puts bytes in, over those that are there; gives how many were not covered before.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> u64 {
        let range = offset..offset + bytes.len() as u64;
        let gaps = self.gaps(range.clone());
        self.overwrite(offset, bytes);
        for gap in &gaps {
            self.fill(gap.start, &bytes[(gap.start - offset) as usize..(gap.end - offset) as usize]);
        }
        gaps.iter().map(|gap| gap.end - gap.start).sum()
    }

    fn overwrite(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        let first = self.runs.range(..=offset).next_back().map_or(offset, |(start, _)| *start);
        for (start, run) in self.runs.range_mut(first..end) {
            let from = (*start).max(offset);
            let until = (*start + run.len() as u64).min(end);
            if from < until {
                run[(from - start) as usize..(until - start) as usize]
                    .copy_from_slice(&bytes[(from - offset) as usize..(until - offset) as usize]);
            }
        }
    }

    /// Puts bytes where there are none: onto the end of the run before, or as new runs.
    fn fill(&mut self, mut offset: u64, mut bytes: &[u8]) {
        if let Some((start, run)) = self.runs.range_mut(..offset).next_back()
            && start + run.len() as u64 == offset
        {
            let (now, later) = bytes.split_at(bytes.len().min(RUN_MAX.saturating_sub(run.len())));
            run.extend_from_slice(now);
            offset += now.len() as u64;
            bytes = later;
        }
        for part in bytes.chunks(RUN_MAX) {
            self.runs.insert(offset, part.to_vec());
            offset += part.len() as u64;
        }
    }

    /// Takes bytes out; gives how many there were.
    pub fn discard(&mut self, range: Range<u64>) -> u64 {
        let starts: Vec<u64> = self.overlapping(range.clone()).map(|(start, _)| start).collect();
        let mut discarded = 0;
        for start in starts {
            let Some(mut run) = self.runs.remove(&start) else { continue };
            let end = start + run.len() as u64;
            let (from, until) = (range.start.max(start), range.end.min(end));
            discarded += until - from;
            if until < end {
                self.runs.insert(until, run.split_off((until - start) as usize));
            }
            if from > start {
                run.truncate((from - start) as usize);
                self.runs.insert(start, run);
            }
        }
        discarded
    }
}

#[cfg(test)]
mod tests {
    use butterfs_testkit::random::Random;

    use super::*;

    const SPACE: u64 = 512;

    fn check(runs: &Runs<Vec<u8>>, model: &[Option<u8>], numbers: &mut Random) {
        let start = numbers.below(SPACE);
        let end = start + numbers.below(SPACE - start) + 1;
        let mut buf = vec![0; (end - start) as usize];
        let gaps = runs.copy_to(start, &mut buf);
        for at in start..end {
            let gap = gaps.iter().any(|gap| gap.contains(&at));
            assert_eq!(gap, model[at as usize].is_none(), "coverage at {at}");
            assert_eq!(buf[(at - start) as usize], model[at as usize].unwrap_or(0), "byte at {at}");
        }
        let tail = &model[start as usize..];
        let broken = tail.iter().position(Option::is_none).map_or(SPACE, |at| start + at as u64);
        assert_eq!(runs.covered_until(start), broken);
        let mut previous = 0;
        for (start, run) in &runs.runs {
            assert!(*start >= previous && !run.is_empty(), "runs overlap or are empty");
            previous = start + run.len() as u64;
        }
    }

    #[test]
    fn runs_hold_what_a_plain_vector_would() {
        for seed in 1..60 {
            let mut numbers = Random::new(seed);
            let mut runs = Runs::default();
            let mut model = vec![None; SPACE as usize];
            for step in 0..200 {
                let start = numbers.below(SPACE);
                let end = start + numbers.below((SPACE - start).min(60)) + 1;
                let slots = &mut model[start as usize..end as usize];
                let covered = slots.iter().flatten().count() as u64;
                if numbers.below(3) > 0 {
                    let bytes = vec![step as u8 + 1; slots.len()];
                    assert_eq!(runs.write(start, &bytes), slots.len() as u64 - covered);
                    slots.fill(Some(step as u8 + 1));
                } else {
                    assert_eq!(runs.discard(start..end), covered);
                    slots.fill(None);
                }
                check(&runs, &model, &mut numbers);
            }
        }
    }

    #[test]
    fn appends_extend_a_run_up_to_the_cap() {
        let mut runs = Runs::default();
        let bytes = vec![7; 4096];
        for sector in 0..300 {
            runs.write(sector * 4096, &bytes);
        }
        let lengths: Vec<usize> = runs.runs.values().map(Vec::len).collect();
        assert_eq!(lengths, [RUN_MAX, 300 * 4096 - RUN_MAX]);
    }

    #[test]
    fn taking_below_leaves_the_rest() {
        let mut runs = Runs::default();
        runs.write(0, &[1; 8]);
        runs.write(16, &[2; 8]);
        assert_eq!(runs.take_below(16).len(), 1);
        assert_eq!(runs.first_after(0), Some(16));
        assert_eq!(runs.first_after(24), None);
    }
}

//! Devices that are scrubbed at the same time. Parity takes all columns of a row to be judged; so whoever comes first to a
//! window of rows reads it once, for all whose scrub is still to come there, and they find it done.
//!
//! # Invariants
//! * A window of a device is read for it once: by its own scrub, or by another one that leaves a [`Share`] for it.
//! * Who waits for a share waits for a claim that was made before it came to the window itself; so nobody waits in a circle.
//! * What another scrub did counts when the own one comes there, so that one that was cancelled goes on where it was. What
//!   it repaired counts in any case, for nobody will find it again.
//! * A device for which too much was done ahead is left to itself.
//!
//! # Locking
//! Leaves: held for a look or a change in memory.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use butterfs_format::{DevId, Logical};
use butterfs_volume::DeviceExtent;

use super::progress::{Remedy, ScrubFinding, ScrubMonitor};
use super::rows::Unjudged;
use super::{ScrubMode, ScrubOptions};
use crate::inode::lock;

/// So many shares are kept for a device.
const MOST_AHEAD: usize = 1 << 16;
/// Who waits for a share looks up so often whether it is to go on.
const NAP: Duration = Duration::from_millis(20);

/// Whether a share is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Pending,
    Done,
    /// The scrub that was to do it stopped.
    Abandoned,
}

/// What a scrub did of another one's device.
#[derive(Default)]
pub(super) struct Share {
    /// What was counted and found.
    pub tally: ScrubMonitor,
    /// Parity to look at again at the end.
    pub later: Mutex<Vec<Unjudged>>,
    stage: Mutex<Stage>,
    changed: Condvar,
}

impl Share {
    fn set(&self, stage: Stage) {
        *lock(&self.stage) = stage;
        self.changed.notify_all();
    }

    /// Waits until it is ready; says whether it is. It is not if the scrub that was to do it stopped, or `monitor`'s was
    /// cancelled.
    pub fn wait(&self, monitor: &ScrubMonitor) -> bool {
        let mut stage = lock(&self.stage);
        while *stage == Stage::Pending && !monitor.is_cancelled() {
            stage = self.changed.wait_timeout(stage, NAP).unwrap_or_else(PoisonError::into_inner).0;
        }
        *stage == Stage::Done
    }
}

/// A device for which a window is read beside the own one.
#[derive(Clone)]
pub(super) struct Other {
    /// Which of the chunk's stripes.
    pub stripe: usize,
    pub share: Arc<Share>,
    /// Of its scrub: for the limit.
    pub monitor: Arc<ScrubMonitor>,
}

/// A window that is read for the own device and others; abandoned, unless it is finished.
#[derive(Default)]
pub(super) struct Claim {
    pub others: Vec<Other>,
}

impl Claim {
    /// The others find it done from now on.
    pub fn finish(mut self) {
        self.others.drain(..).for_each(|other| other.share.set(Stage::Done));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.others.drain(..).for_each(|other| other.share.set(Stage::Abandoned));
    }
}

/// Who reads a window.
pub(super) enum Reader {
    Own(Claim),
    Other(Arc<Share>),
}

/// A scrub that runs.
struct Walk {
    mode: ScrubMode,
    range: Range<u64>,
    /// Windows before are read, or claimed.
    reached: u64,
    monitor: Arc<ScrubMonitor>,
    /// What others did ahead of it, by where the window begins on the device.
    ahead: BTreeMap<u64, Ahead>,
}

impl Walk {
    /// Whether a window is still to come.
    fn will_come_to(&self, mode: ScrubMode, window: &Range<u64>) -> bool {
        self.mode == mode
            && !self.monitor.is_cancelled()
            && self.reached <= window.start
            && self.range.start < window.end
            && window.end <= self.range.end
    }
}

/// What was done of a window ahead of its own scrub.
struct Ahead {
    chunk: Logical,
    range: Range<u64>,
    share: Arc<Share>,
}

/// The scrubs that run, by device.
#[derive(Default)]
struct State(BTreeMap<DevId, Walk>);

impl State {
    /// Leaves a share for a device whose scrub is still to come to a window.
    fn share(&mut self, mode: ScrubMode, devid: DevId, extent: &DeviceExtent, range: &Range<u64>) -> Option<Other> {
        let window = placed(extent, range);
        let walk = self.0.get_mut(&devid).filter(|walk| walk.will_come_to(mode, &window))?;
        if walk.ahead.len() >= MOST_AHEAD {
            return None;
        }
        let Entry::Vacant(place) = walk.ahead.entry(window.start) else { return None };
        let other = Other { stripe: extent.stripe, share: Arc::default(), monitor: Arc::clone(&walk.monitor) };
        place.insert(Ahead { chunk: extent.chunk, range: range.clone(), share: Arc::clone(&other.share) });
        Some(other)
    }

    /// The scrub of a device comes to a window: takes what was done of it; of another chunk, which lay there before, it is
    /// worth nothing.
    fn take(&mut self, devid: DevId, extent: &DeviceExtent, range: &Range<u64>) -> Option<Arc<Share>> {
        let window = placed(extent, range);
        let walk = self.0.get_mut(&devid)?;
        walk.reached = walk.reached.max(window.end);
        let ahead = walk.ahead.remove(&window.start)?;
        (ahead.chunk == extent.chunk && ahead.range == *range).then_some(ahead.share)
    }
}

/// Where a part of a stripe lies on its device.
fn placed(extent: &DeviceExtent, range: &Range<u64>) -> Range<u64> {
    extent.physical + range.start..extent.physical + range.end
}

/// The scrubs that run.
#[derive(Default)]
pub(crate) struct Together(Mutex<State>);

impl Together {
    /// From now on others may read for this scrub.
    pub fn join(&self, devid: DevId, options: &ScrubOptions, monitor: &Arc<ScrubMonitor>) {
        let range = options.start..options.end;
        let walk = Walk { mode: options.mode, range, reached: 0, monitor: Arc::clone(monitor), ahead: BTreeMap::new() };
        lock(&self.0).0.insert(devid, walk);
    }

    /// It ended. Gives what others repaired ahead of it.
    pub fn leave(&self, devid: DevId) -> Vec<ScrubFinding> {
        let left = lock(&self.0).0.remove(&devid).map(|walk| walk.ahead).unwrap_or_default();
        let findings = left.into_values().flat_map(|ahead| ahead.share.tally.take_findings());
        findings.filter(|finding| finding.remedy == Remedy::Repaired).collect()
    }

    /// A scrub comes to a window of rows; `stripes` is what the chunk has on its devices, `own` is the scrub's of them.
    pub(super) fn open(
        &self,
        mode: ScrubMode,
        stripes: &[(DevId, DeviceExtent)],
        own: &DeviceExtent,
        range: &Range<u64>,
    ) -> Reader {
        let mut state = lock(&self.0);
        if let Some((devid, _)) = stripes.get(own.stripe)
            && let Some(share) = state.take(*devid, own, range)
        {
            return Reader::Other(share);
        }
        let others = stripes.iter().filter(|(_, extent)| extent.stripe != own.stripe);
        let others = others.filter_map(|(devid, extent)| state.share(mode, *devid, extent, range));
        Reader::Own(Claim { others: others.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripes() -> Vec<(DevId, DeviceExtent)> {
        let stripe = |stripe: usize| {
            let physical = 1_000_000 * (stripe as u64 + 1);
            (DevId(stripe as u64 + 1), DeviceExtent { physical, length: 200_000, chunk: Default::default(), stripe })
        };
        (0..3).map(stripe).collect()
    }

    fn joined(devids: &[u64], mode: ScrubMode) -> (Together, Vec<Arc<ScrubMonitor>>) {
        let together = Together::default();
        let monitors = devids.iter().map(|devid| {
            let monitor = Arc::<ScrubMonitor>::default();
            together.join(DevId(*devid), &ScrubOptions::whole(mode), &monitor);
            monitor
        });
        let monitors = monitors.collect();
        (together, monitors)
    }

    fn open(together: &Together, stripe: usize, from: u64) -> Reader {
        let stripes = stripes();
        together.open(ScrubMode::Repair, &stripes, &stripes[stripe].1, &(from..from + 1000))
    }

    fn claim(reader: Reader) -> Claim {
        match reader {
            Reader::Own(claim) => claim,
            Reader::Other(_) => panic!("another scrub reads it"),
        }
    }

    #[test]
    fn who_comes_first_reads_for_all() {
        let (together, monitors) = joined(&[1, 3], ScrubMode::Repair);
        let first = claim(open(&together, 0, 0));
        assert_eq!(first.others.iter().map(|other| other.stripe).collect::<Vec<_>>(), [2]);
        let second = claim(open(&together, 2, 1000));
        let Reader::Other(share) = open(&together, 2, 0) else { panic!("it was read for it") };
        first.finish();
        assert!(share.wait(&monitors[1]));
        let Reader::Other(share) = open(&together, 0, 1000) else { panic!("it was read for it") };
        drop(second);
        assert!(!share.wait(&monitors[0]), "it was abandoned");
    }

    #[test]
    fn what_was_done_of_another_chunk_is_worth_nothing() {
        let (together, _) = joined(&[1, 3], ScrubMode::Repair);
        claim(open(&together, 0, 0)).finish();
        let mut stripes = stripes();
        stripes.iter_mut().for_each(|(_, extent)| extent.chunk = Logical(1 << 30));
        claim(together.open(ScrubMode::Repair, &stripes, &stripes[2].1, &(0..1000)));
    }

    #[test]
    fn nothing_is_done_for_who_was_there_or_does_something_else() {
        let (together, _) = joined(&[1, 2], ScrubMode::ReadOnly);
        assert!(claim(open(&together, 0, 0)).others.is_empty(), "that one repairs");
        let (together, _) = joined(&[1, 2], ScrubMode::Repair);
        claim(open(&together, 0, 1000)).finish();
        assert_eq!(together.leave(DevId(1)), []);
        let monitor = Arc::default();
        together.join(DevId(1), &ScrubOptions::whole(ScrubMode::Repair), &monitor);
        assert!(claim(open(&together, 1, 2000)).others.len() == 1);
        assert!(claim(open(&together, 0, 0)).others.is_empty(), "the other is past it");
    }

    #[test]
    fn a_window_beyond_the_end_is_not_shared() {
        let (together, _) = joined(&[1], ScrubMode::Repair);
        let options = ScrubOptions { start: 0, end: 2_000_500, mode: ScrubMode::Repair };
        together.join(DevId(2), &options, &Arc::default());
        assert!(claim(open(&together, 0, 0)).others.is_empty());
    }

    /// Windows that are claimed ahead of a device's scrub, from a number on.
    fn claim_ahead(together: &Together, numbers: Range<usize>) -> usize {
        let mut stripes = stripes();
        stripes.iter_mut().for_each(|(_, extent)| extent.length = u64::MAX / 2);
        let claims = numbers.map(|number| {
            let window = number as u64 * 10..(number as u64 + 1) * 10;
            claim(together.open(ScrubMode::Repair, &stripes, &stripes[0].1, &window))
        });
        claims.map(|claim| claim.others.len()).sum()
    }

    #[test]
    fn no_more_than_so_many_windows_are_read_ahead() {
        let (together, _monitors) = joined(&[2], ScrubMode::Repair);
        assert_eq!(claim_ahead(&together, 0..MOST_AHEAD + 10), MOST_AHEAD);
        let stripes = stripes();
        let own =
            |number: u64| together.open(ScrubMode::Repair, &stripes, &stripes[1].1, &(number * 10..number * 10 + 10));
        assert!(matches!(own(0), Reader::Other(_)) && matches!(own(1), Reader::Other(_)));
        assert_eq!(claim_ahead(&together, MOST_AHEAD + 10..MOST_AHEAD + 20), 2, "it is nearer by two");
    }

    /// They were counted at each claim once.
    #[test]
    fn a_claim_takes_no_longer_with_many_windows_ahead() {
        const CLAIMS: usize = 2000;
        let (together, _monitors) = joined(&[2], ScrubMode::Repair);
        let timed = |from: usize| {
            let begun = std::time::Instant::now();
            assert_eq!(claim_ahead(&together, from..from + CLAIMS), CLAIMS);
            begun.elapsed()
        };
        let first = timed(0);
        claim_ahead(&together, CLAIMS..MOST_AHEAD - CLAIMS);
        let last = timed(MOST_AHEAD - CLAIMS);
        println!("{CLAIMS} claims: {first:?} with none ahead, {last:?} with {MOST_AHEAD}");
        assert!(last < first * 20 + std::time::Duration::from_millis(20), "{first:?}, {last:?}");
    }
}

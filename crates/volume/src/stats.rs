//! What went wrong with each device: the counters that the kernel keeps, too.
//!
//! # Locking
//! None: the counters are atomic.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How often something went wrong with a device, over its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceStats {
    /// Writes that failed.
    pub write_errors: u64,
    /// Reads that failed.
    pub read_errors: u64,
    /// Flushes that failed.
    pub flush_errors: u64,
    /// Copies that did not have the right checksum or content.
    pub corruption_errors: u64,
    /// Tree blocks of another generation than expected: writes that were lost.
    pub generation_errors: u64,
}

impl DeviceStats {
    /// The counters in the order of the DEV_STATS item.
    pub fn values(&self) -> [u64; 5] {
        [self.write_errors, self.read_errors, self.flush_errors, self.corruption_errors, self.generation_errors]
    }

    /// The counters of a DEV_STATS item.
    pub fn from_values(values: [u64; 5]) -> Self {
        let [write_errors, read_errors, flush_errors, corruption_errors, generation_errors] = values;
        Self { write_errors, read_errors, flush_errors, corruption_errors, generation_errors }
    }
}

/// What can go wrong with a device; the number is the counter's place in [`DeviceStats::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Write = 0,
    Read = 1,
    Flush = 2,
    Corruption = 3,
    Generation = 4,
}

/// The counters of one device.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    counts: [AtomicU64; 5],
    changed: AtomicBool,
}

impl Counters {
    pub fn note(&self, fault: Fault) {
        self.counts[fault as usize].fetch_add(1, Ordering::Relaxed);
        self.changed.store(true, Ordering::Release);
    }

    pub fn get(&self) -> DeviceStats {
        DeviceStats::from_values(self.counts.each_ref().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Adds what was counted in earlier days; that is no change.
    pub fn add(&self, stats: &DeviceStats) {
        for (count, earlier) in self.counts.iter().zip(stats.values()) {
            count.fetch_add(earlier, Ordering::Relaxed);
        }
    }

    /// Begins anew; gives what was counted.
    pub fn reset(&self) -> DeviceStats {
        let stats = DeviceStats::from_values(self.counts.each_ref().map(|count| count.swap(0, Ordering::Relaxed)));
        self.changed.store(true, Ordering::Release);
        stats
    }

    /// Has the next commit write them.
    pub fn touch(&self) {
        self.changed.store(true, Ordering::Release);
    }

    pub fn has_changed(&self) -> bool {
        self.changed.load(Ordering::Acquire)
    }

    /// The counters, if they changed since they were last taken.
    pub fn take_changed(&self) -> Option<DeviceStats> {
        self.changed.swap(false, Ordering::AcqRel).then(|| self.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_once() {
        let counters = Counters::default();
        counters.add(&DeviceStats { read_errors: 7, ..DeviceStats::default() });
        assert_eq!(counters.take_changed(), None);
        counters.note(Fault::Read);
        counters.note(Fault::Generation);
        assert!(counters.has_changed());
        let stats = DeviceStats { read_errors: 8, generation_errors: 1, ..DeviceStats::default() };
        assert_eq!(counters.take_changed(), Some(stats));
        assert_eq!(counters.take_changed(), None);
        assert_eq!(counters.get(), stats);
        assert_eq!(counters.reset(), stats);
        assert_eq!(counters.take_changed(), Some(DeviceStats::default()));
    }
}

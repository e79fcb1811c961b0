//! Who reads or writes data where trees said that it lies, while no tree is locked.
//!
//! Extents that are moved may still be read where they were, by whoever looked before. Nobody waits for anybody here
//! but the mover, at its end, for those who began before it.
//!
//! # Locking
//! A leaf. Who is in flight may take any lock; who waits holds none.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Counts who is in flight, by when they began.
#[derive(Default)]
pub struct InFlight {
    counts: Mutex<Counts>,
    left: Condvar,
}

#[derive(Default)]
struct Counts {
    epoch: u64,
    by_epoch: BTreeMap<u64, u64>,
    /// How many wait for earlier ones: mostly none, and then nobody has to be woken.
    waiting: usize,
}

/// While it lives, what was found in trees after it was made may be read and written on the devices.
pub struct Passenger<'a> {
    all: &'a InFlight,
    epoch: u64,
}

impl InFlight {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins. It may be called again by who is in flight already.
    pub fn enter(&self) -> Passenger<'_> {
        let mut counts = self.counts();
        let epoch = counts.epoch;
        *counts.by_epoch.entry(epoch).or_default() += 1;
        Passenger { all: self, epoch }
    }

    /// Waits until all have landed who began before this call.
    pub fn wait_for_earlier(&self) {
        let mut counts = self.counts();
        counts.epoch += 1;
        let own = counts.epoch;
        counts.waiting += 1;
        while counts.by_epoch.first_key_value().is_some_and(|(epoch, _)| *epoch < own) {
            counts = self.left.wait(counts).unwrap_or_else(PoisonError::into_inner);
        }
        counts.waiting -= 1;
    }
}

impl Drop for Passenger<'_> {
    fn drop(&mut self) {
        let mut counts = self.all.counts();
        if let Some(count) = counts.by_epoch.get_mut(&self.epoch) {
            *count -= 1;
            if *count == 0 {
                counts.by_epoch.remove(&self.epoch);
                if counts.waiting > 0 {
                    self.all.left.notify_all();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_the_earlier_ones_are_waited_for() {
        let all = Arc::new(InFlight::default());
        let early = all.enter();
        let waited = Arc::new(AtomicBool::new(false));
        let waiter = std::thread::spawn({
            let (all, waited) = (Arc::clone(&all), Arc::clone(&waited));
            move || {
                all.wait_for_earlier();
                waited.store(true, Ordering::SeqCst);
            }
        });
        while all.counts().epoch == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let late = all.enter();
        assert!(!waited.load(Ordering::SeqCst));
        drop(early);
        waiter.join().unwrap();
        drop(late);
        assert!(all.counts().by_epoch.is_empty());
    }
}

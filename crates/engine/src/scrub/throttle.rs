//! So many bytes in a second and no more.

use std::time::{Duration, Instant};

use super::progress::ScrubMonitor;

/// Whoever waits looks up so often whether it is to go on.
const NAP: Duration = Duration::from_millis(20);

/// What was read in the second that runs.
#[derive(Default)]
pub(super) struct Throttle {
    since: Option<Instant>,
    bytes: u64,
}

impl Throttle {
    /// Waits until so many more bytes may be read, or the scrub is cancelled. A limit that changes counts at once.
    pub fn wait(&mut self, monitor: &ScrubMonitor, bytes: u64) {
        let since = *self.since.get_or_insert_with(Instant::now);
        while !monitor.is_cancelled() {
            let limit = monitor.limit();
            let due = Duration::from_secs_f64(self.bytes as f64 / limit.max(1) as f64);
            if limit == 0 || since.elapsed() >= due {
                break;
            }
            std::thread::sleep(NAP.min(due.saturating_sub(since.elapsed())));
        }
        if since.elapsed() > Duration::from_secs(1) || monitor.limit() == 0 {
            (self.since, self.bytes) = (None, 0);
        }
        self.bytes += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_limited() {
        let (monitor, mut throttle) = (ScrubMonitor::default(), Throttle::default());
        let begin = Instant::now();
        for _ in 0..100 {
            throttle.wait(&monitor, 1 << 20);
        }
        assert!(begin.elapsed() < Duration::from_millis(100), "without a limit nobody waits");
        monitor.set_limit(10 << 20);
        let begin = Instant::now();
        for _ in 0..5 {
            throttle.wait(&monitor, 1 << 20);
        }
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(390) && took < Duration::from_secs(3), "{took:?}");
    }
}

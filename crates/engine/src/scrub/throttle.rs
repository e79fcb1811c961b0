//! So many bytes in a second and no more.

use std::time::{Duration, Instant};

/// What was read in the second that runs.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    since: Option<Instant>,
    bytes: u64,
}

impl Throttle {
    /// Takes so many bytes of the second that runs, or says how long that has to wait. No limit: 0.
    pub fn take(&mut self, limit: u64, bytes: u64) -> Result<(), Duration> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let due = Duration::from_secs_f64(self.bytes as f64 / limit.max(1) as f64);
        if limit != 0 && since.elapsed() < due {
            return Err(due.saturating_sub(since.elapsed()));
        }
        if since.elapsed() > Duration::from_secs(1) || limit == 0 {
            (self.since, self.bytes) = (None, 0);
        }
        self.bytes += bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::ScrubMonitor;
    use super::*;

    #[test]
    fn bytes_are_limited() {
        let monitor = ScrubMonitor::default();
        let begin = Instant::now();
        for _ in 0..100 {
            monitor.wait_to_read(1 << 20, &monitor);
        }
        assert!(begin.elapsed() < Duration::from_millis(100), "without a limit nobody waits");
        monitor.set_limit(10 << 20);
        let begin = Instant::now();
        for _ in 0..5 {
            monitor.wait_to_read(1 << 20, &monitor);
        }
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(390) && took < Duration::from_secs(3), "{took:?}");
    }
}

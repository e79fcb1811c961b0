//! What a library must not take from the process: the clock and random numbers.

use butterfs_format::items::Timespec;

/// The world outside, passed in so that a test can be deterministic.
pub trait Environment: Send + Sync {
    /// The time of day.
    fn now(&self) -> Timespec;
    /// A fresh UUID.
    fn new_uuid(&self) -> [u8; 16];
}

/// The machine's clock and random numbers.
#[derive(Debug, Default)]
pub struct SystemEnvironment;

impl Environment for SystemEnvironment {
    fn now(&self) -> Timespec {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timespec::new(since.as_secs() as i64, since.subsec_nanos())
    }

    fn new_uuid(&self) -> [u8; 16] {
        uuid::Uuid::new_v4().into_bytes()
    }
}

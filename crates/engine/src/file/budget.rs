//! Dirty bytes of all files together, so that memory stays bounded.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the bytes of files that are in memory and not on a device yet.
///
/// The counter steers who writes back when; no memory is guarded by it, so it is relaxed.
#[derive(Debug, Default)]
pub struct DirtyBudget {
    bytes: AtomicU64,
}

impl DirtyBudget {
    /// Bytes that are dirty or in flight now.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn subtract(&self, bytes: u64) {
        let before = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "{bytes} bytes leave a budget of {before}");
    }
}

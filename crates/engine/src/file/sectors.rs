//! Arithmetic of sectors, and short ways to what every data path needs.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::{Error, Result};
use crate::inode::{Inode, Shared};

/// The sector size, in bytes.
pub(super) fn sector_size(shared: &Shared) -> u64 {
    u64::from(shared.gate.volume().geometry().sectorsize)
}

/// `value` rounded down to a sector boundary.
pub(super) fn floor(value: u64, sector: u64) -> u64 {
    value - value % sector
}

/// `value` rounded up to a sector boundary; sizes from disk may be anything, so this saturates.
pub(super) fn ceil(value: u64, sector: u64) -> u64 {
    value.checked_next_multiple_of(sector).unwrap_or(floor(u64::MAX, sector))
}

/// The sectors that a byte range touches.
pub(super) fn cover(range: &Range<u64>, sector: u64) -> Range<u64> {
    floor(range.start, sector)..ceil(range.end, sector)
}

/// The sectors that lie wholly within a byte range; may be empty.
pub(super) fn inner(range: &Range<u64>, sector: u64) -> Range<u64> {
    let (start, end) = (ceil(range.start, sector), floor(range.end, sector));
    start..end.max(start)
}

/// What two ranges share; empty (but not reversed) when nothing.
pub(super) fn intersect(a: &Range<u64>, b: &Range<u64>) -> Range<u64> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}

/// The length of a range.
pub(super) fn len(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// Locks; a panic elsewhere while it was held does not matter here.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fails for an inode that was deleted for good. To be asked with `Inode::range` held: who deletes takes
/// that after the mark is set, and before anything goes.
pub(super) fn require_alive(inode: &Inode) -> Result<()> {
    if lock(&inode.state).gone { Err(Error::NotFound) } else { Ok(()) }
}

/// Locks for many.
pub(super) fn lock_shared<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for one.
pub(super) fn lock_alone<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_round_to_sectors() {
        assert_eq!(cover(&(1..4097), 4096), 0..8192);
        assert_eq!(inner(&(1..8192), 4096), 4096..8192);
        assert_eq!(inner(&(1..4095), 4096), 4096..4096);
        assert_eq!(ceil(u64::MAX, 4096), u64::MAX - 4095);
        assert_eq!(intersect(&(0..4), &(8..9)), 8..8);
    }
}

//! The end of a file's data.
//!
//! # Locking
//! Takes `FileData::settle`, then `Inode::range` alone.

use super::sectors::lock_alone;
use crate::inode::Inode;

/// Waits for all who read or write an inode that was marked as gone, and forgets its bytes. Whoever
/// comes later sees the mark; so when this returns its extents can be dropped.
pub fn wait_for_users(inode: &Inode) {
    inode.data.forget();
    drop(lock_alone(&inode.range));
    // A writer that was late for the first time.
    inode.data.forget();
}

//! `errno`, and results that are to become it.

use libc::c_int;

/// A result, or the `errno` of the failure.
pub type Result<T> = core::result::Result<T, c_int>;

/// The thread's `errno`.
pub fn get() -> c_int {
    // SAFETY: the pointer is valid in every thread.
    unsafe { *libc::__errno_location() }
}

/// Sets the thread's `errno`.
pub fn set(errno: c_int) {
    // SAFETY: as in `get`.
    unsafe { *libc::__errno_location() = errno }
}

/// The result of a system call.
pub fn check(result: c_int) -> Result<c_int> {
    if result < 0 { Err(get()) } else { Ok(result) }
}

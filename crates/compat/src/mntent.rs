//! `getmntent`: mounts of ours are Btrfs.

use core::ffi::CStr;

use libc::{FILE, c_char, c_int, mntent};

use crate::mounts::is_our_type;
use crate::real::next;

/// What Btrfs is called there.
const BTRFS: &[u8] = b"btrfs\0";

/// Changes the type in an entry, in place: it gets shorter.
///
/// # Safety
/// `entry` is null or one that getmntent gave.
unsafe fn change(entry: *mut mntent) -> *mut mntent {
    if entry.is_null() {
        return entry;
    }
    // SAFETY: the type is a string with a NUL, in a buffer that belongs to the caller of getmntent; the new
    // one, which is shorter than any of ours, lies within it.
    unsafe {
        let name = (*entry).mnt_type;
        if !name.is_null() && is_our_type(CStr::from_ptr(name).to_bytes()) {
            core::ptr::copy_nonoverlapping(BTRFS.as_ptr().cast(), name, BTRFS.len());
        }
    }
    entry
}

/// As in the C library.
///
/// # Safety
/// As of getmntent.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getmntent(stream: *mut FILE) -> *mut mntent {
    match next!(c"getmntent" as unsafe extern "C" fn(*mut FILE) -> *mut mntent) {
        // SAFETY: as the caller promises.
        Some(function) => unsafe { change(function(stream)) },
        None => core::ptr::null_mut(),
    }
}

/// As in the C library.
///
/// # Safety
/// As of getmntent_r.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getmntent_r(
    stream: *mut FILE,
    entry: *mut mntent,
    buffer: *mut c_char,
    size: c_int,
) -> *mut mntent {
    type Function = unsafe extern "C" fn(*mut FILE, *mut mntent, *mut c_char, c_int) -> *mut mntent;
    match next!(c"getmntent_r" as Function) {
        // SAFETY: as the caller promises.
        Some(function) => unsafe { change(function(stream, entry, buffer, size)) },
        None => core::ptr::null_mut(),
    }
}

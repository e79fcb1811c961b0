//! `statfs` and its kind: mounts of ours are Btrfs.

use libc::{c_char, c_int};

use crate::mounts::{FUSE_SUPER_MAGIC, is_ours};
use crate::real::next;
use crate::{errno, real};

/// `BTRFS_SUPER_MAGIC`.
const BTRFS_SUPER_MAGIC: libc::__fsword_t = 0x9123_683e;

/// Whether the answer is to be changed.
fn may_be_ours(result: c_int, found: *const libc::statfs) -> bool {
    // SAFETY: after success the caller's struct is filled.
    result == 0 && unsafe { (*found).f_type } == FUSE_SUPER_MAGIC
}

/// Puts the type of Btrfs into the answer if `device` is ours.
///
/// # Safety
/// `found` is a struct that can be written.
unsafe fn change(found: *mut libc::statfs, device: errno::Result<libc::dev_t>) {
    let saved = errno::get();
    if device.is_ok_and(|device| is_ours(libc::major(device), libc::minor(device))) {
        // SAFETY: as the caller promises.
        unsafe { (*found).f_type = BTRFS_SUPER_MAGIC };
    }
    errno::set(saved);
}

/// The device that a path is on.
fn device_of(path: *const c_char) -> errno::Result<libc::dev_t> {
    let mut found = core::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the path was good enough for statfs; the pointer is to a whole struct.
    let result = unsafe { libc::syscall(libc::SYS_newfstatat, libc::AT_FDCWD, path, found.as_mut_ptr(), 0) };
    // SAFETY: zeros are valid.
    if result == 0 { Ok(unsafe { found.assume_init() }.st_dev) } else { Err(errno::get()) }
}

macro_rules! by_path {
    ($name:ident, $text:literal) => {
        /// As in the C library.
        ///
        /// # Safety
        /// As of statfs.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(path: *const c_char, found: *mut libc::statfs) -> c_int {
            let kind = next!($text as unsafe extern "C" fn(*const c_char, *mut libc::statfs) -> c_int);
            let Some(function) = kind else { return real::no_function() };
            // SAFETY: as the caller promises.
            let result = unsafe { function(path, found) };
            if may_be_ours(result, found) {
                // SAFETY: the true function has written there.
                unsafe { change(found, device_of(path)) };
            }
            result
        }
    };
}

macro_rules! by_descriptor {
    ($name:ident, $text:literal) => {
        /// As in the C library.
        ///
        /// # Safety
        /// As of fstatfs.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(fd: c_int, found: *mut libc::statfs) -> c_int {
            let kind = next!($text as unsafe extern "C" fn(c_int, *mut libc::statfs) -> c_int);
            let Some(function) = kind else { return real::no_function() };
            // SAFETY: as the caller promises.
            let result = unsafe { function(fd, found) };
            if may_be_ours(result, found) {
                // SAFETY: the true function has written there.
                unsafe { change(found, real::fstat(fd).map(|found| found.st_dev)) };
            }
            result
        }
    };
}

// With 64 bits both forms have one struct.
by_path!(statfs, c"statfs");
by_path!(statfs64, c"statfs64");
by_descriptor!(fstatfs, c"fstatfs");
by_descriptor!(fstatfs64, c"fstatfs64");

//! `stat` and its kind: each subvolume has a device number of its own, and the inode numbers in it are those
//! on disk, as in the kernel.
//!
//! A mount has one device number; so that inodes of different subvolumes differ, the daemon shows
//! `inode ^ subvolume << 40` for those in other subvolumes than the mounted one.
//!
//! # Invariants
//! * A device number that is made up here is none that the kernel has: its major has more than 12 bits. It says
//!   which mount and which subvolume.

use libc::{c_char, c_int, c_uint};

use crate::mounts::is_ours;
use crate::real::next;
use crate::{errno, real};

/// The subvolume's number is above so many bits of the inode number.
const TREE_SHIFT: u32 = 40;
/// Majors from here on are made up; the kernel's have 12 bits.
const FIRST_MAJOR: u32 = 1 << 12;

/// An inode as it is to be shown.
struct Shown {
    major: u32,
    minor: u32,
    inode: u64,
}

/// How an inode in another subvolume than the mounted one is shown; `None` for all others.
fn shown(major: u32, minor: u32, inode: u64) -> Option<Shown> {
    let tree = (inode >> TREE_SHIFT) as u32;
    if tree == 0 {
        return None;
    }
    let saved = errno::get();
    let ours = is_ours(major, minor);
    errno::set(saved);
    ours.then_some(Shown {
        major: FIRST_MAJOR + tree,
        minor: major << 20 | minor,
        inode: inode & ((1 << TREE_SHIFT) - 1),
    })
}

/// Changes what stat gave.
///
/// # Safety
/// `found` is a struct that was filled.
unsafe fn change(result: c_int, found: *mut libc::stat) -> c_int {
    if result == 0 {
        // SAFETY: as the caller promises.
        let found = unsafe { &mut *found };
        if let Some(shown) = shown(libc::major(found.st_dev), libc::minor(found.st_dev), found.st_ino) {
            found.st_dev = libc::makedev(shown.major, shown.minor);
            found.st_ino = shown.inode;
        }
    }
    result
}

macro_rules! stat_function {
    ($name:ident, $text:literal, $($argument:ident: $kind:ty),* ; $found:ident $(; $flags:ident: $flags_kind:ty)?) => {
        /// As in the C library.
        ///
        /// # Safety
        /// As of the true function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $kind,)* $found: *mut libc::stat $(, $flags: $flags_kind)?) -> c_int {
            type Function = unsafe extern "C" fn($($kind,)* *mut libc::stat $(, $flags_kind)?) -> c_int;
            match next!($text as Function) {
                // SAFETY: as the caller promises; after success the struct is filled.
                Some(function) => unsafe { change(function($($argument,)* $found $(, $flags)?), $found) },
                None => real::no_function(),
            }
        }
    };
}

// With 64 bits both forms have one struct.
stat_function!(stat, c"stat", path: *const c_char; found);
stat_function!(stat64, c"stat64", path: *const c_char; found);
stat_function!(lstat, c"lstat", path: *const c_char; found);
stat_function!(lstat64, c"lstat64", path: *const c_char; found);
stat_function!(fstat, c"fstat", fd: c_int; found);
stat_function!(fstat64, c"fstat64", fd: c_int; found);
stat_function!(fstatat, c"fstatat", fd: c_int, path: *const c_char; found; flags: c_int);
stat_function!(fstatat64, c"fstatat64", fd: c_int, path: *const c_char; found; flags: c_int);
// What programs built with older C libraries call.
stat_function!(__xstat, c"__xstat", version: c_int, path: *const c_char; found);
stat_function!(__xstat64, c"__xstat64", version: c_int, path: *const c_char; found);
stat_function!(__lxstat, c"__lxstat", version: c_int, path: *const c_char; found);
stat_function!(__lxstat64, c"__lxstat64", version: c_int, path: *const c_char; found);
stat_function!(__fxstat, c"__fxstat", version: c_int, fd: c_int; found);
stat_function!(__fxstat64, c"__fxstat64", version: c_int, fd: c_int; found);
stat_function!(__fxstatat, c"__fxstatat", version: c_int, fd: c_int, path: *const c_char; found; flags: c_int);
stat_function!(__fxstatat64, c"__fxstatat64", version: c_int, fd: c_int, path: *const c_char; found; flags: c_int);

/// As in the C library.
///
/// # Safety
/// As of statx.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn statx(
    fd: c_int,
    path: *const c_char,
    flags: c_int,
    mask: c_uint,
    found: *mut libc::statx,
) -> c_int {
    type Function = unsafe extern "C" fn(c_int, *const c_char, c_int, c_uint, *mut libc::statx) -> c_int;
    let Some(function) = next!(c"statx" as Function) else { return real::no_function() };
    // SAFETY: as the caller promises.
    let result = unsafe { function(fd, path, flags, mask, found) };
    if result == 0 {
        // SAFETY: after success the struct is filled.
        let found = unsafe { &mut *found };
        if let Some(shown) = shown(found.stx_dev_major, found.stx_dev_minor, found.stx_ino) {
            (found.stx_dev_major, found.stx_dev_minor, found.stx_ino) = (shown.major, shown.minor, shown.inode);
        }
    }
    result
}

//! Images that are devices of a mount: who asks how large a device is gets the size of the file. Where the kernel mounts
//! an image there is a loop device in front of it, which answers.
//!
//! # Invariants
//! * Only of a file that a mount of Butterfs has named as its device, in an answer that went through here.
//!
//! # Locking
//! None: a file is remembered as one atomic number.

use core::sync::atomic::{AtomicU64, Ordering};

use libc::{c_int, c_void};

use crate::real;

/// `BLKGETSIZE64`.
pub const BLKGETSIZE64: u32 = 0x8008_1272;
/// Where the path is in `struct btrfs_ioctl_dev_info_args`.
const DEV_PATH: usize = 3072;
/// So many files are remembered.
const SLOTS: usize = 256;

static NAMED: [AtomicU64; SLOTS] = [const { AtomicU64::new(0) }; SLOTS];

/// A number for a file, never zero, and its slot.
fn mark(file: &libc::stat) -> (u64, usize) {
    let mixed = (file.st_dev ^ file.st_ino.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed | 1, mixed as usize >> 8 & (SLOTS - 1))
}

/// Remembers the image that `DEV_INFO` named.
///
/// # Safety
/// `argument` is the struct of that command, filled by it.
pub unsafe fn remember(argument: *const c_void) {
    // SAFETY: the path lies in the struct, and ends with a NUL; fstatat writes a whole struct.
    let found = unsafe {
        let mut found = core::mem::MaybeUninit::zeroed();
        let path = argument.cast::<libc::c_char>().add(DEV_PATH);
        let result = libc::syscall(libc::SYS_newfstatat, libc::AT_FDCWD, path, found.as_mut_ptr(), 0);
        (result == 0).then(|| found.assume_init())
    };
    if let Some(file) = found.filter(is_plain) {
        let (mark, slot) = mark(&file);
        NAMED[slot].store(mark, Ordering::Relaxed);
    }
}

/// The size of an image that was named.
pub fn size(fd: c_int) -> Option<u64> {
    let file = real::fstat(fd).ok().filter(is_plain)?;
    let (mark, slot) = mark(&file);
    (NAMED[slot].load(Ordering::Relaxed) == mark).then_some(file.st_size as u64)
}

fn is_plain(file: &libc::stat) -> bool {
    file.st_mode & libc::S_IFMT == libc::S_IFREG
}

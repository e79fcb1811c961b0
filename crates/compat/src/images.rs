//! Images that are devices of a mount: who asks how large a device is gets the size of the file. Where the kernel mounts
//! an image there is a loop device in front of it, which answers.
//!
//! # Invariants
//! * Only of a file that a mount of Butterfs has named as its device, in an answer that went through here.
//!
//! * A file that was named stays known, however many there are, up to [`PLACES`]; those after that many are not.
//!
//! # Locking
//! None: a place is taken once, by one atomic exchange, and is read only after all of it was written. Who is interrupted
//! in between, or forked, leaves a place that is never used.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use libc::{c_int, c_void};

use crate::real;

/// `BLKGETSIZE64`.
pub const BLKGETSIZE64: u32 = 0x8008_1272;
/// Where the path is in `struct btrfs_ioctl_dev_info_args`.
const DEV_PATH: usize = 3072;
/// So many files are remembered, more than a filesystem has devices.
const PLACES: usize = 2048;

/// A file that was named.
struct Place {
    state: AtomicU8,
    device: AtomicU64,
    inode: AtomicU64,
}

/// Nothing was ever here.
const FREE: u8 = 0;
/// Somebody writes here.
const TAKEN: u8 = 1;
/// What is here stays.
const WHOLE: u8 = 2;

impl Place {
    const fn new() -> Self {
        Self { state: AtomicU8::new(FREE), device: AtomicU64::new(0), inode: AtomicU64::new(0) }
    }

    fn is_of(&self, file: &libc::stat) -> bool {
        self.state.load(Ordering::Acquire) == WHOLE
            && self.device.load(Ordering::Relaxed) == file.st_dev
            && self.inode.load(Ordering::Relaxed) == file.st_ino
    }

    /// Whether it was free, and is the file's now.
    fn take(&self, file: &libc::stat) -> bool {
        let taken = self.state.compare_exchange(FREE, TAKEN, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if taken {
            self.device.store(file.st_dev, Ordering::Relaxed);
            self.inode.store(file.st_ino, Ordering::Relaxed);
            self.state.store(WHOLE, Ordering::Release);
        }
        taken
    }
}

/// A file is in the first place that was free when it came; no place becomes free again.
static NAMED: [Place; PLACES] = [const { Place::new() }; PLACES];

fn is_named(file: &libc::stat) -> bool {
    NAMED.iter().take_while(|place| place.state.load(Ordering::Relaxed) != FREE).any(|place| place.is_of(file))
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
    if let Some(file) = found.filter(is_plain).filter(|file| !is_named(file)) {
        // Where all are taken it is not remembered.
        let _ = NAMED.iter().any(|place| place.take(&file));
    }
}

/// The size of an image that was named.
pub fn size(fd: c_int) -> Option<u64> {
    let file = real::fstat(fd).ok().filter(is_plain)?;
    is_named(&file).then_some(file.st_size as u64)
}

fn is_plain(file: &libc::stat) -> bool {
    file.st_mode & libc::S_IFMT == libc::S_IFREG
}

//! Which filesystems are mounts of Butterfs.
//!
//! # Invariants
//! * An answer is remembered for a second: device numbers are given out again after an unmount.
//!
//! # Locking
//! None: a verdict is one atomic number.

use core::sync::atomic::{AtomicU64, Ordering};

use libc::c_int;

/// What statfs says of any FUSE mount.
pub const FUSE_SUPER_MAGIC: libc::__fsword_t = 0x6573_5546;
/// What the mount table says of ours.
const TYPES: [&[u8]; 2] = [b"fuseblk.butterfs", b"fuse.butterfs"];
/// So many verdicts are remembered.
const SLOTS: usize = 8;

static VERDICTS: [AtomicU64; SLOTS] = [const { AtomicU64::new(0) }; SLOTS];

/// Whether this is the type of a mount of ours.
pub fn is_our_type(name: &[u8]) -> bool {
    TYPES.contains(&name)
}

/// Whether a descriptor is on some FUSE mount.
pub fn is_fuse(fd: c_int) -> bool {
    crate::real::fstatfs(fd).is_some_and(|found| found.f_type == FUSE_SUPER_MAGIC)
}

/// Whether this device number is that of a mount of ours.
pub fn is_ours(major: u32, minor: u32) -> bool {
    // Numbers of the kernel's: 12 and 20 bits.
    if major >> 12 != 0 || minor >> 20 != 0 {
        return false;
    }
    let device = u64::from(major) << 20 | u64::from(minor);
    let now = seconds() & 0x3fff_ffff;
    let slot = &VERDICTS[device as usize % SLOTS];
    let known = slot.load(Ordering::Relaxed);
    // Device number, 30 bits of time, whether there is a verdict, and the verdict.
    if known & 2 != 0 && known >> 32 == device && known >> 2 & 0x3fff_ffff == now {
        return known & 1 != 0;
    }
    let verdict = look_up(major, minor);
    slot.store(device << 32 | now << 2 | 2 | u64::from(verdict), Ordering::Relaxed);
    verdict
}

fn seconds() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a whole struct.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    time.tv_sec as u64
}

/// Looks into the mount table. `errno` may change.
fn look_up(major: u32, minor: u32) -> bool {
    // SAFETY: the path ends with a NUL; without O_CREAT there is no third argument.
    let fd = unsafe { libc::open(c"/proc/self/mountinfo".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if fd < 0 {
        return false;
    }
    let mut table = Table { wanted: (major, minor), ..Table::default() };
    let mut buffer = [0_u8; 1024];
    let found = loop {
        // SAFETY: the kernel writes at most as many bytes as the buffer has.
        let got = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
        let Some(bytes) = usize::try_from(got).ok().filter(|got| *got > 0).and_then(|got| buffer.get(..got)) else {
            break false;
        };
        if bytes.iter().any(|byte| table.take(*byte)) {
            break true;
        }
    };
    // SAFETY: it is ours.
    unsafe { libc::close(fd) };
    found
}

/// `/proc/self/mountinfo`, byte by byte: words, of which the third is a device number and the one behind
/// ` - ` a type.
#[derive(Default)]
struct Table {
    wanted: (u32, u32),
    word: usize,
    /// The beginning of the word, and its true length.
    text: [u8; 32],
    len: usize,
    device_is_right: bool,
    /// The last word was a dash.
    type_follows: bool,
}

impl Table {
    /// Whether with this byte it is known that the device is ours.
    fn take(&mut self, byte: u8) -> bool {
        if byte != b' ' && byte != b'\n' {
            if let Some(place) = self.text.get_mut(self.len) {
                *place = byte;
            }
            self.len += 1;
            return false;
        }
        let found = self.end_word();
        self.word += 1;
        self.len = 0;
        if byte == b'\n' {
            (self.word, self.device_is_right, self.type_follows) = (0, false, false);
        }
        found
    }

    fn end_word(&mut self) -> bool {
        let text = self.text.get(..self.len).unwrap_or_default();
        if self.word == 2 {
            self.device_is_right = is_device(text, self.wanted);
        }
        if self.type_follows {
            self.type_follows = false;
            return self.device_is_right && is_our_type(text);
        }
        // Optional fields come before the dash, and have colons or are words.
        self.type_follows = self.word >= 6 && text == b"-";
        false
    }
}

/// Whether `text` is `major:minor`.
fn is_device(text: &[u8], wanted: (u32, u32)) -> bool {
    let mut parts = text.split(|byte| *byte == b':').map(number);
    (parts.next().flatten(), parts.next().flatten()) == (Some(wanted.0), Some(wanted.1))
}

fn number(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0_u32, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

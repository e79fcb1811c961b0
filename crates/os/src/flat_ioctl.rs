//! ioctls of a mounted filesystem whose argument is one flat struct, and two that have records behind it.

use rustix::io::{Errno, Result};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};
use std::ffi::c_void;
use std::os::fd::AsFd;

/// The commands that are allowed: of Btrfs those whose struct has no pointer in it and no tail
/// behind it that the kernel would follow (63 has one in its struct, for another command); FITRIM; and those of Butterfs
/// itself, all of which are like that. By type and number.
const ALLOWED: [(u32, &[u32]); 3] = [
    (0x58, &[121]),
    (0x94, &[8, 14, 15, 16, 17, 18, 19, 22, 24, 25, 26, 28, 29, 30, 31, 34, 37, 49, 50, 52, 53, 60, 63]),
    (0xBF, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 32, 50, 51, 52, 53, 54, 96, 97, 98, 99, 100]),
];

/// Runs a command with `argument`, whose length must be what the command's number says, as its
/// input and output.
///
/// # Errors
/// `EINVAL` for another length; `ENOTTY` for a command that is not known to be flat.
pub fn flat_ioctl(fd: impl AsFd, command: u32, argument: &mut [u8]) -> Result<i32> {
    let (kind, number, size) = (command >> 8 & 0xff, command & 0xff, command >> 16 & 0x3fff);
    if !ALLOWED.iter().any(|(allowed, numbers)| *allowed == kind && numbers.contains(&number)) {
        return Err(Errno::NOTTY);
    }
    if argument.len() != size as usize {
        return Err(Errno::INVAL);
    }
    // SAFETY: for an allowed command the kernel, whichever driver gets it, reads and writes at most
    // as many bytes at the argument as its number says, all of them in `argument`, and follows no
    // pointer in them. A file of another driver answers ENOTTY. Any bytes are valid bytes.
    unsafe { ioctl(fd, Flat { command, argument }) }
}

/// A command whose argument has records behind it, as many as a number in it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tailed {
    /// `BTRFS_IOC_SPACE_INFO`: a `u64` at the beginning says how many records of 24 bytes there is room for.
    SpaceInfo,
    /// `FS_IOC_FIEMAP`: a `u32` at 24 says how many records of 56 bytes there is room for.
    Fiemap,
}

impl Tailed {
    fn command(self) -> u32 {
        match self {
            Self::SpaceInfo => 0xc010_9414,
            Self::Fiemap => 0xc020_660b,
        }
    }

    /// How many bytes the argument and its records take; `None` if it is not even an argument.
    fn needs(self, argument: &[u8]) -> Option<usize> {
        let (head, count, record) = match self {
            Self::SpaceInfo => (16, u64::from_ne_bytes(*argument.first_chunk()?), 24),
            Self::Fiemap => (32, u32::from_ne_bytes(*argument.get(24..)?.first_chunk()?).into(), 56),
        };
        usize::try_from(count).ok()?.checked_mul(record)?.checked_add(head)
    }
}

/// Runs a command whose argument has records behind it.
///
/// # Errors
/// `EINVAL` if `argument` has no room for as many records as it says.
pub fn tailed_ioctl(fd: impl AsFd, tailed: Tailed, argument: &mut [u8]) -> Result<i32> {
    if tailed.needs(argument).is_none_or(|needs| needs > argument.len()) {
        return Err(Errno::INVAL);
    }
    // SAFETY: the kernel reads and writes the argument and at most as many records behind it as a number in it says,
    // all of which are in `argument`, and follows no pointer in them. Any bytes are valid bytes.
    unsafe { ioctl(fd, Flat { command: tailed.command(), argument }) }
}

struct Flat<'a> {
    command: u32,
    argument: &'a mut [u8],
}

// SAFETY: the pointer is that of a live, exclusively borrowed slice, whose length the caller of
// `flat_ioctl` or `tailed_ioctl` has checked against the command; the returned value is a plain number.
unsafe impl Ioctl for Flat<'_> {
    type Output = i32;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.command as Opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> Result<i32> {
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_flat_commands_of_the_right_size_are_run() {
        let file = tempfile::tempfile().unwrap();
        // SNAP_CREATE_V2: has pointers.
        assert_eq!(flat_ioctl(&file, 0x5000_9417, &mut [0; 4096]), Err(Errno::NOTTY));
        // Room for one record, and two announced.
        let mut argument = [0; 40];
        argument[0] = 2;
        assert_eq!(tailed_ioctl(&file, Tailed::SpaceInfo, &mut argument), Err(Errno::INVAL));
        assert_eq!(tailed_ioctl(&file, Tailed::Fiemap, &mut [0xff; 88]), Err(Errno::INVAL));
        assert_eq!(tailed_ioctl(&file, Tailed::Fiemap, &mut []), Err(Errno::INVAL));
        argument[0] = 1;
        assert_eq!(tailed_ioctl(&file, Tailed::SpaceInfo, &mut argument), Err(Errno::NOTTY));
        // SUBVOL_GETFLAGS, a u64.
        assert_eq!(flat_ioctl(&file, 0x8008_9419, &mut [0; 4]), Err(Errno::INVAL));
    }
}

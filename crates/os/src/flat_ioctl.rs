//! ioctls of a mounted filesystem whose argument is one flat struct.

use rustix::io::{Errno, Result};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};
use std::ffi::c_void;
use std::os::fd::AsFd;

/// The commands that are allowed: of Btrfs those whose struct has no pointer in it and no tail
/// behind it that the kernel would follow (63 has one in its struct, for another command); FITRIM; and those of Butterfs
/// itself, all of which are like that. By type and number.
const ALLOWED: [(u32, &[u32]); 3] = [
    (0x58, &[121]),
    (0x94, &[8, 14, 15, 16, 18, 19, 22, 24, 25, 26, 34, 37, 49, 50, 60, 63]),
    (0xBF, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 32, 50, 51, 52, 53, 54]),
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

struct Flat<'a> {
    command: u32,
    argument: &'a mut [u8],
}

// SAFETY: the pointer is that of a live, exclusively borrowed slice, whose length the caller of
// `flat_ioctl` has checked against the command; the returned value is a plain number.
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
        // SUBVOL_GETFLAGS, a u64.
        assert_eq!(flat_ioctl(&file, 0x8008_9419, &mut [0; 4]), Err(Errno::INVAL));
    }
}

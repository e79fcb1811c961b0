//! Questions to a block device that only an ioctl answers.

use rustix::io::Result;
use rustix::ioctl::{Getter, Opcode, ioctl, opcode};
use std::os::fd::AsFd;

/// `BLKGETSIZE64`, declared by Linux with the size of a pointer although it writes a `u64`.
const BLKGETSIZE64: Opcode = opcode::read::<usize>(0x12, 114);
/// `BLKSSZGET`: the logical sector size.
const BLKSSZGET: Opcode = opcode::none(0x12, 104);

/// The size of a block device in bytes.
pub fn device_size(device: impl AsFd) -> Result<u64> {
    // SAFETY: BLKGETSIZE64 writes exactly one u64 through its argument, and `Getter` provides
    // storage for one u64. On another kind of file the kernel answers ENOTTY and writes nothing.
    unsafe { ioctl(device, Getter::<BLKGETSIZE64, u64>::new()) }
}

/// The logical sector size of a block device in bytes.
pub fn sector_size(device: impl AsFd) -> Result<u32> {
    // SAFETY: BLKSSZGET writes exactly one C int through its argument, which u32 has room for.
    unsafe { ioctl(device, Getter::<BLKSSZGET, u32>::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_file_is_not_a_block_device() {
        let file = tempfile::tempfile().unwrap();
        assert!(device_size(&file).is_err());
        assert!(sector_size(&file).is_err());
    }
}

//! Questions to a block device that only an ioctl answers.

use crate::loop_device;
use rustix::io::Result;
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// `BLKGETSIZE64`, declared by Linux with the size of a pointer although it writes a `u64`.
const BLKGETSIZE64: Opcode = opcode::read::<usize>(0x12, 114);
/// `BLKSSZGET`: the logical sector size.
const BLKSSZGET: Opcode = opcode::none(0x12, 104);

/// `BLKDISCARD`: where a range begins, and how long it is.
const BLKDISCARD: Opcode = opcode::none(0x12, 119);

/// Tells a block device that a range of bytes is not needed. What it reads as from then on is the device's choice.
pub fn discard(device: impl AsFd, offset: u64, len: u64) -> Result<()> {
    // SAFETY: BLKDISCARD reads exactly two u64 through its argument, which `Setter` points to an array of. On another
    // kind of file the kernel answers ENOTTY and reads nothing.
    unsafe { ioctl(device, Setter::<BLKDISCARD, [u64; 2]>::new([offset, len])) }
}

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

/// The device number (`st_dev`) of the filesystem that holds what is stored in a file, or in the file behind a loop device.
/// `None` for other devices.
pub fn filesystem_under(path: &Path) -> std::io::Result<Option<u64>> {
    let found = path.metadata()?;
    if !found.file_type().is_block_device() {
        return Ok(Some(found.dev()));
    }
    Ok(loop_device::backing_filesystem(File::open(path)?).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_file_is_not_a_block_device() {
        let file = tempfile::tempfile().unwrap();
        assert!(device_size(&file).is_err());
        assert!(sector_size(&file).is_err());
        assert!(discard(&file, 0, 4096).is_err());
        assert!(loop_device::backing_filesystem(&file).is_err());
    }

    #[test]
    fn a_file_lies_on_its_filesystem() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(filesystem_under(file.path()).unwrap(), Some(file.as_file().metadata().unwrap().dev()));
        assert!(filesystem_under(Path::new("/there/is/none")).is_err());
    }
}

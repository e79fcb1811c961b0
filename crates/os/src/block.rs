//! Questions to a block device that only an ioctl answers.

use crate::loop_device;
use rustix::fs::{major, makedev, minor};
use rustix::io::Result;
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

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

/// So many devices lie upon each other at most; what is deeper is not looked at.
const DEEPEST: usize = 32;

/// The device numbers (`st_dev`) of the filesystems that hold what is stored in a file or on a device: through loop devices,
/// partitions, and devices that are mapped upon others. None for a device that is its own storage.
///
/// # Errors
/// If the file or device cannot be looked at. What is below it and cannot be, is left out.
pub fn filesystems_under(path: &Path) -> std::io::Result<Vec<u64>> {
    let found = path.metadata()?;
    if !found.file_type().is_block_device() {
        return Ok(vec![found.dev()]);
    }
    let mut filesystems: Vec<u64> = loop_device::backing_filesystem(File::open(path)?).into_iter().collect();
    let mut devices = vec![(found.rdev(), 0)];
    while let Some((device, depth)) = devices.pop() {
        let (files, below) = under_device(device);
        let files = files.iter().filter_map(|file| file.metadata().ok());
        for file in files {
            match file.file_type().is_block_device() {
                true if depth < DEEPEST => devices.push((file.rdev(), depth + 1)),
                true => {}
                false => filesystems.push(file.dev()),
            }
        }
        devices.extend(below.into_iter().filter(|_| depth < DEEPEST).map(|device| (device, depth + 1)));
    }
    Ok(filesystems)
}

/// The files and devices right below a device, as sysfs has them.
fn under_device(device: u64) -> (Vec<PathBuf>, Vec<u64>) {
    let dir = PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device)));
    let backing = std::fs::read(dir.join("loop/backing_file"));
    let files = backing.map(|name| PathBuf::from(OsStr::from_bytes(name.trim_ascii_end()))).into_iter().collect();
    let slaves = std::fs::read_dir(dir.join("slaves")).into_iter().flatten().flatten().map(|entry| entry.path());
    let whole = dir.join("partition").exists().then(|| dir.join(".."));
    (files, slaves.chain(whole).filter_map(|device| number_in(&device.join("dev"))).collect())
}

/// A device number as sysfs writes it: `7:2`.
fn number_in(file: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
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
        assert_eq!(filesystems_under(file.path()).unwrap(), [file.as_file().metadata().unwrap().dev()]);
        assert!(filesystems_under(Path::new("/there/is/none")).is_err());
    }
}

//! Devices that cannot be written, and seeds: they are mounted read-only, with a warning in the words of mount(8), which
//! does the same where the kernel mounts.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use butterfs_format::Superblock;
use butterfs_format::superblock::{SUPER_FLAG_SEEDING, SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use rustix::fs::{Access, FileType};
use rustix::io::Errno;

use crate::output;

/// Whether devices can be read only, whoever asks. Who merely may not write is told so when they are opened.
pub(super) fn are_protected(paths: &[PathBuf]) -> bool {
    // What has grown from a seed can be written.
    paths.iter().any(|path| is_protected(path)) || paths.iter().all(|path| is_seed(path))
}

/// Says so, once it is mounted.
pub(super) fn tell(directory: &Path) {
    output::say_as("mount", format!("{}: WARNING: source write-protected, mounted read-only.", directory.display()));
}

/// Whether a device, or the filesystem of a file, can only be read.
pub(in crate::commands) fn is_protected(path: &Path) -> bool {
    let Ok(found) = rustix::fs::stat(path) else { return false };
    if FileType::from_raw_mode(found.st_mode) != FileType::BlockDevice {
        return rustix::fs::access(path, Access::WRITE_OK) == Err(Errno::ROFS);
    }
    let (major, minor) = (rustix::fs::major(found.st_rdev), rustix::fs::minor(found.st_rdev));
    std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/ro")).is_ok_and(|text| text.trim() == "1")
}

/// Whether the filesystem of a device or a file is a seed.
pub(in crate::commands) fn is_seed(path: &Path) -> bool {
    let (mut bytes, offset) = ([0; SUPERBLOCK_SIZE], SUPERBLOCK_OFFSETS[0]);
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut bytes, offset));
    let superblock = read.ok().and_then(|()| Superblock::parse(&bytes, offset).ok());
    superblock.is_some_and(|superblock| superblock.flags.get() & SUPER_FLAG_SEEDING != 0)
}

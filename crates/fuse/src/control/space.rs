//! Space of a mounted filesystem; on the kernel's filesystems too.

use super::wire;
use butterfs_os::flat_ioctl::flat_ioctl;
use std::io;
use std::os::fd::BorrowedFd;

/// What is to be trimmed, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrimRange {
    /// Where it begins.
    pub start: u64,
    /// How long it is.
    pub len: u64,
    /// Shorter free ranges are left out.
    pub minimum: u64,
}

/// Discards the free space of the filesystem that a file is in; gives how many bytes.
pub fn trim(file: BorrowedFd<'_>, range: TrimRange) -> io::Result<u64> {
    let mut args: Vec<u8> = Vec::new();
    [range.start, range.len, range.minimum].iter().for_each(|number| args.extend(number.to_ne_bytes()));
    flat_ioctl(file, wire::FITRIM, &mut args)?;
    let len = args.get(8..16).and_then(|bytes| bytes.try_into().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok(u64::from_ne_bytes(len))
}

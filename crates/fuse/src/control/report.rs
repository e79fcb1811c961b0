//! What a mounted filesystem consists of: devices, chunks and what they hold; on the kernel's mounts too.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

pub use butterfs_engine::filesystem::SpaceInfo;
use butterfs_format::items::Chunk;
use butterfs_format::{ItemType, TreeId};
use butterfs_os::flat_ioctl::{Tailed, flat_ioctl, tailed_ioctl};
use rustix::io::Errno;

use super::wire;

/// A filesystem as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesystemInfo {
    /// Its UUID.
    pub fsid: [u8; 16],
    /// How many devices it has.
    pub devices: u64,
    /// The highest number of a device.
    pub highest: u64,
}

/// A device of a filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number.
    pub devid: u64,
    /// The UUID of the filesystem that it belongs to, which is another one for a seed; zeros from kernels that do not
    /// tell.
    pub fsid: [u8; 16],
    /// Bytes in chunks.
    pub used: u64,
    /// Its size for the filesystem, in bytes.
    pub total: u64,
    /// Where it is; `None` if it is missing.
    pub path: Option<PathBuf>,
}

fn bad() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

fn number(bytes: &[u8], at: usize) -> io::Result<u64> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map(|bytes| u64::from_ne_bytes(*bytes)).ok_or_else(bad)
}

fn uuid(bytes: &[u8], at: usize) -> io::Result<[u8; 16]> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().ok_or_else(bad)
}

/// The filesystem that a file is in.
pub fn filesystem_info(file: BorrowedFd<'_>) -> io::Result<FilesystemInfo> {
    let mut info = vec![0; wire::size_of_command(wire::FS_INFO)];
    flat_ioctl(file, wire::FS_INFO, &mut info)?;
    Ok(FilesystemInfo { highest: number(&info, 0)?, devices: number(&info, 8)?, fsid: uuid(&info, 16)? })
}

/// A device by its number; `None` if there is none.
fn device_info(file: BorrowedFd<'_>, devid: u64) -> io::Result<Option<DeviceInfo>> {
    const PATH: usize = 3072;
    let mut info = vec![0; wire::size_of_command(wire::DEV_INFO)];
    info[..8].copy_from_slice(&devid.to_ne_bytes());
    match flat_ioctl(file, wire::DEV_INFO, &mut info) {
        Err(Errno::NODEV) => return Ok(None),
        other => other?,
    };
    let path = wire::name_in(&info[PATH..]).ok_or_else(bad)?;
    let path = (!path.is_empty()).then(|| PathBuf::from(String::from_utf8_lossy(path).into_owned()));
    let (used, total) = (number(&info, 24)?, number(&info, 32)?);
    Ok(Some(DeviceInfo { devid: number(&info, 0)?, used, total, fsid: uuid(&info, 40)?, path }))
}

/// The filesystem's devices by number, seeds too.
pub fn devices_of(file: BorrowedFd<'_>, info: &FilesystemInfo) -> io::Result<Vec<DeviceInfo>> {
    let mut found = Vec::new();
    for devid in 0..=info.highest {
        found.extend(device_info(file, devid)?);
    }
    Ok(found)
}

/// What the block groups hold, by type and profile.
pub fn space_infos(file: BorrowedFd<'_>) -> io::Result<Vec<SpaceInfo>> {
    const HEAD: usize = 16;
    const RECORD: usize = 24;
    let mut head = vec![0; HEAD];
    tailed_ioctl(file, Tailed::SpaceInfo, &mut head)?;
    let slots = number(&head, 8)?;
    let mut all = vec![0; HEAD + RECORD * usize::try_from(slots).map_err(|_| bad())?];
    all[..8].copy_from_slice(&slots.to_ne_bytes());
    tailed_ioctl(file, Tailed::SpaceInfo, &mut all)?;
    // One that came in between has no room.
    let count = number(&all, 8)?.min(slots);
    let record = |at: usize| {
        Ok(SpaceInfo { flags: number(&all, at)?, total: number(&all, at + 8)?, used: number(&all, at + 16)? })
    };
    (0..count as usize).map(|place| record(HEAD + place * RECORD)).collect()
}

/// All chunks, by logical address; for root only.
pub fn chunks(file: BorrowedFd<'_>) -> io::Result<Vec<(u64, Chunk)>> {
    let mut found = Vec::new();
    let mut from = Some(0);
    while let Some(first) = from {
        let page = chunk_page(file, first)?;
        from = page.last().and_then(|(start, _)| start.checked_add(1));
        found.extend(page);
    }
    Ok(found)
}

/// The chunks from an address on, as many as one search gives.
fn chunk_page(file: BorrowedFd<'_>, from: u64) -> io::Result<Vec<(u64, Chunk)>> {
    const KEY: usize = 104;
    const HEADER: usize = 32;
    const COUNT: usize = 64;
    /// The object of all chunks.
    const CHUNKS: u64 = 256;
    let kind = u64::from(ItemType::CHUNK_ITEM.0);
    let mut args = vec![0; wire::size_of_command(wire::TREE_SEARCH)];
    let numbers = [TreeId::CHUNK.0, CHUNKS, CHUNKS, from, u64::MAX, 0, u64::MAX];
    let words = numbers.into_iter().chain([kind | kind << 32, u64::from(u32::MAX)]);
    words.enumerate().for_each(|(at, word)| args[at * 8..at * 8 + 8].copy_from_slice(&word.to_ne_bytes()));
    flat_ioctl(file, wire::TREE_SEARCH, &mut args)?;
    let count = number(&args, COUNT)? as u32;
    let mut at = KEY;
    let mut found = Vec::new();
    for _ in 0..count {
        let (offset, len) = (number(&args, at + 16)?, (number(&args, at + 24)? >> 32) as usize);
        at += HEADER;
        let bytes = args.get(at..at + len).ok_or_else(bad)?;
        found.push((offset, Chunk::parse(bytes).map_err(|_| bad())?.0));
        at += len;
    }
    Ok(found)
}

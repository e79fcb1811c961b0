//! One of the two directories: each operation done by system calls, its outcome as a number or an errno.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::memory::{Aligned, map_private, map_write};
use super::{Operation, Outcome};
use crate::random::Random;

/// One of the two directories, with the files a thread holds open there.
#[derive(Debug)]
pub struct Side {
    root: PathBuf,
    pub(super) held: Option<File>,
}

impl Side {
    /// A side at `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.into(), held: None }
    }

    /// Does one operation.
    pub fn apply(&mut self, operation: &Operation) -> Outcome {
        use Operation::*;
        let at = |path: &Path| self.root.join(path);
        let data = |seed: u64, length: usize| Random::new(seed).bytes(length);
        match operation {
            Create { path, mode } => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::open(at(path), flags, Mode::from_raw_mode(*mode)).map(|_| 0)
            }
            Write { path, offset, seed, length } => {
                let file = open(&at(path), OFlags::WRONLY)?;
                file.write_all_at(&data(*seed, *length), *offset).map_err(errno)?;
                size(&file)
            }
            Append { path, seed, length } => {
                let file = open(&at(path), OFlags::WRONLY | OFlags::APPEND)?;
                std::io::Write::write_all(&mut &file, &data(*seed, *length)).map_err(errno)?;
                size(&file)
            }
            DirectWrite { path, offset, seed, length } => {
                let file = open(&at(path), OFlags::WRONLY | OFlags::DIRECT)?;
                let mut buffer = Aligned::new(*length);
                buffer.bytes().copy_from_slice(&data(*seed, *length));
                file.write_all_at(buffer.bytes(), *offset).map_err(errno)?;
                size(&file)
            }
            DirectRead { path, offset, length } => {
                let file = open(&at(path), OFlags::RDONLY | OFlags::DIRECT)?;
                let mut buffer = Aligned::new(*length);
                let read = file.read_at(buffer.bytes(), *offset).map_err(errno)?;
                Ok(hash(&buffer.bytes()[..read]))
            }
            MapWrite { path, offset, seed, length } => map_write(&at(path), *offset, &data(*seed, *length)),
            MapPrivate { path, seed } => map_private(&at(path), *seed),
            Read { path, offset, length } => {
                let file = open(&at(path), OFlags::RDONLY)?;
                read_range(&file, *offset, *length)
            }
            Truncate { path, length } => {
                let file = open(&at(path), OFlags::WRONLY)?;
                rustix::fs::ftruncate(&file, *length)?;
                size(&file)
            }
            Allocate { path, offset, length, how } => {
                let flags = match how {
                    0 => FallocateFlags::empty(),
                    1 => FallocateFlags::KEEP_SIZE,
                    2 => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    _ => FallocateFlags::ZERO_RANGE,
                };
                let file = open(&at(path), OFlags::WRONLY)?;
                rustix::fs::fallocate(&file, flags, *offset, *length)?;
                if flags.contains(FallocateFlags::PUNCH_HOLE) {
                    // Whether a hole punched into a hole changes times depends in the kernel on which extents it
                    // happens to have in memory.
                    let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
                    rustix::fs::futimens(&file, &Timestamps { last_access: now, last_modification: now })?;
                }
                size(&file)
            }
            CopyRange { from, offset, to, target, length } => {
                copy_range((&at(from), *offset), (&at(to), *target), *length)
            }
            Rename { from, to } => rustix::fs::rename(at(from), at(to)).map(|()| 0),
            RenameExchange { from, to } => {
                rustix::fs::renameat_with(CWD, at(from), CWD, at(to), RenameFlags::EXCHANGE).map(|()| 0)
            }
            RenameNoReplace { from, to } => {
                rustix::fs::renameat_with(CWD, at(from), CWD, at(to), RenameFlags::NOREPLACE).map(|()| 0)
            }
            Link { from, to } => rustix::fs::link(at(from), at(to)).map(|()| 0),
            Symlink { target, path } => rustix::fs::symlink(target, at(path)).map(|()| 0),
            Mkdir { path } => rustix::fs::mkdir(at(path), Mode::from_raw_mode(0o777)).map(|()| 0),
            Rmdir { path } => rustix::fs::rmdir(at(path)).map(|()| 0),
            Unlink { path } => rustix::fs::unlink(at(path)).map(|()| 0),
            Special { path, kind } => {
                let (kind, device) = match kind {
                    0 => (FileType::Fifo, 0),
                    1 => (FileType::Socket, 0),
                    2 => (FileType::CharacterDevice, rustix::fs::makedev(5, 77)),
                    _ => (FileType::BlockDevice, rustix::fs::makedev(700, 1 << 17)),
                };
                rustix::fs::mknodat(CWD, at(path), kind, Mode::from_raw_mode(0o600), device).map(|()| 0)
            }
            UnlinkOpen { path, seed, length } => {
                let file = open(&at(path), OFlags::RDWR)?;
                rustix::fs::unlink(at(path))?;
                file.write_all_at(&data(*seed, *length), 100).map_err(errno)?;
                let links = rustix::fs::fstat(&file)?.st_nlink as u64;
                Ok(links.wrapping_mul(31).wrapping_add(read_range(&file, 0, 1 << 20)?))
            }
            Hold { path } => {
                let file = open(&at(path), OFlags::RDWR)?;
                self.held = Some(file);
                Ok(0)
            }
            HeldWrite { offset, seed, length } => {
                let file = self.held.as_ref().ok_or(Errno::BADF)?;
                file.write_all_at(&data(*seed, *length), *offset).map_err(errno)?;
                size(file)
            }
            HeldRead => {
                let file = self.held.as_ref().ok_or(Errno::BADF)?;
                let links = rustix::fs::fstat(file)?.st_nlink as u64;
                Ok(links.wrapping_mul(31).wrapping_add(read_range(file, 0, 1 << 20)?))
            }
            Release => self.held.take().map(|_| 0).ok_or(Errno::BADF),
            SetXattr { path, name, seed, length, how } => {
                let flags = [XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE][usize::from(*how % 3)];
                rustix::fs::lsetxattr(at(path), name.as_str(), &data(*seed, *length), flags).map(|()| 0)
            }
            RemoveXattr { path, name } => rustix::fs::lremovexattr(at(path), name.as_str()).map(|()| 0),
            SetAcl { path, permissions } => {
                let name = "system.posix_acl_access";
                rustix::fs::setxattr(at(path), name, &access_list(*permissions), XattrFlags::empty()).map(|()| 0)
            }
            Chmod { path, mode } => rustix::fs::chmod(at(path), Mode::from_raw_mode(*mode)).map(|()| 0),
            Chown { path, uid, gid } => {
                let (uid, gid) = (rustix::fs::Uid::from_raw(*uid), rustix::fs::Gid::from_raw(*gid));
                rustix::fs::chownat(CWD, at(path), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map(|()| 0)
            }
            Utimens { path, seconds, nanoseconds } => {
                let time = |shift: i64| Timespec { tv_sec: seconds + shift, tv_nsec: *nanoseconds };
                let times = Timestamps { last_access: time(1), last_modification: time(0) };
                rustix::fs::utimensat(CWD, at(path), &times, AtFlags::SYMLINK_NOFOLLOW).map(|()| 0)
            }
            Fsync { path } => {
                let file = open(&at(path), OFlags::RDONLY)?;
                rustix::fs::fsync(&file).map(|()| 0)
            }
            Stat { path } => stat_hash(&at(path)),
            List { path } => list_hash(&at(path)),
        }
    }
}

pub(super) fn open(path: &Path, flags: OFlags) -> Result<File, Errno> {
    // NONBLOCK: a fifo must not stop the test.
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    rustix::fs::open(path, flags, Mode::empty()).map(File::from)
}

pub(super) fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

pub(super) fn size(file: &File) -> Outcome {
    Ok(rustix::fs::fstat(file)?.st_size as u64)
}

pub(super) fn hash(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh64::xxh64(bytes, 1)
}

pub(super) fn read_range(file: &File, offset: u64, length: usize) -> Outcome {
    let mut buffer = vec![0; length];
    let mut done = 0;
    while done < length {
        match file.read_at(&mut buffer[done..], offset + done as u64).map_err(errno)? {
            0 => break,
            read => done += read,
        }
    }
    Ok(hash(&buffer[..done]))
}

/// Copies by `copy_file_range` until all is done, or the source ends: how far one call comes is the mount's business.
fn copy_range((from, offset): (&Path, u64), (to, target): (&Path, u64), length: u64) -> Outcome {
    let (source, dest) = (open(from, OFlags::RDONLY)?, open(to, OFlags::RDWR)?);
    let mut done = 0;
    while done < length {
        let (mut offset, mut target) = (offset + done, target + done);
        let rest = (length - done) as usize;
        match rustix::fs::copy_file_range(&source, Some(&mut offset), &dest, Some(&mut target), rest)? {
            0 => break,
            copied => done += copied as u64,
        }
    }
    Ok(size(&dest)?.wrapping_mul(31).wrapping_add(done))
}

fn stat_hash(path: &Path) -> Outcome {
    let stat = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    let text = format!(
        "{} {:o} {} {} {} {}",
        stat.st_nlink, stat.st_mode, stat.st_uid, stat.st_gid, stat.st_size, stat.st_rdev
    );
    Ok(hash(text.as_bytes()))
}

fn list_hash(path: &Path) -> Outcome {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(errno)? {
        let entry = entry.map_err(errno)?;
        names.push(format!("{:?} {:?}", entry.file_name(), entry.file_type().map_err(errno)?));
    }
    names.sort();
    Ok(hash(names.join("\n").as_bytes()))
}

/// The on-wire form of `user::rwx user:1234:p group::r-x mask::p other::r--`.
fn access_list(permissions: u16) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    let undefined = u32::MAX;
    let entries = [
        (0x01_u16, 7_u16, undefined),
        (0x02, permissions & 7, 1234),
        (0x04, 5, undefined),
        (0x10, permissions >> 3 & 7, undefined),
        (0x20, 4, undefined),
    ];
    for (tag, permission, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permission.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

//! A seeded run of file operations, done alike in two directories: the subject and the reference.
//!
//! Each operation's outcome (a value or an errno) must be equal on both sides. Threads work in subtrees of their own
//! and on names of their own in one shared directory, so that each thread's outcomes follow from its seed alone.

use crate::random::Random;
use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The result of one operation: something comparable, or an errno.
pub type Outcome = Result<u64, Errno>;

/// Which operations of unequal support may be generated.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// fallocate, with punching and zeroing.
    pub fallocate: bool,
    /// POSIX access lists.
    pub acl: bool,
}

/// One operation. Paths are relative to the side's root.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Operation {
    Create { path: PathBuf, mode: u32 },
    Write { path: PathBuf, offset: u64, seed: u64, length: usize },
    Append { path: PathBuf, seed: u64, length: usize },
    DirectWrite { path: PathBuf, offset: u64, seed: u64, length: usize },
    DirectRead { path: PathBuf, offset: u64, length: usize },
    MapWrite { path: PathBuf, offset: u64, seed: u64, length: usize },
    MapPrivate { path: PathBuf, seed: u64 },
    Read { path: PathBuf, offset: u64, length: usize },
    Truncate { path: PathBuf, length: u64 },
    Allocate { path: PathBuf, offset: u64, length: u64, how: u8 },
    CopyRange { from: PathBuf, offset: u64, to: PathBuf, target: u64, length: u64 },
    Rename { from: PathBuf, to: PathBuf },
    RenameExchange { from: PathBuf, to: PathBuf },
    RenameNoReplace { from: PathBuf, to: PathBuf },
    Link { from: PathBuf, to: PathBuf },
    Symlink { target: PathBuf, path: PathBuf },
    Mkdir { path: PathBuf },
    Rmdir { path: PathBuf },
    Unlink { path: PathBuf },
    Special { path: PathBuf, kind: u8 },
    UnlinkOpen { path: PathBuf, seed: u64, length: usize },
    Hold { path: PathBuf },
    HeldWrite { offset: u64, seed: u64, length: usize },
    HeldRead,
    Release,
    SetXattr { path: PathBuf, name: String, seed: u64, length: usize, how: u8 },
    RemoveXattr { path: PathBuf, name: String },
    SetAcl { path: PathBuf, permissions: u16 },
    Chmod { path: PathBuf, mode: u32 },
    Chown { path: PathBuf, uid: u32, gid: u32 },
    Utimens { path: PathBuf, seconds: i64, nanoseconds: i64 },
    Fsync { path: PathBuf },
    Stat { path: PathBuf },
    List { path: PathBuf },
}

/// One of the two directories, with the files a thread holds open there.
#[derive(Debug)]
pub struct Side {
    root: PathBuf,
    held: Option<File>,
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

fn open(path: &Path, flags: OFlags) -> Result<File, Errno> {
    // NONBLOCK: a fifo must not stop the test.
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    rustix::fs::open(path, flags, Mode::empty()).map(File::from)
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

fn size(file: &File) -> Outcome {
    Ok(rustix::fs::fstat(file)?.st_size as u64)
}

fn hash(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh64::xxh64(bytes, 1)
}

fn read_range(file: &File, offset: u64, length: usize) -> Outcome {
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

#[allow(unsafe_code)]
fn map(file: &File) -> std::io::Result<memmap2::MmapMut> {
    // SAFETY: the file is this thread's own and nothing shortens it while it is mapped.
    unsafe { memmap2::MmapMut::map_mut(file) }
}

#[allow(unsafe_code)]
fn map_copy(file: &File) -> std::io::Result<memmap2::MmapMut> {
    // SAFETY: as in `map`.
    unsafe { memmap2::MmapOptions::new().map_copy(file) }
}

/// Writes into the file's mapped pages, inside its length; some of these are followed by msync.
fn map_write(path: &Path, offset: u64, data: &[u8]) -> Outcome {
    let file = open(path, OFlags::RDWR)?;
    let length = regular_size(&file)?;
    if length == 0 {
        return Err(Errno::INVAL);
    }
    let mut pages = map(&file).map_err(errno)?;
    let start = offset as usize % length;
    let end = (start + data.len()).min(length);
    pages[start..end].copy_from_slice(&data[..end - start]);
    if data.first().is_some_and(|byte| byte & 1 == 0) {
        pages.flush().map_err(errno)?;
    }
    Ok(hash(&pages))
}

/// Writes into a private mapping, which must not reach the file.
fn map_private(path: &Path, seed: u64) -> Outcome {
    let file = open(path, OFlags::RDWR)?;
    let length = regular_size(&file)?;
    if length == 0 {
        return Err(Errno::INVAL);
    }
    let mut pages = map_copy(&file).map_err(errno)?;
    let place = seed as usize % length;
    pages[place] = pages[place].wrapping_add(1);
    drop(pages);
    read_range(&file, 0, length)
}

fn regular_size(file: &File) -> Result<usize, Errno> {
    let stat = rustix::fs::fstat(file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::NODEV);
    }
    Ok(stat.st_size as usize)
}

/// A buffer whose bytes start at a page boundary, as O_DIRECT wants it.
#[derive(Debug)]
pub struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    /// A zeroed buffer of `length` bytes.
    pub fn new(length: usize) -> Self {
        let memory = vec![0_u8; length + 4096];
        let start = memory.as_ptr().align_offset(4096);
        Self { memory, start, length }
    }

    /// The bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

/// Draws one thread's operations from its seed and keeps what it knows to exist.
#[derive(Debug)]
pub struct Generator {
    random: Random,
    home: PathBuf,
    shared: PathBuf,
    tag: String,
    features: Features,
    files: Vec<PathBuf>,
    /// The first is the home, which stays.
    dirs: Vec<PathBuf>,
    attributes: Vec<(PathBuf, String)>,
    counter: u64,
}

impl Generator {
    /// A generator for the thread `tag`, which owns `home` and the names in `shared` that start with its tag.
    pub fn new(seed: u64, tag: &str, home: &str, shared: &str, features: Features) -> Self {
        Self {
            random: Random::new(seed ^ hash(tag.as_bytes())),
            home: home.into(),
            shared: shared.into(),
            tag: tag.into(),
            features,
            files: Vec::new(),
            dirs: vec![home.into()],
            attributes: Vec::new(),
            counter: 0,
        }
    }

    fn existing_file(&mut self) -> PathBuf {
        if self.random.percent(3) {
            return self.some_name();
        }
        self.random.pick(&self.files).cloned().unwrap_or_else(|| self.home.join("none"))
    }

    fn existing_any(&mut self) -> PathBuf {
        if self.random.percent(25) { self.existing_dir() } else { self.existing_file() }
    }

    fn existing_dir(&mut self) -> PathBuf {
        self.random.pick(&self.dirs).cloned().unwrap_or_else(|| self.home.clone())
    }

    /// A directory that may go: not the home.
    fn inner_dir(&mut self) -> PathBuf {
        self.random.pick(&self.dirs[1..]).cloned().unwrap_or_else(|| self.home.join("none"))
    }

    /// Something to be moved or replaced.
    fn movable(&mut self) -> PathBuf {
        if self.random.percent(25) { self.inner_dir() } else { self.existing_file() }
    }

    /// A name that may or may not exist.
    fn some_name(&mut self) -> PathBuf {
        let number = self.random.below(300);
        if self.random.percent(15) {
            return self.shared.join(format!("{}-{number}", self.tag));
        }
        self.existing_dir().join(format!("n{number}"))
    }

    fn new_name(&mut self) -> PathBuf {
        self.counter += 1;
        let counter = self.counter;
        match self.random.below(100) {
            0 => self.existing_dir().join(format!("{}{counter:09}", "long".repeat(61))),
            1 => self.existing_dir().join("x".repeat(256)),
            2..12 => self.shared.join(format!("{}-f{counter}", self.tag)),
            12..30 => self.some_name(),
            _ => self.existing_dir().join(format!("f{counter}")),
        }
    }

    fn offset(&mut self) -> u64 {
        match self.random.below(20) {
            0 => self.random.below(8 << 20),
            1..4 => 4096 * self.random.below(64),
            4..10 => self.random.below(4096),
            _ => self.random.below(200 << 10),
        }
    }

    fn length(&mut self) -> usize {
        match self.random.below(20) {
            0 => self.random.between(1, 300 << 10) as usize,
            1..8 => self.random.between(1, 2048) as usize,
            _ => self.random.between(1, 20_000) as usize,
        }
    }

    /// The next operation.
    pub fn draw(&mut self) -> Operation {
        use Operation::*;
        let seed = self.random.bits();
        let crowded = self.files.len() > 700;
        match self.random.below(1000) {
            0..110 if !crowded => Create { path: self.new_name(), mode: 0o600 | (seed & 0o77) as u32 },
            0..250 => Write { path: self.existing_file(), offset: self.offset(), seed, length: self.length() },
            250..310 => Append { path: self.existing_file(), seed, length: self.length() },
            310..350 => DirectWrite {
                path: self.existing_file(),
                offset: 4096 * self.random.below(64),
                seed,
                length: 4096 * self.random.between(1, 16) as usize,
            },
            350..365 => DirectRead { path: self.existing_file(), offset: 4096 * self.random.below(16), length: 65536 },
            365..420 => MapWrite { path: self.existing_file(), offset: self.offset(), seed, length: self.length() },
            420..430 => MapPrivate { path: self.existing_file(), seed },
            430..480 => Read { path: self.existing_file(), offset: self.offset(), length: self.length() },
            480..540 => Truncate { path: self.existing_file(), length: self.offset() },
            540..560 if self.features.fallocate => Allocate {
                path: self.existing_file(),
                offset: self.offset(),
                length: self.length() as u64,
                how: (seed % 4) as u8,
            },
            560..580 => {
                let aligned = self.random.percent(70);
                let place = |offset: u64| if aligned { offset / 4096 * 4096 } else { offset };
                let length = self.random.below(200 << 10) + 1;
                CopyRange {
                    from: self.existing_file(),
                    offset: place(self.offset()),
                    to: self.existing_file(),
                    target: place(self.offset()),
                    length: if self.random.percent(50) { length.next_multiple_of(4096) } else { length },
                }
            }
            540..600 => Rename { from: self.movable(), to: self.rename_target() },
            600..605 => RenameExchange { from: self.movable(), to: self.movable() },
            605..610 => RenameNoReplace { from: self.movable(), to: self.some_name() },
            610..640 => Link { from: self.existing_file(), to: self.new_name() },
            640..660 => {
                let length = if self.random.percent(5) { 3500 } else { 1 + seed as usize % 60 };
                Symlink { target: "t".repeat(length).into(), path: self.new_name() }
            }
            660..690 => Mkdir { path: self.new_name() },
            690..705 => Rmdir { path: self.inner_dir() },
            705..780 => Unlink { path: self.existing_file() },
            780..785 => Special { path: self.new_name(), kind: (seed % 4) as u8 },
            785..800 => UnlinkOpen { path: self.existing_file(), seed, length: self.length() },
            800..808 => Hold { path: self.existing_file() },
            808..816 => HeldWrite { offset: self.offset(), seed, length: self.length() },
            816..824 => HeldRead,
            824..828 => Release,
            828..865 => SetXattr {
                path: self.existing_any(),
                name: self.xattr_name(),
                seed,
                length: if self.random.percent(4) { self.random.below(20_000) } else { self.random.below(400) }
                    as usize,
                how: (seed % 5) as u8,
            },
            865..880 => {
                let known = self.random.percent(80).then(|| self.attributes.pop()).flatten();
                let (path, name) = known.unwrap_or_else(|| (self.existing_any(), self.xattr_name()));
                RemoveXattr { path, name }
            }
            880..885 if self.features.acl => SetAcl { path: self.existing_any(), permissions: seed as u16 & 0o77 },
            880..910 => Chmod { path: self.existing_any(), mode: (seed & 0o7777) as u32 | 0o600 },
            910..930 => Chown { path: self.existing_any(), uid: seed as u32 % 5, gid: (seed >> 32) as u32 % 5 },
            930..955 => Utimens {
                path: self.existing_any(),
                seconds: (seed % 4_000_000_000) as i64 - 500_000_000,
                nanoseconds: (seed >> 20) as i64 % 1_000_000_000,
            },
            955..962 => Fsync { path: self.existing_any() },
            962..985 => Stat { path: self.existing_any() },
            _ => List { path: self.existing_dir() },
        }
    }

    fn rename_target(&mut self) -> PathBuf {
        match self.random.below(10) {
            0..3 => self.existing_file(),
            3 => self.inner_dir(),
            _ => self.new_name(),
        }
    }

    fn xattr_name(&mut self) -> String {
        let space = if self.random.percent(85) { "user" } else { "trusted" };
        match self.random.below(40) {
            0 => format!("{space}.{}", "n".repeat(240)),
            number => format!("{space}.name{}", number % 6),
        }
    }

    /// Keeps the books after an operation that succeeded.
    pub fn succeeded(&mut self, operation: &Operation) {
        use Operation::*;
        match operation {
            Create { path, .. } | Symlink { path, .. } | Special { path, .. } | Link { to: path, .. } => {
                self.files.push(path.clone());
            }
            Mkdir { path } => self.dirs.push(path.clone()),
            SetXattr { path, name, .. } => self.attributes.push((path.clone(), name.clone())),
            Rmdir { path } => self.dirs.retain(|dir| dir != path),
            Unlink { path } | UnlinkOpen { path, .. } => self.files.retain(|file| file != path),
            Rename { from, to } | RenameNoReplace { from, to } => self.renamed(from, to),
            RenameExchange { from, to } => {
                let middle = PathBuf::from("\0");
                for (from, to) in [(from, &middle), (to, from), (&middle, to)] {
                    self.move_below(from, to);
                }
            }
            _ => {}
        }
    }

    fn renamed(&mut self, from: &Path, to: &Path) {
        if from == to {
            return;
        }
        // Two names of one file: POSIX's rename then does nothing. A name too many here only costs an ENOENT.
        self.files.retain(|file| file != to);
        self.dirs.retain(|dir| dir != to);
        self.move_below(from, to);
    }

    fn move_below(&mut self, from: &Path, to: &Path) {
        for path in self.files.iter_mut().chain(self.dirs.iter_mut()) {
            if let Ok(rest) = path.strip_prefix(from) {
                *path = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            }
        }
    }
}

/// One thread of a run: its generator and its two sides. It lives over all rounds.
#[derive(Debug)]
pub struct Worker {
    generator: Generator,
    subject: Side,
    reference: Side,
    counts: BTreeMap<&'static str, (u64, u64)>,
    history: Vec<String>,
}

impl Worker {
    /// A worker whose home and shared directory exist on both sides.
    pub fn new(generator: Generator, subject: &Path, reference: &Path) -> Self {
        Self {
            generator,
            subject: Side::new(subject),
            reference: Side::new(reference),
            counts: BTreeMap::new(),
            history: Vec::new(),
        }
    }

    /// Does `count` operations on both sides; an unequal outcome is told with what led to it.
    pub fn run(&mut self, count: usize) -> Result<(), String> {
        for _ in 0..count {
            let operation = self.generator.draw();
            let subject = self.subject.apply(&operation);
            let reference = self.reference.apply(&operation);
            let text = brief(&operation);
            if subject != reference {
                let recent = self.history.len().saturating_sub(15);
                return Err(format!(
                    "{text}\n  subject:   {subject:?}\n  reference: {reference:?}\nafter\n  {}",
                    self.history[recent..].join("\n  ")
                ));
            }
            let count = self.counts.entry(verb(&text)).or_default();
            match subject {
                Ok(_) => {
                    self.generator.succeeded(&operation);
                    count.0 += 1;
                }
                Err(_) => count.1 += 1,
            }
            self.history.push(format!("{text} -> {subject:?}"));
            if self.history.len() > 1000 {
                self.history.drain(..500);
            }
        }
        Ok(())
    }

    /// Closes what is held open.
    pub fn release(&mut self) {
        self.subject.held = None;
        self.reference.held = None;
    }

    /// For each kind of operation, how many succeeded and how many failed (alike on both sides).
    pub fn counts(&self) -> &BTreeMap<&'static str, (u64, u64)> {
        &self.counts
    }
}

fn brief(operation: &Operation) -> String {
    let mut text = format!("{operation:?}");
    if text.len() > 300 {
        let mut end = 300;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
    text
}

fn verb(text: &str) -> &'static str {
    const VERBS: [&str; 34] = [
        "Create",
        "Write",
        "Append",
        "DirectWrite",
        "DirectRead",
        "MapWrite",
        "MapPrivate",
        "Read",
        "Truncate",
        "Allocate",
        "CopyRange",
        "Rename",
        "RenameExchange",
        "RenameNoReplace",
        "Link",
        "Symlink",
        "Mkdir",
        "Rmdir",
        "Unlink",
        "Special",
        "UnlinkOpen",
        "Hold",
        "HeldWrite",
        "HeldRead",
        "Release",
        "SetXattr",
        "RemoveXattr",
        "SetAcl",
        "Chmod",
        "Chown",
        "Utimens",
        "Fsync",
        "Stat",
        "List",
    ];
    let word = text.split([' ', '{']).next().unwrap_or_default();
    VERBS.iter().find(|verb| **verb == word).copied().unwrap_or("other")
}

/// Runs all workers at once, `count` operations each; panics with the first difference.
#[track_caller]
pub fn run_together(workers: &mut [Worker], count: usize) {
    let first = Mutex::new(None);
    std::thread::scope(|scope| {
        for worker in workers.iter_mut() {
            let first = &first;
            scope.spawn(move || {
                if let Err(difference) = worker.run(count) {
                    first.lock().expect("no panic while held").get_or_insert(difference);
                }
            });
        }
    });
    if let Some(difference) = first.into_inner().expect("no panic while held") {
        panic!("the subject and the reference part:\n{difference}");
    }
}

/// Random aligned reads, writes and truncations of one file through O_DIRECT, beside its content in memory; now and
/// then a buffered or a mapped read looks at the same bytes.
pub fn exercise_direct(path: &Path, seed: u64, operations: usize) -> Result<(), String> {
    const PAGE: u64 = 4096;
    const PAGES: u64 = 64;
    let mut random = Random::new(seed);
    let mut content: Vec<u8> = Vec::new();
    File::create(path).map_err(|error| error.to_string())?;
    let direct = open(path, OFlags::RDWR | OFlags::DIRECT).map_err(|error| format!("O_DIRECT: {error}"))?;
    let buffered = open(path, OFlags::RDWR).map_err(|error| error.to_string())?;
    for number in 0..operations {
        let fail = |what: &str, error: &dyn std::fmt::Display| format!("operation {number}, {what}: {error}");
        let offset = PAGE * random.below(PAGES);
        let length = (PAGE * random.between(1, 16)).min(PAGES * PAGE - offset) as usize;
        match random.below(100) {
            0..45 => {
                let mut buffer = Aligned::new(length);
                buffer.bytes().copy_from_slice(&random.bytes(length));
                direct.write_all_at(buffer.bytes(), offset).map_err(|error| fail("direct write", &error))?;
                let end = offset as usize + length;
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[offset as usize..end].copy_from_slice(buffer.bytes());
            }
            45..85 => {
                let mut buffer = Aligned::new(length);
                let read = direct.read_at(buffer.bytes(), offset).map_err(|error| fail("direct read", &error))?;
                expect(&content, offset, length, &buffer.bytes()[..read]).map_err(|text| fail("direct read", &text))?;
            }
            85..92 => {
                let mut buffer = vec![0; length];
                let read = buffered.read_at(&mut buffer, offset).map_err(|error| fail("buffered read", &error))?;
                expect(&content, offset, length, &buffer[..read]).map_err(|text| fail("buffered read", &text))?;
            }
            92..95 => {
                let data = random.bytes(length.min(5000));
                let offset = (offset + random.below(PAGE)).min(content.len() as u64);
                buffered.write_all_at(&data, offset).map_err(|error| fail("buffered write", &error))?;
                let end = offset as usize + data.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[offset as usize..end].copy_from_slice(&data);
            }
            95..97 if !content.is_empty() => {
                let pages = map(&buffered).map_err(|error| fail("map", &error))?;
                expect(&content, 0, content.len(), &pages).map_err(|text| fail("mapped read", &text))?;
            }
            _ => {
                let length = random.below(PAGES * PAGE);
                rustix::fs::ftruncate(&direct, length).map_err(|error| fail("truncate", &error))?;
                content.resize(length as usize, 0);
            }
        }
    }
    let found = std::fs::read(path).map_err(|error| error.to_string())?;
    expect(&content, 0, content.len().max(found.len()), &found)
}

fn expect(content: &[u8], offset: u64, length: usize, found: &[u8]) -> Result<(), String> {
    let start = (offset as usize).min(content.len());
    let end = (offset as usize + length).min(content.len());
    let expected = &content[start..end];
    if expected == found {
        return Ok(());
    }
    let place = expected.iter().zip(found).position(|(a, b)| a != b);
    let place = place.unwrap_or(expected.len().min(found.len())) + start;
    Err(format!("expected {} bytes, got {}, first difference at {place}", expected.len(), found.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On one and the same filesystem, two directories never part; each kind of operation succeeds at least once.
    #[test]
    fn two_plain_directories_stay_equal() {
        let base = std::env::temp_dir().join(format!("butterfs-operations-{}", std::process::id()));
        let sides = [base.join("a"), base.join("b")];
        let features = Features { fallocate: false, acl: false };
        for side in &sides {
            for dir in ["t0", "t1", "shared"] {
                std::fs::create_dir_all(side.join(dir)).unwrap();
            }
        }
        let mut workers: Vec<Worker> = ["t0", "t1"]
            .iter()
            .map(|tag| Worker::new(Generator::new(7, tag, tag, "shared", features), &sides[0], &sides[1]))
            .collect();
        run_together(&mut workers, 3000);
        let (a, b) = (crate::tree_compare::Tree::read(&sides[0]), crate::tree_compare::Tree::read(&sides[1]));
        a.assert_same(&b, crate::tree_compare::Times::Ignored, "after the run");
        for verb in ["Create", "Write", "MapWrite", "Rename", "Link", "Unlink", "Hold", "Truncate", "CopyRange"] {
            let succeeded: u64 =
                workers.iter().filter_map(|worker| worker.counts().get(verb)).map(|count| count.0).sum();
            assert!(succeeded > 0, "no {verb} succeeded");
        }
        std::fs::remove_dir_all(base).unwrap();
    }
}

//! Image files and block devices.
//!
//! # Invariants
//! * A device that is open for writing is open nowhere else: an exclusive `flock` keeps out our own
//!   kind, `O_EXCL` (block devices) and a look at the loop devices (image files) keep out the
//!   kernel's mounts. The claim by `O_EXCL` can be left to a mount of our own.
//! * The length is the one found when the device was opened, last measured, or last set.
//!
//! # Locking
//! None: positional I/O on one descriptor. The claim's mutex is a leaf.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Seek, SeekFrom};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::fs::{Advice, FallocateFlags, FlockOperation, OFlags};
use rustix::io::Errno;

use super::{BlockDevice, check_range};
use crate::error::{Error, Result};

/// Adjacent writes go to the system together, up to this many bytes and parts.
const MERGE_BYTES: usize = 1 << 20;
const MERGE_PARTS: usize = 256;
/// Programs that probe new block devices (udev) hold a lock for a moment.
const LOCK_ATTEMPTS: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// An image file or a block device.
#[derive(Debug)]
pub struct FileDevice {
    path: PathBuf,
    file: File,
    /// Takes the place of `file` once a device that was opened for reading is to be written.
    writer: OnceLock<File>,
    len: AtomicU64,
    kind: Kind,
    access: Access,
    /// Keeps the kernel from mounting a block device that is open for writing.
    claim: Mutex<Option<File>>,
    /// A mount of our own has the claim.
    claim_left: AtomicBool,
    closed: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Image,
    Block,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

impl FileDevice {
    /// Opens for reading. Others may read at the same time, but nobody may write.
    ///
    /// # Errors
    /// [`Error::Busy`] if the filesystem is mounted, or open for writing elsewhere.
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self> {
        let device = Self::open(path.as_ref(), Access::Read)?;
        device.refuse_mounted()?;
        device.lock(&device.file, FlockOperation::NonBlockingLockShared)?;
        Ok(device)
    }

    /// Opens for reading and writing, alone.
    ///
    /// # Errors
    /// [`Error::Busy`] if the filesystem is mounted, or open elsewhere.
    pub fn open_read_write(path: impl AsRef<Path>) -> Result<Self> {
        let device = Self::open(path.as_ref(), Access::Write)?;
        device.hold_claim()?;
        device.refuse_mounted_image()?;
        device.lock(&device.file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(device)
    }

    /// Opens for reading with neither lock nor check, for looking at a device that may be in use.
    /// What is read may change at any time.
    ///
    /// # Errors
    /// If it cannot be opened, or is neither file nor block device.
    pub fn open_unlocked(path: impl AsRef<Path>) -> Result<Self> {
        Self::open(path.as_ref(), Access::Read)
    }

    fn open(path: &Path, access: Access) -> Result<Self> {
        let error = |source| device_error(path, source);
        // Without O_NONBLOCK, opening a pipe would wait for its other end.
        let mut file = options(access, OFlags::NONBLOCK).open(path).map_err(error)?;
        let file_type = file.metadata().map_err(error)?.file_type();
        let kind = if file_type.is_block_device() {
            Kind::Block
        } else if file_type.is_file() {
            Kind::Image
        } else {
            return Err(error(io::Error::other("neither an image file nor a block device")));
        };
        let len = file.seek(SeekFrom::End(0)).map_err(error)?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            writer: OnceLock::new(),
            len: AtomicU64::new(len),
            kind,
            access,
            claim: Mutex::default(),
            claim_left: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        })
    }

    /// What is read and written.
    fn file(&self) -> &File {
        self.writer.get().unwrap_or(&self.file)
    }

    fn hold_claim(&self) -> Result<()> {
        let mut held = self.claim.lock().unwrap_or_else(PoisonError::into_inner);
        let is_written = self.access == Access::Write || self.writer.get().is_some();
        if self.kind == Kind::Block && is_written && held.is_none() {
            *held = Some(self.claim(Access::Write)?);
        }
        Ok(())
    }

    /// Opens a block device so that the kernel cannot mount it.
    fn claim(&self, access: Access) -> Result<File> {
        options(access, OFlags::EXCL).open(&self.path).map_err(|source| {
            if source.raw_os_error() == Some(Errno::BUSY.raw_os_error()) {
                Error::Busy(format!("{}: is mounted or in use; unmount it first", self.path.display()))
            } else {
                device_error(&self.path, source)
            }
        })
    }

    /// For readers: a claim that is given back at once, so that readers do not shut out each other.
    fn refuse_mounted(&self) -> Result<()> {
        match self.kind {
            Kind::Block => self.claim(Access::Read).map(drop),
            Kind::Image => self.refuse_mounted_image(),
        }
    }

    fn refuse_mounted_image(&self) -> Result<()> {
        if self.kind == Kind::Block {
            return Ok(());
        }
        let meta = self.file.metadata().map_err(|e| device_error(&self.path, e))?;
        match loops_over(&meta).into_iter().find(|name| loop_in_use(name)) {
            Some(name) => {
                Err(Error::Busy(format!("{} is mounted through /dev/{name}; unmount it first", self.path.display())))
            }
            None => Ok(()),
        }
    }

    fn lock(&self, file: &File, operation: FlockOperation) -> Result<()> {
        let attempts = if self.kind == Kind::Block { LOCK_ATTEMPTS } else { 1 };
        for attempt in 1..=attempts {
            match rustix::fs::flock(file, operation) {
                Ok(()) => return Ok(()),
                Err(Errno::WOULDBLOCK) if attempt < attempts => std::thread::sleep(LOCK_PAUSE),
                Err(Errno::WOULDBLOCK) => break,
                Err(errno) => return Err(device_error(&self.path, errno.into())),
            }
        }
        Err(Error::Busy(format!("{}: is in use by another program; stop it or unmount first", self.path.display())))
    }

    /// Opens it once more, for writing, and takes the lock that writers have. In the moment between the two locks another
    /// program may come first: who upgrades looks at the superblock again.
    fn upgrade(&self) -> Result<File> {
        use std::os::fd::AsRawFd;
        let same = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let opened = options(Access::Write, OFlags::empty()).open(same);
        let writer = opened.map_err(|source| device_error(&self.path, source))?;
        // A descriptor of our own would stand in the way.
        rustix::fs::flock(&self.file, FlockOperation::Unlock).map_err(|e| device_error(&self.path, e.into()))?;
        self.lock(&writer, FlockOperation::NonBlockingLockExclusive).inspect_err(|_| {
            // As before, if nobody else has it now.
            let _ = rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockShared);
        })?;
        Ok(writer)
    }

    fn check_open(&self) -> io::Result<()> {
        if self.closed.load(Ordering::SeqCst) { Err(io::Error::other("is closed for writing")) } else { Ok(()) }
    }

    /// Writes the parts one behind the other with one call; what a short write left is written singly.
    fn write_run(&self, offset: u64, run: &[(u64, &[u8])]) -> io::Result<()> {
        if let [(_, buf)] = run {
            return self.file().write_all_at(buf, offset);
        }
        let parts: Vec<_> = run.iter().map(|(_, buf)| IoSlice::new(buf)).collect();
        let mut done = match rustix::io::pwritev(self.file(), &parts, offset) {
            Ok(done) => done,
            Err(Errno::INTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        for (at, buf) in run {
            let skip = done.min(buf.len());
            done -= skip;
            self.file().write_all_at(&buf[skip..], at + skip as u64)?;
        }
        Ok(())
    }
}

impl BlockDevice for FileDevice {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.len())?;
        self.file().read_exact_at(buf, offset)
    }

    fn prefetch(&self, offset: u64, len: u64) {
        // A hint: what comes of it does not matter.
        let _ = rustix::fs::fadvise(&self.file, offset, NonZeroU64::new(len), Advice::WillNeed);
    }

    fn forget(&self, offset: u64, len: u64) {
        // What is dirty in the cache stays there.
        let _ = rustix::fs::fadvise(&self.file, offset, NonZeroU64::new(len), Advice::DontNeed);
    }

    fn stored_from(&self, from: u64) -> Option<Range<u64>> {
        let len = self.len();
        if from >= len {
            return None;
        }
        let seek = |whence| rustix::fs::seek(&self.file, whence);
        match seek(rustix::fs::SeekFrom::Data(from)) {
            Ok(start) => Some(start..seek(rustix::fs::SeekFrom::Hole(start)).unwrap_or(len).min(len)),
            Err(Errno::NXIO) => None,
            Err(_) => Some(from..len),
        }
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.check_open()?;
        check_range(offset, buf.len(), self.len())?;
        self.file().write_all_at(buf, offset)
    }

    fn write_batch(&self, writes: &[(u64, &[u8])]) -> io::Result<()> {
        self.check_open()?;
        writes.iter().try_for_each(|(offset, buf)| check_range(*offset, buf.len(), self.len()))?;
        let mut rest = writes;
        while let Some((offset, _)) = rest.first() {
            let (run, after) = rest.split_at(run_length(rest));
            self.write_run(*offset, run)?;
            rest = after;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.file().sync_data()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let result = match self.kind {
            Kind::Block => butterfs_os::block::discard(self.file(), offset, len),
            Kind::Image => rustix::fs::fallocate(self.file(), hole, offset, len),
        };
        result.map_err(Into::into)
    }

    fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    fn measure(&self) -> io::Result<u64> {
        let len = (&self.file).seek(SeekFrom::End(0))?;
        self.len.store(len, Ordering::Release);
        Ok(len)
    }

    fn resize(&self, len: u64) -> io::Result<()> {
        if self.kind == Kind::Block {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.check_open()?;
        self.file().set_len(len)?;
        self.len.store(len, Ordering::Release);
        Ok(())
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn open_for_writing(&self) -> io::Result<()> {
        if self.access == Access::Write || self.writer.get().is_some() {
            return Ok(());
        }
        let writer = self.upgrade().map_err(io::Error::other)?;
        // Nobody else upgrades at the same time.
        let _ = self.writer.set(writer);
        if self.claim_left.load(Ordering::SeqCst) { Ok(()) } else { self.hold_claim().map_err(io::Error::other) }
    }

    fn release_claim(&self) {
        self.claim_left.store(true, Ordering::SeqCst);
        drop(self.claim.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.release_claim();
        // It goes with the descriptor in any case.
        let _ = rustix::fs::flock(self.file(), FlockOperation::Unlock);
    }

    fn take_claim(&self) -> io::Result<()> {
        self.claim_left.store(false, Ordering::SeqCst);
        self.hold_claim().map_err(io::Error::other)
    }
}

fn options(access: Access, flags: OFlags) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(access == Access::Write).custom_flags(flags.bits() as i32);
    options
}

fn device_error(path: &Path, source: io::Error) -> Error {
    Error::Device { name: path.display().to_string(), devid: None, source }
}

/// How many writes from the first on lie one behind the other.
fn run_length(writes: &[(u64, &[u8])]) -> usize {
    let mut bytes = 0;
    let mut next = writes.first().map_or(0, |(offset, _)| *offset);
    let mut count = 0;
    for (offset, buf) in writes.iter().take(MERGE_PARTS) {
        bytes += buf.len();
        if *offset != next || (count > 0 && bytes > MERGE_BYTES) {
            break;
        }
        next = offset + buf.len() as u64;
        count += 1;
    }
    count
}

/// Names (`loop0`) of the loop devices over the file.
fn loops_over(meta: &std::fs::Metadata) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/block") else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with("loop") && backs(name, meta)).collect()
}

fn backs(loop_name: &str, meta: &std::fs::Metadata) -> bool {
    let Ok(path) = std::fs::read_to_string(format!("/sys/block/{loop_name}/loop/backing_file")) else { return false };
    std::fs::metadata(path.trim_end_matches('\n')).is_ok_and(|m| (m.dev(), m.ino()) == (meta.dev(), meta.ino()))
}

/// Whether someone holds the loop device, as a mount does.
fn loop_in_use(name: &str) -> bool {
    let path = format!("/dev/{name}");
    match options(Access::Read, OFlags::EXCL).open(&path) {
        Ok(_) => false,
        Err(e) if e.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => true,
        // Without the right to open it, the table of mounts has to do.
        Err(_) => std::fs::read_to_string("/proc/self/mountinfo")
            .is_ok_and(|mounts| mounts.split_ascii_whitespace().any(|word| word == path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Temporary(PathBuf);

    impl Temporary {
        fn new(name: &str, len: u64) -> Self {
            let path = std::env::temp_dir().join(format!("butterfs-volume-{}-{name}", std::process::id()));
            File::create(&path).unwrap().set_len(len).unwrap();
            Self(path)
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn writers_are_alone_and_readers_are_not() {
        let image = Temporary::new("lock", 1 << 20);
        let writer = FileDevice::open_read_write(&image.0).unwrap();
        assert!(matches!(FileDevice::open_read_write(&image.0), Err(Error::Busy(_))));
        assert!(matches!(FileDevice::open_read_only(&image.0), Err(Error::Busy(_))));
        assert!(FileDevice::open_unlocked(&image.0).is_ok());
        drop(writer);
        let _reader = FileDevice::open_read_only(&image.0).unwrap();
        assert!(FileDevice::open_read_only(&image.0).is_ok());
        assert!(matches!(FileDevice::open_read_write(&image.0), Err(Error::Busy(_))));
    }

    #[test]
    fn a_reader_becomes_the_only_writer() {
        let image = Temporary::new("upgrade", 1 << 20);
        let device = FileDevice::open_read_only(&image.0).unwrap();
        let other = FileDevice::open_read_only(&image.0).unwrap();
        assert!(device.open_for_writing().is_err(), "somebody else reads it");
        assert!(device.write_at(0, b"x").is_err());
        assert!(FileDevice::open_read_write(&image.0).is_err(), "the reader's lock is back");
        drop(other);
        device.open_for_writing().unwrap();
        device.write_at(0, b"x").unwrap();
        assert!(FileDevice::open_read_only(&image.0).is_err());
        device.close();
        assert!(FileDevice::open_read_write(&image.0).is_ok());
    }

    #[test]
    fn a_closed_device_is_free_and_written_no_more() {
        let image = Temporary::new("close", 1 << 20);
        let device = FileDevice::open_read_write(&image.0).unwrap();
        device.close();
        let _other = FileDevice::open_read_write(&image.0).unwrap();
        assert!(device.write_at(0, b"x").is_err());
        assert!(device.write_batch(&[(0, b"x")]).is_err());
        assert!(device.read_at(0, &mut [0; 16]).is_ok());
    }

    #[test]
    fn batches_arrive_whole() {
        let image = Temporary::new("batch", 4 << 20);
        let device = FileDevice::open_read_write(&image.0).unwrap();
        let parts: Vec<Vec<u8>> = (0..400u32).map(|i| vec![i as u8 | 1; 4096]).collect();
        let mut writes: Vec<(u64, &[u8])> = Vec::new();
        for (i, part) in parts.iter().enumerate() {
            let gap = if i >= 300 { 8192 } else { 0 };
            writes.push((i as u64 * 4096 + gap, part));
        }
        device.write_batch(&writes).unwrap();
        for (offset, part) in writes {
            let mut back = vec![0; part.len()];
            device.read_at(offset, &mut back).unwrap();
            assert_eq!(back, part);
        }
        let mut gap = [1; 8192];
        device.read_at(300 * 4096, &mut gap).unwrap();
        assert_eq!(gap, [0; 8192]);
    }

    #[test]
    fn holes_are_passed_over() {
        let image = Temporary::new("holes", 8 << 20);
        let device = FileDevice::open_read_write(&image.0).unwrap();
        device.write_at(3 << 20, &[1; 4096]).unwrap();
        let stored = device.stored_from(0).unwrap();
        assert!(stored.contains(&(3 << 20)) && stored.end - stored.start <= 1 << 20, "{stored:?}");
        assert_eq!(device.stored_from(4 << 20), None);
        assert_eq!(device.stored_from(8 << 20), None);
    }

    #[test]
    fn what_is_discarded_takes_no_space() {
        let image = Temporary::new("discard", 8 << 20);
        let device = FileDevice::open_read_write(&image.0).unwrap();
        device.write_at(0, &vec![7; 4 << 20]).unwrap();
        device.flush().unwrap();
        let blocks = || std::fs::metadata(&image.0).unwrap().blocks();
        let before = blocks();
        device.discard(1 << 20, 2 << 20).unwrap();
        assert!(blocks() + (2 << 20) / 512 <= before, "{} of {before}", blocks());
        let mut back = [1; 4096];
        device.read_at(2 << 20, &mut back).unwrap();
        assert_eq!(back, [0; 4096]);
        assert_eq!(device.len(), 8 << 20);
    }

    #[test]
    fn the_end_is_the_end() {
        let image = Temporary::new("end", 8192);
        let device = FileDevice::open_read_write(&image.0).unwrap();
        assert!(device.write_at(8191, &[1, 2]).is_err());
        assert!(device.write_batch(&[(8191, &[1, 2])]).is_err());
        assert!(device.read_at(u64::MAX, &mut [0; 2]).is_err());
        assert_eq!(std::fs::metadata(&image.0).unwrap().len(), 8192);
    }

    #[test]
    fn a_directory_is_not_a_device() {
        assert!(matches!(FileDevice::open_unlocked("/"), Err(Error::Device { .. })));
    }
}

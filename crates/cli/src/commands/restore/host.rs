//! A directory of the host as the place to restore into.
//!
//! # Locking
//! One lock over the open directories, held to look one up.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use butterfs_format::items::{FileType, InodeItem, Timespec};
use butterfs_fuse::DeviceNumber;
use butterfs_salvage::{About, Made, NewFile, Sink, shown};

use crate::host::{self, Attributes, Directory, Existing, Lost, Policy, Preserve, Special, Xattr, is_privileged};
use crate::{failure, output};

/// Directories that are kept open.
const OPEN: usize = 256;

/// What is said while it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Say {
    /// Each path.
    Files,
    /// Nothing.
    Nothing,
}

/// How files are made.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// What happens to what is there already.
    pub existing: Existing,
    /// Which attributes are those of the source.
    pub preserve: Preserve,
    /// What is said.
    pub say: Say,
}

/// A directory of the host.
pub struct HostSink<'s> {
    /// Set when nothing more can be written, which ends the restore.
    stop: &'s AtomicBool,
    /// Why nothing more can be written.
    broken: OnceLock<String>,
    top: Arc<Directory>,
    wishes: Wishes,
    umask: u32,
    open: Mutex<HashMap<Vec<u8>, Arc<Directory>>>,
    /// How many files could not get their owner, and attributes that only root may set.
    without_owner: AtomicU64,
    without_privileged: AtomicU64,
}

/// Where something is to be made.
struct Spot<'p> {
    dir: Arc<Directory>,
    name: &'p [u8],
}

impl<'s> HostSink<'s> {
    /// Opens the directory.
    pub fn open(path: &Path, wishes: Wishes, stop: &'s AtomicBool) -> io::Result<Self> {
        // It can be read only by setting it.
        let umask = rustix::process::umask(rustix::fs::Mode::empty());
        rustix::process::umask(umask);
        Ok(Self {
            stop,
            broken: OnceLock::new(),
            top: Arc::new(Directory::open(path)?),
            wishes,
            umask: umask.as_raw_mode(),
            open: Mutex::default(),
            without_owner: AtomicU64::new(0),
            without_privileged: AtomicU64::new(0),
        })
    }

    /// Why nothing more could be written, if that was so.
    pub fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
    }

    /// Passes on what came of writing; what will be so for all that follows ends the restore.
    fn judged<T>(&self, result: io::Result<T>) -> io::Result<T> {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        if let Err(error) = &result
            && matches!(error.kind(), ReadOnlyFilesystem | StorageFull | QuotaExceeded)
        {
            self.broken.get_or_init(|| failure::destination_text(error));
            self.stop.store(true, Ordering::Relaxed);
        }
        result
    }

    /// What could not be done for many files, in a line for each reason.
    pub fn notes(&self) -> Vec<String> {
        let owner = self.without_owner.load(Ordering::Relaxed);
        let xattrs = self.without_privileged.load(Ordering::Relaxed);
        let mut notes = Vec::new();
        if owner > 0 {
            notes.push(format!("{owner} files are not of their owner, which only root may choose"));
        }
        if xattrs > 0 {
            notes.push(format!("{xattrs} extended attributes were left out that only root may set"));
        }
        notes
    }

    fn opened(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Arc<Directory>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a directory, by way of those above it.
    fn dir(&self, path: &[u8], enter: fn(&Directory, &[u8]) -> io::Result<Directory>) -> io::Result<Arc<Directory>> {
        if path.is_empty() {
            return Ok(Arc::clone(&self.top));
        }
        if let Some(dir) = self.opened().get(path) {
            return Ok(Arc::clone(dir));
        }
        let (parent, name) = split(path);
        let dir = Arc::new(enter(&*self.dir(parent, enter)?, name)?);
        let mut open = self.opened();
        if open.len() >= OPEN {
            open.clear();
        }
        open.insert(path.to_vec(), Arc::clone(&dir));
        Ok(dir)
    }

    fn spot<'p>(&self, path: &'p [u8]) -> io::Result<Spot<'p>> {
        let (parent, name) = split(path);
        if self.wishes.say == Say::Files {
            output::line(format!("Restoring {}", shown(path)));
        }
        Ok(Spot { dir: self.dir(parent, Directory::enter)?, name })
    }

    /// What a file gets; without an item nothing is known that could be preserved.
    fn attributes_of(&self, about: &About<'_>, otherwise: u32) -> (Attributes, Policy) {
        let umask = self.umask;
        match about.item {
            Some(item) => {
                (Attributes::of(item, about.xattrs.to_vec()), Policy { preserve: self.wishes.preserve, umask })
            }
            None => {
                let (atime, mtime) = (Timespec::default(), Timespec::default());
                let xattrs: Vec<Xattr> = about.xattrs.to_vec();
                let preserve = self.wishes.preserve & Preserve::XATTRS;
                (Attributes { mode: otherwise, uid: 0, gid: 0, atime, mtime, xattrs }, Policy { preserve, umask })
            }
        }
    }

    /// What could not be set, in words; what only root may do is counted.
    fn told(&self, lost: Lost) -> Vec<String> {
        self.without_owner.fetch_add(u64::from(lost.owner), Ordering::Relaxed);
        let is_root = rustix::process::geteuid().is_root();
        let (privileged, others): (Vec<_>, Vec<_>) =
            lost.xattrs.into_iter().partition(|(name, _)| !is_root && is_privileged(name));
        self.without_privileged.fetch_add(privileged.len() as u64, Ordering::Relaxed);
        others.iter().map(|(name, error)| format!("attribute {}: {error}", name.escape_ascii())).collect()
    }

    fn node(&self, node: io::Result<host::Node<'_>>, about: &About<'_>) -> io::Result<Made> {
        match self.judged(node) {
            Ok(node) => {
                let (attributes, policy) = self.attributes_of(about, 0o600);
                Ok(Made::New(self.told(node.set_attributes(&attributes, policy)?)))
            }
            Err(error) if self.stays(&error) => Ok(Made::Existing),
            Err(error) => Err(error),
        }
    }

    fn stays(&self, error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::AlreadyExists && self.wishes.existing == Existing::Keep
    }
}

/// The directory that something is in, and its name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// A file that is being made.
struct File<'s> {
    sink: &'s HostSink<'s>,
    file: host::NewFile,
}

impl NewFile for File<'_> {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.sink.judged(self.file.write_at(offset, bytes))
    }

    fn finish(mut self: Box<Self>, size: u64, about: &About<'_>) -> io::Result<Vec<String>> {
        let (attributes, policy) = self.sink.attributes_of(about, 0o666);
        self.sink.judged(self.file.set_len(size))?;
        // Its bytes are worth more than its attributes.
        let notes = match self.file.set_attributes(&attributes, policy) {
            Ok(lost) => self.sink.told(lost),
            Err(error) => vec![error.to_string()],
        };
        self.sink.judged(self.file.keep())?;
        Ok(notes)
    }

    fn discard(self: Box<Self>) {}
}

impl Sink for HostSink<'_> {
    fn directory(&self, path: &[u8]) -> io::Result<()> {
        self.judged(self.dir(path, Directory::make_directory).map(drop))
    }

    fn file<'s>(&'s self, path: &[u8]) -> io::Result<Option<Box<dyn NewFile + 's>>> {
        let Spot { dir, name } = self.spot(path)?;
        match self.judged(dir.make_file(name, self.wishes.existing)) {
            Ok(file) => Ok(Some(Box::new(File { sink: self, file }))),
            Err(error) if self.stays(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn symlink(&self, path: &[u8], target: &[u8], about: &About<'_>) -> io::Result<Made> {
        let spot = self.spot(path)?;
        self.node(spot.dir.make_symlink(spot.name, target, self.wishes.existing), about)
    }

    fn special(&self, path: &[u8], about: &About<'_>) -> io::Result<Made> {
        let Some(special) = about.item.and_then(special) else { return Ok(Made::Unwanted) };
        let spot = self.spot(path)?;
        self.node(spot.dir.make_special(spot.name, special, self.wishes.existing), about)
    }

    fn link(&self, path: &[u8], existing: &[u8]) -> io::Result<Made> {
        let (from, to) = (self.spot(existing)?, self.spot(path)?);
        match self.judged(to.dir.link(to.name, (&*from.dir, from.name), self.wishes.existing)) {
            Ok(()) => Ok(Made::New(Vec::new())),
            Err(error) if self.stays(&error) => Ok(Made::Existing),
            Err(error) => Err(error),
        }
    }

    fn attributes(&self, path: &[u8], about: &About<'_>) -> io::Result<Vec<String>> {
        if path.is_empty() && about.item.is_none() || self.broken.get().is_some() {
            return Ok(Vec::new());
        }
        let (attributes, policy) = self.attributes_of(about, 0o777);
        let lost = self.dir(path, Directory::enter)?.set_attributes(&attributes, policy)?;
        Ok(self.told(lost))
    }
}

fn special(item: &InodeItem) -> Option<Special> {
    let device = DeviceNumber::from_kernel(item.rdev.get());
    Some(match FileType::from_mode(item.mode.get()) {
        FileType::Fifo => Special::Fifo,
        FileType::Socket => Special::Socket,
        FileType::CharDevice => Special::CharDevice(device),
        FileType::BlockDevice => Special::BlockDevice(device),
        _ => return None,
    })
}

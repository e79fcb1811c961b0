//! A directory, and what is made in it.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use butterfs_fuse::DeviceNumber;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::attributes::{self, Attributes, Lost, Policy, Subject};
use super::file::NewFile;
use super::name;

/// An open directory of the host.
#[derive(Debug)]
pub struct Directory(OwnedFd);

/// What happens to something that has the name already. A directory is never removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and the new thing is not made: an error.
    Keep,
    /// Files and symbolic links give way, once what takes their place is whole.
    Replace,
    /// Pipes, sockets and devices, too.
    Force,
}

/// A special file to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice(DeviceNumber),
    /// A block device.
    BlockDevice(DeviceNumber),
}

/// A symbolic link or special file that was made.
#[derive(Debug)]
pub struct Node<'a> {
    dir: &'a Directory,
    name: CString,
    kind: NodeKind,
}

#[derive(Clone, Copy, Debug)]
enum NodeKind {
    Link,
    Special,
}

impl Directory {
    /// Opens what the user named; symbolic links are followed.
    ///
    /// # Errors
    /// As the system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::openat(CWD, path, FLAGS, Mode::empty())?))
    }

    /// Enters a directory.
    ///
    /// # Errors
    /// As the system's; a symbolic link is no directory.
    pub fn enter(&self, name: &[u8]) -> io::Result<Self> {
        let name = c_name(name)?;
        match rustix::fs::openat(&self.0, &*name, FLAGS | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => Ok(Self(fd)),
            Err(Errno::LOOP) => Err(Errno::NOTDIR.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a directory, which only its owner can use until it gets its attributes, or enters the one
    /// that is there.
    ///
    /// # Errors
    /// As the system's.
    pub fn make_directory(&self, name: &[u8]) -> io::Result<Self> {
        match rustix::fs::mkdirat(&self.0, &*c_name(name)?, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => self.enter(name),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes an empty file, beside the one that it is to replace if there is one.
    ///
    /// # Errors
    /// As the system's.
    pub fn make_file(&self, name: &[u8], existing: Existing) -> io::Result<NewFile> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = |name: &CStr| rustix::fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR);
        let name = c_name(name)?;
        let dir = self.0.try_clone()?;
        match make(&name) {
            Err(Errno::EXIST) if existing != Existing::Keep => {
                self.check_may_go(&name, existing)?;
                let (beside, fd) = beside(make)?;
                Ok(NewFile::new(fd, dir, beside, Some(name)))
            }
            made => Ok(NewFile::new(made?, dir, name, None)),
        }
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As the system's.
    pub fn make_symlink(&self, name: &[u8], target: &[u8], existing: Existing) -> io::Result<Node<'_>> {
        let (name, target) = (c_name(name)?, CString::new(target)?);
        self.make(&name, existing, |name| rustix::fs::symlinkat(&*target, &self.0, name))?;
        Ok(Node { dir: self, name, kind: NodeKind::Link })
    }

    /// Makes a special file. One of the same kind that is there is taken for it.
    ///
    /// # Errors
    /// As the system's.
    pub fn make_special(&self, name: &[u8], special: Special, existing: Existing) -> io::Result<Node<'_>> {
        let name = c_name(name)?;
        let (kind, device) = special.numbers();
        let made = self
            .make(&name, existing, |name| rustix::fs::mknodat(&self.0, name, kind, Mode::RUSR | Mode::WUSR, device));
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && existing != Existing::Keep => {
                let found = self.stat(&name)?;
                let same_device = matches!(special, Special::Fifo | Special::Socket) || found.st_rdev == device;
                if FileType::from_raw_mode(found.st_mode) != kind || !same_device {
                    return Err(error);
                }
            }
            made => made?,
        }
        Ok(Node { dir: self, name, kind: NodeKind::Special })
    }

    /// Gives a file in some directory a name in this one, too.
    ///
    /// # Errors
    /// As the system's.
    pub fn link(&self, name: &[u8], from: (&Self, &[u8]), existing: Existing) -> io::Result<()> {
        let (name, old) = (c_name(name)?, c_name(from.1)?);
        let same = |a: &Stat, b: &Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
        if let (Ok(there), Ok(source)) = (self.stat(&name), from.0.stat(&old))
            && same(&there, &source)
            && existing != Existing::Keep
        {
            return Ok(());
        }
        self.make(&name, existing, |name| rustix::fs::linkat(&from.0.0, &*old, &self.0, name, AtFlags::empty()))
    }

    /// Which file has a name: its device and inode, if there is one.
    ///
    /// # Errors
    /// As the system's.
    pub fn identity(&self, name: &[u8]) -> io::Result<Option<(u64, u64)>> {
        match self.stat(&c_name(name)?) {
            Ok(found) => Ok(Some((found.st_dev, found.st_ino))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets the attributes of the directory itself; best done when all that is in it was made.
    ///
    /// # Errors
    /// As the system's, but for what is in the result.
    pub fn set_attributes(&self, attributes: &Attributes, policy: Policy) -> io::Result<Lost> {
        attributes::set(&Subject::Open(self.0.as_fd()), attributes, policy)
    }

    fn stat(&self, name: &CStr) -> rustix::io::Result<Stat> {
        rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Makes something that is whole at once.
    fn make(&self, name: &CStr, existing: Existing, make: impl Fn(&CStr) -> rustix::io::Result<()>) -> io::Result<()> {
        match make(name) {
            Err(Errno::EXIST) if existing != Existing::Keep => {
                self.check_may_go(name, existing)?;
                let (beside, ()) = beside(make)?;
                if let Err(error) = rustix::fs::renameat(&self.0, &*beside, &self.0, name) {
                    let _ = rustix::fs::unlinkat(&self.0, &*beside, AtFlags::empty());
                    return Err(error.into());
                }
                Ok(())
            }
            made => Ok(made?),
        }
    }

    /// Fails for what must not be replaced.
    fn check_may_go(&self, name: &CStr, existing: Existing) -> io::Result<()> {
        match FileType::from_raw_mode(self.stat(name)?.st_mode) {
            FileType::Directory => Err(Errno::ISDIR.into()),
            FileType::RegularFile | FileType::Symlink => Ok(()),
            _ if existing == Existing::Force => Ok(()),
            _ => Err(Errno::EXIST.into()),
        }
    }
}

/// Makes something under a hidden name that nothing has.
fn beside<T>(make: impl Fn(&CStr) -> rustix::io::Result<T>) -> io::Result<(CString, T)> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = CString::new(format!(".butterfs-{}-{number}.new", std::process::id()))?;
        match make(&name) {
            Err(Errno::EXIST) => {}
            made => return Ok((name, made?)),
        }
    }
}

impl Special {
    fn numbers(self) -> (FileType, u64) {
        let number = |device: DeviceNumber| rustix::fs::makedev(device.major, device.minor);
        match self {
            Self::Fifo => (FileType::Fifo, 0),
            Self::Socket => (FileType::Socket, 0),
            Self::CharDevice(device) => (FileType::CharacterDevice, number(device)),
            Self::BlockDevice(device) => (FileType::BlockDevice, number(device)),
        }
    }
}

impl Node<'_> {
    /// Sets its attributes; a symbolic link has no permissions.
    ///
    /// # Errors
    /// As the system's, but for what is in the result.
    pub fn set_attributes(&self, attributes: &Attributes, policy: Policy) -> io::Result<Lost> {
        let dir = self.dir.0.as_fd();
        let subject = match self.kind {
            NodeKind::Link => Subject::Link(dir, &self.name),
            NodeKind::Special => Subject::Special(dir, &self.name),
        };
        attributes::set(&subject, attributes, policy)
    }
}

const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn c_name(name: &[u8]) -> io::Result<CString> {
    name::check(name)?;
    Ok(CString::new(name)?)
}

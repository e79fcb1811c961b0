//! What is on the host, to be read.
//!
//! Everything is found from an open directory by name, so that neither depth nor what others rename
//! meanwhile leads elsewhere.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::Links;
use crate::host::{Xattr, path_of};

/// The longest list of names, and the longest value, that Linux knows.
const LONGEST_XATTR: usize = 64 << 10;

/// An open directory of the host.
#[derive(Debug)]
pub struct SourceDir(OwnedFd);

impl SourceDir {
    /// Opens what the user named.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty())?))
    }

    /// Opens a directory in this one.
    pub fn enter(&self, name: &CStr, links: Links) -> io::Result<Self> {
        Ok(Self(rustix::fs::openat(&self.0, name, DIRECTORY | follow(links), Mode::empty())?))
    }

    /// The names in it, but for `.` and `..`.
    pub fn names(&self) -> io::Result<Vec<CString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// What the directory itself is.
    pub fn own_stat(&self) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(&self.0)?)
    }

    /// What something in it is.
    pub fn stat(&self, name: &CStr, links: Links) -> io::Result<Stat> {
        let flags = if links == Links::Copy { AtFlags::SYMLINK_NOFOLLOW } else { AtFlags::empty() };
        Ok(rustix::fs::statat(&self.0, name, flags)?)
    }

    /// Opens a regular file.
    pub fn open_file(&self, name: &CStr, links: Links) -> io::Result<File> {
        // Without O_NONBLOCK, what has become a pipe meanwhile would wait for its other end.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | follow(links);
        Ok(rustix::fs::openat(&self.0, name, flags, Mode::empty())?.into())
    }

    /// Where a symbolic link leads.
    pub fn read_link(&self, name: &CStr) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.0, name, Vec::new())?.into_bytes())
    }

    /// The extended attributes of something in it.
    pub fn xattrs(&self, name: &CStr, links: Links) -> io::Result<Vec<Xattr>> {
        let path = path_of(self.0.as_fd(), name);
        match links {
            Links::Copy => {
                read_xattrs(|to| rustix::fs::llistxattr(&path, to), |name, to| rustix::fs::lgetxattr(&path, name, to))
            }
            Links::Follow => {
                read_xattrs(|to| rustix::fs::listxattr(&path, to), |name, to| rustix::fs::getxattr(&path, name, to))
            }
        }
    }

    /// The extended attributes of the directory itself.
    pub fn own_xattrs(&self) -> io::Result<Vec<Xattr>> {
        Self::xattrs_of(&self.0)
    }

    /// The extended attributes of an open file.
    pub fn xattrs_of(file: impl AsFd) -> io::Result<Vec<Xattr>> {
        let file = file.as_fd();
        read_xattrs(|to| rustix::fs::flistxattr(file, to), |name, to| rustix::fs::fgetxattr(file, name, to))
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn follow(links: Links) -> OFlags {
    if links == Links::Copy { OFlags::NOFOLLOW } else { OFlags::empty() }
}

/// What fits into this is read at once.
const USUAL_XATTR: usize = 1024;

/// Properties of Btrfs are no attributes that could be stored.
fn read_xattrs(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Vec<Xattr>> {
    let listed = match whole(list) {
        Ok(listed) => listed,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let names = listed.split(|byte| *byte == 0).filter(|name| !name.is_empty() && !name.starts_with(b"btrfs."));
    let mut found = Vec::new();
    for name in names {
        match whole(|to| get(name, to)) {
            Ok(value) => found.push((name.to_vec(), value)),
            // It went meanwhile, or is listed by a filesystem that does not give it out.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// All that a call has to say, which is seldom much.
fn whole(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut usual = [0; USUAL_XATTR];
    match read(&mut usual) {
        Ok(len) => Ok(usual[..len].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; LONGEST_XATTR];
            let len = read(&mut large)?;
            large.truncate(len);
            Ok(large)
        }
        Err(error) => Err(error),
    }
}

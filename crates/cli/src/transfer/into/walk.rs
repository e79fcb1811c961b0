//! What is below a path of the host, in the order in which it is copied, read ahead by a thread of its own.
//!
//! # Invariants
//! * What is in a directory comes between its [`Step::Enter`] and its [`Step::Leave`], and each `Enter` has a `Leave`.
//! * What waits to be copied is bounded: [`AHEAD`] steps, each with [`SMALL`] bytes or an open file at most.
//!
//! # Locking
//! None: what was read goes through a channel. The walk ends when nobody listens any more.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::mpsc::SyncSender;

use butterfs_format::items::FileType;
use rustix::buffer::spare_capacity;
use rustix::fs::Stat;

use super::super::source::SourceDir;
use super::super::{Borders, IS_DIRECTORY, IS_IMAGE, Outcome, Problem, Recursion, Settings};
use crate::host::{Preserve, Xattr};
use crate::image::path;
use crate::image::walk::MOST_LEVELS;

/// How many steps wait at most.
pub(super) const AHEAD: usize = 64;
/// Files of so many bytes are read ahead.
const SMALL: usize = 128 << 10;

/// Something of the host.
#[derive(Debug)]
pub(super) struct Found {
    /// The name in its directory.
    pub name: Vec<u8>,
    /// For messages.
    pub path: Vec<u8>,
    /// What it is.
    pub stat: Stat,
    /// Its extended attributes, if they are wanted.
    pub xattrs: Vec<Xattr>,
    /// What it holds.
    pub content: Content,
}

/// What something of the host holds.
#[derive(Debug)]
pub(super) enum Content {
    /// A file that was read.
    Bytes(Vec<u8>),
    /// A file to read.
    File(File),
    /// The target of a symbolic link.
    Symlink(Vec<u8>),
    /// Nothing that is copied here: directories, devices, pipes, sockets.
    None,
}

/// One step of the walk.
#[derive(Debug)]
pub(super) enum Step {
    /// A directory begins.
    Enter(Found),
    /// The innermost directory ends.
    Leave,
    /// Anything else.
    Entry(Found),
    /// Something cannot be copied.
    Failed(Vec<u8>, Problem),
}

/// Which part of a path is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// What it leads to.
    Itself,
    /// What is in the directory that it leads to; that directory is the first step nevertheless.
    Inside,
}

/// Walks, and sends what is found.
pub(super) struct Walker<'a> {
    pub settings: &'a Settings,
    /// Device and inode of what is not copied.
    pub images: &'a [(u64, u64)],
    pub sink: SyncSender<Step>,
}

/// Nobody listens any more.
struct Gone;

/// A directory that is being walked.
struct Level {
    dir: SourceDir,
    names: std::vec::IntoIter<CString>,
    identity: (u64, u64),
    path: Vec<u8>,
}

impl Walker<'_> {
    /// Walks what is at a path.
    pub fn walk(&self, source: &Path, wanted: Wanted) {
        let bytes = source.as_os_str().as_bytes();
        let mut levels = Vec::new();
        let first = match wanted {
            Wanted::Itself => self.itself(bytes),
            Wanted::Inside => self.inside(source),
        };
        // Whoever has gone needs nothing more.
        let _ = self.send(first, bytes, &mut levels).and_then(|()| self.descend(&mut levels));
    }

    fn descend(&self, levels: &mut Vec<Level>) -> Result<(), Gone> {
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next() else {
                levels.pop();
                self.sink.send(Step::Leave).map_err(|_| Gone)?;
                continue;
            };
            let path = path::join(&level.path, name.to_bytes());
            let found = self.look(&level.dir, &name, path.clone());
            self.send(found, &path, levels)?;
        }
        Ok(())
    }

    /// Sends what was found; a directory is walked from now on.
    fn send(
        &self,
        found: Outcome<(Found, Option<SourceDir>)>,
        path: &[u8],
        levels: &mut Vec<Level>,
    ) -> Result<(), Gone> {
        let opened = found.and_then(|(found, dir)| match dir {
            Some(dir) => Ok((self.level(&found, dir, levels)?, found)),
            None => Ok((None, found)),
        });
        let step = match opened {
            Ok((Some(level), found)) => {
                levels.push(level);
                Step::Enter(found)
            }
            Ok((None, found)) => Step::Entry(found),
            Err(problem) => Step::Failed(path.to_vec(), problem),
        };
        self.sink.send(step).map_err(|_| Gone)
    }

    fn level(&self, found: &Found, dir: SourceDir, levels: &[Level]) -> Outcome<Option<Level>> {
        let identity = (found.stat.st_dev, found.stat.st_ino);
        if levels.len() > MOST_LEVELS || levels.iter().any(|level| level.identity == identity) {
            return Err(Problem::Text("symbolic links lead in a circle, or it is too deep"));
        }
        let outside = self.settings.borders == Borders::Stay
            && levels.last().is_some_and(|level| level.identity.0 != found.stat.st_dev);
        let names = if outside { Vec::new() } else { dir.names()? };
        Ok(Some(Level { dir, names: names.into_iter(), identity, path: found.path.clone() }))
    }

    fn itself(&self, bytes: &[u8]) -> Outcome<(Found, Option<SourceDir>)> {
        let (above, last) = match path::last_name(bytes) {
            Some(last) => (path::parent(bytes), last),
            // A directory, found in itself.
            None => (bytes, b".".as_slice()),
        };
        let above = if above.is_empty() { b".".as_slice() } else { above };
        let dir = SourceDir::open(Path::new(OsStr::from_bytes(above)))?;
        let last = CString::new(last).map_err(std::io::Error::from)?;
        self.look(&dir, &last, bytes.to_vec())
    }

    fn inside(&self, source: &Path) -> Outcome<(Found, Option<SourceDir>)> {
        if self.settings.recursion == Recursion::Refuse {
            return Err(IS_DIRECTORY);
        }
        let dir = SourceDir::open(source)?;
        let (stat, xattrs) = (dir.own_stat()?, self.wanted(|| dir.own_xattrs())?);
        let path = source.as_os_str().as_bytes().to_vec();
        Ok((Found { name: Vec::new(), path, stat, xattrs, content: Content::None }, Some(dir)))
    }

    /// Looks at something in a directory, and reads it if it is small; a directory is opened.
    fn look(&self, dir: &SourceDir, name: &CStr, path: Vec<u8>) -> Outcome<(Found, Option<SourceDir>)> {
        let links = self.settings.links;
        let stat = dir.stat(name, links)?;
        if self.images.contains(&(stat.st_dev, stat.st_ino)) {
            return Err(IS_IMAGE);
        }
        let found = |stat, xattrs, content| Found { name: name.to_bytes().to_vec(), path, stat, xattrs, content };
        match FileType::from_mode(stat.st_mode) {
            FileType::Directory if self.settings.recursion == Recursion::Refuse => Err(IS_DIRECTORY),
            FileType::Directory => {
                let inner = dir.enter(name, links)?;
                let xattrs = self.wanted(|| inner.own_xattrs())?;
                Ok((found(stat, xattrs, Content::None), Some(inner)))
            }
            FileType::Regular => {
                let file = dir.open_file(name, links)?;
                // What is open is what counts.
                let stat = rustix::fs::fstat(&file)?;
                if FileType::from_mode(stat.st_mode) != FileType::Regular {
                    return Err(Problem::Text("was replaced while it was copied"));
                }
                let xattrs = self.wanted(|| SourceDir::xattrs_of(&file))?;
                let content = read_ahead(file, &stat)?;
                Ok((found(stat, xattrs, content), None))
            }
            FileType::Unknown | FileType::Xattr => Err(Problem::Text("is of no known type")),
            file_type => {
                let content = match file_type {
                    FileType::Symlink => Content::Symlink(dir.read_link(name)?),
                    _ => Content::None,
                };
                let xattrs = self.wanted(|| dir.xattrs(name, links))?;
                Ok((found(stat, xattrs, content), None))
            }
        }
    }

    fn wanted(&self, read: impl FnOnce() -> std::io::Result<Vec<Xattr>>) -> Outcome<Vec<Xattr>> {
        if self.settings.policy.preserve.contains(Preserve::XATTRS) { Ok(read()?) } else { Ok(Vec::new()) }
    }
}

/// Reads a file that is small, has no holes, and is not to be found again under another name.
fn read_ahead(file: File, stat: &Stat) -> Outcome<Content> {
    let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
    let is_dense = stat.st_blocks.saturating_mul(512) >= stat.st_size;
    if size > SMALL || stat.st_nlink > 1 || !is_dense {
        return Ok(Content::File(file));
    }
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        let at = bytes.len() as u64;
        // It may have become shorter, or longer.
        if rustix::io::pread(&file, spare_capacity(&mut bytes), at)? == 0 {
            break;
        }
    }
    bytes.truncate(size);
    Ok(Content::Bytes(bytes))
}

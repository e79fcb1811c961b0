//! Copying into an image.
//!
//! # Invariants
//! * A file has its name only once it is whole: small ones are written before anything is committed, large
//!   ones and those that replace another get their name at the end.
//! * Whatever ends it, the image holds a commit, as after a power cut.

mod data;

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use butterfs_engine::Error;
use butterfs_engine::dir::Place;
use butterfs_engine::filesystem::{Filesystem, NewInode, NewKind, SetAttributes};
use butterfs_engine::inode::InodeId;
use butterfs_engine::inode::xattr::{Xattr as NewXattr, XattrMode};
use butterfs_format::items::{FileType, InodeFlags, Timespec};
use butterfs_fuse::DeviceNumber;
use rustix::fs::Stat;

use super::report::Report;
use super::source::SourceDir;
use super::{Borders, IS_DIRECTORY, IS_IMAGE, Links, Outcome, PIECE, Problem, Recursion, Settings, identities};
use crate::host::{Existing, Preserve, Xattr};
use crate::image::path;
use crate::image::walk::MOST_LEVELS;

/// How long what was copied is only in memory, as for a mount.
const COMMIT_INTERVAL: Duration = Duration::from_secs(30);

/// Where a source goes.
#[derive(Clone, Debug)]
pub enum Destination {
    /// It gets this name in this directory.
    Named(InodeId, Vec<u8>),
    /// What is in it goes into this directory.
    Into(InodeId),
}

/// A path of the host, and where it goes.
pub type Source = (PathBuf, Destination);

/// Copies what is at a path of the host. What fails is reported; what was copied is committed.
///
/// # Errors
/// If it could not be committed.
pub fn copy(
    fs: &Filesystem,
    images: &[PathBuf],
    sources: &[Source],
    settings: &Settings,
    report: &Report,
) -> butterfs_engine::Result<()> {
    if report.has_bar() {
        report.expect(data::measure(sources.iter().map(|(path, _)| path.as_path()), settings, report));
    }
    let images = identities(images);
    let mut copier = Copier {
        fs,
        settings,
        report,
        images,
        frames: Vec::new(),
        linked: HashMap::new(),
        piece: vec![0; PIECE],
        committed: Instant::now(),
    };
    for (path, destination) in sources {
        copier.source(path, destination);
    }
    fs.sync()
}

/// A file of the host.
struct Found<'a> {
    dir: &'a SourceDir,
    name: &'a CStr,
    stat: Stat,
    links: Links,
    /// For messages.
    path: Vec<u8>,
}

/// A directory whose entries are being copied.
struct Frame {
    host: Rc<SourceDir>,
    names: std::vec::IntoIter<CString>,
    stat: Stat,
    path: Vec<u8>,
    id: InodeId,
    /// What it gets in the end; nothing, if it was there before and keeps its own.
    set: Option<SetAttributes>,
}

struct Copier<'a> {
    fs: &'a Filesystem,
    settings: &'a Settings,
    report: &'a Report,
    /// Device and inode of what the image is in.
    images: Vec<(u64, u64)>,
    frames: Vec<Frame>,
    /// Files with several names, by device and inode.
    linked: HashMap<(u64, u64), InodeId>,
    piece: Vec<u8>,
    committed: Instant,
}

impl Copier<'_> {
    fn source(&mut self, source: &Path, destination: &Destination) {
        let path = source.as_os_str().as_bytes().to_vec();
        let begun = match destination {
            Destination::Named(dir, name) => self.named(source, (*dir, name)),
            Destination::Into(dir) => self.content(source, *dir),
        };
        if let Err(problem) = begun {
            self.report.failed(&path, &problem);
        }
        while !self.frames.is_empty() {
            if self.report.is_stopped() { self.leave() } else { self.step() }
        }
    }

    fn named(&mut self, source: &Path, (dir, name): (InodeId, &[u8])) -> Outcome<()> {
        self.report.go_on()?;
        let bytes = source.as_os_str().as_bytes();
        let (above, last) = match path::last_name(bytes) {
            Some(last) => (path::parent(bytes), last),
            // A directory, found in itself.
            None => (bytes, b".".as_slice()),
        };
        let above = if above.is_empty() { b".".as_slice() } else { above };
        let host = SourceDir::open(Path::new(OsStr::from_bytes(above)))?;
        let last = CString::new(last).map_err(std::io::Error::from)?;
        self.entry(&host, &last, Place::new(dir, name), bytes.to_vec())
    }

    /// What is in a directory goes into one that is there.
    fn content(&mut self, source: &Path, id: InodeId) -> Outcome<()> {
        self.report.go_on()?;
        if self.settings.recursion == Recursion::Refuse {
            return Err(IS_DIRECTORY);
        }
        let host = SourceDir::open(source)?;
        let stat = host.own_stat()?;
        let preserve = !self.settings.policy.preserve.is_empty();
        if preserve {
            self.set_xattrs(id, &self.wanted_xattrs(|| host.own_xattrs())?)?;
        }
        let set = preserve.then(|| self.attributes(&stat));
        self.open_frame(host, stat, source.as_os_str().as_bytes().to_vec(), id, set)
    }

    fn open_frame(
        &mut self,
        host: SourceDir,
        stat: Stat,
        path: Vec<u8>,
        id: InodeId,
        set: Option<SetAttributes>,
    ) -> Outcome<()> {
        let same = |frame: &Frame| (frame.stat.st_dev, frame.stat.st_ino) == (stat.st_dev, stat.st_ino);
        if self.frames.len() > MOST_LEVELS || self.frames.iter().any(same) {
            return Err(Problem::Text("symbolic links lead in a circle, or it is too deep"));
        }
        let outside = self.settings.borders == Borders::Stay
            && self.frames.last().is_some_and(|frame| frame.stat.st_dev != stat.st_dev);
        let names = if outside { Vec::new() } else { host.names()? };
        self.frames.push(Frame { host: Rc::new(host), names: names.into_iter(), stat, path, id, set });
        Ok(())
    }

    /// The next entry of the innermost directory, or its end.
    fn step(&mut self) {
        let Some(frame) = self.frames.last_mut() else { return };
        let Some(name) = frame.names.next() else { return self.leave() };
        let path = path::join(&frame.path, name.to_bytes());
        let (host, id) = (Rc::clone(&frame.host), frame.id);
        if let Err(problem) = self.entry(&host, &name, Place::new(id, name.to_bytes()), path.clone()) {
            self.report.failed(&path, &problem);
        }
    }

    fn leave(&mut self) {
        let Some(frame) = self.frames.pop() else { return };
        let Some(set) = frame.set else { return };
        if let Err(error) = self.fs.set_attributes(frame.id, &set) {
            self.report.failed(&frame.path, &error.into());
        }
    }

    /// Copies one thing; a directory is begun.
    fn entry(&mut self, dir: &SourceDir, name: &CStr, to: Place<'_>, path: Vec<u8>) -> Outcome<()> {
        let links = self.settings.links;
        let found = Found { dir, name, stat: dir.stat(name, links)?, links, path };
        if self.images.contains(&(found.stat.st_dev, found.stat.st_ino)) {
            return Err(IS_IMAGE);
        }
        self.commit_now_and_then()?;
        match FileType::from_mode(found.stat.st_mode) {
            FileType::Directory => return self.directory(&found, to),
            FileType::Regular => self.file(&found, to)?,
            FileType::Symlink => {
                let target = dir.read_link(name)?;
                self.node(&found, to, NewKind::Symlink(&target))?;
            }
            FileType::Unknown | FileType::Xattr => return Err(Problem::Text("is of no known type")),
            file_type => {
                let raw = found.stat.st_rdev;
                let device = DeviceNumber { major: rustix::fs::major(raw), minor: rustix::fs::minor(raw) };
                let is_device = matches!(file_type, FileType::CharDevice | FileType::BlockDevice);
                let rdev = if is_device { device.to_kernel() } else { 0 };
                self.node(&found, to, NewKind::Special { file_type, rdev })?;
            }
        }
        self.report.copied(&found.path);
        Ok(())
    }

    fn directory(&mut self, found: &Found<'_>, to: Place<'_>) -> Outcome<()> {
        if self.settings.recursion == Recursion::Refuse {
            return Err(IS_DIRECTORY);
        }
        let host = found.dir.enter(found.name, found.links)?;
        let there = self.look_up(to)?;
        let preserve = !self.settings.policy.preserve.is_empty();
        let id = match there {
            Some(id) if self.fs.attributes(id)?.file_type != FileType::Directory => {
                return Err(Error::NotDirectory.into());
            }
            Some(id) => {
                if preserve {
                    self.set_xattrs(id, &self.xattrs(found)?)?;
                }
                id
            }
            None => self.create(found, to, NewKind::Directory)?,
        };
        self.report.copied(&found.path);
        let set = preserve.then(|| self.attributes(&found.stat));
        self.open_frame(host, found.stat, found.path.clone(), id, set)
    }

    /// A symbolic link or a special file.
    fn node(&mut self, found: &Found<'_>, to: Place<'_>, kind: NewKind<'_>) -> Outcome<()> {
        if let Some(old) = self.replaceable(to, FileType::from_mode(found.stat.st_mode))? {
            if self.link_again(found, to, Some(old))? {
                return Ok(());
            }
            self.fs.unlink(to)?;
        } else if self.link_again(found, to, None)? {
            return Ok(());
        }
        let id = self.create(found, to, kind)?;
        self.settle(id, found)
    }

    /// A file, with its data.
    fn file(&mut self, found: &Found<'_>, to: Place<'_>) -> Outcome<()> {
        let old = self.replaceable(to, FileType::Regular)?;
        if self.link_again(found, to, old)? {
            return Ok(());
        }
        let file = found.dir.open_file(found.name, found.links)?;
        // What is open is what counts.
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_mode(stat.st_mode) != FileType::Regular {
            return Err(Problem::Text("was replaced while it was copied"));
        }
        let found = &Found { stat, path: found.path.clone(), ..*found };
        self.report.begin(&found.path);
        if old.is_none() && stat.st_size <= PIECE as i64 {
            let id = self.create(found, to, NewKind::File)?;
            let copied = self.copy_data(&file, id, &stat).and_then(|()| self.settle(id, found));
            if copied.is_err() {
                self.linked.remove(&(stat.st_dev, stat.st_ino));
                self.fs.unlink(to)?;
            }
            return copied;
        }
        let (new, xattrs) = (self.new_inode(found, NewKind::File), self.xattrs(found)?);
        let id = self.fs.create_unnamed_with(to.dir, &new, &borrowed(&xattrs))?;
        let copied = self.copy_data(&file, id, &stat).and_then(|()| {
            if old.is_some() {
                self.fs.unlink(to)?;
            }
            self.fs.link(id, to)?;
            self.settle(id, found)
        });
        self.fs.release(id, 1)?;
        copied
    }

    /// What has the name already, if that may go.
    fn replaceable(&self, to: Place<'_>, new: FileType) -> Outcome<Option<InodeId>> {
        let Some(id) = self.look_up(to)? else { return Ok(None) };
        let there = self.fs.attributes(id)?;
        let fixed = InodeFlags::IMMUTABLE | InodeFlags::APPEND;
        match (self.settings.existing, there.file_type) {
            (_, FileType::Directory) => Err(Error::IsDirectory.into()),
            (Existing::Keep, _) => Err(Problem::Skipped),
            // As the kernel has it.
            _ if there.item.flags().intersects(fixed) => Err(Problem::Text("is immutable or append-only (see lsattr)")),
            (Existing::Force, _) | (_, FileType::Regular | FileType::Symlink) => Ok(Some(id)),
            (_, there) if there == new => Ok(Some(id)),
            _ => Err(Error::Exists.into()),
        }
    }

    fn look_up(&self, to: Place<'_>) -> Outcome<Option<InodeId>> {
        match self.fs.lookup(to) {
            Ok(id) => Ok(Some(id)),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A further name of a file that was copied; says whether it is one.
    fn link_again(&mut self, found: &Found<'_>, to: Place<'_>, old: Option<InodeId>) -> Outcome<bool> {
        if !self.keeps_links(&found.stat) {
            return Ok(false);
        }
        let Some(id) = self.linked.get(&(found.stat.st_dev, found.stat.st_ino)).copied() else { return Ok(false) };
        // Links do not go from one subvolume to another.
        if id.tree != to.dir.tree {
            return Ok(false);
        }
        if old == Some(id) {
            return Ok(true);
        }
        if old.is_some() {
            self.fs.unlink(to)?;
        }
        self.fs.link(id, to)?;
        Ok(true)
    }

    fn keeps_links(&self, stat: &Stat) -> bool {
        stat.st_nlink > 1 && self.settings.policy.preserve.contains(Preserve::LINKS)
    }

    fn create(&self, found: &Found<'_>, to: Place<'_>, kind: NewKind<'_>) -> Outcome<InodeId> {
        let xattrs = self.xattrs(found)?;
        Ok(self.fs.create_with(to, &self.new_inode(found, kind), &borrowed(&xattrs))?)
    }

    /// Owner and permissions are those of the source, or of who copies, by his umask.
    fn new_inode<'k>(&self, found: &Found<'_>, kind: NewKind<'k>) -> NewInode<'k> {
        let policy = self.settings.policy;
        let permissions = match policy.preserve.contains(Preserve::MODE) {
            true => found.stat.st_mode & 0o7777,
            false => found.stat.st_mode & 0o777 & !policy.umask,
        };
        let (uid, gid) = match policy.preserve.contains(Preserve::OWNER) {
            true => (found.stat.st_uid, found.stat.st_gid),
            false => (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
        };
        NewInode { kind, permissions, uid, gid }
    }

    /// What a new inode could not be made with, and what its data has changed.
    fn settle(&mut self, id: InodeId, found: &Found<'_>) -> Outcome<()> {
        if !self.settings.policy.preserve.is_empty() {
            self.fs.set_attributes(id, &self.attributes(&found.stat))?;
        }
        if self.keeps_links(&found.stat) {
            self.linked.insert((found.stat.st_dev, found.stat.st_ino), id);
        }
        Ok(())
    }

    fn attributes(&self, stat: &Stat) -> SetAttributes {
        let preserve = self.settings.policy.preserve;
        let mut set = SetAttributes::default();
        if preserve.contains(Preserve::MODE) {
            set.mode = Some(stat.st_mode & 0o7777);
        }
        if preserve.contains(Preserve::OWNER) {
            (set.uid, set.gid) = (Some(stat.st_uid), Some(stat.st_gid));
        }
        if preserve.contains(Preserve::TIMES) {
            set.atime = Some(Timespec::new(stat.st_atime, stat.st_atime_nsec as u32));
            set.mtime = Some(Timespec::new(stat.st_mtime, stat.st_mtime_nsec as u32));
        }
        set
    }

    fn xattrs(&self, found: &Found<'_>) -> Outcome<Vec<Xattr>> {
        self.wanted_xattrs(|| found.dir.xattrs(found.name, found.links))
    }

    fn wanted_xattrs(&self, read: impl FnOnce() -> std::io::Result<Vec<Xattr>>) -> Outcome<Vec<Xattr>> {
        if self.settings.policy.preserve.contains(Preserve::XATTRS) { Ok(read()?) } else { Ok(Vec::new()) }
    }

    fn set_xattrs(&self, id: InodeId, xattrs: &[Xattr]) -> Outcome<()> {
        borrowed(xattrs).into_iter().try_for_each(|new| self.fs.set_xattr(id, new, XattrMode::Any))?;
        Ok(())
    }

    fn commit_now_and_then(&mut self) -> Outcome<()> {
        if self.committed.elapsed() >= COMMIT_INTERVAL {
            self.fs.sync()?;
            self.committed = Instant::now();
        }
        Ok(())
    }
}

fn borrowed(xattrs: &[Xattr]) -> Vec<NewXattr<'_>> {
    xattrs.iter().map(|(name, value)| NewXattr { name, value }).collect()
}

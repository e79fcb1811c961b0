//! Copying into an image.
//!
//! # Invariants
//! * A file has its name only once it is whole: small ones are written before anything is committed, large
//!   ones and those that replace another get their name at the end.
//! * One thread reads ahead of the one that makes files ([`walk`]).
//! * Whatever ends it, the image holds a commit, as after a power cut.

mod data;
mod walk;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use butterfs_engine::Error;
use butterfs_engine::dir::Place;
use butterfs_engine::filesystem::{Filesystem, NewInode, NewKind, SetAttributes};
use butterfs_engine::inode::InodeId;
use butterfs_engine::inode::xattr::{Xattr as NewXattr, XattrMode};
use butterfs_format::TreeId;
use butterfs_format::items::{FileType, InodeFlags, Timespec};
use butterfs_fuse::DeviceNumber;
use rustix::fs::Stat;

use self::walk::{AHEAD, Content, Found, Step, Walker, Wanted};
use super::report::Report;
use super::{Outcome, PIECE, Problem, Settings, identities};
use crate::host::{Existing, Preserve, Xattr};

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
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| write_behind(fs, &ended));
        for (path, destination) in sources {
            copier.source(path, destination);
        }
        ended.store(true, Ordering::Relaxed);
    });
    fs.sync()
}

/// Writes to the devices while files are made, until that has ended.
fn write_behind(fs: &Filesystem, ended: &AtomicBool) {
    const DIRTY: u64 = 32 << 20;
    const LOOK_AGAIN: Duration = Duration::from_millis(2);
    while !ended.load(Ordering::Relaxed) {
        if fs.dirty_bytes() <= DIRTY {
            std::thread::sleep(LOOK_AGAIN);
        } else if fs.write_back_to(DIRTY / 2).is_err() {
            // The commit tells.
            return;
        }
    }
}

/// A directory whose entries are being copied.
struct Frame {
    path: Vec<u8>,
    id: InodeId,
    /// Whether it was there before.
    was_there: bool,
    /// What it gets in the end; nothing, if it was there before and keeps its own.
    set: Option<SetAttributes>,
}

struct Copier<'a> {
    fs: &'a Filesystem,
    settings: &'a Settings,
    report: &'a Report,
    /// Device and inode of what the image is in.
    images: Vec<(u64, u64)>,
    /// The directories around; `None`: it could not be made, and what is in it is passed over.
    frames: Vec<Option<Frame>>,
    /// Files with several names, by device and inode, and the subvolume that they were copied into: links do not go from
    /// one to another.
    linked: HashMap<(u64, u64, TreeId), InodeId>,
    piece: Vec<u8>,
    committed: Instant,
}

impl Copier<'_> {
    fn source(&mut self, source: &Path, destination: &Destination) {
        let (settings, images) = (self.settings, self.images.clone());
        let wanted = match destination {
            Destination::Named(..) => Wanted::Itself,
            Destination::Into(_) => Wanted::Inside,
        };
        std::thread::scope(|scope| {
            let (sink, steps) = sync_channel(AHEAD);
            scope.spawn(move || Walker { settings, images: &images, sink }.walk(source, wanted));
            self.follow(steps, destination);
        });
    }

    /// Copies what the walk finds, until it or the user ends.
    fn follow(&mut self, steps: Receiver<Step>, destination: &Destination) {
        for step in steps {
            if self.report.is_stopped() {
                break;
            }
            self.step(step, destination);
        }
        while !self.frames.is_empty() {
            self.leave();
        }
    }

    fn step(&mut self, step: Step, destination: &Destination) {
        let passed_over = matches!(self.frames.last(), Some(None));
        match step {
            Step::Leave => self.leave(),
            Step::Enter(_) if passed_over => self.frames.push(None),
            Step::Entry(_) | Step::Failed(..) if passed_over => {}
            Step::Failed(path, problem) => self.report.failed(&path, &problem),
            Step::Enter(found) => {
                let entered = self.directory(&found, destination);
                if let Err(problem) = &entered {
                    self.report.failed(&found.path, problem);
                }
                self.frames.push(entered.ok());
            }
            Step::Entry(found) => {
                if let Err(problem) = self.entry(&found, destination) {
                    self.report.failed(&found.path, &problem);
                }
            }
        }
    }

    fn leave(&mut self) {
        let Some(Some(frame)) = self.frames.pop() else { return };
        let Some(set) = frame.set else { return };
        if let Err(error) = self.fs.set_attributes(frame.id, &set) {
            self.report.failed(&frame.path, &error.into());
        }
    }

    /// Where something goes. `None`: it is the directory that is there for what is in it.
    fn place<'p>(&self, found: &'p Found, destination: &'p Destination) -> (InodeId, Option<&'p [u8]>) {
        match (self.frames.last(), destination) {
            (Some(Some(frame)), _) => (frame.id, Some(&found.name)),
            (_, Destination::Named(dir, name)) => (*dir, Some(name)),
            (_, Destination::Into(dir)) => (*dir, None),
        }
    }

    /// Copies anything but a directory.
    fn entry(&mut self, found: &Found, destination: &Destination) -> Outcome<()> {
        self.commit_now_and_then()?;
        let (dir, Some(name)) = self.place(found, destination) else { return Err(Error::NotDirectory.into()) };
        let to = Place::new(dir, name);
        match (FileType::from_mode(found.stat.st_mode), &found.content) {
            (_, Content::Symlink(target)) => self.node(found, to, NewKind::Symlink(target))?,
            (FileType::Regular, _) => self.file(found, to)?,
            (file_type, _) => {
                let raw = found.stat.st_rdev;
                let device = DeviceNumber { major: rustix::fs::major(raw), minor: rustix::fs::minor(raw) };
                let is_device = matches!(file_type, FileType::CharDevice | FileType::BlockDevice);
                let rdev = if is_device { device.to_kernel() } else { 0 };
                self.node(found, to, NewKind::Special { file_type, rdev })?;
            }
        }
        self.report.copied(&found.path);
        Ok(())
    }

    /// Makes a directory, or finds it.
    fn directory(&mut self, found: &Found, destination: &Destination) -> Outcome<Frame> {
        self.commit_now_and_then()?;
        let (dir, name) = self.place(found, destination);
        let preserve = !self.settings.policy.preserve.is_empty();
        let there = match name {
            Some(name) => self.look_up(Place::new(dir, name))?,
            None => Some(dir),
        };
        let id = match (there, name) {
            (Some(id), _) if self.fs.attributes(id)?.file_type != FileType::Directory => {
                return Err(Error::NotDirectory.into());
            }
            (None, Some(name)) => self.create(found, Place::new(dir, name), NewKind::Directory)?,
            (there, _) => {
                let id = there.unwrap_or(dir);
                if preserve {
                    self.set_xattrs(id, &found.xattrs)?;
                }
                id
            }
        };
        if name.is_some() {
            self.report.copied(&found.path);
        }
        let set = preserve.then(|| self.attributes(&found.stat));
        Ok(Frame { path: found.path.clone(), id, was_there: there.is_some(), set })
    }

    /// A symbolic link or a special file.
    fn node(&mut self, found: &Found, to: Place<'_>, kind: NewKind<'_>) -> Outcome<()> {
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
    fn file(&mut self, found: &Found, to: Place<'_>) -> Outcome<()> {
        let old = self.replaceable(to, FileType::Regular)?;
        if self.link_again(found, to, old)? {
            return Ok(());
        }
        let stat = &found.stat;
        self.report.begin(&found.path);
        if old.is_none() && stat.st_size <= PIECE as i64 {
            let id = self.create(found, to, NewKind::File)?;
            let copied = self.copy_data(found, id).and_then(|()| self.settle(id, found));
            if copied.is_err() {
                self.linked.remove(&(stat.st_dev, stat.st_ino, to.dir.tree));
                self.fs.unlink(to)?;
            }
            return copied;
        }
        let new = self.new_inode(found, NewKind::File);
        let id = self.fs.create_unnamed_with(to.dir, &new, &borrowed(&found.xattrs))?;
        let copied = self.copy_data(found, id).and_then(|()| {
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
        // Nothing is in a directory that was just made but what came from this one; and that has other names.
        if matches!(self.frames.last(), Some(Some(frame)) if !frame.was_there) {
            return Ok(None);
        }
        match self.fs.lookup(to) {
            Ok(id) => Ok(Some(id)),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A further name of a file that was copied; says whether it is one.
    fn link_again(&mut self, found: &Found, to: Place<'_>, old: Option<InodeId>) -> Outcome<bool> {
        if !self.keeps_links(&found.stat) {
            return Ok(false);
        }
        let Some(id) = self.linked.get(&(found.stat.st_dev, found.stat.st_ino, to.dir.tree)).copied() else {
            return Ok(false);
        };
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

    fn create(&self, found: &Found, to: Place<'_>, kind: NewKind<'_>) -> Outcome<InodeId> {
        Ok(self.fs.create_with(to, &self.new_inode(found, kind), &borrowed(&found.xattrs))?)
    }

    /// Owner and permissions are those of the source, or of who copies, by his umask.
    fn new_inode<'k>(&self, found: &Found, kind: NewKind<'k>) -> NewInode<'k> {
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
    fn settle(&mut self, id: InodeId, found: &Found) -> Outcome<()> {
        if !self.settings.policy.preserve.is_empty() {
            self.fs.set_attributes(id, &self.attributes(&found.stat))?;
        }
        if self.keeps_links(&found.stat) {
            self.linked.insert((found.stat.st_dev, found.stat.st_ino, id.tree), id);
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

//! Copying out of an image.
//!
//! # Invariants
//! * One thread walks: it makes directories, links and empty files, and gives files to those that copy data.
//!   A file with several names is copied by the walker, so that a name is only linked to a whole file.
//! * A directory gets its attributes when it was left and all files in it have their names: by whoever is last.
//! * Nothing that is written replaces the image itself.

mod data;
mod measure;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use butterfs_engine::Error;
use butterfs_engine::dir::list::Listed;
use butterfs_engine::filesystem::{Attributes as Found, Filesystem, Flow};
use butterfs_engine::inode::InodeId;
use butterfs_format::items::FileType;
use butterfs_fuse::DeviceNumber;

use self::data::{Ending, Job, Pool};
use super::report::Report;
use super::{Borders, IS_DIRECTORY, IS_IMAGE, Links, Outcome, Problem, Recursion, Settings, identities};
use crate::host::{Attributes, Directory, Existing, Preserve, Special, Xattr};
use crate::image::path::{self, Last, resolve, resolve_from};
use crate::image::walk::{MOST_LEVELS, Visited};

/// Entries of a directory that are read at once.
const BATCH: usize = 1024;

/// A name in a directory of the host.
#[derive(Clone, Debug)]
pub struct Place {
    /// The directory.
    pub dir: Arc<Directory>,
    /// The name.
    pub name: Vec<u8>,
}

/// Where a source goes.
#[derive(Clone, Debug)]
pub enum Destination {
    /// It gets this name.
    Named(Place),
    /// What is in it goes into this directory.
    Into(Arc<Directory>),
}

/// Copies what a path in the image leads to. What fails is reported.
pub fn copy(
    fs: &Filesystem,
    images: &[PathBuf],
    sources: &[(Vec<u8>, Destination)],
    settings: &Settings,
    report: &Report,
) {
    if report.has_bar() {
        report.expect(measure::bytes(fs, sources.iter().map(|(path, _)| path.as_slice()), settings, report));
    }
    Pool::run(fs, settings.policy, report, |jobs| {
        let protected = identities(images);
        let visited = Visited::default();
        let mut walker =
            Walker { fs, settings, report, jobs, protected, frames: Vec::new(), visited, linked: HashMap::new() };
        for (path, destination) in sources {
            walker.source(path, destination);
        }
    });
}

/// A directory whose entries are being copied.
struct Frame {
    id: InodeId,
    path: Vec<u8>,
    host: Arc<Directory>,
    /// What it gets in the end; nothing, if it was there before and keeps its own.
    ending: Option<Arc<Ending>>,
    batch: VecDeque<Listed>,
    /// Where the next batch begins; `None` after the last.
    position: Option<u64>,
}

struct Walker<'a> {
    fs: &'a Filesystem,
    settings: &'a Settings,
    report: &'a Report,
    jobs: &'a SyncSender<Job>,
    /// What must not be replaced: device and inode of the image.
    protected: Vec<(u64, u64)>,
    frames: Vec<Frame>,
    visited: Visited,
    /// Files with several names: where the first was made.
    linked: HashMap<InodeId, Place>,
}

impl Walker<'_> {
    fn source(&mut self, path: &[u8], destination: &Destination) {
        if self.report.is_stopped() {
            return;
        }
        let last = if self.settings.links == Links::Copy { Last::Keep } else { Last::Follow };
        let begun = resolve(self.fs, path, last).map_err(Problem::from).and_then(|id| match destination {
            Destination::Named(place) => self.entry(id, place, path.to_vec()),
            Destination::Into(dir) => self.top(id, dir, path.to_vec()),
        });
        if let Err(problem) = begun {
            self.report.failed(path, &problem);
        }
        while !self.frames.is_empty() {
            if self.report.is_stopped() { self.leave() } else { self.step() }
        }
        self.visited = Visited::default();
    }

    /// A directory whose content goes into one that is there.
    fn top(&mut self, id: InodeId, host: &Arc<Directory>, path: Vec<u8>) -> Outcome<()> {
        let found = self.fs.attributes(id)?;
        if found.file_type != FileType::Directory {
            return Err(Error::NotDirectory.into());
        }
        self.check_directory(id)?;
        self.open_frame(&found, Arc::clone(host), path, Origin::Found)
    }

    /// The next entry of the innermost directory, or its end.
    fn step(&mut self) {
        let Some(frame) = self.frames.last_mut() else { return };
        match next_entry(self.fs, frame) {
            Ok(Some(entry)) => {
                let place = Place { dir: Arc::clone(&frame.host), name: entry.name.clone() };
                let path = path::join(&frame.path, &entry.name);
                let dir = frame.id;
                if let Err(problem) = self.listed(dir, &entry, &place, path.clone()) {
                    self.report.failed(&path, &problem);
                }
            }
            Ok(None) => self.leave(),
            Err(problem) => {
                self.report.failed(&frame.path, &problem);
                frame.position = None;
                frame.batch.clear();
            }
        }
    }

    fn listed(&mut self, dir: InodeId, entry: &Listed, place: &Place, path: Vec<u8>) -> Outcome<()> {
        let follow = self.settings.links == Links::Follow && entry.file_type == FileType::Symlink;
        let id = if follow { resolve_from(self.fs, dir, &entry.name, Last::Follow)? } else { entry.id };
        self.entry(id, place, path)
    }

    /// Copies one thing; a directory is begun.
    fn entry(&mut self, id: InodeId, place: &Place, path: Vec<u8>) -> Outcome<()> {
        let found = self.fs.attributes(id)?;
        if place.dir.identity(&place.name)?.is_some_and(|there| self.protected.contains(&there)) {
            return Err(IS_IMAGE);
        }
        if found.file_type == FileType::Directory {
            return self.directory(&found, place, path);
        }
        if self.link_again(&found, place)? {
            self.report.copied(&path);
            return Ok(());
        }
        match found.file_type {
            FileType::Regular => return self.file(&found, place, path),
            FileType::Symlink => {
                let target = self.fs.read_link(id)?;
                let attributes = self.attributes(&found)?;
                let node = place.dir.make_symlink(&place.name, &target, self.settings.existing);
                let lost = self.unless_kept(node)?.set_attributes(&attributes, self.settings.policy)?;
                self.report.lost(&path, &lost);
            }
            file_type => {
                let special = special(file_type, DeviceNumber::from_kernel(found.item.rdev.get()))?;
                let attributes = self.attributes(&found)?;
                let node = place.dir.make_special(&place.name, special, self.settings.existing);
                let lost = self.unless_kept(node)?.set_attributes(&attributes, self.settings.policy)?;
                self.report.lost(&path, &lost);
            }
        }
        self.remember(&found, place);
        self.report.copied(&path);
        Ok(())
    }

    /// Whether other names of it are to be names of one file in the copy, too.
    fn keeps_links(&self, found: &Found) -> bool {
        found.item.nlink.get() > 1 && self.settings.policy.preserve.contains(Preserve::LINKS)
    }

    fn remember(&mut self, found: &Found, place: &Place) {
        if self.keeps_links(found) {
            self.linked.insert(found.id, place.clone());
        }
    }

    /// A further name of something that was copied; says whether it is one.
    fn link_again(&self, found: &Found, place: &Place) -> Outcome<bool> {
        if !self.keeps_links(found) {
            return Ok(false);
        }
        let Some(first) = self.linked.get(&found.id) else { return Ok(false) };
        let linked = place.dir.link(&place.name, (&first.dir, &first.name), self.settings.existing);
        self.unless_kept(linked)?;
        Ok(true)
    }

    /// That something is there and is to stay is no failure.
    fn unless_kept<T>(&self, made: std::io::Result<T>) -> Outcome<T> {
        made.map_err(|error| match self.settings.existing {
            Existing::Keep if error.kind() == std::io::ErrorKind::AlreadyExists => Problem::Skipped,
            _ => error.into(),
        })
    }

    fn directory(&mut self, found: &Found, place: &Place, path: Vec<u8>) -> Outcome<()> {
        self.check_directory(found.id)?;
        let (host, origin) = match place.dir.enter(&place.name) {
            Ok(host) => (host, Origin::Found),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                (place.dir.make_directory(&place.name)?, Origin::Made)
            }
            Err(error) => return Err(error.into()),
        };
        self.report.copied(&path);
        self.open_frame(found, Arc::new(host), path, origin)
    }

    /// Fails for a directory that is not to be copied, or was.
    fn check_directory(&mut self, id: InodeId) -> Outcome<()> {
        if self.settings.recursion == Recursion::Refuse {
            return Err(IS_DIRECTORY);
        }
        if self.settings.links == Links::Copy {
            return Ok(self.visited.enter(id, self.frames.len())?);
        }
        // Symbolic links may well lead to a directory twice, but not to one that this is in.
        if self.frames.len() > MOST_LEVELS || self.frames.iter().any(|frame| frame.id == id) {
            return Err(Problem::Text("symbolic links lead in a circle"));
        }
        Ok(())
    }

    fn open_frame(&mut self, found: &Found, host: Arc<Directory>, path: Vec<u8>, origin: Origin) -> Outcome<()> {
        // Directories that were there keep their attributes, unless those of the source are wanted.
        let wanted = origin == Origin::Made || !self.settings.policy.preserve.is_empty();
        let attributes = wanted.then(|| self.attributes(found)).transpose()?;
        let outside = self.settings.borders == Borders::Stay
            && self.frames.last().is_some_and(|frame| frame.id.tree != found.id.tree);
        let position = (!outside).then_some(2);
        let ending =
            attributes.map(|attributes| Arc::new(Ending { dir: Arc::clone(&host), path: path.clone(), attributes }));
        self.frames.push(Frame { id: found.id, path, host, ending, batch: VecDeque::new(), position });
        Ok(())
    }

    fn leave(&mut self) {
        let Some(frame) = self.frames.pop() else { return };
        Ending::reached(frame.ending, self.settings.policy, self.report);
    }

    fn file(&mut self, found: &Found, place: &Place, path: Vec<u8>) -> Outcome<()> {
        let attributes = self.attributes(found)?;
        let file = self.unless_kept(place.dir.make_file(&place.name, self.settings.existing))?;
        let ending = self.frames.last().and_then(|frame| frame.ending.clone());
        let job = Job { id: found.id, size: found.item.size.get(), file, attributes, path, ending };
        if !self.keeps_links(found) {
            // Nobody takes jobs any more only if a thread panicked.
            return self.jobs.send(job).map_err(|_| Problem::Text("a thread that copies has failed"));
        }
        if data::copy(self.fs, job, self.settings.policy, self.report, &mut data::buffer()) {
            self.remember(found, place);
        }
        Ok(())
    }

    fn attributes(&self, found: &Found) -> Outcome<Attributes> {
        let xattrs = match self.settings.policy.preserve.contains(Preserve::XATTRS) {
            true => self.xattrs(found.id)?,
            false => Vec::new(),
        };
        Ok(Attributes::of(&found.item, xattrs))
    }

    fn xattrs(&self, id: InodeId) -> Outcome<Vec<Xattr>> {
        self.fs.xattrs(id)?.into_iter().map(|name| Ok((name.clone(), self.fs.xattr(id, &name)?))).collect()
    }
}

/// Where a directory of the host comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Made,
    Found,
}

fn next_entry(fs: &Filesystem, frame: &mut Frame) -> Outcome<Option<Listed>> {
    if let Some(entry) = frame.batch.pop_front() {
        return Ok(Some(entry));
    }
    let Some(from) = frame.position.take() else { return Ok(None) };
    let batch = &mut frame.batch;
    fs.read_dir(frame.id, from, |entry| {
        if batch.len() >= BATCH {
            return Ok(Flow::Full);
        }
        batch.push_back(entry.clone());
        Ok(Flow::More)
    })?;
    if frame.batch.len() >= BATCH {
        frame.position = frame.batch.back().and_then(|last| last.position.checked_add(1));
    }
    Ok(frame.batch.pop_front())
}

fn special(file_type: FileType, device: DeviceNumber) -> Outcome<Special> {
    match file_type {
        FileType::Fifo => Ok(Special::Fifo),
        FileType::Socket => Ok(Special::Socket),
        FileType::CharDevice => Ok(Special::CharDevice(device)),
        FileType::BlockDevice => Ok(Special::BlockDevice(device)),
        _ => Err(Problem::Text("is of no known type")),
    }
}

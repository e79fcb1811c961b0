//! Seeded operations on the engine, with a note of what the filesystem must hold after each.
//!
//! # Invariants
//! * The same script gives the same operations; clock and UUIDs are counted up, not taken from the machine.
//! * An operation that fails for want of space changed nothing; any other failure ends the workload.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use butterfs_engine::dir::Place;
use butterfs_engine::environment::Environment;
use butterfs_engine::file::{CloneLen, SizeMode};
use butterfs_engine::filesystem::{
    Access, FileOffset, Filesystem, NewInode, NewKind, NewSubvolume, OpenOptions, RenameOptions,
};
use butterfs_engine::inode::InodeId;
use butterfs_engine::inode::xattr::{Xattr, XattrMode};
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_engine::{Error, Result};
use butterfs_format::ChecksumType;
use butterfs_format::items::{BlockGroupFlags, Timespec};
use butterfs_volume::{BlockDevice, OpenMode, Volume};

use super::history::{Durable, Entry, FileHistory, History, Names, Node, Step, Versions};
use super::recording::Recorder;
use crate::random::Random;

/// What kind of operations come often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Some of each.
    Mixed,
    /// Small writes and renames, with many fsyncs.
    Fsync,
    /// Subvolumes and snapshots come and go, and the cleaner runs.
    Snapshots,
    /// Hardly any space is left.
    NearlyFull,
    /// Only mkfs.
    MakeOnly,
}

/// Everything that a run follows from.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    /// Its name in tables.
    pub name: &'static str,
    /// Which operations.
    pub style: Style,
    /// The seed of all choices.
    pub seed: u64,
    /// How many operations.
    pub steps: usize,
    /// Size of a tree block, in bytes.
    pub nodesize: u32,
    /// Checksums.
    pub csum_type: ChecksumType,
    /// DUP, or none for single.
    pub metadata: BlockGroupFlags,
}

/// Enough for both superblock copies and some chunks.
pub const DEVICE_LEN: u64 = 160 << 20;
/// Small enough to be filled.
const SMALL_LEN: u64 = mkfs::MIN_SIZE;

impl Script {
    /// The size of the device, in bytes.
    pub fn device_len(&self) -> u64 {
        if self.style == Style::NearlyFull { SMALL_LEN } else { DEVICE_LEN }
    }
}

/// Counts time and UUIDs up.
pub struct CountingEnvironment(AtomicU64);

impl CountingEnvironment {
    /// Begins at a number.
    pub fn new(start: u64) -> Self {
        Self(AtomicU64::new(start))
    }
}

impl Environment for CountingEnvironment {
    fn now(&self) -> Timespec {
        Timespec::new(1_700_000_000 + self.0.fetch_add(1, Ordering::Relaxed) as i64, 0)
    }

    fn new_uuid(&self) -> [u8; 16] {
        let mut random = Random::new(self.0.fetch_add(1, Ordering::Relaxed));
        let mut uuid = [0; 16];
        uuid[..8].copy_from_slice(&random.bits().to_le_bytes());
        uuid[8..].copy_from_slice(&random.bits().to_le_bytes());
        uuid
    }
}

/// How a workload ended.
pub struct Outcome {
    /// What was there, step by step.
    pub history: History,
    /// The filesystem, if it could be opened.
    pub filesystem: Option<Filesystem>,
    /// The error that ended it.
    pub failure: Option<Error>,
}

/// What to do when an operation fails for another reason than space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// It is a bug.
    Panic,
    /// The device was made to fail: end the workload.
    Stop,
}

const NEW_FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 1, gid: 2 };
/// The one extended attribute.
pub const XATTR: &[u8] = b"user.attribute";
/// The path of the file that takes all space.
const BALLAST: &str = "ballast";

/// Runs a script on a device: mkfs, open, operations. `recorder` gives the positions.
pub fn run(script: &Script, device: Arc<dyn BlockDevice>, recorder: &Arc<Recorder>, on_error: OnError) -> Outcome {
    let environment = CountingEnvironment::new(script.seed << 20);
    let mut options = MakeOptions::new(script.device_len(), &environment);
    options.nodesize = script.nodesize;
    options.csum_type = script.csum_type;
    options.metadata_profile = script.metadata;
    let made = mkfs::make(Arc::clone(&device), &options);
    let mut history = History { made: recorder.mark("mkfs returned"), ..History::default() };
    let opened = made.and_then(|()| open(vec![device], Access::ReadWrite, environment));
    let filesystem = match opened {
        Ok(filesystem) => filesystem,
        Err(error) => {
            assert!(on_error == OnError::Stop, "{script:?}: {error}");
            history.made = usize::MAX;
            return Outcome { history, filesystem: None, failure: Some(error) };
        }
    };
    let mut run = Run {
        filesystem,
        recorder: Arc::clone(recorder),
        random: Random::new(script.seed),
        history,
        names: Arc::default(),
        held: Vec::new(),
        failure: None,
        on_error,
        made_names: 0,
    };
    run.end(recorder.position(), "open", Durable::Nothing);
    run.all(script);
    Outcome { history: run.history, filesystem: Some(run.filesystem), failure: run.failure }
}

/// Opens devices with small caches.
pub fn open(
    devices: Vec<Arc<dyn BlockDevice>>,
    access: Access,
    environment: CountingEnvironment,
) -> Result<Filesystem> {
    let mode = if access == Access::ReadOnly { OpenMode::ReadOnly } else { OpenMode::ReadWrite };
    let volume = Volume::open(devices, mode)?;
    let options = OpenOptions { access, cache_bytes: 4 << 20, cached_inodes: 256, ..OpenOptions::default() };
    Filesystem::open(volume, options, Box::new(environment))
}

struct Run {
    filesystem: Filesystem,
    recorder: Arc<Recorder>,
    random: Random,
    history: History,
    names: Arc<Names>,
    held: Vec<InodeId>,
    failure: Option<Error>,
    on_error: OnError,
    made_names: usize,
}

/// Operations, with how often each comes in each style.
type Operation = (fn(&mut Run), [u64; 4]);

const OPERATIONS: &[Operation] = &[
    (Run::create, [16, 14, 12, 16]),
    (Run::write, [26, 30, 22, 34]),
    (Run::truncate, [7, 5, 6, 10]),
    (Run::unlink, [9, 5, 9, 12]),
    (Run::rename, [9, 12, 7, 5]),
    (Run::exchange, [2, 3, 1, 1]),
    (Run::link, [3, 4, 3, 1]),
    (Run::make_dir, [4, 3, 3, 1]),
    (Run::remove_dir, [1, 1, 1, 1]),
    (Run::symlink, [2, 1, 2, 1]),
    (Run::punch, [2, 2, 2, 2]),
    (Run::clone_range, [5, 8, 5, 6]),
    (Run::preallocate, [2, 2, 1, 3]),
    (Run::unnamed, [1, 2, 1, 1]),
    (Run::unlink_held, [2, 1, 2, 1]),
    (Run::release, [1, 1, 1, 1]),
    (Run::set_xattr, [3, 5, 2, 2]),
    (Run::fsync, [6, 18, 4, 6]),
    (Run::fsync_dir, [1, 4, 1, 1]),
    (Run::sync, [3, 1, 3, 4]),
    (Run::verify, [2, 1, 1, 1]),
    (Run::make_subvolume, [1, 0, 3, 0]),
    (Run::snapshot, [1, 1, 6, 1]),
    (Run::delete_subvolume, [1, 1, 6, 1]),
    (Run::clean, [2, 1, 7, 2]),
];

impl Run {
    fn all(&mut self, script: &Script) {
        let column = match script.style {
            Style::Mixed => 0,
            Style::Fsync => 1,
            Style::Snapshots => 2,
            Style::NearlyFull => 3,
            Style::MakeOnly => return,
        };
        if script.style == Style::NearlyFull {
            self.fill();
        }
        let total: u64 = OPERATIONS.iter().map(|(_, weights)| weights[column]).sum();
        while self.history.steps.len() < script.steps && self.failure.is_none() {
            let mut choice = self.random.below(total);
            for (operation, weights) in OPERATIONS {
                if choice < weights[column] {
                    operation(self);
                    break;
                }
                choice -= weights[column];
            }
        }
    }

    /// One operation: `work` on the filesystem, then `note` what it changed. Gives whether it was done.
    fn step<R>(
        &mut self,
        what: String,
        durable: Durable,
        work: impl FnOnce(&Self) -> Result<R>,
        note: impl FnOnce(&mut Self, Option<R>),
    ) {
        let begun = self.recorder.position();
        match work(self) {
            Ok(result) => {
                note(self, Some(result));
                self.end(begun, &what, durable);
            }
            Err(Error::NoSpace) => self.end(begun, &format!("{what} (no space)"), Durable::Nothing),
            Err(error) => {
                assert!(self.on_error == OnError::Stop, "{what}: {error}");
                note(self, None);
                self.failure = Some(error);
                self.end(begun, &format!("{what} (failed)"), Durable::Nothing);
            }
        }
    }

    fn end(&mut self, begun: usize, what: &str, durable: Durable) {
        let number = self.history.steps.len();
        let generation = match self.failure {
            None => self.filesystem.shared().gate.volume().superblock().generation.get(),
            Some(_) => u64::MAX,
        };
        let marked = self.recorder.mark(format!("step {number}: {what} returned, generation {generation}"));
        let ended = self.failure.is_none().then_some(marked);
        let names = Arc::clone(&self.names);
        self.history.steps.push(Step { what: what.to_owned(), begun, ended, generation, names, durable });
    }

    /// The number of the step that is being done.
    fn now(&self) -> usize {
        self.history.steps.len()
    }

    fn set(&mut self, path: &str, node: Node) {
        let since = self.now();
        Arc::make_mut(&mut self.names).insert(path.to_owned(), Entry { node, since });
    }

    fn remove(&mut self, path: &str) {
        Arc::make_mut(&mut self.names).remove(path);
    }

    fn id(&self, path: &str) -> Result<InodeId> {
        path.split('/')
            .filter(|name| !name.is_empty())
            .try_fold(self.filesystem.root(), |dir, name| self.filesystem.lookup(Place::new(dir, name.as_bytes())))
    }

    /// Does something with the place of a path.
    fn at<R>(&self, path: &str, work: impl FnOnce(Place<'_>) -> Result<R>) -> Result<R> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        work(Place::new(self.id(dir)?, name.as_bytes()))
    }

    fn version(&self, file: usize) -> Arc<[u8]> {
        self.history.files[file].content.last()
    }

    fn new_version(&mut self, file: usize, bytes: Vec<u8>) {
        let now = self.now();
        self.history.files[file].content.push(now, &bytes);
    }

    fn new_file(&mut self, path: &str, bytes: &[u8]) {
        let nested = self.is_nested(path);
        let (content, xattr) = (Versions::new(self.now(), bytes), Versions::new(self.now(), &[]));
        self.history.files.push(FileHistory { nested, content, xattr });
        let number = self.history.files.len() - 1;
        self.set(path, Node::File(number));
    }

    fn is_nested(&self, path: &str) -> bool {
        let top = path.split('/').next().unwrap_or_default();
        path.contains('/') && self.names.get(top).is_some_and(|entry| entry.node == Node::Subvolume)
    }

    /// A path that may be free or taken; never in a snapshot.
    fn any_path(&mut self) -> String {
        let dirs: Vec<String> = self
            .names
            .iter()
            .filter(|(_, entry)| matches!(entry.node, Node::Directory | Node::Subvolume))
            .map(|(path, _)| format!("{path}/"))
            .collect();
        let dir = if self.random.percent(40) { self.random.pick(&dirs).cloned() } else { None };
        let name = match self.random.below(40) {
            0 => format!("{:x<250}", self.random.below(5)),
            n => format!("f{n}"),
        };
        dir.unwrap_or_default() + &name
    }

    fn free_path(&mut self) -> Option<String> {
        let path = self.any_path();
        (!self.names.contains_key(&path)).then_some(path)
    }

    fn any_file(&mut self) -> Option<(String, usize)> {
        let files: Vec<(&String, usize)> = self
            .names
            .iter()
            .filter_map(|(path, entry)| match entry.node {
                Node::File(number) if path != BALLAST => Some((path, number)),
                _ => None,
            })
            .collect();
        self.random.pick(&files).map(|(path, number)| ((*path).clone(), *number))
    }

    fn any_of(&mut self, wanted: fn(&Node) -> bool) -> Option<String> {
        let paths: Vec<&String> = self.names.iter().filter(|(_, e)| wanted(&e.node)).map(|(path, _)| path).collect();
        self.random.pick(&paths).map(|path| (*path).clone())
    }

    fn fresh_name(&mut self, prefix: &str) -> String {
        self.made_names += 1;
        format!("{prefix}{}", self.made_names)
    }

    /// Bytes that tell their file, version and place.
    fn content(&self, file: usize, offset: usize, len: usize) -> Vec<u8> {
        let tag = Random::new((file as u64) << 32 | self.now() as u64).bits() as usize;
        (offset..offset + len).map(|at| ((tag >> (at / 61 % 40)) + at / 61) as u8 | 1).collect()
    }
}

/// Names.
impl Run {
    fn create(&mut self) {
        let Some(path) = self.free_path() else { return };
        self.step(
            format!("create {path}"),
            Durable::Nothing,
            |run| run.at(&path, |place| run.filesystem.create(place, &NEW_FILE)),
            |run, _| run.new_file(&path, &[]),
        );
    }

    fn make_dir(&mut self) {
        let path = self.fresh_name("d");
        let new = NewInode { kind: NewKind::Directory, permissions: 0o755, ..NEW_FILE };
        self.step(
            format!("mkdir {path}"),
            Durable::Nothing,
            |run| run.at(&path, |place| run.filesystem.create(place, &new)),
            |run, _| run.set(&path, Node::Directory),
        );
    }

    fn remove_dir(&mut self) {
        let Some(path) = self.any_of(|node| *node == Node::Directory) else { return };
        let inside = format!("{path}/");
        if self.names.range(inside.clone()..).next().is_some_and(|(path, _)| path.starts_with(&inside)) {
            return;
        }
        self.step(
            format!("rmdir {path}"),
            Durable::Nothing,
            |run| run.at(&path, |place| run.filesystem.rmdir(place)),
            |run, _| run.remove(&path),
        );
    }

    fn symlink(&mut self) {
        let Some(path) = self.free_path() else { return };
        let target = vec![b't'; 1 + self.random.below(200) as usize];
        let new = NewInode { kind: NewKind::Symlink(&target), ..NEW_FILE };
        self.step(
            format!("symlink {path}"),
            Durable::Nothing,
            |run| run.at(&path, |place| run.filesystem.create(place, &new)),
            |run, _| run.set(&path, Node::Symlink(target.clone())),
        );
    }

    fn unlink(&mut self) {
        let Some((path, _)) = self.any_file() else { return };
        self.step(
            format!("unlink {path}"),
            Durable::Nothing,
            |run| run.at(&path, |place| run.filesystem.unlink(place)),
            |run, _| run.remove(&path),
        );
    }

    fn unlink_held(&mut self) {
        let Some((path, _)) = self.any_file().filter(|(path, _)| !self.is_nested(path)) else { return };
        let hold = |run: &Self| {
            let id = run.id(&path)?;
            run.filesystem.hold(id)?;
            run.at(&path, |place| run.filesystem.unlink(place))?;
            Ok(id)
        };
        self.step(format!("unlink {path}, which is open"), Durable::Nothing, hold, |run, id| {
            run.held.extend(id);
            run.remove(&path);
        });
    }

    fn release(&mut self) {
        let Some(id) = self.held.pop() else { return };
        self.step("close".into(), Durable::Nothing, |run| run.filesystem.release(id, 1), |_, _| {});
    }

    fn rename(&mut self) {
        if self.random.percent(20) {
            return self.rename_dir();
        }
        let Some((from, number)) = self.any_file() else { return };
        let to = if self.random.percent(40) { self.any_file().map(|(path, _)| path) } else { self.free_path() };
        let Some(to) = to.filter(|to| !self.is_nested(&from) && !self.is_nested(to)) else { return };
        // Two names of one inode: POSIX wants nothing to happen.
        if self.names.get(&to).is_some_and(|entry| entry.node == Node::File(number)) {
            return;
        }
        self.step(
            format!("rename {from} to {to}"),
            Durable::Nothing,
            |run| run.at(&from, |from| run.at(&to, |to| run.filesystem.rename(from, to, RenameOptions::default()))),
            |run, _| {
                run.remove(&from);
                run.set(&to, Node::File(number));
            },
        );
    }

    fn rename_dir(&mut self) {
        let Some(from) = self.any_of(|node| *node == Node::Directory) else { return };
        let to = self.fresh_name("d");
        self.step(
            format!("rename {from} to {to}"),
            Durable::Nothing,
            |run| run.at(&from, |from| run.at(&to, |to| run.filesystem.rename(from, to, RenameOptions::default()))),
            |run, _| {
                let inside = format!("{from}/");
                let moved: Vec<(String, Node)> = run
                    .names
                    .iter()
                    .filter(|(path, _)| **path == from || path.starts_with(&inside))
                    .map(|(path, entry)| (path.clone(), entry.node.clone()))
                    .collect();
                for (path, node) in moved {
                    run.remove(&path);
                    run.set(&format!("{to}{}", &path[from.len()..]), node);
                }
            },
        );
    }

    fn exchange(&mut self) {
        let (Some((a, first)), Some((b, second))) = (self.any_file(), self.any_file()) else { return };
        if first == second || self.is_nested(&a) || self.is_nested(&b) {
            return;
        }
        self.step(
            format!("exchange {a} and {b}"),
            Durable::Nothing,
            |run| run.at(&a, |a| run.at(&b, |b| run.filesystem.exchange(a, b))),
            |run, _| {
                run.set(&a, Node::File(second));
                run.set(&b, Node::File(first));
            },
        );
    }

    fn link(&mut self) {
        let (Some((from, number)), Some(to)) = (self.any_file(), self.free_path()) else { return };
        if self.is_nested(&from) || self.is_nested(&to) {
            return;
        }
        self.step(
            format!("link {from} as {to}"),
            Durable::Nothing,
            |run| {
                let id = run.id(&from)?;
                run.at(&to, |to| run.filesystem.link(id, to))
            },
            |run, _| run.set(&to, Node::File(number)),
        );
    }

    /// A file that gets its name when its content is there.
    fn unnamed(&mut self) {
        let Some(path) = self.free_path().filter(|path| !self.is_nested(path)) else { return };
        let len = self.random.below(20_000) as usize;
        let bytes = self.content(self.history.files.len(), 0, len);
        self.step(
            format!("tmpfile of {len} bytes, linked as {path}"),
            Durable::Nothing,
            |run| {
                let id = run.filesystem.create_unnamed(run.filesystem.root(), &NEW_FILE)?;
                let filled = run.filesystem.write(id, 0, &bytes);
                let linked = filled.and_then(|_| run.at(&path, |place| run.filesystem.link(id, place)));
                run.filesystem.release(id, 1)?;
                linked
            },
            |run, _| {
                run.new_file(&path, &[]);
                let number = run.history.files.len() - 1;
                run.new_version(number, bytes.clone());
            },
        );
    }
}

/// Data.
impl Run {
    fn write(&mut self) {
        let Some((path, number)) = self.any_file() else { return };
        let old = self.version(number);
        let offset = match self.random.below(4) {
            0 => 0,
            1 => old.len(),
            2 => self.random.below(old.len() as u64 + 1) as usize,
            _ => self.random.below(60_000) as usize,
        };
        let len = match self.random.below(8) {
            0 | 1 => self.random.below(100) as usize,
            2 | 3 => self.random.below(5000) as usize,
            4 | 5 => 4096,
            6 => self.random.below(30_000) as usize,
            _ => self.random.below(120_000) as usize,
        };
        let bytes = self.content(number, offset, len);
        self.step(
            format!("write {path} {offset}+{len}"),
            Durable::Nothing,
            |run| run.filesystem.write(run.id(&path)?, offset as u64, &bytes),
            |run, written| {
                let len = written.unwrap_or(len);
                let mut new = old.to_vec();
                if len > 0 {
                    new.resize(old.len().max(offset + len), 0);
                    new[offset..offset + len].copy_from_slice(&bytes[..len]);
                }
                run.new_version(number, new);
            },
        );
    }

    fn truncate(&mut self) {
        let Some((path, number)) = self.any_file() else { return };
        let mut new = self.version(number).to_vec();
        let limit = if self.random.percent(70) { new.len() as u64 + 1 } else { 80_000 };
        let size = self.random.below(limit);
        new.resize(size as usize, 0);
        self.step(
            format!("truncate {path} to {size}"),
            Durable::Nothing,
            |run| run.filesystem.set_size(run.id(&path)?, size),
            |run, _| run.new_version(number, new),
        );
    }

    fn punch(&mut self) {
        let Some((path, number)) = self.any_file() else { return };
        let mut new = self.version(number).to_vec();
        let start = self.random.below(new.len() as u64 + 1);
        let end = start + 1 + self.random.below(20_000);
        let inside = start as usize..(end as usize).min(new.len());
        new[inside].fill(0);
        self.step(
            format!("punch {path} {start} to {end}"),
            Durable::Nothing,
            |run| run.filesystem.punch_hole(run.id(&path)?, start..end),
            |run, _| run.new_version(number, new),
        );
    }

    /// Some sectors of a file, or its end, into another file or another place. So few that it is one change: where
    /// there is no space nothing changes.
    fn clone_range(&mut self) {
        const MOST: usize = 8;
        let (Some((from, source)), Some((to, dest))) = (self.any_file(), self.any_file()) else { return };
        let (bytes, mut new) = (self.version(source), self.version(dest).to_vec());
        let start = self.random.below(bytes.len() as u64 / 4096 + 1) as usize * 4096;
        let target = self.random.below(new.len().max(40_000) as u64 / 4096 + 1) as usize * 4096;
        let (rest, sectors) = (bytes.len() - start, (bytes.len() - start) / 4096);
        let to_end = target + rest >= new.len() && rest <= MOST * 4096 && self.random.percent(60);
        let len = if to_end { rest } else { self.random.below(sectors.min(MOST) as u64 + 1) as usize * 4096 };
        let end = |start: usize| start + len.next_multiple_of(4096);
        if len == 0 || (source == dest && start < end(target) && target < end(start)) {
            return;
        }
        new.resize(new.len().max(target + len), 0);
        new[target..target + len].copy_from_slice(&bytes[start..start + len]);
        let place = |id: InodeId, offset: usize| FileOffset { id, offset: offset as u64 };
        self.step(
            format!("clone {from} {start}+{len} to {to} {target}"),
            Durable::Nothing,
            |run| {
                let (source, dest) = (place(run.id(&from)?, start), place(run.id(&to)?, target));
                run.filesystem.clone_range(source, dest, CloneLen::Bytes(len as u64))
            },
            |run, _| run.new_version(dest, new),
        );
    }

    fn preallocate(&mut self) {
        let Some((path, number)) = self.any_file() else { return };
        let mut new = self.version(number).to_vec();
        let start = self.random.below(new.len() as u64 + 1);
        let end = start + 1 + self.random.below(30_000);
        let mode = if self.random.percent(50) { SizeMode::Keep } else { SizeMode::Extend };
        if mode == SizeMode::Extend {
            new.resize(new.len().max(end as usize), 0);
        }
        self.step(
            format!("preallocate {path} {start} to {end} {mode:?}"),
            Durable::Nothing,
            |run| run.filesystem.preallocate(run.id(&path)?, start..end, mode),
            |run, _| run.new_version(number, new),
        );
    }

    /// What is read now is what was written.
    fn verify(&mut self) {
        let Some((path, number)) = self.any_file() else { return };
        let want = self.version(number);
        let read = |run: &Self| {
            let mut bytes = vec![0; want.len() + 1];
            let len = run.filesystem.read(run.id(&path)?, 0, &mut bytes)?;
            bytes.truncate(len);
            Ok(bytes)
        };
        self.step(format!("read {path}"), Durable::Nothing, read, |_, bytes| {
            if let Some(bytes) = bytes {
                assert!(*bytes == *want, "{path}: read {} bytes that are not what was written", bytes.len());
            }
        });
    }

    /// Takes nearly all space with one file.
    fn fill(&mut self) {
        self.new_ballast();
        let mut size = 0;
        let mut piece: u64 = 16 << 20;
        while piece >= 64 << 10 && self.failure.is_none() {
            let end = size + piece;
            let before = self.now();
            self.step(
                format!("preallocate {BALLAST} up to {end}"),
                Durable::Nothing,
                |run| run.filesystem.preallocate(run.id(BALLAST)?, size..end, SizeMode::Keep),
                |_, _| {},
            );
            if self.history.steps[before].what.ends_with("(no space)") { piece /= 2 } else { size = end }
        }
        self.sync();
    }

    fn new_ballast(&mut self) {
        self.step(
            format!("create {BALLAST}"),
            Durable::Nothing,
            |run| run.at(BALLAST, |place| run.filesystem.create(place, &NEW_FILE)),
            |run, _| run.new_file(BALLAST, &[]),
        );
    }

    fn fsync(&mut self) {
        let Some((path, number)) = self.any_file() else { return };
        self.step(
            format!("fsync {path}"),
            Durable::File(number),
            |run| run.filesystem.fsync(run.id(&path)?),
            |_, _| {},
        );
    }

    fn fsync_dir(&mut self) {
        let dir = if self.random.percent(50) { self.any_of(|node| *node == Node::Directory) } else { None };
        let path = dir.unwrap_or_default();
        self.step(
            format!("fsync directory /{path}"),
            Durable::Directory(path.clone()),
            |run| run.filesystem.fsync(run.id(&path)?),
            |_, _| {},
        );
    }

    /// Sets the one attribute that is looked at, or removes it.
    fn set_xattr(&mut self) {
        let Some((path, number)) = self.any_file() else { return };
        let had = !self.history.files[number].xattr.last().is_empty();
        let len = if had && self.random.percent(30) { 0 } else { 1 + self.random.below(600) as usize };
        let value = self.content(number, 0, len);
        if !had && value.is_empty() {
            return;
        }
        self.step(
            format!("xattr of {path}, {len} bytes"),
            Durable::Nothing,
            |run| match (run.id(&path)?, value.as_slice()) {
                (id, []) => run.filesystem.remove_xattr(id, XATTR),
                (id, value) => run.filesystem.set_xattr(id, Xattr { name: XATTR, value }, XattrMode::Any),
            },
            |run, _| {
                let now = run.now();
                run.history.files[number].xattr.push(now, &value);
            },
        );
    }

    fn sync(&mut self) {
        self.step("sync".into(), Durable::Everything, |run| run.filesystem.sync(), |_, _| {});
    }
}

/// Subvolumes.
impl Run {
    fn make_subvolume(&mut self) {
        let path = self.fresh_name("v");
        let new = NewSubvolume { permissions: 0o755, uid: 1, gid: 2 };
        self.step(
            format!("create subvolume {path}"),
            Durable::Nothing,
            |run| run.at(&path, |place| run.filesystem.create_subvolume(place, &new)),
            |run, _| run.set(&path, Node::Subvolume),
        );
    }

    fn snapshot(&mut self) {
        if self.names.values().filter(|entry| matches!(entry.node, Node::Snapshot(_))).count() >= 3 {
            return;
        }
        let path = self.fresh_name("s");
        let access = if self.random.percent(50) { Access::ReadOnly } else { Access::ReadWrite };
        self.step(
            format!("snapshot {path}"),
            Durable::TopLevel,
            |run| {
                let source = run.filesystem.root().tree;
                run.at(&path, |place| run.filesystem.snapshot(source, place, access))
            },
            |run, _| {
                run.history.snapshots.push(run.now());
                let number = run.history.snapshots.len() - 1;
                run.set(&path, Node::Snapshot(number));
            },
        );
    }

    fn delete_subvolume(&mut self) {
        let Some(path) = self.any_of(|node| matches!(node, Node::Snapshot(_) | Node::Subvolume)) else { return };
        self.step(
            format!("delete subvolume {path}"),
            Durable::Nothing,
            |run| run.at(&path, |place| run.filesystem.delete_subvolume(place)),
            |run, _| {
                let inside = format!("{path}/");
                let kept: BTreeMap<_, _> = std::mem::take(Arc::make_mut(&mut run.names))
                    .into_iter()
                    .filter(|(name, _)| *name != path && !name.starts_with(&inside))
                    .collect();
                run.names = Arc::new(kept);
            },
        );
    }

    fn clean(&mut self) {
        let limit = 1 + self.random.below(40) as usize;
        self.step(
            format!("clean up to {limit} blocks"),
            Durable::Nothing,
            |run| run.filesystem.clean_once(limit),
            |_, _| {},
        );
    }
}

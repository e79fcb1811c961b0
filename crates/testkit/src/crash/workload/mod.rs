//! Seeded operations on the engine, with a note of what the filesystem must hold after each.
//!
//! # Invariants
//! * The same script gives the same operations; clock and UUIDs are counted up, not taken from the machine.
//! * An operation that fails for want of space changed nothing; any other failure ends the workload.

mod data;
mod devices;
mod names;
mod space;
mod subvolumes;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use butterfs_engine::dir::Place;
use butterfs_engine::environment::Environment;
use butterfs_engine::file::{CompressRule, DataRule};
use butterfs_engine::filesystem::{Access, Filesystem, NewInode, NewKind, OpenOptions};
use butterfs_engine::inode::InodeId;
use butterfs_engine::mkfs::{self, MakeOptions, NewDevice};
use butterfs_engine::tx::{DiscardRule, Groups, SpaceRules};
use butterfs_engine::{Error, Result};
use butterfs_format::items::{BlockGroupFlags, Timespec};
use butterfs_format::superblock::Incompat;
use butterfs_format::{ChecksumType, DevId};
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Profile, Volume};

use super::history::{Durable, Entry, FileHistory, History, Names, Node, Step, Versions};
use super::recording::Recorder;
use crate::random::Random;
use devices::Devices;

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
    /// Groups are balanced, to other profiles too, and devices change their size.
    Volume,
    /// The same, and devices come, go, stay away and return.
    Devices,
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
    /// How many devices, all of the same size.
    pub devices: usize,
    /// The profile of data; none for single.
    pub data: BlockGroupFlags,
    /// The profile of metadata; none for single.
    pub metadata: BlockGroupFlags,
    /// What is compressed.
    pub compress: CompressRule,
    /// How the data of files is kept.
    pub files: DataRule,
    /// When freed space is discarded.
    pub discard: DiscardRule,
    /// Whether data and metadata have block groups of their own; mixed ones have the profile of `metadata`.
    pub groups: Groups,
}

/// Enough for both superblock copies and some chunks.
pub const DEVICE_LEN: u64 = 160 << 20;
/// Large enough to be shrunk.
const LARGE_LEN: u64 = 384 << 20;
/// Small enough to be filled.
const SMALL_LEN: u64 = mkfs::MIN_SIZE;

impl Script {
    /// The size of each device, in bytes.
    pub fn device_len(&self) -> u64 {
        match self.style {
            Style::NearlyFull => SMALL_LEN,
            Style::Volume | Style::Devices => LARGE_LEN,
            _ => DEVICE_LEN,
        }
    }

    /// How many devices may be lost without losing a byte.
    pub fn survives(&self) -> usize {
        let of = |flags| survived(&Profile::of(flags).expect("a profile"));
        of(self.data).min(of(self.metadata))
    }

    /// New devices for it.
    pub fn new_devices(&self) -> Vec<MemDevice> {
        let spare = if self.style == Style::Devices { devices::SPARE } else { 0 };
        (1..=self.devices + spare).map(|number| MemDevice::named(format!("disk{number}"), self.device_len())).collect()
    }
}

/// How many devices may be lost without losing a byte.
fn survived(profile: &Profile) -> usize {
    profile.copies / profile.stripes_per_device - 1 + profile.parity
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
    pub filesystem: Option<Arc<Filesystem>>,
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

/// Runs a script on its devices: mkfs, open, operations. `recorder` gives the positions.
pub fn run(
    script: &Script,
    devices: Vec<Arc<dyn BlockDevice>>,
    recorder: &Arc<Recorder>,
    on_error: OnError,
) -> Outcome {
    let (all, devices) = (devices.clone(), devices[..script.devices].to_vec());
    let environment = CountingEnvironment::new(script.seed << 20);
    let mut options = MakeOptions::new(script.device_len(), &environment);
    options.nodesize = script.nodesize;
    options.csum_type = script.csum_type;
    options.devices = devices.iter().map(|device| NewDevice::new(device.len(), &environment)).collect();
    (options.data_profile, options.metadata_profile) = (script.data, script.metadata);
    if script.groups == Groups::Mixed {
        options.incompat |= Incompat::MIXED_GROUPS;
        options.data_profile = script.metadata;
    }
    let made = mkfs::make_on(&devices, &options);
    let in_place = script.files == DataRule::InPlace;
    let mut history = History { made: recorder.mark("mkfs returned"), in_place, ..History::default() };
    let space = SpaceRules { discard: script.discard, ..SpaceRules::default() };
    let (compress, new_data) = (script.compress, script.files);
    let chosen = OpenOptions { compress, new_data, space, ..OpenOptions::default() };
    let small = small_caches(chosen.clone());
    let opened = made.and_then(|()| open_with(devices, chosen, environment));
    let filesystem = match opened {
        Ok(filesystem) => filesystem,
        Err(error) => {
            assert!(on_error == OnError::Stop, "{script:?}: {error}");
            history.made = usize::MAX;
            return Outcome { history, filesystem: None, failure: Some(error) };
        }
    };
    let mut run = Run {
        filesystem: Arc::new(filesystem),
        devices: Devices {
            members: (0..script.devices).map(|place| (DevId(place as u64 + 1), place)).collect(),
            all,
            least: script.devices,
            options: small,
            clock: script.seed << 20,
            away: None,
            target: None,
            catching_up: false,
        },
        survives: script.survives(),
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
    open_with(devices, OpenOptions { access, ..OpenOptions::default() }, environment)
}

pub(super) fn open_with(
    devices: Vec<Arc<dyn BlockDevice>>,
    chosen: OpenOptions,
    environment: CountingEnvironment,
) -> Result<Filesystem> {
    let mode = if chosen.access == Access::ReadOnly { OpenMode::ReadOnly } else { OpenMode::ReadWrite };
    let volume = Volume::open(devices, mode)?;
    Filesystem::open(volume, small_caches(chosen), Box::new(environment))
}

fn small_caches(chosen: OpenOptions) -> OpenOptions {
    OpenOptions { cache_bytes: 4 << 20, cached_inodes: 256, ..chosen }
}

struct Run {
    filesystem: Arc<Filesystem>,
    devices: Devices,
    /// How many devices may be lost.
    survives: usize,
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
    (Run::relocate, [1, 1, 2, 1]),
    (Run::discard, [2, 2, 2, 2]),
];

/// An operation, with how often it comes.
type Weighted = (fn(&mut Run), u64);

/// What comes on top of mixed operations, and how often.
const VOLUME_OPERATIONS: [Weighted; 3] = [(Run::balance, 6), (Run::resume_balance, 4), (Run::resize, 4)];

/// What comes on top of those.
const DEVICE_OPERATIONS: [Weighted; 5] =
    [(Run::add_device, 6), (Run::remove_device, 8), (Run::leave, 4), (Run::come_back, 16), (Run::replace_device, 6)];

impl Run {
    fn all(&mut self, script: &Script) {
        let column = match script.style {
            Style::Mixed | Style::Volume | Style::Devices => 0,
            Style::Fsync => 1,
            Style::Snapshots => 2,
            Style::NearlyFull => 3,
            Style::MakeOnly => return,
        };
        if script.style == Style::NearlyFull {
            self.fill();
        }
        let mut operations: Vec<_> =
            OPERATIONS.iter().map(|(operation, weights)| (*operation, weights[column])).collect();
        if matches!(script.style, Style::Volume | Style::Devices) {
            operations.extend(VOLUME_OPERATIONS);
        }
        if script.style == Style::Devices {
            operations.extend(DEVICE_OPERATIONS);
        }
        while self.history.steps.len() < script.steps && self.failure.is_none() {
            self.one_of(&operations);
        }
    }

    fn one_of(&mut self, operations: &[Weighted]) {
        let total: u64 = operations.iter().map(|(_, weight)| weight).sum();
        let mut choice = self.random.below(total);
        for (operation, weight) in operations {
            if choice < *weight {
                return operation(self);
            }
            choice -= *weight;
        }
    }

    /// One of those that change files.
    fn one_of_files(&mut self) {
        let operations: Vec<Weighted> =
            OPERATIONS.iter().map(|(operation, weights)| (*operation, weights[0])).collect();
        self.one_of(&operations);
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

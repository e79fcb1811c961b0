//! The operations of the stress, and what may come of them.

mod clones;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::file::{DataRule, SizeMode};
use butterfs_engine::filesystem::{
    Access, Filesystem, Flow, Leave, NewInode, NewKind, NewSubvolume, OpenOptions, RenameOptions, Replace,
};
use butterfs_engine::inode::InodeId;
use butterfs_engine::inode::xattr::{Xattr, XattrMode};
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_engine::{Error, Result};
use butterfs_format::items::{BlockGroupFlags, FileType};
use butterfs_format::superblock::{CompatRo, Incompat};
use butterfs_format::{ChecksumType, Ino, TreeId};
use butterfs_testkit::random::Random;
use butterfs_volume::{MemDevice, OpenMode, Volume};

const MIB: u64 = 1 << 20;
const DIRS: u64 = 6;
const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 0, gid: 0 };
const DIR: NewInode<'static> = NewInode { kind: NewKind::Directory, permissions: 0o755, uid: 0, gid: 0 };

/// What the filesystem is like.
#[derive(Clone, Copy)]
pub struct Shape {
    pub nodesize: u32,
    pub csum: ChecksumType,
    pub metadata: BlockGroupFlags,
    pub old_features: bool,
    pub mixed: bool,
    pub max_inline: u64,
    pub dirty_limit: u64,
    pub data: DataRule,
    pub threads: u64,
    pub seed: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            nodesize: 16384,
            csum: ChecksumType::Crc32c,
            metadata: BlockGroupFlags::DUP,
            old_features: false,
            mixed: false,
            max_inline: 2048,
            dirty_limit: 16 << 20,
            data: DataRule::Usual,
            threads: 3,
            seed: 1,
        }
    }
}

/// What happened.
#[derive(Default)]
struct Counts {
    done: AtomicU64,
    refused: AtomicU64,
    deleted: AtomicU64,
}

pub struct Stress {
    device: Arc<MemDevice>,
    shape: Shape,
    counts: Counts,
    commits: u64,
}

impl fmt::Display for Stress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let load = |count: &AtomicU64| count.load(Relaxed);
        let (done, refused, deleted) =
            (load(&self.counts.done), load(&self.counts.refused), load(&self.counts.deleted));
        write!(f, "{done} calls done, {refused} without space, {deleted} deletions, {} commits", self.commits)
    }
}

fn open(device: &Arc<MemDevice>, shape: &Shape) -> Filesystem {
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadWrite).unwrap();
    let Shape { max_inline, dirty_limit, data: new_data, .. } = *shape;
    let options = OpenOptions { max_inline, dirty_limit, new_data, ..OpenOptions::default() };
    Filesystem::open(volume, options, Box::new(SystemEnvironment)).unwrap()
}

impl Stress {
    pub fn new(shape: Shape) -> Self {
        let len = 112 * MIB;
        let device = Arc::new(MemDevice::new(len));
        let mut options = MakeOptions::new(len, &SystemEnvironment);
        (options.nodesize, options.csum_type) = (shape.nodesize, shape.csum);
        options.metadata_profile = shape.metadata;
        if shape.old_features {
            options.incompat.remove(Incompat::NO_HOLES | Incompat::SKINNY_METADATA);
            options.compat_ro.remove(CompatRo::BLOCK_GROUP_TREE);
        }
        if shape.mixed {
            options.incompat |= Incompat::MIXED_GROUPS;
            (options.nodesize, options.data_profile) = (options.sectorsize, shape.metadata);
        }
        mkfs::make(device.clone(), &options).unwrap();
        Self { device, shape, counts: Counts::default(), commits: 0 }
    }

    /// Fills the filesystem, and lets the threads loose on it.
    pub fn round(&mut self, number: u64, operations: usize) {
        let fs = open(&self.device, &self.shape);
        let before = generation(&fs);
        let fill = Worker::new(&fs, &self.counts, Random::new(self.shape.seed * 1000 + number), 0);
        fill.fill(number);
        std::thread::scope(|scope| {
            for thread in 0..self.shape.threads {
                let (fs, counts) = (&fs, &self.counts);
                let random = Random::new(self.shape.seed * 100_000 + number * 100 + thread);
                let steps = operations / self.shape.threads as usize;
                scope.spawn(move || {
                    let mut worker = Worker::new(fs, counts, random, thread);
                    (0..steps).for_each(|_| worker.step());
                });
            }
        });
        must(&fs, "the last sync", fs.sync());
        verify(&fs);
        self.commits += generation(&fs) - before;
        drop(fs);
        self.judge(number);
        let fs = open(&self.device, &self.shape);
        verify(&fs);
    }

    /// Deletes everything, on a filesystem that is full again: all space comes back.
    pub fn empty(&mut self) {
        let fs = open(&self.device, &self.shape);
        Worker::new(&fs, &self.counts, Random::new(9), 0).fill(99);
        let subvolumes = fs.subvolumes().unwrap();
        for info in subvolumes.iter().filter(|info| info.id != TreeId::FS) {
            let name = info.path.rsplit(|byte| *byte == b'/').next().unwrap();
            must(&fs, "deleting a subvolume", fs.delete_subvolume(Place::new(fs.root(), name)));
        }
        while must(&fs, "the cleaner", fs.clean_once(64)) {}
        remove_all(&fs, fs.root());
        must(&fs, "sync", fs.sync());
        must(&fs, "sync", fs.sync());
        let space = fs.shared().gate.space();
        let used = space.data.used + space.metadata.used + space.system.used;
        assert!(used < 2 * MIB, "{used} bytes are used after all was deleted: {space:?}");
        drop(fs);
        self.judge(1000);
    }

    fn judge(&self, round: u64) {
        let snapshot = Arc::new(self.device.snapshot());
        let volume = Volume::open(vec![snapshot.clone()], OpenMode::ReadOnly).unwrap();
        let options =
            butterfs_check::Options { data_csums: true, devices: vec![snapshot], ..butterfs_check::Options::default() };
        let report = butterfs_check::check(&volume, &options);
        assert!(report.worst().is_none(), "round {round}:\n{report}");
    }
}

fn generation(fs: &Filesystem) -> u64 {
    fs.shared().gate.volume().superblock().generation.get()
}

/// A call that may not fail, whatever the state.
fn must<T>(fs: &Filesystem, what: &str, result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => {
            panic!("{what}: {error}; {:?}; stopped: {:?}", fs.shared().gate.space(), fs.shared().gate.stopped())
        }
    }
}

/// The byte that a file of this number has at an offset, wherever it is not a hole.
fn byte(number: u64, offset: u64) -> u8 {
    ((number * 31 + offset / 512) % 255 + 1) as u8
}

fn bytes(number: u64, offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(|at| byte(number, at)).collect()
}

/// The number in a file's name.
fn number_of(name: &[u8]) -> Option<u64> {
    std::str::from_utf8(name).ok()?.strip_prefix('f')?.split('_').next()?.parse().ok()
}

/// What is shown of a name: its directory, itself, its inode and type.
type Visit<'a> = dyn FnMut(InodeId, &[u8], InodeId, FileType) + 'a;

/// All names below a directory of one subvolume.
fn walk(fs: &Filesystem, dir: InodeId, visit: &mut Visit<'_>) {
    let mut found = Vec::new();
    fs.read_dir(dir, 2, |entry| {
        found.push((entry.name.clone(), entry.id, entry.file_type));
        Ok(Flow::More)
    })
    .unwrap();
    for (name, id, file_type) in found {
        if file_type == FileType::Directory {
            walk(fs, id, visit);
        }
        visit(dir, &name, id, file_type);
    }
}

/// Every byte of every file, in snapshots too, is what was written there, or a hole.
fn verify(fs: &Filesystem) {
    walk(fs, fs.root(), &mut |_, name, id, file_type| {
        let (FileType::Regular, Some(number)) = (file_type, number_of(name)) else { return };
        let size = fs.attributes(id).unwrap().item.size.get();
        let mut at = 0;
        let mut buf = vec![0; 1 << 16];
        while at < size {
            let got = must(fs, "reading", fs.read(id, at, &mut buf));
            for (index, found) in buf[..got].iter().enumerate() {
                let wanted = byte(number, at + index as u64);
                assert!(*found == 0 || *found == wanted, "{id:?} at {}: {found}, not {wanted}", at + index as u64);
            }
            at += got as u64;
        }
    });
}

fn remove_all(fs: &Filesystem, dir: InodeId) {
    walk(fs, dir, &mut |parent, name, _, file_type| {
        let place = Place::new(parent, name);
        let result = if file_type == FileType::Directory { fs.rmdir(place) } else { fs.unlink(place) };
        must(fs, "emptying", result);
    });
}

/// One thread: it has directories, files and snapshots of its own.
struct Worker<'a> {
    fs: &'a Filesystem,
    counts: &'a Counts,
    random: Random,
    thread: u64,
    dirs: Vec<InodeId>,
    files: BTreeMap<u64, (InodeId, InodeId, Vec<u8>)>,
    snapshots: Vec<Vec<u8>>,
    /// Directories and names of files that share extents.
    clones: Vec<(InodeId, Vec<u8>)>,
    next: u64,
}

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl<'a> Worker<'a> {
    fn new(fs: &'a Filesystem, counts: &'a Counts, random: Random, thread: u64) -> Self {
        let (dirs, files, snapshots) = (vec![fs.root()], BTreeMap::new(), Vec::new());
        let next = generation(fs) * 100_000 + thread * 10_000_000_000;
        Self { fs, counts, random, thread, dirs, files, snapshots, clones: Vec::new(), next }
    }

    /// A call that asks for space.
    fn asks<T>(&self, what: &str, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                self.counts.done.fetch_add(1, Relaxed);
                Some(value)
            }
            Err(Error::NoSpace) => {
                self.counts.refused.fetch_add(1, Relaxed);
                None
            }
            Err(error) => must(self.fs, what, Err(error)),
        }
    }

    /// A call that gives space back.
    fn deletes<T>(&self, what: &str, result: Result<T>) -> T {
        self.counts.deleted.fetch_add(1, Relaxed);
        must(self.fs, what, result)
    }

    /// One file takes all space but a little, so that the threads work near the edge.
    fn fill(&self, round: u64) {
        let name = format!("f{}_fill", self.next + round);
        let number = number_of(name.as_bytes()).unwrap();
        let Ok(id) = self.fs.create(Place::new(self.fs.root(), name.as_bytes()), &FILE) else { return };
        let (mut at, len) = (0, 1 << 18);
        while self.asks("filling", self.fs.write(id, at, &bytes(number, at, len))).is_some() {
            at += len as u64;
        }
        must(self.fs, "sync when full", self.fs.sync());
        self.fill_metadata(number);
        // Between nothing and 2% are free.
        let free = self.random.clone().below(112 * MIB / 50);
        let size = at.saturating_sub(free) / 4096 * 4096;
        self.deletes("cutting", self.fs.set_size(id, size));
    }

    /// Small files and attributes until there is no room for a name.
    fn fill_metadata(&self, number: u64) {
        let Ok(dir) = self.fs.create(Place::new(self.fs.root(), format!("m{number}").as_bytes()), &DIR) else { return };
        let mut made = Vec::new();
        for count in 0.. {
            let name = format!("f{number}_{count}").into_bytes();
            let Some(id) = self.asks("create", self.fs.create(Place::new(dir, &name), &FILE)) else { break };
            made.push(name);
            let value = vec![7; 1800];
            let new = Xattr { name: b"user.large", value: &value };
            let set = self.asks("xattr", self.fs.set_xattr(id, new, XattrMode::Any));
            if self.asks("small write", self.fs.write(id, 0, &bytes(number, 0, 1500))).is_none() && set.is_none() {
                break;
            }
        }
        must(self.fs, "sync when metadata is full", self.fs.sync());
        let mut random = self.random.clone();
        let some = made.len() * random.between(1, 30) as usize / 100 + 8;
        for name in made.iter().step_by(random.between(1, 3) as usize).take(some) {
            self.deletes("unlink when metadata is full", self.fs.unlink(Place::new(dir, name)));
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..=24 => self.create(),
            25..=38 => self.overwrite(),
            39..=42 => self.clone(),
            43..=44 => self.clone_and_delete(),
            45..=49 => self.small_runs(),
            50..=54 => self.cut(),
            55..=58 => self.attribute(),
            59..=61 => self.link(),
            62..=64 => self.make_dir(),
            65..=67 => self.rename(),
            68..=69 => self.hole_or_prealloc(),
            70 => self.snapshot(),
            71 => self.drop_snapshot(),
            72..=74 => must(self.fs, "sync", self.fs.sync()),
            75..=76 => self.fsync(),
            77 => drop(must(self.fs, "the cleaner", self.fs.clean_once(64))),
            _ => self.unlink(),
        }
    }

    fn dir(&mut self) -> InodeId {
        *self.random.pick(&self.dirs).unwrap()
    }

    fn file(&mut self) -> Option<(u64, InodeId)> {
        let skip = self.random.below(self.files.len().max(1) as u64) as usize;
        self.files.iter().nth(skip).map(|(number, (_, id, _))| (*number, *id))
    }

    fn length(&mut self) -> usize {
        match self.random.below(10) {
            0..=4 => self.random.between(1, 4095) as usize,
            5..=7 => self.random.between(4096, 40_000) as usize,
            8 => self.random.between(40_000, 300_000) as usize,
            _ => self.random.between(300_000, 2_000_000) as usize,
        }
    }

    fn create(&mut self) {
        self.next += 1;
        let (number, dir) = (self.next, self.dir());
        let name = format!("f{number}").into_bytes();
        let made = self.fs.create(Place::new(dir, &name), &FILE);
        let Some(id) = self.asks("create", made) else { return };
        self.files.insert(number, (dir, id, name));
        let len = self.length();
        self.asks("write", self.fs.write(id, 0, &bytes(number, 0, len)));
    }

    fn overwrite(&mut self) {
        let Some((number, id)) = self.file() else { return };
        let offset = self.random.below(200_000);
        let len = self.length().min(200_000);
        self.asks("overwrite", self.fs.write(id, offset, &bytes(number, offset, len)));
    }

    /// Sectors with gaps between them: each becomes an extent.
    fn small_runs(&mut self) {
        let Some((number, id)) = self.file() else { return };
        for run in 0..self.random.between(5, 120) {
            let offset = run * 8192;
            if self.asks("small run", self.fs.write(id, offset, &bytes(number, offset, 4096))).is_none() {
                return;
            }
        }
    }

    fn cut(&mut self) {
        let Some((_, id)) = self.file() else { return };
        if self.random.percent(50) {
            let size = self.random.below(10) * 4096;
            let old = self.fs.attributes(id).unwrap().item.size.get();
            self.deletes("truncation", self.fs.set_size(id, size.min(old)));
        } else {
            let size = self.random.below(100_000);
            self.asks("truncation to a byte", self.fs.set_size(id, size));
        }
    }

    fn attribute(&mut self) {
        let Some((_, id)) = self.file() else { return };
        let name = format!("user.a{}", self.random.below(8));
        if self.random.percent(70) {
            let value = vec![7; self.random.between(1, 2000) as usize];
            let new = Xattr { name: name.as_bytes(), value: &value };
            self.asks("xattr", self.fs.set_xattr(id, new, XattrMode::Any));
        } else {
            match self.fs.remove_xattr(id, name.as_bytes()) {
                Ok(()) | Err(Error::NoAttribute) => {}
                Err(error) => self.deletes("removing an xattr", Err(error)),
            }
        }
    }

    fn link(&mut self) {
        let Some((number, id)) = self.file() else { return };
        let dir = self.dir();
        self.next += 1;
        let name = format!("f{number}_{}{}", self.next, "x".repeat(self.random.below(150) as usize)).into_bytes();
        if self.asks("link", self.fs.link(id, Place::new(dir, &name))).is_some() && self.random.percent(60) {
            self.deletes("unlink of a link", self.fs.unlink(Place::new(dir, &name)));
        }
    }

    fn make_dir(&mut self) {
        self.next += 1;
        let name = format!("d{}", self.next).into_bytes();
        let parent = if self.dirs.len() as u64 > DIRS { self.fs.root() } else { self.dir() };
        let Some(id) = self.asks("mkdir", self.fs.create(Place::new(parent, &name), &DIR)) else { return };
        if self.dirs.len() as u64 > DIRS {
            self.deletes("rmdir", self.fs.rmdir(Place::new(parent, &name)));
        } else {
            self.dirs.push(id);
        }
    }

    fn rename(&mut self) {
        let Some((number, id)) = self.file() else { return };
        let to = self.dir();
        self.next += 1;
        let new = format!("f{number}_{}", self.next).into_bytes();
        let (from, _, old) = self.files[&number].clone();
        let options = RenameOptions { replace: Replace::Allow, leave: Leave::Nothing };
        let renamed = self.fs.rename(Place::new(from, &old), Place::new(to, &new), options);
        if self.asks("rename", renamed).is_some() {
            self.files.insert(number, (to, id, new));
        }
    }

    fn hole_or_prealloc(&mut self) {
        let Some((_, id)) = self.file() else { return };
        let start = self.random.below(50) * 4096;
        let range = start..start + self.random.between(1, 30) * 4096;
        match self.random.below(3) {
            0 => self.asks("prealloc", self.fs.preallocate(id, range, SizeMode::Keep)),
            1 => self.asks("zero range", self.fs.zero_range(id, range, SizeMode::Extend)),
            _ => self.asks("punch", self.fs.punch_hole(id, range)),
        };
    }

    fn snapshot(&mut self) {
        if self.snapshots.len() > 3 {
            return self.drop_snapshot();
        }
        self.next += 1;
        let name = format!("s{}", self.next).into_bytes();
        let place = Place::new(self.fs.root(), &name);
        let made = if self.random.percent(20) {
            let new = NewSubvolume { permissions: 0o755, uid: 0, gid: 0 };
            self.fs.create_subvolume(place, &new)
        } else {
            self.fs.snapshot(TreeId::FS, place, Access::ReadWrite)
        };
        let Some(tree) = self.asks("snapshot", made) else { return };
        let top = InodeId::new(tree, Ino::ROOT_DIR);
        self.asks("create in a snapshot", self.fs.create(Place::new(top, b"own"), &FILE));
        self.snapshots.push(name);
    }

    fn drop_snapshot(&mut self) {
        let Some(name) = self.snapshots.pop() else { return };
        // A snapshot holds stubs of others, never the others themselves.
        self.deletes("deleting a subvolume", self.fs.delete_subvolume(Place::new(self.fs.root(), &name)));
        // The cleaner is one thread in production, too.
        let _turn = turn();
        for _ in 0..self.random.below(20) {
            must(self.fs, "the cleaner", self.fs.clean_once(64));
        }
    }

    fn fsync(&mut self) {
        if let Some((_, id)) = self.file() {
            must(self.fs, "fsync", self.fs.fsync(id));
        }
    }

    fn unlink(&mut self) {
        let Some((number, _)) = self.file() else { return };
        let (dir, _, name) = self.files.remove(&number).unwrap();
        self.deletes(&format!("unlink by thread {}", self.thread), self.fs.unlink(Place::new(dir, &name)));
    }
}

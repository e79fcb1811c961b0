//! What fsync made durable is there after a power cut, whatever it used: the log, or a commit.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::file::SizeMode;
use butterfs_engine::filesystem::{Filesystem, Fsync, NewInode, NewKind, OpenOptions, RenameOptions, SetAttributes};
use butterfs_engine::inode::InodeId;
use butterfs_engine::inode::xattr::{Xattr, XattrMode};
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_format::ChecksumType;
use butterfs_format::superblock::Incompat;
use butterfs_testkit::random::Random;
use butterfs_volume::{MemDevice, OpenMode, Volume};

const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 1, gid: 2 };
const DIR: NewInode<'static> = NewInode { kind: NewKind::Directory, permissions: 0o755, uid: 1, gid: 2 };

fn open(device: &Arc<MemDevice>, options: OpenOptions) -> Filesystem {
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadWrite).unwrap();
    Filesystem::open(volume, options, Box::new(SystemEnvironment)).unwrap()
}

fn check(device: &Arc<MemDevice>, what: &str) {
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadOnly).unwrap();
    let options = butterfs_check::Options { data_csums: true, devices: vec![device.clone()], ..Default::default() };
    let report = butterfs_check::check(&volume, &options);
    assert!(report.worst() < Some(butterfs_check::Severity::Warning), "{what}: {report}");
}

fn has_log(device: &Arc<MemDevice>) -> bool {
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadOnly).unwrap();
    volume.superblock().log_root.get() != 0
}

/// All of a file that a reader sees.
#[derive(Debug, PartialEq)]
struct Picture {
    size: u64,
    nlink: u32,
    mode: u32,
    nbytes: u64,
    sum: u64,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

fn picture(fs: &Filesystem, id: InodeId) -> Picture {
    let item = fs.attributes(id).unwrap().item;
    let mut bytes = vec![0; item.size.get() as usize];
    assert_eq!(fs.read(id, 0, &mut bytes).unwrap(), bytes.len());
    let sum = bytes.iter().fold(7_u64, |sum, byte| sum.wrapping_mul(0x100_0000_01b3) ^ u64::from(*byte));
    let names = fs.xattrs(id).unwrap();
    let attributes = names.into_iter().map(|name| (name.clone(), fs.xattr(id, &name).unwrap())).collect();
    let (nlink, mode, nbytes) = (item.nlink.get(), item.mode.get(), item.nbytes.get());
    Picture { size: item.size.get(), nlink, mode, nbytes, sum, attributes }
}

/// A file, and where it is.
#[derive(Clone)]
struct Known {
    id: InodeId,
    dir: InodeId,
    name: String,
}

impl Known {
    fn place(&self) -> Place<'_> {
        Place::new(self.dir, self.name.as_bytes())
    }
}

struct Run {
    device: Arc<MemDevice>,
    fs: Filesystem,
    random: Random,
    dirs: Vec<InodeId>,
    files: Vec<Known>,
    counter: u64,
    logged: usize,
    synced: usize,
}

impl Run {
    fn new(seed: u64, made: &MakeOptions) -> Self {
        let device = Arc::new(MemDevice::new(1 << 30));
        mkfs::make(device.clone(), made).unwrap();
        let fs = open(&device, OpenOptions::default());
        let mut dirs = vec![fs.root()];
        for name in ["a", "b"] {
            dirs.push(fs.create(Place::new(fs.root(), name.as_bytes()), &DIR).unwrap());
        }
        fs.sync().unwrap();
        Self { device, fs, random: Random::new(seed), dirs, files: Vec::new(), counter: 0, logged: 0, synced: 0 }
    }

    fn any_dir(&mut self) -> InodeId {
        self.dirs[self.random.below(self.dirs.len() as u64) as usize]
    }

    fn any_file(&mut self) -> Known {
        if self.files.is_empty() {
            self.create();
        }
        self.files[self.random.below(self.files.len() as u64) as usize].clone()
    }

    fn create(&mut self) {
        self.counter += 1;
        let (dir, name) = (self.any_dir(), format!("f{}", self.counter));
        let id = self.fs.create(Place::new(dir, name.as_bytes()), &FILE).unwrap();
        self.files.push(Known { id, dir, name });
    }

    fn step(&mut self) {
        let file = self.any_file();
        let offset = match self.random.below(4) {
            0 => self.random.below(3000),
            1 => 4096 * self.random.below(40),
            _ => self.random.below(200_000),
        };
        let len = 1 + self.random.below(30_000);
        match self.random.below(100) {
            0..12 => self.create(),
            12..45 => {
                let byte = (self.counter ^ offset) as u8;
                assert_eq!(self.fs.write(file.id, offset, &vec![byte; len as usize]).unwrap() as u64, len);
            }
            45..52 => self.fs.set_size(file.id, offset).unwrap(),
            52..58 => self.fs.punch_hole(file.id, offset..offset + len).unwrap(),
            58..63 => self.fs.preallocate(file.id, offset..offset + len, SizeMode::Keep).unwrap(),
            63..66 => self.fs.zero_range(file.id, offset..offset + len, SizeMode::Extend).unwrap(),
            66..71 => {
                let name = format!("user.n{}", offset % 4);
                let xattr = Xattr { name: name.as_bytes(), value: &vec![1; len as usize % 300] };
                self.fs.set_xattr(file.id, xattr, XattrMode::Any).unwrap();
            }
            71..74 => {
                let name = format!("user.n{}", offset % 4);
                let _ = self.fs.remove_xattr(file.id, name.as_bytes());
            }
            74..77 => {
                let set = SetAttributes { mode: Some(0o600 + offset as u32 % 64), ..SetAttributes::default() };
                self.fs.set_attributes(file.id, &set).unwrap();
            }
            77..80 => self.rename(&file),
            80..82 => self.unlink(&file),
            82 => self.fs.sync().unwrap(),
            _ => self.fsync(&file),
        }
    }

    fn rename(&mut self, file: &Known) {
        let over = self.any_file();
        if over.id == file.id {
            return;
        }
        self.fs.rename(file.place(), over.place(), RenameOptions::default()).unwrap();
        self.files.retain(|other| other.id != over.id && other.id != file.id);
        self.files.push(Known { id: file.id, ..over });
    }

    fn unlink(&mut self, file: &Known) {
        self.fs.unlink(file.place()).unwrap();
        self.files.retain(|other| other.id != file.id);
    }

    /// Then the power is cut, and the filesystem mounted again.
    fn fsync(&mut self, file: &Known) {
        self.fs.fsync(file.id).unwrap();
        let wanted = picture(&self.fs, file.id);
        let cut = Arc::new(self.device.snapshot());
        self.synced += 1;
        self.logged += usize::from(has_log(&cut));
        let what = format!("fsync {} of {}", self.synced, file.name);
        check(&cut, &what);
        let after = open(&cut, OpenOptions::default());
        let found = after.lookup(file.place()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!((found, picture(&after, found)), (file.id, wanted), "{what}");
        after.sync().unwrap();
        drop(after);
        check(&cut, &format!("{what}, replayed"));
    }
}

/// `BUTTERFS_FSYNC_SEEDS` asks for more runs of each shape.
fn run(seed: u64, made: &MakeOptions) {
    let runs = std::env::var("BUTTERFS_FSYNC_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    (0..runs).for_each(|number| run_one(seed + 100 * number, made));
}

fn run_one(seed: u64, made: &MakeOptions) {
    let mut run = Run::new(seed, made);
    for _ in 0..700 {
        run.step();
    }
    println!("{} fsyncs, {} of them by the log", run.synced, run.logged);
    assert!(run.logged * 3 > run.synced, "the log is hardly used: {} of {}", run.logged, run.synced);
    run.fs.sync().unwrap();
    check(&run.device, "the end");
}

fn made() -> MakeOptions {
    MakeOptions::new(1 << 30, &SystemEnvironment)
}

#[test]
fn a_power_cut_after_fsync_loses_nothing_of_the_file() {
    run(1, &made());
}

#[test]
fn small_nodes_and_explicit_holes() {
    let mut options = MakeOptions { nodesize: 4096, csum_type: ChecksumType::Blake2b, ..made() };
    options.incompat.remove(Incompat::NO_HOLES);
    options.compat_ro.remove(butterfs_format::superblock::CompatRo::BLOCK_GROUP_TREE);
    run(2, &options);
}

#[test]
fn large_nodes() {
    run(3, &MakeOptions { nodesize: 65536, csum_type: ChecksumType::Xxhash64, ..made() });
}

/// Many small syncs take no more space than the files do.
#[test]
fn the_log_gives_its_space_back() {
    let mut run = Run::new(9, &made());
    run.create();
    let file = run.files[0].clone();
    run.fs.sync().unwrap();
    let free = |fs: &Filesystem| fs.shared().gate.space().metadata.available;
    let before = free(&run.fs);
    for number in 0..2000_u64 {
        run.fs.write(file.id, number % 50 * 4096, &[number as u8; 4096]).unwrap();
        run.fs.fsync(file.id).unwrap();
    }
    assert!(has_log(&run.device), "nothing was logged");
    let taken = before - free(&run.fs);
    assert!(taken < 4 << 20, "{taken} bytes of metadata are taken after 2000 small syncs");
    run.fs.sync().unwrap();
    assert!(!has_log(&run.device), "the log outlived the commit");
    check(&run.device, "after the commit");
}

/// `notreelog`.
#[test]
fn without_a_log_every_fsync_commits() {
    let device = Arc::new(MemDevice::new(1 << 30));
    mkfs::make(device.clone(), &made()).unwrap();
    let fs = open(&device, OpenOptions { fsync: Fsync::Commit, ..OpenOptions::default() });
    let file = fs.create(Place::new(fs.root(), b"f"), &FILE).unwrap();
    fs.write(file, 0, b"hello").unwrap();
    fs.fsync(file).unwrap();
    assert!(!has_log(&device));
    let after = open(&Arc::new(device.snapshot()), OpenOptions::default());
    assert_eq!(picture(&after, file).size, 5);
}

/// Fsyncs at the same time share their writes, and none returns early.
#[test]
fn threads_that_fsync_lose_nothing() {
    let run = Run::new(11, &made());
    let fs = &run.fs;
    let ids: Vec<_> =
        (0..4).map(|n| fs.create(Place::new(fs.root(), format!("t{n}").as_bytes()), &FILE).unwrap()).collect();
    fs.sync().unwrap();
    for round in 1..=20_u8 {
        std::thread::scope(|scope| {
            for id in &ids {
                scope.spawn(move || {
                    for number in 0..5_u64 {
                        fs.write(*id, number * 5000, &[round; 5000]).unwrap();
                        fs.fsync(*id).unwrap();
                    }
                });
            }
            if round % 5 == 0 {
                scope.spawn(|| fs.sync().unwrap());
            }
        });
        let cut = Arc::new(run.device.snapshot());
        let after = open(&cut, OpenOptions::default());
        for id in &ids {
            let mut bytes = vec![0; 25_000];
            assert_eq!(after.read(*id, 0, &mut bytes).unwrap(), 25_000);
            assert!(bytes.iter().all(|byte| *byte == round), "round {round}");
        }
    }
}

/// On a filesystem without free space fsync still works: it commits.
#[test]
fn fsync_on_a_full_filesystem() {
    let device = Arc::new(MemDevice::new(128 << 20));
    mkfs::make(device.clone(), &MakeOptions::new(128 << 20, &SystemEnvironment)).unwrap();
    let fs = open(&device, OpenOptions::default());
    let file = fs.create(Place::new(fs.root(), b"f"), &FILE).unwrap();
    fs.write(file, 0, &[1; 4096]).unwrap();
    fs.sync().unwrap();
    let mut number = 0_u32;
    while fs.create(Place::new(fs.root(), format!("filler {number}").as_bytes()), &FILE).is_ok() {
        number += 1;
    }
    fs.sync().unwrap();
    let set = SetAttributes { mode: Some(0o640), ..SetAttributes::default() };
    let changed = fs.set_attributes(file, &set).is_ok();
    fs.fsync(file).unwrap();
    let after = open(&Arc::new(device.snapshot()), OpenOptions::default());
    assert!(!changed || picture(&after, file).mode & 0o777 == 0o640);
    check(&device, "full");
}

/// A hole that was logged, then cut off, then grown over: the log has to say again that it is one.
#[test]
fn a_hole_that_was_cut_off_stays_one_when_the_file_grows() {
    let device = Arc::new(MemDevice::new(1 << 30));
    mkfs::make(device.clone(), &made()).unwrap();
    let fs = open(&device, OpenOptions::default());
    let id = fs.create(Place::new(fs.root(), b"file"), &FILE).unwrap();
    fs.write(id, 0, &[7; 57_344]).unwrap();
    fs.preallocate(id, 57_344..65_536, SizeMode::Keep).unwrap();
    fs.sync().unwrap();
    let steps: [&dyn Fn(); 3] =
        [&|| fs.punch_hole(id, 8192..12_288).unwrap(), &|| fs.set_size(id, 5363).unwrap(), &|| {
            assert_eq!(fs.write(id, 39_722, &[8; 62]).unwrap(), 62)
        }];
    for step in steps {
        step();
        fs.fsync(id).unwrap();
    }
    assert_eq!(fs.fsyncs().committed.len(), 0, "all of it by the log");
    let expected = picture(&fs, id);
    let cut = Arc::new(device.snapshot());
    assert!(has_log(&cut));
    let after = open(&cut, OpenOptions::default());
    assert_eq!(picture(&after, id), expected);
}

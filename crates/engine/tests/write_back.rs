//! Writing many files back at once, by several threads, while others go on; and what is told when it fails.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, NewInode, NewKind, OpenOptions, RenameOptions};
use butterfs_engine::inode::InodeId;
use butterfs_engine::mkfs::{MakeOptions, make};
use butterfs_engine::{Error, Result};
use butterfs_format::TreeId;
use butterfs_testkit::crash::judge::{Maker, Strictness, check_devices};
use butterfs_testkit::fault::errno::{EIO, ENOSPC};
use butterfs_testkit::fault::{Fault, FaultDevice, Lasting, Request, Rule};
use butterfs_testkit::library_tree::files;
use butterfs_testkit::random::Random;
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

const LEN: u64 = 512 << 20;
const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 0, gid: 0 };
const DIR: NewInode<'static> = NewInode { kind: NewKind::Directory, permissions: 0o755, uid: 0, gid: 0 };
/// More than one thread writes back (512), and more than a round of those that make room (64).
const STILL: u64 = 700;
const OWN: u64 = 200;
const THREADS: u64 = 3;
const STEPS: usize = 400;
const LONGEST: u64 = 40_000;

fn image() -> Arc<MemDevice> {
    let image = Arc::new(MemDevice::named("disk", LEN));
    make(Arc::clone(&image) as _, &MakeOptions::new(LEN, &SystemEnvironment)).unwrap();
    image
}

fn open(device: Arc<dyn BlockDevice>, dirty_limit: u64) -> Filesystem {
    let options = OpenOptions { dirty_limit, ..OpenOptions::default() };
    Filesystem::open(Volume::open(vec![device], OpenMode::ReadWrite).unwrap(), options, Box::new(SystemEnvironment))
        .unwrap()
}

fn check(image: &MemDevice) {
    let devices = vec![Arc::new(image.snapshot()) as Arc<dyn BlockDevice>];
    check_devices(&devices, Maker::Butterfs, Strictness::Clean).unwrap_or_else(|why| panic!("{}", why.0));
}

/// Bytes that only this file has in this round, sector by sector.
fn bytes(number: u64, round: u64, len: u64) -> Vec<u8> {
    (0..len).map(|at| (number * 131 + round * 17 + at / 512 * 7 + at % 251) as u8).collect()
}

fn still_name(number: u64) -> String {
    format!("still/{number}")
}

/// Makes all of those that nobody else touches dirty.
fn write_still(fs: &Filesystem, round: u64) {
    for number in 0..STILL {
        let id =
            fs.lookup(Place::new(fs.lookup(Place::new(fs.root(), b"still")).unwrap(), format!("{number}").as_bytes()));
        fs.write(id.unwrap(), 0, &bytes(number, round, 5000 + number)).unwrap();
    }
}

/// Files of one thread, and what is in them.
struct Worker<'a> {
    fs: &'a Filesystem,
    dir: InodeId,
    prefix: String,
    random: Random,
    next: u64,
    files: BTreeMap<String, (InodeId, Vec<u8>)>,
}

impl<'a> Worker<'a> {
    fn new(fs: &'a Filesystem, thread: u64, seed: u64) -> Self {
        let prefix = format!("worker {thread}");
        let dir = fs.create(Place::new(fs.root(), prefix.as_bytes()), &DIR).unwrap();
        let mut worker =
            Self { fs, dir, prefix, random: Random::new(seed * 100 + thread), next: 0, files: BTreeMap::new() };
        (0..OWN).for_each(|_| worker.make());
        worker
    }

    fn place<'n>(&self, name: &'n str) -> Place<'n> {
        Place::new(self.dir, name.as_bytes())
    }

    fn make(&mut self) {
        let name = format!("{}", self.next);
        self.next += 1;
        let id = self.fs.create(self.place(&name), &FILE).unwrap();
        self.files.insert(name.clone(), (id, Vec::new()));
        self.write(&name);
    }

    fn any(&mut self) -> String {
        let at = self.random.below(self.files.len() as u64) as usize;
        self.files.keys().nth(at).unwrap().clone()
    }

    fn write(&mut self, name: &str) {
        let offset = self.random.below(LONGEST / 2);
        let len = self.random.between(1, LONGEST / 2) as usize;
        let new = self.random.bytes(len);
        let (id, content) = self.files.get_mut(name).unwrap();
        self.fs.write(*id, offset, &new).unwrap();
        let end = offset as usize + len;
        content.resize(content.len().max(end), 0);
        content[offset as usize..end].copy_from_slice(&new);
    }

    fn truncate(&mut self, name: &str) {
        let size = self.random.below(LONGEST);
        let (id, content) = self.files.get_mut(name).unwrap();
        self.fs.set_size(*id, size).unwrap();
        content.resize(size as usize, 0);
    }

    fn read(&mut self, name: &str) {
        let (id, content) = &self.files[name];
        let mut found = vec![0; content.len() + 1];
        let len = self.fs.read(*id, 0, &mut found).unwrap();
        assert!(found[..len] == content[..], "{}/{name} reads otherwise than it was written", self.prefix);
    }

    /// Over another file, half of the time.
    fn rename(&mut self, name: &str) {
        let to = if self.random.percent(50) { self.any() } else { format!("renamed {}", self.random.bits()) };
        self.fs.rename(self.place(name), self.place(&to), RenameOptions::default()).unwrap();
        let moved = self.files.remove(name).unwrap();
        self.files.insert(to, moved);
    }

    fn step(&mut self) {
        let name = self.any();
        match self.random.below(100) {
            0..45 => self.write(&name),
            45..60 => self.truncate(&name),
            60..70 => self.read(&name),
            70..80 => self.rename(&name),
            80..84 => self.fs.fsync(self.files[&name].0).unwrap(),
            84..92 => {
                self.fs.unlink(self.place(&name)).unwrap();
                self.files.remove(&name);
                self.make();
            }
            _ => self.make(),
        }
    }

    fn expected(&self) -> impl Iterator<Item = (String, Vec<u8>)> + '_ {
        self.files.iter().map(|(name, (_, content))| (format!("{}/{name}", self.prefix), content.clone()))
    }
}

fn still_files(at: &str, round: u64) -> impl Iterator<Item = (String, Vec<u8>)> + '_ {
    (0..STILL).map(move |number| (format!("{at}{}", still_name(number)), bytes(number, round, 5000 + number)))
}

/// All that is known is as it must be, outside of snapshots nothing else is there.
fn compare(fs: &Filesystem, expected: &BTreeMap<String, Vec<u8>>) {
    let found = files(fs).unwrap_or_else(|(path, error)| panic!("{}: {error}", path.display()));
    for (path, content) in expected {
        let there = found.get(path).unwrap_or_else(|| panic!("{path} is not there"));
        assert!(there == content, "{path} has other bytes: {} of {}", there.len(), content.len());
    }
    let other = found.keys().find(|path| !path.starts_with("snapshot") && !expected.contains_key(*path));
    assert_eq!(other, None, "it should not be there");
}

/// Rounds of syncs while others change what is written back.
fn churn(dirty_limit: u64, seed: u64) {
    let image = image();
    let fs = open(Arc::clone(&image) as _, dirty_limit);
    let still = fs.create(Place::new(fs.root(), b"still"), &DIR).unwrap();
    for number in 0..STILL {
        fs.create(Place::new(still, format!("{number}").as_bytes()), &FILE).unwrap();
    }
    let mut workers: Vec<_> = (0..THREADS).map(|thread| Worker::new(&fs, thread, seed)).collect();
    let mut expected = BTreeMap::new();
    for round in 0..4 {
        write_still(&fs, round);
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let all: Vec<_> =
                workers.iter_mut().map(|worker| scope.spawn(|| (0..STEPS).for_each(|_| worker.step()))).collect();
            let syncs = scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    fs.sync().unwrap();
                }
            });
            for number in 0..3 {
                let name = format!("snapshot {round} {number}");
                let place = Place::new(fs.root(), name.as_bytes());
                fs.snapshot(TreeId::FS, place, Access::ReadOnly).unwrap();
                expected.extend(still_files(&format!("{name}/"), round));
            }
            all.into_iter().for_each(|worker| worker.join().unwrap());
            ended.store(true, Ordering::Relaxed);
            syncs.join().unwrap();
        });
        assert_eq!(fs.health().lost_writes, 0, "{:?}", fs.health());
    }
    expected.extend(still_files("", 3));
    expected.extend(workers.iter().flat_map(Worker::expected).collect::<Vec<_>>());
    drop(workers);
    compare(&fs, &expected);
    fs.sync().unwrap();
    assert_eq!(fs.dirty_bytes(), 0);
    drop(fs);
    check(&image);
    let fs = open(Arc::clone(&image) as _, dirty_limit);
    compare(&fs, &expected);
    drop(fs);
    check(&image);
}

#[test]
fn many_files_are_written_back_while_others_change_them() {
    churn(OpenOptions::default().dirty_limit, 1);
}

/// The same where writers have to make room all the time.
#[test]
fn many_files_are_written_back_to_make_room() {
    churn(1 << 20, 2);
}

/// So many files that are more than the budget, and one write for each.
const MANY: u64 = 300;
const SIZE: u64 = 16_384;
const BUDGET: u64 = 1 << 20;

/// A filesystem on a device that fails by a rule for its writes, counted from when it is open.
fn failing(image: &Arc<MemDevice>, after: u64, rule: Rule) -> (Filesystem, Arc<FaultDevice>) {
    let device = |image: Arc<MemDevice>, rule| Arc::new(FaultDevice::new(image, rule));
    let counting = device(Arc::new(image.snapshot()), None);
    drop(open(Arc::clone(&counting) as _, BUDGET));
    let rule = Rule { at: counting.counts().writes + after, ..rule };
    let failing = device(Arc::clone(image), Some(rule));
    (open(Arc::clone(&failing) as _, BUDGET), failing)
}

fn write_many(fs: &Filesystem) -> Vec<InodeId> {
    let make = |number: u64| fs.create(Place::new(fs.root(), format!("{number}").as_bytes()), &FILE).unwrap();
    let ids: Vec<_> = (0..MANY).map(make).collect();
    for (number, id) in (0..).zip(&ids) {
        fs.write(*id, 0, &bytes(number, 0, SIZE)).unwrap();
    }
    ids
}

fn errno(told: &Result<()>) -> Option<i32> {
    told.as_ref().err().map(Error::errno)
}

/// Some file was written back because others wanted its memory, and that failed: its own fsync tells, and a sync, once each.
#[test]
fn what_is_lost_while_room_is_made_is_told_once() {
    let image = image();
    let (fs, device) = failing(&image, 20, Rule::error(Request::Write, 0));
    let ids = write_many(&fs);
    assert_eq!((device.struck(), fs.health().lost_writes), (1, 1), "a write failed, and nobody was told yet");
    let told: Vec<_> = ids.iter().map(|id| errno(&fs.fsync(*id))).collect();
    assert_eq!(told.iter().flatten().collect::<Vec<_>>(), [&EIO], "the one that is hit");
    assert!(ids.iter().all(|id| fs.fsync(*id).is_ok()), "told twice");
    assert_eq!(errno(&fs.sync()), Some(EIO), "everybody was told but who syncs");
    fs.sync().unwrap();
    drop(fs);
    check(&image);
    let fs = open(Arc::clone(&image) as _, BUDGET);
    let found = files(&fs).unwrap();
    for (number, told) in (0..).zip(&told) {
        let content = &found[&format!("{number}")];
        assert_eq!(*content == bytes(number, 0, SIZE), told.is_none(), "{number}, of which {told:?} was told");
    }
}

/// Without an fsync before it, the sync is who tells.
#[test]
fn a_sync_tells_what_was_lost_before_it() {
    for write_back in [false, true] {
        let image = image();
        let (fs, _device) = failing(&image, 20, Rule::error(Request::Write, 0));
        write_many(&fs);
        if write_back {
            fs.write_back_to(0).unwrap();
        }
        assert_eq!(errno(&fs.sync()), Some(EIO));
        fs.sync().unwrap();
    }
}

/// Where nothing can be written any more, who makes room comes to an end all the same, and everybody is told.
#[test]
fn making_room_on_a_device_that_fails_for_good_ends() {
    let image = image();
    let rule = Rule { request: Request::Write, at: 0, fault: Fault::Error(ENOSPC), lasting: Lasting::Forever };
    let (fs, _device) = failing(&image, 20, rule);
    let ids = write_many(&fs);
    fs.write_back_to(0).unwrap();
    assert_eq!(fs.dirty_bytes(), 0);
    assert!(fs.health().lost_writes > MANY - 40, "{:?}", fs.health());
    let told = ids.iter().filter(|id| fs.fsync(**id).is_err()).count();
    assert!(told as u64 > MANY - 40, "{told} of {MANY} were told");
    assert!(fs.sync().is_err());
    drop(fs);
    check(&image);
}

//! Which fsyncs the log does, which commit, and why; and that those at the same time share their flushes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::file::SizeMode;
use butterfs_engine::filesystem::{Filesystem, Fsync, NewInode, NewKind, NewSubvolume, OpenOptions, RenameOptions};
use butterfs_engine::inode::InodeId;
use butterfs_engine::inode::xattr::{Xattr, XattrMode};
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_engine::tx::WhyCommit;
use butterfs_testkit::filter::{Filter, Filtered};
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 1, gid: 2 };
const DIR: NewInode<'static> = NewInode { kind: NewKind::Directory, permissions: 0o755, uid: 1, gid: 2 };
const LINK: NewInode<'static> = NewInode { kind: NewKind::Symlink(b"over/there"), permissions: 0o777, uid: 1, gid: 2 };
const SUBVOLUME: NewSubvolume = NewSubvolume { permissions: 0o755, uid: 1, gid: 2 };
const LEN: u64 = 1 << 30;

fn open(device: Arc<dyn BlockDevice>, options: OpenOptions) -> Filesystem {
    let volume = Volume::open(vec![device], OpenMode::ReadWrite).unwrap();
    Filesystem::open(volume, options, Box::new(SystemEnvironment)).unwrap()
}

fn made() -> Arc<MemDevice> {
    let device = Arc::new(MemDevice::new(LEN));
    mkfs::make(device.clone(), &MakeOptions::new(LEN, &SystemEnvironment)).unwrap();
    device
}

/// A filesystem after a commit, with chunks for all that comes.
struct Fixture {
    device: Arc<MemDevice>,
    fs: Filesystem,
    /// `a` and `b`.
    dirs: [InodeId; 2],
    /// `a/f`, with data.
    file: InodeId,
}

impl Fixture {
    fn new() -> Self {
        let device = made();
        let fs = open(device.clone(), OpenOptions::default());
        let dirs = [b"a", b"b"].map(|name| fs.create(Place::new(fs.root(), name), &DIR).unwrap());
        let file = fs.create(Place::new(dirs[0], b"f"), &FILE).unwrap();
        fs.write(file, 0, &[7; 9000]).unwrap();
        fs.sync().unwrap();
        Self { device, fs, dirs, file }
    }

    fn rename(&self, (from, name): (InodeId, &str), (to, new): (InodeId, &str)) {
        let (from, to) = (Place::new(from, name.as_bytes()), Place::new(to, new.as_bytes()));
        self.fs.rename(from, to, RenameOptions::default()).unwrap();
    }

    /// Syncs, and gives the reasons for which that committed.
    fn reasons(&self, id: InodeId) -> Vec<WhyCommit> {
        let before = self.fs.fsyncs();
        self.fs.fsync(id).unwrap();
        let after = self.fs.fsyncs();
        let grew = |why: &&WhyCommit| after.committed.get(why) > before.committed.get(why);
        after.committed.keys().filter(grew).copied().collect()
    }

    /// What there is after a cut.
    fn cut(&self) -> Filesystem {
        open(Arc::new(self.device.snapshot()), OpenOptions::default())
    }
}

fn has(fs: &Filesystem, dir: InodeId, name: &str) -> bool {
    fs.lookup(Place::new(dir, name.as_bytes())).is_ok()
}

#[test]
fn names_that_change_are_logged() {
    let all = Fixture::new();
    let (fs, [a, b]) = (&all.fs, all.dirs);
    let steps: [(&str, &dyn Fn() -> InodeId); 9] = [
        ("rename", &|| {
            all.rename((a, "f"), (a, "g"));
            all.file
        }),
        ("rename to another directory", &|| {
            all.rename((a, "g"), (b, "g"));
            b
        }),
        ("link", &|| {
            fs.link(all.file, Place::new(a, b"l")).unwrap();
            all.file
        }),
        ("unlink", &|| {
            fs.unlink(Place::new(b, b"g")).unwrap();
            b
        }),
        ("new file in new directories", &|| {
            let one = fs.create(Place::new(a, b"one"), &DIR).unwrap();
            let two = fs.create(Place::new(one, b"two"), &DIR).unwrap();
            fs.create(Place::new(two, b"new"), &FILE).unwrap()
        }),
        ("symbolic link", &|| {
            fs.create(Place::new(a, b"s"), &LINK).unwrap();
            a
        }),
        ("attribute", &|| {
            fs.set_xattr(a, Xattr { name: b"user.a", value: b"1" }, XattrMode::Any).unwrap();
            a
        }),
        ("directory moved", &|| {
            all.rename((fs.root(), "a"), (b, "a"));
            b
        }),
        ("temporary file", &|| {
            let id = fs.create_unnamed(a, &FILE).unwrap();
            fs.link(id, Place::new(a, b"t")).unwrap();
            id
        }),
    ];
    for (what, step) in steps {
        assert_eq!(all.reasons(step()), [], "{what}");
    }
    let after = all.cut();
    let found = |dir, names: &[&str]| names.iter().map(|name| has(&after, dir, name)).collect::<Vec<_>>();
    assert_eq!(found(a, &["f", "g", "l", "one", "s", "t"]), [false, false, true, true, true, true]);
    assert_eq!(found(b, &["g", "a"]), [false, true]);
    assert_eq!(found(after.root(), &["a", "b"]), [false, true]);
    assert_eq!(after.attributes(all.file).unwrap().item.nlink.get(), 1);
}

/// What else changed in the same transaction stays as it was.
#[test]
fn only_what_belongs_together_is_logged() {
    let all = Fixture::new();
    let (fs, [a, b]) = (&all.fs, all.dirs);
    all.rename((a, "f"), (a, "g"));
    let new = fs.create(Place::new(b, b"new"), &FILE).unwrap();
    assert_eq!(all.reasons(new), []);
    let after = all.cut();
    assert!(has(&after, b, "new") && has(&after, a, "f") && !has(&after, a, "g"));
}

/// A name goes with whoever had it before.
#[test]
fn a_name_that_was_taken_over_leaves_its_old_owner_a_place() {
    let all = Fixture::new();
    let (fs, [a, b]) = (&all.fs, all.dirs);
    all.rename((a, "f"), (b, "elsewhere"));
    let new = fs.create(Place::new(a, b"f"), &FILE).unwrap();
    assert_eq!(all.reasons(new), []);
    let after = all.cut();
    assert_eq!(after.lookup(Place::new(a, b"f")).unwrap(), new);
    assert_eq!(after.lookup(Place::new(b, b"elsewhere")).unwrap(), all.file);
}

#[test]
fn each_reason_to_commit_has_a_name() {
    let fs = open(made(), OpenOptions { fsync: Fsync::Commit, ..OpenOptions::default() });
    fs.fsync(fs.root()).unwrap();
    assert_eq!(fs.fsyncs().committed.get(&WhyCommit::Asked), Some(&1));

    let fs = open(made(), OpenOptions::default());
    let first = fs.create(Place::new(fs.root(), b"first"), &FILE).unwrap();
    fs.preallocate(first, 0..LEN / 2, SizeMode::Keep).unwrap();
    fs.fsync(first).unwrap();
    assert_eq!(fs.fsyncs().committed.get(&WhyCommit::NewChunk), Some(&1));

    let all = Fixture::new();
    let (fs, [a, b]) = (&all.fs, all.dirs);
    let top = fs.create_subvolume(Place::new(a, b"v"), &SUBVOLUME).unwrap();
    let inside = fs.create(Place::new(InodeId::top_of(top), b"x"), &FILE).unwrap();
    assert_eq!(all.reasons(inside), [WhyCommit::NewSubvolume]);

    fs.create_subvolume(Place::new(a, b"w"), &SUBVOLUME).unwrap();
    assert_eq!(all.reasons(a), [WhyCommit::SubvolumeName]);

    let unnamed = fs.create_unnamed(a, &FILE).unwrap();
    assert_eq!(all.reasons(unnamed), [WhyCommit::NoName]);
    fs.link(unnamed, Place::new(a, b"revived")).unwrap();
    assert_eq!(all.reasons(a), [WhyCommit::Revived]);

    fs.preallocate(all.file, 20_000..90_000, SizeMode::Keep).unwrap();
    fs.sync().unwrap();
    all.rename((a, "f"), (b, "f"));
    assert_eq!(all.reasons(b), [WhyCommit::Preallocated]);
    all.rename((b, "f"), (a, "f"));
    assert_eq!(all.reasons(all.file), [], "the file itself can be logged");

    for number in 0..9000 {
        fs.create(Place::new(b, format!("many {number}").as_bytes()), &FILE).unwrap();
    }
    assert_eq!(all.reasons(b), [WhyCommit::TooMuch]);

    let zstd = Xattr { name: b"btrfs.compression", value: b"zstd" };
    fs.set_xattr(all.file, zstd, XattrMode::Any).unwrap();
    assert_eq!(all.reasons(all.file), [WhyCommit::NewFeature]);
    fs.write(all.file, 0, &[b'z'; 40_000]).unwrap();
    assert_eq!(all.reasons(all.file), [], "the superblock tells of zstd now");
}

/// Counts flushes, and takes its time for each.
#[derive(Default)]
struct SlowFlush(AtomicU64);

impl Filter for SlowFlush {
    fn flush(&self, inner: &dyn BlockDevice) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(4));
        inner.flush()
    }
}

/// One fsync costs two flushes. Of those at the same time each waits at most for one that is under way and for the next.
#[test]
fn fsyncs_at_the_same_time_share_their_flushes() {
    const THREADS: u64 = 8;
    const ROUNDS: u64 = 20;
    let device = Arc::new(Filtered::over(made(), SlowFlush::default()));
    let fs = open(device.clone(), OpenOptions::default());
    let name = |number: u64| format!("t{number}");
    let create = |number| fs.create(Place::new(fs.root(), name(number).as_bytes()), &FILE).unwrap();
    let files: Vec<InodeId> = (0..THREADS).map(create).collect();
    files.iter().for_each(|file| assert_eq!(fs.write(*file, 0, &[1; 5000]).unwrap(), 5000));
    fs.sync().unwrap();
    let flushes = || device.0.load(Ordering::Relaxed);
    let before = flushes();
    fs.write(files[0], 0, &[2; 5000]).unwrap();
    fs.fsync(files[0]).unwrap();
    assert_eq!(flushes() - before, 2, "one alone");

    let (before, counted) = (flushes(), fs.fsyncs());
    std::thread::scope(|scope| {
        for file in &files {
            let fs = &fs;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    fs.write(*file, round * 5000, &[round as u8; 5000]).unwrap();
                    fs.fsync(*file).unwrap();
                }
            });
        }
    });
    let (flushed, now) = (flushes() - before, fs.fsyncs());
    println!("{flushed} flushes for {} fsyncs", THREADS * ROUNDS);
    assert_eq!(now.logged - counted.logged, THREADS * ROUNDS);
    assert_eq!(now.committed, counted.committed, "nobody committed");
    assert!(flushed * 2 <= 2 * THREADS * ROUNDS, "{flushed} flushes for {} fsyncs", THREADS * ROUNDS);
    assert!(flushed >= 2 * ROUNDS, "{flushed} flushes are less than one thread alone needs");
}

/// An fsync does not return before a commit that is under way is durable, when that is what it relies on.
#[test]
fn fsync_waits_for_the_commit_that_it_relies_on() {
    let image = made();
    let fs = open(Arc::new(Filtered::over(image.clone(), SlowFlush::default())), OpenOptions::default());
    let file = fs.create(Place::new(fs.root(), b"f"), &FILE).unwrap();
    fs.write(file, 0, &[1; 5000]).unwrap();
    fs.sync().unwrap();
    let stop = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while stop.load(Ordering::Relaxed) == 0 {
                    let other = fs.create(Place::new(fs.root(), b"other"), &FILE);
                    other.and_then(|_| fs.unlink(Place::new(fs.root(), b"other"))).ok();
                    fs.sync().unwrap();
                }
            });
        }
        for round in 1..=60_u8 {
            fs.write(file, 0, &[round; 5000]).unwrap();
            fs.fsync(file).unwrap();
            let after = open(Arc::new(image.snapshot()), OpenOptions::default());
            let mut bytes = [0; 5000];
            after.read(file, 0, &mut bytes).unwrap();
            if bytes != [round; 5000] {
                stop.store(1, Ordering::Relaxed);
                panic!("round {round}: what was synced is not there");
            }
        }
        stop.store(1, Ordering::Relaxed);
    });
}

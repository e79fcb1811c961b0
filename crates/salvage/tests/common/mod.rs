//! What the tests share: a filesystem with all kinds of things in it, damage, and a sink in memory.

#![allow(dead_code, clippy::unwrap_used, missing_docs, reason = "helpers of tests may panic, and not all use all")]

pub mod dump;
pub mod memory;

use std::sync::{Arc, LazyLock};

use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, NewInode, NewKind, NewSubvolume, OpenOptions};
use butterfs_engine::inode::InodeId;
use butterfs_engine::inode::xattr::{Xattr, XattrMode};
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_salvage::{Begin, Devices, Options, Report, Source, Wanted, restore};
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};
use memory::MemorySink;

pub const SIZE: u64 = 256 << 20;
pub const DIRECTORIES: usize = 24;
pub const FILES: usize = 1500;
/// Small, so that trees are deep.
const NODESIZE: u32 = 4096;

pub const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 1, gid: 2 };
const DIRECTORY: NewInode<'static> = NewInode { kind: NewKind::Directory, permissions: 0o755, uid: 1, gid: 2 };

/// Files in directories, with symbolic and hard links, attributes, holes, a subvolume, and a snapshot of that which
/// changed since; made in several commits.
static WHOLE: LazyLock<MemDevice> = LazyLock::new(|| {
    let device = Arc::new(MemDevice::new(SIZE));
    let options = MakeOptions { nodesize: NODESIZE, ..MakeOptions::new(SIZE, &SystemEnvironment) };
    mkfs::make(device.clone(), &options).unwrap();
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadWrite).unwrap();
    let fs = Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap();
    fill(&fs);
    fs.sync().unwrap();
    drop(fs);
    device.snapshot()
});

pub fn content(number: usize) -> Vec<u8> {
    let len = match number % 7 {
        0 => 0,
        1 => 9000,
        2 => 5000,
        _ => 30 + number % 900,
    };
    (0..len).map(|at| (at * 7 + number) as u8).collect()
}

fn make(fs: &Filesystem, dir: InodeId, name: &str, number: usize) -> InodeId {
    let id = fs.create(Place::new(dir, name.as_bytes()), &FILE).unwrap();
    fs.write(id, 0, &content(number)).unwrap();
    id
}

fn fill(fs: &Filesystem) {
    let top = fs.root();
    let mut dirs = Vec::new();
    for number in 0..DIRECTORIES {
        let parent = if number % 3 == 2 { dirs[number - 1] } else { top };
        dirs.push(fs.create(Place::new(parent, format!("dir {number}").as_bytes()), &DIRECTORY).unwrap());
    }
    for number in 0..FILES {
        let dir = dirs[number * 31 % DIRECTORIES];
        let id = make(fs, dir, &format!("file {number}"), number);
        if number % 10 == 0 {
            let value = number.to_string();
            let xattr = Xattr { name: b"user.number", value: value.as_bytes() };
            fs.set_xattr(id, xattr, XattrMode::Any).unwrap();
        }
        if number % 50 == 1 {
            fs.link(id, Place::new(dirs[0], format!("link {number}").as_bytes())).unwrap();
            fs.write(id, 100_000, b"behind a hole").unwrap();
        }
        if number % 40 == 3 {
            let target = format!("../file {number}");
            let link = NewInode { kind: NewKind::Symlink(target.as_bytes()), ..FILE };
            fs.create(Place::new(dir, format!("symlink {number}").as_bytes()), &link).unwrap();
        }
        if number % 400 == 399 {
            fs.sync().unwrap();
        }
    }
    fill_subvolume(fs, top);
}

fn fill_subvolume(fs: &Filesystem, top: InodeId) {
    let new = NewSubvolume { permissions: 0o755, uid: 0, gid: 0 };
    let tree = fs.create_subvolume(Place::new(top, b"sub"), &new).unwrap();
    let sub = InodeId::top_of(tree);
    for number in 0..300 {
        make(fs, sub, &format!("in sub {number}"), number);
    }
    fs.snapshot(tree, Place::new(top, b"snapshot"), Access::ReadOnly).unwrap();
    for number in (0..300).step_by(50) {
        let id = fs.lookup(Place::new(sub, format!("in sub {number}").as_bytes())).unwrap();
        fs.write(id, 0, b"changed since").unwrap();
    }
}

/// The filesystem, to be damaged.
pub fn image() -> Arc<MemDevice> {
    Arc::new(WHOLE.snapshot())
}

pub fn devices(device: &Arc<MemDevice>) -> Devices {
    vec![device.clone() as Arc<dyn BlockDevice>]
}

pub fn everything() -> Options<'static> {
    Options { wanted: Wanted::all(), ..Options::new() }
}

/// Restores everything into memory.
pub fn restored(device: &Arc<MemDevice>) -> (MemorySink, Report) {
    let source = Source::open(&devices(device), Begin::Usual).unwrap();
    let sink = MemorySink::default();
    let report = restore(&source, &everything(), &sink).unwrap();
    (sink, report)
}

/// What is in it, undamaged.
pub static TRUTH: LazyLock<MemorySink> = LazyLock::new(|| {
    let (sink, report) = restored(&image());
    assert!(report.is_whole() && report.losses.is_empty() && report.notes.is_empty(), "{report:?}");
    sink
});

/// Restores everything, and nothing may be lost.
#[track_caller]
pub fn assert_all_is_had(device: &Arc<MemDevice>) -> Report {
    let (sink, report) = restored(device);
    assert!(report.losses.is_empty(), "{:#?}", report.losses);
    sink.assert_same(&TRUTH);
    report
}

//! Deleting in subvolumes that share deep trees with snapshots: each touched block is copied, and the old one stays.

use std::sync::Arc;

use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, Flow, NewInode, NewKind, OpenOptions};
use butterfs_engine::inode::InodeId;
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_engine::{Error, Result};
use butterfs_format::items::{BlockGroupFlags, FileType};
use butterfs_format::{Ino, TreeId};
use butterfs_testkit::random::Random;
use butterfs_volume::{MemDevice, OpenMode, Volume};

const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 0, gid: 0 };
const DIR: NewInode<'static> = NewInode { kind: NewKind::Directory, permissions: 0o755, uid: 0, gid: 0 };

/// In which order names go.
#[derive(Clone, Copy)]
enum Order {
    /// As they were made: leaves become empty one after the other.
    Made,
    /// As rm goes through directories, but these in any order; files within them mixed.
    Mixed,
}

/// Who is deleted in.
#[derive(Clone, Copy)]
enum Snapshots {
    /// Read-only ones: all is deleted in the live subvolume.
    ReadOnly(usize),
    /// Writable ones: all is deleted in each of them, too.
    Writable(usize),
}

struct Shape {
    nodesize: u32,
    len: u64,
    files: usize,
    order: Order,
    snapshots: Snapshots,
}

fn open(device: &Arc<MemDevice>) -> Filesystem {
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadWrite).unwrap();
    Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap()
}

fn must<T>(fs: &Filesystem, what: &str, result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error}; {:?}", fs.shared().gate.space()))
}

fn judge(device: &Arc<MemDevice>) {
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadOnly).unwrap();
    let options = butterfs_check::Options { data_csums: true, devices: vec![device.clone()], ..Default::default() };
    let report = butterfs_check::check(&volume, &options);
    assert!(report.worst().is_none(), "{report}");
}

/// Whether a call found space.
fn asked<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(Error::NoSpace) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Many small files in a few directories, a part of them in the tree and a part in extents of their own.
fn populate(fs: &Filesystem, files: usize) {
    for number in 0..files {
        let dir = format!("d{}", number % 7);
        let dir = match fs.create(Place::new(fs.root(), dir.as_bytes()), &DIR) {
            Ok(id) => id,
            Err(_) => fs.lookup(Place::new(fs.root(), dir.as_bytes())).unwrap(),
        };
        let id = fs.create(Place::new(dir, format!("file{number}").as_bytes()), &FILE).unwrap();
        let len = if number % 3 == 0 { 5000 } else { 300 };
        fs.write(id, 0, &vec![number as u8; len]).unwrap();
    }
    fs.sync().unwrap();
}

/// Data until there is no more, then files until there is no room for a name.
fn fill(fs: &Filesystem) {
    let (mut at, large) = (0, fs.create(Place::new(fs.root(), b"large"), &FILE));
    while let Ok(id) = large
        && asked(fs.write(id, at, &vec![9; 1 << 18])).is_some()
    {
        at += 1 << 18;
    }
    must(fs, "sync when data is full", fs.sync());
    for number in 0.. {
        let Some(id) = asked(fs.create(Place::new(fs.root(), format!("small{number}").as_bytes()), &FILE)) else {
            break;
        };
        let _full = asked(fs.write(id, 0, &[8; 1500]));
    }
    must(fs, "sync when all is full", fs.sync());
}

/// All names of a subvolume below a directory, each after those in it.
fn names(fs: &Filesystem, dir: InodeId, found: &mut Vec<(InodeId, Vec<u8>, FileType)>) {
    let mut here = Vec::new();
    fs.read_dir(dir, 2, |entry| {
        here.push((entry.name.clone(), entry.id, entry.file_type));
        Ok(Flow::More)
    })
    .unwrap();
    for (name, id, file_type) in here {
        // Other subvolumes are not looked into.
        if id.tree != dir.tree || id.is_placeholder() {
            continue;
        }
        if file_type == FileType::Directory {
            names(fs, id, found);
        }
        found.push((dir, name, file_type));
    }
}

fn empty(fs: &Filesystem, tree: TreeId, order: Order) {
    let mut found = Vec::new();
    names(fs, InodeId::new(tree, Ino::ROOT_DIR), &mut found);
    let (dirs, mut files): (Vec<_>, Vec<_>) = found.into_iter().partition(|(.., kind)| *kind == FileType::Directory);
    if let Order::Mixed = order {
        let mut random = Random::new(tree.0);
        for last in (1..files.len()).rev() {
            files.swap(last, random.below(last as u64 + 1) as usize);
        }
    }
    for (count, (dir, name, _)) in files.iter().enumerate() {
        must(fs, &format!("unlink {count} of {}", files.len()), fs.unlink(Place::new(*dir, name)));
        if count % 500 == 499 {
            must(fs, "sync", fs.sync());
        }
    }
    for (dir, name, _) in &dirs {
        must(fs, "rmdir", fs.rmdir(Place::new(*dir, name)));
    }
    must(fs, "the last sync", fs.sync());
}

fn all_goes(shape: &Shape) {
    let device = Arc::new(MemDevice::new(shape.len));
    let options = MakeOptions {
        nodesize: shape.nodesize,
        metadata_profile: BlockGroupFlags::empty(),
        ..MakeOptions::new(shape.len, &SystemEnvironment)
    };
    mkfs::make(device.clone(), &options).unwrap();
    let fs = open(&device);
    populate(&fs, shape.files);
    let (access, wanted) = match shape.snapshots {
        Snapshots::ReadOnly(count) => (Access::ReadOnly, count),
        Snapshots::Writable(count) => (Access::ReadWrite, count),
    };
    let make = |number: usize| fs.snapshot(TreeId::FS, Place::new(fs.root(), format!("s{number}").as_bytes()), access);
    let made: Vec<TreeId> = (0..wanted).map_while(|number| asked(make(number))).collect();
    assert!(!made.is_empty(), "no snapshot could be made");
    fill(&fs);
    drop(fs);
    judge(&device);

    let fs = open(&device);
    empty(&fs, TreeId::FS, shape.order);
    if let Snapshots::Writable(_) = shape.snapshots {
        for tree in &made {
            empty(&fs, *tree, shape.order);
        }
    }
    assert!(fs.shared().gate.stopped().is_none());
    drop(fs);
    judge(&device);
}

#[test]
fn all_files_go_in_the_order_they_came() {
    let snapshots = Snapshots::ReadOnly(5);
    all_goes(&Shape { nodesize: 16384, len: 192 << 20, files: 12_000, order: Order::Made, snapshots });
}

#[test]
fn all_files_go_in_any_order() {
    let snapshots = Snapshots::ReadOnly(5);
    all_goes(&Shape { nodesize: 16384, len: 192 << 20, files: 20_000, order: Order::Mixed, snapshots });
}

#[test]
fn all_files_go_from_small_nodes() {
    let snapshots = Snapshots::ReadOnly(2);
    all_goes(&Shape { nodesize: 4096, len: 160 << 20, files: 20_000, order: Order::Mixed, snapshots });
}

#[test]
fn all_files_go_from_writable_snapshots_too() {
    let snapshots = Snapshots::Writable(3);
    all_goes(&Shape { nodesize: 16384, len: 256 << 20, files: 12_000, order: Order::Mixed, snapshots });
}

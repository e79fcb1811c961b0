//! What only other writers make: compressed extents of every shape, and the inode cache of old kernels. It reads right,
//! the checker finds no fault, and it can be changed.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use butterfs_check::{Finding, Kind, Severity, check};
use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Filesystem, NewInode, NewKind, OpenOptions};
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_format::superblock::Incompat;
use butterfs_testkit::everything::{self, Limits};
use butterfs_testkit::synthetic;
use butterfs_volume::{MemDevice, OpenMode, Volume};

const SIZE: u64 = 256 << 20;
const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 1, gid: 2 };
const LIMITS: Limits = Limits { objects: 1000, bytes: 1 << 30 };

fn made(sectorsize: u32) -> Arc<MemDevice> {
    let device = Arc::new(MemDevice::new(SIZE));
    let mut options = MakeOptions::new(SIZE, &SystemEnvironment);
    options.sectorsize = sectorsize;
    options.nodesize = sectorsize.max(16384);
    options.incompat |= Incompat::COMPRESS_LZO | Incompat::COMPRESS_ZSTD;
    mkfs::make(device.clone(), &options).unwrap();
    device
}

fn open(device: &Arc<MemDevice>) -> Filesystem {
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadWrite).unwrap();
    Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap()
}

fn faults(device: &Arc<MemDevice>) -> Vec<Finding> {
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadOnly).unwrap();
    let options = butterfs_check::Options { data_csums: true, ..butterfs_check::Options::default() };
    check(&volume, &options).findings.into_iter().filter(|finding| finding.severity > Severity::Note).collect()
}

#[track_caller]
fn assert_clean(device: &Arc<MemDevice>) {
    assert_eq!(faults(device), []);
}

/// The checker wants it gone, and finds nothing else.
#[track_caller]
fn assert_only_inode_cache(device: &Arc<MemDevice>) {
    let kinds: Vec<Kind> = faults(device).iter().map(|finding| finding.kind).collect();
    assert_eq!(kinds, [Kind::InodeCache]);
}

fn content(fs: &Filesystem, name: &str) -> Vec<u8> {
    let id = fs.lookup(Place::new(fs.root(), name.as_bytes())).unwrap();
    let mut bytes = vec![0xee; 1 << 20];
    let count = fs.read(id, 0, &mut bytes).unwrap();
    bytes.truncate(count);
    bytes
}

#[test]
fn compressed_extents_of_every_shape() {
    for sectorsize in [4096, 16384] {
        let device = made(sectorsize);
        let fs = open(&device);
        let mut exhibits = synthetic::gallery(&fs, fs.root());
        drop(fs);
        assert_clean(&device);
        let fs = open(&device);
        for (name, want) in &exhibits {
            assert!(content(&fs, name) == *want, "{name}, sectors of {sectorsize}");
            // From the middle, by odd steps.
            let id = fs.lookup(Place::new(fs.root(), name.as_bytes())).unwrap();
            for start in (1..want.len()).step_by(7919) {
                let mut bytes = vec![0xee; 5003.min(want.len() - start)];
                assert_eq!(fs.read(id, start as u64, &mut bytes).unwrap(), bytes.len());
                assert!(bytes == want[start..start + bytes.len()], "{name} at {start}");
            }
        }
        for (name, want) in &mut exhibits {
            let id = fs.lookup(Place::new(fs.root(), name.as_bytes())).unwrap();
            let at = want.len() / 3;
            fs.write(id, at as u64, &[b'!'; 333]).unwrap();
            want[at..at + 333].fill(b'!');
        }
        fs.sync().unwrap();
        drop(fs);
        assert_clean(&device);
        let fs = open(&device);
        for (name, want) in &exhibits {
            assert!(content(&fs, name) == *want, "{name} after a change, sectors of {sectorsize}");
        }
    }
}

/// Nobody sees it, nobody trips over it, and inode numbers above it are not given out.
#[test]
fn an_inode_cache_is_in_nobodys_way() {
    let device = made(4096);
    let fs = open(&device);
    let file = fs.create(Place::new(fs.root(), b"cache to be"), &FILE).unwrap();
    fs.write(file, 0, &[0; 8192]).unwrap();
    let other = fs.create(Place::new(fs.root(), b"file"), &FILE).unwrap();
    fs.write(other, 0, b"content").unwrap();
    fs.sync().unwrap();
    synthetic::inode_cache(&fs, file);
    drop(fs);
    assert_only_inode_cache(&device);
    let fs = open(&device);
    let found = everything::read(&fs, LIMITS);
    assert_eq!((found.objects, found.problems), (3, vec![]));
    assert_eq!(content(&fs, "file"), b"content");
    let new = fs.create(Place::new(fs.root(), b"new"), &FILE).unwrap();
    assert_eq!(new.ino.0, other.ino.0 + 1);
    fs.sync().unwrap();
    drop(fs);
    assert_only_inode_cache(&device);
}

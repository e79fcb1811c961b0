//! A clone that was fsynced is there after a power cut: by the log, with the checksums of what it shares.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::file::{CloneLen, SizeMode};
use butterfs_engine::filesystem::{FileOffset, Filesystem, NewInode, NewKind, NewSubvolume, OpenOptions};
use butterfs_engine::inode::InodeId;
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_format::superblock::{CompatRo, Incompat};
use butterfs_volume::{MemDevice, OpenMode, Volume};

const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 1, gid: 2 };
const K: u64 = 1024;

fn open(device: &Arc<MemDevice>) -> Filesystem {
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadWrite).unwrap();
    Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap()
}

fn check(device: &Arc<MemDevice>, what: &str) {
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadOnly).unwrap();
    let options = butterfs_check::Options { data_csums: true, devices: vec![device.clone()], ..Default::default() };
    let report = butterfs_check::check(&volume, &options);
    assert!(report.worst() < Some(butterfs_check::Severity::Warning), "{what}: {report}");
}

fn read(fs: &Filesystem, id: InodeId) -> Vec<u8> {
    let mut bytes = vec![0; fs.attributes(id).unwrap().item.size.get() as usize];
    assert_eq!(fs.read(id, 0, &mut bytes).unwrap(), bytes.len());
    bytes
}

fn pattern(seed: u64, len: u64) -> Vec<u8> {
    (0..len).map(|at| ((at / 97 + at / 4096 * 31 + seed * 57) % 255 + 1) as u8).collect()
}

fn file(fs: &Filesystem, dir: InodeId, name: &str, bytes: &[u8]) -> InodeId {
    let id = fs.create(Place::new(dir, name.as_bytes()), &FILE).unwrap();
    fs.write(id, 0, bytes).unwrap();
    id
}

fn clone(fs: &Filesystem, from: (InodeId, u64), to: (InodeId, u64), len: CloneLen) {
    let at = |(id, offset)| FileOffset { id, offset };
    fs.clone_range(at(from), at(to), len).unwrap();
}

/// Runs `work`, which gives the files it fsynced, cuts the power, and compares; all must have gone by the log.
fn cut(name: &str, work: impl Fn(&Filesystem) -> Vec<InodeId>) {
    for explicit in [false, true] {
        let device = Arc::new(MemDevice::new(512 << 20));
        let mut options = MakeOptions::new(512 << 20, &SystemEnvironment);
        if explicit {
            options.incompat.remove(Incompat::NO_HOLES);
            options.compat_ro.remove(CompatRo::BLOCK_GROUP_TREE);
        }
        mkfs::make(device.clone(), &options).unwrap();
        let fs = open(&device);
        let synced = work(&fs);
        let fsyncs = fs.fsyncs();
        assert!(fsyncs.logged > 0 && fsyncs.committed.is_empty(), "{name}: {fsyncs:?}");
        let wanted: Vec<_> = synced.iter().map(|id| read(&fs, *id)).collect();
        let left = Arc::new(device.snapshot());
        drop(fs);
        let fs = open(&left);
        for (id, wanted) in synced.iter().zip(&wanted) {
            assert!(read(&fs, *id) == *wanted, "{name}, explicit holes {explicit}: {id:?}");
        }
        fs.sync().unwrap();
        check(&left, name);
        // All of it can go.
        for id in &synced {
            fs.set_size(*id, 0).unwrap();
        }
        fs.sync().unwrap();
        check(&left, name);
    }
}

#[test]
fn of_data_that_was_committed() {
    cut("committed source", |fs| {
        let source = file(fs, fs.root(), "source", &pattern(1, 300 * K));
        let dest = file(fs, fs.root(), "dest", &pattern(2, 100 * K));
        fs.sync().unwrap();
        clone(fs, (source, 16 * K), (dest, 8 * K), CloneLen::Bytes(64 * K));
        clone(fs, (source, 200 * K), (dest, 160 * K), CloneLen::ToEnd);
        fs.fsync(dest).unwrap();
        vec![dest]
    });
}

/// The data is known to no commit, and the file it was written to is in no log.
#[test]
fn of_data_that_nobody_synced() {
    cut("new source", |fs| {
        let dest = file(fs, fs.root(), "dest", b"");
        fs.sync().unwrap();
        let source = file(fs, fs.root(), "source", &pattern(1, 300 * K));
        clone(fs, (source, 64 * K), (dest, 0), CloneLen::Bytes(64 * K));
        fs.fsync(dest).unwrap();
        vec![dest]
    });
}

/// Parts of one new extent that overlap, in two files that are both in the log, in either order.
#[test]
fn of_parts_that_overlap() {
    for source_first in [false, true] {
        cut("overlapping parts", |fs| {
            let source = file(fs, fs.root(), "source", b"");
            let dest = file(fs, fs.root(), "dest", b"");
            fs.sync().unwrap();
            fs.write(source, 0, &pattern(1, 512 * K)).unwrap();
            if source_first {
                fs.fsync(source).unwrap();
            }
            clone(fs, (source, 128 * K), (dest, 0), CloneLen::Bytes(64 * K));
            fs.fsync(dest).unwrap();
            clone(fs, (source, 160 * K), (dest, 256 * K), CloneLen::Bytes(128 * K));
            clone(fs, (source, 100 * K), (dest, 64 * K), CloneLen::Bytes(96 * K));
            fs.fsync(dest).unwrap();
            fs.fsync(source).unwrap();
            vec![source, dest]
        });
    }
}

#[test]
fn within_one_file() {
    cut("within one file", |fs| {
        let id = file(fs, fs.root(), "file", &pattern(1, 64 * K));
        fs.sync().unwrap();
        fs.write(id, 64 * K, &pattern(2, 128 * K)).unwrap();
        for copy in 0..30 {
            clone(fs, (id, copy * 4 * K), (id, 256 * K + copy * 12 * K), CloneLen::Bytes(8 * K));
        }
        fs.fsync(id).unwrap();
        fs.write(id, 270 * K, &pattern(3, 10 * K)).unwrap();
        clone(fs, (id, 0), (id, 200 * K), CloneLen::Bytes(16 * K));
        fs.fsync(id).unwrap();
        vec![id]
    });
}

#[test]
fn of_holes_inline_and_preallocated_space() {
    cut("holes and others", |fs| {
        let source = file(fs, fs.root(), "source", &pattern(1, 16 * K));
        fs.preallocate(source, 64 * K..128 * K, SizeMode::Extend).unwrap();
        fs.set_size(source, 200 * K).unwrap();
        let small = file(fs, fs.root(), "small", &pattern(2, 1000));
        let dest = file(fs, fs.root(), "dest", &pattern(3, 300 * K));
        let (inline, behind) = (file(fs, fs.root(), "inline", b""), file(fs, fs.root(), "behind", &pattern(4, 500)));
        fs.sync().unwrap();
        clone(fs, (source, 0), (dest, 0), CloneLen::ToEnd);
        clone(fs, (small, 0), (inline, 0), CloneLen::ToEnd);
        clone(fs, (small, 0), (behind, 8 * K), CloneLen::ToEnd);
        let synced = vec![dest, inline, behind];
        synced.iter().for_each(|id| fs.fsync(*id).unwrap());
        synced
    });
}

#[test]
fn across_subvolumes() {
    cut("across subvolumes", |fs| {
        let new = NewSubvolume { permissions: 0o755, uid: 0, gid: 0 };
        let tree = fs.create_subvolume(Place::new(fs.root(), b"other"), &new).unwrap();
        let dest = file(fs, InodeId::top_of(tree), "dest", b"");
        let source = file(fs, fs.root(), "source", &pattern(1, 64 * K));
        fs.sync().unwrap();
        fs.write(source, 64 * K, &pattern(2, 64 * K)).unwrap();
        clone(fs, (source, 32 * K), (dest, 0), CloneLen::ToEnd);
        fs.fsync(dest).unwrap();
        fs.fsync(source).unwrap();
        vec![source, dest]
    });
}

/// What the clone replaced is gone, even if it was longer once.
#[test]
fn over_what_was_cut() {
    cut("cut before", |fs| {
        let source = file(fs, fs.root(), "source", &pattern(1, 32 * K));
        let hole = file(fs, fs.root(), "hole", b"");
        fs.set_size(hole, 64 * K).unwrap();
        let dest = file(fs, fs.root(), "dest", &pattern(2, 256 * K));
        fs.sync().unwrap();
        fs.set_size(dest, 10_000).unwrap();
        clone(fs, (hole, 0), (dest, 128 * K), CloneLen::ToEnd);
        clone(fs, (source, 0), (dest, 64 * K), CloneLen::Bytes(8 * K));
        fs.fsync(dest).unwrap();
        vec![dest]
    });
}

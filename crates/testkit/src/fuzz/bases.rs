//! Makes the base images: small filesystems with every kind of item that the engine writes, and some that only
//! others write. The same bytes every time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use butterfs_engine::dir::Place;
use butterfs_engine::environment::Environment;
use butterfs_engine::file::SizeMode;
use butterfs_engine::filesystem::{Access, Filesystem, NewInode, NewKind, NewSubvolume, OpenOptions};
use butterfs_engine::inode::InodeId;
use butterfs_engine::inode::xattr::{Xattr, XattrMode};
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_format::ChecksumType;
use butterfs_format::items::{BlockGroupFlags, Compression, FileType, Timespec};
use butterfs_format::superblock::{CompatRo, Incompat};
use butterfs_volume::{MemDevice, OpenMode, Volume};

use super::streams;
use crate::random::Random;
use crate::synthetic::{self, Packed, Piece};

/// The bases: `small` has all that is new, `old` little of it, and `logged` has a log tree.
pub const NAMES: [&str; 3] = ["small", "old", "logged"];

const SIZE: u64 = 128 << 20;
const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 1000, gid: 1000 };
const DIR: NewInode<'static> = NewInode { kind: NewKind::Directory, permissions: 0o755, uid: 1000, gid: 1000 };
const SUBVOLUME: NewSubvolume = NewSubvolume { permissions: 0o755, uid: 0, gid: 0 };

/// A clock that moves by a second, and UUIDs in turn.
#[derive(Default)]
struct Still(AtomicU64);

impl Environment for Still {
    fn now(&self) -> Timespec {
        Timespec::new(1_700_000_000 + self.0.fetch_add(1, Ordering::Relaxed) as i64, 0)
    }

    fn new_uuid(&self) -> [u8; 16] {
        let number = self.0.fetch_add(1, Ordering::Relaxed) as u128 + 1;
        (number << 64 | 0x4000_8000_0000_0000_0000).to_be_bytes()
    }
}

/// Makes a base. Panics at a name that is not one of [`NAMES`].
pub fn make(name: &str) -> MemDevice {
    let mut options = MakeOptions::new(SIZE, &Still::default());
    options.nodesize = 4096;
    options.incompat |= Incompat::COMPRESS_LZO | Incompat::COMPRESS_ZSTD;
    options.incompat -= Incompat::BIG_METADATA;
    match name {
        "small" => {}
        "old" => {
            options.csum_type = ChecksumType::Xxhash64;
            options.metadata_profile = BlockGroupFlags::empty();
            options.compat_ro = CompatRo::empty();
            options.incompat -= Incompat::SKINNY_METADATA | Incompat::NO_HOLES;
        }
        "logged" => {
            options.nodesize = 16384;
            options.incompat |= Incompat::BIG_METADATA;
        }
        other => panic!("there is no base '{other}'"),
    }
    let device = Arc::new(MemDevice::new(SIZE));
    mkfs::make(device.clone(), &options).expect("mkfs");
    let fs = open(&device);
    fill(&fs);
    drop(fs);
    let fs = open(&device);
    if name == "logged" { logged(&fs, &device) } else { with_orphan(&fs, &device) }
}

fn open(device: &Arc<MemDevice>) -> Filesystem {
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadWrite).expect("the device opens");
    Filesystem::open(volume, OpenOptions::default(), Box::new(Still::default())).expect("the filesystem opens")
}

fn file(fs: &Filesystem, dir: InodeId, name: &str) -> InodeId {
    fs.create(Place::new(dir, name.as_bytes()), &FILE).expect("create")
}

fn fill(fs: &Filesystem) {
    let sub = fs.create_subvolume(Place::new(fs.root(), b"sub"), &SUBVOLUME).expect("subvolume");
    let sub = InodeId::top_of(sub);
    for top in [fs.root(), sub] {
        fill_dir(fs, top);
    }
    fs.sync().expect("sync");
    compressed(fs, fs.root());
    fs.snapshot(sub.tree, Place::new(fs.root(), b"snapshot"), Access::ReadOnly).expect("snapshot");
    let late = file(fs, sub, "late");
    fs.write(late, 0, &[3; 9000]).expect("write");
    fs.sync().expect("sync");
}

fn fill_dir(fs: &Filesystem, top: InodeId) {
    let dir = fs.create(Place::new(top, b"dir"), &DIR).expect("mkdir");
    for number in 0..12_usize {
        let id = file(fs, dir, &format!("a-file-with-a-longer-name-{number}"));
        let size = if number.is_multiple_of(3) { 100 } else { 9000 };
        fs.write(id, 0, &vec![number as u8 + 1; size]).expect("write");
    }
    let large = file(fs, top, "large");
    fs.write(large, 0, &[1; 100_000]).expect("write");
    fs.sync().expect("sync");
    fs.write(large, 30_000, &[2; 10_000]).expect("write");
    fs.write(large, 200_000, &[4; 5000]).expect("write");
    fs.punch_hole(large, 50_000..60_000).expect("punch");
    for number in 0..20 {
        let name = format!("{number:0>200}");
        fs.link(large, Place::new(dir, name.as_bytes())).expect("link");
    }
    let prealloc = file(fs, top, "prealloc");
    fs.preallocate(prealloc, 0..1 << 16, SizeMode::Extend).expect("preallocate");
    let kinds =
        [("symlink", NewKind::Symlink(b"large")), ("fifo", NewKind::Special { file_type: FileType::Fifo, rdev: 0 })];
    for (name, kind) in kinds {
        fs.create(Place::new(top, name.as_bytes()), &NewInode { kind, ..FILE }).expect("create");
    }
    let xattrs: [(&[u8], &[u8]); 2] = [(b"user.name", b"value"), (b"security.x", &[9; 300])];
    for (name, value) in xattrs {
        fs.set_xattr(large, Xattr { name, value }, XattrMode::Any).expect("xattr");
    }
}

/// Extents of each kind: whole, in pieces, shorter than they say, and inline.
fn compressed(fs: &Filesystem, top: InodeId) {
    let mut random = Random::new(1);
    for compression in [Compression::Zlib, Compression::Lzo, Compression::Zstd] {
        let plain = streams::text(&mut random, 20_000);
        let stream = &streams::compress(compression, &plain, 4096)[..];
        let packed = Packed { compression, stream, ram_bytes: 20_480 };
        let id = file(fs, top, &format!("{compression}"));
        synthetic::compressed_file(fs, id, &packed, &[Piece { at: 0, offset: 0, len: 20_480 }], 20_000);
        let id = file(fs, top, &format!("{compression}-pieces"));
        let pieces = [Piece { at: 0, offset: 0, len: 4096 }, Piece { at: 4096, offset: 8192, len: 8192 }];
        let short = Packed { ram_bytes: 32_768, ..packed };
        synthetic::compressed_file(fs, id, &short, &pieces, 12_288);
        let small = streams::compress(compression, &plain[..900], 4096);
        let id = file(fs, top, &format!("{compression}-inline"));
        synthetic::compressed_inline(fs, id, &Packed { compression, stream: &small, ram_bytes: 900 });
    }
}

/// What is held is not deleted: the image keeps its orphan.
fn with_orphan(fs: &Filesystem, device: &MemDevice) -> MemDevice {
    let orphan = file(fs, fs.root(), "orphan");
    fs.write(orphan, 0, &[4; 9000]).expect("write");
    fs.sync().expect("sync");
    fs.hold(orphan).expect("hold");
    fs.unlink(Place::new(fs.root(), b"orphan")).expect("unlink");
    fs.sync().expect("sync");
    device.snapshot()
}

/// New files, one renamed and one removed, in the log alone.
fn logged(fs: &Filesystem, device: &MemDevice) -> MemDevice {
    let top = fs.root();
    let dir = fs.lookup(Place::new(top, b"dir")).expect("it is there");
    for number in 0..5 {
        let id = file(fs, dir, &format!("logged{number}"));
        fs.write(id, 0, &vec![7; 3000 * (number + 1)]).expect("write");
        fs.fsync(id).expect("fsync");
    }
    fs.unlink(Place::new(dir, b"a-file-with-a-longer-name-3")).expect("unlink");
    fs.fsync(dir).expect("fsync");
    device.snapshot()
}

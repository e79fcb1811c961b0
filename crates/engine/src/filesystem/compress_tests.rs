//! Writing compressed files, on a device in memory.

use std::ops::Range;
use std::sync::Arc;

use butterfs_format::compression::{Choice, Method};
use butterfs_format::items::{Compression, FileExtent, FileExtentBody, InodeFlags};
use butterfs_format::superblock::Incompat;
use butterfs_format::{ItemType, Key};
use butterfs_volume::{MemDevice, OpenMode, Volume};

use super::tests::{DIR, FILE, device, judge, open, top};
use super::{Filesystem, OpenOptions};
use crate::dir::Place;
use crate::environment::SystemEnvironment;
use crate::error::Error;
use crate::file::CompressRule;
use crate::inode::xattr::{Xattr, XattrMode};
use crate::inode::{InodeId, scan};

const PROPERTY: &[u8] = b"btrfs.compression";

fn method(value: &str) -> Method {
    match value.parse() {
        Ok(Choice::With(method)) => method,
        other => panic!("{value}: {other:?}"),
    }
}

fn open_with(device: &Arc<MemDevice>, compress: CompressRule) -> Filesystem {
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadWrite).unwrap();
    let options = OpenOptions { compress, ..OpenOptions::default() };
    Filesystem::open(volume, options, Box::new(SystemEnvironment)).unwrap()
}

/// Compresses well, and no two sectors are the same.
fn text(len: usize) -> Vec<u8> {
    let mut text = Vec::new();
    for line in 0.. {
        if text.len() >= len {
            break;
        }
        text.extend_from_slice(format!("line {line} of what can be said in fewer bytes\n").as_bytes());
    }
    text.truncate(len);
    text
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(step).collect()
}

fn file_with(fs: &Filesystem, name: &[u8], bytes: &[u8]) -> InodeId {
    let id = fs.create(top(name), &FILE).unwrap();
    fs.write(id, 0, bytes).unwrap();
    fs.sync().unwrap();
    id
}

/// A file's extents as they are on disk: where in the file, how compressed, length on disk (0: inline).
fn extents(fs: &Filesystem, id: InodeId) -> Vec<(Range<u64>, Compression, u64)> {
    let from = Key::new(id.ino.0, ItemType::EXTENT_DATA, 0);
    let items = fs.shared.gate.view(|tx| scan::of_type(tx, id.tree, &from, usize::MAX)).unwrap();
    let describe = |(key, data): (Key, Vec<u8>)| {
        let extent = FileExtent::parse(&data).unwrap();
        let (len, disk) = match extent.body {
            FileExtentBody::Inline(_) => (extent.ram_bytes, 0),
            FileExtentBody::Extent { num_bytes, disk_num_bytes, .. } => (num_bytes, disk_num_bytes),
        };
        (key.offset..key.offset + len, extent.compression, disk)
    };
    items.into_iter().map(describe).collect()
}

fn assert_reads(fs: &Filesystem, id: InodeId, expected: &[u8]) {
    let mut bytes = vec![0; expected.len() + 1];
    assert_eq!(fs.read(id, 0, &mut bytes).unwrap(), expected.len());
    let wrong = (0..expected.len()).find(|at| bytes[*at] != expected[*at]);
    assert_eq!(wrong, None, "the first byte that differs");
}

fn flags(fs: &Filesystem, id: InodeId) -> InodeFlags {
    fs.attributes(id).unwrap().item.flags()
}

#[test]
fn text_is_stored_in_chunks_of_128_kib() {
    for (value, kind, feature) in [
        ("zlib:9", Compression::Zlib, Incompat::empty()),
        ("lzo", Compression::Lzo, Incompat::COMPRESS_LZO),
        ("zstd", Compression::Zstd, Incompat::COMPRESS_ZSTD),
    ] {
        let device = device();
        let fs = open_with(&device, CompressRule::All(method(value)));
        let mut bytes = text(300_000);
        let id = file_with(&fs, b"file", &bytes);
        let found = extents(&fs, id);
        let ranges: Vec<_> = found.iter().map(|(range, ..)| range.clone()).collect();
        assert_eq!(ranges, [0..131_072, 131_072..262_144, 262_144..303_104], "{value}");
        assert!(found.iter().all(|(range, found, disk)| *found == kind && *disk < range.end - range.start), "{value}");
        assert_eq!(fs.attributes(id).unwrap().item.nbytes.get(), 303_104);
        // What is written later cuts into an extent, whose rest is still read from it.
        bytes[100_000..100_010].fill(7);
        fs.write(id, 100_000, &[7; 10]).unwrap();
        fs.punch_hole(id, 140_000..200_000).unwrap();
        bytes[140_000..200_000].fill(0);
        fs.set_size(id, 290_001).unwrap();
        bytes.truncate(290_001);
        fs.sync().unwrap();
        assert_reads(&fs, id, &bytes);
        judge(&device, fs);
        let fs = open(&device);
        assert_reads(&fs, id, &bytes);
        assert!(fs.shared.features.contains(feature), "{value}");
    }
}

#[test]
fn a_small_file_is_compressed_into_the_tree() {
    let device = device();
    let fs = open_with(&device, CompressRule::All(method("zstd")));
    for len in [300, 2047, 3000, 4096] {
        let bytes = text(len);
        let id = file_with(&fs, format!("file of {len}").as_bytes(), &bytes);
        assert_eq!(extents(&fs, id), [(0..len as u64, Compression::Zstd, 0)], "{len}");
        assert_reads(&fs, id, &bytes);
        // It grows.
        fs.write(id, len as u64, b"more").unwrap();
        fs.sync().unwrap();
        assert_reads(&fs, id, &[&bytes[..], b"more"].concat());
    }
    let id = file_with(&fs, b"noise", &noise(1000));
    assert_eq!(extents(&fs, id), [(0..1000, Compression::None, 0)]);
    judge(&device, fs);
}

#[test]
fn what_does_not_become_smaller_is_not_tried_again() {
    let device = device();
    let fs = open_with(&device, CompressRule::All(method("lzo")));
    // It looks promising where it is sampled, and is not.
    let mut bytes = noise(65536);
    bytes.chunks_mut(256).for_each(|chunk| chunk[..16].fill(b'a'));
    let id = file_with(&fs, b"file", &bytes);
    assert_eq!(extents(&fs, id), [(0..65536, Compression::None, 65536)]);
    assert!(flags(&fs, id).contains(InodeFlags::NOCOMPRESS));
    fs.write(id, 0, &text(65536)).unwrap();
    fs.sync().unwrap();
    assert_eq!(extents(&fs, id), [(0..65536, Compression::None, 65536)]);
    // Plain noise is not tried at all.
    let noisy = file_with(&fs, b"noisy", &noise(65536));
    assert!(!flags(&fs, noisy).contains(InodeFlags::NOCOMPRESS));
    judge(&device, fs);
    let fs = open_with(&device, CompressRule::Force(method("lzo")));
    fs.write(id, 0, &text(65536)).unwrap();
    fs.sync().unwrap();
    assert_eq!(extents(&fs, id)[0].1, Compression::Lzo, "who insists");
    judge(&device, fs);
}

#[test]
fn the_property_decides_and_is_inherited() {
    let device = device();
    let fs = open(&device);
    let dir = fs.create(top(b"dir"), &DIR).unwrap();
    fs.set_xattr(dir, Xattr { name: PROPERTY, value: b"zstd:5" }, XattrMode::Any).unwrap();
    assert!(flags(&fs, dir).contains(InodeFlags::COMPRESS));
    let below = fs.create(Place::new(dir, b"below"), &DIR).unwrap();
    let id = fs.create(Place::new(below, b"file"), &FILE).unwrap();
    assert_eq!(fs.xattr(id, PROPERTY).unwrap(), b"zstd:5");
    fs.write(id, 0, &text(100_000)).unwrap();
    fs.sync().unwrap();
    assert_eq!(extents(&fs, id)[0].1, Compression::Zstd);
    fs.set_xattr(id, Xattr { name: PROPERTY, value: b"none" }, XattrMode::Any).unwrap();
    assert!(flags(&fs, id).contains(InodeFlags::NOCOMPRESS));
    fs.write(id, 0, &text(100_000)).unwrap();
    fs.sync().unwrap();
    assert_eq!(extents(&fs, id)[0].1, Compression::None);
    fs.remove_xattr(id, PROPERTY).unwrap();
    assert!(!flags(&fs, id).intersects(InodeFlags::NOCOMPRESS | InodeFlags::COMPRESS));
    for (name, value) in [(PROPERTY, &b"gzip"[..]), (b"btrfs.fancy", b"zlib")] {
        let refused = fs.set_xattr(id, Xattr { name, value }, XattrMode::Any);
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
    judge(&device, fs);
}

#[test]
fn the_property_follows_the_flag() {
    let device = device();
    let fs = open(&device);
    let id = fs.create(top(b"file"), &FILE).unwrap();
    fs.set_flags(id, InodeFlags::COMPRESS).unwrap();
    assert_eq!(fs.xattr(id, PROPERTY).unwrap(), b"zlib");
    fs.set_flags(id, InodeFlags::NOCOMPRESS).unwrap();
    assert!(matches!(fs.xattr(id, PROPERTY), Err(Error::NoAttribute)));
    let bare = fs.create(top(b"bare"), &FILE).unwrap();
    fs.set_flags(bare, InodeFlags::NODATACOW | InodeFlags::NODATASUM).unwrap();
    let refused = fs.set_xattr(bare, Xattr { name: PROPERTY, value: b"lzo" }, XattrMode::Any);
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    judge(&device, fs);
}

/// Where the machine has more than one core, so many compressors are at work at once.
#[test]
fn a_large_write_is_compressed_on_all_cores() {
    let device = device();
    let fs = open_with(&device, CompressRule::All(method("zstd:15")));
    let bytes = text(8 << 20);
    let id = file_with(&fs, b"file", &bytes);
    assert_eq!(extents(&fs, id).len(), 64);
    assert_eq!(fs.shared.compressors.most_at_once(), butterfs_os::cpus::cores().min(64));
    assert_reads(&fs, id, &bytes);
    judge(&device, fs);
}

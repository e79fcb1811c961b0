//! Blocks with right checksums and wrong content: opening and reading everything ends, with data or errors.
//!
//! Each round changes a few bytes of one tree block, in all its copies, or of the superblock, and makes the
//! checksum right again; so the damage is met behind the checksum.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, Flow, NewInode, NewKind, NewSubvolume, OpenOptions, Rescue};
use butterfs_engine::inode::InodeId;
use butterfs_engine::inode::xattr::{Xattr, XattrMode};
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_format::items::FileType;
use butterfs_format::superblock::SUPERBLOCK_OFFSETS;
use butterfs_format::{ChecksumType, TreeBlock};
use butterfs_testkit::random::Random;
use butterfs_testkit::report::scaled;
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 1, gid: 2 };
const DIR: NewInode<'static> = NewInode { kind: NewKind::Directory, permissions: 0o755, uid: 1, gid: 2 };
const NODESIZE: usize = 16384;
/// A walk gives up after so many objects: a circle that is not noticed would go on.
const MOST_OBJECTS: usize = 20_000;
const ROUND_LIMIT: Duration = Duration::from_secs(10);

fn image() -> MemDevice {
    let device = Arc::new(MemDevice::new(256 << 20));
    mkfs::make(device.clone(), &MakeOptions::new(256 << 20, &SystemEnvironment)).unwrap();
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadWrite).unwrap();
    let fs = Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap();
    let top = fs.root();
    for number in 0..150 {
        let dir = fs.create(Place::new(top, format!("dir{number}").as_bytes()), &DIR).unwrap();
        for inner in 0..3 {
            let id = fs.create(Place::new(dir, format!("file{inner}").as_bytes()), &FILE).unwrap();
            fs.write(id, inner * 5000, &vec![number as u8; 100 + inner as usize * 9000]).unwrap();
            fs.set_xattr(id, Xattr { name: b"user.x", value: b"value" }, XattrMode::Any).unwrap();
        }
        let link = NewInode { kind: NewKind::Symlink(b"target"), ..FILE };
        fs.create(Place::new(dir, b"link"), &link).unwrap();
    }
    fs.create_subvolume(Place::new(top, b"sub"), &NewSubvolume { permissions: 0o755, uid: 0, gid: 0 }).unwrap();
    fs.sync().unwrap();
    drop(fs);
    device.snapshot()
}

/// The tree blocks of an image by address, with the places of their copies.
fn blocks(device: &MemDevice) -> Vec<(TreeBlock, Vec<u64>)> {
    let mut found: BTreeMap<u64, (TreeBlock, Vec<u64>)> = BTreeMap::new();
    for (offset, bytes) in device.written() {
        for (number, block) in bytes.chunks_exact(NODESIZE).enumerate() {
            if ChecksumType::Crc32c.matches_block(block) && !SUPERBLOCK_OFFSETS.contains(&offset) {
                let block = TreeBlock::from_bytes(block.to_vec());
                let at = offset + (number * NODESIZE) as u64;
                // An older block at the same address would be another.
                let entry = found.entry(block.bytenr().0).or_insert_with(|| (block.clone(), Vec::new()));
                if entry.0.bytes() == block.bytes() {
                    entry.1.push(at);
                }
            }
        }
    }
    found.into_values().collect()
}

/// Changes a few bytes: in the header, in the items' heads, or anywhere.
fn mutate(random: &mut Random, bytes: &mut [u8], from: usize) {
    for _ in 0..random.between(1, 4) {
        let span = if random.percent(60) { 400.min(bytes.len() - from) } else { bytes.len() - from };
        let at = from + random.below(span as u64) as usize;
        bytes[at] = match random.below(4) {
            0 => 0,
            1 => 0xff,
            2 => bytes[at] ^ 1 << random.below(8),
            _ => random.bits() as u8,
        };
    }
}

fn walk(device: Arc<MemDevice>, rescue: Rescue) -> usize {
    let Ok(volume) = Volume::open(vec![device], OpenMode::ReadOnly) else { return 0 };
    let options = OpenOptions { access: Access::ReadOnly, rescue, ..OpenOptions::default() };
    let Ok(fs) = Filesystem::open(volume, options, Box::new(SystemEnvironment)) else { return 0 };
    let mut pending = vec![(fs.root(), FileType::Directory)];
    let mut visited = 0;
    while let Some((id, file_type)) = pending.pop().filter(|_| visited < MOST_OBJECTS) {
        visited += 1;
        visit(&fs, id, file_type, &mut pending);
    }
    visited
}

fn visit(fs: &Filesystem, id: InodeId, file_type: FileType, pending: &mut Vec<(InodeId, FileType)>) {
    let found = fs.attributes(id);
    for name in fs.xattrs(id).unwrap_or_default() {
        let _ = fs.xattr(id, &name);
    }
    match file_type {
        FileType::Directory => {
            let _ = fs.read_dir(id, 0, |entry| {
                if entry.position > 1 && pending.len() < MOST_OBJECTS {
                    pending.push((entry.id, entry.file_type));
                    let _ = fs.lookup(Place::new(id, &entry.name));
                }
                Ok(Flow::More)
            });
        }
        FileType::Symlink => drop(fs.read_link(id)),
        _ => {
            let size = found.map_or(0, |found| found.item.size.get());
            let mut bytes = vec![0; 64 << 10];
            for offset in (0..size.min(1 << 20)).step_by(bytes.len()).chain([size.saturating_sub(5), 1 << 40]) {
                let _ = fs.read(id, offset, &mut bytes);
            }
        }
    }
}

fn timed(what: &str, work: impl FnOnce() -> usize) -> usize {
    let start = Instant::now();
    let visited = work();
    assert!(start.elapsed() < ROUND_LIMIT, "{what} took {:?}", start.elapsed());
    visited
}

#[test]
fn damaged_tree_blocks_end_in_data_or_errors() {
    let image = image();
    let blocks = blocks(&image);
    assert!(blocks.len() > 10 && walk(Arc::new(image.snapshot()), Rescue::empty()) > 700);
    let mut random = Random::new(31);
    let mut read = 0;
    for round in 0..scaled(400) {
        let device = image.snapshot();
        let (block, places) = random.pick(&blocks).unwrap();
        let mut bytes = block.bytes().to_vec();
        mutate(&mut random, &mut bytes, 32);
        let csum = ChecksumType::Crc32c.compute_block(&bytes);
        bytes[..csum.len()].copy_from_slice(&csum);
        places.iter().for_each(|place| device.write_at(*place, &bytes).unwrap());
        let rescue = if random.percent(30) { Rescue::all() } else { Rescue::empty() };
        read += timed(&format!("round {round}"), || walk(Arc::new(device), rescue));
    }
    // Most damage is local.
    assert!(read > 10_000, "only {read} objects were read");
}

#[test]
fn damaged_superblocks_end_in_data_or_errors() {
    let image = image();
    let mut random = Random::new(37);
    for round in 0..scaled(600) {
        let device = image.snapshot();
        let mut bytes = vec![0; 4096];
        device.read_at(SUPERBLOCK_OFFSETS[0], &mut bytes).unwrap();
        // The fields and the array of system chunks.
        let end = 0x32b + 300;
        mutate(&mut random, &mut bytes[..end], 32);
        if random.percent(40) {
            mutate(&mut random, &mut bytes[..end], 0x32b);
        }
        let csum = ChecksumType::Crc32c.compute_block(&bytes);
        bytes[..csum.len()].copy_from_slice(&csum);
        device.write_at(SUPERBLOCK_OFFSETS[0], &bytes).unwrap();
        timed(&format!("round {round}"), || walk(Arc::new(device), Rescue::empty()));
    }
}

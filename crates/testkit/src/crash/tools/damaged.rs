//! Damaged images for tools to work on, each by a seed.

use butterfs_engine::dir::Place;
use butterfs_engine::filesystem::{Access, NewInode, NewKind};
use butterfs_format::superblock::{SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_format::{Logical, TreeBlock, TreeId};
use butterfs_volume::{BlockDevice, MemDevice};

use super::super::states::shared;
use super::super::workload::{CountingEnvironment, open};
use crate::damage::rows::{ConcatRows, EXTENTS_OF_FILES, INODES, ROOTS, SPACE, SUB};
use crate::damage::{Subject, findings};
use crate::random::Random;

/// What is wrong with the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Nothing.
    None,
    /// Trees that are worked out from the others are lost.
    LostTrees,
    /// Some items are wrong, behind right checksums.
    WrongItems,
    /// The same, such that one round of repair uncovers work for the next.
    Nested,
    /// Bits are wrong in some blocks, behind right checksums.
    WrongBits,
    /// One copy of each block of some trees is bad, and an item is wrong.
    BadCopies,
    /// The first superblock is bad.
    FirstSuperblock,
    /// The chunk tree is lost.
    ChunkTree,
    /// A log tree waits to be replayed.
    Log,
}

/// Items that are wrong in one image.
const ITEMS: usize = 4;
/// Bits that are wrong in one image.
const BITS: usize = 2;

/// Breaks the good filesystem.
pub fn damaged(subject: &Subject, damage: Damage, seed: u64) -> MemDevice {
    let device = subject.device.snapshot();
    let mut random = Random::new(seed);
    match damage {
        Damage::None => {}
        Damage::LostTrees => lose(subject, &device, &[TreeId::EXTENT, TreeId::FREE_SPACE]),
        Damage::WrongItems | Damage::Nested => wrong_items(subject, &device, &mut random),
        Damage::WrongBits => wrong_bits(subject, &device, &mut random),
        Damage::BadCopies => bad_copies(subject, &device, &mut random),
        Damage::FirstSuperblock => put(&device, SUPERBLOCK_OFFSETS[0], &[0; SUPERBLOCK_SIZE]),
        Damage::ChunkTree => lose(subject, &device, &[TreeId::CHUNK]),
        Damage::Log => return with_log(&device),
    }
    device
}

/// Whether the checker finds an error.
pub fn is_broken(device: &MemDevice) -> bool {
    findings(device, false).iter().any(|finding| finding.severity == butterfs_check::Severity::Error)
}

fn put(device: &MemDevice, offset: u64, bytes: &[u8]) {
    device.write_at(offset, bytes).expect("the place is within the device");
}

/// Zeros over all copies of the roots of trees.
fn lose(subject: &Subject, device: &MemDevice, trees: &[TreeId]) {
    let nodesize = subject.volume.geometry().nodesize as usize;
    for place in trees.iter().flat_map(|tree| subject.places(subject.root_of(*tree))) {
        put(device, place, &vec![0; nodesize]);
    }
}

fn wrong_items(subject: &Subject, device: &MemDevice, random: &mut Random) {
    let rows = [INODES, EXTENTS_OF_FILES, ROOTS, SPACE].concat_rows();
    let mut taken: Vec<Logical> = Vec::new();
    while taken.len() < ITEMS {
        let row = rows[random.below(rows.len() as u64) as usize];
        let mut items = subject.items(row);
        items.retain(|(leaf, _)| !taken.contains(&leaf.bytenr()));
        if items.is_empty() {
            continue;
        }
        let (mut leaf, slot) = items.swap_remove(random.below(items.len() as u64) as usize);
        (row.change)(&mut leaf, slot);
        subject.put_block(device, leaf.bytenr(), &leaf);
        taken.push(leaf.bytenr());
    }
}

/// The trees of files, and those that are worked out from them.
const TREES: [TreeId; 6] = [TreeId::FS, SUB, TreeId::EXTENT, TreeId::CSUM, TreeId::FREE_SPACE, TreeId::DEV];

fn wrong_bits(subject: &Subject, device: &MemDevice, random: &mut Random) {
    for _ in 0..BITS {
        let mut blocks = subject.blocks(subject.root_of(*random.pick(&TREES).expect("there are trees")));
        let mut block: TreeBlock = blocks.swap_remove(random.below(blocks.len() as u64) as usize);
        let at = block.bytenr();
        let place = 32 + random.below(block.bytes().len() as u64 - 32) as usize;
        block.bytes_mut()[place] ^= 1 << random.below(8);
        subject.put_block(device, at, &block);
    }
}

fn bad_copies(subject: &Subject, device: &MemDevice, random: &mut Random) {
    for block in [TreeId::FS, TreeId::EXTENT, SUB].iter().flat_map(|tree| subject.blocks(subject.root_of(*tree))) {
        let places = subject.places(block.bytenr());
        if random.percent(60) {
            put(device, places[random.below(places.len() as u64) as usize] + 512, &[0xaa; 3000]);
        }
    }
    lose(subject, device, &[TreeId::FREE_SPACE]);
}

/// A file that was synced by itself since the last commit.
fn with_log(device: &MemDevice) -> MemDevice {
    let image = std::sync::Arc::new(device.snapshot());
    let environment = CountingEnvironment::new(5000);
    let filesystem = open(vec![image.clone()], Access::ReadWrite, environment).expect("the filesystem is good");
    let new = NewInode { kind: NewKind::File, permissions: 0o600, uid: 0, gid: 0 };
    let id = filesystem.create(Place::new(filesystem.root(), b"logged"), &new).expect("there is space");
    filesystem.write(id, 0, &[5; 9000]).expect("there is space");
    filesystem.fsync(id).expect("a device in memory does not fail");
    let cut = image.snapshot();
    drop(filesystem);
    cut
}

/// The superblocks of the devices as they open, if they do: whose commit a state shows.
pub(super) fn commit_of(devices: &[MemDevice]) -> Option<[u64; 4]> {
    let forks = shared(devices.iter().map(MemDevice::snapshot).collect());
    let volume = butterfs_volume::Volume::open(forks, butterfs_volume::OpenMode::ReadOnly).ok()?;
    let sb = volume.superblock();
    Some([sb.generation.get(), sb.root.get(), sb.chunk_root.get(), sb.log_root.get()])
}

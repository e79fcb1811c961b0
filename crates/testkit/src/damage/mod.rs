//! A good filesystem with every kind of item, and ways to break it: for the tests of the checker and of repair.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

pub mod rows;

use std::num::NonZeroUsize;
use std::sync::Arc;

use butterfs_check::{Finding, Options, check, open_failure};
use butterfs_engine::dir::Place;
use butterfs_engine::file::SizeMode;
use butterfs_engine::filesystem::{Access, Filesystem, NewInode, NewKind, NewSubvolume, OpenOptions};
use butterfs_engine::inode::InodeId;
use butterfs_engine::inode::xattr::{Xattr, XattrMode};
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_format::items::RootItem;
use butterfs_format::validate::Expected;
use butterfs_format::{ItemType as T, Logical, TreeBlock, TreeId};
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

use crate::crash::workload::CountingEnvironment;
use rows::Row;

/// The length of its device, in bytes.
pub const SIZE: u64 = 300 << 20;

/// A filesystem with every kind of item the engine writes, and more than one leaf; always the same bytes.
pub fn good() -> MemDevice {
    const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 1, gid: 2 };
    const DIR: NewInode<'static> = NewInode { kind: NewKind::Directory, permissions: 0o755, uid: 1, gid: 2 };
    const SUBVOLUME: NewSubvolume = NewSubvolume { permissions: 0o755, uid: 0, gid: 0 };
    let device = Arc::new(MemDevice::new(SIZE));
    mkfs::make(device.clone(), &MakeOptions::new(SIZE, &CountingEnvironment::new(0))).unwrap();
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadWrite).unwrap();
    let fs = Filesystem::open(volume, OpenOptions::default(), Box::new(CountingEnvironment::new(1000))).unwrap();
    let sub = fs.create_subvolume(Place::new(fs.root(), b"sub"), &SUBVOLUME).unwrap();
    for top in [fs.root(), InodeId::top_of(sub)] {
        let dir = fs.create(Place::new(top, b"dir"), &DIR).unwrap();
        for number in 0..150 {
            let name = format!("a-file-with-a-longer-name-{number}");
            let id = fs.create(Place::new(dir, name.as_bytes()), &FILE).unwrap();
            let size = if number % 3 == 0 { 100 } else { 20_000 };
            fs.write(id, 0, &vec![number as u8 + 1; size]).unwrap();
        }
        let file = fs.create(Place::new(top, b"large"), &FILE).unwrap();
        fs.write(file, 0, &vec![1; 1 << 20]).unwrap();
        fs.sync().unwrap();
        fs.write(file, 300_000, &vec![2; 100_000]).unwrap();
        for number in 0..100 {
            let name = format!("{number:0>200}");
            fs.link(file, Place::new(dir, name.as_bytes())).unwrap();
        }
        let prealloc = fs.create(Place::new(top, b"prealloc"), &FILE).unwrap();
        fs.preallocate(prealloc, 0..1 << 18, SizeMode::Extend).unwrap();
        let link = NewInode { kind: NewKind::Symlink(b"large"), ..FILE };
        fs.create(Place::new(top, b"symlink"), &link).unwrap();
        let xattr = Xattr { name: b"user.name", value: b"value" };
        fs.set_xattr(file, xattr, XattrMode::Any).unwrap();
    }
    fs.snapshot(sub, Place::new(fs.root(), b"snapshot"), Access::ReadWrite).unwrap();
    let late = fs.create(Place::new(InodeId::top_of(sub), b"late"), &FILE).unwrap();
    fs.write(late, 0, &[3; 9000]).unwrap();
    let orphan = fs.create(Place::new(fs.root(), b"orphan"), &FILE).unwrap();
    fs.write(orphan, 0, &[4; 9000]).unwrap();
    fs.sync().unwrap();
    fs.hold(orphan).unwrap();
    fs.unlink(Place::new(fs.root(), b"orphan")).unwrap();
    fs.sync().unwrap();
    // What is held is not deleted: the image keeps its orphan.
    let image = device.snapshot();
    drop(fs);
    image
}

/// What the checker finds, whether the filesystem can be opened or not. With next to no memory, and on one
/// thread, it finds the same.
pub fn findings(device: &MemDevice, data_csums: bool) -> Vec<Finding> {
    let device: Arc<dyn BlockDevice> = Arc::new(device.snapshot());
    match Volume::open(vec![device.clone()], OpenMode::ReadOnly) {
        Ok(volume) => {
            let options = Options { data_csums, devices: vec![device], ..Options::default() };
            let found = check(&volume, &options).findings;
            let tiny = Options { memory: 0, threads: NonZeroUsize::new(1), ..options };
            assert_eq!(check(&volume, &tiny).findings, found, "little memory changes what is found");
            found
        }
        Err(error) => vec![open_failure(&error).unwrap_or_else(|| panic!("not a finding: {error}"))],
    }
}

/// Numbers that are the same in every run.
pub struct Dice(pub u64);

impl Dice {
    /// A number below `sides`.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

/// A good filesystem, and how to break it.
pub struct Subject {
    /// The good filesystem.
    pub device: MemDevice,
    /// The same, opened.
    pub volume: Volume,
}

impl Default for Subject {
    fn default() -> Self {
        Self::new()
    }
}

impl Subject {
    /// Makes it.
    pub fn new() -> Self {
        let device = good();
        let volume = Volume::open(vec![Arc::new(device.snapshot())], OpenMode::ReadOnly).unwrap();
        Self { device, volume }
    }

    /// Where the root block of a tree is.
    pub fn root_of(&self, tree: TreeId) -> Logical {
        let sb = self.volume.superblock();
        match tree {
            TreeId::ROOT => sb.root(),
            TreeId::CHUNK => Logical(sb.chunk_root.get()),
            _ => {
                let leaves = self.blocks(sb.root());
                let roots = leaves.iter().filter(|block| block.is_leaf());
                let find = |leaf: &TreeBlock| {
                    let slot = (0..leaf.len())
                        .find(|slot| leaf.key(*slot).objectid == tree.0 && leaf.key(*slot).item_type == T::ROOT_ITEM)?;
                    Some(RootItem::parse(leaf.data(slot)).unwrap().bytenr())
                };
                roots.into_iter().find_map(find).unwrap_or_else(|| panic!("there is no tree {tree}"))
            }
        }
    }

    /// All blocks of a tree.
    pub fn blocks(&self, root: Logical) -> Vec<TreeBlock> {
        let block = self.volume.read_block(&Expected::at(root)).unwrap();
        let below: Vec<_> = (0..block.len())
            .filter(|_| !block.is_leaf())
            .flat_map(|slot| self.blocks(Logical(block.ptr(slot).blockptr.get())))
            .collect();
        [vec![block], below].concat()
    }

    /// The items of a tree that a row is about: leaf and slot. The first key of a leaf stands in its
    /// parent too, and changing it would be another fault.
    pub fn items(&self, row: &Row) -> Vec<(TreeBlock, usize)> {
        let leaves = self.blocks(self.root_of(row.tree)).into_iter().filter(TreeBlock::is_leaf);
        let root = self.root_of(row.tree);
        let first = |leaf: &TreeBlock| usize::from(leaf.bytenr() != root);
        let slots = leaves.flat_map(|leaf| (first(&leaf)..leaf.len()).map(move |slot| (leaf.clone(), slot)));
        let wanted = |(leaf, slot): &(TreeBlock, usize)| {
            let key = leaf.key(*slot);
            key.item_type == row.item_type && (row.pick)(&key, leaf.data(*slot))
        };
        slots.filter(wanted).collect()
    }

    /// Where the copies of an address are on the device.
    pub fn places(&self, at: Logical) -> Vec<u64> {
        let (start, chunk) = self.volume.chunk_containing(at).unwrap();
        chunk.stripes.iter().map(|s| s.offset.get() + (at.0 - start.0)).collect()
    }

    /// Writes a block to all copies of an address, with the right checksum.
    pub fn with_block(&self, at: Logical, block: &TreeBlock) -> MemDevice {
        let device = self.device.snapshot();
        self.put_block(&device, at, block);
        device
    }

    /// The same on a device that is broken already.
    pub fn put_block(&self, device: &MemDevice, at: Logical, block: &TreeBlock) {
        let mut block = block.clone();
        block.header_mut().csum = self.volume.geometry().csum_type.compute_block(block.bytes());
        self.places(at).iter().for_each(|place| device.write_at(*place, block.bytes()).unwrap());
    }

    /// A copy of the device with these bytes in some places.
    pub fn with_bytes(&self, places: &[u64], bytes: &[u8]) -> MemDevice {
        let device = self.device.snapshot();
        places.iter().for_each(|place| device.write_at(*place, bytes).unwrap());
        device
    }
}

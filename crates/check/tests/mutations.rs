//! Single faults in a good filesystem: each is found, and called by its name.
//!
//! A table says which field of which item is broken and what the finding must be called; each row is
//! tried on several items that a seed picks. Blocks are sealed again, so that only the fault itself can
//! give it away. Other tables have lost, stale and misdirected blocks, and the superblock.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::num::NonZeroUsize;
use std::sync::Arc;

use butterfs_check::{Finding, Kind, Options, check, open_failure};
use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::file::SizeMode;
use butterfs_engine::filesystem::{Access, Filesystem, NewInode, NewKind, NewSubvolume, OpenOptions};
use butterfs_engine::inode::InodeId;
use butterfs_engine::inode::xattr::{Xattr, XattrMode};
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_format::items::RootItem;
use butterfs_format::superblock::SUPERBLOCK_OFFSETS;
use butterfs_format::validate::Expected;
use butterfs_format::{Generation, ItemType as T, Key, Logical, Superblock, TreeBlock, TreeId};
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

const SIZE: u64 = 300 << 20;
/// How many items each row of a table is tried on.
const TRIES: usize = 3;

/// A filesystem with every kind of item the engine writes, and more than one leaf.
fn good() -> MemDevice {
    const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 1, gid: 2 };
    const DIR: NewInode<'static> = NewInode { kind: NewKind::Directory, permissions: 0o755, uid: 1, gid: 2 };
    const SUBVOLUME: NewSubvolume = NewSubvolume { permissions: 0o755, uid: 0, gid: 0 };
    let device = Arc::new(MemDevice::new(SIZE));
    mkfs::make(device.clone(), &MakeOptions::new(SIZE, &SystemEnvironment)).unwrap();
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadWrite).unwrap();
    let fs = Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap();
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
fn findings(device: &MemDevice, data_csums: bool) -> Vec<Finding> {
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
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

/// A good filesystem, and how to break it.
struct Subject {
    device: MemDevice,
    volume: Volume,
}

impl Subject {
    fn new() -> Self {
        let device = good();
        let volume = Volume::open(vec![Arc::new(device.snapshot())], OpenMode::ReadOnly).unwrap();
        Self { device, volume }
    }

    fn root_of(&self, tree: TreeId) -> Logical {
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
    fn blocks(&self, root: Logical) -> Vec<TreeBlock> {
        let block = self.volume.read_block(&Expected::at(root)).unwrap();
        let below: Vec<_> = (0..block.len())
            .filter(|_| !block.is_leaf())
            .flat_map(|slot| self.blocks(Logical(block.ptr(slot).blockptr.get())))
            .collect();
        [vec![block], below].concat()
    }

    /// The items of a tree that a row is about: leaf and slot. The first key of a leaf stands in its
    /// parent too, and changing it would be another fault.
    fn items(&self, row: &Row) -> Vec<(TreeBlock, usize)> {
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

    fn places(&self, at: Logical) -> Vec<u64> {
        let (start, chunk) = self.volume.chunk_containing(at).unwrap();
        chunk.stripes.iter().map(|s| s.offset.get() + (at.0 - start.0)).collect()
    }

    /// Writes a block to all copies of an address, with the right checksum.
    fn with_block(&self, at: Logical, block: &TreeBlock) -> MemDevice {
        let mut block = block.clone();
        block.header_mut().csum = self.volume.geometry().csum_type.compute_block(block.bytes());
        self.with_bytes(&self.places(at), block.bytes())
    }

    fn with_bytes(&self, places: &[u64], bytes: &[u8]) -> MemDevice {
        let device = self.device.snapshot();
        places.iter().for_each(|place| device.write_at(*place, bytes).unwrap());
        device
    }
}

type Pick = fn(&Key, &[u8]) -> bool;
type Change = fn(&mut TreeBlock, usize);

/// One kind of fault.
struct Row {
    name: &'static str,
    expect: Kind,
    tree: TreeId,
    item_type: T,
    pick: Pick,
    change: Change,
}

const fn row(name: &'static str, expect: Kind, tree: TreeId, item_type: T, pick: Pick, change: Change) -> Row {
    Row { name, expect, tree, item_type, pick, change }
}

fn field<const N: usize>(leaf: &mut TreeBlock, slot: usize, at: usize) -> &mut [u8; N] {
    leaf.data_mut(slot)[at..].first_chunk_mut().unwrap()
}

fn add64(leaf: &mut TreeBlock, slot: usize, at: usize, by: i64) {
    let field = field::<8>(leaf, slot, at);
    *field = u64::from_le_bytes(*field).wrapping_add_signed(by).to_le_bytes();
}

fn add32(leaf: &mut TreeBlock, slot: usize, at: usize, by: i32) {
    let field = field::<4>(leaf, slot, at);
    *field = u32::from_le_bytes(*field).wrapping_add_signed(by).to_le_bytes();
}

fn set8(leaf: &mut TreeBlock, slot: usize, at: usize, value: u8) {
    leaf.data_mut(slot)[at] = value;
}

fn flip_last(leaf: &mut TreeBlock, slot: usize) {
    *leaf.data_mut(slot).last_mut().unwrap() ^= 1;
}

fn remove(leaf: &mut TreeBlock, slot: usize) {
    leaf.remove_items(slot..slot + 1);
}

fn move_offset(leaf: &mut TreeBlock, slot: usize, by: i64) {
    let key = leaf.key(slot);
    leaf.set_item_key(slot, Key { offset: key.offset.wrapping_add_signed(by), ..key });
}

fn get64(data: &[u8], at: usize) -> u64 {
    data.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn get32(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*data[at..].first_chunk().unwrap())
}

const ANY: Pick = |_, _| true;
/// Far from what any field holds.
const FAR: i64 = 1 << 40;
const FS: TreeId = TreeId::FS;
const SUB: TreeId = TreeId(256);
const IS_FILE: Pick = |_, d| get32(d, 52) & 0o170_000 == 0o100_000 && get32(d, 40) == 1;
const HAS_EXTENTS: Pick = |_, d| get32(d, 52) & 0o170_000 == 0o100_000 && get32(d, 40) == 1 && get64(d, 16) == 20_000;
const IS_DIR: Pick = |_, d| get32(d, 52) & 0o170_000 == 0o040_000 && get64(d, 16) > 0;
const IS_SYMLINK: Pick = |_, d| get32(d, 52) & 0o170_000 == 0o120_000;
const REGULAR: Pick = |_, d| d[20] == 1 && get64(d, 21) > 0;
const PREALLOC: Pick = |_, d| d[20] == 2;
const INLINE: Pick = |_, d| d[20] == 0;
const OF_SUBVOLUME: Pick = |k, _| k.objectid >= 256 && k.objectid < 1 << 32;
const OF_RELOCATION: Pick = |k, _| k.objectid == TreeId::DATA_RELOC.0;
const TO_FILE: Pick = |_, d| d[8] == T::INODE_ITEM.0 && d[29] == 1;
const ONE_REF: Pick = |_, d| d.len() == 24 + 29 && d[24] == T::EXTENT_DATA_REF.0;
const OWN_BLOCK: Pick = |_, d| d.len() == 24 + 9 && d[24] == T::TREE_BLOCK_REF.0;
const USED_GROUP: Pick = |_, d| get64(d, 0) > 0;

/// Inodes and what hangs on them.
const INODES: &[Row] = &[
    row("inode generation", Kind::InodeGeneration, FS, T::INODE_ITEM, ANY, |l, s| add64(l, s, 0, FAR)),
    row("inode transid", Kind::InodeGeneration, FS, T::INODE_ITEM, ANY, |l, s| add64(l, s, 8, FAR)),
    row("directory size", Kind::InodeSize, FS, T::INODE_ITEM, IS_DIR, |l, s| add64(l, s, 16, 2)),
    row("symlink size", Kind::InodeSize, FS, T::INODE_ITEM, IS_SYMLINK, |l, s| add64(l, s, 16, -1)),
    row("inode bytes", Kind::InodeBytes, FS, T::INODE_ITEM, HAS_EXTENTS, |l, s| add64(l, s, 24, 4096)),
    row("inode bytes 2", Kind::InodeBytes, SUB, T::INODE_ITEM, HAS_EXTENTS, |l, s| add64(l, s, 24, -4096)),
    row("link count up", Kind::LinkCount, FS, T::INODE_ITEM, IS_FILE, |l, s| add32(l, s, 40, 1)),
    row("link count zero", Kind::LinkCount, FS, T::INODE_ITEM, IS_FILE, |l, s| add32(l, s, 40, -1)),
    row("directory links", Kind::LinkCount, FS, T::INODE_ITEM, IS_DIR, |l, s| add32(l, s, 40, 1)),
    row("no file type", Kind::InodeMode, FS, T::INODE_ITEM, IS_FILE, |l, s| *field(l, s, 52) = 0o644u32.to_le_bytes()),
    row("another file type", Kind::DirectoryEntry, FS, T::INODE_ITEM, IS_FILE, |l, s| {
        *field(l, s, 52) = 0o010_644u32.to_le_bytes();
    }),
    row("unknown inode flag", Kind::InodeFlags, FS, T::INODE_ITEM, ANY, |l, s| set8(l, s, 66, 1)),
    row("nodatasum with checksums", Kind::Checksum, FS, T::INODE_ITEM, HAS_EXTENTS, |l, s| l.data_mut(s)[64] |= 1),
    row("inode item lost", Kind::MissingInode, FS, T::INODE_ITEM, IS_FILE, remove),
    row("inode ref index", Kind::DirectoryEntry, FS, T::INODE_REF, |k, _| k.objectid > 256, |l, s| add64(l, s, 0, 1)),
    row("inode ref name", Kind::DirectoryEntry, FS, T::INODE_REF, |k, _| k.objectid > 256, flip_last),
    row("inode ref length", Kind::InodeRef, FS, T::INODE_REF, ANY, |l, s| set8(l, s, 9, 0xff)),
    row(
        "inode ref parent",
        Kind::DirectoryEntry,
        FS,
        T::INODE_REF,
        |k, _| k.objectid > 300,
        |l, s| move_offset(l, s, 1),
    ),
    row("inode ref lost", Kind::LinkCount, FS, T::INODE_REF, |k, _| k.objectid > 256, remove),
    row("inode extref parent", Kind::InodeRef, FS, T::INODE_EXTREF, ANY, |l, s| add64(l, s, 0, 1)),
    row("inode extref index", Kind::DirectoryEntry, FS, T::INODE_EXTREF, ANY, |l, s| add64(l, s, 8, 1)),
    row("inode extref lost", Kind::LinkCount, FS, T::INODE_EXTREF, ANY, remove),
    row("dir item name", Kind::DirectoryEntry, FS, T::DIR_ITEM, ANY, flip_last),
    row("dir item target", Kind::DirectoryEntry, FS, T::DIR_ITEM, TO_FILE, |l, s| add64(l, s, 0, 1)),
    row("dir item type", Kind::DirectoryEntry, FS, T::DIR_ITEM, TO_FILE, |l, s| set8(l, s, 29, 2)),
    row("dir item unknown type", Kind::DirectoryEntry, FS, T::DIR_ITEM, ANY, |l, s| set8(l, s, 29, 77)),
    row("dir item lost", Kind::DirectoryEntry, FS, T::DIR_ITEM, ANY, remove),
    row("dir item twice", Kind::DuplicateName, FS, T::DIR_ITEM, ANY, |l, s| {
        let twice = [l.data(s), l.data(s)].concat();
        l.resize_item(s, twice.len());
        l.data_mut(s).copy_from_slice(&twice);
    }),
    row("dir index name", Kind::DirectoryEntry, FS, T::DIR_INDEX, ANY, flip_last),
    row("dir index target", Kind::MissingInode, FS, T::DIR_INDEX, TO_FILE, |l, s| add64(l, s, 0, FAR)),
    row("dir index type", Kind::DirectoryEntry, FS, T::DIR_INDEX, TO_FILE, |l, s| set8(l, s, 29, 7)),
    row("dir index lost", Kind::DirectoryEntry, FS, T::DIR_INDEX, ANY, remove),
    row("xattr name", Kind::Xattr, FS, T::XATTR_ITEM, ANY, |l, s| set8(l, s, 30, b'U')),
    row("xattr location", Kind::Xattr, FS, T::XATTR_ITEM, ANY, |l, s| add64(l, s, 0, 1)),
    row("xattr length", Kind::Xattr, FS, T::XATTR_ITEM, ANY, |l, s| set8(l, s, 26, 0xff)),
    row("orphan item lost", Kind::Orphan, FS, T::ORPHAN_ITEM, ANY, remove),
    row("unknown key", Kind::UnknownKey, FS, T::ORPHAN_ITEM, ANY, |l, s| {
        l.set_item_key(s, Key { item_type: T(50), ..l.key(s) });
    }),
];

/// File extents and checksums.
const EXTENTS_OF_FILES: &[Row] = &[
    row("file extent generation", Kind::FileExtent, FS, T::EXTENT_DATA, ANY, |l, s| add64(l, s, 0, FAR)),
    row("file extent ram bytes", Kind::FileExtent, FS, T::EXTENT_DATA, REGULAR, |l, s| add64(l, s, 8, 1)),
    row("file extent ram bytes short", Kind::FileExtent, FS, T::EXTENT_DATA, REGULAR, |l, s| add64(l, s, 8, -4096)),
    row("preallocated ram bytes short", Kind::FileExtent, FS, T::EXTENT_DATA, PREALLOC, |l, s| add64(l, s, 8, -4096)),
    row("inline ram bytes short", Kind::FileExtent, FS, T::EXTENT_DATA, INLINE, |l, s| add64(l, s, 8, -1)),
    row("file extent compression", Kind::FileExtent, FS, T::EXTENT_DATA, ANY, |l, s| set8(l, s, 16, 9)),
    row("file extent encryption", Kind::FileExtent, FS, T::EXTENT_DATA, ANY, |l, s| set8(l, s, 17, 1)),
    row("file extent kind", Kind::FileExtent, FS, T::EXTENT_DATA, REGULAR, |l, s| set8(l, s, 20, 5)),
    row("file extent elsewhere", Kind::MissingExtent, FS, T::EXTENT_DATA, REGULAR, |l, s| add64(l, s, 21, 200 << 20)),
    row("file extent unaligned", Kind::FileExtent, FS, T::EXTENT_DATA, REGULAR, |l, s| add64(l, s, 21, 1)),
    row("file extent disk bytes", Kind::Extent, FS, T::EXTENT_DATA, REGULAR, |l, s| add64(l, s, 29, 4096)),
    row(
        "file extent offset",
        Kind::FileExtent,
        FS,
        T::EXTENT_DATA,
        |k, d| REGULAR(k, d) && get64(d, 37) == 0,
        |l, s| {
            add64(l, s, 37, 4096);
        },
    ),
    row(
        "file extent longer",
        Kind::FileExtent,
        FS,
        T::EXTENT_DATA,
        |k, d| REGULAR(k, d) && k.offset == 0,
        |l, s| {
            add64(l, s, 45, 4 << 20);
        },
    ),
    row("file extent shorter", Kind::InodeBytes, FS, T::EXTENT_DATA, REGULAR, |l, s| add64(l, s, 45, -4096)),
    row(
        "file extent taken as preallocated",
        Kind::Checksum,
        FS,
        T::EXTENT_DATA,
        |_, d| get64(d, 29) == 20480,
        |l, s| {
            set8(l, s, 20, 2);
        },
    ),
    row("file extent taken as written", Kind::Checksum, FS, T::EXTENT_DATA, PREALLOC, |l, s| set8(l, s, 20, 1)),
    row("file extent lost", Kind::BackReference, FS, T::EXTENT_DATA, REGULAR, remove),
    row("inline extent length", Kind::FileExtent, FS, T::EXTENT_DATA, INLINE, |l, s| add64(l, s, 8, 1)),
    row("inline extent lost", Kind::InodeBytes, FS, T::EXTENT_DATA, |k, d| INLINE(k, d) && d.len() > 100, remove),
    row("checksums lost", Kind::Checksum, TreeId::CSUM, T::EXTENT_CSUM, ANY, remove),
    row(
        "checksums fewer",
        Kind::Checksum,
        TreeId::CSUM,
        T::EXTENT_CSUM,
        |_, d| d.len() > 4,
        |l, s| {
            l.resize_item(s, l.data(s).len() - 4);
        },
    ),
    row("checksums torn", Kind::Checksum, TreeId::CSUM, T::EXTENT_CSUM, ANY, |l, s| {
        l.resize_item(s, l.data(s).len() - 1)
    }),
    row("checksums of nothing", Kind::Checksum, TreeId::CSUM, T::EXTENT_CSUM, ANY, |l, _| {
        let last = l.key(l.len() - 1);
        l.insert_item(l.len(), &Key { offset: last.offset + (64 << 20), ..last }, &[1; 4]);
    }),
];

/// The root tree and the UUID tree.
const ROOTS: &[Row] = &[
    row("root generation", Kind::TreeBlock, TreeId::ROOT, T::ROOT_ITEM, ANY, |l, s| add64(l, s, 160, -1)),
    row("root directory", Kind::RootItem, TreeId::ROOT, T::ROOT_ITEM, OF_SUBVOLUME, |l, s| add64(l, s, 168, 1)),
    row("root unaligned", Kind::RootItem, TreeId::ROOT, T::ROOT_ITEM, ANY, |l, s| add64(l, s, 176, 1)),
    row("root elsewhere", Kind::TreeBlock, TreeId::ROOT, T::ROOT_ITEM, ANY, |l, s| add64(l, s, 176, FAR)),
    row("root level beyond", Kind::RootItem, TreeId::ROOT, T::ROOT_ITEM, ANY, |l, s| set8(l, s, 238, 8)),
    row("root last snapshot", Kind::RootItem, TreeId::ROOT, T::ROOT_ITEM, ANY, |l, s| add64(l, s, 200, FAR)),
    row("root drop progress", Kind::RootItem, TreeId::ROOT, T::ROOT_ITEM, OF_SUBVOLUME, |l, s| add64(l, s, 220, 256)),
    row("root offset", Kind::RootItem, TreeId::ROOT, T::ROOT_ITEM, |k, _| k.objectid < 12, |l, s| move_offset(l, s, 1)),
    row("relocation root directory", Kind::RootItem, TreeId::ROOT, T::ROOT_ITEM, OF_RELOCATION, |l, s| {
        add64(l, s, 168, 1)
    }),
    row("relocation references", Kind::RootItem, TreeId::ROOT, T::ROOT_ITEM, OF_RELOCATION, |l, s| set8(l, s, 216, 0)),
    row("relocation links", Kind::LinkCount, TreeId::DATA_RELOC, T::INODE_ITEM, ANY, |l, s| add32(l, s, 40, 1)),
    row("relocation without links", Kind::LinkCount, TreeId::DATA_RELOC, T::INODE_ITEM, ANY, |l, s| {
        add32(l, s, 40, -1)
    }),
    row("relocation size", Kind::InodeSize, TreeId::DATA_RELOC, T::INODE_ITEM, ANY, |l, s| add64(l, s, 16, 2)),
    row("relocation mode", Kind::MissingInode, TreeId::DATA_RELOC, T::INODE_ITEM, ANY, |l, s| {
        *field(l, s, 52) = 0o100_644u32.to_le_bytes();
    }),
    row("relocation transid", Kind::InodeGeneration, TreeId::DATA_RELOC, T::INODE_ITEM, ANY, |l, s| {
        add64(l, s, 8, FAR)
    }),
    row("root flags", Kind::RootItem, TreeId::ROOT, T::ROOT_ITEM, ANY, |l, s| set8(l, s, 209, 1)),
    row("root without references", Kind::Orphan, TreeId::ROOT, T::ROOT_ITEM, OF_SUBVOLUME, |l, s| set8(l, s, 216, 0)),
    row("root references", Kind::Subvolume, TreeId::ROOT, T::ROOT_ITEM, OF_SUBVOLUME, |l, s| set8(l, s, 216, 2)),
    row("root drop level", Kind::RootItem, TreeId::ROOT, T::ROOT_ITEM, ANY, |l, s| set8(l, s, 237, 9)),
    row("root level", Kind::TreeBlock, TreeId::ROOT, T::ROOT_ITEM, ANY, |l, s| l.data_mut(s)[238] += 1),
    row("root UUID", Kind::UuidTree, TreeId::ROOT, T::ROOT_ITEM, OF_SUBVOLUME, |l, s| l.data_mut(s)[250] ^= 1),
    row("root lost", Kind::MissingTree, TreeId::ROOT, T::ROOT_ITEM, |k, _| [2, 4, 5, 7].contains(&k.objectid), remove),
    row("subvolume lost", Kind::Subvolume, TreeId::ROOT, T::ROOT_ITEM, OF_SUBVOLUME, remove),
    row("root ref directory", Kind::Subvolume, TreeId::ROOT, T::ROOT_REF, ANY, |l, s| add64(l, s, 0, 1)),
    row("root ref index", Kind::Subvolume, TreeId::ROOT, T::ROOT_REF, ANY, |l, s| add64(l, s, 8, 1)),
    row("root ref name", Kind::Subvolume, TreeId::ROOT, T::ROOT_REF, ANY, flip_last),
    row("root ref length", Kind::Subvolume, TreeId::ROOT, T::ROOT_REF, ANY, |l, s| set8(l, s, 16, 99)),
    row("root ref lost", Kind::Subvolume, TreeId::ROOT, T::ROOT_REF, ANY, remove),
    row("root backref index", Kind::Subvolume, TreeId::ROOT, T::ROOT_BACKREF, ANY, |l, s| add64(l, s, 8, 1)),
    row("root backref name", Kind::Subvolume, TreeId::ROOT, T::ROOT_BACKREF, ANY, flip_last),
    row("root backref lost", Kind::Subvolume, TreeId::ROOT, T::ROOT_BACKREF, ANY, remove),
    row("default subvolume", Kind::Subvolume, TreeId::ROOT, T::DIR_ITEM, ANY, |l, s| add64(l, s, 0, 1000)),
    row("UUID of another", Kind::UuidTree, TreeId::UUID, T::UUID_SUBVOL, ANY, |l, s| add64(l, s, 0, 100)),
    row("UUID torn", Kind::UuidTree, TreeId::UUID, T::UUID_SUBVOL, ANY, |l, s| l.resize_item(s, 7)),
    row("UUID lost", Kind::UuidTree, TreeId::UUID, T::UUID_SUBVOL, |_, d| get64(d, 0) != FS.0, remove),
];

/// Extents, block groups and free space.
const SPACE: &[Row] = &[
    row("data references", Kind::BackReference, TreeId::EXTENT, T::EXTENT_ITEM, ANY, |l, s| add64(l, s, 0, 1)),
    row("data generation", Kind::Extent, TreeId::EXTENT, T::EXTENT_ITEM, ANY, |l, s| add64(l, s, 8, FAR)),
    row("data flags", Kind::Extent, TreeId::EXTENT, T::EXTENT_ITEM, ANY, |l, s| set8(l, s, 16, 3)),
    row("data inline type", Kind::Extent, TreeId::EXTENT, T::EXTENT_ITEM, ONE_REF, |l, s| set8(l, s, 24, 3)),
    row("data of another tree", Kind::BackReference, TreeId::EXTENT, T::EXTENT_ITEM, ONE_REF, |l, s| {
        add64(l, s, 25, 1)
    }),
    row("data of another file", Kind::BackReference, TreeId::EXTENT, T::EXTENT_ITEM, ONE_REF, |l, s| {
        add64(l, s, 33, 1)
    }),
    row("data at another place", Kind::BackReference, TreeId::EXTENT, T::EXTENT_ITEM, ONE_REF, |l, s| {
        add64(l, s, 41, 4096);
    }),
    row("data counted twice", Kind::Extent, TreeId::EXTENT, T::EXTENT_ITEM, ONE_REF, |l, s| add32(l, s, 49, 1)),
    row("data counted never", Kind::Extent, TreeId::EXTENT, T::EXTENT_ITEM, ONE_REF, |l, s| add32(l, s, 49, -1)),
    row("data item lost", Kind::MissingExtent, TreeId::EXTENT, T::EXTENT_ITEM, ANY, remove),
    row(
        "data length",
        Kind::Extent,
        TreeId::EXTENT,
        T::EXTENT_ITEM,
        |k, _| k.offset > 4096,
        |l, s| {
            move_offset(l, s, -4096);
        },
    ),
    row("block references", Kind::BackReference, TreeId::EXTENT, T::METADATA_ITEM, ANY, |l, s| add64(l, s, 0, 1)),
    row("block generation", Kind::Extent, TreeId::EXTENT, T::METADATA_ITEM, ANY, |l, s| add64(l, s, 8, FAR)),
    row("block flags", Kind::Extent, TreeId::EXTENT, T::METADATA_ITEM, ANY, |l, s| set8(l, s, 16, 1)),
    row("block of another tree", Kind::BackReference, TreeId::EXTENT, T::METADATA_ITEM, OWN_BLOCK, |l, s| {
        add64(l, s, 25, 1);
    }),
    row("block of tree 0", Kind::Extent, TreeId::EXTENT, T::METADATA_ITEM, OWN_BLOCK, |l, s| *field(l, s, 25) = [0; 8]),
    row("block level", Kind::Extent, TreeId::EXTENT, T::METADATA_ITEM, ANY, |l, s| move_offset(l, s, 1)),
    row("block item lost", Kind::MissingExtent, TreeId::EXTENT, T::METADATA_ITEM, ANY, remove),
    row("group usage", Kind::Usage, TreeId::BLOCK_GROUP, T::BLOCK_GROUP_ITEM, USED_GROUP, |l, s| add64(l, s, 0, -4096)),
    row("group usage beyond", Kind::BlockGroup, TreeId::BLOCK_GROUP, T::BLOCK_GROUP_ITEM, ANY, |l, s| {
        add64(l, s, 0, FAR)
    }),
    row("group object", Kind::BlockGroup, TreeId::BLOCK_GROUP, T::BLOCK_GROUP_ITEM, ANY, |l, s| add64(l, s, 8, 1)),
    row("group type", Kind::BlockGroup, TreeId::BLOCK_GROUP, T::BLOCK_GROUP_ITEM, ANY, |l, s| l.data_mut(s)[16] ^= 7),
    row("group profile", Kind::BlockGroup, TreeId::BLOCK_GROUP, T::BLOCK_GROUP_ITEM, ANY, |l, s| {
        l.data_mut(s)[16] ^= 16
    }),
    row("group length", Kind::BlockGroup, TreeId::BLOCK_GROUP, T::BLOCK_GROUP_ITEM, ANY, |l, s| {
        move_offset(l, s, -65536);
    }),
    row("group lost", Kind::BlockGroup, TreeId::BLOCK_GROUP, T::BLOCK_GROUP_ITEM, ANY, remove),
    row("free space count", Kind::FreeSpace, TreeId::FREE_SPACE, T::FREE_SPACE_INFO, ANY, |l, s| add32(l, s, 0, 1)),
    row("free space form", Kind::FreeSpace, TreeId::FREE_SPACE, T::FREE_SPACE_INFO, ANY, |l, s| l.data_mut(s)[4] ^= 1),
    row("free space info lost", Kind::FreeSpace, TreeId::FREE_SPACE, T::FREE_SPACE_INFO, ANY, remove),
    row(
        "free space shorter",
        Kind::FreeSpace,
        TreeId::FREE_SPACE,
        T::FREE_SPACE_EXTENT,
        |k, _| k.offset > 4096,
        |l, s| {
            move_offset(l, s, -4096);
        },
    ),
    row("free space longer", Kind::FreeSpace, TreeId::FREE_SPACE, T::FREE_SPACE_EXTENT, ANY, |l, s| {
        move_offset(l, s, 4096);
    }),
    row("free space lost", Kind::FreeSpace, TreeId::FREE_SPACE, T::FREE_SPACE_EXTENT, ANY, remove),
];

/// Chunks and devices.
const DEVICES: &[Row] = &[
    row("device used", Kind::Device, TreeId::CHUNK, T::DEV_ITEM, ANY, |l, s| add64(l, s, 16, 1 << 20)),
    row("device used beyond", Kind::Device, TreeId::CHUNK, T::DEV_ITEM, ANY, |l, s| add64(l, s, 16, FAR)),
    row("device size", Kind::Device, TreeId::CHUNK, T::DEV_ITEM, ANY, |l, s| add64(l, s, 8, 1 << 20)),
    row("device smaller", Kind::Device, TreeId::CHUNK, T::DEV_ITEM, ANY, |l, s| add64(l, s, 8, -4096)),
    row("device number", Kind::Device, TreeId::CHUNK, T::DEV_ITEM, ANY, |l, s| add64(l, s, 0, 1)),
    row("chunk length", Kind::Chunk, TreeId::CHUNK, T::CHUNK_ITEM, ANY, |l, s| add64(l, s, 0, -65536)),
    row("chunk stripe length", Kind::Chunk, TreeId::CHUNK, T::CHUNK_ITEM, ANY, |l, s| add64(l, s, 16, 1)),
    row("chunk type", Kind::Chunk, TreeId::CHUNK, T::CHUNK_ITEM, ANY, |l, s| set8(l, s, 24, 0)),
    row("chunk stripes", Kind::Chunk, TreeId::CHUNK, T::CHUNK_ITEM, ANY, |l, s| l.data_mut(s)[44] += 1),
    row(
        "chunk elsewhere",
        Kind::Chunk,
        TreeId::CHUNK,
        T::CHUNK_ITEM,
        |_, d| d[24] & 1 != 0,
        |l, s| {
            add64(l, s, 56, 65536);
        },
    ),
    row("chunk beyond", Kind::Chunk, TreeId::CHUNK, T::CHUNK_ITEM, |_, d| d[24] & 1 != 0, |l, s| add64(l, s, 56, FAR)),
    row("device extent tree", Kind::DeviceExtent, TreeId::DEV, T::DEV_EXTENT, ANY, |l, s| add64(l, s, 0, 1)),
    row("device extent object", Kind::DeviceExtent, TreeId::DEV, T::DEV_EXTENT, ANY, |l, s| add64(l, s, 8, 1)),
    row("device extent chunk", Kind::DeviceExtent, TreeId::DEV, T::DEV_EXTENT, ANY, |l, s| add64(l, s, 16, 4096)),
    row("device extent length", Kind::Chunk, TreeId::DEV, T::DEV_EXTENT, ANY, |l, s| add64(l, s, 24, -4096)),
    row("device extent unaligned", Kind::DeviceExtent, TreeId::DEV, T::DEV_EXTENT, ANY, |l, s| add64(l, s, 24, 1)),
    row("device extent lost", Kind::Chunk, TreeId::DEV, T::DEV_EXTENT, ANY, remove),
];

/// What is wrong with what was found, if anything: nothing of that name, or a block blamed for an item.
fn misnamed(expect: Kind, findings: &[Finding]) -> Option<String> {
    let all = || findings.iter().map(|f| format!("\n    {f}")).collect::<String>();
    if !findings.iter().any(|f| f.kind == expect) {
        return Some(format!("no {expect}:{}", all()));
    }
    let blames_block = |f: &&Finding| matches!(f.kind, Kind::TreeBlock | Kind::TreeBlockCopy | Kind::TreeStructure);
    let wrong = findings
        .iter()
        .find(blames_block)
        .filter(|f| !matches!(expect, Kind::TreeBlock | Kind::TreeBlockCopy) && f.kind != expect);
    wrong.map(|_| format!("a block is blamed, not {expect}:{}", all()))
}

#[test]
fn each_single_fault_is_found_and_named() {
    let subject = Subject::new();
    assert_eq!(findings(&subject.device, true), [], "the filesystem is good before");
    let (mut dice, mut tried, mut wrong) = (Dice(7), 0, Vec::new());
    for row in [INODES, EXTENTS_OF_FILES, ROOTS, SPACE, DEVICES].concat_rows() {
        let mut items = subject.items(row);
        assert!(!items.is_empty(), "{}: there is no such item", row.name);
        for _ in 0..TRIES.min(items.len()) {
            let (mut leaf, slot) = items.swap_remove(dice.roll(items.len()));
            let key = leaf.key(slot);
            (row.change)(&mut leaf, slot);
            let found = findings(&subject.with_block(leaf.bytenr(), &leaf), false);
            wrong.extend(misnamed(row.expect, &found).map(|problem| format!("{} of {key}: {problem}", row.name)));
            tried += 1;
        }
    }
    assert!(wrong.is_empty(), "{} of {tried} faults:\n{}", wrong.len(), wrong.join("\n"));
    assert!(tried >= 200, "only {tried} faults were tried");
}

/// Joins tables.
trait ConcatRows {
    fn concat_rows(&self) -> Vec<&'static Row>;
}

impl<const N: usize> ConcatRows for [&'static [Row]; N] {
    fn concat_rows(&self) -> Vec<&'static Row> {
        self.iter().flat_map(|rows| rows.iter()).collect()
    }
}

/// Trees whose blocks are lost, stale or misdirected; the chunk tree keeps a volume from opening.
const TREES: [TreeId; 10] = [
    TreeId::ROOT,
    TreeId::EXTENT,
    TreeId::CHUNK,
    TreeId::DEV,
    TreeId::FS,
    TreeId::CSUM,
    TreeId::UUID,
    TreeId::FREE_SPACE,
    TreeId::BLOCK_GROUP,
    SUB,
];

#[test]
fn lost_stale_and_misdirected_blocks_are_found() {
    type Break = fn(&mut TreeBlock);
    let breaks: [(&str, Break); 8] = [
        ("stale", |b| b.header_mut().generation = (b.generation().0 - 1).into()),
        ("from the future", |b| b.header_mut().generation = Generation(b.generation().0 + 1).0.into()),
        ("misdirected", |b| b.header_mut().bytenr = (b.bytenr().0 + 16384).into()),
        ("of another filesystem", |b| b.header_mut().fsid[0] ^= 1),
        ("of another level", |b| b.header_mut().level ^= 1),
        ("with too many items", |b| b.header_mut().nritems = 60_000.into()),
        ("without items", |b| b.header_mut().nritems = 0.into()),
        ("with another first key", |b| b.bytes_mut()[101 + 16] ^= 0x40),
    ];
    let subject = Subject::new();
    let mut dice = Dice(3);
    for tree in TREES {
        let blocks = subject.blocks(subject.root_of(tree));
        let block = &blocks[dice.roll(blocks.len())];
        let places = subject.places(block.bytenr());
        let zeros = vec![0; block.bytes().len()];
        let lost = findings(&subject.with_bytes(&places, &zeros), false);
        assert_eq!(misnamed(Kind::TreeBlock, &lost), None, "tree {tree}: lost in all copies");
        let flipped = findings(&subject.with_bytes(&places.iter().map(|p| p + 3000).collect::<Vec<_>>(), b"?!"), false);
        assert_eq!(misnamed(Kind::TreeBlock, &flipped), None, "tree {tree}: wrong checksum");
        let one = findings(&subject.with_bytes(&places[..1], &zeros), false);
        assert_eq!(misnamed(Kind::TreeBlockCopy, &one), None, "tree {tree}: lost in one copy");
        for (name, change) in &breaks[..6] {
            let mut broken = block.clone();
            change(&mut broken);
            let found = findings(&subject.with_block(block.bytenr(), &broken), false);
            assert_eq!(misnamed(Kind::TreeBlock, &found), None, "tree {tree}: block {name}");
        }
    }
    // These two need a block with a parent.
    let parents = subject.blocks(subject.root_of(TreeId::FS));
    for block in parents.iter().filter(|block| block.is_leaf()).take(3) {
        for (name, change) in &breaks[6..] {
            let mut broken = block.clone();
            change(&mut broken);
            let found = findings(&subject.with_block(block.bytenr(), &broken), false);
            assert!(found.iter().any(|f| matches!(f.kind, Kind::TreeBlock | Kind::TreeStructure)), "{name}: {found:?}");
        }
    }
}

#[test]
fn wrong_pointers_are_found() {
    type Break = fn(&mut TreeBlock, usize);
    let breaks: [(&str, Break); 4] = [
        ("address", |b, s| b.bytes_mut()[101 + 33 * s + 17 + 1] ^= 0x40),
        ("generation", |b, s| b.bytes_mut()[101 + 33 * s + 25] ^= 1),
        ("unaligned address", |b, s| b.bytes_mut()[101 + 33 * s + 17] ^= 1),
        ("key", |b, s| b.bytes_mut()[101 + 33 * s + 9] ^= 1),
    ];
    let subject = Subject::new();
    let mut tried = 0;
    for tree in [TreeId::FS, SUB] {
        let node = subject.volume.read_block(&Expected::at(subject.root_of(tree))).unwrap();
        assert!(!node.is_leaf(), "the population fills more than a leaf");
        for slot in 0..node.len().min(3) {
            for (name, change) in breaks {
                let mut broken = node.clone();
                change(&mut broken, slot);
                let found = findings(&subject.with_block(node.bytenr(), &broken), false);
                assert_eq!(misnamed(Kind::TreeBlock, &found), None, "tree {tree} slot {slot}: {name}");
                tried += 1;
            }
        }
    }
    assert!(tried >= 12);
}

#[test]
fn faults_of_superblocks_are_found() {
    type Break = fn(&mut Superblock);
    let breaks: [(Kind, Break); 16] = [
        (Kind::Usage, |sb| sb.bytes_used = (sb.bytes_used.get() + 4096).into()),
        (Kind::Device, |sb| sb.total_bytes = (sb.total_bytes.get() + 4096).into()),
        (Kind::Device, |sb| sb.total_bytes = (sb.total_bytes.get() - 4096).into()),
        (Kind::Device, |sb| sb.num_devices = 8.into()),
        (Kind::Superblock, |sb| sb.root_dir_objectid = 7.into()),
        (Kind::Superblock, |sb| sb.nodesize = 12288.into()),
        (Kind::Superblock, |sb| sb.flags = (1u64 << 38).into()),
        (Kind::Superblock, |sb| sb.flags = (1u64 << 60).into()),
        (Kind::TreeBlock, |sb| sb.generation = (sb.generation.get() + 1).into()),
        (Kind::TreeBlock, |sb| sb.root = (sb.root.get() + 16384).into()),
        (Kind::TreeBlock, |sb| sb.root_level += 1),
        (Kind::TreeBlock, |sb| sb.chunk_root_generation = (sb.chunk_root_generation.get() - 1).into()),
        (Kind::TreeBlock, |sb| sb.log_root = (200u64 << 20).into()),
        (Kind::Chunk, |sb| sb.sys_chunk_array[17] ^= 1),
        (Kind::Unsupported, |sb| sb.incompat_flags = (sb.incompat_flags.get() | 1 << 50).into()),
        (Kind::Unsupported, |sb| sb.compat_ro_flags = (sb.compat_ro_flags.get() | 1 << 50).into()),
    ];
    let subject = Subject::new();
    let places: Vec<u64> = SUPERBLOCK_OFFSETS.into_iter().filter(|at| at + 4096 <= SIZE).collect();
    for (index, (kind, change)) in breaks.into_iter().enumerate() {
        let mut sb = subject.volume.superblock();
        change(&mut sb);
        let device = subject.device.snapshot();
        places.iter().for_each(|at| device.write_at(*at, &sb.to_bytes_at(*at)).unwrap());
        let found = findings(&device, false);
        assert!(found.iter().any(|f| f.kind == kind), "{index}: no {kind}: {found:?}");
    }
}

#[test]
fn faults_of_superblock_copies_and_data_are_found() {
    let subject = Subject::new();
    let copy = SUPERBLOCK_OFFSETS[1];
    let torn = findings(&subject.with_bytes(&[copy + 600], &[0xff; 16]), false);
    assert_eq!(misnamed(Kind::Superblock, &torn), None);
    for change in [|sb: &mut Superblock| sb.generation = 1.into(), |sb: &mut Superblock| sb.bytes_used = 4096.into()] {
        let mut sb = subject.volume.superblock();
        change(&mut sb);
        let other = findings(&subject.with_bytes(&[copy], &sb.to_bytes_at(copy)), false);
        assert_eq!(misnamed(Kind::SuperblockMirror, &other), None);
    }
    let sums = Row { tree: TreeId::CSUM, item_type: T::EXTENT_CSUM, pick: ANY, ..INODES[0] };
    let (leaf, slot) = subject.items(&sums).swap_remove(0);
    let data = subject.places(Logical(leaf.key(slot).offset));
    let device = subject.with_bytes(&data, b"not what was written");
    assert_eq!(findings(&device, false), []);
    assert_eq!(misnamed(Kind::DataChecksum, &findings(&device, true)), None);
}

/// The flags of a header, and whose block it says to be: neither has anything to do with what it holds.
#[test]
fn faults_of_headers_are_found() {
    type Break = fn(&mut TreeBlock);
    let breaks: [(&str, Kind, Break); 4] = [
        ("revision", Kind::BlockFlags, |b| b.bytes_mut()[63] ^= 1),
        ("revision of nobody", Kind::BlockFlags, |b| b.bytes_mut()[63] = 0x5a),
        ("unknown flag", Kind::BlockFlags, |b| b.bytes_mut()[57] = 4),
        ("chunk tree", Kind::BlockFlags, |b| b.bytes_mut()[64] ^= 1),
    ];
    let subject = Subject::new();
    for tree in TREES {
        for block in subject.blocks(subject.root_of(tree)).into_iter().take(3) {
            for (name, kind, change) in &breaks {
                let mut broken = block.clone();
                change(&mut broken);
                let found = findings(&subject.with_block(block.bytenr(), &broken), false);
                // The UUID that the chunk tree's own root has is the right one.
                let is_right = *name == "chunk tree" && tree == TreeId::CHUNK && broken.bytenr() == block.bytenr();
                assert!(is_right || misnamed(*kind, &found).is_none(), "tree {tree}, {name}: {found:?}");
            }
        }
    }
    for tree in [FS, SUB] {
        for block in subject.blocks(subject.root_of(tree)) {
            let mut broken = block.clone();
            broken.header_mut().owner = 300.into();
            let found = findings(&subject.with_block(block.bytenr(), &broken), false);
            assert_eq!(misnamed(Kind::BackReference, &found), None, "owner of block {} in tree {tree}", block.bytenr());
        }
    }
}

/// A directory that is moved below itself has a name, an entry and the right size, and is out of reach.
#[test]
fn directories_in_a_circle_are_found() {
    const DIR: NewInode<'static> = NewInode { kind: NewKind::Directory, permissions: 0o755, uid: 1, gid: 2 };
    let device = Arc::new(MemDevice::new(SIZE));
    mkfs::make(device.clone(), &MakeOptions::new(SIZE, &SystemEnvironment)).unwrap();
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadWrite).unwrap();
    let fs = Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap();
    let outer = fs.create(Place::new(fs.root(), b"outer"), &DIR).unwrap();
    let inner = fs.create(Place::new(outer, b"inner"), &DIR).unwrap();
    fs.sync().unwrap();
    drop(fs);
    let volume = Volume::open(vec![Arc::new(device.snapshot())], OpenMode::ReadOnly).unwrap();
    let subject = Subject { device: device.snapshot(), volume };
    let (outer, inner) = (outer.ino.0, inner.ino.0);
    let root = subject.root_of(FS);
    let mut leaf = subject.volume.read_block(&Expected::at(root)).unwrap();
    assert!(leaf.is_leaf());
    // The entries of "outer" go from the root directory to "inner", and its name with them.
    for item_type in [T::DIR_ITEM, T::DIR_INDEX] {
        let slot =
            (0..leaf.len()).find(|s| leaf.key(*s).objectid == 256 && leaf.key(*s).item_type == item_type).unwrap();
        let (key, data) = (leaf.key(slot), leaf.data(slot).to_vec());
        leaf.remove_items(slot..slot + 1);
        let key = Key { objectid: inner, ..key };
        let at = leaf.search(&key).unwrap_err();
        leaf.insert_item(at, &key, &data);
    }
    for slot in 0..leaf.len() {
        let key = leaf.key(slot);
        match (key.objectid, key.item_type) {
            (256, T::INODE_ITEM) => add64(&mut leaf, slot, 16, -10),
            (ino, T::INODE_ITEM) if ino == inner => add64(&mut leaf, slot, 16, 10),
            (ino, T::INODE_REF) if ino == outer => leaf.set_item_key(slot, Key { offset: inner, ..key }),
            _ => {}
        }
    }
    let found = findings(&subject.with_block(root, &leaf), false);
    assert_eq!(found.iter().map(|f| f.kind).collect::<Vec<_>>(), [Kind::DirectoryLoop], "{found:?}");
}

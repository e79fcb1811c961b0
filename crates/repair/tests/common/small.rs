//! A small filesystem whose trees are single leaves, so that several items can be taken out, put in or changed at once:
//! the damage that images of old bugs have, seeded anew.

use std::sync::Arc;

use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Filesystem, NewInode, NewKind, NewSubvolume, OpenOptions};
use butterfs_engine::inode::InodeId;
use butterfs_engine::inode::xattr::{Xattr, XattrMode};
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_format::hash::name_hash;
use butterfs_format::items::{DirEntry, FileType, pack_dir_entry};
use butterfs_format::superblock::SUPERBLOCK_OFFSETS;
use butterfs_format::{ItemType as T, Key, Superblock, TreeBlock, TreeId};
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

use butterfs_testkit::damage::{SIZE, Subject};

/// A living subvolume, and one that waits to be deleted.
pub const SUB: TreeId = TreeId(256);
pub const GONE: TreeId = TreeId(257);
/// The top directory of each subvolume.
pub const TOP: u64 = 256;

/// `a/b/c/deep`, `a/more`, `plain` with attributes of one hash, `sub/inside`, and the deleted subvolume `gone`.
pub fn small() -> Subject {
    const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 1, gid: 2 };
    const DIR: NewInode<'static> = NewInode { kind: NewKind::Directory, permissions: 0o755, uid: 1, gid: 2 };
    const SUBVOLUME: NewSubvolume = NewSubvolume { permissions: 0o755, uid: 0, gid: 0 };
    let device = Arc::new(MemDevice::new(SIZE));
    mkfs::make(device.clone(), &MakeOptions::new(SIZE, &SystemEnvironment)).unwrap();
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadWrite).unwrap();
    let fs = Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap();
    let write = |dir, name: &[u8], len| {
        let id = fs.create(Place::new(dir, name), &FILE).unwrap();
        fs.write(id, 0, &vec![name[0]; len]).unwrap();
        id
    };
    let a = fs.create(Place::new(fs.root(), b"a"), &DIR).unwrap();
    let b = fs.create(Place::new(a, b"b"), &DIR).unwrap();
    let c = fs.create(Place::new(b, b"c"), &DIR).unwrap();
    write(c, b"deep", 10_000);
    write(a, b"more", 100);
    let plain = write(fs.root(), b"plain", 20_000);
    let (one, other) = same_hash();
    for (name, value) in [(&one, &b"one"[..]), (&other, b"the other")] {
        fs.set_xattr(plain, Xattr { name, value }, XattrMode::Any).unwrap();
    }
    for name in [&b"sub"[..], b"gone"] {
        let sub = fs.create_subvolume(Place::new(fs.root(), name), &SUBVOLUME).unwrap();
        write(InodeId::top_of(sub), b"inside", 5000);
    }
    fs.sync().unwrap();
    fs.delete_subvolume(Place::new(fs.root(), b"gone")).unwrap();
    fs.sync().unwrap();
    let image = device.snapshot();
    drop(fs);
    subject(image)
}

fn subject(device: MemDevice) -> Subject {
    let volume = Volume::open(vec![Arc::new(device.snapshot())], OpenMode::ReadOnly).unwrap();
    Subject { device, volume }
}

/// Two names of attributes that have one hash.
pub fn same_hash() -> (Vec<u8>, Vec<u8>) {
    let mut known = std::collections::HashMap::new();
    for number in 0u64.. {
        let name = format!("user.{number:x}").into_bytes();
        if let Some(other) = known.insert(name_hash(&name), name.clone()) {
            return (other, name);
        }
    }
    unreachable!("hashes have 32 bits")
}

/// A change of a leaf.
pub type Change<'a> = &'a dyn Fn(&mut TreeBlock);

/// The filesystem with a changed leaf in the place of a tree's only one, in all copies, behind a right checksum.
pub fn with_leaf(subject: &Subject, tree: TreeId, change: Change<'_>) -> Subject {
    let at = subject.root_of(tree);
    let [leaf] = &subject.blocks(at)[..] else { panic!("tree {tree} has more than one leaf") };
    let mut leaf = leaf.clone();
    change(&mut leaf);
    self::subject(subject.with_block(at, &leaf))
}

/// The filesystem with another superblock, in all copies.
pub fn with_superblock(subject: &Subject, change: impl Fn(&mut Superblock)) -> Subject {
    let mut sb = subject.volume.superblock();
    change(&mut sb);
    let device = subject.device.snapshot();
    let places = SUPERBLOCK_OFFSETS.into_iter().filter(|at| at + 4096 <= SIZE);
    places.for_each(|at| device.write_at(at, &sb.to_bytes_at(at)).unwrap());
    self::subject(device)
}

pub fn take(leaf: &mut TreeBlock, key: Key) -> Vec<u8> {
    let slot = leaf.search(&key).unwrap_or_else(|_| panic!("there is no item {key}"));
    let data = leaf.data(slot).to_vec();
    leaf.remove_items(slot..slot + 1);
    data
}

pub fn put(leaf: &mut TreeBlock, key: Key, data: &[u8]) {
    if leaf.search(&key).is_ok() {
        take(leaf, key);
    }
    let slot = leaf.search(&key).unwrap_err();
    leaf.insert_item(slot, &key, data);
}

/// Changes the bytes of an item.
pub fn change(leaf: &mut TreeBlock, key: Key, change: impl Fn(&mut Vec<u8>)) {
    let mut data = take(leaf, key);
    change(&mut data);
    put(leaf, key, &data);
}

/// The index of a name in its directory.
pub fn index_of(leaf: &TreeBlock, dir: u64, name: &[u8]) -> u64 {
    let keys =
        (0..leaf.len()).filter(|slot| (leaf.key(*slot).objectid, leaf.key(*slot).item_type) == (dir, T::DIR_INDEX));
    let mut of_name = keys.filter(|slot| leaf.data(*slot).ends_with(name));
    leaf.key(of_name.next().unwrap()).offset
}

/// The inode that a name leads to.
pub fn inode_of(leaf: &TreeBlock, dir: u64, name: &[u8]) -> u64 {
    let slot = leaf.search(&Key::new(dir, T::DIR_ITEM, name_hash(name))).unwrap();
    u64::from_le_bytes(*leaf.data(slot).first_chunk().unwrap())
}

/// Takes both entries of a name out of its directory.
pub fn take_entries(leaf: &mut TreeBlock, dir: u64, name: &[u8]) {
    let index = index_of(leaf, dir, name);
    take(leaf, Key::new(dir, T::DIR_ITEM, name_hash(name)));
    take(leaf, Key::new(dir, T::DIR_INDEX, index));
}

/// Puts both entries of a directory into another, and its reference.
pub fn put_entries(leaf: &mut TreeBlock, dir: u64, name: &[u8], ino: u64, index: u64) {
    let location = Key::new(ino, T::INODE_ITEM, 0);
    let mut data = Vec::new();
    pack_dir_entry(&DirEntry { location, transid: 7, file_type: FileType::Directory, name, value: b"" }, &mut data);
    put(leaf, Key::new(dir, T::DIR_ITEM, name_hash(name)), &data);
    put(leaf, Key::new(dir, T::DIR_INDEX, index), &data);
    let reference = [&index.to_le_bytes()[..], &(name.len() as u16).to_le_bytes(), name].concat();
    put(leaf, Key::new(ino, T::INODE_REF, dir), &reference);
}

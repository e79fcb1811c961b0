//! Tables of single faults: which field of which item is broken, and what the finding must be called.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use butterfs_check::Kind;
use butterfs_format::{ItemType as T, Key, TreeBlock, TreeId};

/// Which items a row is about.
pub type Pick = fn(&Key, &[u8]) -> bool;
/// What is broken in an item of a leaf.
pub type Change = fn(&mut TreeBlock, usize);

/// One kind of fault.
pub struct Row {
    /// What is broken, in words.
    pub name: &'static str,
    /// What the finding is called.
    pub expect: Kind,
    /// In which tree.
    pub tree: TreeId,
    /// Of which type the item is.
    pub item_type: T,
    /// Which of them.
    pub pick: Pick,
    /// How it is broken.
    pub change: Change,
}

/// A row.
pub const fn row(name: &'static str, expect: Kind, tree: TreeId, item_type: T, pick: Pick, change: Change) -> Row {
    Row { name, expect, tree, item_type, pick, change }
}

/// The bytes of an item at an offset.
pub fn field<const N: usize>(leaf: &mut TreeBlock, slot: usize, at: usize) -> &mut [u8; N] {
    leaf.data_mut(slot)[at..].first_chunk_mut().unwrap()
}

/// Adds to a number of 64 bits.
pub fn add64(leaf: &mut TreeBlock, slot: usize, at: usize, by: i64) {
    let field = field::<8>(leaf, slot, at);
    *field = u64::from_le_bytes(*field).wrapping_add_signed(by).to_le_bytes();
}

/// Adds to a number of 32 bits.
pub fn add32(leaf: &mut TreeBlock, slot: usize, at: usize, by: i32) {
    let field = field::<4>(leaf, slot, at);
    *field = u32::from_le_bytes(*field).wrapping_add_signed(by).to_le_bytes();
}

/// Sets a byte.
pub fn set8(leaf: &mut TreeBlock, slot: usize, at: usize, value: u8) {
    leaf.data_mut(slot)[at] = value;
}

/// Changes the last byte.
pub fn flip_last(leaf: &mut TreeBlock, slot: usize) {
    *leaf.data_mut(slot).last_mut().unwrap() ^= 1;
}

/// Removes an item.
pub fn remove(leaf: &mut TreeBlock, slot: usize) {
    leaf.remove_items(slot..slot + 1);
}

/// Changes the offset in a key.
pub fn move_offset(leaf: &mut TreeBlock, slot: usize, by: i64) {
    let key = leaf.key(slot);
    leaf.set_item_key(slot, Key { offset: key.offset.wrapping_add_signed(by), ..key });
}

/// A number of 64 bits, 0 past the end.
pub fn get64(data: &[u8], at: usize) -> u64 {
    data.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// A number of 32 bits.
pub fn get32(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*data[at..].first_chunk().unwrap())
}

/// Every item.
pub const ANY: Pick = |_, _| true;
/// Far from what any field holds.
pub const FAR: i64 = 1 << 40;
/// The top subvolume.
pub const FS: TreeId = TreeId::FS;
/// The first other subvolume.
pub const SUB: TreeId = TreeId(256);
/// A file with one name.
pub const IS_FILE: Pick = |_, d| get32(d, 52) & 0o170_000 == 0o100_000 && get32(d, 40) == 1;
/// A file whose data is in extents.
pub const HAS_EXTENTS: Pick =
    |_, d| get32(d, 52) & 0o170_000 == 0o100_000 && get32(d, 40) == 1 && get64(d, 16) == 20_000;
/// A directory that is not empty.
pub const IS_DIR: Pick = |_, d| get32(d, 52) & 0o170_000 == 0o040_000 && get64(d, 16) > 0;
/// A symbolic link.
pub const IS_SYMLINK: Pick = |_, d| get32(d, 52) & 0o170_000 == 0o120_000;
/// A regular file extent that is no hole.
pub const REGULAR: Pick = |_, d| d[20] == 1 && get64(d, 21) > 0;
/// A preallocated file extent.
pub const PREALLOC: Pick = |_, d| d[20] == 2;
/// An inline file extent.
pub const INLINE: Pick = |_, d| d[20] == 0;
/// A root item of a subvolume.
pub const OF_SUBVOLUME: Pick = |k, _| k.objectid >= 256 && k.objectid < 1 << 32;
/// The root item of the relocation tree.
pub const OF_RELOCATION: Pick = |k, _| k.objectid == TreeId::DATA_RELOC.0;
/// A directory item of a file.
pub const TO_FILE: Pick = |_, d| d[8] == T::INODE_ITEM.0 && d[29] == 1;
/// A data extent with one inline reference.
pub const ONE_REF: Pick = |_, d| d.len() == 24 + 29 && d[24] == T::EXTENT_DATA_REF.0;
/// A tree block of one tree.
pub const OWN_BLOCK: Pick = |_, d| d.len() == 24 + 9 && d[24] == T::TREE_BLOCK_REF.0;
/// A block group that is in use.
pub const USED_GROUP: Pick = |_, d| get64(d, 0) > 0;

/// Inodes and what hangs on them.
pub const INODES: &[Row] = &[
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
pub const EXTENTS_OF_FILES: &[Row] = &[
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
pub const ROOTS: &[Row] = &[
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
pub const SPACE: &[Row] = &[
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
pub const DEVICES: &[Row] = &[
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

/// Joins tables.
pub trait ConcatRows {
    /// All rows.
    fn concat_rows(&self) -> Vec<&'static Row>;
}

impl<const N: usize> ConcatRows for [&'static [Row]; N] {
    fn concat_rows(&self) -> Vec<&'static Row> {
        self.iter().flat_map(|rows| rows.iter()).collect()
    }
}

/// Trees whose blocks are lost, stale or misdirected; the chunk tree keeps a volume from opening.
pub const TREES: [TreeId; 10] = [
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

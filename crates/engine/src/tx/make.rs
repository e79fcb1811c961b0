//! A filesystem from nothing: the first chunks and trees, written by the first commit.

use std::sync::Arc;

use butterfs_format::hash::name_hash;
use butterfs_format::ids::objectid;
use butterfs_format::items::{
    BlockGroupFlags, DevItem, DirEntry, FileType, InodeItem, InodeRef, RootItem, Timespec, pack_dir_entry,
};
use butterfs_format::superblock::{CompatRo, HEADER_FLAG_WRITTEN, MAGIC};
use butterfs_format::{Generation, Ino, ItemType, Key, Logical, Superblock, TreeId};
use butterfs_volume::{BlockDevice, Volume, erase_superblocks};
use zerocopy::{FromZeros, IntoBytes};

use super::chunks::{DeviceSpace, chunk_key};
use super::make_options::MakeOptions;
use super::roots::Root;
use super::{Gate, Transaction};
use crate::error::{Error, Result};
use crate::tree::{TreeRoot, TreeWriter};

const MIB: u64 = 1 << 20;

/// A chunk of a new filesystem: logical address, type and profile, stripes, length.
struct FirstChunk {
    start: Logical,
    flags: BlockGroupFlags,
    offsets: Vec<u64>,
    len: u64,
}

/// Writes a new filesystem to a device, and makes it durable. Another that was there is made unknown first: after a cut
/// nobody takes what is left of it for a filesystem.
pub fn make(device: Arc<dyn BlockDevice>, options: &MakeOptions) -> Result<()> {
    let sb = first_superblock(options);
    let chunks = first_chunks(options)?;
    erase_superblocks(&*device)?;
    let volume = Arc::new(Volume::create(device, sb, options.chunk_tree_uuid));
    let mut tx = Transaction::empty(volume.clone(), sb, 16 << 20);
    tx.map_first_chunks(&chunks)?;
    tx.create_first_trees(options)?;
    tx.enter_first_chunks(&chunks)?;
    tx.fill_first_trees(options)?;
    Gate::around(volume, tx, super::GateSettings::default()).commit()
}

/// Where `mkfs.btrfs` puts the first chunks: data at 13 MiB, system and metadata after it.
fn first_chunks(options: &MakeOptions) -> Result<[FirstChunk; 3]> {
    let copies = if options.metadata_profile == BlockGroupFlags::DUP { 2 } else { 1 };
    let (data_at, small) = (13 * MIB, 8 * MIB);
    let system_at = data_at + small;
    let metadata_at = system_at + copies * small;
    let tenth = options.total_bytes / 10 / copies / 65536 * 65536;
    let largest = if options.total_bytes > 50 << 30 { 1 << 30 } else { 256 * MIB };
    let metadata_len = tenth.clamp(32 * MIB, largest);
    let chunk = |start: u64, flags, offset: u64, copies: u64, len: u64| FirstChunk {
        start: Logical(start),
        flags,
        offsets: (0..copies).map(|n| offset + n * len).collect(),
        len,
    };
    if metadata_at + copies * metadata_len > options.total_bytes {
        return Err(Error::NoSpace);
    }
    Ok([
        chunk(data_at, BlockGroupFlags::DATA, data_at, 1, small),
        chunk(system_at, BlockGroupFlags::SYSTEM | options.metadata_profile, system_at, copies, small),
        chunk(
            system_at + small,
            BlockGroupFlags::METADATA | options.metadata_profile,
            metadata_at,
            copies,
            metadata_len,
        ),
    ])
}

fn first_superblock(options: &MakeOptions) -> Superblock {
    let mut sb = Superblock::new_zeroed();
    sb.fsid = options.fsid;
    sb.flags = HEADER_FLAG_WRITTEN.into();
    sb.magic = MAGIC;
    sb.total_bytes = options.total_bytes.into();
    sb.root_dir_objectid = TreeId::ROOT_TREE_DIR.0.into();
    sb.num_devices = 1.into();
    sb.sectorsize = options.sectorsize.into();
    sb.nodesize = options.nodesize.into();
    sb.leafsize = options.nodesize.into();
    sb.stripesize = options.sectorsize.into();
    sb.compat_ro_flags = options.compat_ro.bits().into();
    sb.incompat_flags = options.incompat.bits().into();
    sb.csum_type = (options.csum_type as u16).into();
    sb.dev_item = DevItem {
        devid: 1.into(),
        total_bytes: options.total_bytes.into(),
        bytes_used: 0.into(),
        io_align: options.sectorsize.into(),
        io_width: options.sectorsize.into(),
        sector_size: options.sectorsize.into(),
        uuid: options.device_uuid,
        fsid: options.fsid,
        ..DevItem::new_zeroed()
    };
    sb.label[..options.label.len()].copy_from_slice(&options.label);
    sb
}

impl Transaction {
    /// The chunks are usable, though no tree knows of them yet.
    fn map_first_chunks(&mut self, chunks: &[FirstChunk]) -> Result<()> {
        for first in chunks {
            let chunk = self.describe_chunk(first.flags, &first.offsets, first.len);
            self.volume.add_chunk(first.start, chunk.clone())?;
            let mut group = self.block_group(first.start, &chunk, 0);
            group.free = Some(self.all_free(&group));
            group.dirty = true;
            self.space.add(group);
            if first.flags.contains(BlockGroupFlags::SYSTEM) {
                self.add_to_system_array(first.start, &chunk)?;
            }
        }
        Ok(())
    }

    fn create_first_trees(&mut self, options: &MakeOptions) -> Result<()> {
        for tree in [TreeId::ROOT, TreeId::CHUNK] {
            let bytenr = self.allocate(tree, 0, Key::MIN)?;
            let root = TreeRoot { bytenr, level: 0, generation: Generation(1) };
            let item = RootItem::new_zeroed();
            self.store_root(tree, Root { root, item, key_offset: 0, dirty: false, moved_only: false });
        }
        let mut trees = vec![TreeId::EXTENT, TreeId::DEV, TreeId::CSUM, TreeId::UUID];
        if options.compat_ro.contains(CompatRo::FREE_SPACE_TREE) {
            trees.push(TreeId::FREE_SPACE);
        }
        if options.compat_ro.contains(CompatRo::BLOCK_GROUP_TREE) {
            trees.push(TreeId::BLOCK_GROUP);
        }
        for tree in trees {
            self.create_tree(tree, root_item(options, None))?;
        }
        self.create_tree(TreeId::FS, root_item(options, Some(options.fs_tree_uuid)))?;
        let mut reloc = root_item(options, None);
        reloc.root_dirid = Ino::ROOT_DIR.0.into();
        self.create_tree(TreeId::DATA_RELOC, reloc)
    }

    /// Enters the chunks in the trees.
    fn enter_first_chunks(&mut self, chunks: &[FirstChunk]) -> Result<()> {
        let device = self.devices[0];
        self.put(TreeId::CHUNK, &Key::new(objectid::DEV_ITEMS, ItemType::DEV_ITEM, 1), device.as_bytes())?;
        let stats = Key::new(0, ItemType::PERSISTENT_ITEM, 1);
        self.put(TreeId::DEV, &stats, &[0; 40])?;
        for first in chunks {
            let chunk = self.describe_chunk(first.flags, &first.offsets, first.len);
            self.insert(TreeId::CHUNK, &chunk_key(first.start), &chunk.pack())?;
            self.change_device_extents(first.start, &chunk, DeviceSpace::Take)?;
            self.put_block_group_item(first.start.0, first.len, first.flags, 0)?;
            if self.has_free_space_tree() {
                let group = self.block_group(first.start, &chunk, 0);
                self.create_free_space(&group)?;
            }
        }
        Ok(())
    }

    fn fill_first_trees(&mut self, options: &MakeOptions) -> Result<()> {
        let dots = packed_ref(b"..");
        for tree in [TreeId::FS, TreeId::DATA_RELOC] {
            let mut top = directory(options.now);
            if tree == TreeId::FS {
                (top.uid, top.gid) = (options.uid.into(), options.gid.into());
            }
            self.insert_directory(tree, Ino::ROOT_DIR.0, Ino::ROOT_DIR.0, &dots, top)?;
        }
        // The root tree's own directory names the default subvolume.
        let root_dir = TreeId::ROOT_TREE_DIR.0;
        self.insert_directory(TreeId::ROOT, root_dir, root_dir, &dots, directory(options.now))?;
        let entry = DirEntry {
            location: Key::new(TreeId::FS.0, ItemType::ROOT_ITEM, u64::MAX),
            transid: 1,
            file_type: FileType::Directory,
            name: b"default",
            value: b"",
        };
        let mut packed = Vec::new();
        pack_dir_entry(&entry, &mut packed);
        self.insert(TreeId::ROOT, &Key::new(root_dir, ItemType::DIR_ITEM, name_hash(b"default")), &packed)?;
        self.insert(TreeId::ROOT, &Key::new(TreeId::FS.0, ItemType::INODE_REF, root_dir), &packed_ref(b"default"))?;
        let [a, b] = uuid_halves(&options.fs_tree_uuid);
        self.insert(TreeId::UUID, &Key::new(a, ItemType::UUID_SUBVOL, b), &TreeId::FS.0.to_le_bytes())
    }

    fn insert_directory(
        &mut self,
        tree: TreeId,
        ino: u64,
        parent: u64,
        dots: &[u8],
        mut inode: InodeItem,
    ) -> Result<()> {
        inode.nbytes = u64::from(self.geometry.nodesize).into();
        self.insert(tree, &Key::new(ino, ItemType::INODE_ITEM, 0), inode.as_bytes())?;
        self.insert(tree, &Key::new(ino, ItemType::INODE_REF, parent), dots)
    }
}

fn packed_ref(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    InodeRef { index: 0, name }.pack(&mut out);
    out
}

fn directory(now: Timespec) -> InodeItem {
    InodeItem {
        generation: 1.into(),
        nlink: 1.into(),
        mode: 0o040_755.into(),
        atime: now,
        ctime: now,
        mtime: now,
        otime: now,
        ..InodeItem::new_zeroed()
    }
}

/// A root item; one with a UUID is a subvolume's.
fn root_item(options: &MakeOptions, subvolume: Option<[u8; 16]>) -> RootItem {
    let mut item = RootItem::new_zeroed();
    item.inode = InodeItem {
        generation: 1.into(),
        size: 3.into(),
        nlink: 1.into(),
        nbytes: u64::from(options.nodesize).into(),
        mode: 0o040_755.into(),
        ..InodeItem::new_zeroed()
    };
    item.bytes_used = u64::from(options.nodesize).into();
    item.refs = 1.into();
    if let Some(uuid) = subvolume {
        item.root_dirid = Ino::ROOT_DIR.0.into();
        item.uuid = uuid;
        item.ctime = options.now;
        item.otime = options.now;
    }
    item
}

/// A UUID as the objectid and offset of a UUID tree key.
fn uuid_halves(uuid: &[u8; 16]) -> [u64; 2] {
    let half = |from: usize| uuid[from..from + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
    [half(0), half(8)]
}

//! A filesystem from nothing: the first chunks and trees, written by the first commit.

use std::sync::Arc;

use butterfs_format::hash::name_hash;
use butterfs_format::ids::objectid;
use butterfs_format::items::{
    BlockGroupFlags, DevItem, DirEntry, FileType, InodeItem, InodeRef, RootItem, STRIPE_LEN, Timespec, pack_dir_entry,
};
use butterfs_format::superblock::{CompatRo, HEADER_FLAG_WRITTEN, MAGIC};
use butterfs_format::{Generation, Ino, ItemType, Key, Logical, Superblock, TreeId};
use butterfs_volume::{BlockDevice, DeviceStats, Profile, Volume, make_unknown};
use zerocopy::{FromZeros, IntoBytes};

use super::chunks::chunk_key;
use super::device_space::DeviceSpace;
use super::make_options::{MakeOptions, NewDevice};
use super::roots::Root;
use super::{Gate, Transaction};
use crate::error::{Error, Result};
use crate::space::FreeRanges;
use crate::space::placement::{Limits, Placement, Room, place};
use crate::tree::{TreeRoot, TreeWriter};

const MIB: u64 = 1 << 20;

/// The superblock must hold the system chunk, and has room for another as large.
const MOST_DEVICES: usize = super::chunks::SYSTEM_CHUNK_DEVICES;

/// A chunk of a new filesystem.
struct FirstChunk {
    start: Logical,
    flags: BlockGroupFlags,
    placement: Placement,
}

/// Writes a new filesystem to its devices, and makes it durable. Others that were there are made unknown first: after
/// a cut nobody takes what is left of them for a filesystem.
pub fn make(devices: &[Arc<dyn BlockDevice>], options: &MakeOptions) -> Result<()> {
    let sb = first_superblock(options);
    let chunks = first_chunks(options)?;
    devices.iter().try_for_each(|device| make_unknown(&**device))?;
    let members = devices.iter().cloned().zip(device_items(options)).collect();
    let volume = Arc::new(Volume::create(members, sb, options.chunk_tree_uuid));
    let mut tx = Transaction::empty(volume.clone(), sb, 16 << 20);
    tx.map_first_chunks(&chunks)?;
    tx.create_first_trees(options)?;
    tx.enter_first_chunks(&chunks)?;
    tx.fill_first_trees(options)?;
    Gate::around(Arc::clone(&volume), tx, super::GateSettings::default()).commit()?;
    refuse_failures(&volume)
}

/// What profiles tolerate later is no way to begin.
fn refuse_failures(volume: &Volume) -> Result<()> {
    let stats = volume.device_stats();
    let Some((devid, _)) = stats.iter().find(|(_, stats)| *stats != DeviceStats::default()) else { return Ok(()) };
    let name = volume.device_name(*devid).unwrap_or_default();
    let text = format!("{name}: it failed while the filesystem was made; see to the device, or leave it out");
    Err(butterfs_volume::Error::NotWritable(text).into())
}

/// Where `mkfs.btrfs` puts the first chunks: from 13 MiB on, data, system, metadata; or system, and one for both.
fn first_chunks(options: &MakeOptions) -> Result<Vec<FirstChunk>> {
    const FROM: u64 = 13 * MIB;
    let mut space: Vec<FreeRanges> = Vec::with_capacity(options.devices.len());
    for device in &options.devices {
        let mut free = FreeRanges::default();
        free.add(FROM, device.total_bytes.saturating_sub(FROM) / STRIPE_LEN * STRIPE_LEN);
        space.push(free);
    }
    let system = BlockGroupFlags::SYSTEM | options.metadata_profile;
    let kinds = match options.is_mixed() {
        true => {
            vec![(system, 4 * MIB), (BlockGroupFlags::DATA | BlockGroupFlags::METADATA | options.data_profile, 8 * MIB)]
        }
        false => vec![
            (BlockGroupFlags::DATA | options.data_profile, 8 * MIB),
            (system, 8 * MIB),
            (BlockGroupFlags::METADATA | options.metadata_profile, first_metadata_size(options)),
        ],
    };
    let mut start = FROM;
    let mut chunks = Vec::with_capacity(kinds.len());
    for (flags, size) in kinds {
        let placement = place_first(flags, size, &space)?;
        for (device, offset) in &placement.stripes {
            space[*device].remove(*offset, placement.stripe_len);
        }
        let len = placement.len;
        chunks.push(FirstChunk { start: Logical(start), flags, placement });
        start += len;
    }
    Ok(chunks)
}

/// A tenth of the space that there is for it, within bounds.
fn first_metadata_size(options: &MakeOptions) -> u64 {
    let total = options.total_bytes();
    let copies = if options.metadata_profile == BlockGroupFlags::DUP { 2 } else { 1 };
    let largest = if total > 50 << 30 { 1 << 30 } else { 256 * MIB };
    (total / 10 / copies / STRIPE_LEN * STRIPE_LEN).clamp(32 * MIB, largest)
}

/// Finds room for a chunk whose stripes take `size` bytes, or that holds so many if that is more than 32 MiB.
fn place_first(flags: BlockGroupFlags, size: u64, space: &[FreeRanges]) -> Result<Placement> {
    let profile = Profile::of(flags).ok_or(Error::Invalid("no such profile"))?;
    let rooms: Vec<_> = space.iter().enumerate().map(|(index, free)| Room { index, free }).collect();
    let columns = profile.data_stripes(profile.usable_devices(space.len())).max(1) as u64;
    let least = if columns == 1 { size } else { size.min(8 * MIB) };
    let limits = Limits { stripe: size, chunk: size.max(columns * 8 * MIB), least, devices: MOST_DEVICES };
    place(&profile, &limits, &rooms).ok_or(Error::NoSpace)
}

fn device_items(options: &MakeOptions) -> Vec<DevItem> {
    let item = |(number, device): (u64, &NewDevice)| DevItem {
        devid: number.into(),
        total_bytes: device.total_bytes.into(),
        bytes_used: 0.into(),
        io_align: options.sectorsize.into(),
        io_width: options.sectorsize.into(),
        sector_size: options.sectorsize.into(),
        uuid: device.uuid,
        fsid: options.fsid,
        ..DevItem::new_zeroed()
    };
    (1..).zip(&options.devices).map(item).collect()
}

fn first_superblock(options: &MakeOptions) -> Superblock {
    let mut sb = Superblock::new_zeroed();
    sb.fsid = options.fsid;
    sb.flags = HEADER_FLAG_WRITTEN.into();
    sb.magic = MAGIC;
    sb.total_bytes = options.total_bytes().into();
    sb.root_dir_objectid = TreeId::ROOT_TREE_DIR.0.into();
    sb.num_devices = (options.devices.len() as u64).into();
    sb.sectorsize = options.sectorsize.into();
    sb.nodesize = options.nodesize.into();
    sb.leafsize = options.nodesize.into();
    sb.stripesize = options.sectorsize.into();
    sb.compat_ro_flags = options.compat_ro.bits().into();
    sb.incompat_flags = options.incompat.bits().into();
    sb.csum_type = (options.csum_type as u16).into();
    sb.label[..options.label.len()].copy_from_slice(&options.label);
    sb
}

impl Transaction {
    /// The chunks are usable, though no tree knows of them yet.
    fn map_first_chunks(&mut self, chunks: &[FirstChunk]) -> Result<()> {
        for first in chunks {
            let chunk = self.describe_chunk(first.flags, &first.placement)?;
            self.volume.add_chunk(first.start, chunk.clone())?;
            let mut group = self.block_group(first.start, &chunk, 0);
            group.set_free(self.all_free(&group));
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
        for item in self.devices.clone() {
            let devid = item.devid.get();
            self.put(TreeId::CHUNK, &Key::new(objectid::DEV_ITEMS, ItemType::DEV_ITEM, devid), item.as_bytes())?;
            self.put(TreeId::DEV, &Key::new(0, ItemType::PERSISTENT_ITEM, devid), &[0; 40])?;
        }
        for first in chunks {
            let chunk = self.describe_chunk(first.flags, &first.placement)?;
            self.insert(TreeId::CHUNK, &chunk_key(first.start), &chunk.pack())?;
            self.change_device_extents(first.start, &chunk, DeviceSpace::Take)?;
            self.put_block_group_item(first.start.0, first.placement.len, first.flags, 0)?;
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

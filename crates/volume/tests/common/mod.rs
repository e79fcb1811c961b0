//! Small hand-made filesystems: superblocks, system chunks and a chunk tree of one leaf or more.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "only tests use this")]

use std::sync::Arc;

use butterfs_format::block::{KeyPtr, NewBlock};
use butterfs_format::ids::objectid;
use butterfs_format::items::{BlockGroupFlags, Chunk, ChunkHeader, DevItem, STRIPE_LEN, Stripe};
use butterfs_format::key::{DiskKey, ItemType, Key};
use butterfs_format::superblock::{MAGIC, SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_format::{Generation, Logical, Superblock, TreeBlock, TreeId};
use butterfs_volume::{BlockDevice, Error, MemDevice, OpenMode, Volume};
use zerocopy::{FromZeros, IntoBytes};

pub const FSID: [u8; 16] = [0xf5; 16];
pub const CHUNK_UUID: [u8; 16] = [0xc5; 16];
pub const NODE: usize = 16384;
pub const DEVICE_LEN: u64 = 256 << 20;
/// Where the system chunk is.
pub const SYSTEM: u64 = 16 << 20;
/// Where the data chunk is.
pub const DATA: u64 = 64 << 20;
pub const CHUNK_LEN: u64 = 8 << 20;

/// What an image is made of; break what you like before [`Image::build`].
pub struct Image {
    pub superblock: Superblock,
    pub dev_items: Vec<DevItem>,
    /// The first is the system chunk.
    pub chunks: Vec<(u64, Chunk)>,
    pub sys_array: Vec<u8>,
}

pub fn dev_uuid(devid: u64) -> [u8; 16] {
    [devid as u8; 16]
}

pub fn dev_item(devid: u64) -> DevItem {
    let mut item = DevItem::new_zeroed();
    item.devid = devid.into();
    item.total_bytes = DEVICE_LEN.into();
    item.sector_size = 4096.into();
    item.uuid = dev_uuid(devid);
    item.fsid = FSID;
    item
}

/// A chunk whose stripes are at (device, offset).
pub fn chunk(flags: BlockGroupFlags, length: u64, stripes: &[(u64, u64)]) -> Chunk {
    let header = ChunkHeader {
        length: length.into(),
        owner: 2.into(),
        stripe_len: STRIPE_LEN.into(),
        chunk_type: flags.bits().into(),
        io_align: 65536.into(),
        io_width: 65536.into(),
        sector_size: 4096.into(),
        num_stripes: (stripes.len() as u16).into(),
        sub_stripes: if flags.contains(BlockGroupFlags::RAID10) { 2.into() } else { 1.into() },
    };
    let stripe = |(devid, offset): &(u64, u64)| Stripe {
        devid: (*devid).into(),
        offset: (*offset).into(),
        dev_uuid: dev_uuid(*devid),
    };
    Chunk { header, stripes: stripes.iter().map(stripe).collect() }
}

pub fn chunk_key(logical: u64) -> Key {
    Key::new(objectid::FIRST_CHUNK_TREE, ItemType::CHUNK_ITEM, logical)
}

pub fn array_entry(logical: u64, chunk: &Chunk) -> Vec<u8> {
    let mut entry = DiskKey::from(chunk_key(logical)).as_bytes().to_vec();
    entry.extend(chunk.pack());
    entry
}

pub fn new_block(bytenr: u64, level: u8) -> TreeBlock {
    let new = NewBlock {
        bytenr: Logical(bytenr),
        generation: Generation(7),
        owner: TreeId::CHUNK,
        level,
        fsid: FSID,
        chunk_tree_uuid: CHUNK_UUID,
    };
    TreeBlock::new(NODE, &new)
}

pub fn seal(block: &mut TreeBlock) {
    let csum = butterfs_format::ChecksumType::Crc32c.compute_block(block.bytes());
    block.header_mut().csum = csum;
}

impl Image {
    /// One device, DUP system and data chunks.
    pub fn dup() -> Self {
        let system = chunk(BlockGroupFlags::SYSTEM | BlockGroupFlags::DUP, CHUNK_LEN, &[(1, 16 << 20), (1, 32 << 20)]);
        let data = chunk(BlockGroupFlags::DATA | BlockGroupFlags::DUP, CHUNK_LEN, &[(1, 80 << 20), (1, 96 << 20)]);
        Self::new(1, system, data)
    }

    /// `devices` devices, a mirrored system chunk on the first two, and the given data chunk.
    pub fn with_devices(devices: u64, data: Chunk) -> Self {
        let system =
            chunk(BlockGroupFlags::SYSTEM | BlockGroupFlags::RAID1, CHUNK_LEN, &[(1, 16 << 20), (2, 32 << 20)]);
        Self::new(devices, system, data)
    }

    fn new(devices: u64, system: Chunk, data: Chunk) -> Self {
        let mut sb = Superblock::new_zeroed();
        sb.fsid = FSID;
        sb.magic = MAGIC;
        sb.generation = 9.into();
        sb.root = (SYSTEM + (1 << 20)).into();
        sb.chunk_root = SYSTEM.into();
        sb.chunk_root_generation = 7.into();
        sb.total_bytes = (DEVICE_LEN * devices).into();
        sb.num_devices = devices.into();
        sb.sectorsize = 4096.into();
        sb.nodesize = (NODE as u32).into();
        let sys_array = array_entry(SYSTEM, &system);
        Self {
            superblock: sb,
            dev_items: (1..=devices).map(dev_item).collect(),
            chunks: vec![(SYSTEM, system), (DATA, data)],
            sys_array,
        }
    }

    pub fn leaf(&self) -> TreeBlock {
        let mut leaf = new_block(SYSTEM, 0);
        for item in &self.dev_items {
            let key = Key::new(objectid::DEV_ITEMS, ItemType::DEV_ITEM, item.devid.get());
            leaf.insert_item(leaf.len(), &key, item.as_bytes());
        }
        for (logical, chunk) in &self.chunks {
            leaf.insert_item(leaf.len(), &chunk_key(*logical), &chunk.pack());
        }
        seal(&mut leaf);
        leaf
    }

    /// The superblock of a device, before its offset and checksum are set.
    pub fn superblock_of(&self, item: &DevItem) -> Superblock {
        let mut sb = self.superblock;
        sb.dev_item = *item;
        sb.sys_chunk_array_size = (self.sys_array.len() as u32).into();
        sb.sys_chunk_array[..self.sys_array.len()].copy_from_slice(&self.sys_array);
        sb
    }

    pub fn build(&self) -> Vec<Arc<MemDevice>> {
        let devices = self.dev_items.iter().map(|item| {
            let device = MemDevice::named(format!("disk{}", item.devid), DEVICE_LEN);
            for offset in SUPERBLOCK_OFFSETS {
                if offset + SUPERBLOCK_SIZE as u64 <= DEVICE_LEN {
                    device.write_at(offset, &self.superblock_of(item).to_bytes_at(offset)).unwrap();
                }
            }
            Arc::new(device)
        });
        let devices: Vec<_> = devices.collect();
        self.put_block(&devices, SYSTEM, &self.leaf());
        devices
    }

    /// Writes a block to all copies of its place in the system chunk.
    pub fn put_block(&self, devices: &[Arc<MemDevice>], logical: u64, block: &TreeBlock) {
        for stripe in &self.chunks[0].1.stripes {
            let device = &devices[stripe.devid.get() as usize - 1];
            device.write_at(stripe.offset.get() + logical - SYSTEM, block.bytes()).unwrap();
        }
    }

    pub fn open(&self, mode: OpenMode) -> Result<Volume, Error> {
        open(&self.build(), mode)
    }
}

pub fn pointer(logical: u64, key: Key) -> KeyPtr {
    KeyPtr { key: key.into(), blockptr: logical.into(), generation: 7.into() }
}

pub fn open(devices: &[Arc<MemDevice>], mode: OpenMode) -> Result<Volume, Error> {
    Volume::open(devices.iter().map(|device| Arc::clone(device) as Arc<dyn BlockDevice>).collect(), mode)
}

pub fn bytes_at(device: &MemDevice, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    device.read_at(offset, &mut bytes).unwrap();
    bytes
}

//! Base images: good filesystems, small when packed; where their live tree blocks are, and how changes are made.

use std::collections::BTreeMap;
use std::sync::Arc;

use butterfs_format::items::RootItem;
use butterfs_format::superblock::{SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_format::validate::{Expected, Geometry};
use butterfs_format::{ChecksumType, ItemType, Logical, Superblock, TreeBlock};
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

use super::input::{Change, Recipe};

const PAGE: usize = 4096;

/// A live tree block, with the places of its copies on the device.
#[derive(Clone, Debug)]
pub struct Live {
    /// The block.
    pub block: TreeBlock,
    /// Physical offsets.
    pub places: Vec<u64>,
}

/// A good filesystem on one device.
pub struct Base {
    /// What recipes call it.
    pub name: String,
    device: MemDevice,
    /// The first superblock copy.
    pub superblock: Superblock,
    /// What is known of its blocks.
    pub geometry: Geometry,
    /// Its live blocks by address.
    pub blocks: BTreeMap<u64, Live>,
}

impl Base {
    /// A base of what is on a device. Panics unless it is a good filesystem.
    pub fn new(name: &str, device: MemDevice) -> Self {
        let volume = Volume::open(vec![Arc::new(device.snapshot())], OpenMode::ReadOnly).expect("a base is good");
        let superblock = volume.superblock();
        let mut blocks = BTreeMap::new();
        let roots = [superblock.root.get(), superblock.chunk_root.get(), superblock.log_root.get()];
        roots.iter().filter(|root| **root != 0).for_each(|root| collect(&volume, *root, &mut blocks));
        Self { name: name.into(), device, superblock, geometry: volume.geometry(), blocks }
    }

    /// A device with the filesystem, unchanged.
    pub fn device(&self) -> MemDevice {
        self.device.snapshot()
    }

    /// A device with the changes. Those of blocks that are not there, or past an end, are left out.
    pub fn changed(&self, recipe: &Recipe) -> MemDevice {
        let device = self.device();
        let mut changed: Vec<u64> = Vec::new();
        for change in &recipe.changes {
            match change {
                Change::Block { bytenr, .. } if !changed.contains(bytenr) => changed.push(*bytenr),
                _ => {}
            }
        }
        for bytenr in changed {
            let Some(live) = self.blocks.get(&bytenr) else { continue };
            let block = self.changed_block(recipe, bytenr).expect("it is there");
            live.places.iter().for_each(|place| device.write_at(*place, block.bytes()).expect("a copy is within"));
        }
        if recipe.changes.iter().any(|change| matches!(change, Change::Super { .. })) {
            for offset in SUPERBLOCK_OFFSETS.iter().filter(|offset| **offset + PAGE as u64 <= device.len()) {
                device.write_at(*offset, &self.changed_superblock(recipe, *offset)).expect("a copy is within");
            }
        }
        device
    }

    /// The superblock copy at an offset with the changes, and a right checksum.
    pub fn changed_superblock(&self, recipe: &Recipe, offset: u64) -> Vec<u8> {
        let mut bytes = self.superblock.to_bytes_at(offset);
        for change in &recipe.changes {
            if let Change::Super { at, bytes: new } = change {
                put(&mut bytes, *at, new);
            }
        }
        // By the algorithm that the bytes themselves name.
        let csum_type = Superblock::unchecked(&bytes).map(|sb| sb.checksum_type()).unwrap_or(ChecksumType::Crc32c);
        seal(&mut bytes[..SUPERBLOCK_SIZE], csum_type);
        bytes
    }

    /// A block with the changes, and a right checksum.
    pub fn changed_block(&self, recipe: &Recipe, bytenr: u64) -> Option<TreeBlock> {
        let mut bytes = self.blocks.get(&bytenr)?.block.bytes().to_vec();
        for change in &recipe.changes {
            match change {
                Change::Block { bytenr: other, at, bytes: new } if *other == bytenr => put(&mut bytes, *at, new),
                _ => {}
            }
        }
        seal(&mut bytes, self.geometry.csum_type);
        Some(TreeBlock::from_bytes(bytes))
    }

    /// The packed form: pages that are not zeros, compressed.
    pub fn pack(&self) -> Vec<u8> {
        pack(&self.device)
    }

    /// A base from its packed form.
    pub fn unpack(name: &str, packed: &[u8]) -> Self {
        Self::new(name, unpack(packed))
    }
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    let len = new.len().min(bytes.len().saturating_sub(at));
    if len > 0 {
        bytes[at..at + len].copy_from_slice(&new[..len]);
    }
}

fn seal(bytes: &mut [u8], csum_type: ChecksumType) {
    let csum = csum_type.compute_block(bytes);
    bytes[..csum.len()].copy_from_slice(&csum);
}

/// All blocks at and below one, with the trees that root items in them lead to.
fn collect(volume: &Volume, at: u64, blocks: &mut BTreeMap<u64, Live>) {
    if blocks.contains_key(&at) {
        return;
    }
    let block = volume.read_block(&Expected::at(Logical(at))).expect("a base has good blocks");
    let (start, chunk) = volume.chunk_containing(Logical(at)).expect("a block is in a chunk");
    let places = chunk.stripes.iter().map(|stripe| stripe.offset.get() + at - start.0).collect();
    blocks.insert(at, Live { block: block.clone(), places });
    for slot in 0..block.len() {
        let below = match block.is_leaf() {
            false => block.ptr(slot).blockptr.get(),
            true if block.key(slot).item_type == ItemType::ROOT_ITEM => {
                RootItem::parse(block.data(slot)).expect("a base has good items").bytenr.get()
            }
            true => 0,
        };
        if below != 0 {
            collect(volume, below, blocks);
        }
    }
}

fn pack(device: &MemDevice) -> Vec<u8> {
    let mut plain = device.len().to_le_bytes().to_vec();
    for (offset, bytes) in device.written() {
        for (number, page) in bytes.chunks_exact(PAGE).enumerate() {
            if page.iter().any(|byte| *byte != 0) {
                plain.extend_from_slice(&(offset + (number * PAGE) as u64).to_le_bytes());
                plain.extend_from_slice(page);
            }
        }
    }
    zstd::bulk::compress(&plain, 19).expect("memory for zstd")
}

fn unpack(packed: &[u8]) -> MemDevice {
    const MOST: usize = 64 << 20;
    let plain = zstd::bulk::decompress(packed, MOST).expect("a packed image");
    let (len, mut rest) = plain.split_first_chunk::<8>().expect("its length");
    let device = MemDevice::new(u64::from_le_bytes(*len));
    while let Some((offset, after)) = rest.split_first_chunk::<8>() {
        let (page, after) = after.split_at(PAGE);
        device.write_at(u64::from_le_bytes(*offset), page).expect("a page is within");
        rest = after;
    }
    device
}

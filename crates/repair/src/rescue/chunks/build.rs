//! A new chunk tree, built from its items, and the superblocks that lead to it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use butterfs_check::Devices;
use butterfs_engine::tx::seal::write_blocks;
use butterfs_format::block::{ITEM_HEADER_SIZE, KeyPtr, NewBlock};
use butterfs_format::ids::objectid;
use butterfs_format::items::BlockGroupFlags;
use butterfs_format::key::DiskKey;
use butterfs_format::superblock::SYS_CHUNK_ARRAY_SIZE;
use butterfs_format::{ItemType, Key, Logical, Superblock, TreeBlock, TreeId};
use butterfs_salvage::chunks::Truth;
use butterfs_salvage::scan::Blocks;
use butterfs_volume::{OpenMode, OpenOptions, Volume};
use zerocopy::IntoBytes;

use crate::error::{Error, Result};

type Items = Vec<(Key, Vec<u8>)>;

/// Writes a chunk tree, and superblocks with it, to the devices.
///
/// # Errors
/// If there is no room for it, or a device fails.
pub fn write(devices: &Devices, blocks: &Blocks, truth: &Truth, mut sb: Superblock) -> Result<()> {
    let items = items(truth);
    set_system_chunks(&mut sb, truth)?;
    let chunks: Vec<_> = truth.chunks.iter().map(|(start, chunk)| (Logical(*start), chunk.clone())).collect();
    let members: Vec<_> = truth.devices.values().copied().collect();
    let options = OpenOptions::new(OpenMode::ReadWrite);
    let volume = Volume::open_with_chunks(devices.clone(), &options, blocks.chunk_tree_uuid, &chunks, &members)?;
    let mut builder =
        Builder { sb: &sb, uuid: blocks.chunk_tree_uuid, room: room(&volume, blocks), new: HashMap::new() };
    let (root, level) = builder.tree(&items)?;
    write_blocks(&builder.new, sb.generation(), &volume)?;
    volume.flush()?;
    (sb.chunk_root, sb.chunk_root_level) = (root.0.into(), level);
    sb.chunk_root_generation = sb.generation;
    volume.write_superblocks(&sb)?;
    Ok(volume.flush()?)
}

fn items(truth: &Truth) -> Items {
    let device = |(devid, item): (&u64, &butterfs_format::items::DevItem)| {
        (Key::new(objectid::DEV_ITEMS, ItemType::DEV_ITEM, *devid), item.as_bytes().to_vec())
    };
    let chunks = truth.chunks.iter().map(|(start, chunk)| (chunk_key(*start), chunk.pack()));
    truth.devices.iter().map(device).chain(chunks).collect()
}

fn chunk_key(start: u64) -> Key {
    Key::new(objectid::FIRST_CHUNK_TREE, ItemType::CHUNK_ITEM, start)
}

fn set_system_chunks(sb: &mut Superblock, truth: &Truth) -> Result<()> {
    let mut array = Vec::new();
    for (start, chunk) in &truth.chunks {
        if chunk.flags().contains(BlockGroupFlags::SYSTEM) {
            array.extend_from_slice(DiskKey::from(chunk_key(*start)).as_bytes());
            array.extend_from_slice(&chunk.pack());
        }
    }
    if array.is_empty() || array.len() > SYS_CHUNK_ARRAY_SIZE {
        let text = format!("system chunks take {} bytes, 1 to {SYS_CHUNK_ARRAY_SIZE} fit", array.len());
        return Err(Error::Refused(format!("the chunk tree cannot be recovered: {text}")));
    }
    sb.sys_chunk_array_size = (array.len() as u32).into();
    sb.sys_chunk_array = [0; SYS_CHUNK_ARRAY_SIZE];
    sb.sys_chunk_array[..array.len()].copy_from_slice(&array);
    Ok(())
}

/// Places in system chunks where no block of any age lies: the old tree stays as it was.
fn room(volume: &Volume, blocks: &Blocks) -> Vec<Logical> {
    let nodesize = u64::from(volume.geometry().nodesize);
    let taken: HashSet<Logical> = blocks.addresses().collect();
    let mut room = Vec::new();
    for (start, chunk) in volume.chunks().into_iter().filter(|(_, c)| c.flags().contains(BlockGroupFlags::SYSTEM)) {
        let end = start.0.saturating_add(chunk.length());
        let barred = volume.superblock_ranges(start);
        let first = start.0.next_multiple_of(nodesize);
        let places = (first..end.saturating_sub(nodesize - 1)).step_by(nodesize as usize).map(Logical);
        let is_free = |at: &Logical| {
            let bar = barred.iter().any(|range| range.start.0 < at.0 + nodesize && at.0 < range.end.0);
            !bar && !taken.contains(at)
        };
        room.extend(places.filter(is_free));
    }
    room.reverse();
    room
}

struct Builder<'s> {
    sb: &'s Superblock,
    uuid: [u8; 16],
    room: Vec<Logical>,
    new: HashMap<Logical, Arc<TreeBlock>>,
}

impl Builder<'_> {
    fn block(&mut self, level: u8) -> Result<TreeBlock> {
        let no_room = || Error::Refused("there is no room for a new chunk tree in the system chunks".into());
        let bytenr = self.room.pop().ok_or_else(no_room)?;
        let new = NewBlock {
            bytenr,
            generation: self.sb.generation(),
            owner: TreeId::CHUNK,
            level,
            fsid: self.sb.block_fsid(),
            chunk_tree_uuid: self.uuid,
        };
        Ok(TreeBlock::new(self.sb.nodesize.get() as usize, &new))
    }

    fn keep(&mut self, block: TreeBlock) -> KeyPtr {
        let (bytenr, generation) = (block.bytenr(), block.generation());
        let key = block.key(0).into();
        self.new.insert(bytenr, Arc::new(block));
        KeyPtr { key, blockptr: bytenr.0.into(), generation: generation.0.into() }
    }

    /// Leaves, and nodes above them until there is one block; gives it and its level.
    fn tree(&mut self, items: &Items) -> Result<(Logical, u8)> {
        let mut level = 0;
        let mut ptrs = self.leaves(items)?;
        while ptrs.len() > 1 {
            level += 1;
            ptrs = self.nodes(&ptrs, level)?;
        }
        let root = ptrs.first().ok_or_else(|| Error::Refused("no chunk was found".into()))?;
        Ok((Logical(root.blockptr.get()), level))
    }

    fn leaves(&mut self, items: &Items) -> Result<Vec<KeyPtr>> {
        let mut ptrs = Vec::new();
        let mut leaf: Option<TreeBlock> = None;
        for (key, data) in items {
            let need = data.len() + ITEM_HEADER_SIZE;
            if let Some(full) = leaf.take_if(|leaf| leaf.leaf_free() < need) {
                ptrs.push(self.keep(full));
            }
            let leaf = match &mut leaf {
                Some(leaf) => leaf,
                none => none.insert(self.block(0)?),
            };
            leaf.insert_item(leaf.len(), key, data);
        }
        ptrs.extend(leaf.map(|last| self.keep(last)));
        Ok(ptrs)
    }

    fn nodes(&mut self, children: &[KeyPtr], level: u8) -> Result<Vec<KeyPtr>> {
        let most = TreeBlock::node_capacity(self.sb.nodesize.get() as usize);
        let node = |part: &[KeyPtr]| {
            let mut node = self.block(level)?;
            node.insert_ptrs(0, part);
            Ok(self.keep(node))
        };
        children.chunks(most).map(node).collect()
    }
}

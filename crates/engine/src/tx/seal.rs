//! Tree blocks on their way to the devices.
//!
//! # Invariants
//! * Every block is checked before it is written: what memory got wrong never becomes durable.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use butterfs_format::validate::{Checksum, Expected, Geometry, check_block};
use butterfs_format::{Generation, Logical, TreeBlock};
use butterfs_volume::Volume;

use crate::cores::on_all_cores;
use crate::error::Result;
use crate::tree::AddressMap;

/// How many bytes of blocks are given to the volume at once.
const BATCH_BYTES: usize = 8 << 20;
/// Checking and sealing fewer is not worth a thread.
const BLOCKS_PER_JOB: usize = 64;

/// Checks, seals and writes the blocks of a generation, in the order of their addresses. Nothing is flushed.
///
/// # Errors
/// If a block breaks a rule of the format, or is not of this generation, or a device fails.
pub fn write_blocks<S: BuildHasher + Sync>(
    blocks: &HashMap<Logical, Arc<TreeBlock>, S>,
    generation: Generation,
    volume: &Volume,
) -> Result<()> {
    let mut addresses: Vec<Logical> = blocks.keys().copied().collect();
    addresses.sort_unstable();
    let geometry = volume.geometry();
    let wanted = wanted(blocks, generation);
    let per_batch = (BATCH_BYTES / geometry.nodesize as usize).max(1);
    for batch in addresses.chunks(per_batch) {
        let parts: Vec<&[Logical]> = batch.chunks(BLOCKS_PER_JOB).collect();
        let sealed = on_all_cores(parts.len(), |part| {
            let seal = |at: &Logical| Ok((*at, seal(&blocks[at], &wanted[at], &geometry)?));
            parts[part].iter().map(seal).collect::<Result<Vec<_>>>()
        });
        let sealed = sealed.into_iter().collect::<Result<Vec<Vec<(Logical, TreeBlock)>>>>()?;
        let writes: Vec<(Logical, &[u8])> = sealed.iter().flatten().map(|(at, block)| (*at, block.bytes())).collect();
        volume.write_batch(&writes)?;
    }
    Ok(())
}

/// What is known of each block without asking the block itself: its address, the generation, and what its parent
/// says, if that is written too. (A parent always is, but for roots.)
fn wanted<S>(blocks: &HashMap<Logical, Arc<TreeBlock>, S>, generation: Generation) -> AddressMap<Expected> {
    let alone = |at: &Logical| (*at, Expected { generation: Some(generation), ..Expected::at(*at) });
    let mut wanted: AddressMap<Expected> = blocks.keys().map(alone).collect();
    for parent in blocks.values().filter(|block| !block.is_leaf()) {
        // A node that claims more pointers than fit is refused by its own check.
        for slot in 0..parent.len().min(TreeBlock::node_capacity(parent.bytes().len())) {
            let ptr = parent.ptr(slot);
            if let Some(child) = wanted.get_mut(&Logical(ptr.blockptr.get())) {
                child.level = parent.level().checked_sub(1);
                child.generation = Some(Generation(ptr.generation.get()));
                child.first_key = Some(parent.key(slot));
            }
        }
    }
    wanted
}

/// A block as it goes to the device: checked, without stale bytes, with its checksum.
fn seal(block: &TreeBlock, wanted: &Expected, geometry: &Geometry) -> Result<TreeBlock> {
    check_block(block, geometry, wanted, Checksum::Skip)?;
    let mut block = block.clone();
    block.zero_gap();
    let csum = geometry.csum_type.compute_block(block.bytes());
    block.header_mut().csum = csum;
    Ok(block)
}

#[cfg(test)]
mod tests {
    use butterfs_check::{Options, check};
    use butterfs_volume::{BlockDevice, MemDevice, OpenMode};

    use super::*;
    use crate::dir::Place;
    use crate::environment::SystemEnvironment;
    use crate::error::Error;
    use crate::filesystem::{Filesystem, NewInode, NewKind, OpenOptions};
    use crate::mkfs::{MakeOptions, make};
    use crate::tx::Need;

    const LEN: u64 = 160 << 20;
    const HEADER: usize = 101;
    const ITEM: usize = 25;

    fn device() -> Arc<MemDevice> {
        let device = Arc::new(MemDevice::new(LEN));
        let mut options = MakeOptions::new(LEN, &SystemEnvironment);
        options.nodesize = 4096;
        make(Arc::clone(&device) as Arc<dyn BlockDevice>, &options).unwrap();
        device
    }

    fn open(device: &Arc<MemDevice>) -> Filesystem {
        let volume = Volume::open(vec![Arc::clone(device) as Arc<dyn BlockDevice>], OpenMode::ReadWrite).unwrap();
        Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap()
    }

    fn create(filesystem: &Filesystem, names: std::ops::Range<usize>) {
        let new = NewInode { kind: NewKind::File, permissions: 0o644, uid: 0, gid: 0 };
        for name in names {
            filesystem.create(Place::new(filesystem.root(), format!("file {name}").as_bytes()), &new).unwrap();
        }
    }

    /// A block with one bit flipped.
    fn flipped(block: &TreeBlock, bit: usize) -> Arc<TreeBlock> {
        let mut bad = block.clone();
        bad.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
        Arc::new(bad)
    }

    /// The bits of a block that the check knows to be wrong when they change, whatever the content: fsid, address,
    /// generation, the highest bits of the count and of the level; of each item its offset and size; of each pointer
    /// the generation, if it leads to a block that is written too.
    fn structure(block: &TreeBlock, written: &dyn Fn(Logical) -> bool) -> Vec<usize> {
        let mut bytes: Vec<usize> = (32..56).chain(80..88).chain([98, 99]).collect();
        for slot in 0..block.len() {
            if block.is_leaf() {
                let at = HEADER + slot * ITEM;
                bytes.extend(at + 17..at + ITEM);
            } else if written(Logical(block.ptr(slot).blockptr.get())) {
                let at = HEADER + slot * 33;
                bytes.extend(at + 25..at + 33);
            }
        }
        bytes.into_iter().flat_map(|byte| byte * 8..byte * 8 + 8).chain([HEADER * 8 - 1]).collect()
    }

    /// A bit that flips in memory between a change and the write: the block is refused, and nothing is written.
    #[test]
    fn a_flipped_bit_in_memory_is_not_written() {
        let device = device();
        let filesystem = open(&device);
        create(&filesystem, 0..60);
        let gate = &filesystem.shared().gate;
        let (blocks, generation) = gate.view(|tx| Ok((tx.dirty.clone(), tx.generation()))).unwrap();
        assert!(blocks.values().any(|block| !block.is_leaf()), "there is a node among the blocks");
        let before = device.snapshot();
        let mut tried = 0;
        for (at, block) in &blocks {
            for bit in structure(block, &|child| blocks.contains_key(&child)) {
                let mut bad = blocks.clone();
                bad.insert(*at, flipped(block, bit));
                let refused = write_blocks(&bad, generation, gate.volume());
                let name = format!("bit {} of byte {} of block {at}", bit % 8, bit / 8);
                assert!(matches!(refused, Err(Error::Corruption(_))), "{name} was written");
                tried += 1;
            }
        }
        assert!(device.written() == before.written(), "nothing was written");
        println!("{tried} flipped bits in {} blocks", blocks.len());
        assert!(tried > 10_000);
        write_blocks(&blocks, generation, gate.volume()).unwrap();
    }

    /// A key that changed in a leaf, but still fits between its neighbours, is no longer what the parent says.
    #[test]
    fn a_first_key_that_the_parent_does_not_know_is_not_written() {
        let device = device();
        let filesystem = open(&device);
        create(&filesystem, 0..60);
        let gate = &filesystem.shared().gate;
        let (blocks, generation) = gate.view(|tx| Ok((tx.dirty.clone(), tx.generation()))).unwrap();
        let parent = blocks.values().find(|block| !block.is_leaf()).unwrap();
        let child = Logical(parent.ptr(1).blockptr.get());
        // The pointer's key, one lower at its end.
        let mut bad = (**parent).clone();
        let mut key = bad.key(1);
        key.offset ^= 1;
        bad.set_ptr_key(1, key);
        let mut all = blocks.clone();
        all.insert(parent.bytenr(), Arc::new(bad));
        assert!(all.contains_key(&child));
        assert!(matches!(write_blocks(&all, generation, gate.volume()), Err(Error::Corruption(_))));
    }

    /// The commit that meets such a block fails, stops all writing, and the last one is all there is.
    #[test]
    fn a_commit_refuses_a_flipped_bit() {
        for byte in [32, 48, 53] {
            let device = device();
            let filesystem = open(&device);
            create(&filesystem, 0..60);
            filesystem.sync().unwrap();
            create(&filesystem, 60..61);
            let gate = &filesystem.shared().gate;
            let root = filesystem.root().tree;
            gate.change(Need::Deletion, |tx| {
                let leaf = tx.dirty.values().find(|block| block.is_leaf() && block.owner() == root).unwrap();
                let bad = flipped(leaf, byte * 8);
                let at = leaf.bytenr();
                tx.dirty.insert(at, bad);
                Ok(())
            })
            .unwrap();
            let told = filesystem.sync().unwrap_err();
            assert!(matches!(told, Error::Corruption(_)), "byte {byte}: {told}");
            let cause = gate.stopped().unwrap().cause.clone();
            assert!(matches!(filesystem.sync(), Err(Error::Aborted(stopped)) if stopped == cause));
            drop(filesystem);

            let volume = Volume::open(vec![Arc::clone(&device) as Arc<dyn BlockDevice>], OpenMode::ReadOnly).unwrap();
            let report = check(&volume, &Options { data_csums: true, ..Options::default() });
            assert!(report.findings.is_empty(), "{report}");
            let filesystem = open(&device);
            assert!(filesystem.lookup(Place::new(filesystem.root(), b"file 59")).is_ok());
            assert!(filesystem.lookup(Place::new(filesystem.root(), b"file 60")).is_err());
        }
    }
}

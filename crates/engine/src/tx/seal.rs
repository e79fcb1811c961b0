//! Tree blocks on their way to the devices.
//!
//! # Invariants
//! * Every block is checked before it is written: what memory got wrong never becomes durable.

use std::collections::HashMap;
use std::sync::Arc;

use butterfs_format::validate::{Checksum, Expected, Geometry, check_block};
use butterfs_format::{Logical, TreeBlock};
use butterfs_volume::Volume;

use crate::error::Result;

/// How many bytes of blocks are given to the volume at once.
const BATCH_BYTES: usize = 8 << 20;

/// Checks, seals and writes blocks, in the order of their addresses. Nothing is flushed.
///
/// # Errors
/// If a block breaks a rule of the format, or a device fails.
pub fn write_blocks(blocks: &HashMap<Logical, Arc<TreeBlock>>, volume: &Volume) -> Result<()> {
    let mut addresses: Vec<Logical> = blocks.keys().copied().collect();
    addresses.sort_unstable();
    let geometry = volume.geometry();
    let per_batch = (BATCH_BYTES / geometry.nodesize as usize).max(1);
    for batch in addresses.chunks(per_batch) {
        let sealed: Vec<(Logical, TreeBlock)> =
            batch.iter().map(|at| Ok((*at, seal(&blocks[at], &geometry)?))).collect::<Result<_>>()?;
        let writes: Vec<(Logical, &[u8])> = sealed.iter().map(|(at, block)| (*at, block.bytes())).collect();
        volume.write_batch(&writes)?;
    }
    Ok(())
}

/// A block as it goes to the device: checked, without stale bytes, with its checksum.
fn seal(block: &TreeBlock, geometry: &Geometry) -> Result<TreeBlock> {
    let mut block = block.clone();
    block.zero_gap();
    check_block(&block, geometry, &Expected::at(block.bytenr()), Checksum::Skip)?;
    let csum = geometry.csum_type.compute_block(block.bytes());
    block.header_mut().csum = csum;
    Ok(block)
}

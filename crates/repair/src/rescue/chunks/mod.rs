//! Making the chunk tree anew. Without chunks no address can be read; but every tree block says its own address
//! and generation, so blocks are looked for on the devices themselves.
//!
//! 1. `salvage::scan`: all tree blocks on the devices, of any age.
//! 2. `salvage::chunks`: the chunk tree as far as it was found; for the rest the device tree and the block groups, found
//!    in the same way. What an old version of the chunk tree says counts only if these agree, so a chunk that
//!    was deleted since does not come back.
//! 3. `build`: a new tree in free places of the system chunks, and superblocks that lead to it.
//!
//! Extents and the rest are then set right by the ordinary repair.

mod build;

use butterfs_check::{Devices, Kind, Place, Report};
use butterfs_format::items::DevItem;
use butterfs_format::validate::Geometry;
use butterfs_format::{Superblock, TreeId};
use butterfs_salvage::chunks;
use butterfs_salvage::scan::Blocks;
use butterfs_volume::{OpenMode, Volume};

use super::superblocks;
use crate::error::{Error, Result};
use crate::plan::Step;

/// Makes the chunk tree anew, unless it can be read and nothing speaks against it: `report` is the checker's.
///
/// # Errors
/// If it cannot be known which chunks there are, or a device fails.
pub fn recover(devices: &Devices, report: &Report) -> Result<Vec<Step>> {
    let doubts = [Kind::Chunk, Kind::DeviceExtent, Kind::BlockGroup].into_iter().any(|kind| report.has(kind));
    if !doubts && Volume::open(devices.clone(), OpenMode::ReadOnly).is_ok() {
        return Ok(Vec::new());
    }
    let (sb, own) = superblock(devices)?;
    let blocks = Blocks::scan(devices, &Geometry::of(&sb), sb.generation());
    if blocks.unreadable > 0 {
        let text = format!("{} sectors of the devices cannot be read; copy them elsewhere first", blocks.unreadable);
        return Err(Error::Refused(format!("the chunk tree cannot be recovered: {text}")));
    }
    let truth = chunks::find(&blocks, &sb, &own)?;
    if truth.rebuilt.is_empty() && Volume::open(devices.clone(), OpenMode::ReadOnly).is_ok() {
        return Ok(Vec::new());
    }
    if truth.devices.len() != own.len() {
        let (want, have) = (truth.devices.len(), own.len());
        return Err(Error::Refused(format!("the filesystem has {want} devices, {have} were given; name them all")));
    }
    build::write(devices, &blocks, &truth, sb)?;
    let action = format!(
        "made anew from what was found on the devices: {} chunks, {} of them from device extents and block groups",
        truth.chunks.len(),
        truth.rebuilt.len()
    );
    Ok(vec![Step::new("chunk-tree", Place::tree(TreeId::CHUNK), action)])
}

/// The newest superblock, and the device item of each device.
fn superblock(devices: &Devices) -> Result<(Superblock, Vec<DevItem>)> {
    let all = devices.iter().map(|device| superblocks::newest(&**device)).collect::<Result<Vec<_>>>()?;
    let own = all.iter().map(|sb| sb.dev_item).collect();
    let newest = all.into_iter().max_by_key(|sb| sb.generation.get());
    newest.map(|sb| (sb, own)).ok_or_else(|| Error::Refused("no device was given".into()))
}

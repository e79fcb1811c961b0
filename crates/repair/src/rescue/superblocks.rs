//! Superblocks alone: bad copies from good ones, and no more log.

use butterfs_check::{Devices, Place, superblock_copy};
use butterfs_format::Superblock;
use butterfs_format::superblock::{SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_volume::BlockDevice;

use crate::commit::write_superblock;
use crate::error::{Error, Result};
use crate::plan::Step;

/// Writes the newest good superblock of each device over copies that are bad or older.
///
/// # Errors
/// If a device has no good superblock, or those of the devices are of different filesystems.
pub fn recover(devices: &Devices) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut fsid = None;
    for device in devices {
        let newest = newest(&**device)?;
        if *fsid.get_or_insert(newest.fsid) != newest.fsid {
            return Err(Error::Refused(format!("{}: belongs to another filesystem", device.name())));
        }
        for (index, offset) in places(&**device, &newest) {
            let problem = match superblock_copy(&**device, index) {
                Ok(sb) if sb.generation == newest.generation && sb.fsid == newest.fsid => continue,
                Ok(sb) if sb.fsid != newest.fsid => "is of another filesystem".into(),
                Ok(sb) => format!("is of generation {}", sb.generation),
                Err(butterfs_volume::Error::Corruption(corruption)) => corruption.problem,
                Err(error) => error.to_string(),
            };
            write_superblock(&**device, offset, &newest)?;
            let action = format!("{problem}; replaced by that of generation {}", newest.generation);
            steps.push(Step::new("superblock", Place::superblock_copy(device.name(), offset), action));
        }
    }
    Ok(steps)
}

/// Forgets the log: what was fsynced after the last commit is lost.
///
/// # Errors
/// If a device has no good first superblock.
pub fn zero_log(devices: &Devices) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for device in devices {
        let mut sb = superblock_copy(&**device, 0)?;
        if sb.log_root.get() == 0 {
            continue;
        }
        let action = format!(
            "log_root {} of level {} is cleared; what was fsynced after the last commit is lost",
            sb.log_root, sb.log_root_level
        );
        steps.push(Step::new("log", Place::superblock_copy(device.name(), SUPERBLOCK_OFFSETS[0]), action));
        sb.log_root = 0.into();
        sb.log_root_level = 0;
        for (_, offset) in places(&**device, &sb) {
            write_superblock(&**device, offset, &sb)?;
        }
    }
    Ok(steps)
}

/// The newest good superblock of a device. The first is taken if it is good, as the kernel does: a newer one
/// further on may be what is left of an older filesystem.
pub(super) fn newest(device: &dyn BlockDevice) -> Result<Superblock> {
    if let Ok(first) = superblock_copy(device, 0) {
        let of_same = (1..SUPERBLOCK_OFFSETS.len()).filter_map(|index| superblock_copy(device, index).ok());
        let newest = of_same.filter(|sb| sb.fsid == first.fsid).max_by_key(|sb| sb.generation.get());
        return Ok(newest.filter(|sb| sb.generation.get() > first.generation.get()).unwrap_or(first));
    }
    let others = (1..SUPERBLOCK_OFFSETS.len()).filter_map(|index| superblock_copy(device, index).ok());
    others.max_by_key(|sb| sb.generation.get()).ok_or_else(|| {
        Error::Refused(format!("{}: there is no valid superblock on the device; is it Btrfs at all?", device.name()))
    })
}

/// The copies that a device has room for.
fn places(device: &dyn BlockDevice, sb: &Superblock) -> impl Iterator<Item = (usize, u64)> {
    let len = device.len().min(sb.dev_item.total_bytes.get());
    SUPERBLOCK_OFFSETS.into_iter().enumerate().filter(move |(_, offset)| offset + SUPERBLOCK_SIZE as u64 <= len)
}

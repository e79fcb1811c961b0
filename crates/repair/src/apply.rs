//! Carrying out a plan: the undo file, then the blocks, then the superblocks, each durable before the next.
//!
//! # Invariants
//! * Until the superblocks are written the old filesystem is untouched: new blocks lie in space that it does
//!   not use, and copies that are overwritten were bad.
//! * After the undo file is durable whatever happens can be undone.

use std::path::Path;

use butterfs_check::Devices;
use butterfs_volume::BlockDevice;

use crate::error::{Error, Result};
use crate::overlay::Change;
use crate::plan::{Plan, Verdict};
use crate::undo;

/// Writes a plan to the devices that it was made for, in the same order.
///
/// # Errors
/// [`Error::Refused`] if the plan is not worth it, or a device is not as long as it was; [`Error::Undo`] if the
/// undo file cannot be written: nothing is changed then. [`Error::Interrupted`] if writing stopped half-way.
pub fn apply(plan: &Plan, devices: &Devices, undo_file: &Path, fsid: [u8; 16]) -> Result<()> {
    if plan.verdict == Verdict::Refused {
        return Err(Error::Refused("the plan makes the filesystem no better; it is not carried out".into()));
    }
    if plan.verdict == Verdict::NothingToDo {
        return Ok(());
    }
    if plan.changes.len() != devices.len() {
        return Err(Error::Refused("the plan is of other devices".into()));
    }
    undo::save(undo_file, fsid, devices, &plan.changes)?;
    write(plan, devices)
        .map_err(|cause| Error::Interrupted { cause: cause.to_string(), undo: undo_file.display().to_string() })
}

fn write(plan: &Plan, devices: &Devices) -> std::io::Result<()> {
    for superblocks in [false, true] {
        for (device, changes) in devices.iter().zip(&plan.changes) {
            let part = changes.iter().filter(|change| undo::is_superblock(change) == superblocks);
            write_part(&**device, part)?;
        }
        devices.iter().try_for_each(|device| device.flush())?;
    }
    Ok(())
}

fn write_part<'a>(device: &dyn BlockDevice, changes: impl Iterator<Item = &'a Change>) -> std::io::Result<()> {
    changes.into_iter().try_for_each(|change| device.write_at(change.offset, &change.bytes))
}

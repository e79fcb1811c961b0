//! Whether a device that is back was written without the others meanwhile.
//!
//! Superblocks remember four commits. A device that missed more has a last commit that nobody tells of; so what it holds is
//! compared. Every tree block that is in use and not newer than its last commit was on it when that was made, and nobody
//! writes where a block is in use: another good block there, or the same one with other bytes, is from commits of its own.
//!
//! # Invariants
//! * Nothing was written since the devices were opened, and nothing is written here.
//!
//! # Locking
//! The trees are held shared for a window of 4 MiB.

use butterfs_format::validate::Expected;
use butterfs_format::{DevId, Generation, Logical};
use butterfs_volume::Volume;

use super::gather::{Piece, What, gather};
use super::verify::trouble_of;
use super::windows::windows;
use crate::error::Result;
use crate::tx::Gate;

/// Looks at the devices that nobody remembers the last commit of.
///
/// # Errors
/// If one of them was written without the others; those of the trees.
pub(crate) fn examine(gate: &Gate) -> Result<()> {
    gate.volume().forgotten_devices().into_iter().try_for_each(|(devid, last)| examine_device(gate, devid, last))
}

fn examine_device(gate: &Gate, devid: DevId, last: Generation) -> Result<()> {
    let volume = &**gate.volume();
    for (extent, range) in windows(volume, devid, 0..u64::MAX) {
        let parts = volume.stored_parts(&extent, range);
        let pieces = gate.view(|tx| gather(tx, &parts, volume.superblock().generation()))?;
        let old = |piece: &&Piece| matches!(piece.what, What::Block { .. }) && piece.generation <= last.0;
        if pieces.iter().filter(old).any(|piece| has_another(volume, devid, piece)) {
            return Err(volume.written_apart(devid).into());
        }
    }
    Ok(())
}

/// Whether the device has another good block where the others have this one.
fn has_another(volume: &Volume, devid: DevId, piece: &Piece) -> bool {
    let mut own = vec![0; piece.len as usize];
    if volume.read_device(devid, piece.physical, &mut own).is_err() || !is_block(volume, piece.at, None, &own) {
        return false;
    }
    let mut good = vec![0; own.len()];
    let ways = volume.copies(piece.at).unwrap_or(0);
    let is_good = |way: usize, good: &mut [u8]| {
        volume.read_copy(piece.at, good, way).is_ok()
            && is_block(volume, piece.at, Some(Generation(piece.generation)), good)
    };
    (0..ways).any(|way| is_good(way, &mut good)) && own != good
}

fn is_block(volume: &Volume, at: Logical, generation: Option<Generation>, bytes: &[u8]) -> bool {
    trouble_of(&volume.geometry(), &Expected { generation, ..Expected::at(at) }, bytes).is_none()
}

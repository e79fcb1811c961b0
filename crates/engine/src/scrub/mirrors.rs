//! Data without checksums: its copies are compared. Nobody knows which is right, so nothing is repaired.
//!
//! # Invariants
//! * Each further copy is compared with the first, once, when its own device is scrubbed.
//! * Copies that differ are read again while nobody overwrites data in place.
//! * Space that was never written may hold anything.

use std::ops::ControlFlow;

use butterfs_format::items::BlockGroupFlags;
use butterfs_format::{Logical, TreeId};
use butterfs_volume::{DeviceExtent, Profile};

use super::Run;
use super::gather::{Piece, What, is_still};
use super::load::Loaded;
use super::progress::{Remedy, ScrubFinding, Trouble};
use crate::error::Result;
use crate::file::{ExtentUse, StretchKind, users};
use crate::inode::InodeId;
use crate::subvolume::list;
use crate::tx::Transaction;

/// Compares the sectors of a piece that have no checksum with those of the first copy.
pub(super) fn compare(run: &Run<'_>, extent: &DeviceExtent, piece: &Piece, loaded: &Loaded) -> Result<()> {
    let What::Data { sums } = &piece.what else { return Ok(()) };
    if sums.iter().all(Option::is_some) || is_first_copy(run, extent) {
        return Ok(());
    }
    let mut first = vec![0; piece.len as usize];
    if run.volume.read_copy(piece.at, &mut first, 0).is_err() {
        // That is the trouble of the first copy's device.
        return Ok(());
    }
    let mut from = 0;
    for same in sums.chunk_by(|a, b| a.is_none() == b.is_none()) {
        let (start, len) = (from * run.sector, same.len() as u64 * run.sector);
        from += same.len() as u64;
        let range = start as usize..(start + len) as usize;
        if same[0].is_none() && loaded.bytes(piece.physical + start, len) != &first[range] {
            look_again(run, piece, start, len)?;
        }
    }
    Ok(())
}

fn is_first_copy(run: &Run<'_>, extent: &DeviceExtent) -> bool {
    let chunk = run.volume.chunk_containing(extent.chunk).map(|(_, chunk)| chunk.flags());
    let copies = chunk.and_then(Profile::of).map_or(1, |profile| profile.copies);
    copies < 2
        || extent.stripe.is_multiple_of(copies)
        || chunk.is_none_or(|flags| !flags.contains(BlockGroupFlags::DATA))
}

fn look_again(run: &Run<'_>, piece: &Piece, start: u64, len: u64) -> Result<()> {
    let _nobody_overwrites = run.shared.no_overwriting();
    let at = Logical(piece.at.0 + start);
    let (mut first, mut own) = (vec![0; len as usize], vec![0; len as usize]);
    let read = run.volume.read_copy(at, &mut first, 0);
    let physical = piece.physical + start;
    if read.and_then(|()| run.volume.read_device(run.devid, physical, &mut own)).is_err() {
        return Ok(());
    }
    let sector = run.sector as usize;
    let mut differs: Vec<bool> = first.chunks(sector).zip(own.chunks(sector)).map(|(a, b)| a != b).collect();
    run.gate.view(|tx| {
        let is_there = is_still(tx, piece)?;
        let trees = list::trees(tx)?;
        for (at, differs) in (at.0..).step_by(sector).zip(&mut differs).filter(|(_, differs)| **differs) {
            *differs = is_there && is_written(tx, Logical(at), &trees)?;
        }
        Ok(())
    })?;
    let mut skip = 0;
    for same in differs.chunk_by(|a, b| a == b) {
        let len = same.len() as u64 * run.sector;
        if same[0] {
            let finding = ScrubFinding {
                devid: run.devid,
                physical: physical + skip,
                len,
                logical: Some(Logical(at.0 + skip)),
                is_data: true,
                trouble: Trouble::Mirrors,
                remedy: Remedy::None,
            };
            run.monitor.report(finding, run.sector);
        }
        skip += len;
    }
    Ok(())
}

/// Whether a file has the byte at an address, and has written there.
pub(super) fn is_written(tx: &Transaction, at: Logical, trees: &[TreeId]) -> Result<bool> {
    let Some(extent) = tx.extent_containing(at)? else { return Ok(false) };
    let wanted = ExtentUse::Byte(at.0 - extent.start.0);
    for user in users::users(tx, (extent.start, extent.len), wanted, trees)? {
        let mut written = false;
        let range = user.offset..user.offset + 1;
        users::stretches(tx, InodeId::new(user.tree, user.ino), &range, |stretch| {
            written |= stretch.kind == StretchKind::Regular;
            ControlFlow::Continue(())
        })?;
        if written {
            return Ok(true);
        }
    }
    Ok(false)
}

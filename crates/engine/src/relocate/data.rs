//! One data extent: its bytes are copied, then all who refer to it refer to the copy.
//!
//! # Invariants
//! * What has a checksum is copied only if it is right by it; the copy gets the same checksums.

use butterfs_format::Logical;
use butterfs_format::checksum::Checksum;

use super::with_cost;
use crate::error::{Error, Result};
use crate::inode::Shared;
use crate::tx::{Found, Moved, Need, Profiles, Room, RowHold, Transaction};

/// So much is copied at a time.
const PIECE: u64 = 1 << 20;

/// Moves a data extent.
pub(super) fn move_extent(shared: &Shared, found: &Found, room: Room) -> Result<Moved> {
    let gate = &shared.gate;
    let Some((to, hold)) = take(shared, found.len, room)? else {
        return Err(Error::NoSpace);
    };
    let copied = copy(shared, found, to);
    drop(hold);
    let moved = copied.and_then(|sums| {
        with_cost(shared, found, |cost| gate.change(Need::Move(cost), |tx| tx.move_data(found, to, &sums, &cost)))
    });
    if !matches!(moved, Ok(Moved::Done)) {
        let given_back = gate.change(Need::Promised, |tx| {
            tx.give_back(to, found.len);
            Ok(())
        });
        // The first error is the one to tell.
        return moved.and_then(|moved| given_back.map(|()| moved));
    }
    moved
}

/// Takes space for so much, as one piece, and holds its rows: with the profile that is wished if there is room for it, or
/// can be made.
fn take(shared: &Shared, len: u64, room: Room) -> Result<Option<(Logical, Option<RowHold<'_>>)>> {
    let gate = &shared.gate;
    let taken = |only| {
        let (to, hold) = gate.take_space(|tx| tx.take_for_move(len, only))?;
        Ok::<_, Error>(to.map(|to| (to, hold)))
    };
    if let Some(taken) = taken(Profiles::Wished)? {
        return Ok(Some(taken));
    }
    if room == Room::NewChunks {
        // No hole is so long, or what there was went to others meanwhile.
        match gate.change(Need::Promised, Transaction::make_room_for_move) {
            Ok(()) | Err(Error::NoSpace) => {}
            Err(error) => return Err(error),
        }
        if let Some(taken) = taken(Profiles::Wished)? {
            return Ok(Some(taken));
        }
    }
    taken(Profiles::Any)
}

/// Copies an extent's bytes; gives the checksums of its sectors.
fn copy(shared: &Shared, found: &Found, to: Logical) -> Result<Vec<Option<Checksum>>> {
    let volume = shared.gate.volume();
    let sector = u64::from(volume.geometry().sectorsize);
    let mut all = Vec::with_capacity((found.len / sector) as usize);
    let mut buffer = vec![0; PIECE.min(found.len) as usize];
    for skip in (0..found.len).step_by(PIECE as usize) {
        let bytes = &mut buffer[..PIECE.min(found.len - skip) as usize];
        let at = Logical(found.at.0 + skip);
        let sums = shared.gate.view(|tx| tx.checksums(at, bytes.len() as u64))?;
        read(shared, at, bytes, &sums)?;
        let write = [(Logical(to.0 + skip), &*bytes)];
        match sums.iter().all(Option::is_some) {
            true => volume.write_batch(&write)?,
            false => volume.write_plain_batch(&write)?,
        }
        all.extend(sums);
    }
    Ok(all)
}

fn read(shared: &Shared, at: Logical, bytes: &mut [u8], sums: &[Option<Checksum>]) -> Result<()> {
    let volume = shared.gate.volume();
    if sums.iter().all(Option::is_none) {
        return Ok(volume.read(at, bytes)?);
    }
    let csum_type = volume.geometry().csum_type;
    let good = |sector: usize, bytes: &[u8]| match sums.get(sector) {
        Some(Some(sum)) => csum_type.compute(bytes)[..csum_type.size()] == sum[..csum_type.size()],
        _ => true,
    };
    Ok(volume.read_verified(at, bytes, &good)?)
}

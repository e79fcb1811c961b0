//! Relocation: what lies in chosen block groups is moved into others, and the groups go.
//!
//! [`GroupFilter`] says which groups; [`relocate_group`] empties one. Reclaiming nearly empty groups is built on it.
//! How single extents are moved is in [`crate::tx`]; see docs/decisions/0010-relocation.md.
//!
//! # Invariants
//! * Each step is one change behind the gate, so that every commit is of a whole filesystem, and a crash leaves a part
//!   moved and a part not.
//! * Bytes are copied when nobody can change them in place any more, and nothing refers to the copy until it is whole.
//! * A group that was moved out of stays until all have landed who may still read there.
//!
//! # Locking
//! None is held between steps, nor while a device is waited for; the caller holds none. One relocation at a time.

pub mod balance;
mod data;
mod filter;
mod tree;

use std::ops::Range;

use crate::error::{Error, Result};
use crate::inode::Shared;
use crate::tx::{Found, MoveCost, Moved, Need};

pub use crate::tx::Room;
pub use filter::GroupFilter;
pub use tree::defragment_tree;

/// What is made while a group is looked through (by writers who had begun) is found in another pass.
const PASSES: usize = 4;
/// How often a move is tried with what it turned out to cost.
const TRIES: usize = 8;

/// How the relocation of a group ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relocated {
    /// It is empty, and gone with the last commit.
    Gone,
    /// There is no room elsewhere for something in it. What was moved is moved.
    NoRoom,
    /// It was to end before that. What was moved is moved.
    Stopped,
}

/// Moves everything out of the group that begins at `start`, and has it removed, unless `stop` says that it is enough.
/// `write_back` writes out what counts on space that it has there.
pub fn relocate_group(
    shared: &Shared,
    start: u64,
    room: Room,
    stop: &dyn Fn() -> bool,
    write_back: impl Fn(),
) -> Result<Relocated> {
    let gate = &shared.gate;
    if gate.view(crate::tx::Transaction::has_dead_subvolumes)? {
        return Err(Error::Busy("a deleted subvolume is not cleaned up yet"));
    }
    let Some(range) = gate.change(Need::Promised, |tx| tx.begin_moving(start, room))? else {
        return Ok(Relocated::NoRoom);
    };
    // Who counts on preallocated space there has said so by then.
    gate.in_flight().wait_for_earlier();
    write_back();
    let result = gate.change(Need::Promised, |tx| {
        tx.close_in_place(start);
        Ok(())
    });
    let result = result.and_then(|()| empty(shared, &range, room, stop));
    // Who began before the last move has seen what was moved.
    gate.in_flight().wait_for_earlier();
    gate.change(Need::Promised, |tx| {
        tx.end_moving(start);
        Ok(())
    })?;
    let result = result?;
    gate.commit()?;
    Ok(result)
}

fn empty(shared: &Shared, range: &Range<u64>, room: Room, stop: &dyn Fn() -> bool) -> Result<Relocated> {
    let gate = &shared.gate;
    // The extent tree then knows all that is in the group, and nobody writes in place there any more.
    gate.commit()?;
    gate.in_flight().wait_for_earlier();
    for _ in 0..PASSES {
        let mut rest = range.clone();
        let mut found_any = false;
        while let Some(found) = gate.view(|tx| tx.first_extent(&rest))? {
            found_any = true;
            let moved = if stop() { Relocated::Stopped } else { move_one(shared, &found, room)? };
            if moved != Relocated::Gone {
                gate.commit()?;
                return Ok(moved);
            }
            rest.start = found.at.0 + found.len;
        }
        // What was moved is free after a commit; what was put in meanwhile, the extent tree knows after it.
        gate.commit()?;
        if !found_any {
            return Ok(Relocated::Gone);
        }
    }
    Ok(Relocated::NoRoom)
}

fn move_one(shared: &Shared, found: &Found, room: Room) -> Result<Relocated> {
    let moved = match found.level {
        Some(_) => {
            with_cost(shared, found, |cost| shared.gate.change(Need::Move(cost), |tx| tx.move_tree_block(found, &cost)))
        }
        None => data::move_extent(shared, found, room),
    };
    match moved {
        Ok(Moved::Done | Moved::Gone) => Ok(Relocated::Gone),
        Ok(Moved::Costs(_)) | Err(Error::NoSpace) => Ok(Relocated::NoRoom),
        Err(error) => Err(error),
    }
}

/// Moves with the promise that it takes, which may be more by then.
fn with_cost(shared: &Shared, found: &Found, work: impl Fn(MoveCost) -> Result<Moved>) -> Result<Moved> {
    let mut cost = shared.gate.view(|tx| tx.cost_of_moving(found))?;
    for _ in 0..TRIES {
        match work(cost)? {
            Moved::Costs(more) => cost = more,
            moved => return Ok(moved),
        }
    }
    Ok(Moved::Costs(cost))
}

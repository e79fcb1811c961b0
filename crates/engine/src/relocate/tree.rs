//! Leaves of a tree, close to each other on the device. What subvolumes share stays shared.

use butterfs_format::{Key, Logical, TreeId};

use super::with_cost;
use crate::error::{Error, Result};
use crate::inode::Shared;
use crate::tx::{Found, Moved, Need, Transaction};

/// Leaves that are no farther apart are close, as in the kernel.
const CLOSE: u64 = 32 << 10;

/// Moves those leaves of a tree that lie close to neither neighbour behind the one before; gives how many.
pub fn defragment_tree(shared: &Shared, tree: TreeId) -> Result<u64> {
    let gate = &shared.gate;
    if gate.view(Transaction::has_dead_subvolumes)? {
        return Err(Error::Busy("a deleted subvolume is not cleaned up yet"));
    }
    let len = u64::from(gate.volume().geometry().nodesize);
    let (mut from, mut before, mut moved) = (Key::MIN, None, 0);
    while let Some((at, last)) = gate.view(|tx| tx.leaf_with(tree, &from))? {
        let mut now = at;
        let after = gate.view(|tx| tx.leaf_with(tree, &last.next()))?.map(|(after, _)| after);
        // Who is close to either neighbour stays, or each leaf that moves would have the next one follow.
        let is_alone = [before, after].into_iter().flatten().all(|neighbour| is_far(neighbour, at, len));
        if before.is_some() && is_alone {
            let found = Found { at, len, level: Some(0) };
            let work = |cost| gate.change(Need::Move(cost), |tx| tx.move_tree_block(&found, &cost));
            if with_cost(shared, &found, work)? == Moved::Done {
                moved += 1;
                now = gate.view(|tx| tx.leaf_with(tree, &from))?.map_or(at, |(now, _)| now);
            }
        }
        before = Some(now);
        from = last.next();
    }
    Ok(moved)
}

fn is_far(before: Logical, at: Logical, len: u64) -> bool {
    let end = before.0 + len;
    if at.0 >= end { at.0 - end > CLOSE } else { before.0.abs_diff(at.0 + len) > CLOSE }
}

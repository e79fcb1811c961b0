//! Before a leaf is split, items go to a neighbour that has room: so leaves of keys in no order are fuller.
//!
//! Source: `push_leaf_right` and `push_leaf_left` of the kernel. Where the new item is the last of its leaf, nothing is
//! moved: keys in order leave full leaves behind.

use butterfs_format::block::ITEM_HEADER_SIZE;
use butterfs_format::{Key, Logical, TreeBlock, TreeId};

use super::{Cut, Place, TreeWriter, best_cut, writable_child};
use crate::error::Result;
use crate::tree::ChildPtr;

/// The two leaves must keep this part of one free. With less, the next insertions would move items again.
const SLACK: usize = 4;

/// Which neighbour.
#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

/// A new item for a full leaf, the slot that it gets there, and where the parent points to the leaf.
pub(super) struct NewItem<'a> {
    pub key: &'a Key,
    pub data: &'a [u8],
    pub leaf: Logical,
    pub slot: usize,
    pub parent: Logical,
    pub parent_slot: usize,
}

/// Puts an item in, if a neighbour of the leaf has room for some of its items; says whether it is done.
pub(super) fn insert_with_push<W: TreeWriter + ?Sized>(w: &mut W, tree: TreeId, new: &NewItem<'_>) -> Result<bool> {
    let last = w.writable(new.leaf).len();
    if new.slot == 0 || new.slot == last {
        return Ok(false);
    }
    let children = w.writable(new.parent).len();
    let sides = [(Side::Right, new.parent_slot + 1 < children), (Side::Left, new.parent_slot > 0)];
    for (side, _) in sides.into_iter().filter(|(_, is_there)| *is_there) {
        if let Some(cut) = room_beside(w, tree, new, side) {
            match side {
                Side::Right => push_right(w, tree, new, &cut)?,
                Side::Left => push_left(w, tree, new, &cut)?,
            }
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where to cut the leaf so that it and the neighbour get even. One that cannot be read has no room.
fn room_beside<W: TreeWriter + ?Sized>(w: &mut W, tree: TreeId, new: &NewItem<'_>, side: Side) -> Option<Cut> {
    let slot = match side {
        Side::Left => new.parent_slot - 1,
        Side::Right => new.parent_slot + 1,
    };
    let ptr = ChildPtr::of(w.writable(new.parent), slot);
    let beside = w.block(tree, &ptr).ok()?.leaf_used();
    let capacity = TreeBlock::leaf_capacity(w.nodesize());
    let need = new.data.len() + ITEM_HEADER_SIZE;
    let leaf = w.writable(new.leaf);
    if leaf.leaf_used() + need + beside > 2 * capacity - capacity / SLACK {
        return None;
    }
    let (below, above) = match side {
        Side::Left => (beside, 0),
        Side::Right => (0, beside),
    };
    best_cut(leaf, new.slot, need, (below, above))
}

/// The items behind the cut go before those of the right neighbour.
fn push_right<W: TreeWriter + ?Sized>(w: &mut W, tree: TreeId, new: &NewItem<'_>, cut: &Cut) -> Result<()> {
    let right = writable_child(w, tree, new.parent, new.parent_slot + 1)?;
    let from = w.writable(new.leaf).clone();
    let old = w.writable(right).clone();
    let into = w.writable(right);
    into.remove_items(0..old.len());
    into.append_items_of(&from, cut.keep..from.len());
    into.append_items_of(&old, 0..old.len());
    w.writable(new.leaf).remove_items(cut.keep..from.len());
    match cut.place {
        Place::Right => w.writable(right).insert_item(new.slot - cut.keep, new.key, new.data),
        _ => w.writable(new.leaf).insert_item(new.slot, new.key, new.data),
    }
    let first = w.writable(right).key(0);
    w.writable(new.parent).set_ptr_key(new.parent_slot + 1, first);
    Ok(())
}

/// The items before the cut go behind those of the left neighbour.
fn push_left<W: TreeWriter + ?Sized>(w: &mut W, tree: TreeId, new: &NewItem<'_>, cut: &Cut) -> Result<()> {
    let left = writable_child(w, tree, new.parent, new.parent_slot - 1)?;
    let from = w.writable(new.leaf).clone();
    let into = w.writable(left);
    let before = into.len();
    into.append_items_of(&from, 0..cut.keep);
    w.writable(new.leaf).remove_items(0..cut.keep);
    match cut.place {
        Place::Right => w.writable(new.leaf).insert_item(new.slot - cut.keep, new.key, new.data),
        _ => w.writable(left).insert_item(before + new.slot, new.key, new.data),
    }
    let first = w.writable(new.leaf).key(0);
    w.writable(new.parent).set_ptr_key(new.parent_slot, first);
    Ok(())
}

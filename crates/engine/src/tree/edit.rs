//! Edits of a tree: put items in, change them, take them out.
//!
//! # Invariants
//! * The key in a node's slot is the first key of the child, exactly.
//! * Every block on the way to a changed item is writable before the item is touched.
//! * On the way to an insertion each full node is split first, so that a split below always finds
//!   room for its new pointers above.
//! * No block is left empty but the root leaf; small neighbours are joined.
//! * A leaf is split only where its neighbours have no room ([`push`]).

use butterfs_format::block::{ITEM_HEADER_SIZE, KeyPtr};
use butterfs_format::{Key, Logical, TreeBlock, TreeId};

use self::push::{NewItem, insert_with_push};
use super::{ChildPtr, TreeWriter};
use crate::error::{Error, Result};

mod push;

/// A writable path from the root to a leaf: addresses, and the slot taken in each.
struct Path {
    steps: Vec<(Logical, usize)>,
    found: bool,
}

impl Path {
    fn leaf(&self) -> (Logical, usize) {
        *self.steps.last().expect("a path has at least the root")
    }
}

/// Room that a node must have for a split of one child: a leaf can become three.
const SPLIT_ROOM: usize = 2;

/// Puts a new item in.
///
/// # Errors
/// [`Error::Exists`] if there is one with this key: the tree's items are unchanged then.
pub fn insert<W: TreeWriter + ?Sized>(w: &mut W, tree: TreeId, key: &Key, data: &[u8]) -> Result<()> {
    check_fits(w, data.len())?;
    let path = descend(w, tree, key, Intent::Grow)?;
    if path.found {
        return Err(Error::Exists);
    }
    insert_at(w, tree, path, key, data)
}

/// Puts an item in, in place of one with the same key.
pub fn put<W: TreeWriter + ?Sized>(w: &mut W, tree: TreeId, key: &Key, data: &[u8]) -> Result<()> {
    check_fits(w, data.len())?;
    let path = descend(w, tree, key, Intent::Grow)?;
    if !path.found {
        return insert_at(w, tree, path, key, data);
    }
    let (at, slot) = path.leaf();
    let leaf = w.writable(at);
    let old = leaf.data(slot).len();
    if data.len() > old && leaf.leaf_free() < data.len() - old {
        // Without the old item the leaf splits as for any other insertion.
        leaf.remove_items(slot..slot + 1);
        return insert_at(w, tree, path, key, data);
    }
    if data.len() != old {
        leaf.resize_item(slot, data.len());
    }
    leaf.data_mut(slot).copy_from_slice(data);
    Ok(())
}

/// Puts bytes behind those of an item, or makes the item of them; `false` if it would be longer than `most`: then the
/// tree's items are unchanged.
pub fn extend<W: TreeWriter + ?Sized>(w: &mut W, tree: TreeId, key: &Key, data: &[u8], most: usize) -> Result<bool> {
    let path = descend(w, tree, key, Intent::Grow)?;
    if !path.found {
        let fits = data.len() <= most;
        return if fits { insert_at(w, tree, path, key, data).map(|()| true) } else { Ok(false) };
    }
    let (at, slot) = path.leaf();
    let leaf = w.writable(at);
    let old = leaf.data(slot).len();
    if old + data.len() > most {
        return Ok(false);
    }
    if leaf.leaf_free() < data.len() {
        let whole = [leaf.data(slot), data].concat();
        return put(w, tree, key, &whole).map(|()| true);
    }
    leaf.resize_item(slot, old + data.len());
    leaf.data_mut(slot)[old..].copy_from_slice(data);
    Ok(true)
}

/// Changes an item's bytes in place; says whether there was one.
pub fn update<W: TreeWriter + ?Sized>(
    w: &mut W,
    tree: TreeId,
    key: &Key,
    change: impl FnOnce(&mut [u8]),
) -> Result<bool> {
    let path = descend(w, tree, key, Intent::Keep)?;
    if path.found {
        let (at, slot) = path.leaf();
        change(w.writable(at).data_mut(slot));
    }
    Ok(path.found)
}

/// Makes all blocks on the way to a key writable, and changes nothing in them.
pub fn touch<W: TreeWriter + ?Sized>(w: &mut W, tree: TreeId, key: &Key) -> Result<()> {
    descend(w, tree, key, Intent::Keep).map(drop)
}

/// Takes an item out; says whether there was one.
pub fn remove<W: TreeWriter + ?Sized>(w: &mut W, tree: TreeId, key: &Key) -> Result<bool> {
    let path = descend(w, tree, key, Intent::Keep)?;
    if !path.found {
        return Ok(false);
    }
    let (at, slot) = path.leaf();
    w.writable(at).remove_items(slot..slot + 1);
    shrink(w, tree, path.steps)?;
    Ok(true)
}

fn check_fits<W: TreeWriter + ?Sized>(w: &W, len: usize) -> Result<()> {
    let fits = len + ITEM_HEADER_SIZE <= TreeBlock::leaf_capacity(w.nodesize());
    if fits { Ok(()) } else { Err(Error::DoesNotFit) }
}

/// Whether a descent must leave room for splits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Intent {
    Grow,
    Keep,
}

/// Goes to `key`, making every block on the way writable.
fn descend<W: TreeWriter + ?Sized>(w: &mut W, tree: TreeId, key: &Key, intent: Intent) -> Result<Path> {
    let root = w.root(tree)?;
    let mut at = w.make_writable(tree, &root.into())?;
    if at != root.bytenr || root.generation != w.generation() {
        w.set_root(tree, at, root.level);
    }
    if intent == Intent::Grow {
        at = split_full_root(w, tree, at)?;
    }
    let mut steps = Vec::with_capacity(usize::from(root.level) + 2);
    loop {
        let node = w.writable(at);
        if node.is_leaf() {
            break;
        }
        let mut slot = node.child_slot(key);
        let ptr = ChildPtr::of(node, slot);
        let mut child = writable_below(w, tree, (at, slot), &ptr)?;
        if intent == Intent::Grow && ptr.level > 0 && is_full_node(w, child) {
            split_node(w, tree, (at, slot), child)?;
            slot = w.writable(at).child_slot(key);
            child = Logical(w.writable(at).ptr(slot).blockptr.get());
        }
        steps.push((at, slot));
        at = child;
    }
    let (slot, found) = match w.writable(at).search(key) {
        Ok(slot) => (slot, true),
        Err(slot) => (slot, false),
    };
    steps.push((at, slot));
    Ok(Path { steps, found })
}

/// Makes the child in a slot of a writable node writable, and points to it.
fn writable_child<W: TreeWriter + ?Sized>(w: &mut W, tree: TreeId, parent: Logical, slot: usize) -> Result<Logical> {
    let ptr = ChildPtr::of(w.writable(parent), slot);
    writable_below(w, tree, (parent, slot), &ptr)
}

/// The same for a caller who knows the pointer.
fn writable_below<W: TreeWriter + ?Sized>(
    w: &mut W,
    tree: TreeId,
    (parent, slot): (Logical, usize),
    ptr: &ChildPtr,
) -> Result<Logical> {
    let at = w.make_writable(tree, ptr)?;
    let generation = w.generation();
    if at != ptr.bytenr || generation != ptr.generation {
        let node = w.writable(parent);
        let new = KeyPtr { blockptr: at.0.into(), generation: generation.0.into(), ..*node.ptr(slot) };
        node.set_ptr(slot, new);
    }
    Ok(at)
}

fn is_full_node<W: TreeWriter + ?Sized>(w: &mut W, at: Logical) -> bool {
    let most = TreeBlock::node_capacity(w.nodesize());
    let block = w.writable(at);
    !block.is_leaf() && block.len() + SPLIT_ROOM > most
}

/// If the root is a full node, puts a new root above it and splits it.
fn split_full_root<W: TreeWriter + ?Sized>(w: &mut W, tree: TreeId, at: Logical) -> Result<Logical> {
    if !is_full_node(w, at) {
        return Ok(at);
    }
    let root = add_root(w, tree, at)?;
    split_node(w, tree, (root, 0), at)?;
    Ok(root)
}

/// Puts a new root above the present one.
fn add_root<W: TreeWriter + ?Sized>(w: &mut W, tree: TreeId, below: Logical) -> Result<Logical> {
    let (key, level) = (w.writable(below).key(0), w.writable(below).level() + 1);
    if level >= butterfs_format::block::MAX_LEVEL {
        return Err(Error::NoSpace);
    }
    let root = w.allocate(tree, level, key)?;
    let ptr = pointer_to(w, below, key);
    w.writable(root).insert_ptrs(0, &[ptr]);
    w.set_root(tree, root, level);
    Ok(root)
}

fn pointer_to<W: TreeWriter + ?Sized>(w: &W, at: Logical, key: Key) -> KeyPtr {
    KeyPtr { key: key.into(), blockptr: at.0.into(), generation: w.generation().0.into() }
}

/// Moves the upper half of a node into a new one, to the right of it in the parent.
fn split_node<W: TreeWriter + ?Sized>(
    w: &mut W,
    tree: TreeId,
    (parent, slot): (Logical, usize),
    at: Logical,
) -> Result<()> {
    let node = w.writable(at);
    let (len, level) = (node.len(), node.level());
    let middle = len / 2;
    let (key, moved) = (node.key(middle), node.ptrs(middle..len));
    let right = w.allocate(tree, level, key)?;
    w.writable(right).insert_ptrs(0, &moved);
    w.writable(at).remove_ptrs(middle..len);
    let ptr = pointer_to(w, right, key);
    w.writable(parent).insert_ptrs(slot + 1, &[ptr]);
    Ok(())
}

/// Puts an item where the path ends, splitting the leaf if it must.
fn insert_at<W: TreeWriter + ?Sized>(w: &mut W, tree: TreeId, path: Path, key: &Key, data: &[u8]) -> Result<()> {
    let (at, slot) = path.leaf();
    let mut steps = path.steps;
    if w.writable(at).leaf_free() < data.len() + ITEM_HEADER_SIZE {
        return insert_with_split(w, tree, steps, key, data);
    }
    w.writable(at).insert_item(slot, key, data);
    steps.pop();
    if slot == 0 {
        lower_first_key(w, &steps, *key);
    }
    Ok(())
}

/// A child's first key became lower: its parents say so too.
fn lower_first_key<W: TreeWriter + ?Sized>(w: &mut W, parents: &[(Logical, usize)], key: Key) {
    for (at, slot) in parents.iter().rev() {
        w.writable(*at).set_ptr_key(*slot, key);
        if *slot != 0 {
            return;
        }
    }
}

/// Makes room for the item: by moving others to a neighbour, or else by splitting the leaf into two, or into three when
/// a large item goes in the middle of large neighbours.
fn insert_with_split<W: TreeWriter + ?Sized>(
    w: &mut W,
    tree: TreeId,
    mut steps: Vec<(Logical, usize)>,
    key: &Key,
    data: &[u8],
) -> Result<()> {
    let (at, slot) = steps.pop().expect("a path has at least the root");
    if steps.is_empty() {
        steps.push((add_root(w, tree, at)?, 0));
    }
    let (parent, parent_slot) = *steps.last().expect("there is a parent now");
    if insert_with_push(w, tree, &NewItem { key, data, leaf: at, slot, parent, parent_slot })? {
        return Ok(());
    }
    let need = data.len() + ITEM_HEADER_SIZE;
    let cut = split_point(w.writable(at), slot, need);
    // The item goes alone into the middle if it fits into neither half.
    let mut targets = Vec::with_capacity(3);
    if cut.keep < w.writable(at).len() {
        let right = move_tail(w, tree, at, cut.keep)?;
        targets.push(right);
    }
    if cut.place == Place::Own {
        let middle = w.allocate(tree, 0, *key)?;
        w.writable(middle).insert_item(0, key, data);
        targets.insert(0, (middle, *key));
    }
    if cut.place == Place::Right {
        let right = targets.last_mut().expect("a right half was made");
        w.writable(right.0).insert_item(slot - cut.keep, key, data);
        right.1 = w.writable(right.0).key(0);
    }
    let ptrs: Vec<KeyPtr> = targets.iter().map(|(new, first)| pointer_to(w, *new, *first)).collect();
    w.writable(parent).insert_ptrs(parent_slot + 1, &ptrs);
    if cut.place == Place::Left {
        w.writable(at).insert_item(slot, key, data);
        if slot == 0 {
            lower_first_key(w, &steps, *key);
        }
    }
    Ok(())
}

/// Moves the items from `from` on into a new leaf; gives it and its first key.
fn move_tail<W: TreeWriter + ?Sized>(w: &mut W, tree: TreeId, at: Logical, from: usize) -> Result<(Logical, Key)> {
    let old = w.writable(at).clone();
    let key = old.key(from);
    let right = w.allocate(tree, 0, key)?;
    w.writable(right).append_items_of(&old, from..old.len());
    w.writable(at).remove_items(from..old.len());
    Ok((right, key))
}

/// Where a new item goes when a leaf is split.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Left,
    Own,
    Right,
}

struct Cut {
    /// How many items stay in the left leaf.
    keep: usize,
    place: Place,
}

/// Where to cut a leaf so that an item of `need` bytes (header included) fits at `slot`.
fn split_point(leaf: &TreeBlock, slot: usize, need: usize) -> Cut {
    let len = leaf.len();
    if slot == len {
        // Appending: leave the full leaf as it is, which keeps sequential keys dense.
        return Cut { keep: len, place: Place::Own };
    }
    if slot == 0 {
        // In front of all: the old items move to the right as they are.
        return Cut { keep: 0, place: Place::Left };
    }
    best_cut(leaf, slot, need, (0, 0)).unwrap_or(Cut { keep: slot, place: Place::Own })
}

/// Where to cut a leaf in two with an item of `need` bytes at `slot`, so that both parts fit into a leaf, together with what
/// is there before the first and behind the second, and are as even as can be.
fn best_cut(leaf: &TreeBlock, slot: usize, need: usize, (below, above): (usize, usize)) -> Option<Cut> {
    let len = leaf.len();
    let capacity = TreeBlock::leaf_capacity(leaf.bytes().len());
    let size = |slot: usize| leaf.data(slot).len() + ITEM_HEADER_SIZE;
    let total: usize = below + (0..len).map(size).sum::<usize>() + need + above;
    let mut left = below;
    let mut best: Option<(usize, Cut)> = None;
    for keep in 1..len {
        left += size(keep - 1);
        for place in [Place::Left, Place::Right] {
            let with = left + if place == Place::Left { need } else { 0 };
            let fits = with <= capacity && total - with <= capacity;
            let in_place = if place == Place::Left { slot <= keep } else { slot >= keep };
            let skew = with.abs_diff(total - with);
            if fits && in_place && best.as_ref().is_none_or(|(s, _)| skew < *s) {
                best = Some((skew, Cut { keep, place }));
            }
        }
    }
    best.map(|(_, cut)| cut)
}

/// After a removal: joins small blocks with a neighbour, drops empty ones, lowers the tree.
fn shrink<W: TreeWriter + ?Sized>(w: &mut W, tree: TreeId, mut steps: Vec<(Logical, usize)>) -> Result<()> {
    while let Some((at, slot)) = steps.pop() {
        let Some((parent, parent_slot)) = steps.last().copied() else {
            return lower_tree(w, tree, at);
        };
        if w.writable(at).is_empty() {
            w.writable(parent).remove_ptrs(parent_slot..parent_slot + 1);
            w.free(tree, at)?;
            raise_first_key(w, &mut steps);
            continue;
        }
        if slot == 0 {
            let first = w.writable(at).key(0);
            lower_first_key(w, &steps, first);
        }
        if !is_small(w, at) || !join(w, tree, parent, parent_slot)? {
            // Whatever is above did not shrink, but a root with one child still can go.
            steps.truncate(1);
            if let Some((root, _)) = steps.first().copied() {
                return lower_tree(w, tree, root);
            }
            return Ok(());
        }
        // The parent lost a pointer; its first key is as it was or was set by the join.
        steps.last_mut().expect("there is a parent").1 = 0;
        refresh_first_key(w, &steps);
    }
    Ok(())
}

/// The first pointer of a node may have gone: its parents learn the new first key.
fn raise_first_key<W: TreeWriter + ?Sized>(w: &mut W, steps: &mut [(Logical, usize)]) {
    if let Some(last) = steps.last_mut() {
        last.1 = 0;
    }
    refresh_first_key(w, steps);
}

/// Sets the first key of the last block of the path in all above it.
fn refresh_first_key<W: TreeWriter + ?Sized>(w: &mut W, steps: &[(Logical, usize)]) {
    let Some(((at, _), parents)) = steps.split_last() else { return };
    if !w.writable(*at).is_empty() {
        let first = w.writable(*at).key(0);
        lower_first_key(w, parents, first);
    }
}

fn is_small<W: TreeWriter + ?Sized>(w: &mut W, at: Logical) -> bool {
    let nodesize = w.nodesize();
    let block = w.writable(at);
    if block.is_leaf() {
        block.leaf_used() < TreeBlock::leaf_capacity(nodesize) / 3
    } else {
        block.len() < TreeBlock::node_capacity(nodesize) / 4
    }
}

/// Joins the child in `slot` with its right or left neighbour, if both fit into one block.
fn join<W: TreeWriter + ?Sized>(w: &mut W, tree: TreeId, parent: Logical, slot: usize) -> Result<bool> {
    let len = w.writable(parent).len();
    let pairs = [(slot > 0).then(|| slot - 1), (slot + 1 < len).then_some(slot)];
    for left_slot in pairs.into_iter().flatten() {
        if fit_together(w, tree, parent, left_slot)? {
            join_pair(w, tree, parent, left_slot)?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the children in a slot and the next one fit into one block.
fn fit_together<W: TreeWriter + ?Sized>(w: &mut W, tree: TreeId, parent: Logical, slot: usize) -> Result<bool> {
    let ptrs = [ChildPtr::of(w.writable(parent), slot), ChildPtr::of(w.writable(parent), slot + 1)];
    let (left, right) = (w.block(tree, &ptrs[0])?, w.block(tree, &ptrs[1])?);
    let nodesize = w.nodesize();
    Ok(if left.is_leaf() {
        left.leaf_used() + right.leaf_used() <= TreeBlock::leaf_capacity(nodesize)
    } else {
        left.len() + right.len() + SPLIT_ROOM <= TreeBlock::node_capacity(nodesize)
    })
}

fn join_pair<W: TreeWriter + ?Sized>(w: &mut W, tree: TreeId, parent: Logical, slot: usize) -> Result<()> {
    let left = writable_child(w, tree, parent, slot)?;
    let right = writable_child(w, tree, parent, slot + 1)?;
    let from = w.writable(right).clone();
    let into = w.writable(left);
    if from.is_leaf() {
        into.append_items_of(&from, 0..from.len());
    } else {
        let len = into.len();
        into.insert_ptrs(len, &from.ptrs(0..from.len()));
    }
    w.writable(parent).remove_ptrs(slot + 1..slot + 2);
    w.free(tree, right)
}

/// While the root is a node with a single child, makes the child the root; an empty root node
/// becomes an empty leaf.
fn lower_tree<W: TreeWriter + ?Sized>(w: &mut W, tree: TreeId, mut root: Logical) -> Result<()> {
    loop {
        let (level, len) = (w.writable(root).level(), w.writable(root).len());
        if level == 0 || len > 1 {
            return Ok(());
        }
        let below = if len == 1 { writable_child(w, tree, root, 0)? } else { w.allocate(tree, 0, Key::MIN)? };
        let below_level = w.writable(below).level();
        w.set_root(tree, below, below_level);
        w.free(tree, root)?;
        root = below;
    }
}

#[cfg(test)]
mod tests;

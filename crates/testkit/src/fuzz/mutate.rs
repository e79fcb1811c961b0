//! Makes inputs: changes of structure (keys, items, pointers) and of bytes, given as the bytes that differ.

use butterfs_format::block::{HEADER_SIZE, ITEM_HEADER_SIZE, KEY_PTR_SIZE, KeyPtr};
use butterfs_format::superblock::SUPERBLOCK_SIZE;
use butterfs_format::{ItemType, Key, TreeBlock};

use super::base::Base;
use super::input::{Change, Input, Kind, Recipe};
use super::numbers::{disturb, number};
use super::{send, streams};
use crate::random::Random;

/// Changes that a recipe has at most: one of many is no better than one of a few.
const MOST_CHANGES: usize = 24;
/// Differences that are so near to each other are one.
const NEAR: usize = 8;
/// The checksum is made right anyway.
const CSUM: usize = 32;
/// Where the fields of a superblock end and the system chunks begin; and where most of those end.
const SYSTEM_CHUNKS: usize = 0x32b;
const SYSTEM_CHUNKS_END: usize = SYSTEM_CHUNKS + 260;

/// A new input of a kind, out of nothing but a base.
pub fn fresh(random: &mut Random, kind: Kind, bases: &[Base]) -> Input {
    let base = random.pick(bases).expect("there are bases");
    let empty = Recipe { base: base.name.clone(), changes: Vec::new() };
    match kind {
        Kind::Superblock => Input::Superblock(superblock(random, base, &empty)),
        Kind::Block => Input::Block(block(random, base, &empty)),
        Kind::Item => item(random, base),
        Kind::Stream => streams::bad(random),
        Kind::Send => send::bad(random),
        Kind::Image => Input::Image(image(random, base, &empty)),
    }
}

/// An input with one more thing wrong.
pub fn more(random: &mut Random, input: &Input, bases: &[Base]) -> Input {
    let base = |recipe: &Recipe| bases.iter().find(|base| base.name == recipe.base);
    match input {
        Input::Item { owner, key, data } => {
            let mut data = data.clone();
            disturb(random, &mut data);
            Input::Item { owner: *owner, key: *key, data }
        }
        Input::Stream { compression, sectorsize, room, bytes } => {
            let mut bytes = bytes.clone();
            streams::damage(random, &mut bytes);
            Input::Stream { compression: *compression, sectorsize: *sectorsize, room: *room, bytes }
        }
        Input::Send(bytes) => {
            let mut bytes = bytes.clone();
            send::damage(random, &mut bytes);
            Input::Send(bytes)
        }
        Input::Superblock(recipe) | Input::Block(recipe) | Input::Image(recipe) => {
            let Some(base) = base(recipe).filter(|_| recipe.changes.len() < MOST_CHANGES) else {
                return fresh(random, input.kind(), bases);
            };
            let changed = match input.kind() {
                Kind::Superblock => superblock(random, base, recipe),
                Kind::Block => block(random, base, recipe),
                _ => image(random, base, recipe),
            };
            input.with_recipe(changed)
        }
    }
}

fn with(recipe: &Recipe, changes: Vec<Change>) -> Recipe {
    Recipe { base: recipe.base.clone(), changes: [recipe.changes.clone(), changes].concat() }
}

/// The runs of bytes that differ: offset and new bytes.
fn differences(old: &[u8], new: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let differing = (CSUM..old.len()).filter(|at| old[*at] != new[*at]);
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for at in differing {
        match runs.last_mut().filter(|run| at - run.end < NEAR) {
            Some(run) => run.end = at + 1,
            None => runs.push(at..at + 1),
        }
    }
    runs.into_iter().map(|run| (run.start, new[run].to_vec())).collect()
}

fn superblock(random: &mut Random, base: &Base, recipe: &Recipe) -> Recipe {
    let old = base.changed_superblock(recipe, base.superblock.bytenr.get());
    let mut new = old.clone();
    for _ in 0..random.between(1, 2) {
        let range = match random.below(10) {
            0..5 => CSUM..SYSTEM_CHUNKS,
            5..9 => SYSTEM_CHUNKS..SYSTEM_CHUNKS_END,
            _ => SYSTEM_CHUNKS..SUPERBLOCK_SIZE,
        };
        disturb(random, &mut new[range]);
    }
    let changes = differences(&old, &new).into_iter().map(|(at, bytes)| Change::Super { at, bytes });
    with(recipe, changes.collect())
}

fn block(random: &mut Random, base: &Base, recipe: &Recipe) -> Recipe {
    // One block alone is looked at.
    let chosen = recipe.changes.iter().find_map(|change| match change {
        Change::Block { bytenr, .. } => Some(*bytenr),
        Change::Super { .. } => None,
    });
    let bytenr = chosen.unwrap_or_else(|| pick_block(random, base));
    with(recipe, changed_block(random, base, recipe, bytenr))
}

fn image(random: &mut Random, base: &Base, recipe: &Recipe) -> Recipe {
    if random.percent(8) {
        return superblock(random, base, recipe);
    }
    let mut recipe = recipe.clone();
    for _ in 0..random.between(1, 3) {
        let bytenr = pick_block(random, base);
        recipe = with(&recipe, changed_block(random, base, &recipe, bytenr));
    }
    recipe
}

fn pick_block(random: &mut Random, base: &Base) -> u64 {
    let number = random.below(base.blocks.len() as u64) as usize;
    *base.blocks.keys().nth(number).expect("there are blocks")
}

fn changed_block(random: &mut Random, base: &Base, recipe: &Recipe, bytenr: u64) -> Vec<Change> {
    let Some(old) = base.changed_block(recipe, bytenr) else { return Vec::new() };
    let mut new = old.clone();
    let other = &base.blocks[&pick_block(random, base)].block;
    for _ in 0..random.between(1, 2) {
        change_block(random, &mut new, other);
    }
    let differing = differences(old.bytes(), new.bytes()).into_iter();
    differing.map(|(at, bytes)| Change::Block { bytenr, at, bytes }).collect()
}

/// Whether slots of a block can be looked at: what was changed before may have changed how many there are.
fn is_sound(block: &TreeBlock) -> bool {
    let size = block.bytes().len();
    if !block.is_leaf() {
        return block.len() <= TreeBlock::node_capacity(size) && !block.is_empty();
    }
    let capacity = TreeBlock::leaf_capacity(size);
    let mut end = capacity;
    !block.is_empty()
        && block.len() <= capacity / ITEM_HEADER_SIZE
        && (0..block.len()).all(|slot| {
            let item = block.item(slot);
            let (from, len) = (item.offset.get() as usize, item.size.get() as usize);
            let sound = from + len == end && from >= block.len() * ITEM_HEADER_SIZE;
            end = from;
            sound
        })
}

fn change_block(random: &mut Random, block: &mut TreeBlock, other: &TreeBlock) {
    if random.percent(6) {
        return disturb(random, &mut block.bytes_mut()[CSUM..HEADER_SIZE]);
    }
    if !is_sound(block) {
        return disturb(random, &mut block.bytes_mut()[CSUM..]);
    }
    if block.is_leaf() { change_leaf(random, block, other) } else { change_node(random, block, other) }
}

fn change_node(random: &mut Random, node: &mut TreeBlock, other: &TreeBlock) {
    let slot = random.below(node.len() as u64) as usize;
    match random.below(5) {
        0 => node.remove_ptrs(slot..slot + 1),
        // To a block that is there, as that block wants to be pointed to.
        1 => {
            let header = other.header();
            let (blockptr, generation) = (header.bytenr, header.generation);
            let key = if other.is_empty() { node.key(slot) } else { other.key(0) };
            node.set_ptr(slot, KeyPtr { key: key.into(), blockptr, generation });
        }
        2 => node.set_ptr(slot, KeyPtr { blockptr: other.header().bytenr, ..*node.ptr(slot) }),
        _ => {
            let start = HEADER_SIZE + slot * KEY_PTR_SIZE;
            disturb(random, &mut node.bytes_mut()[start..start + KEY_PTR_SIZE]);
        }
    }
}

fn change_leaf(random: &mut Random, leaf: &mut TreeBlock, other: &TreeBlock) {
    let slot = random.below(leaf.len() as u64) as usize;
    match random.below(12) {
        0 => leaf.remove_items(slot..slot + 1),
        1 => {
            let size = number(random, leaf.data(slot).len() as u64, 1) as usize;
            if size <= leaf.data(slot).len() || size - leaf.data(slot).len() <= leaf.leaf_free() {
                leaf.resize_item(slot, size);
            }
        }
        2 => key(random, leaf, slot),
        3 => graft(random, leaf, other),
        4 => {
            let from = random.below(leaf.len() as u64) as usize;
            let bytes = leaf.data(from).to_vec();
            let len = bytes.len().min(leaf.data(slot).len());
            leaf.data_mut(slot)[..len].copy_from_slice(&bytes[..len]);
        }
        5 => {
            let start = HEADER_SIZE + slot * ITEM_HEADER_SIZE;
            disturb(random, &mut leaf.bytes_mut()[start..start + ITEM_HEADER_SIZE]);
        }
        6 => disturb(random, &mut leaf.bytes_mut()[CSUM..]),
        _ => disturb(random, leaf.data_mut(slot)),
    }
}

/// Another key that is still in order, if there is one.
fn key(random: &mut Random, leaf: &mut TreeBlock, slot: usize) {
    let old = leaf.key(slot);
    let new = match random.below(3) {
        0 => Key { objectid: number(random, old.objectid, 8), ..old },
        1 => Key { item_type: ItemType(number(random, old.item_type.0.into(), 1) as u8), ..old },
        _ => Key { offset: number(random, old.offset, 8), ..old },
    };
    let above = slot == 0 || leaf.key(slot - 1) < new;
    let below = slot + 1 == leaf.len() || new < leaf.key(slot + 1);
    if above && below {
        leaf.set_item_key(slot, new);
    }
}

/// An item of another leaf, put where it belongs or under a key that is near.
fn graft(random: &mut Random, leaf: &mut TreeBlock, other: &TreeBlock) {
    if !other.is_leaf() || other.is_empty() {
        return;
    }
    let from = random.below(other.len() as u64) as usize;
    let (mut key, data) = (other.key(from), other.data(from));
    if random.percent(50) {
        key.objectid = leaf.key(random.below(leaf.len() as u64) as usize).objectid;
    }
    if let Err(slot) = leaf.search(&key)
        && leaf.leaf_free() >= data.len() + ITEM_HEADER_SIZE
    {
        leaf.insert_item(slot, &key, data);
    }
}

/// An item of a base, or one of a kind that the bases have not.
fn item(random: &mut Random, base: &Base) -> Input {
    let leaf = &base.blocks[&pick_block(random, base)].block;
    if random.percent(70) && leaf.is_leaf() && !leaf.is_empty() {
        let slot = random.below(leaf.len() as u64) as usize;
        let mut data = leaf.data(slot).to_vec();
        for _ in 0..random.between(1, 3) {
            match random.below(6) {
                0 => data.truncate(random.below(data.len() as u64 + 1) as usize),
                1 => data.extend(random.bytes(3)),
                _ => disturb(random, &mut data),
            }
        }
        let mut key = leaf.key(slot);
        if random.percent(20) {
            key.offset = number(random, key.offset, 8);
        }
        return Input::Item { owner: leaf.owner().0, key, data };
    }
    let owner = number(random, 5, 1);
    let key = Key::new(number(random, 256, 8), ItemType(random.bits() as u8), number(random, 0, 8));
    let most = *random.pick(&[8, 64, 200, 500]).expect("there are lengths");
    let len = random.below(most) as usize;
    let mut data = if random.percent(50) { vec![0; len] } else { random.bytes(len) };
    for _ in 0..random.below(6) {
        disturb(random, &mut data);
    }
    Input::Item { owner, key, data }
}

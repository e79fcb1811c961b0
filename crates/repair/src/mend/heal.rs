//! What there is of a damaged block: good content under whatever is wrong with it.
//!
//! In this order: the checksum names a wrong bit; two copies make a good one together; one fact about the block
//! (generation, level, owner, first key, address, filesystem) is wrong in it or in its parent, and all others
//! agree; the structure of a leaf is mended item by item, that of a node by asking its children.

use butterfs_format::block::{FLAG_RELOC, FLAG_WRITTEN, KeyPtr, MIXED_BACKREF_REV};
use butterfs_format::validate::{Checksum, Expected, Geometry, check_block, check_structure};
use butterfs_format::{Key, Logical, TreeBlock, TreeId};

use super::flip;
use super::salvage::{Bounds, Fit, Salvaged, salvage_leaf};
use super::sums;
use crate::store::Store;
use crate::survey::{Damage, header_problem};

/// A block that could be made good.
#[derive(Clone, Debug)]
pub struct Healed {
    /// Its content; address and generation are set when it is put down.
    pub block: TreeBlock,
    /// What was set right, in words.
    pub words: String,
    /// Keys of items or children that are lost.
    pub lost: Vec<Key>,
    /// Keys of items of which something was guessed.
    pub guessed: Vec<Key>,
}

impl Healed {
    /// Nothing was guessed, and nothing is lost.
    fn whole(block: &TreeBlock, words: String) -> Self {
        Self { block: block.clone(), words, lost: Vec::new(), guessed: Vec::new() }
    }
}

/// Makes a damaged block good, if there is a way that does not guess. All its keys must be below `end`.
pub fn heal(store: &Store, damage: &Damage, end: Option<Key>) -> Option<Healed> {
    let geometry = store.geometry();
    let expected = &damage.expected;
    let copies = raw_copies(store, expected.bytenr);
    let readable = readable(&copies, geometry);
    let exact = readable.iter().find(|(block, _)| is_right(block, geometry, expected, end));
    if let Some((block, words)) = exact {
        return Some(Healed::whole(block, words.to_string()));
    }
    if damage.parent.is_none()
        && let Some(healed) = root(&readable, geometry, expected)
    {
        return Some(healed);
    }
    let unsealed = copies.iter().find(|block| {
        let without = flip::has_no_checksum(block) && is_right(block, geometry, expected, end);
        without && check_block(block, geometry, expected, Checksum::Skip).is_ok()
    });
    if let Some(block) = unsealed {
        let words = "its checksum was wiped out; all else is right, and is kept".to_owned();
        return Some(Healed::whole(block, words));
    }
    readable.iter().find_map(|(block, words)| adopt(store, block, words, damage, end))
}

/// Of a root the block knows best which level and generation it has.
fn root(readable: &[(TreeBlock, &'static str)], geometry: &Geometry, expected: &Expected) -> Option<Healed> {
    let words = [
        ("its level is not what the root item says, all else is right", Expected { level: None, ..*expected }),
        (
            "its generation is not what the root item says, all else is right",
            Expected { generation: None, ..*expected },
        ),
    ];
    words.iter().find_map(|(words, expected)| {
        let (block, _) = readable.iter().find(|(block, _)| is_right(block, geometry, expected, None))?;
        Some(Healed::whole(block, (*words).to_owned()))
    })
}

fn raw_copies(store: &Store, at: Logical) -> Vec<TreeBlock> {
    let count = store.volume().copies(at).unwrap_or(0);
    (0..count).filter_map(|copy| store.read_raw(at, copy).ok()).collect()
}

/// Copies whose checksum is right, or can be made so.
fn readable(copies: &[TreeBlock], geometry: &Geometry) -> Vec<(TreeBlock, &'static str)> {
    let mut found = Vec::new();
    for block in copies {
        if geometry.csum_type.matches_block(block.bytes()) {
            found.push((block.clone(), ""));
        } else if let Some(block) = flip::correct_one_bit(block, geometry) {
            found.push((block, "its checksum tells the one bit that was wrong"));
        }
    }
    if let (true, [one, other, ..]) = (found.is_empty(), copies)
        && let Some(block) = flip::mixed(one, other, geometry)
    {
        found.push((block, "the good sectors of two bad copies make a good one"));
    }
    found
}

fn is_right(block: &TreeBlock, geometry: &Geometry, expected: &Expected, end: Option<Key>) -> bool {
    let structure = check_structure(block, geometry, expected, Checksum::Skip);
    structure.is_ok() && header_problem(expected, block).is_none() && is_below(block, end)
}

fn is_below(block: &TreeBlock, end: Option<Key>) -> bool {
    block.is_empty() || end.is_none_or(|end| block.key(block.len() - 1) < end)
}

/// Takes a block of which one fact is not what its parent says, with its structure mended.
fn adopt(store: &Store, block: &TreeBlock, words: &str, damage: &Damage, end: Option<Key>) -> Option<Healed> {
    let (fixed, mut told) = known_by_all_but_one(store, block, &damage.expected)?;
    let geometry = store.geometry();
    let Expected { level, owner, .. } = damage.expected;
    let place = Expected { level, owner, ..Expected::at(damage.expected.bytenr) };
    told.extend((!words.is_empty()).then(|| words.to_owned()));
    let fixed = with_possible_first_key(store, fixed, damage, end);
    if is_right(&fixed, geometry, &place, end) {
        return Some(Healed::whole(&fixed, told.join("; ")));
    }
    let healed = if fixed.is_leaf() { leaf(store, &fixed, damage, end) } else { node(store, &fixed, damage, end) };
    let Mended { block, repaired, lost, guessed } = healed?;
    told.extend(repaired);
    is_right(&block, geometry, &place, end).then(|| Healed { block, words: told.join("; "), lost, guessed })
}

/// A leaf whose first key cannot be its own gets the one that its parent knows: the key is below what lies before the
/// leaf, or it is one of checksums that fit the data at the parent's key better.
fn with_possible_first_key(store: &Store, mut leaf: TreeBlock, damage: &Damage, end: Option<Key>) -> TreeBlock {
    let geometry = store.geometry();
    let structure = check_structure(&leaf, geometry, &Expected::at(damage.expected.bytenr), Checksum::Skip);
    let Some(right) = damage.expected.first_key.filter(|_| leaf.is_leaf() && structure.is_ok()) else { return leaf };
    let is_room = end.is_none_or(|end| right < end) && (leaf.len() < 2 || right < leaf.key(1));
    if leaf.is_empty() || leaf.key(0) == right || !is_room {
        return leaf;
    }
    let own = leaf.key(0);
    let is_before = before(store, damage).is_some_and(|before| own <= before);
    let is_sums = |key: &Key| (key.objectid, key.item_type) == (right.objectid, right.item_type);
    let fits_worse = || {
        let fit = |key: &Key| sums::fit(store, key, leaf.data(0));
        damage.tree == TreeId::CSUM && (!is_sums(&own) || fit(&own) < fit(&right))
    };
    if is_before || fits_worse() {
        leaf.set_item_key(0, right);
    }
    leaf
}

/// The last key that is known to lie before a damaged block.
fn before(store: &Store, damage: &Damage) -> Option<Key> {
    let (node, slot) = damage.parent?;
    let node = store.read(&Expected::at(node)).ok()?;
    let slot = slot.checked_sub(1).filter(|slot| *slot < node.len())?;
    let child = Expected::at(Logical(node.ptr(slot).blockptr.get()));
    let last = store.read(&child).ok().filter(|child| !child.is_empty());
    Some(last.map_or(node.key(slot), |child| child.key(child.len() - 1)))
}

/// The block with the one fact set right; none if more than one is wrong, because then it is another block.
fn known_by_all_but_one(store: &Store, block: &TreeBlock, expected: &Expected) -> Option<(TreeBlock, Vec<String>)> {
    let header = block.header();
    let mut fixed = block.clone();
    let mut told = Vec::new();
    if header.fsid != store.geometry().fsid {
        told.push("it has another filesystem's UUID".to_owned());
        fixed.header_mut().fsid = store.geometry().fsid;
    }
    if block.bytenr() != expected.bytenr {
        told.push(format!("it says that it lies at {}", block.bytenr()));
        fixed.header_mut().bytenr = expected.bytenr.0.into();
    }
    if let Some(level) = expected.level.filter(|level| *level != header.level) {
        told.push(format!("its level is {}, its parent's word is {level}", header.level));
        fixed.header_mut().level = level;
    }
    if let Some(generation) = expected.generation.filter(|generation| *generation != block.generation()) {
        told.push(format!("its generation is {}, its parent's word is {generation}", header.generation));
        let newest = store.superblock.generation.get();
        fixed.header_mut().generation = header.generation.get().max(generation.0).min(newest).into();
    }
    let owner = match expected.owner {
        Some(owner) => (block.owner() != owner).then_some(owner),
        None => (!block.owner().is_shareable()).then_some(TreeId::FS),
    };
    if let Some(owner) = owner {
        told.push(format!("it says that it belongs to tree {}", block.owner()));
        fixed.header_mut().owner = owner.0.into();
    }
    let flags = header.flags.get() & FLAG_RELOC | FLAG_WRITTEN | MIXED_BACKREF_REV;
    if header.flags.get() | FLAG_WRITTEN != flags {
        told.push(format!("its flags are {:#x}, which nobody writes", header.flags));
        fixed.header_mut().flags = flags.into();
    }
    let count_is_possible = (fixed.len() * 33) < fixed.bytes().len();
    if let Some(key) = expected.first_key.filter(|_| count_is_possible && !fixed.is_empty())
        && fixed.key(0) != key
    {
        told.push(format!("its first key is {}, its parent's word is {key}", fixed.key(0)));
    }
    (told.len() <= 1).then_some((fixed, told))
}

struct Mended {
    block: TreeBlock,
    repaired: Vec<String>,
    lost: Vec<Key>,
    guessed: Vec<Key>,
}

fn leaf(store: &Store, block: &TreeBlock, damage: &Damage, end: Option<Key>) -> Option<Mended> {
    let first = damage.expected.first_key;
    // With many items the parent's word of the first key is the better one only if the leaf agrees somewhere.
    let bounds = Bounds { first, end };
    let by_data = |key: &Key, data: &[u8]| sums::fit(store, key, data);
    let fit: Fit<'_> = if damage.tree == TreeId::CSUM { &by_data } else { &|_, _| 0 };
    let Salvaged { leaf, repaired, lost, guessed } = salvage_leaf(block, &bounds, store.geometry(), fit);
    (!leaf.is_empty()).then_some(Mended { block: leaf, repaired, lost, guessed })
}

/// A node whose pointers are asked for what they point to.
fn node(store: &Store, block: &TreeBlock, damage: &Damage, end: Option<Key>) -> Option<Mended> {
    let most = TreeBlock::node_capacity(block.bytes().len());
    let (mut ptrs, mut repaired, mut lost): (Vec<KeyPtr>, _, Vec<Key>) = (Vec::new(), Vec::new(), Vec::new());
    for slot in 0..block.len().min(most) {
        let ptr = *block.ptr(slot);
        let Some(good) = right_pointer(store, damage, block.level(), &ptr) else {
            lost.push(ptr.key.into());
            continue;
        };
        let (key, is): (Key, Key) = (ptr.key.into(), good.key.into());
        if key != is || ptr.blockptr != good.blockptr || ptr.generation != good.generation {
            repaired.push(format!("pointer {slot} {key} to {} is {is} to {}", ptr.blockptr, good.blockptr));
        }
        ptrs.push(good);
    }
    ptrs.sort_by_key(|ptr| Key::from(ptr.key));
    ptrs.dedup_by_key(|ptr| Key::from(ptr.key));
    ptrs.retain(|ptr| end.is_none_or(|end| Key::from(ptr.key) < end));
    let mut node = block.clone();
    node.header_mut().nritems = 0.into();
    node.insert_ptrs(0, &ptrs);
    (!ptrs.is_empty()).then_some(Mended { block: node, repaired, lost, guessed: Vec::new() })
}

/// A pointer as it must be: its child is there by all its words but one, or by all with one bit of the address
/// set right.
pub fn right_pointer(store: &Store, damage: &Damage, level: u8, ptr: &KeyPtr) -> Option<KeyPtr> {
    let child = Expected {
        bytenr: Logical(ptr.blockptr.get()),
        level: level.checked_sub(1),
        generation: Some(butterfs_format::Generation(ptr.generation.get())),
        first_key: Some(ptr.key.into()),
        owner: damage.expected.owner,
    };
    if store.read(&child).is_ok() {
        return Some(*ptr);
    }
    let words = [Expected { first_key: None, ..child }, Expected { generation: None, ..child }];
    let by_word = words.iter().find_map(|expected| store.read(expected).ok());
    if let Some(block) = by_word.filter(|block| !block.is_empty()) {
        return Some(KeyPtr { key: block.key(0).into(), generation: block.generation().0.into(), ..*ptr });
    }
    let at = moved_by_one_bit(store, &child)?;
    Some(KeyPtr { blockptr: at.0.into(), ..*ptr })
}

/// The one address that differs in one bit and holds exactly what is expected.
pub fn moved_by_one_bit(store: &Store, expected: &Expected) -> Option<Logical> {
    // Without these nearly any block of the level would do.
    expected.generation?;
    expected.first_key?;
    let at = |bit: u32| Logical(expected.bytenr.0 ^ (1 << bit));
    let mut found = (0..u64::BITS).map(at).filter(|at| store.read(&Expected { bytenr: *at, ..*expected }).is_ok());
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

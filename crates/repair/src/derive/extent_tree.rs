//! The extent tree beside what it must be: reading it, comparing, writing one extent anew.

use std::collections::BTreeMap;

use butterfs_engine::tree;
use butterfs_format::items::{BackRef, BlockGroupItem, ExtentFlags, ExtentItem, InlineRef, TreeBlockInfo, read_exact};
use butterfs_format::superblock::Incompat;
use butterfs_format::{ItemType, Key, Logical, TreeBlock, TreeId};

use super::references::{Extent, Extents, What};
use crate::error::Result;
use crate::store::Store;

const TREE: TreeId = TreeId::EXTENT;
/// The length of one keyed reference to data; old kernels wrote several into one item.
const DATA_REF_SIZE: usize = 28;

/// The problem of an extent that has no item at all.
pub const NO_ITEM: &str = "there is no item";

/// What lies in the tree at one address.
#[derive(Debug, Default)]
struct Stored {
    items: Vec<(Key, Option<ExtentItem>)>,
    keyed: Vec<InlineRef>,
    /// A keyed reference that cannot be read.
    unreadable: Option<Key>,
}

/// An extent whose items are not what they must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its address.
    pub bytenr: u64,
    /// What is wrong.
    pub problem: String,
    /// Whether only the item is there, and nobody refers to the extent.
    pub is_stray: bool,
}

/// What a pass over the extent tree gives.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Extents that must be written anew.
    pub differences: Vec<Difference>,
    /// Block groups: length and item by address.
    pub groups: BTreeMap<u64, (u64, BlockGroupItem)>,
    /// Items that have no business here.
    pub foreign: Vec<Key>,
    /// The superblock's generation.
    newest: u64,
}

fn is_extent(item_type: ItemType) -> bool {
    matches!(item_type, ItemType::EXTENT_ITEM | ItemType::METADATA_ITEM) || is_keyed(item_type)
}

fn is_keyed(item_type: ItemType) -> bool {
    use ItemType as T;
    matches!(item_type, T::TREE_BLOCK_REF | T::SHARED_BLOCK_REF | T::SHARED_DATA_REF | T::EXTENT_DATA_REF)
}

/// Compares the tree with what it must be. Data that keeps its item keeps the item's generation.
///
/// # Errors
/// If the tree cannot be read.
pub fn compare(store: &Store, wanted: &mut Extents) -> Result<Comparison> {
    let mut out = Comparison { newest: store.superblock.generation.get(), ..Comparison::default() };
    let mut stored: Option<(u64, Stored)> = None;
    let mut next = 0u64;
    let mut cursor = store.cursor(TREE, &Key::MIN)?;
    while let Some((key, data)) = cursor.item() {
        match key.item_type {
            ItemType::BLOCK_GROUP_ITEM => match read_exact::<BlockGroupItem>(data) {
                Ok(item) => drop(out.groups.insert(key.objectid, (key.offset, item))),
                Err(_) => out.foreign.push(key),
            },
            kind if is_extent(kind) => {
                if stored.as_ref().is_none_or(|(at, _)| *at != key.objectid) {
                    finish(stored.take(), wanted, &mut next, &mut out);
                }
                stored.get_or_insert_with(|| (key.objectid, Stored::default())).1.add(key, data);
            }
            _ => out.foreign.push(key),
        }
        cursor.advance()?;
    }
    finish(stored.take(), wanted, &mut next, &mut out);
    out.missing(wanted, next, None);
    Ok(out)
}

/// All items at one address were met.
fn finish(stored: Option<(u64, Stored)>, wanted: &mut Extents, next: &mut u64, out: &mut Comparison) {
    let Some((at, stored)) = stored else { return };
    out.missing(wanted, *next, Some(at));
    *next = at.saturating_add(1);
    let (problem, is_stray) = match wanted.get_mut(&at) {
        None => (Some("nobody refers to it".into()), true),
        Some(extent) => (stored.problem(extent, out.newest), false),
    };
    out.differences.extend(problem.map(|problem| Difference { bytenr: at, problem, is_stray }));
}

impl Comparison {
    /// Extents from `from` on and below `to` have no item.
    fn missing(&mut self, wanted: &Extents, from: u64, to: Option<u64>) {
        let range = wanted.range(from..).take_while(|(at, _)| to.is_none_or(|to| **at < to));
        self.differences.extend(range.map(|(at, _)| Difference {
            bytenr: *at,
            problem: NO_ITEM.into(),
            is_stray: false,
        }));
    }
}

impl Stored {
    fn add(&mut self, key: Key, data: &[u8]) {
        if !is_keyed(key.item_type) {
            self.items.push((key, ExtentItem::parse(&key, data).ok()));
            return;
        }
        let size = if key.item_type == ItemType::EXTENT_DATA_REF { DATA_REF_SIZE } else { data.len().max(1) };
        let parts: Vec<&[u8]> = if data.is_empty() { vec![data] } else { data.chunks(size).collect() };
        for part in parts {
            match BackRef::parse_keyed(&key, part) {
                Ok(one) => self.keyed.push(one),
                Err(_) => self.unreadable = Some(key),
            }
        }
    }

    /// What is not as it must be, if anything.
    fn problem(&self, wanted: &mut Extent, newest: u64) -> Option<String> {
        let (key, item) = match &self.items[..] {
            [(key, Some(item))] => (key, item),
            [(key, None)] => return Some(format!("{key} cannot be read")),
            [] => return Some("there are back references, but no item".into()),
            _ => return Some("there are several items".into()),
        };
        if let Some(key) = self.unreadable {
            return Some(format!("{key} cannot be read"));
        }
        // The balance gives data a new item, and leaves the generation in files.
        if wanted.what == What::Data && (1..=newest).contains(&item.generation) {
            wanted.generation = item.generation;
        }
        if let Some(problem) = wrong_shape(key, item, wanted) {
            return Some(problem);
        }
        if item.flags != wanted.flags {
            return Some(format!("flags are {:#x}, want {:#x}", item.flags.bits(), wanted.flags.bits()));
        }
        if item.generation != wanted.generation {
            return Some(format!("generation is {}, want {}", item.generation, wanted.generation));
        }
        self.wrong_references(item, wanted)
    }

    fn wrong_references(&self, item: &ExtentItem, wanted: &Extent) -> Option<String> {
        let orders: Vec<_> = item.inline.iter().map(|one| one.back_ref.inline_order()).collect();
        if !orders.is_sorted() {
            return Some("inline references are out of order".into());
        }
        let mut found: BTreeMap<BackRef, u32> = BTreeMap::new();
        for one in item.inline.iter().chain(&self.keyed) {
            let count = found.entry(one.back_ref).or_default();
            *count = count.saturating_add(one.count);
        }
        let total: u64 = wanted.refs.iter().map(|(_, count)| u64::from(*count)).sum();
        if item.refs != total {
            return Some(format!("the item counts {} references, there are {total}", item.refs));
        }
        let same = found.len() == wanted.refs.len() && wanted.refs.iter().all(|(r, c)| found.get(r) == Some(c));
        (!same).then(|| "back references name others than those who refer".into())
    }
}

fn wrong_shape(key: &Key, item: &ExtentItem, wanted: &Extent) -> Option<String> {
    let right = match wanted.what {
        What::Data => key.item_type == ItemType::EXTENT_ITEM && key.offset == wanted.len && item.block_info.is_none(),
        What::Block { level, .. } if key.item_type == ItemType::METADATA_ITEM => key.offset == u64::from(level),
        What::Block { level, .. } => {
            key.offset == wanted.len && item.block_info.is_some_and(|info| info.level == level)
        }
    };
    (!right).then(|| format!("{key} is not the item of what is there ({} bytes)", wanted.len))
}

/// The extents that the tree has items of, without their references.
///
/// # Errors
/// If the tree cannot be read.
pub fn stored_extents(store: &Store) -> Result<Extents> {
    let nodesize = u64::from(store.geometry().nodesize);
    let mut extents = Extents::new();
    let mut cursor = store.cursor(TREE, &Key::MIN)?;
    while let Some((key, data)) = cursor.item() {
        if !is_keyed(key.item_type) && is_extent(key.item_type) {
            let is_block = key.item_type == ItemType::METADATA_ITEM
                || ExtentItem::parse(&key, data).is_ok_and(|item| item.block_info.is_some());
            let len = if is_block { nodesize } else { key.offset };
            let what = if is_block { What::Block { level: 0, first_key: Key::MIN } } else { What::Data };
            let flags = if is_block { ExtentFlags::TREE_BLOCK } else { ExtentFlags::DATA };
            extents.insert(key.objectid, Extent { len, generation: 0, flags, what, owner: None, refs: Vec::new() });
        }
        cursor.advance()?;
    }
    Ok(extents)
}

/// Writes the items of an extent anew, or takes them away if it is not wanted.
///
/// # Errors
/// If the tree cannot be edited.
pub fn rewrite(store: &mut Store, at: u64, wanted: Option<&Extent>) -> Result<()> {
    for key in keys_at(store, at)? {
        tree::remove(store, TREE, &key)?;
    }
    let Some(extent) = wanted else { return Ok(()) };
    let skinny = store.superblock.incompat().contains(Incompat::SKINNY_METADATA);
    let (key, block_info) = match extent.what {
        What::Data => (Key::new(at, ItemType::EXTENT_ITEM, extent.len), None),
        What::Block { level, .. } if skinny => (Key::new(at, ItemType::METADATA_ITEM, level.into()), None),
        What::Block { level, first_key } => {
            let info = TreeBlockInfo { key: first_key.into(), level };
            (Key::new(at, ItemType::EXTENT_ITEM, extent.len), Some(info))
        }
    };
    let refs = extent.refs.iter().map(|(_, count)| u64::from(*count)).sum();
    let (generation, flags) = (extent.generation, extent.flags);
    let mut item = ExtentItem { refs, generation, flags, block_info, owner: extent.owner, inline: Vec::new() };
    let keyed = fill_inline(&mut item, extent, store.geometry().nodesize as usize);
    tree::insert(store, TREE, &key, &item.pack())?;
    keyed.into_iter().try_for_each(|one| insert_keyed(store, at, &one))
}

fn keys_at(store: &Store, at: u64) -> Result<Vec<Key>> {
    let mut keys = Vec::new();
    let mut cursor = store.cursor(TREE, &Key::new(at, ItemType(0), 0))?;
    while let Some(key) = cursor.key().filter(|key| key.objectid == at) {
        if is_extent(key.item_type) {
            keys.push(key);
        }
        cursor.advance()?;
    }
    Ok(keys)
}

/// Fills an item with as many references as it has room for, as the kernel does; gives the others.
fn fill_inline(item: &mut ExtentItem, extent: &Extent, nodesize: usize) -> Vec<InlineRef> {
    let room = TreeBlock::leaf_capacity(nodesize) / 16;
    let mut keyed = Vec::new();
    let mut used = item.packed_size();
    for (back_ref, count) in &extent.refs {
        let one = InlineRef { back_ref: *back_ref, count: *count };
        if used + one.packed_size() <= room {
            used += one.packed_size();
            item.inline.push(one);
        } else {
            keyed.push(one);
        }
    }
    item.inline.sort_by_key(|one| one.back_ref.inline_order());
    keyed
}

/// Two references to data whose hashes are the same stand side by side.
fn insert_keyed(store: &mut Store, at: u64, one: &InlineRef) -> Result<()> {
    let mut key = one.back_ref.key(Logical(at));
    while store.get(TREE, &key)?.is_some() {
        key.offset = key.offset.wrapping_add(1);
    }
    tree::insert(store, TREE, &key, &one.back_ref.pack_keyed(one.count))?;
    Ok(())
}

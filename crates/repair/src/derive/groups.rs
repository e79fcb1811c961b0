//! Block groups: one for each chunk, and how much of it is used.

use std::collections::{BTreeMap, BTreeSet};

use butterfs_check::Place;
use butterfs_engine::tree;
use butterfs_format::ids::objectid;
use butterfs_format::items::{BlockGroupFlags, BlockGroupItem, read_exact};
use butterfs_format::superblock::CompatRo;
use butterfs_format::{ItemType, Key, TreeId};
use zerocopy::IntoBytes;

use super::references::Extents;
use crate::error::Result;
use crate::plan::Step;
use crate::store::Store;

/// A block group as it must be.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// Length, in bytes.
    pub len: u64,
    /// Bytes that extents take.
    pub used: u64,
    flags: BlockGroupFlags,
}

impl Group {
    fn item(&self) -> BlockGroupItem {
        BlockGroupItem {
            used: self.used.into(),
            chunk_objectid: objectid::FIRST_CHUNK_TREE.into(),
            flags: self.flags.bits().into(),
        }
    }
}

/// All block groups, and what changed since they were last written.
#[derive(Debug, Default)]
pub struct Groups {
    groups: BTreeMap<u64, Group>,
    /// Whose item is to be written.
    dirty: BTreeSet<u64>,
    /// Whose free space is to be written.
    dirty_space: BTreeSet<u64>,
}

/// The key of a block group's item.
pub fn key(start: u64, len: u64) -> Key {
    Key::new(start, ItemType::BLOCK_GROUP_ITEM, len)
}

/// The tree that block groups lie in.
pub fn tree_of_groups(store: &Store) -> TreeId {
    let own = store.superblock.compat_ro().contains(CompatRo::BLOCK_GROUP_TREE);
    if own { TreeId::BLOCK_GROUP } else { TreeId::EXTENT }
}

impl Groups {
    /// The groups of all chunks, with what these extents take.
    pub fn new(store: &Store, extents: &Extents) -> Self {
        let chunks = store.volume().chunks();
        let group =
            |chunk: &butterfs_format::items::Chunk| Group { len: chunk.length(), used: 0, flags: chunk.flags() };
        let groups = chunks.iter().map(|(start, chunk)| (start.0, group(chunk))).collect();
        let mut all = Self { groups, ..Self::default() };
        extents.iter().for_each(|(at, extent)| all.take(*at, extent.len));
        (all.dirty, all.dirty_space) = Default::default();
        all
    }

    /// By address.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Group)> {
        self.groups.iter().map(|(start, group)| (*start, group))
    }

    /// Used bytes of all groups.
    pub fn used(&self) -> u64 {
        self.groups.values().fold(0, |sum, group| sum.saturating_add(group.used))
    }

    fn containing(&mut self, at: u64) -> Option<(u64, &mut Group)> {
        let (start, group) = self.groups.range_mut(..=at).next_back()?;
        (at - start < group.len).then_some((*start, group))
    }

    fn change(&mut self, at: u64, change: impl FnOnce(&mut Group)) {
        if let Some((start, group)) = self.containing(at) {
            change(group);
            self.dirty.insert(start);
            self.dirty_space.insert(start);
        }
    }

    /// An extent is there now.
    pub fn take(&mut self, at: u64, len: u64) {
        self.change(at, |group| group.used = group.used.saturating_add(len));
    }

    /// An extent is gone.
    pub fn give(&mut self, at: u64, len: u64) {
        self.change(at, |group| group.used = group.used.saturating_sub(len));
    }

    /// The free space of these groups is to be written.
    pub fn space_is_wrong(&mut self, groups: &[u64]) {
        self.dirty_space.extend(groups);
    }

    /// Which groups' free space changed since this was last asked.
    pub fn take_dirty_space(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.dirty_space)
    }

    /// The group that begins there.
    pub fn get(&self, start: u64) -> Option<&Group> {
        self.groups.get(&start)
    }

    /// Compares with the items as they are stored; takes away those that no chunk has, and notes the others to be
    /// written. Gives what is wrong.
    ///
    /// # Errors
    /// If the tree cannot be edited.
    pub fn compare(&mut self, store: &mut Store, stored: &Stored) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        let home = tree_of_groups(store);
        for (start, (len, item)) in stored {
            let wanted = self.groups.get(start).filter(|group| group.len == *len);
            if wanted.is_none() {
                tree::remove(store, home, &key(*start, *len))?;
                steps.push(Step::new("block-group", Place::block_group(*start), "there is no such chunk; removed"));
                self.dirty.extend(self.groups.contains_key(start).then_some(*start));
            } else if wanted.is_some_and(|group| group.item() != *item) {
                let used = wanted.map_or(0, |group| group.used);
                let action = format!("used is {} of {}, set to {used}", item.used, item.flags());
                steps.push(Step::new("block-group", Place::block_group(*start), action));
                self.dirty.insert(*start);
            }
        }
        for start in self.groups.keys().filter(|start| !stored.contains_key(start)) {
            steps.push(Step::new("block-group", Place::block_group(*start), "there is none for the chunk; made"));
            self.dirty.insert(*start);
        }
        Ok(steps)
    }

    /// Writes the items that changed; says whether there were any.
    ///
    /// # Errors
    /// If the tree cannot be edited.
    pub fn write(&mut self, store: &mut Store) -> Result<bool> {
        let home = tree_of_groups(store);
        let dirty = std::mem::take(&mut self.dirty);
        for start in &dirty {
            if let Some(group) = self.groups.get(start) {
                tree::put(store, home, &key(*start, group.len), group.item().as_bytes())?;
            }
        }
        Ok(!dirty.is_empty())
    }
}

/// Block group items by address, with their lengths.
pub type Stored = BTreeMap<u64, (u64, BlockGroupItem)>;

/// Block groups in the tree of their own, and the keys of other items;
///
/// # Errors
/// If the tree cannot be read.
pub fn read_block_group_tree(store: &Store) -> Result<(Stored, Vec<Key>)> {
    let (mut groups, mut foreign) = (BTreeMap::new(), Vec::new());
    let mut cursor = store.cursor(TreeId::BLOCK_GROUP, &Key::MIN)?;
    while let Some((key, data)) = cursor.item() {
        match read_exact::<BlockGroupItem>(data) {
            Ok(item) if key.item_type == ItemType::BLOCK_GROUP_ITEM => {
                groups.insert(key.objectid, (key.offset, item));
            }
            _ => foreign.push(key),
        }
        cursor.advance()?;
    }
    Ok((groups, foreign))
}

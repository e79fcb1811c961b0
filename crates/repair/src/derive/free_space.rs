//! The free space tree: for each block group what no extent takes.
//!
//! The places of superblock copies are in it as free, as the kernel has them.

use std::collections::BTreeMap;

use butterfs_engine::tree;
use butterfs_format::block::ITEM_HEADER_SIZE;
use butterfs_format::items::{FreeSpaceInfo, read_exact};
use butterfs_format::superblock::CompatRo;
use butterfs_format::{ItemType, Key, TreeId};
use zerocopy::IntoBytes;

use super::groups::Groups;
use super::references::Extents;
use crate::error::Result;
use crate::store::Store;

const TREE: TreeId = TreeId::FREE_SPACE;

/// Whether there is to be a free space tree that is trusted.
pub fn is_wanted(store: &Store) -> bool {
    store.superblock.compat_ro().contains(CompatRo::FREE_SPACE_TREE | CompatRo::FREE_SPACE_TREE_VALID)
}

/// The free ranges of a group: start to length.
fn free_ranges(extents: &Extents, start: u64, len: u64) -> BTreeMap<u64, u64> {
    let mut free = BTreeMap::new();
    let (mut at, end) = (start, start.saturating_add(len));
    for (from, extent) in extents.range(start..end) {
        if *from > at {
            free.insert(at, from - at);
        }
        at = at.max(from.saturating_add(extent.len));
    }
    if at < end {
        free.insert(at, end - at);
    }
    free
}

/// What is wrong with the tree.
#[derive(Debug, Default)]
pub struct Wrong {
    /// Groups whose entries are to be written anew.
    pub groups: Vec<u64>,
    /// Entries outside of all groups.
    pub outside: Vec<Key>,
}

/// Compares all groups, and takes away what lies outside of them.
///
/// # Errors
/// If the tree cannot be read or edited.
pub fn compare(store: &mut Store, groups: &Groups, extents: &Extents) -> Result<Wrong> {
    let sector = u64::from(store.geometry().sectorsize);
    let mut stored: BTreeMap<u64, Stored> = BTreeMap::new();
    let mut outside = Vec::new();
    let mut cursor = store.cursor(TREE, &Key::MIN)?;
    let starts: BTreeMap<u64, u64> = groups.iter().map(|(start, group)| (start, group.len)).collect();
    while let Some((key, data)) = cursor.item() {
        let group = starts.range(..=key.objectid).next_back().filter(|(start, len)| key.objectid - **start < **len);
        match group {
            Some((start, len)) => stored.entry(*start).or_default().add(&key, data, (*start, *len), sector),
            None => outside.push(key),
        }
        cursor.advance()?;
    }
    for key in &outside {
        tree::remove(store, TREE, key)?;
    }
    let wrong = starts.iter().filter(|(start, len)| {
        let free = free_ranges(extents, **start, **len);
        !stored.get(start).is_some_and(|stored| stored.is_right(&free))
    });
    Ok(Wrong { groups: wrong.map(|(start, _)| *start).collect(), outside })
}

/// What the tree says of a group.
#[derive(Debug, Default)]
struct Stored {
    info: Option<FreeSpaceInfo>,
    free: BTreeMap<u64, u64>,
    broken: bool,
    extents: bool,
    bitmaps: bool,
}

impl Stored {
    fn add(&mut self, key: &Key, data: &[u8], (start, len): (u64, u64), sector: u64) {
        self.broken |= key.objectid.saturating_add(key.offset) > start.saturating_add(len);
        match key.item_type {
            ItemType::FREE_SPACE_INFO => {
                self.broken |= (key.objectid, key.offset) != (start, len) || self.info.is_some();
                self.info = read_exact(data).ok();
            }
            ItemType::FREE_SPACE_EXTENT => {
                self.extents = true;
                // Neighbours that are not joined are wrong, so they stay apart here.
                self.free.insert(key.objectid, key.offset);
            }
            ItemType::FREE_SPACE_BITMAP => {
                self.bitmaps = true;
                self.bitmap(key, data, sector);
            }
            _ => self.broken = true,
        }
    }

    fn bitmap(&mut self, key: &Key, bits: &[u8], sector: u64) {
        for index in (0..key.offset / sector).filter(|index| is_set(bits, *index)) {
            let at = key.objectid + index * sector;
            match self.free.last_entry() {
                Some(mut last) if last.key() + last.get() == at => *last.get_mut() += sector,
                _ => drop(self.free.insert(at, sector)),
            }
        }
    }

    fn is_right(&self, free: &BTreeMap<u64, u64>) -> bool {
        let form = |info: &FreeSpaceInfo| if info.uses_bitmaps() { !self.extents } else { !self.bitmaps };
        let count = |info: &FreeSpaceInfo| info.extent_count.get() as usize == free.len();
        !self.broken && self.free == *free && self.info.is_some_and(|info| form(&info) && count(&info))
    }
}

fn is_set(bits: &[u8], index: u64) -> bool {
    bits.get((index / 8) as usize).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
}

/// Writes a group's entries anew.
///
/// # Errors
/// If the tree cannot be edited.
pub fn rewrite(store: &mut Store, extents: &Extents, start: u64, len: u64) -> Result<()> {
    let end = start.saturating_add(len);
    let mut old = Vec::new();
    let mut cursor = store.cursor(TREE, &Key::new(start, ItemType(0), 0))?;
    while let Some(key) = cursor.key().filter(|key| key.objectid < end) {
        old.push(key);
        cursor.advance()?;
    }
    let free = free_ranges(extents, start, len);
    let sectorsize = store.geometry().sectorsize;
    let as_bitmaps = free.len() as u64 > bitmap_threshold(len, sectorsize);
    let flags = if as_bitmaps { FreeSpaceInfo::USING_BITMAPS } else { 0 };
    let info = FreeSpaceInfo { extent_count: (free.len() as u32).into(), flags: flags.into() };
    let mut new = BTreeMap::from([(Key::new(start, ItemType::FREE_SPACE_INFO, len), info.as_bytes().to_vec())]);
    if as_bitmaps {
        new.extend(bitmaps(&free, (start, end), sectorsize));
    } else {
        let key = |(start, len): (&u64, &u64)| (Key::new(*start, ItemType::FREE_SPACE_EXTENT, *len), Vec::new());
        new.extend(free.iter().map(key));
    }
    for key in old.iter().filter(|key| !new.contains_key(key)) {
        tree::remove(store, TREE, key)?;
    }
    for (key, data) in &new {
        tree::put(store, TREE, key, data)?;
    }
    Ok(())
}

/// Above this many extents bitmaps are smaller, as the kernel counts.
fn bitmap_threshold(len: u64, sectorsize: u32) -> u64 {
    let bitmaps = len.div_ceil(FreeSpaceInfo::bitmap_range(sectorsize));
    bitmaps * (ITEM_HEADER_SIZE + FreeSpaceInfo::BITMAP_BYTES) as u64 / ITEM_HEADER_SIZE as u64
}

fn bitmaps(free: &BTreeMap<u64, u64>, (start, end): (u64, u64), sectorsize: u32) -> BTreeMap<Key, Vec<u8>> {
    let (range, sector) = (FreeSpaceInfo::bitmap_range(sectorsize), u64::from(sectorsize));
    let key = |at: u64| {
        let first = start + (at - start) / range * range;
        Key::new(first, ItemType::FREE_SPACE_BITMAP, range.min(end - first))
    };
    let mut bitmaps: BTreeMap<Key, Vec<u8>> = BTreeMap::new();
    for at in (start..end).step_by(range as usize) {
        let key = key(at);
        bitmaps.insert(key, vec![0; (key.offset / sector).div_ceil(8) as usize]);
    }
    for (from, len) in free {
        for at in (*from..from + len).step_by(sector as usize) {
            let key = key(at);
            let index = (at - key.objectid) / sector;
            if let Some(byte) = bitmaps.get_mut(&key).and_then(|bits| bits.get_mut((index / 8) as usize)) {
                *byte |= 1 << (index % 8);
            }
        }
    }
    bitmaps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::derive::references::Extent;

    #[test]
    fn bitmaps_and_ranges_say_the_same() {
        let block = |at: u64| (at, Extent::of_new_block(TREE, 0, Key::MIN, 1, 16384));
        let extents: Extents = [block(1 << 20), block((1 << 20) + 32768), block((12 << 20) - 16384)].into();
        let (start, len) = (1 << 20, 11 << 20);
        let free = free_ranges(&extents, start, len);
        assert_eq!(free, BTreeMap::from([((1 << 20) + 16384, 16384), ((1 << 20) + 49152, (11 << 20) - 65536)]));
        let mut stored = Stored::default();
        for (key, bits) in bitmaps(&free, (start, start + len), 4096) {
            stored.add(&key, &bits, (start, len), 4096);
        }
        let info = |count: u32, flags: u32| FreeSpaceInfo { extent_count: count.into(), flags: flags.into() };
        stored.info = Some(info(2, 1));
        assert!(stored.is_right(&free));
        stored.info = Some(info(3, 1));
        assert!(!stored.is_right(&free));
        stored.info = Some(info(2, 0));
        assert!(!stored.is_right(&free));
    }
}

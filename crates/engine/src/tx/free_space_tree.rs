//! The free space tree: free ranges of each block group, as extents or, when there are many, as
//! bitmaps.
//!
//! # Invariants
//! * It holds exactly the space that no extent item takes. (The places of superblock copies are in
//!   it as free, as the kernel has them; what is in memory leaves them out.) While references are settled, it may be
//!   behind by one [`SpaceChange`].
//! * `extent_count` of FREE_SPACE_INFO is the number of maximal free ranges, in either form.

use std::collections::BTreeMap;

use butterfs_format::block::ITEM_HEADER_SIZE;
use butterfs_format::items::FreeSpaceInfo;
use butterfs_format::{Corruption, ItemType, Key, Logical, TreeId};
use zerocopy::{FromBytes, IntoBytes};

use super::Transaction;
use super::groups::outside;
use crate::error::Result;
use crate::space::{BlockGroup, FreeRanges};
use crate::tree;

const TREE: TreeId = TreeId::FREE_SPACE;

fn extent_key(start: u64, len: u64) -> Key {
    Key::new(start, ItemType::FREE_SPACE_EXTENT, len)
}

fn broken(group: &BlockGroup, problem: impl Into<String>) -> Corruption {
    Corruption::new(format!("free space tree, block group {}", group.start), problem)
}

/// Above this many extents bitmaps are smaller; kernel: `high_thresh`.
fn bitmap_threshold(group: &BlockGroup, sectorsize: u32) -> u64 {
    let bitmaps = group.len.div_ceil(FreeSpaceInfo::bitmap_range(sectorsize));
    let bytes = bitmaps * (ITEM_HEADER_SIZE + FreeSpaceInfo::BITMAP_BYTES) as u64;
    bytes / ITEM_HEADER_SIZE as u64
}

/// A range that was taken or freed, of one block group.
#[derive(Clone, Copy, Debug)]
pub struct SpaceChange {
    pub(super) kind: Change,
    pub(super) at: Logical,
    pub(super) len: u64,
}

/// What became of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Taken,
    Freed,
}

/// Changes of neighbours in a row become one.
impl Transaction {
    /// Notes a change for the free space tree. Those before it that do not join it are written now.
    pub(super) fn note_space_change(&mut self, change: SpaceChange) -> Result<()> {
        if !self.has_free_space_tree() {
            return Ok(());
        }
        if let Some(last) = &mut self.space_change
            && last.kind == change.kind
            && last.at.0 + last.len == change.at.0
            && self.space.containing(last.at.0).is_some_and(|group| change.at.0 < group.end())
        {
            last.len += change.len;
            return Ok(());
        }
        self.settle_space_change()?;
        self.space_change = Some(change);
        Ok(())
    }

    /// Writes what was noted.
    pub(super) fn settle_space_change(&mut self) -> Result<()> {
        let Some(SpaceChange { kind, at, len }) = self.space_change.take() else { return Ok(()) };
        match kind {
            Change::Taken => self.free_space_tree_remove(at, len),
            Change::Freed => self.free_space_tree_add(at, len),
        }
    }
}

impl Transaction {
    fn info_key(group: &BlockGroup) -> Key {
        Key::new(group.start, ItemType::FREE_SPACE_INFO, group.len)
    }

    fn free_space_info(&self, group: &BlockGroup) -> Result<FreeSpaceInfo> {
        let data =
            self.get(TREE, &Self::info_key(group))?.ok_or_else(|| broken(group, "FREE_SPACE_INFO is missing"))?;
        Ok(FreeSpaceInfo::read_from_bytes(&data).map_err(|_| broken(group, "FREE_SPACE_INFO has a bad size"))?)
    }

    fn put_free_space_info(&mut self, group: &BlockGroup, count: u64, flags: u32) -> Result<()> {
        let count = u32::try_from(count).map_err(|_| broken(group, "too many free extents"))?;
        let info = FreeSpaceInfo { extent_count: count.into(), flags: flags.into() };
        self.put(TREE, &Self::info_key(group), info.as_bytes())
    }

    /// A group's free ranges as the tree has them.
    pub(super) fn read_free_space_tree(&self, group: &BlockGroup) -> Result<FreeRanges> {
        let mut free = FreeRanges::default();
        let mut cursor = self.cursor(TREE, &Key::new(group.start, ItemType(0), 0))?;
        let (mut found_info, mut last_end) = (false, group.start);
        while let Some((key, data)) = cursor.item().filter(|(key, _)| key.objectid < group.end()) {
            match key.item_type {
                ItemType::FREE_SPACE_INFO => found_info = key == Self::info_key(group),
                _ if key.objectid.saturating_add(key.offset) > group.end() => {
                    return Err(broken(group, format!("{key} reaches past its end")).into());
                }
                _ if key.objectid < last_end => {
                    return Err(broken(group, format!("{key} overlaps the range before it")).into());
                }
                ItemType::FREE_SPACE_EXTENT => free.add(key.objectid, key.offset),
                ItemType::FREE_SPACE_BITMAP => self.add_bitmap(&mut free, &key, data),
                _ => {}
            }
            if matches!(key.item_type, ItemType::FREE_SPACE_EXTENT | ItemType::FREE_SPACE_BITMAP) {
                last_end = key.objectid + key.offset;
            }
            cursor.advance()?;
        }
        if found_info { Ok(free) } else { Err(broken(group, "FREE_SPACE_INFO is missing").into()) }
    }

    /// Adds what a bitmap has as free. Bits past its range mean nothing.
    fn add_bitmap(&self, free: &mut FreeRanges, key: &Key, bits: &[u8]) {
        let (start, sector) = (key.objectid, self.sectorsize());
        let count = (key.offset / sector).min(bits.len() as u64 * 8);
        let mut run: Option<u64> = None;
        for index in 0..count {
            let set = bits[(index / 8) as usize] >> (index % 8) & 1 == 1;
            match (set, run) {
                (true, None) => run = Some(index),
                (false, Some(first)) => {
                    free.add(start + first * sector, (index - first) * sector);
                    run = None;
                }
                _ => {}
            }
        }
        if let Some(first) = run {
            free.add(start + first * sector, (count - first) * sector);
        }
    }

    /// Makes the entries of a new group: all of it is free.
    pub(super) fn create_free_space(&mut self, group: &BlockGroup) -> Result<()> {
        let mut free = FreeRanges::default();
        free.add(group.start, group.len);
        self.put_free_extents(group, &free)
    }

    fn put_free_extents(&mut self, group: &BlockGroup, free: &FreeRanges) -> Result<()> {
        for (start, len) in free.iter() {
            self.insert(TREE, &extent_key(start, len), &[])?;
        }
        self.put_free_space_info(group, free.iter().count() as u64, 0)
    }

    /// Takes away all entries of a group that goes.
    pub(super) fn remove_free_space(&mut self, group: &BlockGroup) -> Result<()> {
        let first = Key::new(group.start, ItemType(0), 0);
        loop {
            let key = self.cursor(TREE, &first)?.key().filter(|key| key.objectid < group.end());
            let Some(key) = key else { return Ok(()) };
            self.remove(TREE, &key)?;
        }
    }

    fn group_of(&self, at: Logical) -> Result<BlockGroup> {
        let group = self.space.containing(at.0).ok_or_else(|| outside(at))?;
        Ok(BlockGroup { free: None, ..*group })
    }

    /// A range is no longer free.
    fn free_space_tree_remove(&mut self, at: Logical, len: u64) -> Result<()> {
        let group = self.group_of(at)?;
        let info = self.free_space_info(&group)?;
        let change = if info.uses_bitmaps() {
            self.change_bits(&group, at.0, len, Bit::Clear)?
        } else {
            self.cut_extent(&group, at.0, len)?
        };
        self.finish_change(&group, info, change)
    }

    /// A range is free.
    fn free_space_tree_add(&mut self, at: Logical, len: u64) -> Result<()> {
        let group = self.group_of(at)?;
        let info = self.free_space_info(&group)?;
        let change = if info.uses_bitmaps() {
            self.change_bits(&group, at.0, len, Bit::Set)?
        } else {
            self.join_extent(&group, at.0, len)?
        };
        self.finish_change(&group, info, change)
    }

    /// Takes a range out of the free extent around it; gives by how much the count changes.
    fn cut_extent(&mut self, group: &BlockGroup, start: u64, len: u64) -> Result<i64> {
        let found = self.last_not_above(TREE, &extent_key(start, u64::MAX))?.map(|(key, _)| key);
        let around = found
            .filter(|key| key.item_type == ItemType::FREE_SPACE_EXTENT && key.objectid + key.offset >= start + len);
        let Some(key) = around else {
            return Err(broken(group, format!("{start}+{len} is not free there")).into());
        };
        self.remove(TREE, &key)?;
        let pieces = [(key.objectid, start), (start + len, key.objectid + key.offset)];
        let mut change = -1;
        for (from, to) in pieces.into_iter().filter(|(from, to)| from < to) {
            self.insert(TREE, &extent_key(from, to - from), &[])?;
            change += 1;
        }
        Ok(change)
    }

    /// Puts a range in, joined with its neighbours; gives by how much the count changes.
    fn join_extent(&mut self, group: &BlockGroup, mut start: u64, mut len: u64) -> Result<i64> {
        let mut change = 1;
        let before = self.last_not_above(TREE, &extent_key(start, u64::MAX))?.map(|(key, _)| key);
        if let Some(key) = before.filter(|k| k.item_type == ItemType::FREE_SPACE_EXTENT && k.objectid >= group.start) {
            if key.objectid + key.offset > start {
                return Err(broken(group, format!("{start}+{len} is freed but {key} is free already")).into());
            }
            if key.objectid + key.offset == start {
                self.remove(TREE, &key)?;
                start = key.objectid;
                len += key.offset;
                change -= 1;
            }
        }
        let end = start + len;
        let after = self.cursor(TREE, &extent_key(end, 0))?.key();
        if let Some(key) = after.filter(|k| k.item_type == ItemType::FREE_SPACE_EXTENT && k.objectid == end)
            && end < group.end()
        {
            self.remove(TREE, &key)?;
            len += key.offset;
            change -= 1;
        }
        self.insert(TREE, &extent_key(start, len), &[])?;
        Ok(change)
    }

    fn bitmap_key(&self, group: &BlockGroup, at: u64) -> Key {
        let range = FreeSpaceInfo::bitmap_range(self.geometry.sectorsize);
        let start = group.start + (at - group.start) / range * range;
        Key::new(start, ItemType::FREE_SPACE_BITMAP, range.min(group.end() - start))
    }

    fn bit(&self, group: &BlockGroup, at: u64) -> Result<bool> {
        let key = self.bitmap_key(group, at);
        let bits = self.get(TREE, &key)?.ok_or_else(|| broken(group, format!("{key} is missing")))?;
        let index = (at - key.objectid) / self.sectorsize();
        Ok(bits.get((index / 8) as usize).is_some_and(|byte| byte >> (index % 8) & 1 == 1))
    }

    /// Sets or clears the bits of a range; gives by how much the number of free ranges changes.
    fn change_bits(&mut self, group: &BlockGroup, start: u64, len: u64, to: Bit) -> Result<i64> {
        let sector = self.sectorsize();
        let end = start + len;
        let before = start > group.start && self.bit(group, start - sector)?;
        let after = end < group.end() && self.bit(group, end)?;
        let mut at = start;
        while at < end {
            let key = self.bitmap_key(group, at);
            let stop = end.min(key.objectid + key.offset);
            let (first, last) = ((at - key.objectid) / sector, (stop - key.objectid) / sector);
            let mut was = true;
            let found = tree::update(self, TREE, &key, |bits| was = set_bits(bits, first..last, to))?;
            if !found || !was {
                return Err(broken(group, format!("bits of {start}+{len} in {key} are wrong")).into());
            }
            at = stop;
        }
        let joined = i64::from(before) + i64::from(after);
        Ok(if to == Bit::Set { 1 - joined } else { joined - 1 })
    }

    /// Writes the count, and changes the form when the number of free ranges asks for it.
    fn finish_change(&mut self, group: &BlockGroup, info: FreeSpaceInfo, change: i64) -> Result<()> {
        let count = u64::from(info.extent_count.get())
            .checked_add_signed(change)
            .ok_or_else(|| broken(group, "extent_count is too small"))?;
        if change != 0 {
            self.put_free_space_info(group, count, info.flags.get())?;
        }
        let high = bitmap_threshold(group, self.geometry.sectorsize);
        if !info.uses_bitmaps() && count > high {
            return self.convert_to_bitmaps(group);
        }
        if info.uses_bitmaps() && count < high.saturating_sub(100) {
            return self.convert_to_extents(group);
        }
        Ok(())
    }

    fn convert_to_bitmaps(&mut self, group: &BlockGroup) -> Result<()> {
        let free = self.read_free_space_tree(group)?;
        self.remove_free_space(group)?;
        let mut bitmaps: BTreeMap<Key, Vec<u8>> = BTreeMap::new();
        let (range, sector) = (FreeSpaceInfo::bitmap_range(self.geometry.sectorsize), self.sectorsize());
        let mut at = group.start;
        while at < group.end() {
            let key = self.bitmap_key(group, at);
            bitmaps.insert(key, vec![0; (key.offset / sector).div_ceil(8) as usize]);
            at += range;
        }
        for (start, len) in free.iter() {
            let mut at = start;
            while at < start + len {
                let key = self.bitmap_key(group, at);
                let stop = (start + len).min(key.objectid + key.offset);
                let bits = bitmaps.entry(key).or_default();
                set_bits(bits, (at - key.objectid) / sector..(stop - key.objectid) / sector, Bit::Set);
                at = stop;
            }
        }
        for (key, bits) in &bitmaps {
            self.insert(TREE, key, bits)?;
        }
        self.put_free_space_info(group, free.iter().count() as u64, FreeSpaceInfo::USING_BITMAPS)
    }

    fn convert_to_extents(&mut self, group: &BlockGroup) -> Result<()> {
        let free = self.read_free_space_tree(group)?;
        self.remove_free_space(group)?;
        self.put_free_extents(group, &free)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bit {
    Set,
    Clear,
}

/// Sets or clears bits; says whether all of them were the other way before.
fn set_bits(bits: &mut [u8], range: std::ops::Range<u64>, to: Bit) -> bool {
    let mut all_other = true;
    for index in range {
        let Some(byte) = bits.get_mut((index / 8) as usize) else { return false };
        let mask = 1 << (index % 8);
        all_other &= (*byte & mask != 0) == (to == Bit::Clear);
        match to {
            Bit::Set => *byte |= mask,
            Bit::Clear => *byte &= !mask,
        }
    }
    all_other
}

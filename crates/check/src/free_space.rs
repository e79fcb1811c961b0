//! The free space tree against the extent tree: free is exactly what no extent takes.
//!
//! The places of superblock copies count neither as free nor as taken: the kernel lists them as free
//! and leaves them out when it reads the tree.
//!
//! Memory: the free ranges of one block group at a time, and one [`FreeSpaceInfo`] for each.

use std::collections::BTreeMap;

use butterfs_format::items::{FreeSpaceInfo, read_exact};
use butterfs_format::{ItemType, Key, TreeBlock, TreeId};

use crate::chunks::Chunks;
use crate::context::Context;
use crate::extent_tree::{BlockGroups, extents_within};
use crate::finding::{Kind, Place};
use crate::walk::LeafVisitor;

/// Ranges of logical space, start to end.
pub(crate) type Ranges = Vec<(u64, u64)>;

/// Free space of the block group being read.
struct Group {
    start: u64,
    len: u64,
    info: FreeSpaceInfo,
    free: Ranges,
}

/// Reads the free space tree and compares block group by block group.
pub(crate) struct FreeSpace<'a> {
    groups: &'a BlockGroups,
    superblocks: Ranges,
    current: Option<Group>,
    /// The range of the last FREE_SPACE_INFO without a block group: its items are not blamed again.
    stray: (u64, u64),
    met: BTreeMap<u64, u64>,
}

impl<'a> FreeSpace<'a> {
    pub fn new(groups: &'a BlockGroups, chunks: &Chunks) -> Self {
        Self { groups, superblocks: chunks.superblock_ranges(), current: None, stray: (0, 0), met: BTreeMap::new() }
    }

    /// Compares the last block group; with a tree that is whole, each must have been met.
    pub fn finish(mut self, context: &mut Context<'_>, complete: bool) {
        self.close(context);
        for start in self.groups.keys().filter(|start| complete && !self.met.contains_key(start)) {
            context.error(Kind::FreeSpace, Place::block_group(*start), "the free space tree does not have it");
        }
    }

    fn open(&mut self, context: &mut Context<'_>, key: &Key, data: &[u8]) {
        self.close(context);
        let known = self.groups.get(&key.objectid).is_some_and(|(len, _)| *len == key.offset);
        if !known {
            self.open_stray(context, key);
            return;
        }
        self.met.insert(key.objectid, key.offset);
        if let Ok(info) = read_exact::<FreeSpaceInfo>(data) {
            self.current = Some(Group { start: key.objectid, len: key.offset, info, free: Vec::new() });
        }
    }

    /// mkfs.btrfs leaves the entries of temporary block groups that it removed. Nobody reads them: the tree is read by
    /// block group, and a new chunk goes behind all others. An entry without a block group is wrong where it lies over
    /// one, or where the next could be.
    fn open_stray(&mut self, context: &mut Context<'_>, key: &Key) {
        let end = key.objectid.saturating_add(key.offset);
        self.stray = (key.objectid, end);
        let place = Place::item(TreeId::FREE_SPACE, key);
        let overlaps = self
            .groups
            .range(..end)
            .next_back()
            .is_some_and(|(start, (len, _))| start.saturating_add(*len) > key.objectid);
        match self.groups.keys().next_back() {
            Some(last) if end <= *last && !overlaps => {
                context.warn(Kind::FreeSpace, place, "left by mkfs: no such block group")
            }
            _ => context.error(Kind::FreeSpace, place, "there is no such block group"),
        }
    }

    fn range(&mut self, context: &mut Context<'_>, key: &Key, data: &[u8]) {
        let sectorsize = context.sectorsize();
        let place = Place::item(TreeId::FREE_SPACE, key);
        let Some(group) = &mut self.current else {
            if self.stray.0 <= key.objectid && key.objectid < self.stray.1 {
                return;
            }
            context.error(Kind::FreeSpace, place, "belongs to no block group");
            return;
        };
        let (end, group_end) = (key.objectid.saturating_add(key.offset), group.start.saturating_add(group.len));
        if key.objectid < group.start || end > group_end {
            context.error(Kind::FreeSpace, place, format!("is not within block group {}", group.start));
            return;
        }
        let bitmap = key.item_type == ItemType::FREE_SPACE_BITMAP;
        if bitmap != group.info.uses_bitmaps() {
            context.error(Kind::FreeSpace, place, "the block group's flag says the other form");
        } else if !bitmap && group.free.last().is_some_and(|last| last.1 >= key.objectid) {
            context.error(Kind::FreeSpace, place, "touches or overlaps the free extent before");
        }
        if bitmap {
            add_bitmap(&mut group.free, key.objectid, end, data, sectorsize);
        } else {
            add_range(&mut group.free, key.objectid, end);
        }
    }

    fn close(&mut self, context: &mut Context<'_>) {
        let Some(group) = self.current.take() else { return };
        let place = Place::block_group(group.start);
        let count = u64::from(group.info.extent_count.get());
        if count != group.free.len() as u64 {
            let problem = format!("extent_count is {count}, there are {} free extents", group.free.len());
            context.error(Kind::FreeSpace, place.clone(), problem);
        }
        if let Some((start, end, listed)) = self.difference(context, &group) {
            let problem = match listed {
                true => format!("{start} to {end} is listed as free, but taken"),
                false => format!("{start} to {end} is free, but not listed"),
            };
            context.error(Kind::FreeSpace, place, problem);
        }
    }

    /// The first range of which the two disagree, and whether the tree lists it as free.
    fn difference(&self, context: &Context<'_>, group: &Group) -> Option<(u64, u64, bool)> {
        let gaps = gaps(context, group.start, group.start.saturating_add(group.len));
        let gaps = without(&gaps, &self.superblocks);
        let listed = without(&group.free, &self.superblocks);
        let first = |a: &Ranges, b: &Ranges| without(a, b).first().copied();
        match (first(&listed, &gaps), first(&gaps, &listed)) {
            (Some((start, end)), _) => Some((start, end, true)),
            (None, Some((start, end))) => Some((start, end, false)),
            (None, None) => None,
        }
    }
}

impl LeafVisitor for FreeSpace<'_> {
    fn leaf(&mut self, context: &mut Context<'_>, leaf: &TreeBlock) {
        for slot in 0..leaf.len() {
            let (key, data) = (leaf.key(slot), leaf.data(slot));
            match key.item_type {
                ItemType::FREE_SPACE_INFO => self.open(context, &key, data),
                ItemType::FREE_SPACE_EXTENT | ItemType::FREE_SPACE_BITMAP => self.range(context, &key, data),
                _ => context.error(
                    Kind::UnknownKey,
                    Place::item(TreeId::FREE_SPACE, &key),
                    format!("{key} does not belong here"),
                ),
            }
        }
    }

    fn hole(&mut self) {
        self.current = None;
        self.stray = (0, u64::MAX);
    }
}

/// Appends a range; one that touches the last makes that longer.
pub(crate) fn add_range(ranges: &mut Ranges, start: u64, end: u64) {
    match ranges.last_mut() {
        Some(last) if last.1 >= start => last.1 = last.1.max(end),
        _ => ranges.push((start, end)),
    }
}

fn add_bitmap(ranges: &mut Ranges, start: u64, end: u64, bits: &[u8], sectorsize: u64) {
    for (index, byte) in bits.iter().enumerate() {
        for bit in (0..8u64).filter(|bit| byte & (1 << bit) != 0) {
            let at = start.saturating_add((index as u64 * 8 + bit).saturating_mul(sectorsize));
            if at < end {
                add_range(ranges, at, at.saturating_add(sectorsize));
            }
        }
    }
}

/// What no extent takes between two addresses.
pub(crate) fn gaps(context: &Context<'_>, start: u64, end: u64) -> Ranges {
    let (mut at, mut free) = (start, Vec::new());
    extents_within(context, start..end, &mut |extent| {
        if extent.bytenr > at {
            free.push((at, extent.bytenr));
        }
        at = at.max(extent.end());
    });
    if at < end {
        free.push((at, end));
    }
    free
}

/// The sorted ranges `from`, without the sorted ranges `holes`.
pub(crate) fn without(from: &Ranges, holes: &Ranges) -> Ranges {
    let (mut left, mut next) = (Vec::new(), 0);
    for &(mut start, end) in from {
        while next < holes.len() && holes[next].1 <= start {
            next += 1;
        }
        let mut at = next;
        while let Some(hole) = holes.get(at).filter(|hole| hole.0 < end && start < end) {
            if hole.0 > start {
                left.push((start, hole.0));
            }
            start = start.max(hole.1);
            at += 1;
        }
        if start < end {
            left.push((start, end));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_cuts_holes_out() {
        let from = vec![(0, 10), (20, 30), (40, 50)];
        assert_eq!(without(&from, &vec![(2, 4), (8, 22), (30, 40)]), [(0, 2), (4, 8), (22, 30), (40, 50)]);
        assert_eq!(without(&from, &vec![(0, 100)]), []);
        assert_eq!(without(&from, &vec![]), from);
    }

    #[test]
    fn bitmap_runs_join_across_bitmaps() {
        let mut ranges = Vec::new();
        add_bitmap(&mut ranges, 0, 8 * 4096, &[0b1100_0001], 4096);
        add_bitmap(&mut ranges, 8 * 4096, 16 * 4096, &[0b0000_0001], 4096);
        assert_eq!(ranges, [(0, 4096), (6 * 4096, 9 * 4096)]);
    }
}

//! Block groups: space taken and given back, and their items.

use std::ops::Range;

use butterfs_format::items::{BlockGroupFlags, BlockGroupItem, Chunk, Stripe};
use butterfs_format::{Corruption, DevId, ItemType, Key, Logical, TreeId};
use butterfs_volume::Profile;
use zerocopy::{FromBytes, IntoBytes};

use super::Transaction;
use super::free_space_tree::{Change, SpaceChange};
use crate::error::{Error, Result};
use crate::space::{BlockGroup, Due, FreeRanges, GroupState};

/// What to do about a chunk whose block group cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadGroups {
    /// The filesystem does not open.
    Refuse,
    /// It counts as full: nothing is to be written.
    TakeAsFull,
}

impl Transaction {
    /// Reads the block group of every chunk.
    pub(super) fn load_block_groups(&mut self, bad: BadGroups) -> Result<()> {
        for (start, chunk) in self.volume.chunks() {
            let used = match (self.used_of(start, &chunk), bad) {
                (Ok(used), _) => used,
                (Err(error), BadGroups::Refuse) => return Err(error),
                (Err(error), BadGroups::TakeAsFull) => {
                    tracing::warn!(%error, "taking a block group as full");
                    chunk.length()
                }
            };
            self.space.add(self.block_group(start, &chunk, used));
        }
        Ok(())
    }

    /// How many block groups of a kind there are.
    pub fn group_count(&self, kind: BlockGroupFlags) -> usize {
        self.space.count(kind)
    }

    /// How much of a chunk its block group says is used.
    fn used_of(&self, start: Logical, chunk: &Chunk) -> Result<u64> {
        let key = Key::new(start.0, ItemType::BLOCK_GROUP_ITEM, chunk.length());
        let missing = || Corruption::new(format!("chunk {start}"), format!("it has no block group {key}"));
        let data = self.get(self.block_group_tree(), &key)?.ok_or_else(missing)?;
        let item = BlockGroupItem::read_from_bytes(&data).map_err(|_| missing())?;
        if item.flags() != chunk.flags() {
            let problem = format!("block group is {}, chunk is {}", item.flags(), chunk.flags());
            return Err(Corruption::new(format!("block group {start}"), problem).into());
        }
        Ok(item.used.get())
    }

    pub(super) fn block_group(&self, start: Logical, chunk: &Chunk, used: u64) -> BlockGroup {
        let excluded = self.volume.superblock_ranges(start).iter().map(|range| range.end.0 - range.start.0).sum();
        BlockGroup {
            start: start.0,
            len: chunk.length(),
            flags: chunk.flags(),
            used,
            excluded,
            columns: parity_columns(chunk),
            free: None,
            hint: start.0,
            dirty: false,
            state: self.state_of(chunk),
        }
    }

    /// Makes sure that a block group's free ranges are in memory.
    ///
    /// # Invariants
    /// Called before the first change of the group's free space, so that what is read is what the
    /// last commit left.
    pub(super) fn load_free_ranges(&mut self, start: u64) -> Result<()> {
        let Some(group) = self.space.get(start) else {
            return Err(Corruption::new(format!("address {start}"), "no block group begins there").into());
        };
        if group.free.is_some() {
            return Ok(());
        }
        let group = group.clone();
        let mut free = if self.has_free_space_tree() {
            self.read_free_space_tree(&group)?
        } else {
            self.scan_extents_for_free(&group)?
        };
        self.exclude_superblocks(&group, &mut free);
        let expected = group.len.saturating_sub(group.used + group.excluded);
        if free.total() != expected {
            let problem = format!("{} bytes are free by its free space, {expected} by its item", free.total());
            return Err(Corruption::new(format!("block group {start}"), problem).into());
        }
        self.space.change(start, |group| group.set_free(free));
        Ok(())
    }

    /// Superblock copies are never allocated, though the free space tree has their place as free.
    pub(super) fn exclude_superblocks(&self, group: &BlockGroup, free: &mut FreeRanges) {
        for range in self.volume.superblock_ranges(Logical(group.start)) {
            free.remove(range.start.0, range.end.0 - range.start.0);
        }
    }

    /// The free ranges of a group without extents.
    pub(super) fn all_free(&self, group: &BlockGroup) -> FreeRanges {
        let mut free = FreeRanges::default();
        free.add(group.start, group.len);
        self.exclude_superblocks(group, &mut free);
        free
    }

    /// Free space without a free space tree: the gaps between extents.
    fn scan_extents_for_free(&self, group: &BlockGroup) -> Result<FreeRanges> {
        let mut free = FreeRanges::default();
        free.add(group.start, group.len);
        let mut cursor = self.cursor(TreeId::EXTENT, &Key::new(group.start, ItemType(0), 0))?;
        while let Some(key) = cursor.key().filter(|key| key.objectid < group.end()) {
            match key.item_type {
                ItemType::EXTENT_ITEM => free.remove(key.objectid, key.offset),
                ItemType::METADATA_ITEM => free.remove(key.objectid, self.geometry.nodesize.into()),
                _ => {}
            }
            cursor.advance()?;
        }
        Ok(free)
    }

    /// Where nothing is written at all, what a log brings back is put anywhere in memory.
    pub(super) fn state_of(&self, chunk: &Chunk) -> GroupState {
        let is_written = |stripe: &Stripe| self.volume.is_written(DevId(stripe.devid.get()));
        match self.volume.is_read_only() || chunk.stripes.iter().all(is_written) {
            true => GroupState::Open,
            false => GroupState::Fixed,
        }
    }

    /// Whether bytes at an address may change in place: not in a group that lies on a device that is not written, nor
    /// beside other bytes that have the same parity.
    pub fn is_writable(&self, at: Logical) -> bool {
        let may = |group: &BlockGroup| group.state != GroupState::Fixed && group.columns.is_none();
        self.space.containing(at.0).is_some_and(may)
    }

    /// Whether any block group has parity.
    pub(super) fn has_rows(&self) -> bool {
        self.space.has_rows()
    }

    /// Takes space for one tree block.
    pub(super) fn take_block_space(&mut self, kind: BlockGroupFlags, due: Due) -> Result<Logical> {
        let wished = self.wished(kind);
        if let Some(at) = self.take_block_space_in(kind, wished, due)? {
            return Ok(at);
        }
        let anywhere = if wished.is_some() { self.take_block_space_in(kind, None, due)? } else { None };
        anywhere.ok_or(Error::NoSpace)
    }

    /// The same in groups with these flags only, if any are given.
    fn take_block_space_in(
        &mut self,
        kind: BlockGroupFlags,
        only: Option<BlockGroupFlags>,
        due: Due,
    ) -> Result<Option<Logical>> {
        let len = u64::from(self.geometry.nodesize);
        let mut from = 0;
        while let Some(start) = self.next_roomy(kind, only, from) {
            self.load_free_ranges(start)?;
            let taken = self.space.change(start, |group| {
                let at = group.free.as_mut()?.allocate_near(group.hint, len, due)?;
                group.hint = at + len;
                Some(Logical(at))
            });
            if let Some(at) = taken.flatten() {
                return Ok(Some(at));
            }
            from = start + 1;
        }
        Ok(None)
    }

    /// The first group of a kind from `from` on that has free space, of those with these flags if any are given.
    fn next_roomy(&self, kind: BlockGroupFlags, only: Option<BlockGroupFlags>, mut from: u64) -> Option<u64> {
        loop {
            let start = self.space.next_roomy(kind, from)?;
            if only.is_none_or(|only| self.space.get(start).is_some_and(|group| group.flags == only)) {
                return Some(start);
            }
            from = start + 1;
        }
    }

    /// Takes contiguous space for data: at most `want` bytes, at least one sector. The space is the
    /// caller's until [`Transaction::add_data_extent`] or [`Transaction::give_back`].
    ///
    /// # Errors
    /// [`Error::NoSpace`] if there is none, which a [`super::DataReservation`] rules out.
    pub fn allocate_data(&mut self, want: u64) -> Result<(Logical, u64)> {
        let want = want.next_multiple_of(self.sectorsize());
        let wished = self.wished(BlockGroupFlags::DATA);
        let best = match self.longest_hole(want, wished)? {
            None if wished.is_some() => self.longest_hole(want, None)?,
            best => best,
        };
        let (start, _) = best.ok_or(Error::NoSpace)?;
        self.take_in(start, want)
    }

    /// Takes space for data in one piece; `None` if there is no such hole in groups with these flags, if any are given.
    pub(super) fn take_whole(&mut self, len: u64, only: Option<BlockGroupFlags>) -> Result<Option<Logical>> {
        match self.longest_hole(len, only)? {
            Some((start, longest)) if longest >= len => Ok(Some(self.take_in(start, len)?.0)),
            _ => Ok(None),
        }
    }

    /// A data group with a hole of so many bytes, or else the one with the longest, and how long that is.
    fn longest_hole(&mut self, want: u64, only: Option<BlockGroupFlags>) -> Result<Option<(u64, u64)>> {
        let mut best: Option<(u64, u64)> = None;
        let mut from = 0;
        while let Some(start) = self.next_roomy(BlockGroupFlags::DATA, only, from) {
            self.load_free_ranges(start)?;
            let longest = self.space.get(start).and_then(|g| g.free.as_ref()).map_or(0, |free| free.longest(Due::Log));
            if best.is_none_or(|(_, len)| longest > len) {
                best = Some((start, longest));
            }
            if longest >= want {
                break;
            }
            from = start + 1;
        }
        Ok(best.filter(|(_, len)| *len > 0))
    }

    fn take_in(&mut self, start: u64, want: u64) -> Result<(Logical, u64)> {
        let taken = self.space.change(start, |group| group.free.as_mut()?.allocate_best(want, Due::Log));
        let (at, len) = taken.flatten().ok_or(Error::NoSpace)?;
        Ok((Logical(at), len))
    }

    /// Returns data space that was allocated and never became an extent.
    pub fn give_back(&mut self, at: Logical, len: u64) {
        self.release_space(at, len);
    }

    /// Space is free at once.
    pub(super) fn release_space(&mut self, at: Logical, len: u64) {
        self.space.change(at.0, |group| {
            if let Some(free) = &mut group.free {
                free.add(at.0, len);
            }
        });
    }

    /// Whether a range is free in full, as far as its group's free ranges were looked at: in a group where they were
    /// not, what has no extent item is free. What is free is neither pinned, nor of a log, nor about to be written.
    pub fn is_free(&self, range: Range<u64>) -> bool {
        let free = self.space.containing(range.start).and_then(|group| group.free.as_ref());
        free.is_none_or(|free| free.has_all(range))
    }

    /// Space will be free once this transaction is durable.
    pub(super) fn pin(&mut self, at: Logical, len: u64) {
        self.pinned.push((at, len));
        self.pinned_bytes += len;
    }

    /// An extent's item was put in.
    pub(super) fn note_allocated(&mut self, at: Logical, len: u64) -> Result<()> {
        self.change_used(at, len as i64)?;
        self.note_space_change(SpaceChange { kind: Change::Taken, at, len })
    }

    /// An extent's item was taken out.
    pub(super) fn note_freed(&mut self, at: Logical, len: u64) -> Result<()> {
        self.change_used(at, -(len as i64))?;
        self.note_space_change(SpaceChange { kind: Change::Freed, at, len })
    }

    /// [`Transaction::load_free_ranges`] of the group that holds an extent.
    pub(super) fn load_free_ranges_around(&mut self, at: Logical) -> Result<()> {
        let group = self.space.containing(at.0).ok_or_else(|| outside(at))?;
        self.load_free_ranges(group.start)
    }

    fn change_used(&mut self, at: Logical, by: i64) -> Result<()> {
        let changed = self.space.change(at.0, |group| {
            let (start, used) = (group.start, group.used);
            group.used = used.checked_add_signed(by).filter(|used| *used <= group.len).ok_or_else(|| {
                Corruption::new(format!("block group {start}"), format!("{used} bytes used change by {by}"))
            })?;
            group.dirty = true;
            Ok(())
        });
        changed.ok_or_else(|| outside(at))?
    }

    /// Writes the items of groups that changed; says whether there were any.
    pub(super) fn write_block_groups(&mut self) -> Result<bool> {
        let dirty: Vec<(u64, u64, BlockGroupFlags, u64)> =
            self.space.dirty().map(|g| (g.start, g.len, g.flags, g.used)).collect();
        for (start, len, flags, used) in &dirty {
            self.space.change(*start, |group| group.dirty = false);
            self.put_block_group_item(*start, *len, *flags, *used)?;
        }
        Ok(!dirty.is_empty())
    }

    pub(super) fn put_block_group_item(
        &mut self,
        start: u64,
        len: u64,
        flags: BlockGroupFlags,
        used: u64,
    ) -> Result<()> {
        let item = BlockGroupItem { used: used.into(), chunk_objectid: 256.into(), flags: flags.bits().into() };
        let tree = self.block_group_tree();
        self.put(tree, &Key::new(start, ItemType::BLOCK_GROUP_ITEM, len), item.as_bytes())
    }
}

/// How many columns of data a chunk with parity has.
fn parity_columns(chunk: &Chunk) -> Option<u64> {
    let parity = Profile::of(chunk.flags()).map_or(0, |profile| profile.parity);
    (parity > 0).then(|| chunk.stripes.len().saturating_sub(parity).max(1) as u64)
}

pub(super) fn outside(at: Logical) -> Corruption {
    Corruption::new(format!("extent {at}"), "it lies in no block group")
}

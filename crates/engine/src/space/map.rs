//! All block groups, and what is promised of their space.
//!
//! # Invariants
//! * `promised` never exceeds what can be allocated, chunks yet to be made included; it is checked
//!   by the gate before a change begins.

use std::collections::BTreeMap;

use butterfs_format::items::BlockGroupFlags;

use super::BlockGroup;

/// Block groups by address.
#[derive(Default)]
pub struct SpaceMap {
    groups: BTreeMap<u64, BlockGroup>,
}

/// Sums over the block groups of one kind, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Size of the groups.
    pub total: u64,
    /// Extents.
    pub used: u64,
    /// Free to be allocated.
    pub available: u64,
}

/// Space that was promised and not yet allocated, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Promised {
    /// For file data in memory.
    pub data: u64,
    /// For the metadata of that data.
    pub metadata: u64,
}

impl SpaceMap {
    /// Adds a group.
    pub fn add(&mut self, group: BlockGroup) {
        self.groups.insert(group.start, group);
    }

    /// Takes a group away.
    pub fn remove(&mut self, start: u64) -> Option<BlockGroup> {
        self.groups.remove(&start)
    }

    /// The group that begins at `start`.
    pub fn get_mut(&mut self, start: u64) -> Option<&mut BlockGroup> {
        self.groups.get_mut(&start)
    }

    /// The group that holds an address.
    pub fn containing(&self, at: u64) -> Option<&BlockGroup> {
        self.groups.range(..=at).next_back().map(|(_, g)| g).filter(|g| at < g.end())
    }

    /// The group that holds an address, to be changed.
    pub fn containing_mut(&mut self, at: u64) -> Option<&mut BlockGroup> {
        self.groups.range_mut(..=at).next_back().map(|(_, g)| g).filter(|g| at < g.end())
    }

    /// All groups.
    pub fn iter(&self) -> impl Iterator<Item = &BlockGroup> {
        self.groups.values()
    }

    /// Sums over the groups of one kind.
    pub fn totals(&self, kind: BlockGroupFlags) -> Totals {
        self.groups.values().filter(|g| g.flags.kind() == kind).fold(Totals::default(), |sum, g| Totals {
            total: sum.total + g.len,
            used: sum.used + g.used,
            available: sum.available + g.available(),
        })
    }

    /// Extents in all groups, in bytes: the superblock's `bytes_used`.
    pub fn used(&self) -> u64 {
        self.groups.values().map(|g| g.used).sum()
    }

    /// One past the last group: where the next chunk goes.
    pub fn end(&self) -> u64 {
        self.groups.values().next_back().map_or(0, BlockGroup::end)
    }
}

//! All block groups, and what is promised of their space.
//!
//! # Invariants
//! * The sums of a kind are those over its groups: groups change only by [`SpaceMap::change`].
//! * `promised` never exceeds what can be allocated, chunks yet to be made included; it is checked
//!   by the gate before a change begins.

use std::collections::{BTreeMap, BTreeSet};

use butterfs_format::items::BlockGroupFlags;

use super::BlockGroup;

/// Block groups by address.
#[derive(Default)]
pub struct SpaceMap {
    groups: BTreeMap<u64, BlockGroup>,
    /// By the bits of the kind.
    kinds: BTreeMap<u64, Kind>,
}

/// What is known of the groups of one kind, so that nobody has to walk them.
#[derive(Default)]
struct Kind {
    totals: Totals,
    /// The starts of the groups with free space.
    roomy: BTreeSet<u64>,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Promised {
    /// For file data in memory.
    pub data: u64,
    /// For the metadata of that data.
    pub metadata: u64,
    /// File data that was promised no space but that which its file has.
    pub in_place: u64,
}

impl Totals {
    fn of(group: &BlockGroup) -> Self {
        Self { total: group.len, used: group.used, available: group.available() }
    }

    fn add(&mut self, other: &Self) {
        self.total += other.total;
        self.used += other.used;
        self.available += other.available;
    }

    fn subtract(&mut self, other: &Self) {
        self.total -= other.total;
        self.used -= other.used;
        self.available -= other.available;
    }
}

impl Kind {
    fn enter(&mut self, group: &BlockGroup) {
        self.totals.add(&Totals::of(group));
        if group.available() > 0 {
            self.roomy.insert(group.start);
        }
    }

    fn leave(&mut self, start: u64, was: &Totals) {
        self.totals.subtract(was);
        self.roomy.remove(&start);
    }
}

impl SpaceMap {
    fn kind(&mut self, flags: BlockGroupFlags) -> &mut Kind {
        self.kinds.entry(flags.kind().bits()).or_default()
    }

    /// Adds a group.
    pub fn add(&mut self, group: BlockGroup) {
        self.kind(group.flags).enter(&group);
        self.groups.insert(group.start, group);
    }

    /// Takes a group away.
    pub fn remove(&mut self, start: u64) -> Option<BlockGroup> {
        let group = self.groups.remove(&start)?;
        self.kind(group.flags).leave(start, &Totals::of(&group));
        Some(group)
    }

    /// The group that begins at `start`.
    pub fn get(&self, start: u64) -> Option<&BlockGroup> {
        self.groups.get(&start)
    }

    /// The group that holds an address.
    pub fn containing(&self, at: u64) -> Option<&BlockGroup> {
        self.groups.range(..=at).next_back().map(|(_, g)| g).filter(|g| at < g.end())
    }

    /// Changes the group that holds an address; `None` if there is none.
    pub fn change<R>(&mut self, at: u64, change: impl FnOnce(&mut BlockGroup) -> R) -> Option<R> {
        let group = self.groups.range_mut(..=at).next_back().map(|(_, g)| g).filter(|g| at < g.end())?;
        let was = Totals::of(group);
        let result = change(group);
        // Nearly always only flags or a part of the sums changed; two small maps are cheap.
        let kind = self.kinds.entry(group.flags.kind().bits()).or_default();
        kind.leave(group.start, &was);
        kind.enter(group);
        Some(result)
    }

    /// All groups.
    pub fn iter(&self) -> impl Iterator<Item = &BlockGroup> {
        self.groups.values()
    }

    /// Sums over the groups of one kind.
    pub fn totals(&self, kind: BlockGroupFlags) -> Totals {
        self.kinds.get(&kind.bits()).map_or(Totals::default(), |kind| kind.totals)
    }

    /// The first group of a kind, from `from` on, that has free space.
    pub fn next_roomy(&self, kind: BlockGroupFlags, from: u64) -> Option<u64> {
        self.kinds.get(&kind.bits())?.roomy.range(from..).next().copied()
    }

    /// Extents in all groups, in bytes: the superblock's `bytes_used`.
    pub fn used(&self) -> u64 {
        self.kinds.values().map(|kind| kind.totals.used).sum()
    }

    /// One past the last group: where the next chunk goes.
    pub fn end(&self) -> u64 {
        self.groups.values().next_back().map_or(0, BlockGroup::end)
    }
}

#[cfg(test)]
mod tests {
    use super::super::FreeRanges;
    use super::*;

    fn group(start: u64, flags: BlockGroupFlags) -> BlockGroup {
        let mut free = FreeRanges::default();
        free.add(start, 100);
        let (used, excluded, hint) = (0, 0, start);
        let (dirty, read_only) = (false, false);
        BlockGroup { start, len: 100, flags, used, excluded, free: Some(free), hint, dirty, read_only }
    }

    #[test]
    fn sums_follow_changes() {
        let (data, metadata) = (BlockGroupFlags::DATA, BlockGroupFlags::METADATA);
        let mut map = SpaceMap::default();
        map.add(group(0, data));
        map.add(group(100, metadata | BlockGroupFlags::DUP));
        map.add(group(200, data));
        assert_eq!(map.totals(data), Totals { total: 200, used: 0, available: 200 });
        map.change(250, |group| {
            group.used = 100;
            group.free.as_mut().unwrap().remove(200, 100);
        });
        assert_eq!(map.totals(data), Totals { total: 200, used: 100, available: 100 });
        assert_eq!((map.next_roomy(data, 0), map.next_roomy(data, 1), map.used()), (Some(0), None, 100));
        map.change(0, |group| group.read_only = true);
        assert_eq!((map.totals(data).available, map.next_roomy(data, 0)), (0, None));
        assert_eq!(map.totals(metadata), Totals { total: 100, used: 0, available: 100 });
        map.remove(200).unwrap();
        assert_eq!((map.totals(data).total, map.used()), (100, 0));
        assert!(map.change(200, |_| ()).is_none());
    }
}

//! All block groups, and what is promised of their space.
//!
//! # Invariants
//! * The sums of a kind are those over its groups: groups change only by [`SpaceMap::change`].
//! * `promised` never exceeds what can be allocated, chunks yet to be made included; it is checked
//!   by the gate before a change begins.

use std::collections::{BTreeMap, BTreeSet};

use butterfs_format::items::BlockGroupFlags;

use super::{BlockGroup, Due};

/// What groups hold that hold data and metadata.
const MIXED: BlockGroupFlags = BlockGroupFlags::DATA.union(BlockGroupFlags::METADATA);

/// Block groups by address.
#[derive(Default)]
pub struct SpaceMap {
    groups: BTreeMap<u64, BlockGroup>,
    /// By the bits of the kind.
    kinds: BTreeMap<u64, Kind>,
    /// The starts of the groups whose items on disk differ.
    dirty: BTreeSet<u64>,
    /// The starts of the groups with parity.
    with_rows: BTreeSet<u64>,
}

/// What is known of the groups of one kind, so that nobody has to walk them.
#[derive(Default)]
struct Kind {
    totals: Totals,
    /// The starts of all of them.
    all: BTreeSet<u64>,
    /// Of those with free space.
    roomy: BTreeSet<u64>,
    /// Of those without extents.
    unused: BTreeSet<u64>,
}

/// Sums over the block groups of one kind, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Size of the groups.
    pub total: u64,
    /// Extents.
    pub used: u64,
    /// Free to be allocated, in parts as small as may be and with commits between them.
    pub available: u64,
    /// Free to be allocated at once. It is more than `available` where there is parity.
    pub open: u64,
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
        Self { total: group.len, used: group.used, available: group.available(), open: group.open() }
    }

    fn add(&mut self, other: &Self) {
        self.total += other.total;
        self.used += other.used;
        self.available += other.available;
        self.open += other.open;
    }

    fn subtract(&mut self, other: &Self) {
        self.total -= other.total;
        self.used -= other.used;
        self.available -= other.available;
        self.open -= other.open;
    }
}

/// Puts a number into a set or takes it out; nearly always there is nothing to do.
fn set_member(set: &mut BTreeSet<u64>, start: u64, (is, was): (bool, bool)) {
    match (is, was) {
        (true, false) => drop(set.insert(start)),
        (false, true) => drop(set.remove(&start)),
        _ => {}
    }
}

impl Kind {
    /// A group comes (`was` is none), changes, or goes (`now` is none).
    fn count(&mut self, start: u64, was: Option<&Totals>, now: Option<&Totals>) {
        was.into_iter().for_each(|was| self.totals.subtract(was));
        now.into_iter().for_each(|now| self.totals.add(now));
        let both = |is: fn(&Totals) -> bool| (now.is_some_and(is), was.is_some_and(is));
        set_member(&mut self.all, start, both(|_| true));
        set_member(&mut self.roomy, start, both(|totals| totals.open > 0));
        set_member(&mut self.unused, start, both(|totals| totals.used == 0));
    }
}

impl SpaceMap {
    fn kind(&mut self, flags: BlockGroupFlags) -> &mut Kind {
        self.kinds.entry(flags.kind().bits()).or_default()
    }

    /// Adds a group.
    pub fn add(&mut self, group: BlockGroup) {
        self.kind(group.flags).count(group.start, None, Some(&Totals::of(&group)));
        set_member(&mut self.dirty, group.start, (group.dirty, false));
        set_member(&mut self.with_rows, group.start, (group.columns.is_some(), false));
        self.groups.insert(group.start, group);
    }

    /// Takes a group away.
    pub fn remove(&mut self, start: u64) -> Option<BlockGroup> {
        let group = self.groups.remove(&start)?;
        self.kind(group.flags).count(start, Some(&Totals::of(&group)), None);
        self.dirty.remove(&start);
        self.with_rows.remove(&start);
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

    /// The group that holds an address, or the first one behind it.
    pub fn from(&self, at: u64) -> Option<&BlockGroup> {
        self.containing(at).or_else(|| self.groups.range(at..).next().map(|(_, group)| group))
    }

    /// Changes the group that holds an address; `None` if there is none.
    pub fn change<R>(&mut self, at: u64, change: impl FnOnce(&mut BlockGroup) -> R) -> Option<R> {
        let group = self.groups.range_mut(..=at).next_back().map(|(_, g)| g).filter(|g| at < g.end())?;
        let (was, was_dirty) = (Totals::of(group), group.dirty);
        let result = change(group);
        set_member(&mut self.dirty, group.start, (group.dirty, was_dirty));
        let now = Totals::of(group);
        if now != was {
            self.kinds.entry(group.flags.kind().bits()).or_default().count(group.start, Some(&was), Some(&now));
        }
        Some(result)
    }

    /// All groups, by address.
    pub fn iter(&self) -> impl Iterator<Item = &BlockGroup> {
        self.groups.values()
    }

    /// What space for data, or for metadata, is taken from: groups of that kind, or those that hold both where there are
    /// such (mixed block groups).
    pub fn pool(&self, kind: BlockGroupFlags) -> BlockGroupFlags {
        let is_mixed = MIXED.contains(kind) && self.kinds.get(&MIXED.bits()).is_some_and(|mixed| !mixed.all.is_empty());
        if is_mixed { MIXED } else { kind }
    }

    fn of_pool(&self, kind: BlockGroupFlags) -> Option<&Kind> {
        self.kinds.get(&self.pool(kind).bits())
    }

    /// Sums over the groups of one kind.
    pub fn totals(&self, kind: BlockGroupFlags) -> Totals {
        self.of_pool(kind).map_or(Totals::default(), |kind| kind.totals)
    }

    /// How many groups of one kind there are.
    pub fn count(&self, kind: BlockGroupFlags) -> usize {
        self.of_pool(kind).map_or(0, |kind| kind.all.len())
    }

    /// The groups of one kind.
    pub fn of_kind(&self, kind: BlockGroupFlags) -> impl Iterator<Item = &BlockGroup> {
        let starts = self.of_pool(kind).map(|kind| kind.all.iter());
        starts.into_iter().flatten().filter_map(|start| self.groups.get(start))
    }

    /// The groups of one kind that have no extents.
    pub fn unused(&self, kind: BlockGroupFlags) -> impl Iterator<Item = &BlockGroup> {
        let starts = self.of_pool(kind).map(|kind| kind.unused.iter());
        starts.into_iter().flatten().filter_map(|start| self.groups.get(start))
    }

    /// The groups whose items on disk differ.
    pub fn dirty(&self) -> impl Iterator<Item = &BlockGroup> {
        self.dirty.iter().filter_map(|start| self.groups.get(start))
    }

    /// Whether any group has parity.
    pub fn has_rows(&self) -> bool {
        !self.with_rows.is_empty()
    }

    /// What was put into rows for then is becoming durable: nothing is put beside it any more.
    pub fn close_rows(&mut self, due: Due) {
        for start in self.with_rows.clone() {
            self.change(start, |group| group.close_rows(due));
        }
    }

    /// The first group of a kind with parity whose free space nobody has looked at.
    pub fn unknown_rows(&self, kind: BlockGroupFlags) -> Option<u64> {
        let groups = self.with_rows.iter().filter_map(|start| self.groups.get(start));
        let unknown = |group: &&BlockGroup| group.flags.intersects(kind) && group.free.is_none();
        groups.into_iter().find(unknown).map(|group| group.start)
    }

    /// The first group of a kind, from `from` on, that has free space.
    pub fn next_roomy(&self, kind: BlockGroupFlags, from: u64) -> Option<u64> {
        self.of_pool(kind)?.roomy.range(from..).next().copied()
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
    use super::super::{FreeRanges, FreeSpace, GroupState};
    use super::*;

    fn group(start: u64, flags: BlockGroupFlags) -> BlockGroup {
        let mut free = FreeRanges::default();
        free.add(start, 100);
        let (used, excluded, hint) = (0, 0, start);
        let (dirty, state, columns) = (false, GroupState::Open, None);
        let free = Some(FreeSpace::new(free, start, columns));
        BlockGroup { start, len: 100, flags, used, excluded, columns, free, hint, dirty, state }
    }

    #[test]
    fn mixed_groups_are_the_pool_of_both_kinds() {
        let mut map = SpaceMap::default();
        map.add(group(0, BlockGroupFlags::SYSTEM));
        map.add(group(100, MIXED | BlockGroupFlags::DUP));
        for kind in [BlockGroupFlags::DATA, BlockGroupFlags::METADATA] {
            assert_eq!((map.pool(kind), map.totals(kind).available, map.next_roomy(kind, 0)), (MIXED, 100, Some(100)));
        }
        assert_eq!((map.pool(BlockGroupFlags::SYSTEM), map.used()), (BlockGroupFlags::SYSTEM, 0));
        assert_eq!(map.next_roomy(BlockGroupFlags::SYSTEM, 0), Some(0));
    }

    #[test]
    fn sums_follow_changes() {
        let (data, metadata) = (BlockGroupFlags::DATA, BlockGroupFlags::METADATA);
        let mut map = SpaceMap::default();
        map.add(group(0, data));
        map.add(group(100, metadata | BlockGroupFlags::DUP));
        map.add(group(200, data));
        assert_eq!(map.totals(data), Totals { total: 200, used: 0, available: 200, open: 200 });
        map.change(250, |group| {
            group.used = 100;
            group.free.as_mut().unwrap().claim(200, 100);
        });
        assert_eq!(map.totals(data), Totals { total: 200, used: 100, available: 100, open: 100 });
        assert_eq!((map.next_roomy(data, 0), map.next_roomy(data, 1), map.used()), (Some(0), None, 100));
        let unused = |map: &SpaceMap| map.unused(data).map(|g| g.start).collect::<Vec<_>>();
        assert_eq!((unused(&map), map.count(data)), (vec![0], 2));
        map.change(0, |group| (group.state, group.dirty) = (GroupState::Moving, true));
        assert_eq!(map.dirty().map(|g| g.start).collect::<Vec<_>>(), [0]);
        assert_eq!((map.totals(data).available, map.next_roomy(data, 0)), (0, None));
        assert_eq!(map.totals(metadata), Totals { total: 100, used: 0, available: 100, open: 100 });
        map.remove(200).unwrap();
        assert_eq!((map.totals(data).total, map.used(), map.count(data)), (100, 0, 1));
        map.change(0, |group| group.dirty = false);
        assert_eq!((map.dirty().count(), map.of_kind(data).count()), (0, 1));
        assert!(map.change(200, |_| ()).is_none());
    }
}

//! Quota groups: the quota tree itself, and its counters against what subvolumes really hold.
//!
//! An extent counts for a group if a subvolume among its members holds it, as `referenced`; and as
//! `exclusive` if nobody else holds it. Which subvolumes hold an extent is gathered by walking them once
//! more. Simple quotas count otherwise: see [`crate::simple_quota`].
//!
//! Memory: the groups; for each different set of subvolumes that share extents, the set; and 24 bytes for
//! each extent, as far as the memory has room: the rest waits for another walk.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use butterfs_format::superblock::Incompat;
use butterfs_format::{Generation, ItemType, Key, TreeBlock, TreeId};

use crate::context::Context;
use crate::extent_tree::extents_within;
use crate::finding::{Counter, Kind, Place, QuotaGroup, qgroup_name};
use crate::references::data_of;
use crate::revisit::{Revisitor, revisit};
use crate::simple_quota::OwnedBytes;
use crate::walk::{LeafVisitor, TreeRoot};

/// Flags of QGROUP_STATUS.
const ON: u64 = 1 << 0;
const RESCAN: u64 = 1 << 1;
const INCONSISTENT: u64 = 1 << 2;
const SIMPLE: u64 = 1 << 3;
/// Sizes of the items, in bytes.
const INFO_SIZE: usize = 40;
const LIMIT_SIZE: usize = 40;
const STATUS_SIZES: [usize; 2] = [32, 40];
const VERSION: u64 = 1;

/// What the quota tree says.
#[derive(Default)]
pub(crate) struct QuotaTree {
    status: Option<Status>,
    groups: BTreeMap<u64, Stored>,
    limits: BTreeSet<u64>,
    /// Both directions, as they are stored.
    relations: BTreeSet<(u64, u64)>,
}

struct Status {
    flags: u64,
    generation: u64,
    /// Since when simple quotas are on.
    enabled: u64,
}

/// Counters as they are stored.
struct Stored {
    referenced: u64,
    exclusive: u64,
}

fn level(id: u64) -> u64 {
    id >> 48
}

fn number(data: &[u8], index: usize) -> u64 {
    let (numbers, _) = data.as_chunks::<8>();
    numbers.get(index).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl LeafVisitor for QuotaTree {
    fn leaf(&mut self, context: &mut Context<'_>, leaf: &TreeBlock) {
        for slot in 0..leaf.len() {
            self.item(context, &leaf.key(slot), leaf.data(slot));
        }
    }
}

impl QuotaTree {
    fn item(&mut self, context: &mut Context<'_>, key: &Key, data: &[u8]) {
        let fits = match key.item_type {
            ItemType::QGROUP_STATUS => STATUS_SIZES.contains(&data.len()),
            ItemType::QGROUP_INFO => data.len() == INFO_SIZE,
            ItemType::QGROUP_LIMIT => data.len() == LIMIT_SIZE,
            ItemType::QGROUP_RELATION => data.is_empty(),
            _ => {
                let place = Place::item(TreeId::QUOTA, key);
                return context.error(Kind::UnknownKey, place, "does not belong here");
            }
        };
        if !fits {
            let problem = format!("an item of {} bytes", data.len());
            return context.error(Kind::Quota, Place::item(TreeId::QUOTA, key), problem);
        }
        match key.item_type {
            ItemType::QGROUP_STATUS => self.status(context, key, data),
            ItemType::QGROUP_INFO => {
                // Generation, referenced, the same compressed, exclusive, the same compressed.
                self.groups.insert(key.offset, Stored { referenced: number(data, 1), exclusive: number(data, 3) });
            }
            ItemType::QGROUP_LIMIT => {
                self.limits.insert(key.offset);
            }
            _ => {
                self.relations.insert((key.objectid, key.offset));
            }
        }
    }

    fn status(&mut self, context: &mut Context<'_>, key: &Key, data: &[u8]) {
        let (version, generation, flags) = (number(data, 0), number(data, 1), number(data, 2));
        let place = Place::item(TreeId::QUOTA, key);
        if version != VERSION {
            context.error(Kind::Quota, place.clone(), format!("version {version}, want {VERSION}"));
        }
        if generation > context.generation() {
            let problem = format!("generation {generation} is above the superblock's {}", context.generation());
            context.error(Kind::Quota, place.clone(), problem);
        }
        if flags & !(ON | RESCAN | INCONSISTENT | SIMPLE) != 0 {
            context.error(Kind::Quota, place, format!("unknown flags {flags:#x}"));
        }
        let simple = context.has(Incompat::SIMPLE_QUOTA);
        if flags & ON != 0 && simple != (flags & SIMPLE != 0) {
            let problem = "the feature bit of simple quotas and the status disagree";
            context.error(Kind::Quota, Place::item(TreeId::QUOTA, key), problem);
        }
        // Of other quotas the fourth number is how far a rescan came, and the fifth may be missing.
        let enabled = number(data, 4);
        if flags & SIMPLE != 0 && enabled > context.generation() {
            let problem = format!("simple quotas are on since generation {enabled}, which is to come");
            context.error(Kind::Quota, Place::item(TreeId::QUOTA, key), problem);
        }
        self.status = Some(Status { flags, generation, enabled });
    }

    /// From which generation on extents count, if quotas are simple ones.
    pub fn simple_since(&self) -> Option<Generation> {
        let status = self.status.as_ref().filter(|status| status.flags & ON != 0 && status.flags & SIMPLE != 0);
        status.map(|status| Generation(status.enabled))
    }

    /// Checks groups and relations among themselves.
    pub fn check(&self, context: &mut Context<'_>) {
        if self.status.is_none() {
            context.error(Kind::Quota, Place::tree(TreeId::QUOTA), "there is no QGROUP_STATUS");
        }
        for (from, to) in &self.relations {
            self.relation(context, *from, *to);
        }
        for id in self.groups.keys().filter(|id| !self.limits.contains(*id)) {
            context.error(Kind::Quota, Place::qgroup(*id), "there is no QGROUP_LIMIT");
        }
        for id in self.limits.iter().filter(|id| !self.groups.contains_key(id)) {
            context.error(Kind::Quota, Place::qgroup(*id), "there is no QGROUP_INFO");
        }
    }

    fn relation(&self, context: &mut Context<'_>, from: u64, to: u64) {
        let place = || Place::qgroup(from);
        let other = qgroup_name(to);
        if !self.relations.contains(&(to, from)) {
            context.error(Kind::Quota, place(), format!("the relation to {other} is there in one direction only"));
        }
        if !self.groups.contains_key(&from) {
            context.error(Kind::Quota, place(), format!("has a relation to {other}, but there is no such group"));
        }
        if level(from) == level(to) {
            context.error(Kind::Quota, place(), format!("has a relation to {other}, which is of the same level"));
        }
    }

    /// The groups that a subvolume's extents count for.
    fn groups_of(&self, tree: TreeId) -> BTreeSet<u64> {
        let mut all = BTreeSet::new();
        let mut next = vec![tree.0];
        while let Some(id) = next.pop() {
            if self.groups.contains_key(&id) && all.insert(id) {
                let related = self.relations.range((id, 0)..=(id, u64::MAX)).map(|(_, to)| *to);
                next.extend(related.filter(|to| level(*to) > level(id)));
            }
        }
        all
    }

    /// Compares the counters with what the subvolumes hold; to be called when all trees were walked.
    pub fn check_usage(&self, context: &mut Context<'_>, subvolumes: &[TreeRoot]) {
        let Some(status) = &self.status else { return };
        let counted = match status.flags & (ON | SIMPLE) {
            ON => self.count(&holders(context, subvolumes)),
            _ if status.flags & ON != 0 => self.count_simple(context),
            _ => return,
        };
        for (id, stored) in &self.groups {
            let (referenced, exclusive) = counted.get(id).copied().unwrap_or_default();
            let referenced = Counter { stored: stored.referenced, counted: referenced };
            let exclusive = Counter { stored: stored.exclusive, counted: exclusive };
            context.report.quota_groups.push(QuotaGroup { id: *id, referenced, exclusive });
        }
        if status.flags & (RESCAN | INCONSISTENT) != 0 {
            let problem = "quotas wait to be counted again; the counters mean nothing until then";
            context.note(Kind::QuotaUsage, Place::tree(TreeId::QUOTA), problem);
            return;
        }
        if status.generation != context.generation() {
            let problem = format!("last written in generation {}; the next mount counts again", status.generation);
            context.note(Kind::QuotaUsage, Place::tree(TreeId::QUOTA), problem);
        }
        let wrong: Vec<_> = context.report.quota_groups.iter().filter(|group| !group.agrees()).copied().collect();
        for group in wrong {
            context.error(Kind::QuotaUsage, Place::qgroup(group.id), group.to_string());
        }
    }

    /// With simple quotas an extent counts for the subvolume that made it, and for all groups above.
    fn count_simple(&self, context: &Context<'_>) -> HashMap<u64, (u64, u64)> {
        let mut counted: HashMap<u64, (u64, u64)> = HashMap::new();
        for (tree, bytes) in context.owned.iter().flat_map(OwnedBytes::by_tree) {
            for id in self.groups_of(tree) {
                let sums = counted.entry(id).or_default();
                *sums = (sums.0.saturating_add(bytes), sums.1.saturating_add(bytes));
            }
        }
        counted
    }

    fn count(&self, owned: &[(Vec<TreeId>, u64)]) -> HashMap<u64, (u64, u64)> {
        let mut counted: HashMap<u64, (u64, u64)> = HashMap::new();
        let mut known: HashMap<TreeId, BTreeSet<u64>> = HashMap::new();
        for (trees, bytes) in owned {
            let mut members: BTreeMap<u64, usize> = BTreeMap::new();
            for tree in trees {
                let groups = known.entry(*tree).or_insert_with(|| self.groups_of(*tree));
                groups.iter().for_each(|id| *members.entry(*id).or_default() += 1);
            }
            for (id, count) in members {
                let sums = counted.entry(id).or_default();
                sums.0 = sums.0.saturating_add(*bytes);
                if count == trees.len() {
                    sums.1 = sums.1.saturating_add(*bytes);
                }
            }
        }
        counted
    }
}

/// An extent, and the number of the set of its holders; 0 is the empty one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    bytenr: u64,
    len: u64,
    set: u32,
}

/// Which subvolumes hold each extent of a range of addresses.
struct Owners {
    /// In the order of the addresses.
    extents: Vec<Held>,
    sets: Vec<Vec<TreeId>>,
    /// A set and a tree to the set of both.
    steps: HashMap<(u32, TreeId), u32>,
}

impl Owners {
    fn new(extents: Vec<Held>) -> Self {
        Self { extents, sets: vec![Vec::new()], steps: HashMap::new() }
    }

    /// Trees are walked one after the other, so a set that has the tree has it last.
    fn add(&mut self, bytenr: u64, tree: TreeId) {
        let Ok(index) = self.extents.binary_search_by_key(&bytenr, |held| held.bytenr) else { return };
        let Some(Held { set, .. }) = self.extents.get_mut(index) else { return };
        let Some(members) = self.sets.get(*set as usize) else { return };
        if members.last() == Some(&tree) {
            return;
        }
        *set = match self.steps.get(&(*set, tree)) {
            Some(next) => *next,
            None => {
                let mut members = members.clone();
                members.push(tree);
                let next = self.sets.len() as u32;
                self.sets.push(members);
                self.steps.insert((*set, tree), next);
                next
            }
        };
    }

    /// How many bytes each set of subvolumes holds together.
    fn sums(&self) -> Vec<(Vec<TreeId>, u64)> {
        let mut sums = vec![0u64; self.sets.len()];
        for held in &self.extents {
            if let Some(sum) = sums.get_mut(held.set as usize) {
                *sum = sum.saturating_add(held.len);
            }
        }
        self.sets.iter().cloned().zip(sums).filter(|(set, _)| !set.is_empty()).collect()
    }
}

/// Notes who holds the blocks and the data of one subvolume.
struct Holding<'a> {
    owners: &'a mut Owners,
    tree: TreeId,
}

impl Revisitor for Holding<'_> {
    fn block(&mut self, _: &mut Context<'_>, block: &TreeBlock) {
        self.owners.add(block.bytenr().0, self.tree);
        for slot in (0..block.len()).filter(|_| block.is_leaf()) {
            if let Some(bytenr) = data_of(block, slot) {
                self.owners.add(bytenr, self.tree);
            }
        }
    }
}

/// How many bytes each set of subvolumes holds together; as many extents at a time as the memory has room
/// for, and each time the subvolumes are walked again.
fn holders(context: &mut Context<'_>, subvolumes: &[TreeRoot]) -> Vec<(Vec<TreeId>, u64)> {
    let (mut all, mut from) = (Vec::new(), 0);
    while from < u64::MAX {
        let (extents, stop) = load(context, from);
        let mut owners = Owners::new(extents);
        for root in subvolumes {
            revisit(context, root, &mut Holding { owners: &mut owners, tree: root.id });
        }
        all.extend(owners.sums());
        from = stop;
    }
    all
}

/// The extents from an address on, as many as there is room for; gives where it stopped.
fn load(context: &Context<'_>, from: u64) -> (Vec<Held>, u64) {
    let most = (context.options.memory / 8 / size_of::<Held>() as u64).max(64) as usize;
    let (mut extents, mut stop) = (Vec::new(), u64::MAX);
    extents_within(context, from..u64::MAX, &mut |extent| {
        if extents.len() < most {
            extents.push(Held { bytenr: extent.bytenr, len: extent.len, set: 0 });
        } else if stop == u64::MAX {
            stop = extent.bytenr;
        }
    });
    (extents, stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_kept_as_sets() {
        let mut owners = Owners::new([0, 1, 2].map(|bytenr| Held { bytenr, len: 10, set: 0 }).to_vec());
        for (bytenr, tree) in [(0, 5), (1, 5), (1, 5), (0, 256), (1, 256), (2, 256), (3, 5)] {
            owners.add(bytenr, TreeId(tree));
        }
        assert_eq!(owners.extents.iter().map(|held| held.set).collect::<Vec<_>>(), [2, 2, 3]);
        assert_eq!(owners.sets, [vec![], vec![TreeId(5)], vec![TreeId(5), TreeId(256)], vec![TreeId(256)]]);
    }

    const PARENT: u64 = 1 << 48 | 1;

    fn tree() -> QuotaTree {
        let stored = || Stored { referenced: 0, exclusive: 0 };
        QuotaTree {
            groups: [5, 256, 257, PARENT].into_iter().map(|id| (id, stored())).collect(),
            relations: [256, 257].into_iter().flat_map(|id| [(id, PARENT), (PARENT, id)]).collect(),
            ..QuotaTree::default()
        }
    }

    #[test]
    fn shared_bytes_are_exclusive_to_the_parent_of_all_holders() {
        let [top, a, b] = [5, 256, 257].map(TreeId);
        let counted = tree().count(&[(vec![a], 1), (vec![a, b], 10), (vec![top, a, b], 100)]);
        assert_eq!(counted[&5], (100, 0));
        assert_eq!(counted[&256], (111, 1));
        assert_eq!(counted[&257], (110, 0));
        assert_eq!(counted[&PARENT], (111, 11));
    }
}

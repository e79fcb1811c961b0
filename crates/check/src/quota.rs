//! Quota groups: the quota tree itself, and its counters against what subvolumes really hold.
//!
//! An extent counts for a group if a subvolume among its members holds it, as `referenced`; and as
//! `exclusive` if nobody else holds it. Which subvolumes hold an extent is gathered while the trees are
//! walked ([`crate::references::References::own`]).
//!
//! Memory: the groups; and for each different set of subvolumes that share extents, the set.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use butterfs_format::{ItemType, Key, TreeBlock, TreeId};

use crate::context::Context;
use crate::finding::{Counter, Kind, Place, QuotaGroup, qgroup_name};
use crate::walk::Visitor;

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

impl Visitor for QuotaTree {
    fn leaf(&mut self, context: &mut Context<'_>, leaf: &TreeBlock, _: bool) {
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
        self.status = Some(Status { flags, generation });
    }

    /// Whether the counters mean what they say, so that they are worth a count of our own.
    pub fn is_on(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.flags & ON != 0 && status.flags & SIMPLE == 0)
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
    pub fn check_usage(&self, context: &mut Context<'_>) {
        let Some(status) = self.status.as_ref().filter(|_| self.is_on()) else { return };
        let counted = self.count(&context.references.owned());
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

#[cfg(test)]
mod tests {
    use super::*;

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

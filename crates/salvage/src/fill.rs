//! What stands in for tree blocks that are lost.
//!
//! Below a lost node the leaves may all be there. The extent tree tells which of those that were found are in use:
//! they are taken as they are. Where it tells nothing, and for a lost leaf, older leaves of the same tree stand in:
//! newest first, each for the keys that no newer one has. All that comes from those is marked as older.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::OnceLock;

use butterfs_format::items::ExtentItem;
use butterfs_format::{Generation, ItemType, Key, Logical, TreeId};

use crate::outline::{LeafRef, Outline, Start, Trust};
use crate::report::{LostBlock, MadeUp};
use crate::scan::Name;
use crate::source::Source;

/// What may stand in for a lost block.
#[derive(Clone, Copy)]
pub enum Filling<'e> {
    /// Nothing.
    Nothing,
    /// Leaves that the extent tree knows; no older ones.
    Current(&'e Evidence<'e>),
    /// Older leaves too.
    Older(&'e Evidence<'e>),
    /// Older leaves, with nothing to tell which are in use.
    Unconfirmed,
}

/// The extent tree as a witness, asked when it is needed.
pub struct Evidence<'s> {
    source: &'s Source,
    start: Option<Start>,
    allocated: OnceLock<Allocated>,
}

impl<'s> Evidence<'s> {
    /// `start` is where the extent tree begins, if that is known.
    pub fn new(source: &'s Source, start: Option<Start>) -> Self {
        Self { source, start, allocated: OnceLock::new() }
    }

    /// Which tree blocks are in use.
    pub fn allocated(&self) -> &Allocated {
        self.allocated.get_or_init(|| Allocated::read(self.source, self.start))
    }
}

/// Which tree blocks are in use, by the extent tree.
#[derive(Default)]
pub struct Allocated {
    blocks: HashMap<Logical, Generation>,
    /// All of the extent tree could be read.
    whole: bool,
    /// Trees that have leaves in use which were not found.
    lacking: HashSet<TreeId>,
    /// There are such leaves of which it is not known whose they are.
    lacking_any: bool,
    /// The highest blocks of each tree: their level, their names.
    tops: HashMap<TreeId, (u8, Vec<Name>)>,
}

/// What one leaf of the extent tree says of tree blocks.
#[derive(Default)]
struct Extents(Vec<(Name, u8, Vec<TreeId>)>);

impl Allocated {
    fn read(source: &Source, start: Option<Start>) -> Self {
        let Some(start) = start else { return Self::default() };
        let mut outline = Outline::new(source, TreeId::EXTENT, start, &[], Filling::Nothing);
        let parts = outline.sweep(source, Filling::Nothing, |extents: &mut Extents, leaf, block| {
            leaf.items(block).for_each(|(key, data)| extents.take(&key, data));
        });
        let mut allocated = Self { whole: outline.has_all(), ..Self::default() };
        for (name, level, roots) in parts.into_iter().flat_map(|part| part.0) {
            roots.iter().for_each(|root| allocated.top(*root, name, level));
            if level == 0 && source.blocks().get(name).is_none() {
                allocated.lacking_any |= roots.is_empty();
                allocated.lacking.extend(roots);
            }
            allocated.blocks.insert(name.0, name.1);
        }
        allocated
    }

    fn top(&mut self, tree: TreeId, name: Name, level: u8) {
        let top = self.tops.entry(tree).or_default();
        if level > top.0 {
            *top = (level, Vec::new());
        }
        if level == top.0 {
            top.1.push(name);
        }
    }

    /// Where a tree begins: only its root is a block of it above all others. `None` if that is not certain.
    pub fn root_of(&self, tree: TreeId) -> Option<Start> {
        match self.tops.get(&tree).filter(|_| self.whole)? {
            (level, names) if names.len() == 1 => Some(Start { name: names[0], level: *level }),
            _ => None,
        }
    }

    /// The trees that have blocks in use.
    pub fn trees(&self) -> impl Iterator<Item = TreeId> {
        self.tops.keys().copied()
    }

    /// Whether all of it could be read.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether an extent tree that begins there, as it is guessed, is all of the last one: it knows its own root as
    /// such, and every block that the last commit wrote.
    pub fn proves(&self, start: Start, source: &Source) -> bool {
        let last = source.superblock().generation();
        let lasting = |owner: TreeId| !matches!(owner, TreeId::TREE_LOG | TreeId::TREE_RELOC);
        let mut written =
            source.blocks().iter().filter(|((_, generation), found)| *generation == last && lasting(found.owner));
        start.name.1 == last
            && self.root_of(TreeId::EXTENT) == Some(start)
            && written.all(|(name, _)| self.has(name) == Some(true))
    }

    /// Whether a block is in use; `None` if that is not known.
    pub fn has(&self, name: Name) -> Option<bool> {
        match self.blocks.get(&name.0) {
            Some(generation) => Some(*generation == name.1),
            None => self.whole.then_some(false),
        }
    }

    /// Whether there may be leaves of these trees in use that were not found.
    fn may_lack_leaves(&self, owners: &HashSet<TreeId>) -> bool {
        !self.whole || self.lacking_any || !self.lacking.is_disjoint(owners)
    }
}

impl Extents {
    fn take(&mut self, key: &Key, data: &[u8]) {
        if !matches!(key.item_type, ItemType::METADATA_ITEM | ItemType::EXTENT_ITEM) {
            return;
        }
        let Ok(item) = ExtentItem::parse(key, data) else { return };
        let level = match (key.item_type, &item.block_info) {
            (ItemType::METADATA_ITEM, _) => key.offset as u8,
            (_, Some(info)) => info.level,
            _ => return,
        };
        let roots = item.inline.iter().filter_map(|inline| match inline.back_ref {
            butterfs_format::items::BackRef::TreeBlock { root } => Some(root),
            _ => None,
        });
        let name = (Logical(key.objectid), Generation(item.generation));
        self.0.push((name, level, roots.collect()));
    }
}

/// What was found for a lost block.
pub struct Filled {
    /// Leaves with the keys that they stand in for.
    pub leaves: Vec<LeafRef>,
    /// Keys of which nothing certain is known.
    pub missing: Vec<Range<Key>>,
    /// In short.
    pub made_up: MadeUp,
}

/// A leaf that was found.
#[derive(Clone, Copy)]
struct Candidate {
    first: Key,
    /// Above its last key.
    end: Key,
    name: Name,
    /// The highest end up to here.
    reach: Key,
}

impl Candidate {
    fn new(keys: Range<Key>, name: Name) -> Self {
        Self { first: keys.start, end: keys.end, name, reach: keys.end }
    }
}

/// Finds what stands in for lost blocks of one tree.
pub struct Filler<'a> {
    filling: Filling<'a>,
    owners: &'a HashSet<TreeId>,
    /// By first key.
    candidates: Vec<Candidate>,
}

impl<'a> Filler<'a> {
    /// `known` are leaves that the tree has anyway.
    pub fn new(source: &Source, filling: Filling<'a>, owners: &'a HashSet<TreeId>, known: &HashSet<Name>) -> Self {
        if matches!(filling, Filling::Nothing) {
            return Self { filling, owners, candidates: Vec::new() };
        }
        let leaves = source.blocks().iter().filter(|(name, found)| {
            found.level == 0 && owners.contains(&found.owner) && !known.contains(name) && found.first != Key::MIN
        });
        let candidate =
            |(name, found): (Name, &crate::scan::Found)| Candidate::new(found.first..found.last.next(), name);
        let candidates = leaves.map(candidate).collect();
        let mut filler = Self { filling, owners, candidates };
        filler.settle();
        filler
    }

    /// With leaves that have more keys to themselves than those of their items, as their nodes say.
    pub fn with(mut self, leaves: impl Iterator<Item = (Range<Key>, Name)>) -> Self {
        self.candidates.extend(leaves.map(|(keys, name)| Candidate::new(keys, name)));
        self.settle();
        self
    }

    fn settle(&mut self) {
        let candidates = &mut self.candidates;
        candidates.sort_by_key(|one| (one.first, one.name));
        for index in 1..candidates.len() {
            candidates[index].reach = candidates[index].reach.max(candidates[index - 1].reach);
        }
    }

    /// What stands in for a block. Of the keys in `own` it tells itself, if not beyond doubt.
    pub fn fill(&self, lost: &LostBlock, own: &[Range<Key>]) -> Filled {
        let mut free = vec![lost.keys.clone()];
        let mut leaves = Vec::new();
        let fitting = self.fitting(lost);
        if lost.level > 0
            && let Filling::Current(evidence) | Filling::Older(evidence) = self.filling
        {
            let allocated = evidence.allocated();
            let current = fitting.iter().filter(|one| allocated.has(one.name) == Some(true));
            current.for_each(|one| claim(&mut free, one, Trust::Current, &mut leaves));
            if !leaves.is_empty() && !allocated.may_lack_leaves(self.owners) {
                return Filled { leaves, missing: Vec::new(), made_up: MadeUp::Whole };
            }
        }
        let missing = free.clone();
        own.iter()
            .for_each(|keys| claim(&mut free, &Candidate::new(keys.clone(), lost.name), Trust::Older, &mut leaves));
        if let Filling::Older(_) | Filling::Unconfirmed = self.filling {
            fitting.iter().for_each(|one| claim(&mut free, one, Trust::Older, &mut leaves));
        }
        let made_up = match leaves.iter().map(|leaf| leaf.trust).max() {
            None => MadeUp::Nothing,
            _ => MadeUp::Older,
        };
        Filled { leaves, missing, made_up }
    }

    /// Leaves that have keys of a lost block, and may be from its time: the newest first.
    fn fitting(&self, lost: &LostBlock) -> Vec<Candidate> {
        let end = self.candidates.partition_point(|one| one.first < lost.keys.end);
        let near = self.candidates[..end].iter().rev().take_while(|one| one.reach > lost.keys.start);
        // A block of the very address is what is wanted, though its pointer has another generation.
        let of_time = |one: &Candidate| one.name.1 <= lost.name.1 || one.name.0 == lost.name.0;
        let fits = |one: &&Candidate| one.end > lost.keys.start && of_time(one);
        let mut fitting: Vec<_> = near.filter(fits).copied().collect();
        fitting.sort_by_key(|one| (std::cmp::Reverse(one.name.1), one.first));
        fitting
    }
}

/// Gives a leaf those of its keys that are still free.
fn claim(free: &mut Vec<Range<Key>>, one: &Candidate, trust: Trust, leaves: &mut Vec<LeafRef>) {
    let own = one.first..one.end;
    let mut left = Vec::with_capacity(free.len() + 1);
    for range in free.drain(..) {
        let part = range.start.max(own.start)..range.end.min(own.end);
        if part.is_empty() {
            left.push(range);
            continue;
        }
        left.extend([range.start..part.start, part.end..range.end].into_iter().filter(|rest| !rest.is_empty()));
        leaves.push(LeafRef { keys: part, name: one.name, first: None, trust });
    }
    *free = left;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(objectid: u64) -> Key {
        Key::new(objectid, ItemType::INODE_ITEM, 0)
    }

    fn candidate(first: u64, last: u64, generation: u64) -> Candidate {
        let name = (Logical(first << 20), Generation(generation));
        Candidate::new(key(first)..key(last).next(), name)
    }

    #[test]
    fn a_newer_leaf_takes_its_keys_first() {
        let mut free = vec![key(10)..key(100)];
        let mut leaves = Vec::new();
        claim(&mut free, &candidate(30, 40, 9), Trust::Older, &mut leaves);
        claim(&mut free, &candidate(5, 50, 8), Trust::Older, &mut leaves);
        claim(&mut free, &candidate(35, 39, 7), Trust::Older, &mut leaves);
        let keys: Vec<_> = leaves.iter().map(|leaf| (leaf.keys.start, leaf.keys.end, leaf.name.1.0)).collect();
        let own = key(30)..key(40).next();
        assert_eq!(keys, [(own.start, own.end, 9), (key(10), own.start, 8), (own.end, key(50).next(), 8)]);
        assert_eq!(free, [key(50).next()..key(100)]);
    }

    #[test]
    fn only_leaves_of_the_time_and_place_fit() {
        let candidates = vec![candidate(1, 5, 3), candidate(8, 20, 3), candidate(12, 14, 9), candidate(30, 31, 3)];
        let owners = HashSet::new();
        let filler = Filler { filling: Filling::Unconfirmed, owners: &owners, candidates };
        let name = (Logical(0), Generation(5));
        let (keys, problem) = (key(10)..key(25), String::new());
        let lost = LostBlock { tree: TreeId::FS, name, level: 0, keys, problem, made_up: MadeUp::Nothing };
        let filled = filler.fill(&lost, &[]);
        assert_eq!(filled.made_up, MadeUp::Older);
        assert_eq!(filled.leaves.len(), 1, "{:?}", filled.leaves);
        assert_eq!(filled.leaves[0].keys, key(10)..key(20).next());
        assert_eq!(filled.missing, [key(10)..key(25)]);
    }
}

//! A tree as a list of leaves in the order of keys, and of what is missing between them.
//!
//! # Invariants
//! * Leaves do not overlap: of a leaf only the items within its `keys` count.
//! * A key that no leaf has and that lies in no missing range is one that the tree does not have.
//! * Each node is read once, and levels fall: a walk ends.
//!
//! # Memory
//! About 60 bytes for each leaf.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use butterfs_format::validate::Expected;
use butterfs_format::{Generation, Key, Logical, TreeId};

use crate::doubtful;
use crate::fill::{Filler, Filling};
use crate::report::{LostBlock, MadeUp};
use crate::scan::Name;
use crate::source::{Block, Source};
use crate::threads;

/// How far a leaf is to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// It is part of the tree as it is.
    Current,
    /// It stands in for one that is lost, and is older.
    Older,
}

/// A leaf, to be read when it is wanted.
#[derive(Clone, Debug)]
pub struct LeafRef {
    /// The keys that count.
    pub keys: Range<Key>,
    /// Its address and generation.
    pub name: Name,
    /// Its first key, if a pointer says.
    pub first: Option<Key>,
    /// How far it is to be believed.
    pub trust: Trust,
}

impl LeafRef {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn read(&self, source: &Source) -> Result<Block, String> {
        let (at, generation) = self.name;
        let first_key = self.first;
        let wanted = Expected { level: Some(0), generation: Some(generation), first_key, ..Expected::at(at) };
        source.read(&wanted).or_else(|problem| match self.trust {
            Trust::Older => doubtful::read(source, self.name).ok_or(problem),
            Trust::Current => Err(problem),
        })
    }

    /// The items that count.
    pub fn items<'b>(&'b self, block: &'b Block) -> impl Iterator<Item = (Key, &'b [u8])> {
        block.items().filter(|(key, _)| self.keys.contains(key))
    }
}

/// Where a tree begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The root block.
    pub name: Name,
    /// Its level.
    pub level: u8,
}

/// A range of keys of which nothing certain is known, and the lost block that is to blame.
#[derive(Clone, Debug)]
struct Missing {
    keys: Range<Key>,
    block: usize,
}

/// A tree.
pub struct Outline {
    tree: TreeId,
    /// In the order of keys.
    pub leaves: Vec<LeafRef>,
    missing: Vec<Missing>,
    /// What cannot be read.
    pub lost: Vec<LostBlock>,
    /// The trees that its blocks were made for: its own, and those it shares blocks with.
    owners: HashSet<TreeId>,
}

impl Outline {
    /// Walks the nodes of a tree. `kin` are trees that it may share blocks with.
    pub fn new(source: &Source, tree: TreeId, start: Start, kin: &[TreeId], filling: Filling<'_>) -> Self {
        let mut outline = Self::walked(source, tree, Some(start), kin);
        outline.fill(source, filling, (0..outline.lost.len()).collect());
        outline.leaves.sort_by_key(|leaf| leaf.keys.start);
        outline
    }

    /// A tree whose root is not known: that it begins at `start` is a guess. The leaves below that and all others of
    /// the tree count, the newest first; nothing of them is certain.
    pub fn guessed(source: &Source, tree: TreeId, start: Option<Start>, kin: &[TreeId]) -> Self {
        let mut outline = Self::walked(source, tree, start, kin);
        outline.lost.iter_mut().for_each(|lost| lost.made_up = MadeUp::Older);
        let reached: HashMap<Name, Range<Key>> =
            outline.leaves.drain(..).filter_map(|leaf| own_keys(source, leaf)).collect();
        let (keys, newest) = (Key::MIN..Key::MAX, source.superblock().generation());
        let Start { name: (at, _), level } = start.unwrap_or(Start { name: (Logical(0), newest), level: 7 });
        let (problem, made_up) = (GUESSED.to_owned(), MadeUp::Nothing);
        let mut lost = LostBlock { tree, name: (at, newest), level: level.max(1), keys, problem, made_up };
        let (owners, known) = (outline.owners.clone(), reached.keys().copied().collect());
        let filler = Filler::new(source, Filling::Unconfirmed, &owners, &known)
            .with(reached.into_iter().map(|(name, keys)| (keys, name)));
        let filled = filler.fill(&lost, &[]);
        lost.made_up = filled.made_up;
        outline.leaves = filled.leaves;
        outline.leaves.sort_by_key(|leaf| leaf.keys.start);
        outline.missing = vec![Missing { keys: Key::MIN..Key::MAX, block: outline.lost.len() }];
        outline.lost.push(lost);
        outline
    }

    /// The leaves that nodes lead to, and the nodes that are lost.
    fn walked(source: &Source, tree: TreeId, start: Option<Start>, kin: &[TreeId]) -> Self {
        let owners = kin.iter().copied().chain([tree]).collect();
        let outline = Self { tree, leaves: Vec::new(), missing: Vec::new(), lost: Vec::new(), owners };
        let Some(start) = start else { return outline };
        let mut walk = Walk { source, outline, seen: HashSet::new() };
        let (at, generation) = start.name;
        let expected = Expected { level: Some(start.level), generation: Some(generation), ..Expected::at(at) };
        walk.block(&expected, Key::MIN..Key::MAX);
        walk.outline
    }

    /// Whether something certain is known of each of these keys.
    pub fn is_whole(&self, keys: &Range<Key>) -> bool {
        self.missing_in(keys).next().is_none()
    }

    /// Whether nothing at all is missing.
    pub fn has_all(&self) -> bool {
        self.missing.is_empty()
    }

    /// What is missing of these keys, and the block that is to blame.
    pub fn missing_in(&self, keys: &Range<Key>) -> impl Iterator<Item = (Range<Key>, &LostBlock)> {
        let from = self.missing.partition_point(|missing| missing.keys.end <= keys.start);
        let (start, end) = (keys.start, keys.end);
        let within = self.missing[from..].iter().take_while(move |missing| missing.keys.start < end);
        within.map(move |missing| {
            let part = missing.keys.start.max(start)..missing.keys.end.min(end);
            (part, &self.lost[missing.block])
        })
    }

    /// Reads all leaves on all cores, and shows each to `visit` with what its thread gathered so far. Leaves that
    /// cannot be read are replaced as far as that can be done; the replacements are shown, too.
    pub fn sweep<R: Default + Send>(
        &mut self,
        source: &Source,
        filling: Filling<'_>,
        visit: impl Fn(&mut R, &LeafRef, &Block) + Sync,
    ) -> Vec<R> {
        let (mut results, failed) = self.read_all(source, 0, &visit);
        let lost = self.drop_leaves(failed);
        let before = self.leaves.len();
        self.fill(source, filling, lost);
        let (more, failed) = self.read_all(source, before, &visit);
        results.extend(more);
        self.drop_leaves(failed);
        self.leaves.sort_by_key(|leaf| leaf.keys.start);
        results
    }

    /// Reads the leaves from a place in the list on.
    fn read_all<R: Default + Send>(
        &mut self,
        source: &Source,
        from: usize,
        visit: &(impl Fn(&mut R, &LeafRef, &Block) + Sync),
    ) -> (Vec<R>, Vec<Failed>) {
        let leaves = &self.leaves;
        let next = AtomicUsize::new(from);
        let catches = threads::gather(|| {
            let mut catch = Catch { result: R::default(), failed: Vec::new(), bad: Vec::new(), owners: HashSet::new() };
            loop {
                let first = next.fetch_add(BATCH, Ordering::Relaxed);
                if first >= leaves.len() {
                    return catch;
                }
                for (index, leaf) in leaves.iter().enumerate().skip(first).take(BATCH) {
                    catch.take(source, index, leaf, visit);
                }
            }
        });
        let (mut results, mut failed) = (Vec::new(), Vec::new());
        for catch in catches {
            results.push(catch.result);
            failed.extend(catch.failed);
            self.owners.extend(catch.owners);
            catch.bad.into_iter().for_each(|(index, key, problem)| self.miss_item(index, key, problem));
        }
        (results, failed)
    }

    fn miss_item(&mut self, index: usize, key: Key, problem: String) {
        let keys = key..key.next();
        let name = self.leaves[index].name;
        let block = self.lost.len();
        let made_up = MadeUp::Nothing;
        self.lost.push(LostBlock { tree: self.tree, name, level: 0, keys: keys.clone(), problem, made_up });
        self.miss(Missing { keys, block });
    }

    fn miss(&mut self, missing: Missing) {
        // Of a tree whose root is guessed all is missing already.
        if self.missing.first().is_some_and(|all| all.keys == (Key::MIN..Key::MAX)) {
            return;
        }
        let at = self.missing.partition_point(|other| other.keys.start < missing.keys.start);
        self.missing.insert(at, missing);
    }

    /// Takes leaves that cannot be read off the list; gives the places of the blocks that are lost now.
    fn drop_leaves(&mut self, mut failed: Vec<Failed>) -> Vec<usize> {
        let known = self.lost.len();
        failed.sort_by_key(|failed| std::cmp::Reverse(failed.index));
        for Failed { index, problem } in failed {
            let leaf = self.leaves.remove(index);
            // What an older one was to stand in for is missing already.
            if leaf.trust == Trust::Current {
                let (tree, made_up) = (self.tree, MadeUp::Nothing);
                self.lost.push(LostBlock { tree, name: leaf.name, level: 0, keys: leaf.keys, problem, made_up });
            }
        }
        (known..self.lost.len()).collect()
    }

    /// Finds what stands in for lost blocks, by their places in the list.
    fn fill(&mut self, source: &Source, filling: Filling<'_>, wanted: Vec<usize>) {
        if wanted.is_empty() {
            return;
        }
        let known: HashSet<Name> = self.leaves.iter().map(|leaf| leaf.name).collect();
        let owners = self.owners.clone();
        let filler = Filler::new(source, filling, &owners, &known);
        for index in wanted {
            let filled = filler.fill(&self.lost[index], &doubtful_keys(source, filling, &self.lost[index], &owners));
            self.lost[index].made_up = filled.made_up;
            self.leaves.extend(filled.leaves);
            filled.missing.into_iter().for_each(|keys| self.miss(Missing { keys, block: index }));
        }
    }
}

/// Why nothing of a tree is certain whose root is not known.
pub const GUESSED: &str = "the root of the tree was guessed; what was written later may be missing";

/// Of which keys of a lost leaf the block at its address still tells.
fn doubtful_keys(source: &Source, filling: Filling<'_>, lost: &LostBlock, owners: &HashSet<TreeId>) -> Vec<Range<Key>> {
    let is_wanted = lost.level == 0 && matches!(filling, Filling::Older(_) | Filling::Unconfirmed);
    if is_wanted { doubtful::keys(source, lost, owners) } else { Vec::new() }
}

/// The keys that a leaf below a guessed root has to itself. The last may not be the last of the tree.
fn own_keys(source: &Source, leaf: LeafRef) -> Option<(Name, Range<Key>)> {
    let found = source.blocks().get(leaf.name)?;
    let start = if leaf.keys.start == Key::MIN { found.first } else { leaf.keys.start };
    let end = if leaf.keys.end == Key::MAX { found.last.next() } else { leaf.keys.end };
    (start < end).then_some((leaf.name, start..end))
}

/// How many leaves a thread takes at once.
const BATCH: usize = 16;

struct Failed {
    index: usize,
    problem: String,
}

struct Catch<R> {
    result: R,
    failed: Vec<Failed>,
    /// Bad items: the leaf's place, the key, what is wrong.
    bad: Vec<(usize, Key, String)>,
    owners: HashSet<TreeId>,
}

impl<R> Catch<R> {
    fn take(&mut self, source: &Source, index: usize, leaf: &LeafRef, visit: &impl Fn(&mut R, &LeafRef, &Block)) {
        match leaf.read(source) {
            Ok(block) => {
                self.owners.insert(block.block.owner());
                let bad =
                    block.bad.iter().map(|slot| (index, block.block.key(*slot), "an item breaks its rules".into()));
                // Of an older one all is missing anyway.
                self.bad.extend(bad.filter(|(_, key, _)| leaf.trust == Trust::Current && leaf.keys.contains(key)));
                visit(&mut self.result, leaf, &block);
            }
            Err(problem) => self.failed.push(Failed { index, problem }),
        }
    }
}

struct Walk<'s> {
    source: &'s Source,
    outline: Outline,
    seen: HashSet<Logical>,
}

impl Walk<'_> {
    fn block(&mut self, expected: &Expected, keys: Range<Key>) {
        let (level, generation) = (expected.level.unwrap_or(0), expected.generation.unwrap_or_default());
        let name = (expected.bytenr, generation);
        if level == 0 {
            let first = expected.first_key;
            self.outline.leaves.push(LeafRef { keys, name, first, trust: Trust::Current });
            return;
        }
        let is_new = self.seen.insert(expected.bytenr);
        let read = if is_new { self.source.read(expected) } else { Err("the tree refers to it twice".into()) };
        match read {
            Ok(node) => self.children(&node, &keys),
            Err(problem) => {
                let (tree, made_up) = (self.outline.tree, MadeUp::Nothing);
                self.outline.lost.push(LostBlock { tree, name, level, keys, problem, made_up });
            }
        }
    }

    fn children(&mut self, node: &Block, keys: &Range<Key>) {
        let node = &node.block;
        self.outline.owners.insert(node.owner());
        for slot in 0..node.len() {
            let end = if slot + 1 < node.len() { node.key(slot + 1).min(keys.end) } else { keys.end };
            let ptr = node.ptr(slot);
            let first = Key::from(ptr.key);
            let range = first.max(keys.start)..end;
            if range.is_empty() {
                continue;
            }
            let child = Expected {
                level: Some(node.level().saturating_sub(1)),
                generation: Some(Generation(ptr.generation.get())),
                first_key: Some(first),
                ..Expected::at(Logical(ptr.blockptr.get()))
            };
            self.block(&child, range);
        }
    }
}

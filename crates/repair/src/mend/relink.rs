//! Putting other blocks in the place of blocks, in every tree that leads to them.
//!
//! A block that snapshots share is replaced once: its parents are copied, each once too, and all trees above
//! follow. So what was shared stays shared, and no snapshot keeps what was mended in another.
//!
//! # Invariants
//! * Parents come from the survey, which must be of the trees as they are now.
//! * A node that loses all its children goes; a tree that loses its root begins anew with an empty leaf.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use butterfs_engine::tree::TreeWriter;
use butterfs_format::block::KeyPtr;
use butterfs_format::validate::Expected;
use butterfs_format::{Corruption, Key, Logical, TreeBlock, TreeId};

use crate::error::Result;
use crate::store::Store;
use crate::survey::{Parent, Survey};

/// What becomes of a block.
#[derive(Clone, Debug)]
pub enum Fate {
    /// Another one takes its place.
    Replaced(TreeBlock),
    /// It goes, with all below it that nothing else leads to.
    Gone,
}

/// Replaces blocks at these addresses, wherever they are linked in.
///
/// # Errors
/// If a parent cannot be read, or there is no space.
pub fn relink(store: &mut Store, survey: &Survey, fates: HashMap<Logical, Fate>) -> Result<()> {
    let parents = parents(survey);
    let mut users = HashMap::new();
    let mut levels: BTreeMap<u8, HashMap<Logical, Fate>> = BTreeMap::new();
    for (at, fate) in fates {
        let level = level_of(survey, at, &fate);
        levels.entry(level).or_default().insert(at, fate);
    }
    while let Some((level, fates)) = levels.pop_first() {
        let mut above: HashMap<Logical, Vec<(Logical, Option<KeyPtr>)>> = HashMap::new();
        for (at, fate) in fates {
            let fate = owned(at, fate, &parents, &mut users);
            let ptr = settle(store, at, level, &fate, &parents)?;
            for parent in parents.get(&at).into_iter().flatten() {
                match parent {
                    Parent::Node(node) => above.entry(*node).or_default().push((at, ptr)),
                    Parent::Root(tree) => set_root(store, *tree, ptr, level)?,
                }
            }
        }
        for (node, changes) in above {
            let next = levels.entry(level + 1).or_default();
            let known = next.remove(&node);
            next.insert(node, changed_node(store, node, known, &changes)?);
        }
    }
    Ok(())
}

/// A new block belongs to a tree that leads to it: to the one that it was made for, if that still does.
fn owned(
    at: Logical,
    mut fate: Fate,
    parents: &HashMap<Logical, Vec<Parent>>,
    users: &mut HashMap<Logical, BTreeSet<TreeId>>,
) -> Fate {
    if let Fate::Replaced(block) = &mut fate
        && block.owner().is_shareable()
    {
        let users = users_of(at, parents, users);
        if let Some(first) = users.first().filter(|_| !users.contains(&block.owner())) {
            block.header_mut().owner = first.0.into();
        }
    }
    fate
}

/// The trees that lead to a block.
fn users_of(
    at: Logical,
    parents: &HashMap<Logical, Vec<Parent>>,
    known: &mut HashMap<Logical, BTreeSet<TreeId>>,
) -> BTreeSet<TreeId> {
    if let Some(users) = known.get(&at) {
        return users.clone();
    }
    let mut users = BTreeSet::new();
    for parent in parents.get(&at).into_iter().flatten() {
        match parent {
            Parent::Root(tree) => drop(users.insert(*tree)),
            Parent::Node(node) => users.extend(users_of(*node, parents, known)),
        }
    }
    known.insert(at, users.clone());
    users
}

/// Who leads to each block, damaged ones too.
fn parents(survey: &Survey) -> HashMap<Logical, Vec<Parent>> {
    let whole = survey.blocks.iter().map(|(at, block)| (*at, block.parents.clone()));
    let mut parents: HashMap<Logical, Vec<Parent>> = whole.collect();
    for damage in &survey.damage {
        let by = damage.parent.map_or(Parent::Root(damage.tree), |(node, _)| Parent::Node(node));
        parents.entry(damage.expected.bytenr).or_default().push(by);
    }
    for found in parents.values_mut() {
        found.sort_by_key(|parent| match parent {
            Parent::Root(tree) => (0, tree.0),
            Parent::Node(node) => (1, node.0),
        });
        found.dedup();
    }
    parents
}

fn level_of(survey: &Survey, at: Logical, fate: &Fate) -> u8 {
    let expected = || survey.damage.iter().find(|damage| damage.expected.bytenr == at)?.expected.level;
    let known = survey.blocks.get(&at).map(|block| block.level).or_else(expected);
    match fate {
        Fate::Replaced(block) => block.level(),
        Fate::Gone => known.unwrap_or(0),
    }
}

/// Puts the new block down; gives the pointer to it.
fn settle(
    store: &mut Store,
    at: Logical,
    level: u8,
    fate: &Fate,
    parents: &HashMap<Logical, Vec<Parent>>,
) -> Result<Option<KeyPtr>> {
    let tree = fate_tree(fate);
    let Fate::Replaced(block) = fate else {
        store.drop_block(tree, at, level);
        return Ok(None);
    };
    let new = if store.dirty().contains_key(&at) {
        *store.writable(at) = block.clone();
        at
    } else {
        let new = store.copy_of(tree, block)?;
        store.drop_block(tree, at, level);
        new
    };
    if parents.get(&at).is_some_and(|parents| parents.len() > 1) {
        store.share(new);
    }
    let key = if block.is_empty() { Key::MIN } else { block.key(0) };
    Ok(Some(KeyPtr { key: key.into(), blockptr: new.0.into(), generation: store.generation().0.into() }))
}

/// Where space is taken: the chunk tree has its own.
fn fate_tree(fate: &Fate) -> TreeId {
    match fate {
        Fate::Replaced(block) => block.owner(),
        Fate::Gone => TreeId::ROOT,
    }
}

fn set_root(store: &mut Store, tree: TreeId, ptr: Option<KeyPtr>, level: u8) -> Result<()> {
    // Relocation trees have one number in common: the kernel drops them at the next mount.
    if tree == TreeId::TREE_RELOC {
        return Ok(());
    }
    store.root_of(tree)?;
    match ptr {
        Some(ptr) => store.set_root(tree, Logical(ptr.blockptr.get()), level),
        None => store.renew_tree(tree)?,
    }
    Ok(())
}

/// A node with new pointers to its changed children.
fn changed_node(
    store: &Store,
    at: Logical,
    known: Option<Fate>,
    changes: &[(Logical, Option<KeyPtr>)],
) -> Result<Fate> {
    let mut node = match known {
        Some(Fate::Replaced(node)) => node,
        Some(Fate::Gone) => return Ok(Fate::Gone),
        None => (*store.read(&Expected::at(at))?).clone(),
    };
    for (old, ptr) in changes {
        let Some(slot) = (0..node.len()).find(|slot| node.ptr(*slot).blockptr.get() == old.0) else { continue };
        match ptr {
            Some(ptr) => node.set_ptr(slot, *ptr),
            None => node.remove_ptrs(slot..slot + 1),
        }
    }
    if node.is_empty() {
        return Ok(Fate::Gone);
    }
    let ordered = (1..node.len()).all(|slot| node.key(slot - 1) < node.key(slot));
    if !ordered {
        return Err(Corruption::new(format!("tree block {at}"), "its children's keys are out of order").into());
    }
    Ok(Fate::Replaced(node))
}

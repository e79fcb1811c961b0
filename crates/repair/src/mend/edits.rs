//! Changes of items in several trees, gathered first and made together.
//!
//! Where trees share a leaf and all of them want the same changes in it, the leaf is changed once and stays
//! shared; else each tree gets its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use butterfs_engine::tree::{self, ChildPtr, TreeReader};
use butterfs_format::block::ITEM_HEADER_SIZE;
use butterfs_format::validate::Expected;
use butterfs_format::{Key, Logical, TreeBlock, TreeId};

use super::relink::{Fate, relink};
use crate::error::Result;
use crate::survey::{Parent, Survey};
use crate::workspace::Workspace;

/// New data of an item, or none for one that goes.
type Change = Option<Vec<u8>>;

/// Changes of one leaf, in key order.
type LeafChanges = Vec<(Key, Change)>;

/// Changes by tree and key.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    trees: BTreeMap<TreeId, BTreeMap<Key, Change>>,
}

impl Edits {
    /// An item gets this data, whether it was there or not.
    pub fn put(&mut self, tree: TreeId, key: Key, data: Vec<u8>) {
        self.trees.entry(tree).or_default().insert(key, Some(data));
    }

    /// An item goes.
    pub fn remove(&mut self, tree: TreeId, key: Key) {
        self.trees.entry(tree).or_default().insert(key, None);
    }

    /// Adds the changes of another set.
    pub fn extend(&mut self, other: Self) {
        for (tree, changes) in other.trees {
            self.trees.entry(tree).or_default().extend(changes);
        }
    }

    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.trees.values().all(BTreeMap::is_empty)
    }

    /// Makes the changes. The survey must be of the trees as they are now; it is not afterwards.
    ///
    /// # Errors
    /// If a tree cannot be edited.
    pub fn apply(self, workspace: &mut Workspace) -> Result<()> {
        let leaves = self.by_leaf(workspace)?;
        let mut fates = HashMap::new();
        let mut single: Vec<(TreeId, LeafChanges)> = Vec::new();
        let mut users = Users { survey: &workspace.survey, known: HashMap::new() };
        for (leaf, trees) in leaves {
            match shared_change(workspace, &mut users, leaf, &trees)? {
                Some(block) => drop(fates.insert(leaf, Fate::Replaced(block))),
                None => single.extend(trees),
            }
        }
        relink(&mut workspace.store, &workspace.survey, fates)?;
        for (tree, changes) in single {
            edit_tree(workspace, tree, changes)?;
        }
        Ok(())
    }

    fn by_leaf(&self, workspace: &Workspace) -> Result<BTreeMap<Logical, BTreeMap<TreeId, LeafChanges>>> {
        let mut leaves: BTreeMap<Logical, BTreeMap<TreeId, LeafChanges>> = BTreeMap::new();
        for (tree, changes) in &self.trees {
            for (key, change) in changes {
                let leaf = leaf_of(workspace, *tree, key)?;
                leaves.entry(leaf).or_default().entry(*tree).or_default().push((*key, change.clone()));
            }
        }
        Ok(leaves)
    }
}

/// The leaf in which a key is, or would be put.
fn leaf_of(workspace: &Workspace, tree: TreeId, key: &Key) -> Result<Logical> {
    let mut ptr = ChildPtr::from(workspace.store.root(tree)?);
    loop {
        let block = workspace.store.block(tree, &ptr)?;
        if block.is_leaf() {
            return Ok(ptr.bytenr);
        }
        ptr = ChildPtr::of(&block, block.child_slot(key));
    }
}

/// Which living trees lead to a block.
struct Users<'s> {
    survey: &'s Survey,
    known: HashMap<Logical, BTreeSet<TreeId>>,
}

impl Users<'_> {
    fn of(&mut self, at: Logical) -> BTreeSet<TreeId> {
        if let Some(known) = self.known.get(&at) {
            return known.clone();
        }
        let parents = self.survey.blocks.get(&at).map(|block| block.parents.clone()).unwrap_or_default();
        let mut users = BTreeSet::new();
        for parent in parents {
            match parent {
                Parent::Root(tree) if self.survey.tree(tree).is_some_and(|tree| tree.is_dead()) => {}
                Parent::Root(tree) => drop(users.insert(tree)),
                Parent::Node(node) => users.extend(self.of(node)),
            }
        }
        self.known.insert(at, users.clone());
        users
    }
}

/// The changed leaf, if several trees share it, all want the same, and it fits.
fn shared_change(
    workspace: &Workspace,
    users: &mut Users<'_>,
    at: Logical,
    trees: &BTreeMap<TreeId, LeafChanges>,
) -> Result<Option<TreeBlock>> {
    let all = users.of(at);
    let mut wanted = trees.values();
    let Some(first) = wanted.next() else { return Ok(None) };
    if all.len() < 2 || all.iter().ne(trees.keys()) || wanted.any(|other| other != first) {
        return Ok(None);
    }
    let leaf = workspace.store.read(&Expected::at(at))?;
    let changed = changed_leaf(&leaf, first);
    // With a lower first key it might reach into the place of a neighbour in one of the trees.
    Ok(changed.filter(|changed| !changed.is_empty() && changed.key(0) >= leaf.key(0)))
}

fn changed_leaf(leaf: &TreeBlock, changes: &LeafChanges) -> Option<TreeBlock> {
    let mut changed = leaf.clone();
    for (key, change) in changes {
        let found = changed.search(key);
        if let Ok(slot) = found {
            changed.remove_items(slot..slot + 1);
        }
        let Some(data) = change else { continue };
        if changed.leaf_free() < data.len() + ITEM_HEADER_SIZE {
            return None;
        }
        changed.insert_item(found.unwrap_or_else(|slot| slot), key, data);
    }
    Some(changed)
}

fn edit_tree(workspace: &mut Workspace, tree: TreeId, changes: LeafChanges) -> Result<()> {
    for (key, change) in changes {
        match change {
            Some(data) => tree::put(&mut workspace.store, tree, &key, &data)?,
            None => drop(tree::remove(&mut workspace.store, tree, &key)?),
        }
    }
    Ok(())
}

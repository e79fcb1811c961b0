//! Tree blocks that cannot be read in any copy: healed where something tells what they must be, made again from
//! their children, or given up with a word on what is lost.

use std::collections::{BTreeMap, HashMap, HashSet};

use butterfs_check::Place;
use butterfs_format::block::{KeyPtr, NewBlock};
use butterfs_format::validate::Expected;
use butterfs_format::{Generation, Key, Logical, TreeBlock, TreeId};

use super::heal::{heal, moved_by_one_bit};
use super::reclaim::{Lost, Strays, kin};
use super::relink::{Fate, relink};
use crate::error::Result;
use crate::plan::Step;
use crate::survey::Damage;
use crate::workspace::Workspace;

/// A block that was healed can lead to others that must be.
const MAX_PASSES: usize = 8;

/// Mends the structure of all trees.
///
/// # Errors
/// If a tree cannot be edited.
pub fn run(workspace: &mut Workspace) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for _ in 0..MAX_PASSES {
        let mut pass = Pass::new(workspace);
        pass.run();
        let guessed = std::mem::take(&mut pass.guessed_sums);
        let gaps = std::mem::take(&mut pass.extent_gaps);
        let (fates, mut done) = pass.finish();
        workspace.guessed_sums.extend(guessed);
        workspace.extent_gaps.extend(gaps);
        if fates.is_empty() {
            break;
        }
        relink(&mut workspace.store, &workspace.survey, fates)?;
        steps.append(&mut done);
        workspace.look_again();
    }
    Ok(steps)
}

/// One look at all damage.
struct Pass<'w> {
    workspace: &'w Workspace,
    strays: Option<Strays>,
    fates: HashMap<Logical, Fate>,
    /// Changes of single pointers, by node and slot; none takes the pointer away.
    pointers: BTreeMap<Logical, BTreeMap<usize, Option<KeyPtr>>>,
    steps: Vec<Step>,
    /// Items of checksums of which something was guessed.
    guessed_sums: Vec<Key>,
    /// As [`Workspace::extent_gaps`].
    extent_gaps: Vec<(Key, Option<Key>)>,
}

impl<'w> Pass<'w> {
    fn new(workspace: &'w Workspace) -> Self {
        let (fates, pointers) = (HashMap::new(), BTreeMap::new());
        Self {
            workspace,
            strays: None,
            fates,
            pointers,
            steps: Vec::new(),
            guessed_sums: Vec::new(),
            extent_gaps: Vec::new(),
        }
    }

    fn run(&mut self) {
        // The extent tree comes first: what it says is evidence for the others.
        let (extents, others): (Vec<_>, Vec<_>) =
            self.workspace.survey.damage.iter().partition(|damage| damage.tree == TreeId::EXTENT);
        self.mend_all(&extents);
        if self.fates.is_empty() && self.pointers.is_empty() {
            self.mend_all(&others);
        }
    }

    fn mend_all(&mut self, all: &[&Damage]) {
        let mut seen = HashSet::new();
        for damage in all.iter().filter(|damage| !self.workspace.is_renewed(damage.tree)) {
            // A block that is damaged for one parent is so for all; a pointer that leads astray is not.
            if seen.insert((damage.expected.bytenr, self.leads_astray(damage).then_some(damage.parent))) {
                self.mend(damage);
            }
        }
    }

    /// Whether the address is that of a good block, which some other pointer leads to with right.
    fn leads_astray(&self, damage: &Damage) -> bool {
        self.workspace.survey.blocks.contains_key(&damage.expected.bytenr)
    }

    /// Whether the same node leads there twice.
    fn is_double(&self, damage: &Damage) -> bool {
        let Some((node, slot)) = damage.parent else { return false };
        let Ok(node) = self.workspace.store.read(&Expected::at(node)) else { return false };
        let same = |other: &usize| node.ptr(*other).blockptr.get() == damage.expected.bytenr.0;
        (0..node.len()).filter(|other| *other != slot).any(|other| same(&other))
    }

    fn mend(&mut self, damage: &Damage) {
        let store = &self.workspace.store;
        let place =
            Place { tree: Some(damage.tree), bytenr: Some(damage.expected.bytenr), what: "block", ..Place::default() };
        // A pointer to what its own node has already is wrong itself.
        let healed = heal(store, damage, self.true_end(damage));
        if let Some(healed) = healed.filter(|_| !self.is_double(damage)) {
            if damage.tree == TreeId::CSUM {
                self.guessed_sums.extend(healed.guessed);
            }
            self.fates.insert(damage.expected.bytenr, Fate::Replaced(healed.block));
            self.steps.push(Step::new("tree-block", place.clone(), format!("{}: {}", damage.problem, healed.words)));
            if !healed.lost.is_empty() {
                let keys: Vec<String> = healed.lost.iter().map(Key::to_string).collect();
                let action = format!("could not be saved from the block: {}", keys.join(", "));
                self.steps.push(Step::new("items-lost", place, action));
            }
            return;
        }
        if let Some(at) = moved_by_one_bit(store, &damage.expected) {
            self.move_pointer(damage, at, place);
        } else if let Some((node, children)) = self.made_of_children(damage) {
            let action = format!("{}: made again of the {children} children of it that were found", damage.problem);
            if damage.tree == TreeId::EXTENT {
                self.extent_gaps.push((damage.expected.first_key.unwrap_or(Key::MIN), damage.end));
            }
            self.replace(damage, Some(node));
            self.steps.push(Step::new("node-made-again", place, action));
        } else if may_be_dropped(damage) {
            self.replace(damage, None);
            self.steps.push(Step::new("tree-block-lost", place, lost_words(damage)));
        }
    }

    /// The pointer's address had a wrong bit.
    fn move_pointer(&mut self, damage: &Damage, at: Logical, place: Place) {
        let action = format!("{}: what it must be lies at {at}; the pointer is set right", damage.problem);
        match damage.parent {
            Some((node, slot)) => {
                let ptr = self.pointer(node, slot).map(|ptr| KeyPtr { blockptr: at.0.into(), ..ptr });
                self.pointers.entry(node).or_default().insert(slot, ptr);
            }
            None => {
                let Ok(block) = self.workspace.store.read(&Expected { bytenr: at, ..damage.expected }) else { return };
                self.replace(damage, Some((*block).clone()));
            }
        }
        self.steps.push(Step::new("pointer", place, action));
    }

    fn pointer(&self, node: Logical, slot: usize) -> Option<KeyPtr> {
        let node = self.workspace.store.read(&Expected::at(node)).ok()?;
        (slot < node.len()).then(|| *node.ptr(slot))
    }

    /// Puts another block, or nothing, in the place of a damaged one.
    fn replace(&mut self, damage: &Damage, block: Option<TreeBlock>) {
        match (self.leads_astray(damage), damage.parent) {
            (true, Some((node, slot))) => {
                self.pointers.entry(node).or_default().insert(slot, None);
            }
            (true, None) => {}
            (false, _) => {
                self.fates.insert(damage.expected.bytenr, block.map_or(Fate::Gone, Fate::Replaced));
            }
        }
    }

    /// Where the next block really begins, if the parent's key of it is wrong.
    fn true_end(&self, damage: &Damage) -> Option<Key> {
        let next = damage.parent.and_then(|(node, slot)| {
            let ptr = self.pointer(node, slot + 1)?;
            let expected = Expected {
                level: damage.expected.level,
                generation: Some(Generation(ptr.generation.get())),
                ..Expected::at(Logical(ptr.blockptr.get()))
            };
            let block = self.workspace.store.read(&expected).ok()?;
            (!block.is_empty()).then(|| block.key(0))
        });
        match (next, damage.expected.first_key) {
            (Some(next), Some(first)) if next > first => Some(next),
            _ => damage.end,
        }
    }

    /// A lost node, made again of the children that nothing leads to now.
    fn made_of_children(&mut self, damage: &Damage) -> Option<(TreeBlock, usize)> {
        let level = damage.expected.level.filter(|level| *level > 0)?;
        let workspace = self.workspace;
        let (store, survey) = (&workspace.store, &workspace.survey);
        let strays = self.strays.get_or_insert_with(|| Strays::find(workspace));
        let generation = damage.expected.generation.unwrap_or(store.superblock.generation());
        let range = (damage.expected.first_key.unwrap_or(Key::MIN), damage.end);
        let kin = kin(survey, damage.tree, generation);
        let lost = Lost { tree: damage.tree, at: damage.expected.bytenr, level, generation, range, kin };
        let children = strays.children(&lost);
        let most = TreeBlock::node_capacity(store.geometry().nodesize as usize);
        if children.is_empty() || children.len() > most {
            return None;
        }
        let new = NewBlock {
            bytenr: damage.expected.bytenr,
            generation,
            owner: damage.tree,
            level,
            fsid: store.geometry().fsid,
            chunk_tree_uuid: store.volume().chunk_tree_uuid(),
        };
        let mut node = TreeBlock::new(store.geometry().nodesize as usize, &new);
        for (slot, child) in children.iter().enumerate() {
            let (blockptr, generation) = (child.at.0.into(), child.generation.0.into());
            node.insert_ptrs(slot, &[KeyPtr { key: child.keys.0.into(), blockptr, generation }]);
        }
        Some((node, children.len()))
    }

    /// The fates of all blocks, with the changed pointers.
    fn finish(mut self) -> (HashMap<Logical, Fate>, Vec<Step>) {
        for (at, changes) in std::mem::take(&mut self.pointers) {
            let known = match self.fates.get(&at) {
                Some(Fate::Replaced(_) | Fate::Gone) => continue,
                None => self.workspace.store.read(&Expected::at(at)),
            };
            let Ok(node) = known else { continue };
            let mut node = (*node).clone();
            for (slot, ptr) in changes.into_iter().rev() {
                match ptr {
                    Some(ptr) => node.set_ptr(slot, ptr),
                    None => node.remove_ptrs(slot..slot + 1),
                }
            }
            let fate = if node.is_empty() { Fate::Gone } else { Fate::Replaced(node) };
            self.fates.insert(at, fate);
        }
        (self.fates, self.steps)
    }
}

/// Trees of users, whose other parts are worth keeping. What is derived is made anew from the rest; the tree of
/// chunks and the root of all trees cannot be done without.
fn may_be_dropped(damage: &Damage) -> bool {
    let tree = damage.tree;
    let is_top = damage.parent.is_none() && tree == TreeId::ROOT;
    !is_top && (tree.is_subvolume() || [TreeId::ROOT, TreeId::DATA_RELOC].contains(&tree))
}

fn lost_words(damage: &Damage) -> String {
    let from = damage.expected.first_key.unwrap_or(Key::MIN);
    let to = damage.end.map_or("the end".to_owned(), |end| end.to_string());
    let mut words = format!("{}: given up; what lay from {from} to {to} is lost", damage.problem);
    if damage.tree.is_subvolume() {
        let last = damage.end.map_or("the last".to_owned(), |end| end.objectid.to_string());
        words.push_str(&format!(": of inodes {} to {last}", from.objectid));
    }
    words
}

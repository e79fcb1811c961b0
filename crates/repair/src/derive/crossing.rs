//! Tree blocks that are good but must not be as they are, and are copied, in each tree that has them: those that cross a
//! 64 KiB boundary, as old conversions left them (no kernel scrubs them, and some do not read them), and those of a
//! generation to come.

use std::collections::{BTreeMap, BTreeSet};

use butterfs_check::Place;
use butterfs_engine::tree;
use butterfs_format::items::STRIPE_LEN;
use butterfs_format::{Key, Logical, TreeId};

use crate::error::Result;
use crate::plan::Step;
use crate::survey::{Block, Parent, Survey};
use crate::workspace::Workspace;

/// Moves them.
///
/// # Errors
/// If a tree cannot be edited.
pub fn run(workspace: &mut Workspace) -> Result<Vec<Step>> {
    let nodesize = u64::from(workspace.store.geometry().nodesize);
    let newest = workspace.store.superblock.generation();
    let problem = |at: &Logical, block: &Block| {
        if at.0 % STRIPE_LEN + nodesize > STRIPE_LEN {
            return Some("crosses a 64 KiB boundary; copied to another place".to_owned());
        }
        let generation = block.generation;
        let is_old = !workspace.store.dirty().contains_key(at);
        (generation > newest && is_old)
            .then(|| format!("is of generation {generation}, which is to come; written anew"))
    };
    let blocks = workspace.survey.blocks.iter();
    let found: BTreeMap<Logical, (Key, String)> =
        blocks.filter_map(|(at, block)| Some((*at, (block.first_key, problem(at, block)?)))).collect();
    let mut steps = Vec::new();
    for (at, (first_key, action)) in found {
        let mut trees = trees_of(&workspace.survey, at);
        // A relocation's own trees are dropped by the next mount.
        trees.remove(&TreeId::TREE_RELOC);
        for id in trees {
            // Whatever lies on the way to a key is copied before it is changed.
            tree::update(&mut workspace.store, id, &first_key, |_| {})?;
            steps.push(Step::new("tree-block-place", Place::block(id, at), action.clone()));
        }
    }
    Ok(steps)
}

/// The trees that a block is in.
fn trees_of(survey: &Survey, at: Logical) -> BTreeSet<TreeId> {
    let (mut trees, mut seen, mut next) = (BTreeSet::new(), BTreeSet::new(), vec![at]);
    while let Some(at) = next.pop() {
        let Some(block) = survey.blocks.get(&at).filter(|_| seen.insert(at)) else { continue };
        for parent in &block.parents {
            match parent {
                Parent::Root(id) => {
                    trees.insert(*id);
                }
                Parent::Node(node) => next.push(*node),
            }
        }
    }
    trees
}

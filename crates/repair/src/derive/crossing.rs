//! Tree blocks that cross a 64 KiB boundary, as old conversions left them: no kernel scrubs them, and some do not
//! read them. They are copied to a better place, in each tree that has them.

use std::collections::{BTreeMap, BTreeSet};

use butterfs_check::Place;
use butterfs_engine::tree;
use butterfs_format::items::STRIPE_LEN;
use butterfs_format::{Key, Logical, TreeId};

use crate::error::Result;
use crate::plan::Step;
use crate::survey::{Parent, Survey};
use crate::workspace::Workspace;

/// Moves them.
///
/// # Errors
/// If a tree cannot be edited.
pub fn run(workspace: &mut Workspace) -> Result<Vec<Step>> {
    let nodesize = u64::from(workspace.store.geometry().nodesize);
    let crosses = |at: &Logical| at.0 % STRIPE_LEN + nodesize > STRIPE_LEN;
    let found: BTreeMap<Logical, Key> = workspace
        .survey
        .blocks
        .iter()
        .filter(|(at, _)| crosses(at))
        .map(|(at, block)| (*at, block.first_key))
        .collect();
    let mut steps = Vec::new();
    for (at, first_key) in found {
        let mut trees = trees_of(&workspace.survey, at);
        // A relocation's own trees are dropped by the next mount.
        trees.remove(&TreeId::TREE_RELOC);
        for id in trees {
            // Whatever lies on the way to a key is copied before it is changed.
            tree::update(&mut workspace.store, id, &first_key, |_| {})?;
            let action = "crosses a 64 KiB boundary; copied to another place";
            steps.push(Step::new("tree-block-place", Place::block(id, at), action));
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

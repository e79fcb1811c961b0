//! Everything that follows from the rest, worked out anew where it is wrong.
//!
//! # Invariants
//! * Extents are worked out from a survey that was taken after all mends; what is edited later belongs to trees
//!   that cannot share, and is entered block by block ([`settle`]).
//! * While a part of a tree that refers to extents cannot be read, no extent item is taken away and none loses a
//!   reference: what that part refers to is not known.

mod checksums;
mod crossing;
mod devices;
pub mod extent_tree;
mod free_space;
mod groups;
mod log;
mod owners;
mod quota;
pub mod references;
mod replacement;
mod roots;
mod settle;

use std::collections::HashSet;

use butterfs_check::{Kind, Place, Severity};
use butterfs_engine::tree::{self, TreeReader, TreeWriter};
use butterfs_format::items::{DevExtent, read_exact};
use butterfs_format::superblock::CompatRo;
use butterfs_format::{ItemType, Key, TreeId};

use crate::error::{Error, Result};
use crate::plan::Step;
use crate::store::Store;
use crate::workspace::Workspace;
use extent_tree::Difference;
use groups::{Groups, read_block_group_tree, tree_of_groups};
use owners::Owners;
use settle::Settling;

/// Steps of one kind are listed up to here; the rest is counted.
const MOST_STEPS: usize = 1000;

/// Derives; gives what was wrong and is set right.
///
/// # Errors
/// If a tree cannot be edited, or what must be known for it cannot be read.
pub fn run(workspace: &mut Workspace, mended: usize) -> Result<Vec<Step>> {
    let mut steps = bad_copies(workspace);
    let owners = Owners::load(workspace);
    steps.extend(log::run(workspace));
    steps.extend(crossing::run(workspace)?);
    steps.extend(devices::run(workspace)?);
    steps.extend(replacement::run(workspace)?);
    steps.extend(roots::uuid_tree(workspace)?);
    steps.extend(roots::orphans(workspace)?);
    steps.extend(checksums::run(workspace)?);
    let quotas = quota::run(workspace)?;
    let counted = quotas.iter().any(|step| step.name == "quota-usage");
    steps.extend(quotas);
    let renewed = renew_damaged(workspace)?;
    let renewed_extents = renewed.iter().any(|step| step.name == "extent-tree");
    steps.extend(renewed);
    steps.extend(space_cache(workspace));
    let so_far = SoFar { nothing: steps.is_empty() && mended == 0, counted, renewed_extents, owners };
    steps.extend(extents_and_space(workspace, so_far)?);
    Ok(steps)
}

/// A chunk that is not there, though both its block group and a device extent say that it was.
pub fn lost_chunk(store: &Store) -> Option<u64> {
    let known: std::collections::BTreeSet<u64> = store.volume().chunks().iter().map(|(start, _)| start.0).collect();
    let mut cursor = store.cursor(TreeId::DEV, &Key::MIN).ok()?;
    while let Some((key, data)) = cursor.item() {
        if key.item_type == ItemType::DEV_EXTENT
            && let Ok(extent) = read_exact::<DevExtent>(data)
            && !known.contains(&extent.chunk_offset.get())
            && has_block_group(store, extent.chunk_offset.get())
        {
            return Some(extent.chunk_offset.get());
        }
        cursor.advance().ok()?;
    }
    None
}

fn has_block_group(store: &Store, start: u64) -> bool {
    let from = Key::new(start, ItemType::BLOCK_GROUP_ITEM, 0);
    let cursor = store.cursor(tree_of_groups(store), &from);
    let key = cursor.ok().and_then(|cursor| cursor.key());
    key.is_some_and(|key| key.objectid == start && key.item_type == ItemType::BLOCK_GROUP_ITEM)
}

/// Copies of tree blocks that are healed from another copy by the commit.
fn bad_copies(workspace: &Workspace) -> Vec<Step> {
    let known = |at| workspace.survey.blocks.get(&at).map_or(TreeId(0), |block| block.owner);
    let bad = workspace.store.bad_copies().into_iter();
    bad.map(|(at, problem)| {
        let action = format!("a copy is bad ({problem}); written again from a good one");
        Step::new("tree-block-copy", Place::block(known(at), at), action)
    })
    .collect()
}

/// The old space cache is thrown away by every mount after a commit that is not the cache's own.
fn space_cache(workspace: &Workspace) -> Vec<Step> {
    let wrong = workspace.report.findings.iter().any(|f| f.kind == Kind::SpaceCache && f.severity == Severity::Error);
    let action = "the space cache (v1) is wrong; it is older than this commit, so the next mount makes it anew";
    if wrong { vec![Step::new("space-cache", Place::superblock(), action)] } else { Vec::new() }
}

/// Makes extent tree, block group tree and free space tree anew if they cannot be read, or if that was asked for.
fn renew_damaged(workspace: &mut Workspace) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let ro = workspace.store.superblock.compat_ro();
    let wanted = [
        (TreeId::EXTENT, "extent-tree", true),
        (TreeId::BLOCK_GROUP, "block-group", ro.contains(CompatRo::BLOCK_GROUP_TREE)),
        (TreeId::FREE_SPACE, "free-space", ro.contains(CompatRo::FREE_SPACE_TREE)),
    ];
    for (id, name, wanted) in wanted {
        let asked = id == TreeId::EXTENT && workspace.options.renew.extent_tree;
        let exists = workspace.survey.tree(id).is_some();
        if wanted && (asked || !workspace.survey.is_whole(id)) {
            if id == TreeId::EXTENT {
                refuse_unknown(workspace)?;
            }
            workspace.store.renew_tree(id)?;
            let why = if asked { "as was asked for" } else { "since it cannot be read" };
            steps.push(Step::new(name, Place::tree(id), format!("made anew {why}")));
        } else if exists && !wanted {
            workspace.store.remove_tree(id)?;
            steps.push(Step::new(name, Place::tree(id), "is there without its feature bit; removed"));
        }
    }
    Ok(steps)
}

/// Trees from which nothing is derived.
fn is_derived(id: TreeId) -> bool {
    [TreeId::EXTENT, TreeId::BLOCK_GROUP, TreeId::FREE_SPACE, TreeId::DEV, TreeId::CSUM, TreeId::UUID, TreeId::QUOTA]
        .contains(&id)
}

/// What cannot be read refers to extents that would be forgotten in a new extent tree.
fn refuse_unknown(workspace: &Workspace) -> Result<()> {
    match workspace.survey.damage.iter().find(|damage| !is_derived(damage.tree)) {
        Some(damage) => Err(Error::Refused(format!(
            "the extent tree cannot be made anew: block {} of tree {} cannot be read ({}), so what it refers to is not known",
            damage.expected.bytenr, damage.tree.0 as i64, damage.problem
        ))),
        None => Ok(()),
    }
}

/// What was done before the extents.
struct SoFar {
    /// Nothing at all.
    nothing: bool,
    /// Quotas were counted.
    counted: bool,
    /// The extent tree is empty, to be filled.
    renewed_extents: bool,
    /// Who made the data, as it was known.
    owners: Owners,
}

/// The places of blocks that edits moved.
struct Moved {
    all: HashSet<u64>,
    /// Those that no other tree can have shared.
    unshared: HashSet<u64>,
}

/// Surveys the edited filesystem.
fn look_again(workspace: &mut Workspace) -> Moved {
    let changes = workspace.store.take_changes();
    let before: HashSet<u64> = workspace.survey.blocks.keys().map(|at| at.0).collect();
    let own = workspace.survey.blocks.iter().filter(|(_, block)| !block.owner.is_shareable());
    let own: HashSet<u64> = own.map(|(at, _)| at.0).collect();
    workspace.look_again();
    let now: HashSet<u64> = workspace.survey.blocks.keys().map(|at| at.0).collect();
    let changed = changes.into_iter().map(|change| change.at.0);
    let all: HashSet<u64> = before.symmetric_difference(&now).copied().chain(changed).collect();
    Moved { unshared: all.intersection(&own).copied().collect(), all }
}

/// Extents, block groups, free space, and all that moves while they are written.
fn extents_and_space(workspace: &mut Workspace, so_far: SoFar) -> Result<Vec<Step>> {
    let moved = look_again(workspace);
    let incomplete = workspace.survey.damage.iter().any(|damage| !is_derived(damage.tree));
    let nodesize = u64::from(workspace.store.geometry().nodesize);
    let mut extents = references::extents(&workspace.survey, nodesize);
    so_far.owners.enter(workspace, &mut extents);
    let compared = extent_tree::compare(&workspace.store, &mut extents)?;
    let mut differences = compared.differences;
    if incomplete {
        differences.retain(|difference| {
            difference.problem == extent_tree::NO_ITEM || moved.unshared.contains(&difference.bytenr)
        });
    }
    let (mut stored_groups, mut foreign) = (compared.groups, compared.foreign);
    let home = tree_of_groups(&workspace.store);
    let mut misplaced = Vec::new();
    if home == TreeId::BLOCK_GROUP {
        misplaced.extend(stored_groups.iter().map(|(start, (len, _))| groups::key(*start, *len)));
        let (own, other) = read_block_group_tree(&workspace.store)?;
        stored_groups = own;
        for key in &other {
            tree::remove(&mut workspace.store, TreeId::BLOCK_GROUP, key)?;
        }
        foreign.extend(misplaced.iter().copied());
    }
    let mut steps = if so_far.renewed_extents { Vec::new() } else { difference_steps(&differences, &moved.all) };
    for key in foreign {
        tree::remove(&mut workspace.store, TreeId::EXTENT, &key)?;
        steps.push(Step::new("extent-tree", Place::item(TreeId::EXTENT, &key), "does not belong here; removed"));
    }
    let all = if incomplete { keep_unknown(workspace, extents, &moved.unshared)? } else { extents };
    let store = &mut workspace.store;
    for Difference { bytenr, .. } in &differences {
        extent_tree::rewrite(store, *bytenr, all.get(bytenr))?;
    }
    let mut groups = Groups::new(store, &all);
    let changed = store.is_changed();
    let group_steps = groups.compare(store, &stored_groups)?;
    if !changed || workspace.report.has(Kind::Usage) || workspace.report.has(Kind::BlockGroup) {
        steps.extend(group_steps);
    }
    let mut spaces = free_space::Wrong::default();
    if free_space::is_wanted(store) {
        spaces = free_space::compare(store, &groups, &all)?;
    }
    if !changed || workspace.report.has(Kind::FreeSpace) {
        let step = |start: &u64| Step::new("free-space", Place::block_group(*start), "written anew");
        steps.extend(spaces.groups.iter().map(step));
    }
    let outside = spaces.outside.iter().map(|key| Place::item(TreeId::FREE_SPACE, key));
    steps.extend(outside.map(|place| Step::new("free-space", place, "there is no such block group; removed")));
    if store.superblock.bytes_used.get() != groups.used() && !changed {
        let action = format!("bytes_used is {}, set to {}", store.superblock.bytes_used, groups.used());
        steps.push(Step::new("superblock", Place::superblock(), action));
    }
    if so_far.nothing && steps.is_empty() {
        return Ok(steps);
    }
    groups.space_is_wrong(&spaces.groups);
    touch_root_tree(workspace)?;
    quota::carry_over(workspace, so_far.counted)?;
    let mut settling = Settling { store: &mut workspace.store, extents: all, groups };
    settling.settle()?;
    let used = settling.groups.used();
    workspace.store.superblock.bytes_used = used.into();
    log::carry_over(workspace)?;
    Ok(steps)
}

/// With references missing, what the extent tree has beyond them stays as it is.
fn keep_unknown(
    workspace: &Workspace,
    mut extents: references::Extents,
    gone: &HashSet<u64>,
) -> Result<references::Extents> {
    let stored = extent_tree::stored_extents(&workspace.store)?;
    for (at, extent) in stored.into_iter().filter(|(at, _)| !gone.contains(at)) {
        extents.entry(at).or_insert(extent);
    }
    Ok(extents)
}

/// The root tree's root block must be of the superblock's generation.
fn touch_root_tree(workspace: &mut Workspace) -> Result<()> {
    let store = &mut workspace.store;
    let root = store.root(TreeId::ROOT)?;
    let at = store.make_writable(TreeId::ROOT, &root.into())?;
    store.set_root(TreeId::ROOT, at, root.level);
    Ok(())
}

/// A step for each difference that no mend made.
fn difference_steps(differences: &[Difference], moved: &HashSet<u64>) -> Vec<Step> {
    let own: Vec<_> = differences.iter().filter(|difference| !moved.contains(&difference.bytenr)).collect();
    let step = |difference: &&Difference| {
        let done = if difference.is_stray { "removed" } else { "written anew" };
        Step::new("extent-tree", Place::extent(difference.bytenr), format!("{}; {done}", difference.problem))
    };
    let mut steps: Vec<_> = own.iter().take(MOST_STEPS).map(step).collect();
    if own.len() > MOST_STEPS {
        let action = format!("{} more extents are written anew or removed", own.len() - MOST_STEPS);
        steps.push(Step::new("extent-tree", Place::tree(TreeId::EXTENT), action));
    }
    steps
}

//! Removing what the inode number cache (a mount option of kernels before 5.11) left in subvolumes: an inode with
//! a number of its own, its extents, and a header.

use butterfs_check::Place;
use butterfs_engine::tree;
use butterfs_format::ids::objectid;
use butterfs_format::{Key, TreeId};

use crate::Workspace;
use crate::error::Result;
use crate::plan::Step;

/// Removes the cache of each subvolume that has one.
///
/// # Errors
/// If a subvolume cannot be read or edited.
pub fn clear(workspace: &mut Workspace) -> Result<Vec<Step>> {
    let alive = |tree: &&crate::survey::Tree| tree.id.is_subvolume() && !tree.is_dead();
    let subvolumes: Vec<TreeId> = workspace.survey.trees.iter().filter(alive).map(|tree| tree.id).collect();
    let mut steps = Vec::new();
    for id in subvolumes {
        let keys = cache_keys(workspace, id)?;
        for key in &keys {
            tree::remove(&mut workspace.store, id, key)?;
        }
        if !keys.is_empty() {
            let action = format!("{} items of the inode number cache are removed", keys.len());
            steps.push(Step::new("inode-cache", Place::subvolume(id.0), action));
        }
    }
    Ok(steps)
}

/// They are the last items of a tree: nothing else has such high numbers.
fn cache_keys(workspace: &Workspace, id: TreeId) -> Result<Vec<Key>> {
    let belongs = |key: &Key| key.objectid == objectid::FREE_INO || key.objectid == objectid::FREE_SPACE;
    let mut keys = Vec::new();
    let mut cursor = workspace.store.cursor(id, &Key::new(objectid::FREE_INO, butterfs_format::ItemType(0), 0))?;
    while let Some((key, _)) = cursor.item() {
        if belongs(&key) {
            keys.push(key);
        }
        cursor.advance()?;
    }
    Ok(keys)
}

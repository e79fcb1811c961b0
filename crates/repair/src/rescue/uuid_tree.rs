//! Removing the UUID tree: it says nothing that root items do not say, and the next mount makes it anew.

use butterfs_check::Place;
use butterfs_format::TreeId;

use crate::Workspace;
use crate::error::Result;
use crate::plan::Step;

/// Removes the tree, and says in the superblock that there is none that is complete.
///
/// # Errors
/// If the root tree cannot be edited.
pub fn clear(workspace: &mut Workspace) -> Result<Vec<Step>> {
    if !workspace.store.has_tree(TreeId::UUID) {
        return Ok(Vec::new());
    }
    workspace.store.remove_tree(TreeId::UUID)?;
    workspace.look_again();
    workspace.store.superblock.uuid_tree_generation = 0.into();
    Ok(vec![Step::new("uuid-tree", Place::tree(TreeId::UUID), "removed; the next mount makes it anew")])
}

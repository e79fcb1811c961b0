//! Removing a free space cache. It says nothing that the extent tree does not say; the next mount makes it anew.

use butterfs_check::Place;
use butterfs_engine::tree;
use butterfs_format::ids::objectid;
use butterfs_format::superblock::CompatRo;
use butterfs_format::{ItemType, Key, TreeId};

use super::SpaceCache;
use crate::Workspace;
use crate::error::Result;
use crate::plan::Step;

/// What the superblock's `cache_generation` is when the v1 cache is not used.
const NO_CACHE: u64 = u64::MAX;

/// Removes a cache.
///
/// # Errors
/// If the root tree cannot be read or edited.
pub fn clear(workspace: &mut Workspace, version: SpaceCache) -> Result<Vec<Step>> {
    match version {
        SpaceCache::V1 => clear_files(workspace),
        SpaceCache::V2 => clear_tree(workspace),
    }
}

fn clear_files(workspace: &mut Workspace) -> Result<Vec<Step>> {
    let keys = keys_of_files(workspace)?;
    let known = workspace.store.superblock.cache_generation.get();
    if keys.is_empty() && (known == NO_CACHE || known == 0) {
        return Ok(Vec::new());
    }
    for key in &keys {
        tree::remove(&mut workspace.store, TreeId::ROOT, key)?;
    }
    workspace.store.superblock.cache_generation = NO_CACHE.into();
    let action = format!("the space cache (v1) is removed, {} items of the root tree", keys.len());
    Ok(vec![Step::new("space-cache", Place::tree(TreeId::ROOT), action)])
}

/// Headers of the cache name its files; files that no header names are removed, too.
fn keys_of_files(workspace: &Workspace) -> Result<Vec<Key>> {
    let mut keys = Vec::new();
    let mut cursor = workspace.store.cursor(TreeId::ROOT, &Key::MIN)?;
    while let Some((key, _)) = cursor.item() {
        let is_header = key.objectid == objectid::FREE_SPACE && key.item_type == ItemType::UNTYPED;
        let of_inode = [ItemType::INODE_ITEM, ItemType::EXTENT_DATA].contains(&key.item_type);
        if is_header || (of_inode && key.objectid != TreeId::ROOT_TREE_DIR.0) {
            keys.push(key);
        }
        cursor.advance()?;
    }
    Ok(keys)
}

fn clear_tree(workspace: &mut Workspace) -> Result<Vec<Step>> {
    let bits = workspace.store.superblock.compat_ro();
    let exists = workspace.store.has_tree(TreeId::FREE_SPACE);
    if bits.contains(CompatRo::BLOCK_GROUP_TREE) {
        // The kernel mounts no filesystem that has a block group tree and no free space tree.
        workspace.store.renew_tree(TreeId::FREE_SPACE)?;
        workspace.look_again();
        let action = "made anew at once: a filesystem with a block group tree must have it";
        return Ok(vec![Step::new("free-space", Place::tree(TreeId::FREE_SPACE), action)]);
    }
    let wanted = CompatRo::FREE_SPACE_TREE | CompatRo::FREE_SPACE_TREE_VALID;
    if !exists && !bits.intersects(wanted) {
        return Ok(Vec::new());
    }
    if exists {
        workspace.store.remove_tree(TreeId::FREE_SPACE)?;
        workspace.look_again();
    }
    workspace.store.superblock.compat_ro_flags = (bits - wanted).bits().into();
    let action = "removed; a mount with space_cache=v2 makes it anew";
    Ok(vec![Step::new("free-space", Place::tree(TreeId::FREE_SPACE), action)])
}

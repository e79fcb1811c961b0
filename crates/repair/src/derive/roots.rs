//! What follows from root items: the UUID tree, and orphan items of subvolumes that wait to be deleted.

use std::collections::{BTreeMap, BTreeSet};

use butterfs_check::{Kind, Place};
use butterfs_engine::tree;
use butterfs_format::ids::{FIRST_FREE_OBJECTID, objectid};
use butterfs_format::{ItemType, Key, TreeId};

use crate::error::Result;
use crate::plan::Step;
use crate::survey::Tree;
use crate::workspace::Workspace;

/// The key of a UUID: its two halves as numbers.
fn uuid_key(uuid: &[u8; 16], item_type: ItemType) -> Key {
    let half = |at: usize| uuid[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    Key::new(half(0), item_type, half(8))
}

/// Every entry that the subvolumes ask for.
fn wanted(trees: &[Tree]) -> BTreeMap<Key, BTreeSet<u64>> {
    let mut wanted: BTreeMap<Key, BTreeSet<u64>> = BTreeMap::new();
    let living = |tree: &&Tree| tree.id.is_subvolume() && tree.id != TreeId::FS && !tree.is_dead();
    for (id, item) in trees.iter().filter(living).filter_map(|tree| Some((tree.id, tree.item?))) {
        let uuids = [(item.uuid, ItemType::UUID_SUBVOL), (item.received_uuid, ItemType::UUID_RECEIVED_SUBVOL)];
        for (uuid, item_type) in uuids.into_iter().filter(|(uuid, _)| *uuid != [0; 16]) {
            wanted.entry(uuid_key(&uuid, item_type)).or_default().insert(id.0);
        }
    }
    wanted
}

/// Sets the UUID tree right, if there is one.
///
/// # Errors
/// If the tree cannot be edited.
pub fn uuid_tree(workspace: &mut Workspace) -> Result<Vec<Step>> {
    if workspace.survey.tree(TreeId::UUID).is_none() {
        return Ok(Vec::new());
    }
    let place = Place::tree(TreeId::UUID);
    let mut steps = Vec::new();
    if !workspace.survey.is_whole(TreeId::UUID) {
        workspace.store.renew_tree(TreeId::UUID)?;
        steps.push(Step::new("uuid-tree", place.clone(), "cannot be read; made anew from the root items"));
    } else if !workspace.report.has(Kind::UuidTree) && !has_foreign(workspace) {
        return Ok(Vec::new());
    }
    let wanted = wanted(&workspace.survey.trees);
    let store = &mut workspace.store;
    let mut stored = BTreeMap::new();
    let mut cursor = store.cursor(TreeId::UUID, &Key::MIN)?;
    while let Some((key, data)) = cursor.item() {
        stored.insert(key, data.to_vec());
        cursor.advance()?;
    }
    // What some mkfs.btrfs left there is of no harm, and nobody looks at it.
    let is_foreign = |key: &&Key| !wanted.contains_key(key) && key.objectid != FIRST_FREE_OBJECTID;
    for key in stored.keys().filter(is_foreign) {
        tree::remove(store, TreeId::UUID, key)?;
        steps.push(Step::new("uuid-tree", Place::item(TreeId::UUID, key), "no subvolume has this UUID; removed"));
    }
    for (key, ids) in &wanted {
        let data: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        if stored.get(key).is_none_or(|old| !same_ids(old, ids)) {
            tree::put(store, TreeId::UUID, key, &data)?;
            let action = format!("set to lead to {ids:?}");
            steps.push(Step::new("uuid-tree", Place::item(TreeId::UUID, key), action));
        }
    }
    Ok(steps)
}

fn same_ids(data: &[u8], ids: &BTreeSet<u64>) -> bool {
    let (numbers, rest) = data.as_chunks::<8>();
    let found: BTreeSet<u64> = numbers.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    rest.is_empty() && found == *ids
}

fn has_foreign(workspace: &Workspace) -> bool {
    use butterfs_check::Severity;
    let errors = workspace.report.findings.iter().filter(|finding| finding.severity == Severity::Error);
    errors.into_iter().any(|finding| finding.kind == Kind::UnknownKey && finding.place.tree == Some(TreeId::UUID))
}

/// Subvolumes without references get the item that has them deleted.
///
/// # Errors
/// If the root tree cannot be edited.
pub fn orphans(workspace: &mut Workspace) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let dead: Vec<TreeId> =
        workspace.survey.trees.iter().filter(|t| t.id.is_subvolume() && t.is_dead()).map(|t| t.id).collect();
    for id in dead {
        let key = Key::new(objectid::ORPHAN, ItemType::ORPHAN_ITEM, id.0);
        if workspace.store.get(TreeId::ROOT, &key)?.is_none() {
            tree::insert(&mut workspace.store, TreeId::ROOT, &key, &[])?;
            let action = "no references: gets an orphan item, so that the next mount deletes it";
            steps.push(Step::new("orphan", Place::subvolume(id.0), action));
        }
    }
    Ok(steps)
}

//! How subvolumes hang in each other: ROOT_REF, ROOT_BACKREF and directory entries.

use std::collections::{HashMap, HashSet};

use butterfs_format::TreeId;

use crate::context::Context;
use crate::finding::{Kind, Place};
use crate::forest::Forest;
use crate::subvolume::SubvolumeEntry;

/// Compares the three. `unread` are trees that could not be walked whole: their entries may be missing.
pub(crate) fn check(context: &mut Context<'_>, forest: &Forest, entries: &[SubvolumeEntry], unread: &HashSet<u64>) {
    both_directions(context, forest);
    let known: HashSet<&SubvolumeEntry> = entries.iter().collect();
    for ((child, parent), (dirid, index, name)) in &forest.refs {
        let entry = SubvolumeEntry { child: *child, parent: *parent, dirid: *dirid, index: *index, name: name.clone() };
        if !known.contains(&entry) && !unread.contains(parent) {
            let problem = format!("no entry {:?} in directory {dirid} of tree {parent}", String::from_utf8_lossy(name));
            context.error(Kind::Subvolume, Place::subvolume(*child), problem);
        }
    }
    entries_have_refs(context, forest, entries);
    all_hang(context, forest);
}

fn both_directions(context: &mut Context<'_>, forest: &Forest) {
    for (at, link) in &forest.refs {
        if forest.backrefs.get(at) != Some(link) {
            let problem = format!("the ROOT_REF of tree {} has no ROOT_BACKREF like it", at.1);
            context.error(Kind::Subvolume, Place::subvolume(at.0), problem);
        }
    }
    for at in forest.backrefs.keys().filter(|at| !forest.refs.contains_key(at)) {
        let problem = format!("the ROOT_BACKREF to tree {} has no ROOT_REF", at.1);
        context.error(Kind::Subvolume, Place::subvolume(at.0), problem);
    }
}

/// A snapshot keeps the entries of subvolumes that it does not hold; any other tree must not.
fn entries_have_refs(context: &mut Context<'_>, forest: &Forest, entries: &[SubvolumeEntry]) {
    let snapshots: HashSet<u64> = forest
        .roots
        .iter()
        // The key of a snapshot has the transaction that made it. Items of old kernels have no UUIDs.
        .filter(|(key, item)| {
            let told = item.uuid != [0; 16] || key.objectid == TreeId::FS.0;
            key.offset != 0 || !told || item.parent_uuid != [0; 16] || item.received_uuid != [0; 16]
        })
        .map(|(key, _)| key.objectid)
        .collect();
    for entry in entries {
        let link = forest.refs.get(&(entry.child, entry.parent));
        let same =
            link.is_some_and(|(dirid, index, name)| (*dirid, *index, name) == (entry.dirid, entry.index, &entry.name));
        if !same && !snapshots.contains(&entry.parent) {
            let name = String::from_utf8_lossy(&entry.name);
            let problem = format!("entry {name:?} leads to subvolume {}, which has no ROOT_REF for it", entry.child);
            context.error(Kind::Subvolume, Place::inode(TreeId(entry.parent), entry.dirid), problem);
        }
    }
}

/// Each living subvolume but the top one hangs somewhere, once.
fn all_hang(context: &mut Context<'_>, forest: &Forest) {
    let mut links: HashMap<u64, u32> = HashMap::new();
    for (child, _) in forest.backrefs.keys() {
        *links.entry(*child).or_default() += 1;
    }
    for (key, item) in &forest.roots {
        let id = TreeId(key.objectid);
        if !id.is_subvolume() || id == TreeId::FS {
            continue;
        }
        let (hangs, refs) = (links.get(&id.0).copied().unwrap_or(0), item.refs.get());
        if refs > 0 && hangs != refs {
            let problem = format!("refs is {refs}, it hangs in {hangs} trees");
            context.error(Kind::Subvolume, Place::subvolume(id.0), problem);
        }
    }
    for child in links.keys().filter(|child| !forest.roots.iter().any(|(key, _)| key.objectid == **child)) {
        context.error(Kind::Subvolume, Place::subvolume(*child), "has a ROOT_BACKREF, but no ROOT_ITEM");
    }
}

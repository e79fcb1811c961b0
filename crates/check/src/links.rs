//! How subvolumes hang in each other: ROOT_REF, ROOT_BACKREF and directory entries.
//!
//! Entries are not kept: a parent whose entries have the same sum of fingerprints as its ROOT_REFs is in
//! order, and a snapshot keeps the entries of subvolumes that it does not hold. Of any other parent each
//! entry is looked up.

use std::collections::{HashMap, HashSet};

use butterfs_format::TreeId;

use crate::context::Context;
use crate::finding::{Kind, Place};
use crate::fingerprint::named;
use crate::forest::Forest;
use crate::tally::Verdict;

/// Stray entries that are kept; more are as good as these.
const MAX_STRAY: usize = 10_000;

/// A directory entry that leads to another subvolume.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SubvolumeEntry {
    pub child: u64,
    pub parent: u64,
    pub dirid: u64,
    pub index: u64,
    pub name: Vec<u8>,
}

/// The fingerprint of an entry, within its parent.
pub(crate) fn entry_fingerprint(child: u64, dirid: u64, index: u64, name: &[u8]) -> u64 {
    named(20, [child, dirid, index], name)
}

/// Which entries were met.
pub(crate) struct Links {
    /// By parent: the sum of the fingerprints that its entries should have.
    wanted: HashMap<u64, u64>,
    /// Trees that may have entries without a ROOT_REF.
    snapshots: HashSet<u64>,
    /// Parents all of whose entries were met.
    agreed: HashSet<u64>,
    /// Child and parent of entries that were met one by one.
    met: HashSet<(u64, u64)>,
    stray: Vec<SubvolumeEntry>,
    /// Trees that could not be walked whole: their entries may be missing.
    pub unread: HashSet<u64>,
}

impl Links {
    pub fn new(forest: &Forest) -> Self {
        let mut wanted: HashMap<u64, u64> = HashMap::new();
        for ((child, parent), (dirid, index, name)) in &forest.refs {
            let sum = wanted.entry(*parent).or_default();
            *sum = sum.wrapping_add(entry_fingerprint(*child, *dirid, *index, name));
        }
        // The key of a snapshot has the transaction that made it. Items of old kernels have no UUIDs.
        let snapshot = |(key, item): &&(butterfs_format::Key, butterfs_format::items::RootItem)| {
            let told = item.uuid != [0; 16] || key.objectid == TreeId::FS.0;
            key.offset != 0 || !told || item.parent_uuid != [0; 16] || item.received_uuid != [0; 16]
        };
        Self {
            wanted,
            snapshots: forest.roots.iter().filter(snapshot).map(|(key, _)| key.objectid).collect(),
            agreed: HashSet::new(),
            met: HashSet::new(),
            stray: Vec::new(),
            unread: HashSet::new(),
        }
    }

    /// Whether a subvolume's entries, as a sum, are as they should be.
    pub fn agree(&mut self, parent: TreeId, verdict: &Verdict) -> bool {
        let wanted = self.wanted.get(&parent.0).copied();
        if wanted.is_none() && (verdict.entries == 0 || self.snapshots.contains(&parent.0)) {
            return true;
        }
        let agree = wanted == Some(verdict.entry_sum);
        if agree {
            self.agreed.insert(parent.0);
        }
        agree
    }

    /// An entry of a subvolume that is looked at closely.
    pub fn entry(&mut self, forest: &Forest, entry: SubvolumeEntry) {
        let at = (entry.child, entry.parent);
        let same = forest
            .refs
            .get(&at)
            .is_some_and(|(dirid, index, name)| (*dirid, *index, name) == (entry.dirid, entry.index, &entry.name));
        if same {
            self.met.insert(at);
        } else if !self.snapshots.contains(&entry.parent) && self.stray.len() < MAX_STRAY {
            self.stray.push(entry);
        }
    }

    /// Compares the three.
    pub fn check(self, context: &mut Context<'_>, forest: &Forest) {
        both_directions(context, forest);
        for (at, (dirid, _, name)) in &forest.refs {
            let (child, parent) = at;
            if !self.agreed.contains(parent) && !self.met.contains(at) && !self.unread.contains(parent) {
                let name = String::from_utf8_lossy(name);
                let problem = format!("no entry {name:?} in directory {dirid} of tree {parent}");
                context.error(Kind::Subvolume, Place::subvolume(*child), problem);
            }
        }
        for entry in &self.stray {
            let name = String::from_utf8_lossy(&entry.name);
            let problem = format!("entry {name:?} leads to subvolume {}, which has no ROOT_REF for it", entry.child);
            context.error(Kind::Subvolume, Place::inode(TreeId(entry.parent), entry.dirid), problem);
        }
        all_hang(context, forest);
    }
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
    let mut lost: Vec<_> = links.keys().filter(|child| forest.global(TreeId(**child)).is_none()).collect();
    lost.sort_unstable();
    for child in lost {
        context.error(Kind::Subvolume, Place::subvolume(*child), "has a ROOT_BACKREF, but no ROOT_ITEM");
    }
}

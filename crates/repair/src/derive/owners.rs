//! Who made data, where simple quotas are on: each data extent carries the subvolume that it counts for, whoever
//! refers to it now.
//!
//! What the extent tree says of it is kept, also through a tree that is made anew. Of an extent that has lost its item
//! it is the oldest subvolume whose leaves refer to it: snapshots and clones are younger than what they were made of.
//! That can be wrong only for a clone whose original is gone, and then it is the counters alone that are: these are
//! set to fit.

use std::collections::BTreeMap;

use butterfs_format::items::ExtentItem;
use butterfs_format::superblock::Incompat;
use butterfs_format::validate::Expected;
use butterfs_format::{ItemType, TreeId};

use super::references::{Extents, What};
use crate::workspace::Workspace;

/// Makers of data extents by address, none for data that is older than the quotas; nothing without simple quotas.
#[derive(Debug, Default)]
pub struct Owners(Option<BTreeMap<u64, Option<TreeId>>>);

/// Whether simple quotas are on.
pub fn are_counted(workspace: &Workspace) -> bool {
    workspace.store.superblock.incompat().contains(Incompat::SIMPLE_QUOTA)
}

impl Owners {
    /// Those that the extent tree knows, as far as it can be read.
    pub fn load(workspace: &Workspace) -> Self {
        if !are_counted(workspace) {
            return Self::default();
        }
        let (store, mut known) = (&workspace.store, BTreeMap::new());
        let blocks = workspace.survey.blocks.iter();
        for (at, _) in blocks.filter(|(_, block)| block.level == 0 && block.owner == TreeId::EXTENT) {
            let Ok(leaf) = store.read(&Expected::at(*at)) else { continue };
            for slot in (0..leaf.len()).filter(|slot| leaf.key(*slot).item_type == ItemType::EXTENT_ITEM) {
                let key = leaf.key(slot);
                if let Ok(item) = ExtentItem::parse(&key, leaf.data(slot)) {
                    known.insert(key.objectid, item.owner);
                }
            }
        }
        Self(Some(known))
    }

    /// Enters them.
    pub fn enter(&self, workspace: &Workspace, extents: &mut Extents) {
        let Some(known) = &self.0 else { return };
        for (at, extent) in extents.iter_mut().filter(|(_, extent)| extent.what == What::Data) {
            extent.owner = known.get(at).copied().unwrap_or_else(|| oldest_user(workspace, *at));
        }
    }
}

fn oldest_user(workspace: &Workspace, at: u64) -> Option<TreeId> {
    let survey = &workspace.survey;
    let leaves = survey.extents.get(&at)?.refs.iter().map(|reference| reference.leaf);
    let trees = leaves.filter_map(|leaf| survey.blocks.get(&leaf)).map(|block| block.owner);
    trees.filter(|tree| tree.is_subvolume()).min()
}

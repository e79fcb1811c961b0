//! What simple quotas count: each extent for the subvolume that made it, from the generation on in which
//! they were turned on. Data carries its maker in the extent item, a tree block in its header.
//!
//! Memory: a counter for each subvolume.

use std::collections::BTreeMap;

use butterfs_format::{Generation, TreeId};

use crate::leaves::Header;

/// Bytes by subvolume.
#[derive(Clone, Debug)]
pub(crate) struct OwnedBytes {
    since: Generation,
    bytes: BTreeMap<TreeId, u64>,
}

impl OwnedBytes {
    pub fn new(since: Generation) -> Self {
        Self { since, bytes: BTreeMap::new() }
    }

    /// An extent of a subvolume; others do not count.
    pub fn add(&mut self, owner: TreeId, generation: Generation, len: u64) {
        if owner.is_subvolume() && generation >= self.since {
            let sum = self.bytes.entry(owner).or_default();
            *sum = sum.saturating_add(len);
        }
    }

    /// A tree block.
    pub fn block(&mut self, header: Header, nodesize: u64) {
        self.add(header.owner, header.generation, nodesize);
    }

    pub fn by_tree(&self) -> impl Iterator<Item = (TreeId, u64)> + '_ {
        self.bytes.iter().map(|(tree, bytes)| (*tree, *bytes))
    }
}

//! Opening the transaction that follows the last commit.

use std::collections::HashSet;
use std::sync::{Arc, RwLock};

use butterfs_format::{Generation, Logical, Superblock, TreeId};
use butterfs_volume::Volume;

use super::delayed::DelayedRefs;
use super::device_list::ChunkWishes;
use super::discard::Discards;
use super::log::Log;
use super::lost_refs::LostRefs;
use super::{BadGroups, Transaction};
use crate::error::Result;
use crate::space::{Promised, SpaceMap, SpaceRules};
use crate::tree::{BlockMap, cache::BlockCache};

impl Transaction {
    /// A transaction without any tree, for `superblock`'s filesystem.
    pub(super) fn empty(volume: Arc<Volume>, superblock: Superblock, cache_bytes: usize) -> Self {
        Self {
            geometry: volume.geometry(),
            chunk_tree_uuid: volume.chunk_tree_uuid(),
            generation: superblock.generation().next(),
            committed: superblock.generation(),
            superblock,
            dirty: BlockMap::default(),
            frozen: BlockMap::default(),
            roots: RwLock::default(),
            absent: RwLock::default(),
            force_copy: HashSet::new(),
            refs: DelayedRefs::default(),
            lost_refs: LostRefs::default(),
            space: SpaceMap::default(),
            promised: Promised::default(),
            rules: SpaceRules::default(),
            discards: Discards::default(),
            space_change: None,
            sharing: None,
            pinned: Vec::new(),
            pinned_bytes: 0,
            devices: volume.dev_items(),
            device_space: None,
            wishes: ChunkWishes::default(),
            next_tree: None,
            log: Log::default(),
            changes: 0,
            root_item_changed: false,
            cache: Arc::new(BlockCache::new(cache_bytes)),
            volume,
        }
    }

    /// The transaction after the commit that this superblock is of.
    pub(super) fn open(
        volume: Arc<Volume>,
        cache_bytes: usize,
        sb: &Superblock,
        bad_groups: BadGroups,
    ) -> Result<Self> {
        let mut tx = Self::empty(volume, *sb, cache_bytes);
        tx.enter_root(TreeId::ROOT, sb.root(), sb.root_level, sb.generation());
        // The volume has the chunks of the last commit, whatever the other trees are of.
        let newest = tx.volume.superblock();
        let chunk_generation = Generation(newest.chunk_root_generation.get());
        tx.enter_root(TreeId::CHUNK, Logical(newest.chunk_root.get()), newest.chunk_root_level, chunk_generation);
        tx.load_block_groups(bad_groups)?;
        Ok(tx)
    }
}

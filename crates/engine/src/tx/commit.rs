//! Commit: settle, freeze, write, release.
//!
//! # Invariants
//! * Settling ends at a fixed point: no delayed reference is pending, every root item and block
//!   group item says what memory says.
//! * Blocks, flush, superblocks, flush: in this order, and an error in any ends all writing.
//! * Space freed in generation G goes back to the free ranges only after G's superblock is durable.
//!
//! # Locking
//! [`Transaction::freeze`] and [`Transaction::finish`] run with the gate held alone; [`Frozen::write`]
//! runs with no lock at all, while the next generation is open.

use std::collections::HashMap;
use std::sync::Arc;

use butterfs_format::superblock::RootBackup;
use butterfs_format::{Generation, Logical, Superblock, TreeBlock, TreeId};
use butterfs_volume::Volume;

use super::Transaction;
use super::log::Log;
use super::seal::write_blocks;
use crate::error::Result;

/// A generation that is on its way to the devices.
pub(super) struct Frozen {
    blocks: HashMap<Logical, Arc<TreeBlock>>,
    superblock: Superblock,
    pinned: Vec<(Logical, u64)>,
}

impl Transaction {
    /// Whether there is nothing to commit. Groups that the last commit emptied wait for one more,
    /// since their space is free only after it.
    pub(super) fn is_clean(&self) -> bool {
        self.dirty.is_empty()
            && self.refs.is_empty()
            && !self.has_removable_group()
            && !self.volume.device_stats_changed()
    }

    /// Settles everything, hands out the generation's blocks, and opens the next generation.
    pub(super) fn freeze(&mut self) -> Result<Frozen> {
        self.drop_log();
        self.remove_empty_groups()?;
        self.write_device_stats()?;
        self.settle()?;
        self.update_superblock()?;
        let frozen = Frozen {
            blocks: std::mem::take(&mut self.dirty),
            superblock: self.superblock,
            pinned: std::mem::take(&mut self.pinned),
        };
        debug_assert!(self.frozen.is_empty(), "two generations are being written");
        self.frozen = frozen.blocks.clone();
        self.force_copy.clear();
        self.generation = self.generation.next();
        // What was noted while settling is in this commit.
        self.log = Log::default();
        Ok(frozen)
    }

    /// Runs delayed references and writes items until nothing changes any more. It ends because a
    /// block that was copied once in this generation is changed in place from then on.
    fn settle(&mut self) -> Result<()> {
        loop {
            self.run_delayed_refs()?;
            let roots = self.write_roots()?;
            let groups = self.write_block_groups()?;
            if !roots && !groups && self.refs.is_empty() {
                return Ok(());
            }
        }
    }

    fn update_superblock(&mut self) -> Result<()> {
        let (root, chunk) = (self.tree_root(TreeId::ROOT)?, self.tree_root(TreeId::CHUNK)?);
        let uuid_tree_was_current = self.superblock.uuid_tree_generation == self.superblock.generation;
        let slot = self.superblock.next_backup();
        let sb = &mut self.superblock;
        sb.generation = self.generation.0.into();
        sb.root = root.bytenr.0.into();
        sb.root_level = root.level;
        sb.chunk_root = chunk.bytenr.0.into();
        sb.chunk_root_level = chunk.level;
        sb.chunk_root_generation = chunk.generation.0.into();
        sb.bytes_used = self.space.used().into();
        sb.dev_item = self.devices[0];
        if uuid_tree_was_current {
            sb.uuid_tree_generation = sb.generation;
        }
        self.superblock.super_roots[slot] = self.root_backup()?;
        Ok(())
    }

    fn root_backup(&self) -> Result<RootBackup> {
        let mut backup: RootBackup = zerocopy::FromZeros::new_zeroed();
        let root = |tree| self.tree_root(tree);
        let (tree, chunk, extent) = (root(TreeId::ROOT)?, root(TreeId::CHUNK)?, root(TreeId::EXTENT)?);
        let (fs, dev, csum) = (root(TreeId::FS)?, root(TreeId::DEV)?, root(TreeId::CSUM)?);
        (backup.tree_root, backup.tree_root_gen) = (tree.bytenr.0.into(), tree.generation.0.into());
        (backup.chunk_root, backup.chunk_root_gen) = (chunk.bytenr.0.into(), chunk.generation.0.into());
        (backup.extent_root, backup.extent_root_gen) = (extent.bytenr.0.into(), extent.generation.0.into());
        (backup.fs_root, backup.fs_root_gen) = (fs.bytenr.0.into(), fs.generation.0.into());
        (backup.dev_root, backup.dev_root_gen) = (dev.bytenr.0.into(), dev.generation.0.into());
        (backup.csum_root, backup.csum_root_gen) = (csum.bytenr.0.into(), csum.generation.0.into());
        backup.tree_root_level = tree.level;
        backup.chunk_root_level = chunk.level;
        backup.extent_root_level = extent.level;
        backup.fs_root_level = fs.level;
        backup.dev_root_level = dev.level;
        backup.csum_root_level = csum.level;
        backup.total_bytes = self.superblock.total_bytes;
        backup.bytes_used = self.superblock.bytes_used;
        backup.num_devices = self.superblock.num_devices;
        Ok(backup)
    }

    /// The frozen generation is durable: its blocks are clean, its freed space is free.
    pub(super) fn finish(&mut self, frozen: Frozen) {
        self.committed = frozen.superblock.generation();
        self.frozen.clear();
        for (at, block) in frozen.blocks {
            self.cache.insert(at, block);
        }
        for (at, len) in frozen.pinned {
            self.pinned_bytes -= len;
            self.release_space(at, len);
        }
    }
}

impl Frozen {
    /// Writes the generation and makes it durable.
    pub(super) fn write(&self, volume: &Volume) -> Result<()> {
        volume.check_unchanged()?;
        write_blocks(&self.blocks, Generation(self.superblock.generation.get()), volume)?;
        volume.flush()?;
        volume.write_superblocks(&self.superblock)?;
        volume.flush()?;
        Ok(())
    }
}

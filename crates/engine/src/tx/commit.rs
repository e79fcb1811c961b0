//! Commit: settle, freeze, write, release.
//!
//! # Invariants
//! * Settling ends at a fixed point: no delayed reference is pending, every root item and block
//!   group item says what memory says.
//! * Blocks, flush, superblocks, flush: in this order, and an error in any ends all writing.
//! * From the freeze on nothing is put beside what shares its parity with what is frozen.
//! * Space freed in generation G goes back to the free ranges only after G's superblock is durable, and is discarded
//!   between the two if the user wants that.
//!
//! # Locking
//! [`Transaction::freeze`] and [`Transaction::finish`] run with the gate held alone; [`Frozen::write`]
//! runs with no lock at all, while the next generation is open.

use butterfs_format::items::DevItem;
use butterfs_format::{Generation, Logical, Superblock, TreeId};
use butterfs_volume::Volume;

use super::Transaction;
use super::discard::discard_all;
use super::log::Log;
use super::seal::write_blocks;
use super::tops::Tops;
use crate::error::Result;
use crate::space::Due;
use crate::tree::BlockMap;

/// A generation that is on its way to the devices.
pub(super) struct Frozen {
    blocks: BlockMap,
    superblock: Superblock,
    /// What each device's superblocks say of it.
    devices: Vec<DevItem>,
    pinned: Vec<(Logical, u64)>,
    /// What of that the commit discards.
    discards: Vec<(Logical, u64)>,
}

impl Transaction {
    /// Whether there is nothing to commit. Groups that the last commit emptied wait for one more,
    /// since their space is free only after it.
    pub(super) fn is_clean(&self) -> bool {
        self.is_unchanged() && !self.has_removable_group() && !self.devices_changed() && !self.label_changed()
    }

    fn is_unchanged(&self) -> bool {
        self.dirty.is_empty() && self.refs.is_empty() && !self.root_item_changed
    }

    /// Whether devices have something to say of themselves: their statistics, how far a replacement is.
    fn devices_changed(&self) -> bool {
        self.volume.device_stats_changed() || self.volume.replace_item_changed()
    }

    /// Whether that is all that there is to commit.
    pub(super) fn only_devices_changed(&self) -> bool {
        self.is_unchanged() && self.devices_changed()
    }

    /// Settles everything, hands out the generation's blocks, and opens the next generation.
    pub(super) fn freeze(&mut self) -> Result<Frozen> {
        self.drop_log();
        self.remove_empty_groups()?;
        self.write_device_stats()?;
        self.write_replace_item()?;
        self.settle()?;
        self.update_superblock()?;
        [Due::Log, Due::Commit].into_iter().for_each(|due| self.space.close_rows(due));
        let frozen = Frozen {
            blocks: std::mem::take(&mut self.dirty),
            superblock: self.superblock,
            devices: self.devices.clone(),
            discards: self.freed_to_discard(),
            pinned: std::mem::take(&mut self.pinned),
        };
        debug_assert!(self.frozen.is_empty(), "two generations are being written");
        self.frozen = frozen.blocks.clone();
        self.root_item_changed = false;
        self.force_copy.clear();
        self.lost_refs.freeze();
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
        let root = |tree| self.tree_root(tree);
        let tops = Tops {
            root: root(TreeId::ROOT)?,
            chunk: root(TreeId::CHUNK)?,
            extent: Some(root(TreeId::EXTENT)?),
            fs: Some(root(TreeId::FS)?),
            dev: Some(root(TreeId::DEV)?),
            csum: Some(root(TreeId::CSUM)?),
        };
        // Whoever opens the superblock wants it so.
        debug_assert_eq!(tops.root.generation, self.generation, "a commit without a change of the root tree");
        self.superblock.bytes_used = self.space.used().into();
        self.superblock.dev_item = self.devices[0];
        tops.enter(&mut self.superblock, self.generation);
        Ok(())
    }

    /// The frozen generation is durable: its blocks are clean, its freed space is free.
    pub(super) fn finish(&mut self, frozen: Frozen) {
        self.committed = frozen.superblock.generation();
        self.frozen.clear();
        self.lost_refs.finish();
        for (at, block) in frozen.blocks {
            self.cache.insert(at, block);
        }
        for (at, len) in frozen.pinned {
            self.pinned_bytes -= len;
            self.release_space(at, len);
            self.note_free(at, len);
        }
    }
}

impl Frozen {
    /// Writes the generation and makes it durable.
    pub(super) fn write(&self, volume: &Volume) -> Result<()> {
        volume.check_unchanged()?;
        write_blocks(&self.blocks, Generation(self.superblock.generation.get()), volume)?;
        volume.flush()?;
        self.devices.iter().for_each(|item| volume.set_dev_item(*item));
        volume.write_first_superblocks(&self.superblock)?;
        volume.write_superblocks(&self.superblock)?;
        volume.flush()?;
        // Only now does nothing durable lead there, and nothing is put there yet.
        discard_all(volume, &self.discards);
        Ok(())
    }
}

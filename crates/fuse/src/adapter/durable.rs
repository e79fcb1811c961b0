//! `chattr +S` and `+D`: what changes in such an inode is durable when the caller is told that it is done.
//!
//! The kernel's Btrfs keeps its promise for writes to files only, and stores the flags of directories.

use super::{EngineFrontEnd, Site};
use crate::Result;
use butterfs_engine::inode::InodeId;
use butterfs_format::items::InodeFlags;

impl EngineFrontEnd {
    /// To be called when names in directories changed.
    pub(super) fn settle_names(&self, dirs: &[InodeId]) -> Result<()> {
        dirs.iter().try_for_each(|dir| self.settle(*dir, InodeFlags::SYNC | InodeFlags::DIRSYNC))
    }

    /// To be called when something else of an inode changed.
    pub(super) fn settle_inode(&self, id: InodeId) -> Result<()> {
        self.settle(id, InodeFlags::SYNC)
    }

    fn settle(&self, id: InodeId, asking: InodeFlags) -> Result<()> {
        let site = Site::new("making durable", id);
        if self.attributes(site)?.item.flags().intersects(asking) {
            self.fs.fsync(id).map_err(|error| site.fail(&error))?;
        }
        Ok(())
    }
}

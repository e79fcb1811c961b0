//! From memory to the devices.

use std::collections::BTreeMap;

use butterfs_format::TreeId;

use super::{Access, Filesystem};
use crate::error::{Error, Result};
use crate::file;
use crate::inode::{InodeId, InodeRef, item, lock};
use crate::tx::Need;

impl Filesystem {
    /// Makes everything durable.
    pub fn sync(&self) -> Result<()> {
        if self.access == Access::ReadOnly {
            return Ok(());
        }
        let written = self.write_back(|_| true);
        self.shared.gate.commit()?;
        written
    }

    /// Makes one inode durable.
    pub fn fsync(&self, id: InodeId) -> Result<()> {
        if id.is_placeholder() || self.access == Access::ReadOnly {
            return Ok(());
        }
        let inode = self.inode(id)?;
        file::sync_data(&self.shared, &inode, None)?;
        self.write_back_item(&inode)?;
        let mut dirty = lock(&self.dirty);
        if !is_dirty(&inode) {
            dirty.remove(&id);
        }
        drop(dirty);
        self.shared.gate.commit()
    }

    /// Writes the dirty inodes of a subvolume back, without a commit.
    pub(super) fn write_back_subvolume(&self, tree: TreeId) -> Result<()> {
        self.write_back(|id| id.tree == tree)
    }

    /// Writes chosen dirty inodes back, all of them even if one fails; gives the first error.
    fn write_back(&self, chosen: impl Fn(InodeId) -> bool) -> Result<()> {
        let mut first = Ok(());
        for inode in self.take_dirty(chosen) {
            let result = file::writeback(&self.shared, &inode, None).and_then(|()| self.write_back_item(&inode));
            if is_dirty(&inode) {
                lock(&self.dirty).insert(inode.id, inode);
            }
            first = first.and(result);
        }
        first
    }

    /// Takes chosen inodes out of the dirty ones.
    pub(super) fn take_dirty(&self, chosen: impl Fn(InodeId) -> bool) -> Vec<InodeRef> {
        let mut dirty = lock(&self.dirty);
        let (taken, rest): (BTreeMap<_, _>, _) =
            std::mem::take(&mut *dirty).into_iter().partition(|(id, _)| chosen(*id));
        *dirty = rest;
        taken.into_values().collect()
    }

    /// Writes the item of an inode whose data is in the tree.
    fn write_back_item(&self, inode: &InodeRef) -> Result<()> {
        let mut state = lock(&inode.state);
        if state.gone || !state.dirty || inode.data.is_dirty() {
            return Ok(());
        }
        let mut item = state.item;
        match self.shared.gate.change(Need::Items(1), |tx| item::write_inode_item(tx, inode.id, &mut item)) {
            Ok(()) => (state.item, state.dirty) = (item, false),
            Err(Error::NotFound) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn is_dirty(inode: &InodeRef) -> bool {
    let state = lock(&inode.state);
    !state.gone && (state.dirty || inode.data.is_dirty())
}

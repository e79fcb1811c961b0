//! Inodes in use: held by a front end, or waiting to be deleted.
//!
//! # Invariants
//! * An inode without names lives until its last hold is released; then it goes in bounded steps,
//!   and its orphan item goes last, so that a crash on the way leaves the rest to the next mount.

use butterfs_format::TreeId;

use super::{Access, Attributes, Filesystem};
use crate::error::{Error, Result};
use crate::file;
use crate::inode::orphan::{self, Leftover, Progress};
use crate::inode::{InodeId, InodeRef, lock};
use crate::tx::Need;

/// File extents that go in one transaction.
const EXTENTS: usize = 64;
/// Orphan items read at once.
const ORPHANS: usize = 64;

impl Filesystem {
    /// Keeps an inode, names or no names, until it is released as often.
    pub fn hold(&self, id: InodeId) -> Result<Attributes> {
        if !id.is_placeholder() {
            let inode = self.inode(id)?;
            let mut state = lock(&inode.state);
            if state.gone {
                return Err(Error::NotFound);
            }
            state.holds = state.holds.saturating_add(1);
        }
        self.attributes(id)
    }

    /// Takes `holds` back. The last one deletes an inode that has no names.
    pub fn release(&self, id: InodeId, holds: u64) -> Result<()> {
        // What is not in memory has names.
        self.inodes.release(id, holds).map_or(Ok(()), |inode| self.delete_if_unused(&inode))
    }

    /// Deletes an inode that has neither names nor holds.
    pub(super) fn delete_if_unused(&self, inode: &InodeRef) -> Result<()> {
        {
            let mut state = lock(&inode.state);
            if state.gone || state.holds > 0 || state.item.nlink.get() > 0 || self.access() == Access::ReadOnly {
                return Ok(());
            }
            state.gone = true;
            state.dirty = false;
        }
        file::wait_for_users(inode);
        lock(&self.dirty).remove(&inode.id);
        // A subvolume that is itself deleted takes its inodes along.
        if self.shared.gate.view(|tx| tx.look_at_root_item(inode.id.tree, |item| item.refs.get()))? > 0 {
            self.delete_items(inode.id)?;
        }
        self.inodes.remove(inode.id);
        Ok(())
    }

    fn delete_items(&self, id: InodeId) -> Result<()> {
        while !self.shared.gate.change(Need::Deletion, |tx| file::delete_all_extents(tx, id, tx.affordable(EXTENTS)))? {
        }
        while self.shared.gate.change(Need::Deletion, |tx| orphan::delete_step(tx, id))? == Progress::More {}
        Ok(())
    }

    /// At the first use of a subvolume: deletes what an earlier mount left, in read-only ones too.
    pub(super) fn clean_up_subvolume(&self, tree: TreeId) -> Result<()> {
        if self.access() == Access::ReadOnly {
            return Ok(());
        }
        self.subvolumes.clean_up(tree, || {
            self.shared.gate.view(|tx| tx.look_at_root_item(tree, |_| ()))?;
            self.delete_leftovers(tree)
        })
    }

    fn delete_leftovers(&self, tree: TreeId) -> Result<()> {
        let mut after = 0;
        loop {
            let found = self.shared.gate.view(|tx| orphan::list(tx, tree, after, ORPHANS))?;
            let Some(last) = found.last() else { return Ok(()) };
            after = *last;
            for what in found {
                match self.shared.gate.view(|tx| orphan::judge(tx, tree, what))? {
                    Leftover::Delete(id) => self.delete_items(id)?,
                    Leftover::Stale(id) => self.shared.gate.change(Need::Deletion, |tx| orphan::remove(tx, id))?,
                }
            }
        }
    }
}

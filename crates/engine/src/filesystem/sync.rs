//! From memory to the devices.

use std::collections::BTreeMap;
use std::sync::Arc;

use butterfs_format::TreeId;

use super::{Access, Filesystem, Fsync};
use crate::cores::on_all_cores;
use crate::error::{Error, Result};
use crate::file::{self, ErrorCursor};
use crate::inode::{InodeId, InodeRef, item, lock};
use crate::log;
use crate::tx::{LogTicket, Loggable, Need, WhyCommit};

/// So many inodes, neighbours mostly, are written back by one thread, one after the other.
const INODES_PER_JOB: usize = 32;
/// So many are worth several threads. Fewer are written in their order, so that the same work makes the same image.
const MANY_INODES: usize = 512;

/// How fsyncs were done, counted since the filesystem was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fsyncs {
    /// By the log.
    pub logged: u64,
    /// There was nothing to do: the inode is as in the last commit.
    pub unchanged: u64,
    /// By a commit, and why.
    pub committed: BTreeMap<WhyCommit, u64>,
}

impl Filesystem {
    /// Makes everything durable. What was lost on its way is told, once, also where it was lost earlier: who writes
    /// faster than the devices has other files written back, and is not told what became of them.
    ///
    /// # Errors
    /// If something could not be written, or an earlier loss was not told by this yet.
    pub fn sync(&self) -> Result<()> {
        let result = self.sync_quietly();
        let kept = self.shared.errors.tell(&mut lock(&self.synced));
        result.and(kept)
    }

    /// Makes everything durable, for who has others to tell them what was lost: only what fails now is an error.
    ///
    /// # Errors
    /// If something could not be written.
    pub fn sync_quietly(&self) -> Result<()> {
        if self.access() == Access::ReadOnly {
            return Ok(());
        }
        let written = self.write_back(|_| true);
        self.shared.gate.commit()?;
        written
    }

    /// Bytes of files that are in memory and not on a device yet.
    pub fn dirty_bytes(&self) -> u64 {
        self.budget.bytes()
    }

    /// [`Filesystem::sync`] for a caller who is told of everything that was lost since he was last told,
    /// whoever's it was.
    pub fn sync_told(&self, cursor: &mut ErrorCursor) -> Result<()> {
        let result = self.sync_quietly();
        let kept = self.shared.errors.tell(cursor);
        result.and(kept)
    }

    /// Makes one inode durable, for a caller who is its only user: tells what its writeback lost since
    /// the last time.
    pub fn fsync(&self, id: InodeId) -> Result<()> {
        if id.is_placeholder() || self.access() == Access::ReadOnly {
            return Ok(());
        }
        let inode = self.inode(id)?;
        let mut cursor = inode.data.errors().sample();
        self.fsync_inode(&inode, &mut cursor)
    }

    /// The cursor of a file that is opened now, for [`Filesystem::fsync_open`].
    pub fn error_cursor(&self, id: InodeId) -> Result<ErrorCursor> {
        if id.is_placeholder() {
            return Ok(ErrorCursor::default());
        }
        Ok(self.inode(id)?.data.errors().sample())
    }

    /// Makes one inode durable for an open file, and tells what was lost since this open file was told.
    pub fn fsync_open(&self, id: InodeId, cursor: &mut ErrorCursor) -> Result<()> {
        if id.is_placeholder() || self.access() == Access::ReadOnly {
            return Ok(());
        }
        self.fsync_inode(&self.inode(id)?, cursor)
    }

    fn fsync_inode(&self, inode: &InodeRef, cursor: &mut ErrorCursor) -> Result<()> {
        let id = inode.id;
        file::sync_data(&self.shared, inode, cursor)?;
        self.write_back_item(inode)?;
        self.forget_if_clean(inode);
        match self.log_inode(id)? {
            Ok(ticket) => self.shared.gate.sync_log(ticket),
            Err(why) => {
                *lock(&self.fsyncs).committed.entry(why).or_default() += 1;
                self.shared.gate.commit()
            }
        }
    }

    /// How fsyncs were done so far.
    pub fn fsyncs(&self) -> Fsyncs {
        lock(&self.fsyncs).clone()
    }

    /// Logs an inode, or says why that cannot be done. One that did not change since the last commit is
    /// durable with that.
    fn log_inode(&self, id: InodeId) -> Result<Loggable<LogTicket>> {
        if self.rules().fsync == Fsync::Commit {
            return Ok(Err(WhyCommit::Asked));
        }
        let gate = &self.shared.gate;
        let unchanged = gate.view(|tx| {
            let changed =
                tx.is_touched(id) || tx.names_changed(id) || item::read(tx, id)?.transid.get() >= tx.generation().0;
            Ok((!changed).then(|| tx.last_commit()))
        })?;
        if let Some(ticket) = unchanged {
            lock(&self.fsyncs).unchanged += 1;
            return Ok(Ok(ticket));
        }
        let logged = gate.log(|tx| log::write_inode(tx, id))?;
        lock(&self.fsyncs).logged += u64::from(logged.is_ok());
        Ok(logged)
    }

    /// Writes the dirty inodes of a subvolume back, without a commit.
    pub(super) fn write_back_subvolume(&self, tree: TreeId) -> Result<()> {
        self.write_back(|id| id.tree == tree)
    }

    /// Writes chosen dirty inodes back, all of them even if one fails; gives the first error.
    ///
    /// They stay in the list meanwhile, so that who comes later waits for those that are under way.
    pub(super) fn write_back(&self, chosen: impl Fn(InodeId) -> bool) -> Result<()> {
        let inodes = self.dirty_inodes(chosen);
        let per_job = if inodes.len() < MANY_INODES { MANY_INODES } else { INODES_PER_JOB };
        let parts: Vec<&[InodeRef]> = inodes.chunks(per_job).collect();
        let results = on_all_cores(parts.len(), |part| {
            parts[part].iter().map(|inode| self.write_back_inode(inode)).fold(Ok(()), Result::and)
        });
        results.into_iter().fold(Ok(()), Result::and)
    }

    fn write_back_inode(&self, inode: &InodeRef) -> Result<()> {
        let result = file::writeback(&self.shared, inode, None).and_then(|()| self.write_back_item(inode));
        self.forget_if_clean(inode);
        result
    }

    /// Chosen inodes of those that may be dirty.
    pub(super) fn dirty_inodes(&self, chosen: impl Fn(InodeId) -> bool) -> Vec<InodeRef> {
        lock(&self.dirty).values().filter(|inode| chosen(inode.id)).map(Arc::clone).collect()
    }

    pub(super) fn forget_if_clean(&self, inode: &InodeRef) {
        let mut dirty = lock(&self.dirty);
        if !is_dirty(inode) {
            dirty.remove(&inode.id);
        }
    }

    /// Writes the item of an inode whose data is in the tree. Whoever made it dirty was told that it
    /// is done, so this may use the reserve.
    fn write_back_item(&self, inode: &InodeRef) -> Result<()> {
        let mut state = lock(&inode.state);
        if state.gone || !state.dirty || inode.data.is_dirty() {
            return Ok(());
        }
        let mut item = state.item;
        match self.shared.gate.change(Need::Promised, |tx| item::write_inode_item(tx, inode.id, &mut item)) {
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

//! Defragmentation of files, of trees, and by itself.

use butterfs_format::TreeId;

use super::Filesystem;
use crate::error::{Error, Result};
use crate::file::{self, Defrag};
use crate::inode::{InodeId, lock};
use crate::relocate;

/// A write that is so small, and not all of the file, may scatter it (`autodefrag`).
const SMALL_WRITE: u64 = 64 << 10;
/// So many files are remembered.
const REMEMBERED: usize = 1 << 14;
/// Blocks of deleted subvolumes that are dropped in one step, before anything is moved.
const CLEAN_STEP: usize = 64;

/// Whether files are defragmented by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Autodefrag {
    /// Only when somebody asks.
    #[default]
    Never,
    /// When small writes scattered them.
    SmallWrites,
}

impl Filesystem {
    /// Defragments a part of a file; gives how many bytes were written anew.
    pub fn defragment(&self, id: InodeId, wish: &Defrag) -> Result<u64> {
        self.on_file(id, |inode| file::defragment(&self.shared, inode, wish))
    }

    /// Puts the leaves of a subvolume's tree one behind the other; gives how many were moved.
    pub fn defragment_tree(&self, tree: TreeId) -> Result<u64> {
        super::require_subvolume(tree)?;
        let _one = lock(&self.reclaiming);
        while self.clean_step(CLEAN_STEP)? {}
        relocate::defragment_tree(&self.shared, tree)
    }

    /// Notes a write for [`Filesystem::autodefrag_once`].
    pub(super) fn note_small_write(&self, id: InodeId, offset: u64, len: u64) -> Result<()> {
        if self.rules().autodefrag == Autodefrag::Never || len >= SMALL_WRITE {
            return Ok(());
        }
        let size = lock(&self.inode(id)?.state).item.size.get();
        if offset == 0 && offset + len >= size {
            return Ok(());
        }
        let generation = self.shared.gate.view(|tx| Ok(tx.generation().0))?;
        let mut scattered = lock(&self.scattered);
        if scattered.len() < REMEMBERED {
            scattered.entry(id).or_insert(generation);
        }
        Ok(())
    }

    /// Defragments what small writes have scattered of one file, with `autodefrag`; says whether there was one.
    pub fn autodefrag_once(&self) -> Result<bool> {
        let Some((id, newer_than)) = lock(&self.scattered).pop_first() else { return Ok(false) };
        match self.defragment(id, &Defrag { newer_than, ..Defrag::default() }) {
            // It went meanwhile, cannot be changed any more, or has to wait for space.
            Err(Error::NotFound | Error::ReadOnly | Error::NoSpace | Error::NotPermitted(_)) => Ok(true),
            result => result.map(|_| true),
        }
    }
}

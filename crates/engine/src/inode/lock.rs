//! Locking several inodes, and changing copies of what they hold.
//!
//! # Locking
//! States are taken in the order of [`InodeId`], each once; the gate comes after.

use std::sync::MutexGuard;

use butterfs_format::items::InodeItem;

use super::{InodeId, InodeRef, InodeState, lock};
use crate::error::{Error, Result};

/// Inodes whose states this thread has alone.
pub struct Locked<'a> {
    guards: Vec<(InodeId, MutexGuard<'a, InodeState>)>,
}

/// What an operation may change of an inode; takes effect with [`Locked::store`].
#[derive(Clone, Copy, Debug)]
pub struct Draft {
    /// Which inode.
    pub id: InodeId,
    /// See [`InodeState::item`].
    pub item: InodeItem,
    /// See [`InodeState::next_index`].
    pub next_index: Option<u64>,
}

/// Copies of the states of locked inodes.
pub struct Drafts(Vec<Draft>);

impl<'a> Locked<'a> {
    /// Locks these inodes, each once; [`Error::NotFound`] if one was deleted for good.
    pub fn new(inodes: &'a [InodeRef]) -> Result<Self> {
        let mut sorted: Vec<&InodeRef> = inodes.iter().collect();
        sorted.sort_by_key(|inode| inode.id);
        sorted.dedup_by_key(|inode| inode.id);
        let guards: Vec<_> = sorted.into_iter().map(|inode| (inode.id, lock(&inode.state))).collect();
        if guards.iter().any(|(_, state)| state.gone) { Err(Error::NotFound) } else { Ok(Self { guards }) }
    }

    /// Copies to work on.
    pub fn drafts(&self) -> Drafts {
        let copy = |(id, state): &(InodeId, MutexGuard<'_, InodeState>)| Draft {
            id: *id,
            item: state.item,
            next_index: state.next_index,
        };
        Drafts(self.guards.iter().map(copy).collect())
    }

    /// Makes the copies the truth.
    pub fn store(&mut self, drafts: &Drafts) {
        for ((_, state), draft) in self.guards.iter_mut().zip(&drafts.0) {
            state.item = draft.item;
            state.next_index = draft.next_index;
        }
    }
}

impl Drafts {
    /// The copy of one inode; [`Error::NotFound`] if it is not among the locked ones, which means
    /// that the names changed since it was looked up.
    pub fn of(&mut self, id: InodeId) -> Result<&mut Draft> {
        self.0.iter_mut().find(|draft| draft.id == id).ok_or(Error::NotFound)
    }

    /// The copy of the item of one inode.
    pub fn item(&mut self, id: InodeId) -> Result<&mut InodeItem> {
        self.of(id).map(|draft| &mut draft.item)
    }
}

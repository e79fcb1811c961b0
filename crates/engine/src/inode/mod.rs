//! Inodes in memory.
//!
//! # Invariants
//! * There is at most one [`Inode`] per [`InodeId`] (see [`cache`]).
//! * While an inode is in memory, its [`InodeState`] is the truth; the item in the tree may be behind
//!   in size and data, never ahead.
//! * Operations work on copies ([`Drafts`]) that take effect only when the transaction took the change.
//!
//! # Locking
//! Ranks: cache slot < range < state < gate. States of several inodes are taken in the order of
//! [`InodeId`], by [`Locked`] only.

pub mod cache;
pub mod held;
pub mod item;
pub mod orphan;
pub mod scan;
pub mod xattr;

mod lock;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use butterfs_format::items::InodeItem;
use butterfs_format::superblock::Incompat;
use butterfs_format::{Corruption, Key, TreeId};

use crate::environment::Environment;
use crate::error::Error;
use crate::file::{CompressRule, Compressors, DataRule, FileData, WriteErrors};
use crate::tx::Gate;

pub use crate::id::InodeId;
pub use lock::{Draft, Drafts, Locked};

/// What the layers above the gate share.
pub struct Shared {
    /// The way to trees and devices.
    pub gate: Gate,
    /// Clock and random numbers.
    pub environment: Arc<dyn Environment>,
    /// What the user chose.
    pub options: Options,
    /// What can be chosen anew.
    pub live: RwLock<LiveOptions>,
    /// The features of this filesystem.
    pub features: Incompat,
    /// Errors of writeback, of all files together.
    pub errors: WriteErrors,
    /// Memory for compressing.
    pub compressors: Compressors,
    /// See [`Shared::overwriting`].
    pub(crate) in_place: RwLock<()>,
}

impl Shared {
    /// To be held from the look at written extents to the end of their being overwritten.
    pub fn overwriting(&self) -> RwLockReadGuard<'_, ()> {
        self.in_place.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be held by who makes extents shared without holding their files: nobody overwrites any meanwhile.
    pub fn no_overwriting(&self) -> RwLockWriteGuard<'_, ()> {
        self.in_place.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the user chose at open.
#[derive(Clone, Debug)]
pub struct Options {
    /// Dirty data in memory over all files before writers are made to write back, in bytes.
    pub dirty_limit: u64,
    /// What is done with data that no copy has right.
    pub bad_data: BadData,
}

/// What the user chose and can choose anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveOptions {
    /// Inline extents up to this many bytes (mount option `max_inline`, default 2048).
    pub max_inline: u64,
    /// What is compressed (mount options `compress`, `compress-force`).
    pub compress: CompressRule,
    /// How the data of new files is kept (mount options `nodatasum`, `nodatacow`).
    pub new_data: DataRule,
}

impl Shared {
    /// The options of this moment.
    pub fn live(&self) -> LiveOptions {
        *self.live.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is done with data whose checksum no copy has, or that has none though it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadData {
    /// It is an error.
    Refuse,
    /// It is given out as it is (`rescue=ignoredatacsums`).
    Give,
}

/// An inode that somebody uses.
///
/// # Locking
/// `range` before `state` before the gate. Reads of data hold `range` shared to the end, writes,
/// truncation and writeback's last step hold it alone.
pub struct Inode {
    /// Which inode.
    pub id: InodeId,
    /// What memory knows of it.
    pub state: Mutex<InodeState>,
    /// Guards the file's bytes.
    pub range: RwLock<()>,
    /// Dirty bytes.
    pub data: FileData,
}

/// What memory knows of an inode.
pub struct InodeState {
    /// The item as it will be: size and times include data that is still in memory.
    pub item: InodeItem,
    /// The item differs from the one in the tree.
    pub dirty: bool,
    /// Lookups and opens that the front end holds.
    pub holds: u64,
    /// In a directory: the DIR_INDEX that the next entry gets, once it was looked for.
    pub next_index: Option<u64>,
    /// The inode was deleted for good; only a late user still has it in hand.
    pub gone: bool,
}

impl InodeState {
    /// The state of an inode as the tree has it.
    pub fn clean(item: InodeItem) -> Self {
        Self { item, dirty: false, holds: 0, next_index: None, gone: false }
    }
}

/// A shared inode.
pub type InodeRef = Arc<Inode>;

/// Locks; a panic of another thread does not make the value worse, because changes are made to
/// copies.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The disk lies about an item of a tree.
pub fn corrupt(tree: TreeId, key: &Key, problem: impl Into<String>) -> Error {
    Error::Corruption(Corruption::new(format!("tree {tree} key {key}"), problem))
}

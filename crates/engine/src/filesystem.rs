//! [`Filesystem`]: what users of this crate hold.
//!
//! Each operation is one change behind the transaction gate: it looks at everything first, then
//! changes, so it happens whole or not at all. One file per theme.
//!
//! # Locking
//! Inodes in the order of their identity, then the gate. Names are looked up before inodes are
//! locked, and again behind the gate: if they changed meanwhile, the operation starts anew.

mod access_times;
mod attributes;
mod balance;
#[cfg(test)]
mod cleaner_tests;
#[cfg(test)]
mod compress_tests;
mod create;
mod data;
mod defrag;
#[cfg(test)]
mod defrag_tests;
mod devices;
#[cfg(test)]
mod eviction_tests;
pub mod exclusive;
mod features;
#[cfg(test)]
mod grow_tests;
mod health;
mod holds;
#[cfg(test)]
mod map_tests;
mod new_files;
#[cfg(test)]
mod new_subvolume_tests;
#[cfg(test)]
mod nocow_tests;
mod old_root;
mod open;
#[cfg(test)]
mod prealloc_tests;
mod properties;
mod queries;
mod read;
mod received;
mod reclaim;
#[cfg(test)]
mod reclaim_tests;
mod remove;
mod rename;
#[cfg(test)]
mod rename_tests;
mod replace;
mod rescue;
mod resyncs;
#[cfg(test)]
mod rule_tests;
mod scrubs;
mod settings;
mod shrink;
mod shut_down;
mod snapshots;
mod space_info;
#[cfg(test)]
mod space_tests;
mod sprout;
mod statfs;
mod subvolumes;
mod sync;
#[cfg(test)]
mod tests;
mod uuid_tree;
mod xattrs;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, RwLock};

use butterfs_format::TreeId;
use butterfs_format::items::Timespec;

use crate::dir::entry;
use crate::error::{Error, Result};
use crate::file::{DirtyBudget, ErrorCursor};
use crate::inode::cache::{Held, InodeCache};
use crate::inode::{Drafts, InodeId, InodeRef, InodeState, Locked, Shared, item};
use crate::subvolume::Subvolumes;
use crate::tx::{Need, Transaction};

pub use access_times::{AccessTimeRule, AccessTimes};
pub use attributes::{Attributes, Footprint, SetAttributes};
pub use balance::{BalanceEnd, BalanceProgress, BalanceStatus};
pub use create::{NewInode, NewKind};
pub use data::{FileOffset, Reader};
pub use defrag::Autodefrag;
pub use devices::{NewLength, Removal, RemovalEnd, ResizeWish, WhichDevice};
pub use features::SUPPORTED as SUPPORTED_FEATURES;
pub use health::{Health, State};
pub use open::{Access, Fsync, LogTree, OpenOptions, Returning, SubvolumeChoice};
pub use queries::{InMemory, OnlyByte};
pub use read::Flow;
pub use received::Received;
pub use rename::{Leave, RenameOptions, Replace};
pub use replace::{ReplaceEnd, ReplaceStatus, Replacement};
pub use rescue::Rescue;
pub use resyncs::Resynced;
use resyncs::Resyncs;
use scrubs::Scrubs;
pub use scrubs::{FileAt, ScrubOutcome};
use settings::Rules;
pub use settings::Settings;
pub use shut_down::ShutDown;
pub use snapshots::NewSubvolume;
pub use space_info::{GLOBAL_RESERVE, SpaceInfo};
pub use statfs::Usage;
pub use sync::Fsyncs;

/// An open filesystem.
pub struct Filesystem {
    shared: Shared,
    inodes: InodeCache,
    subvolumes: Subvolumes,
    /// Inodes with data or items that the trees do not have yet.
    dirty: Mutex<BTreeMap<InodeId, InodeRef>>,
    /// Bytes that are dirty in all of them together.
    budget: Arc<DirtyBudget>,
    /// Held by the one writer who makes room in the budget.
    throttled: Mutex<()>,
    /// Held by the one who relocates block groups.
    reclaiming: Mutex<()>,
    exclusive: exclusive::ExclusiveState,
    balancing: balance::Balancing,
    /// Files that small writes scattered, and since which generation.
    scattered: Mutex<BTreeMap<InodeId, u64>>,
    root: InodeId,
    /// Why it can only be read.
    reading: Mutex<settings::Reading>,
    rules: RwLock<Rules>,
    fsyncs: Mutex<Fsyncs>,
    /// What [`Filesystem::sync`] has told.
    synced: Mutex<ErrorCursor>,
    scrubs: Scrubs,
    resyncs: Resyncs,
    replacing: replace::Replacing,
}

/// Whether an operation found the names as it expected.
enum Attempt<R> {
    Done(R),
    /// Another operation changed the names between look-up and lock.
    Again,
}

impl Filesystem {
    /// The top directory of the chosen subvolume.
    pub fn root(&self) -> InodeId {
        self.root
    }

    /// What the file layer needs.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// An inode in memory; the file layer works on it.
    pub fn inode(&self, id: InodeId) -> Result<InodeRef> {
        if !id.tree.is_subvolume() {
            return Err(Error::NotFound);
        }
        self.clean_up_subvolume(id.tree)?;
        self.load(id)
    }

    fn load(&self, id: InodeId) -> Result<InodeRef> {
        self.inodes.get(id, |held| {
            let item = self.shared.gate.view(|tx| {
                // In a subvolume that is being deleted, what is held is there until it is released.
                if held == Held::No {
                    item::require_alive(tx, id.tree)?;
                }
                item::read(tx, id)
            })?;
            Ok(InodeState::clean(item))
        })
    }

    fn now(&self) -> Timespec {
        self.shared.environment.now()
    }

    /// One operation on the names or items of some inodes: works on copies, which become the truth
    /// when the transaction took the change.
    fn change<R>(
        &self,
        inodes: &[InodeRef],
        need: Need,
        work: impl Fn(&mut Transaction, &mut Drafts) -> Result<R>,
    ) -> Result<R> {
        self.with_room(|| {
            let mut locked = Locked::new(inodes)?;
            let mut drafts = locked.drafts();
            let result = self.shared.gate.change(need, |tx| work(tx, &mut drafts))?;
            locked.store(&drafts);
            Ok(result)
        })
    }

    /// A directory as an operation on its names needs it.
    fn dir(&self, id: InodeId) -> Result<InodeRef> {
        if id.is_placeholder() {
            return Err(Error::NotPermitted("a subvolume that is not in this snapshot has no content here"));
        }
        self.inode(id)
    }
}

/// Fails unless names may be taken from this directory.
fn require_changeable_dir(tx: &Transaction, drafts: &mut Drafts, dir: InodeId) -> Result<()> {
    item::require_writable(tx, dir.tree)?;
    let found = drafts.item(dir)?;
    match (found.is_dir(), found.nlink.get()) {
        (false, _) => Err(Error::NotDirectory),
        (true, 0) => Err(Error::NotFound),
        (true, _) => Ok(()),
    }
}

/// Fails unless new names may be put into this directory.
fn require_growable_dir(tx: &Transaction, drafts: &mut Drafts, dir: InodeId) -> Result<()> {
    require_changeable_dir(tx, drafts, dir)?;
    entry::check_index_left(tx, drafts.of(dir)?)
}

/// Inodes of a deleted subvolume, or of none, are not in it.
fn require_subvolume(tree: TreeId) -> Result<()> {
    if tree.is_subvolume() { Ok(()) } else { Err(Error::NotFound) }
}

//! What memory knows of the subvolumes in use.
//!
//! # Locking
//! The map is a leaf lock. `cleaned` is held through the clean-up of a subvolume at its first use,
//! before inodes; `next_ino` and `rule` are taken under the gate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use butterfs_format::ids::{FIRST_FREE_OBJECTID, LAST_FREE_OBJECTID};
use butterfs_format::{Ino, ItemType, Key, TreeId};
use foldhash::HashMap;

use super::rule::SubvolumeRule;
use crate::error::{Error, Result};
use crate::inode::lock;
use crate::tx::Transaction;

/// A subvolume in use.
#[derive(Default)]
pub struct InUse {
    /// Its orphans of an earlier mount are gone.
    cleaned: Mutex<bool>,
    next_ino: Mutex<Option<u64>>,
    rule: Mutex<Option<Arc<SubvolumeRule>>>,
}

/// The subvolumes in use.
#[derive(Default)]
pub struct Subvolumes {
    all: Mutex<HashMap<TreeId, Arc<InUse>>>,
    /// The number of the one that was found clean last, or 0: nearly always the one that is asked for next.
    clean: AtomicU64,
}

impl Subvolumes {
    /// What is known of a subvolume.
    pub fn get(&self, tree: TreeId) -> Arc<InUse> {
        Arc::clone(lock(&self.all).entry(tree).or_default())
    }

    /// Forgets a subvolume that was deleted.
    pub fn remove(&self, tree: TreeId) {
        let _ = self.clean.compare_exchange(tree.0, 0, Ordering::Relaxed, Ordering::Relaxed);
        lock(&self.all).remove(&tree);
    }

    /// Has a subvolume cleaned up at its first use.
    pub fn clean_up(&self, tree: TreeId, work: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.clean.load(Ordering::Relaxed) == tree.0 {
            return Ok(());
        }
        let subvolume = self.get(tree);
        let mut cleaned = lock(&subvolume.cleaned);
        if !*cleaned {
            work()?;
            *cleaned = true;
        }
        self.clean.store(tree.0, Ordering::Relaxed);
        Ok(())
    }
}

impl InUse {
    /// A number for a new inode; never given twice while mounted.
    pub fn take_ino(&self, tx: &Transaction, tree: TreeId) -> Result<Ino> {
        let mut next = lock(&self.next_ino);
        let ino = match *next {
            Some(ino) => ino,
            None => highest_ino(tx, tree)? + 1,
        };
        if ino > LAST_FREE_OBJECTID {
            return Err(Error::NoSpace);
        }
        *next = Some(ino + 1);
        Ok(Ino(ino))
    }

    /// What holds for new files; `load` finds it for the first time.
    pub fn rule(&self, load: impl FnOnce() -> Result<SubvolumeRule>) -> Result<Arc<SubvolumeRule>> {
        let mut known = lock(&self.rule);
        if let Some(rule) = &*known {
            return Ok(Arc::clone(rule));
        }
        Ok(Arc::clone(known.insert(Arc::new(load()?))))
    }

    /// The rule is changing.
    pub fn forget_rule(&self) {
        *lock(&self.rule) = None;
    }
}

fn highest_ino(tx: &Transaction, tree: TreeId) -> Result<u64> {
    let most = Key::new(LAST_FREE_OBJECTID, ItemType(u8::MAX), u64::MAX);
    let last = tx.last_not_above(tree, &most)?;
    Ok(last.map_or(FIRST_FREE_OBJECTID, |(key, _)| key.objectid.max(FIRST_FREE_OBJECTID)))
}

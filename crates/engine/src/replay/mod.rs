//! Replay of log trees: what fsync wrote after the last commit comes into the subvolumes.
//!
//! A log tree holds whole items of inodes that were fsynced, and of what they need to be found. The
//! rules are the kernel's (`fs/btrfs/tree-log.c`), in the same order:
//!
//! 1. *Set aside*: blocks of the log, and data that only the log refers to, lie in space that is free
//!    by the last commit; nothing may be allocated there.
//! 2. `inodes`: inode items are brought over, so that every inode exists that names may lead to; what
//!    a directory or an inode lost (names, attributes, the tail of a file) goes.
//! 3. `names`: directory indexes of the log become entries.
//! 4. `names`, `extents`: inode references, attributes and file extents.
//! 5. `inodes`: links are counted again; what has none becomes an orphan.
//!
//! # Invariants
//! * All of it is one transaction: a crash in between leaves the log to be replayed again.
//! * Memory is bounded by the number of inodes in the log, not by its size.

mod extents;
mod inodes;
mod log_tree;
mod names;

use std::collections::{BTreeSet, HashSet};

use butterfs_format::{Ino, ItemType, Key, TreeId};

use crate::error::{Error, Result};
use crate::inode::InodeId;
use crate::tx::Transaction;
use log_tree::LogTree;

/// What was replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Subvolumes that had a log.
    pub subvolumes: usize,
    /// Items of all logs.
    pub items: usize,
}

/// Replays the log that the superblock points to. The transaction must be the first after the commit
/// that the log follows, and nothing else may have been done in it.
pub fn replay(tx: &mut Transaction) -> Result<Replayed> {
    let logs = log_tree::find_all(tx)?;
    for at in logs.blocks(tx)? {
        tx.set_aside(at, tx.geometry().nodesize.into())?;
    }
    let mut replayed = Replayed { subvolumes: logs.trees.len(), items: 0 };
    for log in &logs.trees {
        extents::set_aside(tx, log)?;
    }
    for log in logs.trees {
        match tx.root_item(log.subvolume) {
            Ok(_) => replayed.items += Replay::new(tx, log).run()?,
            // The subvolume was deleted, and the log with it.
            Err(Error::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    tx.forget_log();
    Ok(replayed)
}

/// The replay of one subvolume's log.
struct Replay<'t> {
    tx: &'t mut Transaction,
    log: LogTree,
    /// Inodes without links when they were logged: nothing of them is replayed.
    ignored: HashSet<u64>,
    /// Inodes whose links are to be counted.
    recount: BTreeSet<u64>,
}

/// Items are read so many at a time.
const BATCH: usize = 64;

impl<'t> Replay<'t> {
    fn new(tx: &'t mut Transaction, log: LogTree) -> Self {
        Self { tx, log, ignored: HashSet::new(), recount: BTreeSet::new() }
    }

    fn run(mut self) -> Result<usize> {
        let items = self.each(&[ItemType::INODE_ITEM], Self::replay_inode)?;
        self.each(&[ItemType::DIR_INDEX], Self::replay_dir_index)?;
        let rest = [ItemType::INODE_REF, ItemType::INODE_EXTREF, ItemType::XATTR_ITEM, ItemType::EXTENT_DATA];
        self.each(&rest, Self::replay_rest)?;
        self.recount_links()?;
        Ok(items)
    }

    /// Hands every item of some types to `work`, but those of ignored inodes. Gives how many items
    /// the log has.
    fn each(&mut self, types: &[ItemType], work: fn(&mut Self, &Key, &[u8]) -> Result<()>) -> Result<usize> {
        let (mut from, mut seen) = (Key::MIN, 0);
        loop {
            let batch = self.log.items(self.tx, &from, BATCH)?;
            seen += batch.len();
            for (key, data) in &batch {
                if types.contains(&key.item_type) && !self.ignored.contains(&key.objectid) {
                    work(self, key, data)?;
                }
            }
            match batch.last() {
                Some((key, _)) if batch.len() == BATCH => from = key.next(),
                _ => return Ok(seen),
            }
            self.tx.make_room_for_replay()?;
        }
    }

    fn replay_rest(&mut self, key: &Key, data: &[u8]) -> Result<()> {
        match key.item_type {
            ItemType::XATTR_ITEM => self.tx.put(self.log.subvolume, key, data),
            ItemType::EXTENT_DATA => self.replay_extent(key, data),
            _ => self.replay_ref(key, data),
        }
    }

    fn id(&self, ino: u64) -> InodeId {
        InodeId::new(self.log.subvolume, Ino(ino))
    }

    fn tree(&self) -> TreeId {
        self.log.subvolume
    }
}

//! ORPHAN_ITEM: inodes without names, and subvolumes, that wait to be deleted.
//!
//! # Invariants
//! * An inode with no link has an orphan item in its tree until its own item is gone; both go in
//!   one transaction. A crash at any point leaves work that the next mount finds.

use butterfs_format::ids::objectid;
use butterfs_format::{Ino, ItemType, Key, TreeId};

use super::{InodeId, corrupt, item, scan};
use crate::error::{Error, Result};
use crate::tx::Transaction;

/// Items that go in one transaction.
const STEP: usize = 64;

fn key(what: u64) -> Key {
    Key::new(objectid::ORPHAN, ItemType::ORPHAN_ITEM, what)
}

/// Notes that an inode waits to be deleted.
pub fn add(tx: &mut Transaction, id: InodeId) -> Result<()> {
    tx.put(id.tree, &key(id.ino.0), &[])
}

/// The inode has a name again, or is gone.
pub fn remove(tx: &mut Transaction, id: InodeId) -> Result<()> {
    tx.remove(id.tree, &key(id.ino.0)).map(|_| ())
}

/// Notes that a subvolume waits to be deleted.
pub fn add_subvolume(tx: &mut Transaction, tree: TreeId) -> Result<()> {
    tx.put(TreeId::ROOT, &key(tree.0), &[])
}

/// The subvolume is gone.
pub fn remove_subvolume(tx: &mut Transaction, tree: TreeId) -> Result<()> {
    tx.remove(TreeId::ROOT, &key(tree.0)).map(|_| ())
}

/// Up to `limit` waiting object ids of a tree, above `after`.
pub fn list(tx: &Transaction, tree: TreeId, after: u64, limit: usize) -> Result<Vec<u64>> {
    let Some(from) = after.checked_add(1) else { return Ok(Vec::new()) };
    let items = scan::of_type(tx, tree, &key(from), limit)?;
    Ok(items.into_iter().map(|(key, _)| key.offset).collect())
}

/// Whether [`delete_step`] has more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Call again, in another transaction if you like.
    More,
    /// All is gone.
    Done,
}

/// Deletes some items of an inode that has neither names nor data extents; with the last ones its
/// own item and its orphan item.
pub fn delete_step(tx: &mut Transaction, id: InodeId) -> Result<Progress> {
    let items = scan::of_object(tx, id.tree, id.ino.0, STEP)?;
    let last = items.len() < STEP;
    if let Some((key, _)) = items.iter().find(|(key, _)| holds_name_or_data(key)) {
        return Err(corrupt(id.tree, key, "an inode without names still has this item"));
    }
    let own = item::key(id.ino);
    for (key, _) in items.iter().filter(|(key, _)| last || *key != own) {
        tx.remove(id.tree, key)?;
    }
    if last {
        remove(tx, id)?;
        return Ok(Progress::Done);
    }
    Ok(Progress::More)
}

fn holds_name_or_data(key: &Key) -> bool {
    let kinds =
        [ItemType::INODE_REF, ItemType::INODE_EXTREF, ItemType::DIR_ITEM, ItemType::DIR_INDEX, ItemType::EXTENT_DATA];
    kinds.contains(&key.item_type)
}

/// What an orphan item found at first use of a tree asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// The inode has to be deleted.
    Delete(InodeId),
    /// The item is stale: the inode is gone, or has names.
    Stale(InodeId),
}

/// Judges an orphan item.
pub fn judge(tx: &Transaction, tree: TreeId, what: u64) -> Result<Leftover> {
    let id = InodeId::new(tree, Ino(what));
    match item::read(tx, id) {
        Ok(inode) if inode.nlink.get() == 0 => Ok(Leftover::Delete(id)),
        Ok(_) | Err(Error::NotFound) => Ok(Leftover::Stale(id)),
        Err(error) => Err(error),
    }
}

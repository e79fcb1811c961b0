//! The subvolumes of a filesystem.

use butterfs_format::ids::{FIRST_FREE_OBJECTID, LAST_FREE_OBJECTID};
use butterfs_format::items::{RootFlags, RootItem, Timespec};
use butterfs_format::{Generation, Ino, ItemType, Key, TreeId};

use crate::dir::{parent_of, path};
use crate::error::{Error, Result};
use crate::inode::{InodeId, orphan, scan};
use crate::tx::Transaction;

/// What there is to know of a subvolume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubvolumeInfo {
    /// Its number.
    pub id: TreeId,
    /// The subvolume that holds its name; `None` for the top level.
    pub parent: Option<TreeId>,
    /// Its path from the top level, without a leading slash.
    pub path: Vec<u8>,
    /// The transaction that last changed its tree.
    pub generation: Generation,
    /// The transaction that made it.
    pub created_in: Generation,
    /// When it was made.
    pub created: Timespec,
    /// Its UUID.
    pub uuid: [u8; 16],
    /// The UUID of what it is a snapshot of; zero if of none.
    pub parent_uuid: [u8; 16],
    /// The UUID of what it was received from; zero if of none.
    pub received_uuid: [u8; 16],
    /// Its flags.
    pub flags: RootFlags,
    /// The directory in `parent` that holds its name.
    pub dir: Ino,
    /// For a snapshot, the transaction that made it; else 0.
    pub snapshot_in: Generation,
    /// The transaction that last changed what is in it.
    pub changed_in: Generation,
    /// The transaction of the source that it was sent from.
    pub sent_in: Generation,
    /// When that was.
    pub sent: Timespec,
    /// The transaction that received it.
    pub received_in: Generation,
    /// When that was.
    pub received: Timespec,
}

/// Up to `most` subvolumes that can be reached, by number, those above `after` (the top level is the
/// first of all).
pub fn page(tx: &Transaction, after: u64, most: usize) -> Result<Vec<SubvolumeInfo>> {
    let mut found = Vec::new();
    if after < TreeId::FS.0 {
        found.extend(info(tx, TreeId::FS)?);
    }
    let mut next = FIRST_FREE_OBJECTID.max(after.saturating_add(1));
    while found.len() < most
        && let Some(tree) = first_root_from(tx, next)?
    {
        found.extend(info(tx, tree)?);
        next = tree.0 + 1;
    }
    Ok(found)
}

/// The trees of all subvolumes that are not deleted, by number.
pub fn trees(tx: &Transaction) -> Result<Vec<TreeId>> {
    let (mut found, mut next) = (vec![TreeId::FS], FIRST_FREE_OBJECTID);
    while let Some(tree) = first_root_from(tx, next)? {
        if tx.root_item(tree)?.refs.get() > 0 {
            found.push(tree);
        }
        next = tree.0 + 1;
    }
    Ok(found)
}

/// The first subvolume tree with a number of `from` or higher.
fn first_root_from(tx: &Transaction, mut from: u64) -> Result<Option<TreeId>> {
    while from <= LAST_FREE_OBJECTID {
        let at = scan::first_from(tx, TreeId::ROOT, &Key::new(from, ItemType::ROOT_ITEM, 0))?;
        match at {
            Some((key, _)) if key.objectid > LAST_FREE_OBJECTID => return Ok(None),
            Some((key, _)) if key.item_type == ItemType::ROOT_ITEM => return Ok(Some(TreeId(key.objectid))),
            // Items of another kind: of the next object before its root, or of this one after it.
            Some((key, _)) => {
                from = if key.item_type < ItemType::ROOT_ITEM { key.objectid.max(from) } else { key.objectid + 1 }
            }
            None => return Ok(None),
        }
    }
    Ok(None)
}

/// Up to `most` subvolumes that are deleted and not gone yet, by number, those above `after`.
pub fn deleted_page(tx: &Transaction, after: u64, most: usize) -> Result<Vec<SubvolumeInfo>> {
    let mut found = Vec::new();
    for id in orphan::list(tx, TreeId::ROOT, after, most)? {
        let tree = TreeId(id);
        match tx.root_item(tree) {
            Ok(root) if tree.is_subvolume() && root.refs.get() == 0 => {
                found.push(describe(tx, tree, None, Vec::new(), &root)?);
            }
            // An orphan item that is not that of a subvolume, or stayed behind.
            Ok(_) | Err(Error::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// What there is to know of one subvolume; `None` if it has no name any more.
pub fn info(tx: &Transaction, tree: TreeId) -> Result<Option<SubvolumeInfo>> {
    let root = tx.root_item(tree)?;
    if root.refs.get() == 0 {
        return Ok(None);
    }
    let Some(path) = path::of_subvolume(tx, tree)? else { return Ok(None) };
    let parent = parent_of(tx, tree)?.map(|parent| parent.dir);
    describe(tx, tree, parent, path, &root).map(Some)
}

fn describe(
    tx: &Transaction,
    id: TreeId,
    parent: Option<InodeId>,
    path: Vec<u8>,
    root: &RootItem,
) -> Result<SubvolumeInfo> {
    Ok(SubvolumeInfo {
        id,
        parent: parent.map(|dir| dir.tree),
        path,
        generation: root.generation(),
        created_in: Generation(root.otransid.get()),
        created: root.otime,
        uuid: root.uuid,
        parent_uuid: root.parent_uuid,
        received_uuid: root.received_uuid,
        flags: root.flags(),
        dir: parent.map_or(Ino(0), |dir| dir.ino),
        snapshot_in: Generation(tx.root_key_offset(id)?),
        changed_in: Generation(root.ctransid.get()),
        sent_in: Generation(root.stransid.get()),
        sent: root.stime,
        received_in: Generation(root.rtransid.get()),
        received: root.rtime,
    })
}

//! What fsync puts into the log: an inode's own items, what changed of its data, and the names that changed, with
//! all that they depend on. See `docs/format/log-tree.md` for what replay makes of it.
//!
//! # Invariants
//! * The log, replayed over the last commit, gives the names of a filesystem that could have been; see [`plan`].
//! * An entry that went is in a range of directory indexes, and so is gone by replay before any name comes. Entries
//!   that came are there as references of their inodes, which replay brings into the directory.
//! * The log has all attributes and names of a logged inode: replay takes away those that it lacks.
//! * A file that was not synced itself is in the log without data, and with no more than its names changed if it is
//!   older than the last commit.

mod extents;
mod plan;

use butterfs_format::items::{FileType, InodeItem};
use butterfs_format::{Ino, ItemType, Key};
use zerocopy::FromBytes;

use crate::error::Result;
use crate::inode::{InodeId, corrupt, item, scan};
use crate::tx::{EntryKey, LogWriter, Loggable, Transaction, WhyCommit};
use plan::{Plan, Treatment};

/// An item with its key.
type Found = (Key, Vec<u8>);

/// Puts an inode into the log as it is in its tree, or says why it must be committed instead.
pub fn write_inode(tx: &mut Transaction, id: InodeId) -> Result<Loggable> {
    if tx.look_at_root_item(id.tree, |item| item.otransid.get())? >= tx.generation().0 {
        return Ok(Err(WhyCommit::NewSubvolume));
    }
    let inode = item::read(tx, id)?;
    if inode.nlink.get() == 0 {
        return Ok(Err(WhyCommit::NoName));
    }
    let plan = match plan::make(tx, id)? {
        Ok(plan) => plan,
        Err(why) => return Ok(Err(why)),
    };
    log_names(tx, id, &plan)?;
    if FileType::from_mode(inode.mode.get()) == FileType::Regular {
        extents::log_data(tx, id, &inode)?;
    }
    Ok(Ok(()))
}

fn log_names(tx: &mut Transaction, id: InodeId, plan: &Plan) -> Result<()> {
    let mut lost = Vec::new();
    for key in &plan.entries {
        let change = tx.name_changes_mut(id.tree).and_then(|names| names.take(*key));
        // With a directory that is gone its entries go.
        let is_there = plan.inodes.get(&key.0).is_some_and(|treatment| *treatment != Treatment::Gone);
        if is_there && change.is_some_and(|change| change.lost.is_some()) {
            lost.push(*key);
        }
    }
    for (ino, treatment) in &plan.inodes {
        log_inode(tx, InodeId::new(id.tree, *ino), *treatment)?;
    }
    log_lost(&mut tx.log_of(id.tree)?, &lost)
}

fn log_inode(tx: &mut Transaction, id: InodeId, treatment: Treatment) -> Result<()> {
    let (first, last) = match treatment {
        Treatment::Gone => (0, u8::MAX),
        Treatment::Whole | Treatment::Exists => (0, ItemType::XATTR_ITEM.0),
        Treatment::Names => (ItemType::INODE_REF.0, ItemType::INODE_EXTREF.0),
    };
    let range = (Key::new(id.ino.0, ItemType(first), 0), Key::new(id.ino.0, ItemType(last), u64::MAX));
    let mut items = match treatment {
        Treatment::Gone => Vec::new(),
        _ => scan::between(tx, id.tree, &range, usize::MAX)?,
    };
    if let (Treatment::Exists, Some((key, data))) = (treatment, items.first_mut()) {
        only_to_exist(id, key, data)?;
    }
    if treatment == Treatment::Whole {
        items.extend(symlink_target(tx, id, &items)?);
    }
    replace_items(&mut tx.log_of(id.tree)?, &range, &items)
}

/// Generation 0: replay takes names and attributes of an older inode over, and makes a new one, without data.
fn only_to_exist(id: InodeId, key: &Key, data: &mut [u8]) -> Result<()> {
    let item = InodeItem::mut_from_bytes(data).map_err(|_| corrupt(id.tree, key, "inode item of a wrong size"))?;
    item.generation = 0.into();
    if FileType::from_mode(item.mode.get()) == FileType::Regular {
        (item.size, item.nbytes) = (0.into(), 0.into());
    }
    Ok(())
}

/// The extent of a symbolic link.
fn symlink_target(tx: &Transaction, id: InodeId, items: &[Found]) -> Result<Vec<Found>> {
    let item = items.first().and_then(|(_, data)| InodeItem::ref_from_bytes(data).ok());
    if item.is_none_or(|item| FileType::from_mode(item.mode.get()) != FileType::Symlink) {
        return Ok(Vec::new());
    }
    scan::of_type(tx, id.tree, &extents::extent_key(id, 0), usize::MAX)
}

fn replace_items(log: &mut LogWriter<'_>, (first, last): &(Key, Key), items: &[Found]) -> Result<()> {
    for (key, _) in log.between(first, last)? {
        if !items.iter().any(|(kept, _)| *kept == key) {
            log.remove(&key)?;
        }
    }
    items.iter().try_for_each(|(key, data)| log.put(key, data))
}

/// Ranges of directory indexes that replay empties: one for each run of lost entries.
fn log_lost(log: &mut LogWriter<'_>, lost: &[EntryKey]) -> Result<()> {
    for run in lost.chunk_by(|a, b| a.0 == b.0 && a.1.checked_add(1) == Some(b.1)) {
        let (Some((dir, first)), Some((_, last))) = (run.first(), run.last()) else { continue };
        log_range(log, *dir, *first, *last)?;
    }
    Ok(())
}

fn log_range(log: &mut LogWriter<'_>, dir: Ino, first: u64, last: u64) -> Result<()> {
    let key = Key::new(dir.0, ItemType::DIR_LOG_INDEX, first);
    let old = log.between(&key, &key)?.first().and_then(|(_, data)| data.first_chunk().copied());
    let last = old.map_or(last, |end| last.max(u64::from_le_bytes(end)));
    log.put(&key, &last.to_le_bytes())
}

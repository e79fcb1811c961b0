//! Reading a directory in the order of its indexes.

use butterfs_format::items::{DirEntry, FileType};

use super::entry::{FIRST_INDEX, Target, index_key};
use super::{Place, link};
use crate::error::Result;
use crate::inode::{InodeId, corrupt, scan};
use crate::tx::Transaction;

/// An entry as a reader of a directory sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The inode behind it.
    pub id: InodeId,
    /// Its type.
    pub file_type: FileType,
    /// Its name.
    pub name: Vec<u8>,
    /// Where it lies: its index; 0 for `.` and 1 for `..`.
    pub position: u64,
}

/// Entries read in one go, so that the gate is held shortly.
const BATCH: usize = 128;

/// Some entries with an index of `from` or higher; none at the directory's end.
pub fn batch(tx: &Transaction, dir: InodeId, from: u64) -> Result<Vec<Listed>> {
    let from = index_key(dir, from.max(FIRST_INDEX));
    let items = scan::of_type(tx, dir.tree, &from, BATCH)?;
    items.iter().map(|(key, data)| listed(tx, dir, key, data)).collect()
}

fn listed(tx: &Transaction, dir: InodeId, key: &butterfs_format::Key, data: &[u8]) -> Result<Listed> {
    let entries = DirEntry::parse_all(data).map_err(|problem| corrupt(dir.tree, key, problem))?;
    let entry = entries.first().ok_or_else(|| corrupt(dir.tree, key, "item is empty"))?;
    let id = link::enter(tx, &Place::new(dir, entry.name), Target::of_location(entry.location))?;
    Ok(Listed { id, file_type: entry.file_type, name: entry.name.to_vec(), position: key.offset })
}

/// The index of an entry that nothing refers back to: a subvolume's leftover in a snapshot. The one
/// search that goes through a directory, as in the kernel.
pub fn index_by_name(tx: &Transaction, place: &Place<'_>) -> Result<u64> {
    let mut from = FIRST_INDEX;
    loop {
        let entries = batch(tx, place.dir, from)?;
        if let Some(found) = entries.iter().find(|e| e.name == place.name) {
            return Ok(found.position);
        }
        match entries.last().and_then(|e| e.position.checked_add(1)) {
            Some(next) => from = next,
            None => return Err(corrupt(place.dir.tree, &index_key(place.dir, from), "entry without directory index")),
        }
    }
}

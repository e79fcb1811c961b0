//! Reading a few neighbouring items of a tree.

use butterfs_format::{ItemType, Key, TreeId};

use crate::error::Result;
use crate::tx::Transaction;

/// An item with its key.
pub type Found = (Key, Vec<u8>);

/// The first item whose key is `from` or higher.
pub fn first_from(tx: &Transaction, tree: TreeId, from: &Key) -> Result<Option<Found>> {
    let cursor = tx.cursor(tree, from)?;
    Ok(cursor.item().map(|(key, data)| (key, data.to_vec())))
}

/// Up to `limit` items of one object and type, from a key offset on.
pub fn of_type(tx: &Transaction, tree: TreeId, from: &Key, limit: usize) -> Result<Vec<Found>> {
    let last = Key { offset: u64::MAX, ..*from };
    between(tx, tree, &(*from, last), limit)
}

/// Up to `limit` items of one object, of any type, from its lowest key on.
pub fn of_object(tx: &Transaction, tree: TreeId, objectid: u64, limit: usize) -> Result<Vec<Found>> {
    let range = (Key::new(objectid, ItemType(0), 0), Key::new(objectid, ItemType(u8::MAX), u64::MAX));
    between(tx, tree, &range, limit)
}

/// Up to `limit` items with keys from the first to the second of `range`, both included.
pub fn between(tx: &Transaction, tree: TreeId, range: &(Key, Key), limit: usize) -> Result<Vec<Found>> {
    let mut cursor = tx.cursor(tree, &range.0)?;
    let mut found = Vec::new();
    while found.len() < limit
        && let Some((key, data)) = cursor.item()
        && key <= range.1
    {
        found.push((key, data.to_vec()));
        cursor.advance()?;
    }
    Ok(found)
}

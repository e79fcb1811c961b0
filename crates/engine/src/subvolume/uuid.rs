//! The UUID tree: from a subvolume's UUID to its number.
//!
//! # Invariants
//! * The key is the UUID itself, as two little-endian halves; the item is a list of tree numbers.

use butterfs_format::{ItemType, Key, TreeId};

use crate::error::Result;
use crate::inode::{corrupt, scan};
use crate::tx::Transaction;

/// What a UUID is to a subvolume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its own.
    Own,
    /// That of the subvolume it was received from.
    Received,
}

fn key(uuid: &[u8; 16], role: Role) -> Key {
    let (low, high) = ((u128::from_le_bytes(*uuid)) as u64, (u128::from_le_bytes(*uuid) >> 64) as u64);
    let item_type = match role {
        Role::Own => ItemType::UUID_SUBVOL,
        Role::Received => ItemType::UUID_RECEIVED_SUBVOL,
    };
    Key::new(low, item_type, high)
}

/// Notes a UUID; nothing happens for one that is not set, or on a filesystem without a UUID tree.
pub fn add(tx: &mut Transaction, uuid: &[u8; 16], role: Role, tree: TreeId) -> Result<()> {
    if *uuid == [0; 16] || !exists(tx)? {
        return Ok(());
    }
    let key = key(uuid, role);
    let mut ids = read(tx, &key)?;
    if !ids.contains(&tree.0) {
        ids.push(tree.0);
    }
    tx.put(TreeId::UUID, &key, &pack(&ids))
}

/// Removes what [`add`] noted.
pub fn remove(tx: &mut Transaction, uuid: &[u8; 16], role: Role, tree: TreeId) -> Result<()> {
    if *uuid == [0; 16] || !exists(tx)? {
        return Ok(());
    }
    let key = key(uuid, role);
    let mut ids = read(tx, &key)?;
    ids.retain(|id| *id != tree.0);
    if ids.is_empty() {
        return tx.remove(TreeId::UUID, &key).map(|_| ());
    }
    tx.put(TreeId::UUID, &key, &pack(&ids))
}

/// Fails if the list for a UUID cannot be read; looked at before anything is changed.
pub fn check(tx: &Transaction, uuid: &[u8; 16], role: Role) -> Result<()> {
    if *uuid == [0; 16] || !exists(tx)? {
        return Ok(());
    }
    read(tx, &key(uuid, role)).map(|_| ())
}

/// Up to `most` UUIDs of the tree, from a key on, with the subvolumes that each says it is of.
pub fn page(tx: &Transaction, from: Key, most: usize) -> Result<Vec<Noted>> {
    let items = scan::between(tx, TreeId::UUID, &(from, Key::MAX), most)?;
    items.into_iter().map(|(key, _)| Noted::read(tx, key)).collect()
}

/// A UUID of the tree.
pub struct Noted {
    /// The key.
    pub key: Key,
    /// The UUID.
    pub uuid: [u8; 16],
    /// What it is.
    pub role: Role,
    /// To these subvolumes.
    pub trees: Vec<TreeId>,
}

impl Noted {
    fn read(tx: &Transaction, key: Key) -> Result<Self> {
        let uuid = (u128::from(key.objectid) | u128::from(key.offset) << 64).to_le_bytes();
        let role = if key.item_type == ItemType::UUID_SUBVOL { Role::Own } else { Role::Received };
        Ok(Self { key, uuid, role, trees: read(tx, &key)?.into_iter().map(TreeId).collect() })
    }
}

/// Whether there is a UUID tree.
pub fn exists(tx: &Transaction) -> Result<bool> {
    Ok(tx.get(TreeId::ROOT, &Key::new(TreeId::UUID.0, ItemType::ROOT_ITEM, 0))?.is_some())
}

fn read(tx: &Transaction, key: &Key) -> Result<Vec<u64>> {
    let data = tx.get(TreeId::UUID, key)?.unwrap_or_default();
    let (ids, rest) = data.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(corrupt(TreeId::UUID, key, format!("item of {} bytes, want a multiple of 8", data.len())));
    }
    Ok(ids.iter().map(|id| u64::from_le_bytes(*id)).collect())
}

fn pack(ids: &[u64]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_the_uuid() {
        let mut uuid = [0; 16];
        (uuid[0], uuid[8]) = (1, 2);
        assert_eq!(key(&uuid, Role::Own), Key::new(1, ItemType::UUID_SUBVOL, 2));
    }
}

//! XATTR_ITEM: extended attributes, by the hash of their names.
//!
//! # Invariants
//! * Attributes whose names have one hash share an item; the last one to go takes the item with it.

use butterfs_format::hash::name_hash;
use butterfs_format::items::{DirEntry, FileType, NAME_MAX, pack_dir_entry};
use butterfs_format::{ItemType, Key};

use super::{InodeId, corrupt, item, scan};
use crate::error::{Error, Result};
use crate::tx::Transaction;

/// How [`set`] treats an attribute that does or does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Either is fine.
    Any,
    /// It must not exist.
    Create,
    /// It must exist.
    Replace,
}

/// An attribute to set.
#[derive(Clone, Copy, Debug)]
pub struct Xattr<'a> {
    /// Its name, with the namespace.
    pub name: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
}

/// A name and value, or what has its place in an item.
type Pair = (Vec<u8>, Vec<u8>, u64);

fn key(id: InodeId, name: &[u8]) -> Key {
    Key::new(id.ino.0, ItemType::XATTR_ITEM, name_hash(name))
}

/// The value of an attribute.
pub fn get(tx: &Transaction, id: InodeId, name: &[u8]) -> Result<Option<Vec<u8>>> {
    let pairs = read(tx, id, &key(id, name))?;
    Ok(pairs.into_iter().find(|pair| pair.0 == name).map(|pair| pair.1))
}

/// The names of all attributes, in the order of their hashes.
pub fn list(tx: &Transaction, id: InodeId) -> Result<Vec<Vec<u8>>> {
    let from = Key::new(id.ino.0, ItemType::XATTR_ITEM, 0);
    let mut names = Vec::new();
    for (key, data) in scan::of_type(tx, id.tree, &from, usize::MAX)? {
        names.extend(parse(id, &key, &data)?.into_iter().map(|pair| pair.0));
    }
    Ok(names)
}

/// Sets an attribute; looks before it changes.
pub fn set(tx: &mut Transaction, id: InodeId, xattr: Xattr<'_>, mode: XattrMode) -> Result<()> {
    check_new(tx, &xattr)?;
    let key = key(id, xattr.name);
    let mut pairs = read(tx, id, &key)?;
    let place = pairs.iter().position(|pair| pair.0 == xattr.name);
    match (mode, place) {
        (XattrMode::Create, Some(_)) => return Err(Error::Exists),
        (XattrMode::Replace, None) => return Err(Error::NoAttribute),
        _ => {}
    }
    let new = (xattr.name.to_vec(), xattr.value.to_vec(), tx.generation().0);
    match place {
        Some(place) => pairs[place] = new,
        None => pairs.push(new),
    }
    let data = pack(&pairs);
    if data.len() > item::max_item_size(tx) {
        return Err(Error::NoSpace);
    }
    tx.put(id.tree, &key, &data)
}

/// Fails if an attribute fits no inode. On an inode that has none, [`set`] cannot fail after this.
pub fn check_new(tx: &Transaction, xattr: &Xattr<'_>) -> Result<()> {
    check_name(xattr.name)?;
    let size = DirEntry { value: xattr.value, ..entry(xattr.name, 0) }.packed_size();
    if size > item::max_item_size(tx) { Err(Error::NoSpace) } else { Ok(()) }
}

/// Removes an attribute.
pub fn remove(tx: &mut Transaction, id: InodeId, name: &[u8]) -> Result<()> {
    let key = key(id, name);
    let mut pairs = read(tx, id, &key)?;
    let place = pairs.iter().position(|pair| pair.0 == name).ok_or(Error::NoAttribute)?;
    pairs.remove(place);
    if pairs.is_empty() {
        return tx.remove(id.tree, &key).map(|_| ());
    }
    tx.put(id.tree, &key, &pack(&pairs))
}

fn check_name(name: &[u8]) -> Result<()> {
    match name.len() {
        0 => Err(Error::Invalid("attribute without a name")),
        len if len > NAME_MAX => Err(Error::DoesNotFit),
        _ if name.contains(&0) => Err(Error::Invalid("attribute name with a zero byte")),
        _ => Ok(()),
    }
}

fn read(tx: &Transaction, id: InodeId, key: &Key) -> Result<Vec<Pair>> {
    tx.get(id.tree, key)?.map_or(Ok(Vec::new()), |data| parse(id, key, &data))
}

fn parse(id: InodeId, key: &Key, data: &[u8]) -> Result<Vec<Pair>> {
    let entries = DirEntry::parse_all(data).map_err(|problem| corrupt(id.tree, key, problem))?;
    Ok(entries.iter().map(|e| (e.name.to_vec(), e.value.to_vec(), e.transid)).collect())
}

fn entry(name: &[u8], transid: u64) -> DirEntry<'_> {
    DirEntry { location: Key::MIN, transid, file_type: FileType::Xattr, name, value: &[] }
}

fn pack(pairs: &[Pair]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value, transid) in pairs {
        pack_dir_entry(&DirEntry { value, ..entry(name, *transid) }, &mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_in_one_item_round_trip() {
        let id = InodeId::top_of(butterfs_format::TreeId::FS);
        let pairs = vec![(b"user.a".to_vec(), b"1".to_vec(), 5), (b"user.b".to_vec(), Vec::new(), 6)];
        assert_eq!(parse(id, &Key::MIN, &pack(&pairs)).unwrap(), pairs);
    }

    #[test]
    fn names_have_limits() {
        assert!(matches!(check_name(b""), Err(Error::Invalid(_))));
        assert!(matches!(check_name(&[b'a'; 256]), Err(Error::DoesNotFit)));
        assert!(check_name(&[b'a'; 255]).is_ok());
    }
}

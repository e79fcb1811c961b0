//! DIR_ITEM and DIR_INDEX: the two items of an entry in its directory.
//!
//! # Invariants
//! * Entries whose names have one hash share a DIR_ITEM, as far as a leaf has room for it.

use butterfs_format::hash::name_hash;
use butterfs_format::items::{DirEntry, FileType, pack_dir_entry};
use butterfs_format::{Ino, ItemType, Key, TreeId};

use super::Place;
use crate::error::{Error, Result};
use crate::inode::{Draft, InodeId, corrupt, item, scan};
use crate::tx::Transaction;

/// The lowest index; 0 and 1 stand for `.` and `..`.
pub const FIRST_INDEX: u64 = 2;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// An inode of the directory's subvolume.
    Inode(Ino),
    /// A subvolume.
    Subvolume(TreeId),
}

impl Target {
    /// The location that entries carry.
    pub fn location(self) -> Key {
        match self {
            Self::Inode(ino) => item::key(ino),
            Self::Subvolume(tree) => Key::new(tree.0, ItemType::ROOT_ITEM, u64::MAX),
        }
    }

    /// What a location stands for.
    pub fn of_location(location: Key) -> Self {
        if location.item_type == ItemType::ROOT_ITEM {
            Self::Subvolume(TreeId(location.objectid))
        } else {
            Self::Inode(Ino(location.objectid))
        }
    }
}

/// An entry, without its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it stands for.
    pub target: Target,
    /// The target's type.
    pub file_type: FileType,
}

fn hash_key(place: &Place<'_>) -> Key {
    Key::new(place.dir.ino.0, ItemType::DIR_ITEM, name_hash(place.name))
}

/// The key of an entry by its index.
pub fn index_key(dir: InodeId, index: u64) -> Key {
    Key::new(dir.ino.0, ItemType::DIR_INDEX, index)
}

/// The entry of a name.
pub fn find(tx: &Transaction, place: &Place<'_>) -> Result<Option<Entry>> {
    let key = hash_key(place);
    let Some(data) = tx.get(place.dir.tree, &key)? else { return Ok(None) };
    let entries = DirEntry::parse_all(&data).map_err(|problem| corrupt(place.dir.tree, &key, problem))?;
    Ok(entries
        .iter()
        .find(|e| e.name == place.name)
        .map(|e| Entry { target: Target::of_location(e.location), file_type: e.file_type }))
}

/// Fails if there is an entry of this name, or no room for one.
pub fn check_new(tx: &Transaction, place: &Place<'_>) -> Result<()> {
    let key = hash_key(place);
    let Some(data) = tx.get(place.dir.tree, &key)? else { return Ok(()) };
    let entries = DirEntry::parse_all(&data).map_err(|problem| corrupt(place.dir.tree, &key, problem))?;
    if entries.iter().any(|e| e.name == place.name) {
        return Err(Error::Exists);
    }
    let size = disk_entry(place, None, 0).packed_size();
    if data.len() + size > item::max_item_size(tx) { Err(Error::HashIsFull) } else { Ok(()) }
}

/// Fails if the entries with this name's hash have no room for one more.
pub fn check_room(tx: &Transaction, place: &Place<'_>) -> Result<()> {
    let used = tx.get(place.dir.tree, &hash_key(place))?.map_or(0, |data| data.len());
    let size = disk_entry(place, None, 0).packed_size();
    if used + size > item::max_item_size(tx) { Err(Error::HashIsFull) } else { Ok(()) }
}

/// Indexes end here, so that a reader's position fits a signed number. Above are enough for the
/// few entries of one operation.
const LAST_INDEX: u64 = i64::MAX as u64 - 16;

/// Fails if a directory has no index left for new entries; looked at before anything is changed.
pub fn check_index_left(tx: &Transaction, dir: &mut Draft) -> Result<()> {
    if next_index(tx, dir)? < LAST_INDEX { Ok(()) } else { Err(Error::TooLarge) }
}

/// The index that the next entry of a directory gets; counted up in memory from then on.
pub fn take_index(tx: &Transaction, dir: &mut Draft) -> Result<u64> {
    let index = next_index(tx, dir)?;
    dir.next_index = Some(index.saturating_add(1));
    Ok(index)
}

fn next_index(tx: &Transaction, dir: &mut Draft) -> Result<u64> {
    let index = match dir.next_index {
        Some(index) => index,
        None => highest_index(tx, dir.id)?.map_or(FIRST_INDEX, |highest| highest.saturating_add(1).max(FIRST_INDEX)),
    };
    dir.next_index = Some(index);
    Ok(index)
}

/// The highest index that an entry of a directory has; `None` if it has no entries.
pub fn highest_index(tx: &Transaction, dir: InodeId) -> Result<Option<u64>> {
    let last = tx.last_not_above(dir.tree, &index_key(dir, u64::MAX))?;
    let ours = |key: &Key| key.objectid == dir.ino.0 && key.item_type == ItemType::DIR_INDEX;
    Ok(last.map(|(key, _)| key).filter(ours).map(|key| key.offset))
}

/// Whether a directory has no entries.
pub fn is_empty(tx: &Transaction, dir: InodeId) -> Result<bool> {
    let range = (Key::new(dir.ino.0, ItemType::DIR_ITEM, 0), index_key(dir, u64::MAX));
    Ok(scan::between(tx, dir.tree, &range, 1)?.is_empty())
}

/// Puts both items of an entry in; [`check_room`] came before.
pub fn insert(tx: &mut Transaction, place: &Place<'_>, index: u64, entry: Entry) -> Result<()> {
    let mut packed = Vec::new();
    pack_dir_entry(&disk_entry(place, Some(entry), tx.generation().0), &mut packed);
    tx.insert(place.dir.tree, &index_key(place.dir, index), &packed)?;
    let fits = tx.extend(place.dir.tree, &hash_key(place), &packed, item::max_item_size(tx))?;
    if fits { Ok(()) } else { Err(Error::HashIsFull) }
}

/// Takes both items of an entry out.
pub fn remove(tx: &mut Transaction, place: &Place<'_>, index: u64) -> Result<()> {
    let key = hash_key(place);
    let tree = place.dir.tree;
    let data = tx.get(tree, &key)?.ok_or_else(|| corrupt(tree, &key, "entry is missing"))?;
    let rest = without(&data, place.name).map_err(|problem| corrupt(tree, &key, problem))?;
    if rest.is_empty() {
        tx.remove(tree, &key)?;
    } else {
        tx.put(tree, &key, &rest)?;
    }
    let index_key = index_key(place.dir, index);
    if tx.remove(tree, &index_key)? { Ok(()) } else { Err(corrupt(tree, &index_key, "entry is missing")) }
}

/// Checks, before anything is changed, that the DIR_INDEX at `index` is this entry's.
pub fn check_index(tx: &Transaction, place: &Place<'_>, index: u64) -> Result<()> {
    let (tree, key) = (place.dir.tree, index_key(place.dir, index));
    let data = tx.get(tree, &key)?.ok_or_else(|| corrupt(tree, &key, "directory index is missing"))?;
    let entries = DirEntry::parse_all(&data).map_err(|problem| corrupt(tree, &key, problem))?;
    let agrees = entries.first().is_some_and(|e| e.name == place.name);
    if agrees { Ok(()) } else { Err(corrupt(tree, &key, "directory index has another name than the reference to it")) }
}

fn disk_entry<'a>(place: &Place<'a>, entry: Option<Entry>, transid: u64) -> DirEntry<'a> {
    DirEntry {
        location: entry.map_or(Key::MIN, |e| e.target.location()),
        transid,
        file_type: entry.map_or(FileType::Unknown, |e| e.file_type),
        name: place.name,
        value: &[],
    }
}

/// An item's entries but for the one with this name.
fn without(data: &[u8], name: &[u8]) -> std::result::Result<Vec<u8>, String> {
    let mut rest = Vec::with_capacity(data.len());
    for entry in DirEntry::parse_all(data)?.iter().filter(|e| e.name != name) {
        pack_dir_entry(entry, &mut rest);
    }
    if rest.len() == data.len() { Err("no entry with the name".into()) } else { Ok(rest) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(names: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for name in names {
            let place = Place::new(InodeId::top_of(TreeId::FS), name);
            let entry = Entry { target: Target::Inode(Ino(300)), file_type: FileType::Regular };
            pack_dir_entry(&disk_entry(&place, Some(entry), 9), &mut out);
        }
        out
    }

    #[test]
    fn one_of_colliding_names_is_removed() {
        let both = pack(&[b"first", b"second"]);
        assert_eq!(without(&both, b"first").unwrap(), pack(&[b"second"]));
        assert_eq!(without(&pack(&[b"only"]), b"only").unwrap(), Vec::<u8>::new());
        assert!(without(&both, b"third").is_err());
    }

    #[test]
    fn locations_round_trip() {
        for target in [Target::Inode(Ino(257)), Target::Subvolume(TreeId(258))] {
            assert_eq!(Target::of_location(target.location()), target);
        }
        assert_eq!(Target::Subvolume(TreeId(258)).location(), Key::new(258, ItemType::ROOT_ITEM, u64::MAX));
    }
}

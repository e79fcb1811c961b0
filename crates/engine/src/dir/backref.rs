//! INODE_REF and INODE_EXTREF: from an inode back to its names.
//!
//! # Invariants
//! * The names of an inode in one directory share an INODE_REF; those that no longer fit go to
//!   INODE_EXTREF, by hash, where the filesystem has that feature.

use butterfs_format::hash::extref_hash;
use butterfs_format::items::{InodeExtref, InodeRef};
use butterfs_format::superblock::Incompat;
use butterfs_format::{Ino, ItemType, Key};

use super::Place;
use crate::error::{Error, Result};
use crate::inode::{InodeId, corrupt, item, scan};
use crate::tx::Transaction;

/// What is wrong with an item, in words.
type Parsed<T> = std::result::Result<T, String>;

fn ref_key(ino: Ino, dir: Ino) -> Key {
    Key::new(ino.0, ItemType::INODE_REF, dir.0)
}

fn extref_key(ino: Ino, place: &Place<'_>) -> Key {
    Key::new(ino.0, ItemType::INODE_EXTREF, extref_hash(place.dir.ino, place.name))
}

/// The index of the entry that `place` is for the inode.
pub fn index_of(tx: &Transaction, ino: Ino, place: &Place<'_>) -> Result<u64> {
    let tree = place.dir.tree;
    let key = ref_key(ino, place.dir.ino);
    if let Some(data) = tx.get(tree, &key)? {
        let refs = InodeRef::parse_all(&data).map_err(|problem| corrupt(tree, &key, problem))?;
        if let Some(found) = refs.iter().find(|r| r.name == place.name) {
            return Ok(found.index);
        }
    }
    let key = extref_key(ino, place);
    let data = tx.get(tree, &key)?.unwrap_or_default();
    let refs = InodeExtref::parse_all(&data).map_err(|problem| corrupt(tree, &key, problem))?;
    let found = refs.iter().find(|r| r.parent == place.dir.ino.0 && r.name == place.name);
    found.map(|r| r.index).ok_or_else(|| corrupt(tree, &key, "an entry's inode has no reference back to it"))
}

/// Fails if neither item has room for one more name, supposing that the names in `leaving` go first.
pub fn check_room(
    tx: &Transaction,
    ino: Ino,
    place: &Place<'_>,
    leaving: Option<&Place<'_>>,
    features: Incompat,
) -> Result<()> {
    let most = item::max_item_size(tx);
    let freed = |size: usize| leaving.filter(|l| l.dir == place.dir).map_or(0, |l| l.name.len() + size);
    let used = tx.get(place.dir.tree, &ref_key(ino, place.dir.ino))?.map_or(0, |data| data.len());
    let size = InodeRef::packed_size(place.name.len());
    if used + size <= most {
        return Ok(());
    }
    // A name that leaves makes room only where it is; 10 bytes come before a name.
    let in_ref = leaving.is_some_and(|l| l.dir == place.dir) && ref_holds(tx, ino, leaving)?;
    if in_ref && used + size - freed(InodeRef::packed_size(0)) <= most {
        return Ok(());
    }
    if !features.contains(Incompat::EXTENDED_IREF) {
        return Err(Error::TooManyLinks);
    }
    let used = tx.get(place.dir.tree, &extref_key(ino, place))?.map_or(0, |data| data.len());
    if used + extref_size(place.name.len()) <= most { Ok(()) } else { Err(Error::TooManyLinks) }
}

fn ref_holds(tx: &Transaction, ino: Ino, place: Option<&Place<'_>>) -> Result<bool> {
    let Some(place) = place else { return Ok(false) };
    let key = ref_key(ino, place.dir.ino);
    let data = tx.get(place.dir.tree, &key)?.unwrap_or_default();
    let refs = InodeRef::parse_all(&data).map_err(|problem| corrupt(place.dir.tree, &key, problem))?;
    Ok(refs.iter().any(|r| r.name == place.name))
}

const fn extref_size(name_len: usize) -> usize {
    18 + name_len
}

/// Adds a name; [`check_room`] came before.
pub fn add(tx: &mut Transaction, ino: Ino, place: &Place<'_>, index: u64) -> Result<()> {
    let tree = place.dir.tree;
    let key = ref_key(ino, place.dir.ino);
    let mut packed = Vec::new();
    InodeRef { index, name: place.name }.pack(&mut packed);
    if tx.extend(tree, &key, &packed, item::max_item_size(tx))? {
        return Ok(());
    }
    let key = extref_key(ino, place);
    let mut data = tx.get(tree, &key)?.unwrap_or_default();
    InodeExtref { parent: place.dir.ino.0, index, name: place.name }.pack(&mut data);
    tx.put(tree, &key, &data)
}

/// Removes a name; [`index_of`] found it before.
pub fn remove(tx: &mut Transaction, ino: Ino, place: &Place<'_>) -> Result<()> {
    let tree = place.dir.tree;
    let key = ref_key(ino, place.dir.ino);
    let data = tx.get(tree, &key)?.unwrap_or_default();
    if let Some(rest) = ref_without(&data, place.name).map_err(|problem| corrupt(tree, &key, problem))? {
        return put_or_remove(tx, place, &key, &rest);
    }
    let key = extref_key(ino, place);
    let data = tx.get(tree, &key)?.unwrap_or_default();
    let rest = extref_without(&data, place).map_err(|problem| corrupt(tree, &key, problem))?;
    let rest = rest.ok_or_else(|| corrupt(tree, &key, "reference is missing"))?;
    put_or_remove(tx, place, &key, &rest)
}

fn put_or_remove(tx: &mut Transaction, place: &Place<'_>, key: &Key, rest: &[u8]) -> Result<()> {
    if rest.is_empty() {
        return tx.remove(place.dir.tree, key).map(|_| ());
    }
    tx.put(place.dir.tree, key, rest)
}

/// The other names of an INODE_REF; `None` if the name is not there.
fn ref_without(data: &[u8], name: &[u8]) -> Parsed<Option<Vec<u8>>> {
    let refs = InodeRef::parse_all(data)?;
    let mut rest = Vec::with_capacity(data.len());
    refs.iter().filter(|r| r.name != name).for_each(|r| r.pack(&mut rest));
    Ok((rest.len() < data.len()).then_some(rest))
}

/// The other names of an INODE_EXTREF; `None` if the name is not there.
fn extref_without(data: &[u8], place: &Place<'_>) -> Parsed<Option<Vec<u8>>> {
    let refs = InodeExtref::parse_all(data)?;
    let mut rest = Vec::with_capacity(data.len());
    let other = |r: &&InodeExtref<'_>| r.parent != place.dir.ino.0 || r.name != place.name;
    refs.iter().filter(other).for_each(|r| r.pack(&mut rest));
    Ok((rest.len() < data.len()).then_some(rest))
}

/// The directory that holds a directory.
pub fn parent_dir(tx: &Transaction, dir: InodeId) -> Result<Ino> {
    first_name(tx, dir).map(|(parent, _)| parent)
}

/// A directory that holds an inode, and the inode's name there; the first of several.
pub fn first_name(tx: &Transaction, id: InodeId) -> Result<(Ino, Vec<u8>)> {
    let key = ref_key(id.ino, Ino(0));
    let range = (key, Key::new(id.ino.0, ItemType::INODE_EXTREF, u64::MAX));
    let (key, data) = scan::between(tx, id.tree, &range, 1)?.into_iter().next().ok_or(Error::NotFound)?;
    first_in(&key, &data)
        .map_err(|problem| corrupt(id.tree, &key, problem))?
        .ok_or_else(|| corrupt(id.tree, &key, "item is empty"))
}

/// All names of an inode, with the directories that hold them, in the order of the items.
pub fn names(tx: &Transaction, id: InodeId) -> Result<Vec<(Ino, Vec<u8>)>> {
    let range = (ref_key(id.ino, Ino(0)), Key::new(id.ino.0, ItemType::INODE_EXTREF, u64::MAX));
    let mut found = Vec::new();
    for (key, data) in scan::between(tx, id.tree, &range, usize::MAX)? {
        found.extend(all_in(&key, &data).map_err(|problem| corrupt(id.tree, &key, problem))?);
    }
    Ok(found)
}

fn all_in(key: &Key, data: &[u8]) -> Parsed<Vec<(Ino, Vec<u8>)>> {
    if key.item_type == ItemType::INODE_REF {
        let refs = InodeRef::parse_all(data)?;
        return Ok(refs.iter().map(|r| (Ino(key.offset), r.name.to_vec())).collect());
    }
    let refs = InodeExtref::parse_all(data)?;
    Ok(refs.iter().map(|r| (Ino(r.parent), r.name.to_vec())).collect())
}

fn first_in(key: &Key, data: &[u8]) -> Parsed<Option<(Ino, Vec<u8>)>> {
    if key.item_type == ItemType::INODE_REF {
        let refs = InodeRef::parse_all(data)?;
        return Ok(refs.first().map(|r| (Ino(key.offset), r.name.to_vec())));
    }
    let refs = InodeExtref::parse_all(data)?;
    Ok(refs.first().map(|r| (Ino(r.parent), r.name.to_vec())))
}

#[cfg(test)]
mod tests {
    use butterfs_format::TreeId;

    use super::*;

    #[test]
    fn a_name_leaves_a_shared_reference() {
        let (mut both, mut second) = (Vec::new(), Vec::new());
        InodeRef { index: 2, name: b"a" }.pack(&mut both);
        InodeRef { index: 3, name: b"b" }.pack(&mut both);
        InodeRef { index: 3, name: b"b" }.pack(&mut second);
        assert_eq!(ref_without(&both, b"a").unwrap(), Some(second));
        assert_eq!(ref_without(&both, b"c").unwrap(), None);
    }

    #[test]
    fn an_extended_reference_is_of_one_directory() {
        let mut data = Vec::new();
        InodeExtref { parent: 257, index: 2, name: b"a" }.pack(&mut data);
        let place = |dir| Place::new(InodeId::new(TreeId::FS, Ino(dir)), b"a");
        assert_eq!(extref_without(&data, &place(258)).unwrap(), None);
        assert_eq!(extref_without(&data, &place(257)).unwrap(), Some(Vec::new()));
    }

    #[test]
    fn sizes_are_those_of_the_disk() {
        let mut data = Vec::new();
        InodeExtref { parent: 1, index: 2, name: b"abc" }.pack(&mut data);
        assert_eq!(data.len(), extref_size(3));
    }
}

//! ROOT_REF and ROOT_BACKREF: a subvolume's one name, in both directions.

use butterfs_format::items::RootRef;
use butterfs_format::{Ino, ItemType, Key, TreeId};

use super::Place;
use crate::error::Result;
use crate::inode::{InodeId, corrupt, scan};
use crate::tx::Transaction;

fn ref_key(parent: TreeId, child: TreeId) -> Key {
    Key::new(parent.0, ItemType::ROOT_REF, child.0)
}

fn backref_key(parent: TreeId, child: TreeId) -> Key {
    Key::new(child.0, ItemType::ROOT_BACKREF, parent.0)
}

/// The directory that holds a subvolume, and the subvolume's name there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The directory.
    pub dir: InodeId,
    /// The name.
    pub name: Vec<u8>,
}

/// The index of the entry that `place` is for the subvolume; `None` if the entry is a leftover in
/// a snapshot: the subvolume has its name elsewhere.
pub fn index_of(tx: &Transaction, child: TreeId, place: &Place<'_>) -> Result<Option<u64>> {
    let key = ref_key(place.dir.tree, child);
    let Some(data) = tx.get(TreeId::ROOT, &key)? else { return Ok(None) };
    let root_ref = RootRef::parse(&data).map_err(|problem| corrupt(TreeId::ROOT, &key, problem))?;
    let here = root_ref.dirid == place.dir.ino.0 && root_ref.name == place.name;
    Ok(here.then_some(root_ref.sequence))
}

/// Where a subvolume has its name; `None` for the top level, and for one that is being deleted.
pub fn parent_of(tx: &Transaction, child: TreeId) -> Result<Option<Parent>> {
    let from = Key::new(child.0, ItemType::ROOT_BACKREF, 0);
    let Some((key, data)) = scan::of_type(tx, TreeId::ROOT, &from, 1)?.into_iter().next() else { return Ok(None) };
    let root_ref = RootRef::parse(&data).map_err(|problem| corrupt(TreeId::ROOT, &key, problem))?;
    let dir = InodeId::new(TreeId(key.offset), Ino(root_ref.dirid));
    Ok(Some(Parent { dir, name: root_ref.name.to_vec() }))
}

/// Up to `limit` subvolumes that have their names in a subvolume.
pub fn subvolumes_in(tx: &Transaction, tree: TreeId, limit: usize) -> Result<Vec<TreeId>> {
    let from = ref_key(tree, TreeId(0));
    Ok(scan::of_type(tx, TreeId::ROOT, &from, limit)?.into_iter().map(|(key, _)| TreeId(key.offset)).collect())
}

/// Up to `limit` of them with numbers from `least` on, each with the directory that holds its name.
pub fn subvolumes_from(tx: &Transaction, tree: TreeId, least: u64, limit: usize) -> Result<Vec<(TreeId, Ino)>> {
    let found = scan::of_type(tx, TreeId::ROOT, &ref_key(tree, TreeId(least)), limit)?;
    let child = |(key, data): (Key, Vec<u8>)| {
        let root_ref = RootRef::parse(&data).map_err(|problem| corrupt(TreeId::ROOT, &key, problem))?;
        Ok((TreeId(key.offset), Ino(root_ref.dirid)))
    };
    found.into_iter().map(child).collect()
}

/// Names a subvolume.
pub fn add(tx: &mut Transaction, child: TreeId, place: &Place<'_>, index: u64) -> Result<()> {
    let data = RootRef { dirid: place.dir.ino.0, sequence: index, name: place.name }.pack();
    tx.insert(TreeId::ROOT, &backref_key(place.dir.tree, child), &data)?;
    tx.insert(TreeId::ROOT, &ref_key(place.dir.tree, child), &data)
}

/// Takes a subvolume's name away.
pub fn remove(tx: &mut Transaction, child: TreeId, parent: TreeId) -> Result<()> {
    let (forward, back) = (ref_key(parent, child), backref_key(parent, child));
    let both = tx.remove(TreeId::ROOT, &forward)? & tx.remove(TreeId::ROOT, &back)?;
    if both { Ok(()) } else { Err(corrupt(TreeId::ROOT, &back, "root reference goes one way only")) }
}

/// Checks, before anything is changed, that the reference is there in both directions.
pub fn check_both(tx: &Transaction, child: TreeId, parent: TreeId) -> Result<()> {
    let back = backref_key(parent, child);
    match tx.get(TreeId::ROOT, &back)? {
        Some(_) => Ok(()),
        None => Err(corrupt(TreeId::ROOT, &back, "root reference goes one way only")),
    }
}

//! An entry whole: its items in the directory and the way back.

use butterfs_format::hash::name_hash;
use butterfs_format::items::Timespec;
use butterfs_format::superblock::Incompat;

use super::entry::{self, Entry, Target};
use super::{Place, backref, list, root_ref};
use crate::error::{Error, Result};
use crate::inode::{Draft, InodeId, item};
use crate::tx::{Leads, Transaction};

/// An entry that was found, with all that is needed to remove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// What it stands for.
    pub entry: Entry,
    /// Its index.
    pub index: u64,
    /// For a subvolume: whether the entry is only a leftover in a snapshot.
    pub stub: bool,
}

impl Link {
    /// The inode that a user sees behind the entry in a directory of `dir`'s subvolume.
    pub fn inode(&self, dir: InodeId) -> InodeId {
        resolve(dir, self.entry.target, self.stub)
    }
}

fn resolve(dir: InodeId, target: Target, stub: bool) -> InodeId {
    match target {
        Target::Inode(ino) => InodeId::new(dir.tree, ino),
        Target::Subvolume(_) if stub => InodeId::placeholder_in(dir.tree),
        Target::Subvolume(tree) => InodeId::top_of(tree),
    }
}

/// The inode that a name leads to.
pub fn target(tx: &Transaction, place: &Place<'_>) -> Result<Option<InodeId>> {
    let Some(found) = entry::find(tx, place)? else { return Ok(None) };
    Ok(Some(enter(tx, place, found.target)?))
}

/// The inode that an entry leads to.
pub fn enter(tx: &Transaction, place: &Place<'_>, target: Target) -> Result<InodeId> {
    let stub = match target {
        Target::Inode(_) => false,
        Target::Subvolume(tree) => is_stub(tx, tree, place)?,
    };
    Ok(resolve(place.dir, target, stub))
}

fn is_stub(tx: &Transaction, tree: butterfs_format::TreeId, place: &Place<'_>) -> Result<bool> {
    if root_ref::index_of(tx, tree, place)?.is_none() {
        return Ok(true);
    }
    match item::require_alive(tx, tree) {
        Ok(_) => Ok(false),
        Err(Error::NotFound) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Finds an entry, and checks that its items agree: after this [`detach`] cannot fail for them.
pub fn find(tx: &Transaction, place: &Place<'_>) -> Result<Option<Link>> {
    let Some(entry) = entry::find(tx, place)? else { return Ok(None) };
    let (index, stub) = match entry.target {
        Target::Inode(ino) => (backref::index_of(tx, ino, place)?, false),
        Target::Subvolume(tree) => match root_ref::index_of(tx, tree, place)? {
            Some(index) => {
                root_ref::check_both(tx, tree, place.dir.tree)?;
                (index, false)
            }
            None => (list::index_by_name(tx, place)?, true),
        },
    };
    entry::check_index(tx, place, index)?;
    Ok(Some(Link { entry, index, stub }))
}

/// What [`attach`] needs room for.
#[derive(Clone, Copy)]
pub struct Room<'a> {
    /// The new name.
    pub place: Place<'a>,
    /// What it will stand for; `None` for a new inode, which has room.
    pub target: Option<Target>,
    /// A name of the target that goes first.
    pub leaving: Option<Place<'a>>,
    /// What the filesystem may use.
    pub features: Incompat,
}

/// Fails if [`attach`] would not have room. An entry of the same name that goes first leaves its room.
pub fn check_room(tx: &Transaction, room: &Room<'_>, replaced: Option<&Link>) -> Result<()> {
    if replaced.is_none() {
        entry::check_room(tx, &room.place)?;
    }
    match room.target {
        Some(Target::Inode(ino)) => backref::check_room(tx, ino, &room.place, room.leaving.as_ref(), room.features),
        _ => Ok(()),
    }
}

/// An entry as the log remembers it.
fn leads(name: &[u8], target: Target) -> Leads {
    let to = match target {
        Target::Inode(ino) => Some(ino),
        Target::Subvolume(_) => None,
    };
    Leads { hash: name_hash(name), to }
}

/// Puts an entry in, with the way back; counts the directory's size and times. Gives its index.
pub fn attach(tx: &mut Transaction, dir: &mut Draft, name: &[u8], what: Entry, now: Timespec) -> Result<u64> {
    let place = Place::new(dir.id, name);
    let index = entry::take_index(tx, dir)?;
    tx.note_gained(dir.id.tree, (dir.id.ino, index), leads(name, what.target));
    entry::insert(tx, &place, index, what)?;
    match what.target {
        Target::Inode(ino) => backref::add(tx, ino, &place, index)?,
        Target::Subvolume(tree) => root_ref::add(tx, tree, &place, index)?,
    }
    dir.item.size = dir.item.size.get().saturating_add(place.size_in_dir()).into();
    item::touch(&mut dir.item, now);
    Ok(index)
}

/// Takes an entry out, with the way back; counts the directory's size and times.
pub fn detach(tx: &mut Transaction, dir: &mut Draft, name: &[u8], link: &Link, now: Timespec) -> Result<()> {
    let place = Place::new(dir.id, name);
    tx.note_lost(dir.id.tree, (dir.id.ino, link.index), leads(name, link.entry.target));
    entry::remove(tx, &place, link.index)?;
    match link.entry.target {
        Target::Inode(ino) => backref::remove(tx, ino, &place)?,
        Target::Subvolume(tree) if !link.stub => root_ref::remove(tx, tree, dir.id.tree)?,
        Target::Subvolume(_) => {}
    }
    dir.item.size = dir.item.size.get().saturating_sub(place.size_in_dir()).into();
    item::touch(&mut dir.item, now);
    Ok(())
}

//! Subvolumes: making, snapshots, deleting, listing.
//!
//! # Invariants
//! * A snapshot has what its source had at the commit that made it, all dirty data included that
//!   was written before the call.
//! * A subvolume that holds others, is the default, or is shown as the root, is not deleted.

use std::sync::TryLockError;

use butterfs_format::items::{FileType, InodeFlags, RootFlags, Timespec};
use butterfs_format::{Ino, Key, TreeId};

use super::{Attempt, Filesystem, properties, require_changeable_dir, require_growable_dir};
use crate::dir::backref;
use crate::dir::entry::{self, Entry, Target};
use crate::dir::link::{self, Link};
use crate::dir::{Parent, Place, subvolumes_in};
use crate::error::{Error, Result};
use crate::file::COMPRESSION_PROPERTY;
use crate::inode::item::{self, Ownership};
use crate::inode::xattr::{self, Xattr, XattrMode};
use crate::inode::{Drafts, InodeId, Locked, lock, orphan};
use crate::subvolume::root::{self, Access, Birth};
use crate::subvolume::uuid::{self, Role};
use crate::subvolume::{SubvolumeInfo, list};
use crate::tx::{Copier, Need, Transaction};

/// How often a snapshot is tried before it is told that there is no space: others take what is left all the time.
const TRIES: usize = 16;

/// A subvolume to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewSubvolume {
    /// Permissions of its top directory.
    pub permissions: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Whether a subvolume is deleted with what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// As rmdir.
    MustBeEmpty,
    /// Whatever is in it.
    Any,
}

impl Filesystem {
    /// Makes an empty subvolume. As in the kernel its top directory takes nothing over from the directory that it is made
    /// in, no flags and no group, but the property of the top directory of that one's subvolume.
    pub fn create_subvolume(&self, place: Place<'_>, new: &NewSubvolume) -> Result<TreeId> {
        place.check()?;
        let (now, uuid) = (self.now(), self.shared.environment.new_uuid());
        let dir = self.dir(place.dir)?;
        self.change(&[dir], Need::Items(14), |tx, drafts| {
            check_free(tx, drafts, &place)?;
            let birth = Birth { generation: tx.generation(), now, uuid };
            let tree = tx.next_tree_id()?;
            let property = properties::of_top(tx, place.dir.tree)?;
            let mode = FileType::Directory.mode_bits() | new.permissions & 0o7777;
            let mut top = item::new_item(tx, Ownership { mode, uid: new.uid, gid: new.gid }, now);
            if property.is_some() {
                top.flags = InodeFlags::COMPRESS.bits().into();
            }
            tx.create_subvolume_tree(tree, root::new_item(&birth, tx.geometry().nodesize))?;
            root::insert_top(tx, tree, &mut top)?;
            if let Some(value) = property {
                let property = Xattr { name: COMPRESSION_PROPERTY, value: &value };
                xattr::set(tx, InodeId::top_of(tree), property, XattrMode::Create)?;
            }
            name_subvolume(tx, drafts, &place, tree, now)?;
            uuid::add(tx, &uuid, Role::Own, tree)?;
            Ok(tree)
        })
    }

    /// Makes a snapshot of a subvolume, and commits.
    pub fn snapshot(&self, source: TreeId, place: Place<'_>, access: Access) -> Result<TreeId> {
        place.check()?;
        super::require_subvolume(source)?;
        self.clean_up_subvolume(source)?;
        for _ in 0..TRIES {
            let attempt = self.with_room(|| {
                self.write_back_subvolume(source)?;
                self.try_snapshot(source, place, access)
            })?;
            if let Attempt::Done(tree) = attempt {
                return Ok(tree);
            }
            // Whose data is lost hears of it from its own fsync.
            let _ = self.write_back(|_| true);
        }
        Err(Error::NoSpace)
    }

    /// A snapshot without what is dirty at this moment.
    #[cfg(test)]
    pub(super) fn snapshot_written(&self, source: TreeId, place: Place<'_>, access: Access) -> Result<TreeId> {
        match self.try_snapshot(source, place, access)? {
            Attempt::Done(tree) => Ok(tree),
            Attempt::Again => Err(Error::NoSpace),
        }
    }

    /// A snapshot without what is dirty at this moment; none if some of that would have no space then.
    fn try_snapshot(&self, source: TreeId, place: Place<'_>, access: Access) -> Result<Attempt<TreeId>> {
        let (now, uuid) = (self.now(), self.shared.environment.new_uuid());
        let inodes = [self.dir(place.dir)?];
        // Who overwrites extents that it shares from now on looks after that.
        let in_place = self.shared.no_overwriting();
        let mut locked = Locked::new(&inodes)?;
        let mut made = Attempt::Again;
        let copier = if access == Access::ReadWrite { Copier::Both } else { Copier::Source };
        let done = self.shared.gate.commit_with(Need::Snapshot(source, copier), |tx| {
            if tx.counts_on_own_space() {
                return Err(Error::Busy("data in memory counts on space that must not be shared"));
            }
            let mut drafts = locked.drafts();
            let birth = Birth { generation: tx.generation(), now, uuid };
            made = Attempt::Done(copy(tx, &mut drafts, &place, source, &birth, access)?);
            locked.store(&drafts);
            // Not kept through the commit's writes.
            drop((locked, in_place));
            Ok(())
        });
        match done {
            Ok(()) => Ok(made),
            Err(Error::Busy(_)) => Ok(Attempt::Again),
            Err(error) => Err(error),
        }
    }

    /// Deletes a subvolume with all that is in it; its blocks go later, see [`Filesystem::clean_once`].
    pub fn delete_subvolume(&self, place: Place<'_>) -> Result<()> {
        place.check()?;
        while let Attempt::Again = self.remove_subvolume_entry(place, Content::Any)? {}
        Ok(())
    }

    /// The same by its number, wherever it has its name; gives where that was.
    pub fn delete_subvolume_by_id(&self, tree: TreeId) -> Result<Parent> {
        let parent = self.subvolume_parent(tree)?;
        self.delete_subvolume(Place::new(parent.dir, &parent.name))?;
        Ok(parent)
    }

    pub(super) fn remove_subvolume_entry(&self, place: Place<'_>, content: Content) -> Result<Attempt<()>> {
        let now = self.now();
        let dir = self.dir(place.dir)?;
        let attempt = self.change(&[dir], Need::Promised, |tx, drafts| {
            require_changeable_dir(tx, drafts, place.dir)?;
            let found = link::find(tx, &place)?.ok_or(Error::NotFound)?;
            let Target::Subvolume(tree) = found.entry.target else {
                return match content {
                    Content::MustBeEmpty => Ok(Attempt::Again),
                    Content::Any => Err(Error::Invalid("not a subvolume")),
                };
            };
            if found.stub {
                unname(tx, drafts, &place, &found, now)?;
                return Ok(Attempt::Done(()));
            }
            self.check_deletable(tx, tree, content)?;
            unname(tx, drafts, &place, &found, now)?;
            bury(tx, tree)?;
            Ok(Attempt::Done(()))
        })?;
        Ok(attempt)
    }

    fn check_deletable(&self, tx: &Transaction, tree: TreeId, content: Content) -> Result<()> {
        if tree == self.root.tree {
            return Err(Error::Busy("the subvolume is the one that is mounted"));
        }
        // As for the kernel: rmdir says first that there is something in it.
        if content == Content::MustBeEmpty && !entry::is_empty(tx, InodeId::top_of(tree))? {
            return Err(Error::NotEmpty);
        }
        if tree == root::default_subvolume(tx)? {
            return Err(Error::NotPermitted("the subvolume is the default one"));
        }
        if !subvolumes_in(tx, tree, 1)?.is_empty() {
            return Err(Error::NotEmpty);
        }
        let item = tx.root_item(tree)?;
        uuid::check(tx, &item.uuid, Role::Own)?;
        uuid::check(tx, &item.received_uuid, Role::Received)
    }

    /// All subvolumes that can be reached.
    pub fn subvolumes(&self) -> Result<Vec<SubvolumeInfo>> {
        self.subvolume_page(0, usize::MAX)
    }

    /// Up to `most` of them, by number, those above `after`.
    pub fn subvolume_page(&self, after: u64, most: usize) -> Result<Vec<SubvolumeInfo>> {
        self.shared.gate.view(|tx| list::page(tx, after, most))
    }

    /// One subvolume.
    pub fn subvolume(&self, tree: TreeId) -> Result<SubvolumeInfo> {
        super::require_subvolume(tree)?;
        self.shared.gate.view(|tx| list::info(tx, tree))?.ok_or(Error::NotFound)
    }

    /// Makes a subvolume read-only or writable; nothing else of it changes, as in the kernel.
    pub fn set_subvolume_access(&self, tree: TreeId, access: Access) -> Result<()> {
        super::require_subvolume(tree)?;
        if access == Access::ReadOnly {
            self.write_back_subvolume(tree)?;
        }
        self.shared.gate.change(Need::Items(1), |tx| {
            let old = tx.root_item(tree)?;
            if old.refs.get() == 0 {
                return Err(Error::NotFound);
            }
            if root::access(&old) == access {
                return Ok(());
            }
            tx.change_root_item(tree, |item| root::set_access(item, access))
        })
    }

    /// Names, with their directories, of inodes that keep deleted subvolumes from being removed, so many of each at
    /// most: who has shown them to others can have those forget them.
    pub fn names_in_the_way(&self, most: usize) -> Result<Vec<(InodeId, Vec<u8>)>> {
        self.shared.gate.view(|tx| {
            let deleted = orphan::list(tx, TreeId::ROOT, 0, usize::MAX)?;
            let deleted: Vec<TreeId> = deleted.into_iter().map(TreeId).collect();
            let mut found = Vec::new();
            for id in self.inodes.of_trees(&deleted, most).into_iter().filter(|id| id.ino != Ino::ROOT_DIR) {
                let names = backref::names(tx, id).unwrap_or_default();
                found.extend(names.into_iter().map(|(dir, name)| (InodeId::new(id.tree, dir), name)));
            }
            Ok(found)
        })
    }

    /// Whether a subvolume was deleted and is not removed yet: what is open in it can be used, and nothing is found in it.
    pub fn is_deleted(&self, tree: TreeId) -> bool {
        let refs = self.shared.gate.view(|tx| tx.look_at_root_item(tree, |item| item.refs.get()));
        matches!(refs, Ok(0) | Err(Error::NotFound))
    }

    /// Deletes up to about `limit` blocks of deleted subvolumes; says whether there is more to do.
    /// A subvolume in which an inode is in use waits; all wait while a block group is emptied.
    pub fn clean_once(&self, limit: usize) -> Result<bool> {
        match self.reclaiming.try_lock() {
            Err(TryLockError::WouldBlock) => Ok(false),
            _held => self.clean_step(limit),
        }
    }

    /// [`Filesystem::clean_once`] for who holds `reclaiming`: nodes of a subvolume that is dropped in part may point to
    /// blocks that are gone, which whoever moves blocks must not meet.
    pub(super) fn clean_step(&self, limit: usize) -> Result<bool> {
        self.shared.gate.check_writable()?;
        let mut after = 0;
        while let Some(tree) = self.shared.gate.view(|tx| orphan::list(tx, TreeId::ROOT, after, 1))?.first() {
            after = *tree;
            let tree = TreeId(*tree);
            if tree.is_subvolume() && self.may_drop(tree)? {
                self.drop_step(tree, limit)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a tree in the orphan list can be worked on now.
    fn may_drop(&self, tree: TreeId) -> Result<bool> {
        match self.shared.gate.view(|tx| tx.root_item(tree)) {
            Ok(item) if item.refs.get() > 0 => Ok(false),
            Ok(_) => {
                // What is dirty there never has to be written.
                for inode in self.dirty_inodes(|id| id.tree == tree) {
                    inode.data.forget();
                    lock(&inode.state).dirty = false;
                    self.forget_if_clean(&inode);
                }
                Ok(self.inodes.drop_tree(tree))
            }
            Err(Error::NotFound) => Ok(true),
            Err(error) => Err(error),
        }
    }

    pub(super) fn drop_step(&self, tree: TreeId, limit: usize) -> Result<()> {
        let finished = self.shared.gate.change(Need::Promised, |tx| {
            match tx.root_item(tree) {
                // Not what it was when it was looked for.
                Ok(item) if item.refs.get() > 0 => Ok(false),
                Ok(_) => tx.drop_subvolume_step(tree, tx.affordable(limit)),
                // The tree went in an earlier transaction, its orphan item did not.
                Err(Error::NotFound) => orphan::remove_subvolume(tx, tree).map(|()| true),
                Err(error) => Err(error),
            }
        })?;
        if finished {
            self.subvolumes.remove(tree);
        }
        Ok(())
    }
}

/// Fails if a new subvolume cannot have this name.
fn check_free(tx: &Transaction, drafts: &mut Drafts, place: &Place<'_>) -> Result<()> {
    require_growable_dir(tx, drafts, place.dir)?;
    if entry::find(tx, place)?.is_some() {
        return Err(Error::Exists);
    }
    entry::check_room(tx, place)
}

fn name_subvolume(
    tx: &mut Transaction,
    drafts: &mut Drafts,
    place: &Place<'_>,
    tree: TreeId,
    now: Timespec,
) -> Result<()> {
    let what = Entry { target: Target::Subvolume(tree), file_type: FileType::Directory };
    let dir = drafts.of(place.dir)?;
    link::attach(tx, dir, place.name, what, now)?;
    item::write_inode_item(tx, dir.id, &mut dir.item)
}

fn unname(tx: &mut Transaction, drafts: &mut Drafts, place: &Place<'_>, link: &Link, now: Timespec) -> Result<()> {
    let dir = drafts.of(place.dir)?;
    link::detach(tx, dir, place.name, link, now)?;
    item::write_inode_item(tx, dir.id, &mut dir.item)
}

fn copy(
    tx: &mut Transaction,
    drafts: &mut Drafts,
    place: &Place<'_>,
    source: TreeId,
    birth: &Birth,
    access: Access,
) -> Result<TreeId> {
    check_free(tx, drafts, place)?;
    let received = item::require_alive(tx, source)?.received_uuid;
    uuid::check(tx, &received, Role::Received)?;
    let tree = tx.next_tree_id()?;
    let item = root::snapshot_item(&tx.root_item(source)?, birth, access);
    tx.copy_subvolume_root(source, tree, item)?;
    // After the copy, so that a snapshot does not hold its own name.
    name_subvolume(tx, drafts, place, tree, birth.now)?;
    uuid::add(tx, &birth.uuid, Role::Own, tree)?;
    uuid::add(tx, &item.received_uuid, Role::Received, tree)?;
    Ok(tree)
}

/// Marks a subvolume without a name as one to be dropped.
fn bury(tx: &mut Transaction, tree: TreeId) -> Result<()> {
    let item = tx.root_item(tree)?;
    uuid::remove(tx, &item.uuid, Role::Own, tree)?;
    uuid::remove(tx, &item.received_uuid, Role::Received, tree)?;
    orphan::add_subvolume(tx, tree)?;
    tx.change_root_item(tree, |item| {
        item.refs = 0.into();
        item.drop_progress = Key::MIN.into();
        item.drop_level = 0;
        item.flags = (item.flags() | RootFlags::DEAD).bits().into();
    })
}

//! Renaming, replacing and exchanging names.

use butterfs_format::Ino;
use butterfs_format::items::{FileType, Timespec};

use super::create::{NewInode, NewKind, insert_inode};
use super::new_files::NewFileRules;
use super::remove::{remove_name, require_removable};
use super::{Attempt, Filesystem, require_growable_dir};
use crate::dir::entry::{self, Entry, Target};
use crate::dir::link::{self, Link, Room};
use crate::dir::{Place, path};
use crate::error::{Error, Result};
use crate::inode::{Drafts, InodeId, InodeRef, InodeState, item};
use crate::subvolume::root::{self, Access};
use crate::tx::{Need, Transaction};

/// What to do about an entry that has the new name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replace {
    /// It is replaced.
    #[default]
    Allow,
    /// [`Error::Exists`].
    Refuse,
}

/// What is left in the old place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leave {
    /// Nothing.
    #[default]
    Nothing,
    /// A whiteout of overlayfs, owned by this user and group.
    Whiteout {
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// How to rename.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenameOptions {
    /// What to do about an entry that has the new name.
    pub replace: Replace,
    /// What is left in the old place.
    pub leave: Leave,
}

/// Two places and what was seen there before the inodes were locked.
struct Move<'a> {
    from: Place<'a>,
    to: Place<'a>,
    source: Entry,
    replaced: Option<Entry>,
    now: Timespec,
}

impl Filesystem {
    /// Gives an entry another place.
    pub fn rename(&self, from: Place<'_>, to: Place<'_>, options: RenameOptions) -> Result<()> {
        from.check()?;
        to.check()?;
        while let Attempt::Again = self.rename_once(from, to, options)? {}
        Ok(())
    }

    /// Lets two entries change places.
    pub fn exchange(&self, a: Place<'_>, b: Place<'_>) -> Result<()> {
        a.check()?;
        b.check()?;
        while let Attempt::Again = self.exchange_once(a, b)? {}
        Ok(())
    }

    fn see<'a>(&self, from: Place<'a>, to: Place<'a>) -> Result<Move<'a>> {
        let (source, replaced) = self.shared.gate.view(|tx| Ok((entry::find(tx, &from)?, entry::find(tx, &to)?)))?;
        Ok(Move { from, to, source: source.ok_or(Error::NotFound)?, replaced, now: self.now() })
    }

    /// The directories of both places, and the inodes behind the names.
    fn inodes_of(&self, seen: &Move<'_>) -> Result<Vec<InodeRef>> {
        let mut inodes = vec![self.dir(seen.from.dir)?, self.dir(seen.to.dir)?];
        for (place, entry) in [(&seen.from, Some(seen.source)), (&seen.to, seen.replaced)] {
            if let Some(Entry { target: Target::Inode(ino), .. }) = entry {
                inodes.push(self.inode(InodeId::new(place.dir.tree, ino))?);
            }
        }
        Ok(inodes)
    }

    fn rename_once(&self, from: Place<'_>, to: Place<'_>, options: RenameOptions) -> Result<Attempt<()>> {
        let seen = self.see(from, to)?;
        check_types(&seen, options.replace)?;
        if seen.replaced.is_some_and(|replaced| replaced.target == seen.source.target) && from.dir.tree == to.dir.tree {
            return Ok(Attempt::Done(()));
        }
        let inodes = self.inodes_of(&seen)?;
        let whiteout = self.change(&inodes, Need::Items(20), |tx, drafts| {
            let Some((source, replaced)) = find_both(tx, drafts, &seen)? else { return Ok(Attempt::Again) };
            check_move(tx, &source, &seen.from, &seen.to)?;
            if let Some(replaced) = &replaced {
                require_removable(tx, drafts, replaced.inode(to.dir))?;
            }
            let room = self.room(&seen.to, &source, Some(seen.from));
            link::check_room(tx, &room, replaced.as_ref())?;
            if let Some(replaced) = &replaced {
                remove_name(tx, drafts, &to, replaced, seen.now)?;
            }
            self.move_entry(tx, drafts, &seen, &source)?;
            let whiteout = self.leave(tx, drafts, &seen, options.leave)?;
            write_dirs(tx, drafts, &seen)?;
            Ok(Attempt::Done(whiteout))
        })?;
        if let Attempt::Done(Some((id, state))) = whiteout {
            self.inodes.get(id, |_| Ok(state))?;
        } else if let Attempt::Again = whiteout {
            return Ok(Attempt::Again);
        }
        inodes.iter().try_for_each(|inode| self.delete_if_unused(inode))?;
        Ok(Attempt::Done(()))
    }

    fn room<'a>(&self, place: &Place<'a>, link: &Link, leaving: Option<Place<'a>>) -> Room<'a> {
        Room { place: *place, target: Some(link.entry.target), leaving, features: self.shared.features }
    }

    fn move_entry(&self, tx: &mut Transaction, drafts: &mut Drafts, seen: &Move<'_>, source: &Link) -> Result<()> {
        link::detach(tx, drafts.of(seen.from.dir)?, seen.from.name, source, seen.now)?;
        link::attach(tx, drafts.of(seen.to.dir)?, seen.to.name, source.entry, seen.now)?;
        touch_inode(tx, drafts, source, seen.from.dir, seen.now)
    }

    /// Puts a whiteout where the entry was, if one is wanted.
    fn leave(
        &self,
        tx: &mut Transaction,
        drafts: &mut Drafts,
        seen: &Move<'_>,
        leave: Leave,
    ) -> Result<Option<(InodeId, InodeState)>> {
        let Leave::Whiteout { uid, gid } = leave else { return Ok(None) };
        let kind = NewKind::Special { file_type: FileType::CharDevice, rdev: 0 };
        let new = NewInode { kind, permissions: 0, uid, gid };
        let dir = drafts.of(seen.from.dir)?;
        let mut item = new.item(tx, &dir.item, &NewFileRules::default(), seen.now);
        let id = self.take_id(tx, seen.from.dir)?;
        insert_inode(tx, id, &new, &mut item)?;
        let what = Entry { target: Target::Inode(id.ino), file_type: FileType::CharDevice };
        link::attach(tx, dir, seen.from.name, what, seen.now)?;
        Ok(Some((id, InodeState::clean(item))))
    }

    fn exchange_once(&self, a: Place<'_>, b: Place<'_>) -> Result<Attempt<()>> {
        let seen = self.see(a, b)?;
        // In another subvolume the same number is another inode.
        if seen.replaced.ok_or(Error::NotFound)?.target == seen.source.target && a.dir.tree == b.dir.tree {
            return Ok(Attempt::Done(()));
        }
        let inodes = self.inodes_of(&seen)?;
        self.change(&inodes, Need::Items(20), |tx, drafts| {
            let Some((first, Some(second))) = find_both(tx, drafts, &seen)? else { return Ok(Attempt::Again) };
            check_move(tx, &first, &a, &b)?;
            check_move(tx, &second, &b, &a)?;
            link::check_room(tx, &self.room(&b, &first, Some(a)), Some(&second))?;
            link::check_room(tx, &self.room(&a, &second, Some(b)), Some(&first))?;
            link::detach(tx, drafts.of(a.dir)?, a.name, &first, seen.now)?;
            link::detach(tx, drafts.of(b.dir)?, b.name, &second, seen.now)?;
            link::attach(tx, drafts.of(b.dir)?, b.name, first.entry, seen.now)?;
            link::attach(tx, drafts.of(a.dir)?, a.name, second.entry, seen.now)?;
            touch_inode(tx, drafts, &first, a.dir, seen.now)?;
            touch_inode(tx, drafts, &second, b.dir, seen.now)?;
            write_dirs(tx, drafts, &seen)?;
            Ok(Attempt::Done(()))
        })
    }
}

/// What the entries alone say against a rename.
fn check_types(seen: &Move<'_>, replace: Replace) -> Result<()> {
    let Some(replaced) = seen.replaced else { return Ok(()) };
    let is_dir = |entry: Entry| entry.file_type == FileType::Directory;
    match (is_dir(seen.source), is_dir(replaced)) {
        _ if replace == Replace::Refuse => Err(Error::Exists),
        (true, false) => Err(Error::NotDirectory),
        (false, true) => Err(Error::IsDirectory),
        // As in the kernel: a subvolume is never replaced.
        _ if matches!(replaced.target, Target::Subvolume(_)) => Err(Error::NotEmpty),
        _ => Ok(()),
    }
}

/// Both entries, checked; `None` if they are not what was seen.
fn find_both(tx: &Transaction, drafts: &mut Drafts, seen: &Move<'_>) -> Result<Option<(Link, Option<Link>)>> {
    require_growable_dir(tx, drafts, seen.from.dir)?;
    require_growable_dir(tx, drafts, seen.to.dir)?;
    let source = link::find(tx, &seen.from)?.ok_or(Error::NotFound)?;
    let replaced = link::find(tx, &seen.to)?;
    let same = source.entry == seen.source && replaced.map(|found| found.entry) == seen.replaced;
    Ok(same.then_some((source, replaced)))
}

/// Fails if an entry must not go to another directory: into itself, across subvolumes, if it only
/// stands in for a subvolume, or is one that is read-only, whose way up would be another.
fn check_move(tx: &Transaction, link: &Link, from: &Place<'_>, to: &Place<'_>) -> Result<()> {
    if link.stub {
        return Err(Error::NotEmpty);
    }
    if from.dir.tree != to.dir.tree && matches!(link.entry.target, Target::Inode(_)) {
        return Err(Error::CrossSubvolume);
    }
    let is_dir = link.entry.file_type == FileType::Directory;
    if is_dir && from.dir != to.dir && path::is_above(tx, link.inode(from.dir), to.dir)? {
        return Err(Error::Invalid("a directory cannot be moved into itself"));
    }
    if let Target::Subvolume(tree) = link.entry.target
        && from.dir != to.dir
        && root::access(&tx.root_item(tree)?) == Access::ReadOnly
    {
        return Err(Error::ReadOnly);
    }
    Ok(())
}

/// A renamed inode's change time; the top of a subvolume keeps its own.
fn touch_inode(tx: &mut Transaction, drafts: &mut Drafts, link: &Link, dir: InodeId, now: Timespec) -> Result<()> {
    let id = link.inode(dir);
    if id.ino == Ino::ROOT_DIR {
        return Ok(());
    }
    let inode = drafts.item(id)?;
    inode.ctime = now;
    item::bump_sequence(inode);
    item::write_changed(tx, id, inode)
}

fn write_dirs(tx: &mut Transaction, drafts: &mut Drafts, seen: &Move<'_>) -> Result<()> {
    item::write_inode_item(tx, seen.from.dir, drafts.item(seen.from.dir)?)?;
    if seen.to.dir == seen.from.dir {
        return Ok(());
    }
    item::write_inode_item(tx, seen.to.dir, drafts.item(seen.to.dir)?)
}

//! Removing names: unlink and rmdir.

use butterfs_format::items::{FileType, Timespec};

use super::{Attempt, Filesystem, require_changeable_dir};
use crate::dir::Place;
use crate::dir::entry::{self, Target};
use crate::dir::link::{self, Link};
use crate::error::{Error, Result};
use crate::inode::{Drafts, InodeId, InodeRef, item, orphan};
use crate::tx::{Need, Transaction};

impl Filesystem {
    /// Removes a name that is not a directory's.
    pub fn unlink(&self, place: Place<'_>) -> Result<()> {
        place.check()?;
        while let Attempt::Again = self.remove_once(place, Wanted::Other)? {}
        Ok(())
    }

    /// Removes an empty directory; an empty subvolume too, and what a snapshot shows for one.
    pub fn rmdir(&self, place: Place<'_>) -> Result<()> {
        place.check()?;
        while let Attempt::Again = self.remove_once(place, Wanted::Directory)? {}
        Ok(())
    }

    fn remove_once(&self, place: Place<'_>, wanted: Wanted) -> Result<Attempt<()>> {
        let now = self.now();
        let dir = self.dir(place.dir)?;
        let entry = self.shared.gate.view(|tx| entry::find(tx, &place))?.ok_or(Error::NotFound)?;
        wanted.check(entry.file_type)?;
        let Target::Inode(ino) = entry.target else {
            return self.remove_subvolume_entry(place, super::snapshots::Content::MustBeEmpty);
        };
        let id = InodeId::new(place.dir.tree, ino);
        let inode = self.inode(id)?;
        let inodes: [InodeRef; 2] = [dir, InodeRef::clone(&inode)];
        let attempt = self.change(&inodes, Need::Deletion, |tx, drafts| {
            require_changeable_dir(tx, drafts, place.dir)?;
            let found = link::find(tx, &place)?.ok_or(Error::NotFound)?;
            if found.entry != entry {
                return Ok(Attempt::Again);
            }
            require_removable(tx, drafts, id)?;
            remove_name(tx, drafts, &place, &found, now)?;
            let dir = drafts.item(place.dir)?;
            item::write_inode_item(tx, place.dir, dir)?;
            Ok(Attempt::Done(()))
        })?;
        self.delete_if_unused(&inode)?;
        Ok(attempt)
    }
}

/// Which names an operation removes.
#[derive(Clone, Copy)]
enum Wanted {
    Directory,
    Other,
}

impl Wanted {
    fn check(self, file_type: FileType) -> Result<()> {
        match (self, file_type) {
            (Self::Directory, FileType::Directory) => Ok(()),
            (Self::Directory, _) => Err(Error::NotDirectory),
            (Self::Other, FileType::Directory) => Err(Error::IsDirectory),
            (Self::Other, _) => Ok(()),
        }
    }
}

/// Fails for a directory with entries.
pub(super) fn require_removable(tx: &Transaction, drafts: &mut Drafts, id: InodeId) -> Result<()> {
    if drafts.item(id)?.is_dir() && !entry::is_empty(tx, id)? { Err(Error::NotEmpty) } else { Ok(()) }
}

/// Takes a name from an inode; without any left it becomes an orphan. The directory's item is left
/// to the caller.
pub(super) fn remove_name(
    tx: &mut Transaction,
    drafts: &mut Drafts,
    place: &Place<'_>,
    found: &Link,
    now: Timespec,
) -> Result<()> {
    let id = found.inode(place.dir);
    link::detach(tx, drafts.of(place.dir)?, place.name, found, now)?;
    let inode = drafts.item(id)?;
    inode.nlink = inode.nlink.get().saturating_sub(1).into();
    item::touch(inode, now);
    if inode.is_dir() {
        inode.size = 0.into();
    }
    if inode.nlink.get() == 0 {
        orphan::add(tx, id)?;
    }
    item::write_changed(tx, id, inode)
}

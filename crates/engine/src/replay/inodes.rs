//! Inode items: brought over first, counted last.

use butterfs_format::items::{DirEntry, FileType, InodeExtref, InodeItem, InodeRef, pack_dir_entry, read_exact};
use butterfs_format::superblock::Incompat;
use butterfs_format::{Ino, ItemType, Key};
use zerocopy::IntoBytes;

use super::Replay;
use crate::error::{Error, Result};
use crate::file::extents::drop_range;
use crate::inode::{corrupt, item, orphan, scan};

fn is_regular(inode: &InodeItem) -> bool {
    FileType::from_mode(inode.mode.get()) == FileType::Regular
}

impl Replay<'_> {
    /// An inode item, and what the inode lost: attributes, names, the tail.
    pub(super) fn replay_inode(&mut self, key: &Key, data: &[u8]) -> Result<()> {
        let logged: InodeItem = read_exact(data).map_err(|problem| corrupt(self.tree(), key, problem))?;
        let ino = key.objectid;
        if logged.nlink.get() == 0 {
            self.ignored.insert(ino);
            return Ok(());
        }
        self.delete_lost_xattrs(ino)?;
        if logged.is_dir() {
            self.delete_lost_names(ino)?;
        }
        let now = self.bring_over(ino, logged)?;
        if is_regular(&now) {
            let sector = u64::from(self.tx.geometry().sectorsize);
            let end = now.size.get().checked_next_multiple_of(sector).unwrap_or(u64::MAX);
            let dropped = drop_range(self.tx, self.id(ino), end..u64::MAX)?;
            self.count_bytes(ino, 0, dropped)?;
        }
        self.recount.insert(ino);
        Ok(())
    }

    /// The logged item in the place of the one that is there. Sizes of directories and bytes of files
    /// follow from what is replayed next. Generation 0: the inode was only to exist.
    fn bring_over(&mut self, ino: u64, logged: InodeItem) -> Result<InodeItem> {
        let mut new = logged;
        match item::read(self.tx, self.id(ino)) {
            Ok(old) if logged.generation.get() == 0 => {
                let size = if is_regular(&logged) && is_regular(&old) && logged.size.get() != 0 {
                    logged.size
                } else {
                    old.size
                };
                new = InodeItem { size, ..old };
            }
            Ok(old) => {
                new.nbytes = old.nbytes;
                if new.is_dir() {
                    new.size = old.size;
                }
            }
            Err(Error::NotFound) => {
                new.nbytes = 0.into();
                if new.is_dir() {
                    new.size = 0.into();
                }
                if new.generation.get() == 0 {
                    new.generation = self.tx.generation().0.into();
                }
            }
            Err(error) => return Err(error),
        }
        self.put_inode(ino, &new)?;
        Ok(new)
    }

    pub(super) fn put_inode(&mut self, ino: u64, inode: &InodeItem) -> Result<()> {
        self.tx.put(self.tree(), &item::key(Ino(ino)), inode.as_bytes())
    }

    pub(super) fn change_inode(&mut self, ino: u64, change: impl FnOnce(&mut InodeItem)) -> Result<()> {
        let mut inode = item::read(self.tx, self.id(ino))?;
        change(&mut inode);
        self.put_inode(ino, &inode)
    }

    /// Counts bytes of data that came and went.
    pub(super) fn count_bytes(&mut self, ino: u64, added: u64, removed: u64) -> Result<()> {
        if added == removed {
            return Ok(());
        }
        self.change_inode(ino, |inode| {
            inode.nbytes = inode.nbytes.get().saturating_add(added).saturating_sub(removed).into();
        })
    }

    /// Attributes that the log, which has them all, does not have.
    fn delete_lost_xattrs(&mut self, ino: u64) -> Result<()> {
        let from = Key::new(ino, ItemType::XATTR_ITEM, 0);
        for (key, data) in scan::of_type(self.tx, self.tree(), &from, usize::MAX)? {
            let parse = |data| DirEntry::parse_all(data).map_err(|problem| corrupt(self.tree(), &key, problem));
            let logged = self.log.get(self.tx, &key)?.unwrap_or_default();
            let (logged, mut rest) = (parse(&logged)?, Vec::new());
            let kept = |entry: &&DirEntry<'_>| logged.iter().any(|other| other.name == entry.name);
            parse(&data)?.iter().filter(kept).for_each(|entry| pack_dir_entry(entry, &mut rest));
            if rest.is_empty() {
                self.tx.remove(self.tree(), &key)?;
            } else if rest != data {
                self.tx.put(self.tree(), &key, &rest)?;
            }
        }
        Ok(())
    }

    /// Counts the names of every inode whose names may have changed. A directory without one loses
    /// its entries, whose inodes are counted in turn.
    pub(super) fn recount_links(&mut self) -> Result<()> {
        while let Some(ino) = self.recount.pop_first() {
            let inode = match item::read(self.tx, self.id(ino)) {
                Ok(inode) => inode,
                Err(Error::NotFound) => continue,
                Err(error) => return Err(error),
            };
            let names = self.count_names(ino)?;
            if inode.nlink.get() != names {
                self.change_inode(ino, |inode| inode.nlink = names.into())?;
            }
            if names == 0 {
                if inode.is_dir() {
                    self.delete_all_names(ino)?;
                }
                orphan::add(self.tx, self.id(ino))?;
            }
            self.tx.make_room_for_replay()?;
        }
        Ok(())
    }

    fn count_names(&self, ino: u64) -> Result<u32> {
        let (tree, mut names) = (self.tree(), 0_usize);
        let range = (Key::new(ino, ItemType::INODE_REF, 0), Key::new(ino, ItemType::INODE_EXTREF, u64::MAX));
        for (key, data) in scan::between(self.tx, tree, &range, usize::MAX)? {
            let count = match key.item_type {
                ItemType::INODE_REF => InodeRef::parse_all(&data).map(|refs| refs.len()),
                _ => InodeExtref::parse_all(&data).map(|refs| refs.len()),
            };
            names += count.map_err(|problem| corrupt(tree, &key, problem))?;
        }
        u32::try_from(names).map_err(|_| Error::TooManyLinks)
    }

    pub(super) fn has_no_holes(&self) -> bool {
        self.tx.incompat().contains(Incompat::NO_HOLES)
    }
}

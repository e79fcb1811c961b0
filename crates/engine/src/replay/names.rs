//! Names: entries of directories, and the references back from inodes.

use butterfs_format::items::{DirEntry, FileType, InodeExtref, InodeRef};
use butterfs_format::{Ino, ItemType, Key};

use super::{BATCH, Replay};
use crate::dir::entry::{self, Entry, Target};
use crate::dir::{Place, backref, link};
use crate::error::{Error, Result};
use crate::inode::{corrupt, item, scan};

/// A name as an inode of the log has it.
struct Name {
    parent: u64,
    index: u64,
    name: Vec<u8>,
}

impl Replay<'_> {
    fn place<'n>(&self, dir: u64, name: &'n [u8]) -> Place<'n> {
        Place::new(self.id(dir), name)
    }

    fn exists(&self, ino: u64) -> Result<bool> {
        match item::read(self.tx, self.id(ino)) {
            Ok(_) => Ok(true),
            Err(Error::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The log is whole for ranges of a directory's indexes: a name there that it lacks is gone.
    pub(super) fn delete_lost_names(&mut self, dir: u64) -> Result<()> {
        for (key, data) in self.log.of_type(self.tx, dir, ItemType::DIR_LOG_INDEX)? {
            let end = data.first_chunk().map(|end| u64::from_le_bytes(*end));
            let end = end.ok_or_else(|| corrupt(self.tree(), &key, "range of directory indexes is too short"))?;
            self.delete_names(dir, key.offset, end, |replay, key, name| replay.log_has_index(key, name))?;
        }
        Ok(())
    }

    /// Everything in a directory that is gone itself.
    pub(super) fn delete_all_names(&mut self, dir: u64) -> Result<()> {
        self.delete_names(dir, 0, u64::MAX, |_, _, _| Ok(false))
    }

    /// Takes away the names with indexes from `from` to `end`, but those to be kept.
    fn delete_names(
        &mut self,
        dir: u64,
        mut from: u64,
        end: u64,
        keep: fn(&Self, &Key, &[u8]) -> Result<bool>,
    ) -> Result<()> {
        loop {
            let range = (Key::new(dir, ItemType::DIR_INDEX, from), Key::new(dir, ItemType::DIR_INDEX, end));
            let batch = scan::between(self.tx, self.tree(), &range, BATCH)?;
            for (key, data) in &batch {
                let entry = self.entry(key, data)?;
                if !keep(self, key, entry.name)? {
                    self.unlink(dir, entry.name)?;
                }
            }
            match batch.last().and_then(|(key, _)| key.offset.checked_add(1)) {
                Some(next) if next <= end => from = next,
                _ => return Ok(()),
            }
        }
    }

    fn log_has_index(&self, key: &Key, name: &[u8]) -> Result<bool> {
        let Some(data) = self.log.get(self.tx, key)? else { return Ok(false) };
        Ok(self.entry(key, &data)?.name == name)
    }

    fn entry<'d>(&self, key: &Key, data: &'d [u8]) -> Result<DirEntry<'d>> {
        let entries = DirEntry::parse_all(data).map_err(|problem| corrupt(self.tree(), key, problem))?;
        entries.into_iter().next().ok_or_else(|| corrupt(self.tree(), key, "entry is missing"))
    }

    /// Takes a name of an inode away; a subvolume keeps its own.
    fn unlink(&mut self, dir: u64, name: &[u8]) -> Result<()> {
        let place = self.place(dir, name);
        let Some(found) = link::find(self.tx, &place)? else { return Ok(()) };
        let Target::Inode(ino) = found.entry.target else { return Ok(()) };
        entry::remove(self.tx, &place, found.index)?;
        backref::remove(self.tx, ino, &place)?;
        let size = place.size_in_dir();
        self.change_inode(dir, |inode| inode.size = inode.size.get().saturating_sub(size).into())?;
        self.recount.insert(ino.0);
        Ok(())
    }

    /// Gives an inode a name; what has that name or that index goes first.
    fn link(&mut self, ino: u64, name: &Name, file_type: FileType) -> Result<()> {
        let (dir, index) = (name.parent, name.index);
        let target = Target::Inode(Ino(ino));
        if let Some(found) = link::find(self.tx, &self.place(dir, &name.name))? {
            if found.entry.target == target && found.index == index {
                return Ok(());
            }
            if matches!(found.entry.target, Target::Subvolume(_)) {
                return Ok(());
            }
            self.unlink(dir, &name.name)?;
        }
        let key = entry::index_key(self.id(dir), index);
        if let Some(data) = self.tx.get(self.tree(), &key)? {
            let other = self.entry(&key, &data)?.name.to_vec();
            self.unlink(dir, &other)?;
        }
        let place = self.place(dir, &name.name);
        entry::insert(self.tx, &place, index, Entry { target, file_type })?;
        backref::add(self.tx, Ino(ino), &place, index)?;
        let size = place.size_in_dir();
        self.change_inode(dir, |inode| inode.size = inode.size.get().saturating_add(size).into())?;
        self.recount.insert(ino);
        Ok(())
    }

    /// An entry that the log has. Where it also has the inode's own reference, that does the work.
    pub(super) fn replay_dir_index(&mut self, key: &Key, data: &[u8]) -> Result<()> {
        let entry = self.entry(key, data)?;
        let Target::Inode(ino) = Target::of_location(entry.location) else { return Ok(()) };
        if self.ignored.contains(&ino.0) || !self.exists(ino.0)? || !self.exists(key.objectid)? {
            return Ok(());
        }
        let name = Name { parent: key.objectid, index: key.offset, name: entry.name.to_vec() };
        if self.log_has_ref(ino.0, &name)? {
            return Ok(());
        }
        self.link(ino.0, &name, entry.file_type)
    }

    fn log_has_ref(&self, ino: u64, name: &Name) -> Result<bool> {
        let is_it = |other: &Name| other.parent == name.parent && other.name == name.name;
        for item_type in [ItemType::INODE_REF, ItemType::INODE_EXTREF] {
            for (key, data) in self.log.of_type(self.tx, ino, item_type)? {
                if self.names(&key, &data)?.iter().any(is_it) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn names(&self, key: &Key, data: &[u8]) -> Result<Vec<Name>> {
        let names = match key.item_type {
            ItemType::INODE_REF => InodeRef::parse_all(data).map(|refs| {
                let name = |r: &InodeRef<'_>| Name { parent: key.offset, index: r.index, name: r.name.to_vec() };
                refs.iter().map(name).collect()
            }),
            _ => InodeExtref::parse_all(data).map(|refs| {
                let name = |r: &InodeExtref<'_>| Name { parent: r.parent, index: r.index, name: r.name.to_vec() };
                refs.iter().map(name).collect()
            }),
        };
        names.map_err(|problem| corrupt(self.tree(), key, problem))
    }

    /// The references of an inode to one directory: names that are new come, names that the item has
    /// lost go.
    pub(super) fn replay_ref(&mut self, key: &Key, data: &[u8]) -> Result<()> {
        let ino = key.objectid;
        let inode = match item::read(self.tx, self.id(ino)) {
            Ok(inode) => inode,
            Err(Error::NotFound) => return Err(corrupt(self.tree(), key, "logged for an inode that is not there")),
            Err(error) => return Err(error),
        };
        let logged = self.names(key, data)?;
        if ino == Ino::ROOT_DIR.0 {
            return Ok(());
        }
        let old = self.tx.get(self.tree(), key)?.map_or(Ok(Vec::new()), |old| self.names(key, &old))?;
        let is_lost = |name: &&Name| !logged.iter().any(|kept| kept.parent == name.parent && kept.name == name.name);
        for lost in old.iter().filter(is_lost) {
            self.unlink(lost.parent, &lost.name)?;
        }
        let file_type = FileType::from_mode(inode.mode.get());
        for name in &logged {
            // A directory that is not there was deleted; the inode has other names, or goes too.
            if self.exists(name.parent)? {
                self.link(ino, name, file_type)?;
            }
        }
        Ok(())
    }
}

//! Which names and inodes have to be logged together, found before anything is written.
//!
//! The log, replayed over the last commit, must be a filesystem that could have been: so a change of a name brings
//! along all that it depends on, and nothing is left for replay to guess.
//!
//! 1. All changed names of one inode go together: replay takes names away that a logged reference lacks.
//! 2. So do all changes of one name of a directory: who had it before must not lose it to nobody.
//! 3. With an entry goes what happened to its directory itself: a new one must be there, down from an old one.
//! 4. With a directory that is gone go the changes of all its entries: replay deletes what it finds in it, and what
//!    was moved out must be somewhere else by then.
//! 5. A directory that was moved brings along every changed name of the subvolume. What is in it and above it is
//!    then as it is at this moment, so no directory ends up below itself.

use std::collections::{BTreeMap, BTreeSet};

use butterfs_format::items::{FileType, InodeFlags, InodeItem};
use butterfs_format::{Ino, TreeId};

use crate::error::{Error, Result};
use crate::inode::{InodeId, item};
use crate::tx::{EntryKey, Loggable, NameChanges, Transaction, WhyCommit};

/// With more changed names than this a commit is cheaper.
const MANY: usize = 1 << 13;

/// How an inode is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It is no more: the log forgets it.
    Gone,
    /// All that it is; for a file, without its data.
    Whole,
    /// Its names; the log has its other items already.
    Names,
    /// That it is there, with names and attributes. An older one keeps its data and the rest of its item.
    Exists,
}

/// What goes into the log in one piece.
pub struct Plan {
    /// Entries that came or went.
    pub entries: BTreeSet<EntryKey>,
    /// Inodes that are touched by that, and the one that is synced.
    pub inodes: BTreeMap<Ino, Treatment>,
}

/// Finds what has to be logged with an inode.
pub fn make(tx: &Transaction, id: InodeId) -> Result<Loggable<Plan>> {
    let empty = NameChanges::default();
    let names = tx.name_changes(id.tree).unwrap_or(&empty);
    let mut closure = Closure {
        tx,
        tree: id.tree,
        names,
        todo: Vec::new(),
        entries: BTreeSet::new(),
        inodes: BTreeMap::new(),
        followed: BTreeSet::new(),
    };
    closure.add_inode(id.ino)?;
    closure.follow(id.ino)?;
    closure.follow_dirs_that_lost(id.ino)?;
    if let Err(why) = closure.close()? {
        return Ok(Err(why));
    }
    let Closure { entries, inodes, .. } = closure;
    let mut plan = Plan { entries, inodes: BTreeMap::new() };
    for (ino, item) in inodes {
        match treatment(tx, InodeId::new(id.tree, ino), item.as_ref(), id.ino)? {
            Ok(treatment) => plan.inodes.insert(ino, treatment),
            Err(why) => return Ok(Err(why)),
        };
    }
    Ok(Ok(plan))
}

fn treatment(tx: &Transaction, id: InodeId, item: Option<&InodeItem>, synced: Ino) -> Result<Loggable<Treatment>> {
    let Some(item) = item else { return Ok(Ok(Treatment::Gone)) };
    if tx.name_changes(id.tree).is_some_and(|names| names.was_revived(id.ino)) {
        return Ok(Err(WhyCommit::Revived));
    }
    if item.is_dir() || id.ino == synced {
        return Ok(Ok(Treatment::Whole));
    }
    let is_old = item.generation.get() < tx.generation().0;
    Ok(match FileType::from_mode(item.mode.get()) {
        FileType::Regular if tx.logged_item(id.tree, &item::key(id.ino))?.is_some() => Ok(Treatment::Names),
        FileType::Regular if is_old && item.flags().contains(InodeFlags::PREALLOC) => Err(WhyCommit::Preallocated),
        FileType::Regular => Ok(Treatment::Exists),
        _ if is_old => Ok(Treatment::Exists),
        // A symbolic link without its target would be worse than none.
        _ => Ok(Treatment::Whole),
    })
}

struct Closure<'t> {
    tx: &'t Transaction,
    tree: TreeId,
    names: &'t NameChanges,
    /// Entries whose dependencies are still to be found.
    todo: Vec<EntryKey>,
    entries: BTreeSet<EntryKey>,
    /// With their items; `None` if they are gone.
    inodes: BTreeMap<Ino, Option<InodeItem>>,
    /// Directories whose entries are all logged.
    followed: BTreeSet<Ino>,
}

impl Closure<'_> {
    fn add(&mut self, keys: impl Iterator<Item = EntryKey>) {
        for key in keys {
            if self.entries.insert(key) {
                self.todo.push(key);
            }
        }
    }

    fn close(&mut self) -> Result<Loggable> {
        while let Some(key) = self.todo.pop() {
            if self.entries.len() > MANY {
                return Ok(Err(WhyCommit::TooMuch));
            }
            let Some(change) = self.names.get(key) else { continue };
            self.add_inode(key.0)?;
            for side in change.sides() {
                self.add(self.names.with_name(key.0, side.hash));
                match side.to {
                    Some(ino) => self.add_inode(ino)?,
                    None => return Ok(Err(WhyCommit::SubvolumeName)),
                }
            }
        }
        Ok(Ok(()))
    }

    /// An inode, with all changes of its names and what these may need besides.
    fn add_inode(&mut self, ino: Ino) -> Result<()> {
        if self.inodes.contains_key(&ino) {
            return Ok(());
        }
        let item = self.read(ino)?;
        self.inodes.insert(ino, item);
        self.add(self.names.of_inode(ino));
        match item {
            None => self.add(self.names.in_dir(ino)),
            Some(item) if item.is_dir() && self.lost_a_name(ino) => self.add(self.names.all()),
            Some(_) => {}
        }
        Ok(())
    }

    fn read(&self, ino: Ino) -> Result<Option<InodeItem>> {
        match item::read(self.tx, InodeId::new(self.tree, ino)) {
            Ok(item) => Ok(Some(item).filter(|item| item.nlink.get() > 0)),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn lost_a_name(&self, ino: Ino) -> bool {
        let is_lost = |key| self.names.get(key).and_then(|change| change.lost).is_some_and(|lost| lost.to == Some(ino));
        self.names.of_inode(ino).any(is_lost)
    }

    /// An inode that lost a name brings along all of the directories that are concerned, as in the kernel.
    fn follow_dirs_that_lost(&mut self, ino: Ino) -> Result<()> {
        if self.lost_a_name(ino) {
            let keys: Vec<EntryKey> = self.names.of_inode(ino).collect();
            keys.iter().try_for_each(|(dir, _)| self.follow(*dir))?;
        }
        Ok(())
    }

    /// A synced directory's entries, and those of new directories in it.
    fn follow(&mut self, dir: Ino) -> Result<()> {
        let mut todo = vec![dir];
        while let Some(dir) = todo.pop() {
            if !self.followed.insert(dir) {
                continue;
            }
            let keys: Vec<EntryKey> = self.names.in_dir(dir).collect();
            self.add(keys.iter().copied());
            let gained = keys.iter().filter_map(|key| self.names.get(*key)?.gained?.to);
            for ino in gained {
                let is_new_dir = |item: &InodeItem| item.is_dir() && item.generation.get() >= self.tx.generation().0;
                if self.read(ino)?.as_ref().is_some_and(is_new_dir) {
                    todo.push(ino);
                }
            }
        }
        Ok(())
    }
}

//! Which names of a subvolume changed since they were last made durable or logged.
//!
//! An entry is known by its directory and index; of each that came or went this says what it led to. Names
//! themselves are not kept, but their hashes: two names with one hash are taken for one, which only makes the
//! log somewhat larger.
//!
//! # Invariants
//! * An entry that came and went again is forgotten: neither the last commit nor the log knows it.
//! * `by_inode` and `by_name` lead to every change in `changes`, and to nothing else.

use std::collections::{BTreeMap, BTreeSet};

use butterfs_format::Ino;

/// An entry's directory and index.
pub type EntryKey = (Ino, u64);

/// What an entry leads to, or led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leads {
    /// The hash of the name.
    pub hash: u64,
    /// The inode; `None` for a subvolume.
    pub to: Option<Ino>,
}

/// What happened to an entry: what was there before, and what is there now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryChange {
    /// What was there by the last commit or log.
    pub lost: Option<Leads>,
    /// What came since.
    pub gained: Option<Leads>,
}

impl EntryChange {
    /// Both sides.
    pub fn sides(&self) -> impl Iterator<Item = Leads> + use<> {
        self.lost.into_iter().chain(self.gained)
    }
}

/// The names of one subvolume that changed.
#[derive(Debug, Default)]
pub struct NameChanges {
    changes: BTreeMap<EntryKey, EntryChange>,
    /// Inode, and the entry's key.
    by_inode: BTreeSet<(Ino, EntryKey)>,
    /// Directory, hash of the name, and index.
    by_name: BTreeSet<(Ino, u64, u64)>,
    /// Inodes of older transactions that had no names and got one again.
    revived: BTreeSet<Ino>,
}

impl NameChanges {
    /// An entry came.
    pub(super) fn gain(&mut self, key: EntryKey, leads: Leads) {
        let mut change = self.take(key).unwrap_or_default();
        change.gained = Some(leads);
        self.put(key, change);
    }

    /// An entry went.
    pub(super) fn lose(&mut self, key: EntryKey, leads: Leads) {
        let mut change = self.take(key).unwrap_or_default();
        if change.gained.take().is_none() && change.lost.is_none() {
            change.lost = Some(leads);
        }
        if change.lost.is_some() {
            self.put(key, change);
        }
    }

    pub(super) fn revive(&mut self, ino: Ino) {
        self.revived.insert(ino);
    }

    fn put(&mut self, key: EntryKey, change: EntryChange) {
        for side in change.sides() {
            self.by_name.insert((key.0, side.hash, key.1));
            self.by_inode.extend(side.to.map(|ino| (ino, key)));
        }
        self.changes.insert(key, change);
    }

    /// Forgets a change: it was logged.
    pub fn take(&mut self, key: EntryKey) -> Option<EntryChange> {
        let change = self.changes.remove(&key)?;
        for side in change.sides() {
            self.by_name.remove(&(key.0, side.hash, key.1));
            if let Some(ino) = side.to {
                self.by_inode.remove(&(ino, key));
            }
        }
        Some(change)
    }

    /// What happened to an entry.
    pub fn get(&self, key: EntryKey) -> Option<&EntryChange> {
        self.changes.get(&key)
    }

    /// How many entries changed.
    pub fn count(&self) -> usize {
        self.changes.len()
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = EntryKey> {
        self.changes.keys().copied()
    }

    /// Those that lead or led to an inode.
    pub fn of_inode(&self, ino: Ino) -> impl Iterator<Item = EntryKey> {
        self.by_inode.range((ino, (Ino(0), 0))..=(ino, (Ino(u64::MAX), u64::MAX))).map(|(_, key)| *key)
    }

    /// Those of a directory.
    pub fn in_dir(&self, dir: Ino) -> impl Iterator<Item = EntryKey> {
        self.changes.range((dir, 0)..=(dir, u64::MAX)).map(|(key, _)| *key)
    }

    /// Those that have or had a name in a directory.
    pub fn with_name(&self, dir: Ino, hash: u64) -> impl Iterator<Item = EntryKey> {
        self.by_name.range((dir, hash, 0)..=(dir, hash, u64::MAX)).map(|(dir, _, index)| (*dir, *index))
    }

    /// Whether an inode of an older transaction got a name after it had none.
    pub fn was_revived(&self, ino: Ino) -> bool {
        self.revived.contains(&ino)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn leads(hash: u64, ino: u64) -> Leads {
        Leads { hash, to: Some(Ino(ino)) }
    }

    fn keys(found: impl Iterator<Item = EntryKey>) -> Vec<(u64, u64)> {
        found.map(|(dir, index)| (dir.0, index)).collect()
    }

    #[test]
    fn what_came_and_went_is_forgotten() {
        let mut names = NameChanges::default();
        names.gain((Ino(256), 5), leads(1, 300));
        names.lose((Ino(256), 5), leads(1, 300));
        assert_eq!((names.count(), names.of_inode(Ino(300)).count(), names.with_name(Ino(256), 1).count()), (0, 0, 0));
    }

    #[test]
    fn an_index_that_is_used_again_keeps_what_was_lost() {
        let mut names = NameChanges::default();
        let key = (Ino(256), 5);
        names.lose(key, leads(1, 300));
        names.gain(key, leads(2, 301));
        assert_eq!(names.get(key), Some(&EntryChange { lost: Some(leads(1, 300)), gained: Some(leads(2, 301)) }));
        names.lose(key, leads(2, 301));
        assert_eq!(names.get(key), Some(&EntryChange { lost: Some(leads(1, 300)), gained: None }));
        assert_eq!(keys(names.of_inode(Ino(301))), []);
        assert_eq!(keys(names.of_inode(Ino(300))), [(256, 5)]);
    }

    #[test]
    fn changes_are_found_by_inode_directory_and_name() {
        let mut names = NameChanges::default();
        names.lose((Ino(256), 5), leads(7, 300));
        names.gain((Ino(257), 2), leads(8, 300));
        names.gain((Ino(256), 9), leads(7, 301));
        assert_eq!(keys(names.of_inode(Ino(300))), [(256, 5), (257, 2)]);
        assert_eq!(keys(names.in_dir(Ino(256))), [(256, 5), (256, 9)]);
        assert_eq!(keys(names.with_name(Ino(256), 7)), [(256, 5), (256, 9)]);
        assert_eq!(names.take((Ino(256), 5)).and_then(|change| change.lost), Some(leads(7, 300)));
        assert_eq!(keys(names.with_name(Ino(256), 7)), [(256, 9)]);
    }
}

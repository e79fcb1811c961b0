//! A directory and what is below it, entry by entry, by name.
//!
//! # Invariants
//! * Each directory is entered once: one that hostile bytes put in two places, or in itself, is an error.
//! * Depth has a bound.

use std::collections::HashSet;

use butterfs_engine::dir::list::Listed;
use butterfs_engine::filesystem::Filesystem;
use butterfs_engine::inode::InodeId;
use butterfs_engine::{Error, Result};
use butterfs_format::Corruption;

use super::list;

/// More levels than the path of a file that a system can name has.
pub const MOST_LEVELS: usize = 2048;

/// The directories that a walk has been in.
#[derive(Debug, Default)]
pub struct Visited(HashSet<InodeId>);

impl Visited {
    /// Notes that a directory is entered at a depth.
    ///
    /// # Errors
    /// If it was entered before, or is too deep.
    pub fn enter(&mut self, dir: InodeId, depth: usize) -> Result<()> {
        let place = || format!("subvolume {} inode {}", dir.tree, dir.ino);
        if depth > MOST_LEVELS {
            return Err(Error::Unsupported(format!("more than {MOST_LEVELS} directories within each other")));
        }
        if !dir.is_placeholder() && !self.0.insert(dir) {
            return Err(Corruption::new(place(), "the directory is in several places").into());
        }
        Ok(())
    }
}

/// An entry that is met.
#[derive(Clone, Debug)]
pub struct Visit {
    /// The entry.
    pub entry: Listed,
    /// How many directories it is below the first.
    pub depth: usize,
    /// Whether it is the last one in its directory.
    pub is_last: bool,
}

/// What comes next.
#[derive(Clone, Debug)]
pub enum Step {
    /// An entry; [`Walk::enter`] it to see what is in it.
    Entry(Visit),
    /// The end of a directory that was entered.
    Leave,
}

struct Level {
    entries: std::vec::IntoIter<Listed>,
}

/// A walk.
pub struct Walk<'a, F> {
    fs: &'a Filesystem,
    wanted: F,
    levels: Vec<Level>,
    visited: Visited,
}

impl<'a, F: Fn(&Listed) -> bool> Walk<'a, F> {
    /// A walk that passes over what is not wanted; it begins when a directory is entered.
    pub fn new(fs: &'a Filesystem, wanted: F) -> Self {
        Self { fs, wanted, levels: Vec::new(), visited: Visited::default() }
    }

    /// Goes into a directory.
    ///
    /// # Errors
    /// If it cannot be read, or was met before; the walk goes on without it.
    pub fn enter(&mut self, dir: InodeId) -> Result<()> {
        self.visited.enter(dir, self.levels.len())?;
        let mut entries = list::entries(self.fs, dir)?;
        entries.retain(|entry| (self.wanted)(entry));
        self.levels.push(Level { entries: entries.into_iter() });
        Ok(())
    }

    /// The next step; `None` at the end.
    pub fn next(&mut self) -> Option<Step> {
        let depth = self.levels.len();
        let level = self.levels.last_mut()?;
        match level.entries.next() {
            Some(entry) => {
                let is_last = level.entries.as_slice().is_empty();
                Some(Step::Entry(Visit { entry, depth, is_last }))
            }
            None => {
                self.levels.pop();
                Some(Step::Leave)
            }
        }
    }
}

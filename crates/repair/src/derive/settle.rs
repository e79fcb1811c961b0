//! Entering in the derived trees what editing them moves, until nothing changes any more.
//!
//! It ends because a block that was copied once in this commit is changed in place from then on.

use super::references::{Extent, Extents};
use super::{extent_tree, free_space, groups::Groups};
use crate::error::{Error, Result};
use crate::store::{ChangeKind, Store};

/// More turns than the deepest trees need; past it something goes in circles.
const MAX_TURNS: usize = 1000;

/// The derived trees and what they must say.
pub struct Settling<'s> {
    /// The trees.
    pub store: &'s mut Store,
    /// All extents.
    pub extents: Extents,
    /// All block groups.
    pub groups: Groups,
}

impl Settling<'_> {
    /// Enters all block changes, root items, block groups and free space.
    ///
    /// # Errors
    /// If a tree cannot be edited, or there is no end.
    pub fn settle(&mut self) -> Result<()> {
        for _ in 0..MAX_TURNS {
            let blocks = self.enter_changes()?;
            let roots = self.store.write_roots()?;
            let groups = self.groups.write(self.store)?;
            let space = self.write_free_space()?;
            if !(blocks || roots || groups || space) {
                return Ok(());
            }
        }
        Err(Error::Refused("the extent tree and the trees that follow from it do not settle".into()))
    }

    fn enter_changes(&mut self) -> Result<bool> {
        let changes = self.store.take_changes();
        let nodesize = u64::from(self.store.geometry().nodesize);
        let generation = butterfs_engine::tree::TreeWriter::generation(self.store).0;
        for change in &changes {
            let at = change.at.0;
            if let Some(old) = self.extents.remove(&at) {
                self.groups.give(at, old.len);
            }
            if change.kind == ChangeKind::Came {
                let new = Extent::of_new_block(change.tree, change.level, change.first_key, generation, nodesize);
                self.extents.insert(at, new);
                self.groups.take(at, nodesize);
            }
            extent_tree::rewrite(self.store, at, self.extents.get(&at))?;
        }
        Ok(!changes.is_empty())
    }

    fn write_free_space(&mut self) -> Result<bool> {
        if !free_space::is_wanted(self.store) {
            return Ok(false);
        }
        let dirty = self.groups.take_dirty_space();
        for start in &dirty {
            let len = self.groups.get(*start).map_or(0, |group| group.len);
            free_space::rewrite(self.store, &self.extents, *start, len)?;
        }
        Ok(!dirty.is_empty())
    }
}

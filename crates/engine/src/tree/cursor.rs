//! A position in a tree, for reading.
//!
//! A cursor holds the blocks on its path. It sees the tree as it was when it was made: edits copy a
//! block that somebody holds.

use std::sync::Arc;

use butterfs_format::{Key, TreeBlock, TreeId};

use super::{ChildPtr, TreeReader};
use crate::error::Result;

/// A position in a tree: an item, or past the last one.
pub struct Cursor<'a, R: ?Sized> {
    reader: &'a R,
    tree: TreeId,
    /// From the root to the leaf: blocks, and the slot taken in each.
    path: Vec<(Arc<TreeBlock>, usize)>,
}

impl<'a, R: TreeReader + ?Sized> Cursor<'a, R> {
    /// At the first item whose key is `from` or higher.
    pub fn seek(reader: &'a R, tree: TreeId, from: &Key) -> Result<Self> {
        let mut cursor = Self { reader, tree, path: Vec::new() };
        let mut ptr = ChildPtr::from(reader.root(tree)?);
        loop {
            let block = reader.block(tree, &ptr)?;
            if block.is_leaf() {
                let slot = block.search(from).unwrap_or_else(|slot| slot);
                cursor.path.push((block, slot));
                cursor.settle()?;
                return Ok(cursor);
            }
            let slot = block.child_slot(from);
            ptr = ChildPtr::of(&block, slot);
            cursor.path.push((block, slot));
        }
    }

    /// The item here, or `None` past the last one.
    pub fn item(&self) -> Option<(Key, &[u8])> {
        let (leaf, slot) = self.path.last()?;
        (*slot < leaf.len()).then(|| (leaf.key(*slot), leaf.data(*slot)))
    }

    /// The leaf with the item here; the last leaf past the last item.
    pub fn leaf(&self) -> Option<&TreeBlock> {
        self.path.last().map(|(leaf, _)| &**leaf)
    }

    /// The blocks on the way here, from the root to the leaf.
    pub fn path_blocks(&self) -> impl Iterator<Item = &TreeBlock> {
        self.path.iter().map(|(block, _)| &**block)
    }

    /// The key here, or `None` past the last item.
    pub fn key(&self) -> Option<Key> {
        self.item().map(|(key, _)| key)
    }

    /// Goes to the next item.
    pub fn advance(&mut self) -> Result<()> {
        if let Some((leaf, slot)) = self.path.last_mut()
            && *slot < leaf.len()
        {
            *slot += 1;
        }
        self.settle()
    }

    /// Past a leaf's end: goes to the next leaf, if there is one.
    fn settle(&mut self) -> Result<()> {
        while self.path.last().is_some_and(|(leaf, slot)| *slot >= leaf.len()) {
            if !self.climb() {
                return Ok(());
            }
            self.descend()?;
        }
        Ok(())
    }

    /// Leaves the current leaf for the lowest node that has another child to the right.
    fn climb(&mut self) -> bool {
        let Some(depth) = self.path[..self.path.len() - 1].iter().rposition(|(node, slot)| slot + 1 < node.len())
        else {
            return false;
        };
        self.path.truncate(depth + 1);
        self.path[depth].1 += 1;
        true
    }

    /// Goes down to the first item below the current node's slot.
    fn descend(&mut self) -> Result<()> {
        while let Some((node, slot)) = self.path.last()
            && !node.is_leaf()
        {
            let ptr = ChildPtr::of(node, *slot);
            let child = self.reader.block(self.tree, &ptr)?;
            self.path.push((child, 0));
        }
        Ok(())
    }
}

/// The item with the highest key that is not above `key`.
pub fn last_not_above<R: TreeReader + ?Sized>(reader: &R, tree: TreeId, key: &Key) -> Result<Option<(Key, Vec<u8>)>> {
    look_at_last_not_above(reader, tree, key, |key, data| (key, data.to_vec()))
}

/// Looks at the item with the highest key that is not above `key`, if there is one, without copying it.
pub fn look_at_last_not_above<R: TreeReader + ?Sized, T>(
    reader: &R,
    tree: TreeId,
    key: &Key,
    look: impl FnOnce(Key, &[u8]) -> T,
) -> Result<Option<T>> {
    let mut ptr = ChildPtr::from(reader.root(tree)?);
    loop {
        let block = reader.block(tree, &ptr)?;
        let slot = match block.search(key) {
            Ok(slot) => slot,
            // Parents hold first keys, so only at the tree's very beginning is there nothing below.
            Err(0) => return Ok(None),
            Err(slot) => slot - 1,
        };
        if block.is_leaf() {
            return Ok(Some(look(block.key(slot), block.data(slot))));
        }
        ptr = ChildPtr::of(&block, slot);
    }
}

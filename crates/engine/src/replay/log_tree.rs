//! Reading log trees. They are in no root tree: a tree of their own leads to one per subvolume.

use std::ops::RangeInclusive;
use std::sync::Arc;

use butterfs_format::items::RootItem;
use butterfs_format::{ItemType, Key, Logical, TreeBlock, TreeId};

use crate::error::Result;
use crate::inode::corrupt;
use crate::inode::scan::Found;
use crate::tree::{ChildPtr, Cursor, TreeReader, TreeRoot, last_not_above};
use crate::tx::Transaction;

/// All logs of a filesystem.
pub struct Logs {
    root: TreeRoot,
    /// One for each subvolume that was fsynced in.
    pub trees: Vec<LogTree>,
}

/// The log of one subvolume.
pub struct LogTree {
    /// Whose log it is.
    pub subvolume: TreeId,
    root: TreeRoot,
}

/// One tree that is known by its root alone.
struct Reader<'t> {
    tx: &'t Transaction,
    root: TreeRoot,
}

impl TreeReader for Reader<'_> {
    fn root(&self, _: TreeId) -> Result<TreeRoot> {
        Ok(self.root)
    }

    fn block(&self, tree: TreeId, ptr: &ChildPtr) -> Result<Arc<TreeBlock>> {
        self.tx.block(tree, ptr)
    }
}

fn items(tx: &Transaction, root: TreeRoot, from: &Key, limit: usize) -> Result<Vec<Found>> {
    let reader = Reader { tx, root };
    let mut cursor = Cursor::seek(&reader, TreeId::TREE_LOG, from)?;
    let mut found = Vec::new();
    while found.len() < limit
        && let Some((key, data)) = cursor.item()
    {
        found.push((key, data.to_vec()));
        cursor.advance()?;
    }
    Ok(found)
}

/// Adds the addresses of all blocks of a tree.
fn blocks(tx: &Transaction, root: TreeRoot, found: &mut Vec<Logical>) -> Result<()> {
    let mut todo = vec![ChildPtr::from(root)];
    while let Some(ptr) = todo.pop() {
        found.push(ptr.bytenr);
        if ptr.level > 0 {
            let node = tx.block(TreeId::TREE_LOG, &ptr)?;
            todo.extend((0..node.len()).map(|slot| ChildPtr::of(&node, slot)));
        }
    }
    Ok(())
}

/// Finds the logs from the superblock on.
pub fn find_all(tx: &Transaction) -> Result<Logs> {
    let root = tx.log_root();
    let mut trees = Vec::new();
    for (key, data) in items(tx, root, &Key::MIN, usize::MAX)? {
        if key.objectid != TreeId::TREE_LOG.0 || key.item_type != ItemType::ROOT_ITEM {
            return Err(corrupt(TreeId::TREE_LOG, &key, "does not belong into the tree of logs"));
        }
        let item = RootItem::parse(&data).map_err(|problem| corrupt(TreeId::TREE_LOG, &key, problem))?;
        let root = TreeRoot { bytenr: item.bytenr(), level: item.level, generation: item.generation() };
        trees.push(LogTree { subvolume: TreeId(key.offset), root });
    }
    Ok(Logs { root, trees })
}

impl Logs {
    /// The addresses of all their blocks.
    pub fn blocks(&self, tx: &Transaction) -> Result<Vec<Logical>> {
        let mut found = Vec::new();
        blocks(tx, self.root, &mut found)?;
        self.trees.iter().try_for_each(|log| blocks(tx, log.root, &mut found))?;
        Ok(found)
    }
}

impl LogTree {
    /// Up to `limit` items from a key on.
    pub fn items(&self, tx: &Transaction, from: &Key, limit: usize) -> Result<Vec<Found>> {
        items(tx, self.root, from, limit)
    }

    /// The item with this key.
    pub fn get(&self, tx: &Transaction, key: &Key) -> Result<Option<Vec<u8>>> {
        let found = self.items(tx, key, 1)?.into_iter().next();
        Ok(found.filter(|(found, _)| found == key).map(|(_, data)| data))
    }

    /// All items of one object and type.
    pub fn of_type(&self, tx: &Transaction, objectid: u64, item_type: ItemType) -> Result<Vec<Found>> {
        let range = Key::new(objectid, item_type, 0)..=Key::new(objectid, item_type, u64::MAX);
        self.between(tx, &range)
    }

    /// The items from the last one that is not above `from`, if it is of the same object and type, up
    /// to `end`.
    pub fn touching(&self, tx: &Transaction, from: &Key, end: &Key) -> Result<Vec<Found>> {
        let reader = Reader { tx, root: self.root };
        let below = last_not_above(&reader, TreeId::TREE_LOG, from)?.map(|(key, _)| key);
        let same = |key: &Key| key.objectid == from.objectid && key.item_type == from.item_type;
        self.between(tx, &(below.filter(same).unwrap_or(*from)..=*end))
    }

    fn between(&self, tx: &Transaction, range: &RangeInclusive<Key>) -> Result<Vec<Found>> {
        let reader = Reader { tx, root: self.root };
        let mut cursor = Cursor::seek(&reader, TreeId::TREE_LOG, range.start())?;
        let mut found = Vec::new();
        while let Some((key, data)) = cursor.item()
            && key <= *range.end()
        {
            found.push((key, data.to_vec()));
            cursor.advance()?;
        }
        Ok(found)
    }
}

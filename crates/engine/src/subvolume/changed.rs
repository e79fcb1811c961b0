//! What changed in a subvolume since a transaction: file extents that are as young.
//!
//! # Invariants
//! * Blocks that are older are not read, so the work follows what changed, not what there is.
//! * A page looks at a bounded number of blocks; who wants all asks again from where it ended.

use butterfs_format::items::{Compression, FileExtent, FileExtentBody, FileExtentKind};
use butterfs_format::{Generation, Ino, ItemType, Key, TreeBlock, TreeId};

use crate::error::Result;
use crate::inode::corrupt;
use crate::tree::{ChildPtr, TreeReader};
use crate::tx::Transaction;

/// Blocks that one page looks at.
const BLOCKS: usize = 256;

/// A file extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedExtent {
    /// The file.
    pub ino: Ino,
    /// Where in the file.
    pub offset: u64,
    /// How much of the file.
    pub len: u64,
    /// Where the extent begins, 0 for one in the tree and for a hole.
    pub disk_start: u64,
    /// Where in it the file's part begins.
    pub disk_offset: u64,
    /// The transaction that made it.
    pub generation: Generation,
    /// Whether it is compressed.
    pub compression: Compression,
    /// Where its bytes are.
    pub kind: FileExtentKind,
}

/// Some of the changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangedPage {
    /// By file and offset.
    pub extents: Vec<ChangedExtent>,
    /// Where to go on; `None`: that was all.
    pub next: Option<Key>,
}

struct Walk<'a> {
    tx: &'a Transaction,
    tree: TreeId,
    since: Generation,
    from: Key,
    most: usize,
    blocks: usize,
    page: ChangedPage,
}

/// Up to `most` file extents that were made in `since` or later, from a key on.
pub fn page(tx: &Transaction, tree: TreeId, since: Generation, from: Key, most: usize) -> Result<ChangedPage> {
    let mut walk = Walk { tx, tree, since, from, most, blocks: BLOCKS, page: ChangedPage::default() };
    let root = ChildPtr::from(tx.root(tree)?);
    if root.generation >= since {
        walk.block(&root)?;
    }
    Ok(walk.page)
}

impl Walk<'_> {
    /// Looks at a block and all below it that is young enough, until the page is full.
    fn block(&mut self, ptr: &ChildPtr) -> Result<()> {
        let block = self.tx.block(self.tree, ptr)?;
        self.blocks = self.blocks.saturating_sub(1);
        if block.is_leaf() {
            return self.leaf(&block);
        }
        for slot in block.child_slot(&self.from)..block.len() {
            let child = ChildPtr::of(&block, slot);
            if child.generation < self.since {
                continue;
            }
            if self.blocks == 0 {
                self.page.next = Some(block.key(slot).max(self.from));
            }
            if self.page.next.is_some() {
                return Ok(());
            }
            self.block(&child)?;
        }
        Ok(())
    }

    fn leaf(&mut self, leaf: &TreeBlock) -> Result<()> {
        for slot in leaf.search(&self.from).unwrap_or_else(|slot| slot)..leaf.len() {
            let key = leaf.key(slot);
            if key.item_type != ItemType::EXTENT_DATA {
                continue;
            }
            let extent = FileExtent::parse(leaf.data(slot)).map_err(|problem| corrupt(self.tree, &key, problem))?;
            if extent.generation < self.since.0 {
                continue;
            }
            if self.page.extents.len() >= self.most {
                self.page.next = Some(key);
                return Ok(());
            }
            self.page.extents.push(changed(&key, &extent));
        }
        Ok(())
    }
}

fn changed(key: &Key, extent: &FileExtent<'_>) -> ChangedExtent {
    let (kind, len, disk_start, disk_offset) = match extent.body {
        FileExtentBody::Inline(_) => (FileExtentKind::Inline, extent.ram_bytes, 0, 0),
        FileExtentBody::Extent { disk_bytenr, offset, num_bytes, prealloc, .. } => {
            let kind = if prealloc { FileExtentKind::Prealloc } else { FileExtentKind::Regular };
            (kind, num_bytes, disk_bytenr, offset)
        }
    };
    ChangedExtent {
        ino: Ino(key.objectid),
        offset: key.offset,
        len,
        disk_start,
        disk_offset,
        generation: Generation(extent.generation),
        compression: extent.compression,
        kind,
    }
}

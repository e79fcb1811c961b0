//! Who refers to an extent: what the extent tree says, with what is pending.

use std::collections::BTreeMap;
use std::sync::Arc;

use butterfs_format::items::{BackRef, BlockGroupFlags, ExtentFlags, ExtentItem};
use butterfs_format::{Corruption, ItemType, Key, Logical, TreeBlock, TreeId};

use super::Transaction;
use super::delayed::ExtentKind;
use crate::error::Result;

/// An extent that has an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundExtent {
    /// Where it begins.
    pub start: Logical,
    /// How long it is, in bytes.
    pub len: u64,
    /// What it is.
    pub flags: ExtentFlags,
}

/// References to an extent, and how often each is there; none is there less than once.
pub type References = BTreeMap<BackRef, i64>;

impl Transaction {
    /// The extent that an address lies in, if one does that is in the extent tree already.
    pub fn extent_containing(&self, at: Logical) -> Result<Option<FoundExtent>> {
        let mut below = Key::new(at.0, ItemType(u8::MAX), u64::MAX);
        while let Some((key, data)) = self.last_not_above(TreeId::EXTENT, &below)? {
            if !matches!(key.item_type, ItemType::EXTENT_ITEM | ItemType::METADATA_ITEM) {
                // A reference or a block group: the item of its extent, if there is one, comes before.
                below = match key.item_type > ItemType::METADATA_ITEM {
                    true => Key::new(key.objectid, ItemType::METADATA_ITEM, u64::MAX),
                    false => Key::new(key.objectid.saturating_sub(1), ItemType(u8::MAX), u64::MAX),
                };
                continue;
            }
            let item = parse_extent(&key, &data)?;
            let is_block = key.item_type == ItemType::METADATA_ITEM;
            let len = if is_block { u64::from(self.geometry.nodesize) } else { key.offset };
            let found = FoundExtent { start: Logical(key.objectid), len, flags: item.flags };
            return Ok((at.0 - key.objectid < len).then_some(found));
        }
        Ok(None)
    }

    /// All references to a data extent.
    pub fn data_references(&self, at: Logical, len: u64) -> Result<References> {
        self.references(at, ExtentKind::Data, len)
    }

    /// All references to an extent, pending ones included.
    pub(super) fn references(&self, at: Logical, kind: ExtentKind, len: u64) -> Result<References> {
        let mut refs = References::new();
        let head = self.refs.get(at);
        if head.is_none_or(|head| head.new.is_none()) {
            let Some((_, item)) = self.extent_item(at, kind, len)? else { return Ok(refs) };
            let inline: i64 = item.inline.iter().map(|one| i64::from(one.count)).sum();
            item.inline.iter().for_each(|one| *refs.entry(one.back_ref).or_default() += i64::from(one.count));
            if (inline as u64) < item.refs {
                self.keyed_references(at, &mut refs)?;
            }
        }
        for (back_ref, by) in head.into_iter().flat_map(|head| &head.changes) {
            *refs.entry(*back_ref).or_default() += by;
        }
        refs.retain(|_, count| *count != 0);
        if refs.values().any(|count| *count < 0) {
            return Err(Corruption::new(format!("extent {at}"), "a reference is counted less than zero times").into());
        }
        Ok(refs)
    }

    fn keyed_references(&self, at: Logical, refs: &mut References) -> Result<()> {
        let mut cursor = self.cursor(TreeId::EXTENT, &Key::new(at.0, ItemType::TREE_BLOCK_REF, 0))?;
        while let Some((key, data)) = cursor.item()
            && key.objectid == at.0
            && key.item_type <= ItemType::SHARED_DATA_REF
        {
            let one = BackRef::parse_keyed(&key, data)
                .map_err(|problem| Corruption::new(format!("extent tree {key}"), problem))?;
            *refs.entry(one.back_ref).or_default() += i64::from(one.count);
            cursor.advance()?;
        }
        Ok(())
    }

    /// Whether another tree, too, has one of the blocks on the way to a key.
    pub fn path_is_shared(&self, tree: TreeId, key: &Key) -> Result<bool> {
        let last_snapshot = self.look_at_root_item(tree, |item| item.last_snapshot.get())?;
        let cursor = self.cursor(tree, key)?;
        for block in cursor.path_blocks() {
            // What was made since the last snapshot is in none.
            if block.generation().0 > last_snapshot {
                continue;
            }
            let kind = ExtentKind::TreeBlock(block.level());
            let references = self.references(block.bytenr(), kind, self.geometry.nodesize.into())?;
            if references.values().sum::<i64>() > 1 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A leaf that a reference names, without a pointer that leads to it.
    pub fn leaf_at(&self, at: Logical) -> Result<Arc<TreeBlock>> {
        self.block_at(at, 0)
    }

    /// Type, length and used bytes of all block groups, by address.
    pub fn block_groups(&self) -> impl Iterator<Item = (BlockGroupFlags, u64, u64)> {
        self.space.iter().map(|group| (group.flags, group.len, group.used))
    }
}

pub(super) fn parse_extent(key: &Key, data: &[u8]) -> Result<ExtentItem> {
    ExtentItem::parse(key, data).map_err(|problem| Corruption::new(format!("extent tree {key}"), problem).into())
}

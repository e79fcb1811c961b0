//! The extent tree: settling delayed references into items.
//!
//! # Invariants
//! * `refs` of an item is the sum of the counts of its inline and keyed references.
//! * Inline references are in the format's order; those for which the item has no room are keyed.
//! * With an extent's item come and go its bytes in the block group's `used` and in the free space
//!   tree, and with the last reference of data its checksums.

use butterfs_format::items::{BackRef, ExtentFlags, ExtentItem, InlineRef, TreeBlockInfo};
use butterfs_format::{Corruption, ItemType, Key, Logical, TreeBlock, TreeId};

use super::Transaction;
use super::delayed::{ExtentKind, NewExtent, RefHead};
use crate::error::Result;
use crate::tree;

impl Transaction {
    /// The key of an extent's item as this filesystem writes it.
    fn extent_key(&self, at: Logical, kind: ExtentKind, len: u64) -> Key {
        match kind {
            ExtentKind::TreeBlock(level) if self.skinny_metadata() => {
                Key::new(at.0, ItemType::METADATA_ITEM, level.into())
            }
            _ => Key::new(at.0, ItemType::EXTENT_ITEM, len),
        }
    }

    /// An extent's item; both forms of tree block items are looked for, because a filesystem can
    /// have had skinny metadata switched on later.
    pub(super) fn extent_item(&self, at: Logical, kind: ExtentKind, len: u64) -> Result<Option<(Key, ExtentItem)>> {
        let wide = Key::new(at.0, ItemType::EXTENT_ITEM, len);
        for key in [self.extent_key(at, kind, len), wide] {
            if let Some(data) = self.get(TreeId::EXTENT, &key)? {
                let item = ExtentItem::parse(&key, &data)
                    .map_err(|problem| Corruption::new(format!("extent tree {key}"), problem))?;
                return Ok(Some((key, item)));
            }
        }
        Ok(None)
    }

    /// The generation that a data extent was made in, if no other reference to it than `own` is known,
    /// those pending counted. Blocks that a snapshot shares hold references that do not show here: they
    /// are all from generations up to that of the snapshot.
    pub fn generation_if_only(&self, at: Logical, len: u64, own: &BackRef) -> Result<Option<u64>> {
        if let Some(head) = self.refs.get(at) {
            if head.changes.keys().any(|one| one != own) {
                return Ok(None);
            }
            if head.new.is_some() {
                return Ok(Some(self.generation().0));
            }
        }
        let Some((_, item)) = self.extent_item(at, ExtentKind::Data, len)? else { return Ok(None) };
        let only = matches!(item.inline[..], [one] if one.back_ref == *own && u64::from(one.count) == item.refs);
        Ok(only.then_some(item.generation))
    }

    /// Whether nobody else is known to refer to a data extent than `own` in this tree: no other reference, and no
    /// snapshot made since the extent was.
    pub fn is_only_of(&self, tree: TreeId, at: Logical, len: u64, own: &BackRef) -> Result<bool> {
        if let Some(head) = self.refs.get(at).filter(|head| head.new.is_some()) {
            return Ok(head.changes.keys().all(|one| one == own));
        }
        let last_snapshot = self.root_item(tree)?.last_snapshot.get();
        Ok(self.generation_if_only(at, len, own)?.is_some_and(|made| made > last_snapshot))
    }

    /// Settles all delayed references, those that settling itself makes included.
    pub(super) fn run_delayed_refs(&mut self) -> Result<()> {
        while !self.refs.is_empty() {
            while let Some((at, head)) = self.refs.pop_first() {
                self.run_head(at, head)?;
            }
            self.settle_space_change()?;
        }
        Ok(())
    }

    fn run_head(&mut self, at: Logical, head: RefHead) -> Result<()> {
        self.load_free_ranges_around(at)?;
        match head.new {
            Some(_) if head.total() == 0 => self.forget_unborn(at, &head),
            Some(new) => self.insert_extent(at, &head, new),
            None => self.change_extent(at, &head),
        }
    }

    /// An extent that was made and freed before it had an item.
    fn forget_unborn(&mut self, at: Logical, head: &RefHead) -> Result<()> {
        match head.kind {
            // Nothing durable or in flight can refer to it: its space is free again at once.
            ExtentKind::TreeBlock(_) => self.release_space(at, head.len),
            ExtentKind::Data => {
                self.lost_refs.forget(at);
                self.delete_checksums(at, head.len)?;
                self.pin(at, head.len);
            }
        }
        Ok(())
    }

    fn insert_extent(&mut self, at: Logical, head: &RefHead, new: NewExtent) -> Result<()> {
        let key = self.extent_key(at, head.kind, head.len);
        let block_info = match head.kind {
            ExtentKind::TreeBlock(level) if key.item_type == ItemType::EXTENT_ITEM => {
                Some(TreeBlockInfo { key: new.first_key.into(), level })
            }
            _ => None,
        };
        let mut item = ExtentItem {
            refs: 0,
            generation: new.generation.unwrap_or(self.generation().0),
            flags: new.flags,
            block_info,
            owner: None,
            inline: Vec::new(),
        };
        let keyed = self.apply_changes(at, &mut item, head)?;
        tree::insert(self, TreeId::EXTENT, &key, &item.pack())?;
        self.write_keyed(at, keyed)?;
        self.note_allocated(at, head.len)
    }

    fn change_extent(&mut self, at: Logical, head: &RefHead) -> Result<()> {
        let Some((key, mut item)) = self.extent_item(at, head.kind, head.len)? else {
            let problem = format!("references change by {} but there is no extent item", head.total());
            return Err(Corruption::new(format!("extent {at} length {}", head.len), problem).into());
        };
        if head.set_full_backref {
            item.flags |= ExtentFlags::FULL_BACKREF;
        }
        let keyed = self.apply_changes(at, &mut item, head)?;
        self.write_keyed(at, keyed)?;
        if item.refs > 0 {
            return tree::put(self, TreeId::EXTENT, &key, &item.pack());
        }
        tree::remove(self, TreeId::EXTENT, &key)?;
        if head.kind == ExtentKind::Data {
            self.lost_refs.forget(at);
            self.delete_checksums(at, head.len)?;
        }
        self.note_freed(at, head.len)?;
        self.pin(at, head.len);
        Ok(())
    }

    /// Applies the changes to the inline references; gives those that belong into keyed items.
    fn apply_changes(&self, at: Logical, item: &mut ExtentItem, head: &RefHead) -> Result<Vec<(BackRef, i64)>> {
        let mut keyed = Vec::new();
        let room = TreeBlock::leaf_capacity(self.geometry.nodesize as usize) / 16;
        // Drops first, so that they make room.
        let mut changes: Vec<(BackRef, i64)> = head.changes.iter().map(|(r, c)| (*r, *c)).collect();
        changes.sort_by_key(|(_, by)| *by);
        for (back_ref, by) in changes {
            item.refs = item
                .refs
                .checked_add_signed(by)
                .ok_or_else(|| Corruption::new(format!("extent {at}"), "more references dropped than counted"))?;
            match item.find_inline(&back_ref) {
                Ok(index) => change_inline(at, item, index, by)?,
                Err(index) => {
                    let new = InlineRef { back_ref, count: by.unsigned_abs() as u32 };
                    let fits = item.packed_size() + new.packed_size() <= room;
                    if by > 0 && fits && !self.has_keyed(at, &back_ref, item)? {
                        item.inline.insert(index, new);
                    } else {
                        keyed.push((back_ref, by));
                    }
                }
            }
        }
        Ok(keyed)
    }

    /// Whether the reference has a keyed item. When all references are inline there is none.
    fn has_keyed(&self, at: Logical, back_ref: &BackRef, item: &ExtentItem) -> Result<bool> {
        let inline: u64 = item.inline.iter().map(|r| u64::from(r.count)).sum();
        if inline >= item.refs {
            return Ok(false);
        }
        Ok(self.find_keyed(at, back_ref)?.is_some())
    }

    /// Finds a keyed reference: its key and count. Data references with one hash stand side by side.
    fn find_keyed(&self, at: Logical, back_ref: &BackRef) -> Result<Option<(Key, u32)>> {
        let first = back_ref.key(at);
        let mut cursor = self.cursor(TreeId::EXTENT, &first)?;
        let mut expected_offset = first.offset;
        while let Some((key, data)) = cursor.item() {
            if key.objectid != at.0 || key.item_type != first.item_type || key.offset != expected_offset {
                break;
            }
            let found = BackRef::parse_keyed(&key, data)
                .map_err(|problem| Corruption::new(format!("extent tree {key}"), problem))?;
            if found.back_ref == *back_ref {
                return Ok(Some((key, found.count)));
            }
            // Only data references can collide: then they stand at consecutive offsets.
            expected_offset += 1;
            cursor.advance()?;
        }
        Ok(None)
    }

    fn write_keyed(&mut self, at: Logical, changes: Vec<(BackRef, i64)>) -> Result<()> {
        for (back_ref, by) in changes {
            let found = self.find_keyed(at, &back_ref)?;
            let count = i64::from(found.map_or(0, |(_, count)| count)) + by;
            if count < 0 || count > i64::from(u32::MAX) {
                let problem = format!("reference {back_ref:?} would be counted {count} times");
                return Err(Corruption::new(format!("extent {at}"), problem).into());
            }
            match found {
                Some((key, _)) if count == 0 => {
                    tree::remove(self, TreeId::EXTENT, &key)?;
                }
                Some((key, _)) => tree::put(self, TreeId::EXTENT, &key, &back_ref.pack_keyed(count as u32))?,
                None if count == 0 => {}
                None => {
                    let mut key = back_ref.key(at);
                    while self.get(TreeId::EXTENT, &key)?.is_some() {
                        key.offset += 1;
                    }
                    tree::insert(self, TreeId::EXTENT, &key, &back_ref.pack_keyed(count as u32))?;
                }
            }
        }
        Ok(())
    }
}

fn change_inline(at: Logical, item: &mut ExtentItem, index: usize, by: i64) -> Result<()> {
    let one = &mut item.inline[index];
    let count = i64::from(one.count) + by;
    match u32::try_from(count) {
        Ok(0) => {
            item.inline.remove(index);
        }
        // A tree block is referred to at most once by each.
        Ok(count) if one.back_ref.is_data() || count == 1 => one.count = count,
        _ => {
            let problem = format!("reference {:?} would be counted {count} times", one.back_ref);
            return Err(Corruption::new(format!("extent {at}"), problem).into());
        }
    }
    Ok(())
}

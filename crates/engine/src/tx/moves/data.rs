//! Data extents, moved with all file extents that refer to them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use butterfs_format::checksum::Checksum;
use butterfs_format::items::{BackRef, ExtentFlags, FileExtent, FileExtentBody};
use butterfs_format::{Corruption, ItemType, Key, Logical, TreeId};

use super::{Found, MoveCost, Moved};
use crate::error::Result;
use crate::tx::Transaction;
use crate::tx::delayed::{ExtentKind, NewExtent};
use crate::tx::references::References;

/// The longest decompressed extent of the format, in bytes.
const COMPRESSED_MOST: u64 = 128 << 10;

impl Transaction {
    /// The leaves with file extents that refer to a data extent.
    pub(super) fn leaves_of(&self, found: &Found, refs: &References) -> Result<BTreeSet<Logical>> {
        let mut leaves = BTreeSet::new();
        for back_ref in refs.keys() {
            match *back_ref {
                BackRef::SharedData { parent } => drop(leaves.insert(parent)),
                BackRef::Data { root, objectid, offset } => {
                    self.leaves_in(root, objectid.0, offset, found, &mut leaves)?;
                }
                _ => {
                    let problem = format!("it is data, and has a reference {back_ref:?}");
                    return Err(Corruption::new(format!("extent {}", found.at), problem).into());
                }
            }
        }
        Ok(leaves)
    }

    /// Those of one file. A reference's offset is that of the item, less that within the extent: it may be negative.
    fn leaves_in(
        &self,
        tree: TreeId,
        ino: u64,
        offset: u64,
        found: &Found,
        leaves: &mut BTreeSet<Logical>,
    ) -> Result<()> {
        let most = found.len.max(COMPRESSED_MOST);
        let (first, end) = match offset.cast_signed() < 0 {
            true => (0, offset.wrapping_add(most)),
            false => (offset, offset.saturating_add(most)),
        };
        let mut cursor = self.cursor(tree, &Key::new(ino, ItemType::EXTENT_DATA, first))?;
        while let Some((key, data)) = cursor.item() {
            if (key.objectid, key.item_type) != (ino, ItemType::EXTENT_DATA) || key.offset >= end {
                break;
            }
            if refers_to(&key, data, found.at)?
                && let Some(leaf) = cursor.leaf()
            {
                leaves.insert(leaf.bytenr());
            }
            cursor.advance()?;
        }
        Ok(())
    }

    /// The leaf that holds the first item from a key on, and the last key in it; `None` past the last item.
    pub fn leaf_with(&self, tree: TreeId, from: &Key) -> Result<Option<(Logical, Key)>> {
        let cursor = self.cursor(tree, from)?;
        let leaf = cursor.leaf().filter(|leaf| cursor.key().is_some() && !leaf.is_empty());
        Ok(leaf.map(|leaf| (leaf.bytenr(), leaf.key(leaf.len() - 1))))
    }

    /// Makes all who refer to a data extent refer to a copy of it, which has these checksums.
    pub fn move_data(
        &mut self,
        found: &Found,
        to: Logical,
        sums: &[Option<Checksum>],
        promised: &MoveCost,
    ) -> Result<Moved> {
        let refs = self.references_of(found)?;
        let Some((_, item)) = self.extent_item(found.at, ExtentKind::Data, found.len)? else { return Ok(Moved::Gone) };
        if refs.is_empty() {
            return Ok(Moved::Gone);
        }
        let cost = self.cost_of_moving(found)?;
        if !promised.covers(&cost) {
            return Ok(Moved::Costs(cost));
        }
        self.begin_move();
        for leaf in self.leaves_of(found, &refs)? {
            let leaf = if self.dirty.contains_key(&leaf) { leaf } else { self.move_block(leaf, 0)? };
            self.redirect(leaf, found.at, to)?;
        }
        // Those by leaf have the new addresses of the leaves.
        let refs = self.references_of(found)?;
        let extent = NewExtent { generation: Some(item.generation), ..NewExtent::new(ExtentFlags::DATA) };
        self.hand_over(found, to, extent, &refs);
        let sector = self.sectorsize();
        for run in runs(sums) {
            let known: Vec<Checksum> = sums[run.clone()].iter().flatten().copied().collect();
            self.insert_checksums(Logical(to.0 + run.start as u64 * sector), &known)?;
        }
        Ok(Moved::Done)
    }

    /// Changes the address in all file extents of a leaf of this transaction.
    fn redirect(&mut self, leaf: Logical, from: Logical, to: Logical) -> Result<()> {
        let lost = || Corruption::new(format!("tree block {leaf}"), "it was not moved");
        let block = Arc::make_mut(self.dirty.get_mut(&leaf).ok_or_else(lost)?);
        for slot in 0..block.len() {
            let key = block.key(slot);
            if key.item_type != ItemType::EXTENT_DATA || !refers_to(&key, block.data(slot), from)? {
                continue;
            }
            let packed = {
                let extent = parse_file_extent(&key, block.data(slot))?;
                let FileExtentBody::Extent { disk_num_bytes, offset, num_bytes, prealloc, .. } = extent.body else {
                    continue;
                };
                let body = FileExtentBody::Extent { disk_bytenr: to.0, disk_num_bytes, offset, num_bytes, prealloc };
                FileExtent { body, ..extent }.pack()
            };
            block.data_mut(slot).copy_from_slice(&packed);
        }
        Ok(())
    }
}

fn parse_file_extent<'a>(key: &Key, data: &'a [u8]) -> Result<FileExtent<'a>> {
    Ok(FileExtent::parse(data).map_err(|problem| Corruption::new(format!("file extent {key}"), problem))?)
}

fn refers_to(key: &Key, data: &[u8], at: Logical) -> Result<bool> {
    let extent = parse_file_extent(key, data)?;
    Ok(matches!(extent.body, FileExtentBody::Extent { disk_bytenr, .. } if disk_bytenr == at.0))
}

/// Where there are checksums, by number.
fn runs(sums: &[Option<Checksum>]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, _) in sums.iter().enumerate().filter(|(_, sum)| sum.is_some()) {
        match runs.last_mut() {
            Some(last) if last.end == index => last.end += 1,
            _ => runs.push(index..index + 1),
        }
    }
    runs
}

//! The checksum tree: checksums of data sectors, many to an item.

use butterfs_format::block::ITEM_HEADER_SIZE;
use butterfs_format::checksum::{CSUM_FIELD_SIZE, Checksum};
use butterfs_format::ids::objectid;
use butterfs_format::{ItemType, Key, Logical, TreeBlock, TreeId};

use butterfs_format::validate::Geometry;

use super::Transaction;
use crate::error::Result;
use crate::tree::{self, Cursor, TreeReader, TreeWriter, look_at_last_not_above};

const TREE: TreeId = TreeId::CSUM;

fn key_at(at: u64) -> Key {
    Key::new(objectid::EXTENT_CSUM, ItemType::EXTENT_CSUM, at)
}

/// A checksum item: where it begins, and how many bytes it has.
struct Item {
    start: u64,
    len: usize,
}

/// The checksum tree over any block store.
pub struct ChecksumTree<'w, W: ?Sized> {
    blocks: &'w W,
    geometry: Geometry,
}

/// The checksum tree over a block store, to be changed.
pub struct ChecksumTreeMut<'w, W: ?Sized> {
    blocks: &'w mut W,
    geometry: Geometry,
}

impl Transaction {
    /// The checksums of the sectors of a data range; `None` where there is none.
    pub fn checksums(&self, at: Logical, len: u64) -> Result<Vec<Option<Checksum>>> {
        ChecksumTree::new(self, self.geometry).checksums(at, len)
    }

    /// Stores the checksums of consecutive sectors from `at` on.
    pub fn insert_checksums(&mut self, at: Logical, sums: &[Checksum]) -> Result<()> {
        let geometry = self.geometry;
        ChecksumTreeMut::new(self, geometry).insert(at, sums)
    }

    /// Takes away the checksums of a range.
    pub(super) fn delete_checksums(&mut self, at: Logical, len: u64) -> Result<()> {
        let geometry = self.geometry;
        ChecksumTreeMut::new(self, geometry).delete(at, len)
    }
}

impl<'w, W: TreeReader + ?Sized> ChecksumTree<'w, W> {
    /// Over these blocks.
    pub fn new(blocks: &'w W, geometry: Geometry) -> Self {
        Self { blocks, geometry }
    }

    fn csum_size(&self) -> usize {
        self.geometry.csum_type.size()
    }

    fn sectorsize(&self) -> u64 {
        u64::from(self.geometry.sectorsize)
    }

    /// How many bytes of checksums an item may hold; as the kernel, a page at most.
    fn csum_item_max(&self) -> usize {
        let size = self.csum_size();
        let leaf = TreeBlock::leaf_capacity(self.geometry.nodesize as usize) - 2 * ITEM_HEADER_SIZE;
        (leaf / size - 1).min(4096) * size
    }

    fn covered(&self, bytes: usize) -> u64 {
        (bytes / self.csum_size()) as u64 * self.sectorsize()
    }

    /// The item that covers an address, or ends there.
    fn csum_item_touching(&self, at: u64) -> Result<Option<Item>> {
        let found = look_at_last_not_above(self.blocks, TREE, &key_at(at), |key, bytes| (key, bytes.len()))?;
        let touches =
            |(key, len): &(Key, usize)| key.item_type == ItemType::EXTENT_CSUM && key.offset + self.covered(*len) >= at;
        Ok(found.filter(touches).map(|(key, len)| Item { start: key.offset, len }))
    }

    /// The checksums of the sectors of a data range; `None` where there is none.
    ///
    /// # Errors
    /// If the tree cannot be read.
    pub fn checksums(&self, at: Logical, len: u64) -> Result<Vec<Option<Checksum>>> {
        let (size, sector) = (self.csum_size(), self.sectorsize());
        let end = at.0 + len;
        let mut sums = vec![None; (len / sector) as usize];
        let first = self.csum_item_touching(at.0)?.map_or(at.0, |item| item.start);
        let mut cursor = Cursor::seek(self.blocks, TREE, &key_at(first))?;
        while let Some((key, bytes)) = cursor.item() {
            if key.item_type != ItemType::EXTENT_CSUM || key.offset >= end {
                break;
            }
            // An item has the checksums of thousands of sectors, a read seldom wants so many.
            let skip = (at.0.saturating_sub(key.offset).div_ceil(sector)) as usize;
            for (index, sum) in bytes.chunks_exact(size).enumerate().skip(skip) {
                let sector_at = key.offset + index as u64 * sector;
                if sector_at >= end {
                    break;
                }
                let mut full = [0; CSUM_FIELD_SIZE];
                full[..size].copy_from_slice(sum);
                sums[((sector_at - at.0) / sector) as usize] = Some(full);
            }
            cursor.advance()?;
        }
        Ok(sums)
    }
}

impl<'w, W: TreeWriter + ?Sized> ChecksumTreeMut<'w, W> {
    /// Over these blocks.
    pub fn new(blocks: &'w mut W, geometry: Geometry) -> Self {
        Self { blocks, geometry }
    }

    fn read(&self) -> ChecksumTree<'_, W> {
        ChecksumTree::new(self.blocks, self.geometry)
    }

    /// Stores the checksums of consecutive sectors from `at` on.
    ///
    /// # Errors
    /// If the tree cannot be edited.
    pub fn insert(&mut self, at: Logical, sums: &[Checksum]) -> Result<()> {
        let size = self.read().csum_size();
        let packed: Vec<u8> = sums.iter().flat_map(|sum| &sum[..size]).copied().collect();
        // Leftovers of an extent that was here before would overlap.
        self.delete(at, self.read().covered(packed.len()))?;
        let mut at = at.0;
        let mut rest = packed.as_slice();
        if let Some(before) = self.read().csum_item_touching(at)? {
            let room = self.read().csum_item_max().saturating_sub(before.len).min(rest.len());
            if room > 0 {
                tree::extend(self.blocks, TREE, &key_at(before.start), &rest[..room], usize::MAX)?;
                at += self.read().covered(room);
                rest = &rest[room..];
            }
        }
        for piece in rest.chunks(self.read().csum_item_max()) {
            tree::insert(self.blocks, TREE, &key_at(at), piece)?;
            at += self.read().covered(piece.len());
        }
        Ok(())
    }

    /// Takes away the checksums of a range.
    ///
    /// # Errors
    /// If the tree cannot be edited.
    pub fn delete(&mut self, at: Logical, len: u64) -> Result<()> {
        let end = at.0 + len;
        let first = self.read().csum_item_touching(at.0)?.map_or(at.0, |item| item.start);
        let mut from = first;
        loop {
            let cursor = Cursor::seek(self.read().blocks, TREE, &key_at(from))?;
            let Some((key, bytes)) = cursor.item() else { return Ok(()) };
            if key.item_type != ItemType::EXTENT_CSUM || key.offset >= end {
                return Ok(());
            }
            from = key.offset + self.read().covered(bytes.len());
            if from > at.0 {
                let bytes = bytes.to_vec();
                drop(cursor);
                self.cut_csum_item(&key, &bytes, at.0, end)?;
            }
        }
    }

    /// Keeps of an item what lies before `start` and from `end` on.
    fn cut_csum_item(&mut self, key: &Key, bytes: &[u8], start: u64, end: u64) -> Result<()> {
        let (size, sector) = (self.read().csum_size(), self.read().sectorsize());
        let index = |at: u64| (at.saturating_sub(key.offset) / sector) as usize * size;
        let (front, back) = (index(start).min(bytes.len()), index(end).min(bytes.len()));
        if front > 0 {
            tree::put(self.blocks, TREE, key, &bytes[..front])?;
        } else {
            tree::remove(self.blocks, TREE, key)?;
        }
        if back < bytes.len() {
            tree::insert(self.blocks, TREE, &key_at(end), &bytes[back..])?;
        }
        Ok(())
    }
}

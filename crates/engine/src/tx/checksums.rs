//! The checksum tree: checksums of data sectors, many to an item.

use butterfs_format::block::ITEM_HEADER_SIZE;
use butterfs_format::checksum::{CSUM_FIELD_SIZE, Checksum};
use butterfs_format::ids::objectid;
use butterfs_format::{ItemType, Key, Logical, TreeBlock, TreeId};

use super::Transaction;
use crate::error::Result;

const TREE: TreeId = TreeId::CSUM;

fn key_at(at: u64) -> Key {
    Key::new(objectid::EXTENT_CSUM, ItemType::EXTENT_CSUM, at)
}

/// A checksum item: where it begins and its bytes.
struct Item {
    start: u64,
    bytes: Vec<u8>,
}

impl Transaction {
    fn csum_size(&self) -> usize {
        self.geometry.csum_type.size()
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
        let found = self.last_not_above(TREE, &key_at(at))?;
        Ok(found
            .filter(|(key, bytes)| {
                key.item_type == ItemType::EXTENT_CSUM && key.offset + self.covered(bytes.len()) >= at
            })
            .map(|(key, bytes)| Item { start: key.offset, bytes }))
    }

    /// The checksums of the sectors of a data range; `None` where there is none.
    pub fn checksums(&self, at: Logical, len: u64) -> Result<Vec<Option<Checksum>>> {
        let (size, sector) = (self.csum_size(), self.sectorsize());
        let end = at.0 + len;
        let mut sums = vec![None; (len / sector) as usize];
        let first = self.csum_item_touching(at.0)?.map_or(at.0, |item| item.start);
        let mut cursor = self.cursor(TREE, &key_at(first))?;
        while let Some((key, bytes)) = cursor.item() {
            if key.item_type != ItemType::EXTENT_CSUM || key.offset >= end {
                break;
            }
            for (index, sum) in bytes.chunks_exact(size).enumerate() {
                let sector_at = key.offset + index as u64 * sector;
                if (at.0..end).contains(&sector_at) {
                    let mut full = [0; CSUM_FIELD_SIZE];
                    full[..size].copy_from_slice(sum);
                    sums[((sector_at - at.0) / sector) as usize] = Some(full);
                }
            }
            cursor.advance()?;
        }
        Ok(sums)
    }

    /// Stores the checksums of consecutive sectors from `at` on.
    pub fn insert_checksums(&mut self, at: Logical, sums: &[Checksum]) -> Result<()> {
        let size = self.csum_size();
        let packed: Vec<u8> = sums.iter().flat_map(|sum| &sum[..size]).copied().collect();
        // Leftovers of an extent that was here before would overlap.
        self.delete_checksums(at, self.covered(packed.len()))?;
        let mut at = at.0;
        let mut rest = packed.as_slice();
        if let Some(mut before) = self.csum_item_touching(at)? {
            let room = self.csum_item_max().saturating_sub(before.bytes.len()).min(rest.len());
            if room > 0 {
                before.bytes.extend_from_slice(&rest[..room]);
                self.put(TREE, &key_at(before.start), &before.bytes)?;
                at += self.covered(room);
                rest = &rest[room..];
            }
        }
        for piece in rest.chunks(self.csum_item_max()) {
            self.insert(TREE, &key_at(at), piece)?;
            at += self.covered(piece.len());
        }
        Ok(())
    }

    /// Takes away the checksums of a range.
    pub(super) fn delete_checksums(&mut self, at: Logical, len: u64) -> Result<()> {
        let end = at.0 + len;
        let first = self.csum_item_touching(at.0)?.map_or(at.0, |item| item.start);
        let mut from = first;
        loop {
            let found = {
                let cursor = self.cursor(TREE, &key_at(from))?;
                cursor.item().map(|(key, bytes)| (key, bytes.to_vec()))
            };
            let Some((key, bytes)) = found else { return Ok(()) };
            if key.item_type != ItemType::EXTENT_CSUM || key.offset >= end {
                return Ok(());
            }
            from = key.offset + self.covered(bytes.len());
            if from > at.0 {
                self.cut_csum_item(&key, &bytes, at.0, end)?;
            }
        }
    }

    /// Keeps of an item what lies before `start` and from `end` on.
    fn cut_csum_item(&mut self, key: &Key, bytes: &[u8], start: u64, end: u64) -> Result<()> {
        let (size, sector) = (self.csum_size(), self.sectorsize());
        let index = |at: u64| (at.saturating_sub(key.offset) / sector) as usize * size;
        let (front, back) = (index(start).min(bytes.len()), index(end).min(bytes.len()));
        if front > 0 {
            self.put(TREE, key, &bytes[..front])?;
        } else {
            self.remove(TREE, key)?;
        }
        if back < bytes.len() {
            self.insert(TREE, &key_at(end), &bytes[back..])?;
        }
        Ok(())
    }
}

//! File extents of the log, and the checksums of their data.

use butterfs_format::checksum::{CSUM_FIELD_SIZE, Checksum};
use butterfs_format::ids::objectid;
use butterfs_format::items::{BackRef, FileExtent, FileExtentBody};
use butterfs_format::{Ino, ItemType, Key, Logical};

use super::log_tree::LogTree;
use super::{BATCH, Replay};
use crate::error::Result;
use crate::file::extents::drop_range;
use crate::inode::corrupt;
use crate::tx::Transaction;

/// Keeps the data that only this log refers to from being allocated.
pub fn set_aside(tx: &mut Transaction, log: &LogTree) -> Result<()> {
    let mut from = Key::MIN;
    loop {
        let batch = log.items(tx, &from, BATCH)?;
        for (key, data) in batch.iter().filter(|(key, _)| key.item_type == ItemType::EXTENT_DATA) {
            let extent = FileExtent::parse(data).map_err(|problem| corrupt(log.subvolume, key, problem))?;
            if let FileExtentBody::Extent { disk_bytenr, disk_num_bytes, .. } = extent.body
                && disk_bytenr != 0
                && !tx.has_data_extent(Logical(disk_bytenr), disk_num_bytes)?
            {
                tx.set_aside(Logical(disk_bytenr), disk_num_bytes)?;
            }
        }
        match batch.last() {
            Some((key, _)) if batch.len() == BATCH => from = key.next(),
            _ => return Ok(()),
        }
    }
}

impl Replay<'_> {
    /// A file extent, in place of what was there.
    pub(super) fn replay_extent(&mut self, key: &Key, data: &[u8]) -> Result<()> {
        if self.tx.get(self.tree(), key)?.as_deref() == Some(data) {
            return Ok(());
        }
        let extent = FileExtent::parse(data).map_err(|problem| corrupt(self.tree(), key, problem))?;
        let sector = u64::from(self.tx.geometry().sectorsize);
        let length = extent.sectors_in_file(sector);
        let end = key.offset.checked_add(length).ok_or_else(|| corrupt(self.tree(), key, "ends past 2^64"))?;
        let removed = drop_range(self.tx, self.id(key.objectid), key.offset..end)?;
        let added = match extent.body {
            FileExtentBody::Inline(_) => {
                self.tx.insert(self.tree(), key, data)?;
                extent.ram_bytes
            }
            FileExtentBody::Extent { disk_bytenr: 0, .. } => {
                if !self.has_no_holes() {
                    self.tx.insert(self.tree(), key, data)?;
                }
                0
            }
            FileExtentBody::Extent { .. } => {
                self.tx.insert(self.tree(), key, data)?;
                self.refer(key, &extent)?;
                length
            }
        };
        self.count_bytes(key.objectid, added, removed)
    }

    /// The reference to the data, and its checksums.
    fn refer(&mut self, key: &Key, extent: &FileExtent<'_>) -> Result<()> {
        let FileExtentBody::Extent { disk_bytenr, disk_num_bytes, offset, .. } = extent.body else { return Ok(()) };
        let at = Logical(disk_bytenr);
        let back_ref =
            BackRef::Data { root: self.tree(), objectid: Ino(key.objectid), offset: key.offset.wrapping_sub(offset) };
        if self.tx.has_data_extent(at, disk_num_bytes)? {
            self.tx.add_data_ref(at, disk_num_bytes, back_ref)?;
        } else {
            self.tx.add_data_extent(at, disk_num_bytes, back_ref)?;
        }
        let range = extent.checksummed_range();
        range.map_or(Ok(()), |(start, len)| self.copy_checksums(start, start.saturating_add(len)))
    }

    /// Copies the log's checksums of a range.
    fn copy_checksums(&mut self, start: u64, end: u64) -> Result<()> {
        let (size, sector) = (self.tx.geometry().csum_type.size(), u64::from(self.tx.geometry().sectorsize));
        let key_at = |at| Key::new(objectid::EXTENT_CSUM, ItemType::EXTENT_CSUM, at);
        for (key, data) in self.log.touching(self.tx, &key_at(start), &key_at(end))? {
            let sums = data.chunks_exact(size).enumerate();
            let at = |index: usize| key.offset.saturating_add(index as u64 * sector);
            let wanted: Vec<(u64, Checksum)> =
                sums.map(|(index, sum)| (at(index), padded(sum))).filter(|(at, _)| (start..end).contains(at)).collect();
            if let Some((first, _)) = wanted.first() {
                let first = Logical(*first);
                let sums: Vec<Checksum> = wanted.into_iter().map(|(_, sum)| sum).collect();
                self.tx.insert_checksums(first, &sums)?;
            }
        }
        Ok(())
    }
}

fn padded(sum: &[u8]) -> Checksum {
    let mut full = [0; CSUM_FIELD_SIZE];
    full[..sum.len()].copy_from_slice(sum);
    full
}

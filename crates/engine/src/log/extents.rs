//! The data of a file in the log: extents that changed, and their checksums.
//!
//! # Invariants
//! * For a part of a file that changed the log has what is there now, holes too; its extents do not
//!   overlap, and so do its checksums not.
//! * Nothing past the file's end is left out: replay drops what is there.

use std::ops::Range;

use butterfs_format::checksum::Checksum;
use butterfs_format::ids::objectid;
use butterfs_format::items::{FileExtent, InodeFlags, InodeItem};
use butterfs_format::{ItemType, Key, Logical, TreeBlock};

use super::Found;
use crate::error::{Error, Result};
use crate::file::extents::DataExtent;
use crate::inode::{InodeId, corrupt, scan};
use crate::tx::{LogWriter, Transaction};

/// Logs what changed of a file's extents since this was last done.
pub fn log_data(tx: &mut Transaction, id: InodeId, inode: &InodeItem) -> Result<()> {
    let parts = tx.take_touched(id);
    let sector = u64::from(tx.geometry().sectorsize);
    let end = inode.size.get().next_multiple_of(sector);
    let mut log = tx.log_of(id.tree)?;
    let mut forgotten = Vec::new();
    if inode.flags().contains(InodeFlags::PREALLOC) {
        forgotten.extend(log_part(&mut log, id, &(end..u64::MAX), end)?);
    }
    for part in &parts {
        forgotten.extend(log_part(&mut log, id, part, end)?);
    }
    // What the log said of parts past the end it has to say again when the file grows.
    forgotten.into_iter().for_each(|past| tx.note_touched(id, past));
    // What was past the end is dropped by replay, as long as the file does not grow again.
    for past in parts.iter().filter(|part| part.end > end) {
        tx.note_touched(id, past.start.max(end)..past.end);
    }
    Ok(())
}

pub fn extent_key(id: InodeId, start: u64) -> Key {
    Key::new(id.ino.0, ItemType::EXTENT_DATA, start)
}

fn extent_end(id: InodeId, (key, data): &Found, sector: u64) -> Result<u64> {
    let extent = FileExtent::parse(data).map_err(|problem| corrupt(id.tree, key, problem))?;
    Ok(key.offset.saturating_add(extent.sectors_in_file(sector)))
}

/// The items that overlap a part, of what `last` and `between` find.
fn overlapping(
    id: InodeId,
    part: &Range<u64>,
    sector: u64,
    last: Option<Found>,
    between: Vec<Found>,
) -> Result<Vec<Found>> {
    let is_ours = |(key, _): &Found| key.objectid == id.ino.0 && key.item_type == ItemType::EXTENT_DATA;
    let mut found = Vec::with_capacity(between.len() + 1);
    if let Some(below) = last.filter(is_ours)
        && below.0.offset < part.start
        && extent_end(id, &below, sector)? > part.start
    {
        found.push(below);
    }
    found.extend(between);
    Ok(found)
}

/// Logs what is in a part of a file, in place of what the log had there. The part grows until neither
/// an extent of the file nor one of the log crosses its borders. Gives what the log had past the file's end.
fn log_part(log: &mut LogWriter<'_>, id: InodeId, part: &Range<u64>, file_end: u64) -> Result<Vec<Range<u64>>> {
    let sector = u64::from(log.tx().geometry().sectorsize);
    let mut part = part.clone();
    let (now, old) = loop {
        let (first, last) = (extent_key(id, part.start), extent_key(id, part.end.saturating_sub(1)));
        let tx = log.tx();
        let below = tx.last_not_above(id.tree, &first)?;
        let between = scan::between(tx, id.tree, &(first, last), usize::MAX)?;
        let now = overlapping(id, &part, sector, below, between)?;
        let old = overlapping(id, &part, sector, log.last_not_above(&first)?, log.between(&first, &last)?)?;
        let mut grown = part.clone();
        for found in now.iter().chain(&old) {
            grown.start = grown.start.min(found.0.offset);
            grown.end = grown.end.max(extent_end(id, found, sector)?);
        }
        if grown == part {
            break (now, old);
        }
        part = grown;
    };
    let mut past = Vec::new();
    for found in &old {
        log.remove(&found.0)?;
        let end = extent_end(id, found, sector)?;
        if end > file_end {
            past.push(found.0.offset.max(file_end)..end);
        }
    }
    let mut at = part.start;
    for found in &now {
        log_hole(log, id, at..found.0.offset.min(file_end))?;
        log.put(&found.0, &found.1)?;
        log_checksums(log, id, found)?;
        at = extent_end(id, found, sector)?;
    }
    log_hole(log, id, at..part.end.min(file_end))?;
    Ok(past)
}

/// Below the file's end the log says where nothing is.
fn log_hole(log: &mut LogWriter<'_>, id: InodeId, hole: Range<u64>) -> Result<()> {
    if hole.start >= hole.end {
        return Ok(());
    }
    let generation = log.tx().generation().0;
    let data = DataExtent::hole(hole.end - hole.start).pack(generation);
    log.put(&extent_key(id, hole.start), &data)
}

/// The checksums of an extent's part, where the log does not have them yet.
fn log_checksums(log: &mut LogWriter<'_>, id: InodeId, (key, data): &Found) -> Result<()> {
    let extent = FileExtent::parse(data).map_err(|problem| corrupt(id.tree, key, problem))?;
    let Some((start, len)) = extent.checksummed_range() else { return Ok(()) };
    let mut rest = start..start.saturating_add(len);
    for covered in logged_checksums(log, &rest)? {
        put_checksums(log, rest.start..covered.start)?;
        rest.start = rest.start.max(covered.end);
    }
    put_checksums(log, rest)
}

fn sums_key(at: u64) -> Key {
    Key::new(objectid::EXTENT_CSUM, ItemType::EXTENT_CSUM, at)
}

/// The ranges of checksums that the log has and that overlap a range, lowest first.
fn logged_checksums(log: &mut LogWriter<'_>, range: &Range<u64>) -> Result<Vec<Range<u64>>> {
    let geometry = log.tx().geometry();
    let (size, sector) = (geometry.csum_type.size() as u64, u64::from(geometry.sectorsize));
    let below = log.last_not_above(&sums_key(range.start))?;
    let below = below.filter(|(key, _)| key.item_type == ItemType::EXTENT_CSUM && key.offset < range.start);
    let between = log.between(&sums_key(range.start), &sums_key(range.end.saturating_sub(1)))?;
    let covered = |(key, data): Found| key.offset..key.offset.saturating_add(data.len() as u64 / size * sector);
    let all = below.into_iter().chain(between).map(covered);
    Ok(all.filter(|covered| covered.end > range.start).collect())
}

/// Copies checksums from the checksum tree. What has none there has none in the log.
fn put_checksums(log: &mut LogWriter<'_>, range: Range<u64>) -> Result<()> {
    if range.start >= range.end {
        return Ok(());
    }
    let geometry = log.tx().geometry();
    let (size, sector) = (geometry.csum_type.size(), u64::from(geometry.sectorsize));
    let sums = log.tx().checksums(Logical(range.start), range.end - range.start)?;
    let most = (TreeBlock::leaf_capacity(geometry.nodesize as usize) / 4 / size).max(1);
    let mut at = range.start;
    for piece in sums.chunks(most) {
        let known: Option<Vec<&Checksum>> = piece.iter().map(Option::as_ref).collect();
        match known {
            Some(known) => {
                let packed: Vec<u8> = known.iter().flat_map(|sum| &sum[..size]).copied().collect();
                log.put(&sums_key(at), &packed)?;
            }
            None if piece.iter().all(Option::is_none) => {}
            None => return Err(Error::Invalid("data with checksums in parts cannot be logged")),
        }
        at += piece.len() as u64 * sector;
    }
    Ok(())
}

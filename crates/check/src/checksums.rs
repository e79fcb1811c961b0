//! The checksum tree: which data has checksums, and whether the data has them too.
//!
//! Memory: one range for each contiguous run of checksums.

use butterfs_format::block::ITEM_HEADER_SIZE;
use butterfs_format::ids::objectid;
use butterfs_format::{ItemType, Logical, TreeBlock, TreeId};

use crate::context::Context;
use crate::finding::{Kind, Place};
use crate::walk::Visitor;

/// The most data read at once, in bytes.
const READ_AT_ONCE: u64 = 1 << 20;

/// Sorted, disjoint ranges of logical space that have checksums.
#[derive(Default)]
pub(crate) struct Checksums {
    ranges: Vec<(u64, u64)>,
}

impl Checksums {
    /// How many bytes of a range have checksums.
    pub fn covered(&self, start: u64, len: u64) -> u64 {
        let end = start.saturating_add(len);
        let from = self.ranges.partition_point(|range| range.1 <= start);
        let overlapping = self.ranges.iter().skip(from).take_while(|range| range.0 < end);
        overlapping.map(|range| range.1.min(end) - range.0.max(start)).sum()
    }

    /// Adds a range; gives whether it overlaps one before.
    pub fn add(&mut self, start: u64, end: u64) -> bool {
        match self.ranges.last_mut() {
            Some(last) if last.0 <= start && last.1 >= start => {
                let overlaps = last.1 > start;
                last.1 = last.1.max(end);
                overlaps
            }
            _ => {
                self.ranges.push((start, end));
                false
            }
        }
    }

    /// Adds the checksums of an item of a checksum tree or log tree.
    pub fn add_item(&mut self, context: &mut Context<'_>, leaf: &TreeBlock, slot: usize) {
        let (key, count) = (leaf.key(slot), sums_in(context, leaf, slot));
        // No writer makes a larger one: there must be room for a neighbour in the leaf.
        let room = TreeBlock::leaf_capacity(context.nodesize() as usize).saturating_sub(2 * ITEM_HEADER_SIZE);
        let most = (room / context.geometry().csum_type.size()).saturating_sub(1) as u64;
        if count > most {
            let problem = format!("{count} checksums in one item, at most {most} may be");
            context.error(Kind::Checksum, Place::item(TreeId::CSUM, &key), problem);
        }
        let end = key.offset.saturating_add(count.saturating_mul(context.sectorsize()));
        if self.add(key.offset, end) {
            context.error(Kind::Checksum, Place::item(TreeId::CSUM, &key), "overlaps the checksums before");
        }
    }

    /// Sorts and joins ranges that were added out of order.
    pub fn settle(&mut self) {
        let mut ranges = std::mem::take(&mut self.ranges);
        ranges.sort_unstable();
        for (start, end) in ranges {
            self.add(start, end);
        }
    }

    /// Each range must lie in data extents, or in data that a log refers to.
    pub fn check_extents(&self, context: &mut Context<'_>, logged: &Checksums) {
        for (start, end) in &self.ranges {
            context.report.statistics.checksummed_bytes += end.saturating_sub(*start);
            if let Some(at) = first_without_data(context, logged, *start, *end) {
                let place = Place::checksums(*start, *end);
                context.error(Kind::Checksum, place, format!("there is no data at {at}"));
            }
        }
        for (place, bytenr) in std::mem::take(&mut context.preallocated_with_sums) {
            let written = context.references.find(bytenr).is_some_and(|extent| extent.written);
            if !written && !context.incomplete && logged.covered(bytenr, 1) == 0 {
                context.error(Kind::Checksum, place, "has checksums, but is preallocated and was never written");
            }
        }
    }
}

fn sums_in(context: &Context<'_>, leaf: &TreeBlock, slot: usize) -> u64 {
    (leaf.data(slot).len() / context.geometry().csum_type.size()) as u64
}

/// The first address of a range that is in no data extent.
fn first_without_data(context: &Context<'_>, logged: &Checksums, start: u64, end: u64) -> Option<u64> {
    let extents = context.references.extents();
    let from = extents.partition_point(|e| e.end() <= start);
    let mut at = start;
    for extent in extents.iter().skip(from).take_while(|e| e.bytenr < end) {
        let gap = extent.bytenr.saturating_sub(at);
        if extent.opaque {
            at = at.max(extent.end());
            continue;
        }
        if !extent.is_data() && logged.covered(extent.bytenr, extent.len) == 0 || logged.covered(at, gap) < gap {
            return Some(at);
        }
        at = at.max(extent.end());
    }
    let gap = end.saturating_sub(at);
    (logged.covered(at, gap) < gap).then_some(at)
}

impl Visitor for Checksums {
    fn leaf(&mut self, context: &mut Context<'_>, leaf: &TreeBlock, _: bool) {
        for slot in 0..leaf.len() {
            let key = leaf.key(slot);
            if (key.objectid, key.item_type) != (objectid::EXTENT_CSUM, ItemType::EXTENT_CSUM) {
                context.error(Kind::UnknownKey, Place::item(TreeId::CSUM, &key), format!("{key} does not belong here"));
                continue;
            }
            self.add_item(context, leaf, slot);
            if context.options.data_csums && !context.is_dump() {
                verify_item(context, leaf, slot);
            }
        }
    }
}

/// Reads every copy of the data of a checksum item and compares.
fn verify_item(context: &mut Context<'_>, leaf: &TreeBlock, slot: usize) {
    let (start, sectorsize) = (leaf.key(slot).offset, context.sectorsize());
    let end = start.saturating_add(sums_in(context, leaf, slot).saturating_mul(sectorsize));
    let size = context.geometry().csum_type.size();
    let mut at = start;
    while at < end {
        // A piece must not cross from one chunk into the next, whose copies may be others.
        let len = (end - at).min(READ_AT_ONCE).min(context.access.contiguous(Logical(at)).max(sectorsize));
        let first = ((at - start) / sectorsize) as usize * size;
        let sums = leaf.data(slot).get(first..).unwrap_or_default();
        for copy in 0..context.block_copies(Logical(at)) {
            verify_piece(context, at, len, sums, copy);
        }
        at = at.saturating_add(len);
    }
}

fn verify_piece(context: &mut Context<'_>, at: u64, len: u64, sums: &[u8], copy: usize) {
    let place = |at: u64| Place::data(at).copy(copy);
    let bytes = match context.access.read_copy(Logical(at), len as usize, copy) {
        Ok(bytes) => bytes,
        Err(fault) if fault.absence => return,
        Err(fault) => return context.error(Kind::DataChecksum, place(at), fault.problem),
    };
    let (csum_type, sectorsize) = (context.geometry().csum_type, context.sectorsize());
    context.report.statistics.verified_bytes += len;
    let sectors = bytes.chunks(sectorsize as usize).zip(sums.chunks(csum_type.size()));
    for (index, (sector, want)) in sectors.enumerate() {
        if csum_type.compute(sector)[..csum_type.size()] != *want {
            let sector_at = at + index as u64 * sectorsize;
            context.error(Kind::DataChecksum, place(sector_at), format!("{csum_type} checksum does not match"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_is_counted_over_several_ranges() {
        let sums = Checksums { ranges: vec![(0, 10), (20, 30)] };
        assert_eq!(sums.covered(5, 20), 10);
        assert_eq!(sums.covered(10, 10), 0);
        assert_eq!(sums.covered(0, 10), 10);
    }
}

//! The checksum tree: which data has checksums.
//!
//! Memory: one range for each contiguous run of checksums, up to a quarter of [`crate::Options::memory`];
//! what lies above is looked up in the tree each time.

use butterfs_format::block::ITEM_HEADER_SIZE;
use butterfs_format::ids::objectid;
use butterfs_format::{ItemType, Key, TreeBlock, TreeId};

use crate::context::Context;
use crate::data::DataCheck;
use crate::extent_tree::extents_within;
use crate::finding::{Kind, Place};
use crate::revisit;
use crate::walk::LeafVisitor;

/// Sorted, disjoint ranges of logical space that have checksums.
#[derive(Clone, Debug)]
pub(crate) struct Checksums {
    ranges: Vec<(u64, u64)>,
    /// The most ranges that are kept.
    most: usize,
    /// Above this address nothing is kept.
    limit: u64,
    last_end: u64,
    /// How many bytes have checksums.
    pub bytes: u64,
}

impl Default for Checksums {
    fn default() -> Self {
        Self { ranges: Vec::new(), most: usize::MAX, limit: u64::MAX, last_end: 0, bytes: 0 }
    }
}

impl Checksums {
    /// Keeps no more than fit into so many bytes.
    pub fn bounded(memory: u64) -> Self {
        let most = (memory / size_of::<(u64, u64)>() as u64).max(16);
        Self { most: usize::try_from(most).unwrap_or(usize::MAX), ..Self::default() }
    }

    /// How many bytes of a range have checksums.
    pub fn covered(&self, context: &Context<'_>, start: u64, len: u64) -> u64 {
        let end = start.saturating_add(len);
        let from = self.ranges.partition_point(|range| range.1 <= start);
        let overlapping = self.ranges.iter().skip(from).take_while(|range| range.0 < end);
        let known: u64 = overlapping.map(|range| range.1.min(end) - range.0.max(start)).sum();
        let above = start.max(self.limit);
        if above < end { known.saturating_add(covered_on_disk(context, above, end)) } else { known }
    }

    /// Adds a range; gives whether it overlaps one before.
    pub fn add(&mut self, start: u64, end: u64) -> bool {
        let overlaps = self.last_end > start;
        self.bytes = self.bytes.saturating_add(end.saturating_sub(start.max(self.last_end)));
        self.last_end = self.last_end.max(end);
        let full = self.ranges.len() >= self.most;
        match self.ranges.last_mut() {
            _ if start >= self.limit => {}
            Some(last) if last.0 <= start && last.1 >= start => last.1 = last.1.max(end),
            _ if full => self.limit = start,
            _ => self.ranges.push((start, end)),
        }
        overlaps
    }

    /// Adds the checksums of an item of a checksum tree or log tree.
    pub fn add_item(&mut self, context: &mut Context<'_>, leaf: &TreeBlock, slot: usize) {
        let (key, count) = (leaf.key(slot), sums_in(context, leaf.data(slot)));
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
        (self.last_end, self.bytes) = (0, 0);
        for (start, end) in ranges {
            self.add(start, end);
        }
    }

    /// All checksums must lie in data extents, or in data that a log refers to. `with_sums` bytes of data
    /// extents have checksums: if that is all there are, nothing needs to be looked for.
    pub fn check_extents(&self, context: &mut Context<'_>, with_sums: u64, logged: &Checksums) {
        context.report.statistics.checksummed_bytes = self.bytes;
        if with_sums == self.bytes {
            return;
        }
        let Some(root) = context.csum_root else { return };
        let mut runs = Runs { found: Vec::new(), run: None };
        revisit::items(context, &root, &(Key::MIN..Key::MAX), &mut |key, data| {
            let len = sums_in(context, data).saturating_mul(context.sectorsize());
            runs.add(context, logged, key.offset, key.offset.saturating_add(len));
        });
        runs.close(context, logged);
        for (start, end, at) in runs.found {
            context.error(Kind::Checksum, Place::checksums(start, end), format!("there is no data at {at}"));
        }
    }
}

/// Runs of checksums, one at a time, and those that are not in data.
struct Runs {
    run: Option<(u64, u64)>,
    /// Start, end, and the first address without data.
    found: Vec<(u64, u64, u64)>,
}

impl Runs {
    fn add(&mut self, context: &Context<'_>, logged: &Checksums, start: u64, end: u64) {
        match &mut self.run {
            Some((_, last)) if *last >= start => *last = end.max(*last),
            _ => {
                self.close(context, logged);
                self.run = Some((start, end));
            }
        }
    }

    fn close(&mut self, context: &Context<'_>, logged: &Checksums) {
        let Some((start, end)) = self.run.take() else { return };
        if let Some(at) = first_without_data(context, logged, start, end)
            && self.found.len() <= context.options.max_findings
        {
            self.found.push((start, end, at));
        }
    }
}

/// How many bytes of a range have checksums by the tree itself.
fn covered_on_disk(context: &Context<'_>, start: u64, end: u64) -> u64 {
    let Some(root) = context.csum_root else { return 0 };
    let per_item = (context.nodesize() / context.geometry().csum_type.size() as u64) * context.sectorsize();
    let at = |offset| Key::new(objectid::EXTENT_CSUM, ItemType::EXTENT_CSUM, offset);
    let (mut covered, mut done) = (0u64, start);
    revisit::items(context, &root, &(at(start.saturating_sub(per_item))..at(end)), &mut |key, data| {
        let len = sums_in(context, data).saturating_mul(context.sectorsize());
        let (from, to) = (key.offset.max(done), key.offset.saturating_add(len).min(end));
        covered = covered.saturating_add(to.saturating_sub(from));
        done = done.max(to);
    });
    covered
}

fn sums_in(context: &Context<'_>, data: &[u8]) -> u64 {
    (data.len() / context.geometry().csum_type.size()) as u64
}

/// The first address of a range that is in no data extent.
fn first_without_data(context: &Context<'_>, logged: &Checksums, start: u64, end: u64) -> Option<u64> {
    let (mut at, mut missing) = (start, None);
    // No data extent is longer; of one that begins before its chunk, the end is not looked for.
    let from = context.access.chunk_start(start.into()).unwrap_or(start).max(start.saturating_sub(LONGEST));
    extents_within(context, from..end, &mut |extent| {
        if extent.end() <= start || missing.is_some() {
            return;
        }
        let gap = extent.bytenr.saturating_sub(at);
        let is_data = extent.opaque || extent.is_data() || logged.covered(context, extent.bytenr, extent.len) > 0;
        if !is_data || logged.covered(context, at, gap) < gap {
            missing = Some(at);
        }
        at = at.max(extent.end());
    });
    let gap = end.saturating_sub(at);
    missing.or_else(|| (logged.covered(context, at, gap) < gap).then_some(at))
}

/// The longest data extent that a kernel makes, with room to spare.
const LONGEST: u64 = 1 << 30;

/// Reads the checksum tree, and the data itself if that is wanted.
pub(crate) struct ChecksumTree {
    pub sums: Checksums,
    pub data: Option<DataCheck>,
}

impl LeafVisitor for ChecksumTree {
    fn leaf(&mut self, context: &mut Context<'_>, leaf: &TreeBlock) {
        for slot in 0..leaf.len() {
            let key = leaf.key(slot);
            if (key.objectid, key.item_type) != (objectid::EXTENT_CSUM, ItemType::EXTENT_CSUM) {
                context.error(Kind::UnknownKey, Place::item(TreeId::CSUM, &key), format!("{key} does not belong here"));
                continue;
            }
            self.sums.add_item(context, leaf, slot);
            if let Some(data) = &mut self.data {
                data.add(context, key.offset, leaf.data(slot));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(sums: &Checksums) -> &[(u64, u64)] {
        &sums.ranges
    }

    #[test]
    fn ranges_join_and_overlaps_are_told() {
        let mut sums = Checksums::default();
        assert!(!sums.add(0, 10) && !sums.add(20, 25) && !sums.add(25, 30));
        assert!(sums.add(29, 31));
        assert_eq!(ranges(&sums), [(0, 10), (20, 31)]);
        assert_eq!(sums.bytes, 21);
    }

    #[test]
    fn no_more_ranges_are_kept_than_there_is_room_for() {
        let mut sums = Checksums::bounded(0);
        (0..100u64).for_each(|n| assert!(!sums.add(n * 10, n * 10 + 5)));
        assert_eq!((ranges(&sums).len(), sums.limit, sums.bytes), (16, 160, 500));
    }
}

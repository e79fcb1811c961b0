//! Space for new tree blocks: what nothing uses, whoever is asked.
//!
//! # Invariants
//! * A range is here only if neither the extent tree as it was found, nor a reference met while walking
//!   the trees, nor a log tree, nor a superblock copy lies in it.
//! * Blocks are aligned to their size, so none crosses a stripe.

use std::collections::BTreeMap;

use butterfs_format::Logical;
use butterfs_format::items::BlockGroupFlags;
use butterfs_volume::Volume;

/// Free ranges: start to end.
type Ranges = BTreeMap<u64, u64>;

/// Free space of metadata and system chunks.
#[derive(Clone, Debug, Default)]
pub struct Space {
    metadata: Ranges,
    system: Ranges,
    /// The system chunks, whole.
    system_chunks: Ranges,
}

impl Space {
    /// All of the chunks for metadata and system, without the places of superblock copies.
    pub fn of_chunks(volume: &Volume) -> Self {
        let mut space = Self::default();
        for (start, chunk) in volume.chunks() {
            let end = start.0.saturating_add(chunk.length());
            let ranges = match chunk.flags() {
                flags if flags.contains(BlockGroupFlags::SYSTEM) => {
                    space.system_chunks.insert(start.0, end);
                    &mut space.system
                }
                flags if flags.contains(BlockGroupFlags::METADATA) => &mut space.metadata,
                _ => continue,
            };
            ranges.insert(start.0, end);
            for range in volume.superblock_ranges(start) {
                cut(ranges, range.start.0, range.end.0);
            }
        }
        space
    }

    /// A range is used.
    pub fn exclude(&mut self, start: u64, len: u64) {
        let end = start.saturating_add(len);
        cut(&mut self.metadata, start, end);
        cut(&mut self.system, start, end);
    }

    /// What is not free in `other` is not free here either.
    pub fn limit_to(&mut self, other: &Self) {
        self.metadata = common(&self.metadata, &other.metadata);
        self.system = common(&self.system, &other.system);
    }

    /// Free bytes for metadata.
    pub fn free_bytes(&self) -> u64 {
        self.metadata.iter().map(|(start, end)| end - start).sum()
    }

    /// A free, aligned range of `len` bytes for metadata.
    pub fn take(&mut self, len: u64) -> Option<Logical> {
        take(&mut self.metadata, len)
    }

    /// A free, aligned range of `len` bytes for the chunk tree.
    pub fn take_system(&mut self, len: u64) -> Option<Logical> {
        take(&mut self.system, len)
    }

    /// A range that was taken here is free again.
    pub fn give_back(&mut self, at: Logical, len: u64) {
        let is_system = self.system_chunks.range(..=at.0).next_back().is_some_and(|(_, end)| at.0 < *end);
        let ranges = if is_system { &mut self.system } else { &mut self.metadata };
        // Ranges need not be joined: whole blocks are all that is ever taken.
        ranges.insert(at.0, at.0.saturating_add(len));
    }
}

/// Takes a range out.
fn cut(ranges: &mut Ranges, start: u64, end: u64) {
    let first = ranges.range(..=start).next_back().filter(|(_, to)| **to > start).map(|(from, _)| *from);
    let inside = ranges.range(start..end).map(|(from, _)| *from);
    let touched: Vec<u64> = first.into_iter().chain(inside).collect();
    for from in touched {
        let Some(to) = ranges.remove(&from) else { continue };
        for (from, to) in [(from, to.min(start)), (from.max(end), to)] {
            if from < to {
                ranges.insert(from, to);
            }
        }
    }
}

/// What is in both.
fn common(one: &Ranges, other: &Ranges) -> Ranges {
    let mut both = Ranges::new();
    for (start, end) in one {
        let first = other.range(..=start).next_back().map_or(*start, |(from, _)| *from);
        let parts = other.range(first..*end).map(|(from, to)| (*start.max(from), *end.min(to)));
        both.extend(parts.filter(|(from, to)| from < to));
    }
    both
}

fn take(ranges: &mut Ranges, len: u64) -> Option<Logical> {
    let fits = |(start, end): (&u64, &u64)| {
        let at = start.checked_next_multiple_of(len)?;
        (at.checked_add(len)? <= *end).then_some(at)
    };
    let at = ranges.iter().find_map(fits)?;
    cut(ranges, at, at + len);
    Some(Logical(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_excluded_is_never_taken() {
        let mut space = Space { metadata: BTreeMap::from([(100, 1000)]), ..Space::default() };
        space.exclude(0, 150);
        space.exclude(300, 100);
        space.exclude(200, 10);
        let taken: Vec<u64> = std::iter::from_fn(|| space.take(100)).map(|at| at.0).collect();
        assert_eq!(taken, [400, 500, 600, 700, 800, 900]);
        space.give_back(Logical(500), 100);
        assert_eq!(space.take(100), Some(Logical(500)));
        assert_eq!(space.take_system(100), None);
    }

    #[test]
    fn a_limit_leaves_what_is_in_both() {
        let ranges = |all: &[(u64, u64)]| all.iter().copied().collect::<Ranges>();
        let (one, other) = (ranges(&[(0, 10), (20, 30), (40, 50)]), ranges(&[(5, 22), (25, 45), (50, 60)]));
        let both = ranges(&[(5, 10), (20, 22), (25, 30), (40, 45)]);
        assert_eq!((common(&one, &other), common(&other, &one)), (both.clone(), both));
        assert_eq!(common(&one, &Ranges::new()), Ranges::new());
    }
}

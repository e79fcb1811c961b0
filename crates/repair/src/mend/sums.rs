//! Checksums tried against the data.
//!
//! # The rule
//! A checksum that contradicts its data is the only evidence that the data is bad, and stays. But where the item that
//! holds it was itself what was broken (its leaf was right by its own checksum, and its key, place or length had to be
//! guessed), the data is what tells the guess from the truth: of several readings of the item the one is taken under
//! which most sums fit, and sums that fit under none are computed anew from the data as it is, and told of. An item
//! that nothing was guessed of is never touched.

use butterfs_engine::tx::ChecksumTree;
use butterfs_format::{Key, Logical};

use crate::store::Store;

/// Data is read in pieces of this many bytes.
const PIECE: u64 = 1 << 20;

/// Whether every sector of a range has a checksum that is that of what lies there.
pub fn sums_are_right(store: &Store, start: u64, len: u64) -> bool {
    let geometry = *store.geometry();
    let size = geometry.csum_type.size();
    let mut buffer = Vec::new();
    (0..len).step_by(PIECE as usize).all(|at| {
        let (from, piece) = (Logical(start.saturating_add(at)), PIECE.min(len - at));
        let Ok(sums) = ChecksumTree::new(store, geometry).checksums(from, piece) else { return false };
        buffer.resize(piece as usize, 0);
        let good = |index: usize, sector: &[u8]| {
            let sum = sums.get(index).copied().flatten();
            sum.is_some_and(|sum| geometry.csum_type.compute(sector)[..size] == sum[..size])
        };
        store.volume().read_verified(from, &mut buffer, &good).is_ok()
    })
}

/// The sectors of the item's range of which no copy has the sum that the item says, or all of which can be read and
/// none fits. Sectors that cannot be read are not among them: nothing tells.
pub fn contradicted(store: &Store, key: &Key, sums: &[u8]) -> Vec<Logical> {
    judged(store, key, sums).filter(|(_, fits)| *fits == Some(false)).map(|(at, _)| at).collect()
}

/// How well an item fits the data: sums that fit, less those that do not.
pub fn fit(store: &Store, key: &Key, sums: &[u8]) -> i64 {
    let points = |fits| match fits {
        Some(true) => 1,
        Some(false) => -1,
        None => 0,
    };
    judged(store, key, sums).map(|(_, fits)| points(fits)).sum()
}

/// Each sector of an item and whether its sum fits; none if no copy can be read.
fn judged<'s>(store: &'s Store, key: &Key, sums: &'s [u8]) -> impl Iterator<Item = (Logical, Option<bool>)> + 's {
    let (size, sector) = (store.geometry().csum_type.size(), u64::from(store.geometry().sectorsize));
    let start = key.offset;
    sums.chunks_exact(size).enumerate().map(move |(index, sum)| {
        let at = Logical(start.saturating_add(index as u64 * sector));
        (at, sector_fits(store, at, sum))
    })
}

fn sector_fits(store: &Store, at: Logical, sum: &[u8]) -> Option<bool> {
    let geometry = store.geometry();
    let mut buffer = vec![0; geometry.sectorsize as usize];
    let (mut fits, mut is_read) = (false, false);
    for copy in 0..store.volume().copies(at).unwrap_or(0) {
        if store.volume().read_copy(at, &mut buffer, copy).is_ok() {
            is_read = true;
            fits |= geometry.csum_type.compute(&buffer)[..sum.len()] == *sum;
        }
    }
    is_read.then_some(fits)
}

//! Checksums in leaves that nothing leads to any more, looked for on the devices when the tree cannot be read.
//!
//! # Invariants
//! * The sums of data are written in the transaction of the file extent, and stay as long as it does. So a leaf that is
//!   as new as the file extent tells of its data; an older one tells of what lay there before, and is not believed.
//! * Of several leaves the newest is believed.

use std::collections::BTreeMap;

use butterfs_format::block::{BlockHeader, HEADER_SIZE};
use butterfs_format::items::BlockGroupFlags;
use butterfs_format::validate::Expected;
use butterfs_format::{Logical, TreeBlock, TreeId};
use zerocopy::FromBytes;

use super::{TREE, covered, is_sound};
use crate::error::Result;
use crate::store::Store;
use crate::survey::Survey;

/// Sums of data that has none in the tree now: each sector's address and sum.
///
/// # Errors
/// If the tree cannot be read.
pub fn sums(store: &Store, survey: &Survey) -> Result<BTreeMap<u64, Vec<u8>>> {
    let (size, sector) = (store.geometry().csum_type.size(), u64::from(store.geometry().sectorsize));
    let known = covered(store)?;
    let mut leaves = leaves(store, survey);
    leaves.sort_by_key(TreeBlock::generation);
    let mut found = BTreeMap::new();
    for leaf in leaves {
        let sound = (0..leaf.len()).filter(|slot| is_sound(store, &leaf.key(*slot), leaf.data(*slot)));
        for slot in sound {
            let start = leaf.key(slot).offset;
            let places = (0u64..).map(|index| start.saturating_add(index * sector));
            for (at, sum) in places.zip(leaf.data(slot).chunks_exact(size)) {
                if tells(survey, &leaf, at) && !known.gaps(at, at.saturating_add(sector)).is_empty() {
                    found.insert(at, sum.to_vec());
                }
            }
        }
    }
    Ok(found)
}

/// Whether a leaf is as new as the data that is at an address now.
fn tells(survey: &Survey, leaf: &TreeBlock, at: u64) -> bool {
    let extent = survey.extents.range(..=at).next_back();
    extent.is_some_and(|(start, extent)| {
        at < start.saturating_add(extent.len) && extent.generation <= leaf.generation().0
    })
}

/// Leaves of checksums anywhere in chunks of metadata that the survey did not meet.
fn leaves(store: &Store, survey: &Survey) -> Vec<TreeBlock> {
    let nodesize = u64::from(store.geometry().nodesize);
    let mut found = Vec::new();
    for (start, chunk) in store.volume().chunks() {
        if !chunk.flags().contains(BlockGroupFlags::METADATA) {
            continue;
        }
        let end = start.0.saturating_add(chunk.length());
        let first = start.0.checked_next_multiple_of(nodesize).unwrap_or(end);
        for at in (first..end).step_by(nodesize as usize).map(Logical) {
            if !survey.blocks.contains_key(&at) {
                found.extend(leaf(store, at));
            }
        }
    }
    found
}

fn leaf(store: &Store, at: Logical) -> Option<TreeBlock> {
    let expected = Expected { level: Some(0), owner: Some(TREE), ..Expected::at(at) };
    let mut copies = (0..store.volume().copies(at).unwrap_or(0)).filter(|copy| is_of_tree(store, at, *copy));
    copies.find_map(|copy| store.read_copy(&expected, copy).ok())
}

/// Whether the header of a copy says so: most blocks need not be read whole.
fn is_of_tree(store: &Store, at: Logical, copy: usize) -> bool {
    let mut header = [0; HEADER_SIZE];
    let read = store.volume().read_copy(at, &mut header, copy).is_ok();
    let header = BlockHeader::ref_from_bytes(&header);
    read && header.is_ok_and(|header| TreeId(header.owner.get()) == TREE && header.bytenr.get() == at.0)
}

//! Two devices with one UUID: the one that took the other's place, and that one, if a power cut came before the end of its
//! superblocks.
//!
//! # Invariants
//! * A device is left out only if it says of itself that it is being replaced, and the other one remembers its last commit as far
//!   as it remembers any. Else they are two halves with changes of their own, or a copy, and nobody may choose.
//! * Nothing is written.

use std::sync::Arc;

use butterfs_format::DevId;
use butterfs_format::items::DevReplaceItem;

use crate::apart::{is_ancestor, is_remembered};
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::member::Member;
use crate::open::{add_system_chunks, load_chunk_tree, role};
use crate::superblock::Found;
use crate::volume::{BadChunks, Missing, OpenMode, OpenOptions, Volume};

/// Devices that may be erased.
pub(crate) type LeftOver = Vec<Arc<dyn BlockDevice>>;

/// Gives those that are left, and of those left out the ones that nothing was written to since: these may be erased.
///
/// # Errors
/// If one was not replaced by the other.
pub(crate) fn leave_out_replaced(found: Vec<Found>) -> Result<(Vec<Found>, LeftOver)> {
    let (mut replaced, mut left_over) = (Vec::new(), Vec::new());
    for (place, old) in found.iter().enumerate() {
        let Some(new) = found.iter().find(|new| is_newer_twin(new, old)) else { continue };
        let (name, by) = (old.device.name(), new.device.name());
        if !is_ancestor(&old.superblock, &new.superblock) || !says_that_it_is_replaced(old, &found) {
            let devid = old.superblock.dev_item.devid;
            return Err(Error::Unsupported(format!(
                "{name} and {by} are both device {devid}, and neither was replaced by the other: they are copies that were \
                 written apart; name only one of them"
            )));
        }
        tracing::warn!(device = name, by, "it was replaced; leaving it out");
        replaced.push(place);
        if is_remembered(&old.superblock, &new.superblock) {
            left_over.push(Arc::clone(&old.device));
        }
    }
    let left = found.into_iter().enumerate().filter(|(place, _)| !replaced.contains(place)).map(|(_, found)| found);
    Ok((left.collect(), left_over))
}

fn is_twin(a: &Found, b: &Found) -> bool {
    let of = |found: &Found| (found.superblock.block_fsid(), found.superblock.dev_item.uuid);
    of(a) == of(b)
}

fn is_newer_twin(new: &Found, old: &Found) -> bool {
    is_twin(new, old) && new.superblock.generation.get() > old.superblock.generation.get()
}

/// What the trees say that its own superblock leads to, with what other devices have of them.
fn says_that_it_is_replaced(old: &Found, found: &[Found]) -> bool {
    let item = stored_item(old, found).unwrap_or_else(|error| {
        tracing::warn!(device = old.device.name(), %error, "what it says of its replacement cannot be read");
        None
    });
    let devid = DevId(old.superblock.dev_item.devid.get());
    item.is_some_and(|item| item.is_under_way() && DevId(item.src_devid.get()) == devid)
}

fn stored_item(old: &Found, found: &[Found]) -> Result<Option<DevReplaceItem>> {
    let sb = &old.superblock;
    let others = found.iter().filter(|other| !is_twin(other, old));
    let member = |found: &Found| {
        let role = role(&found.superblock, sb)?;
        Some(Member::new(Arc::clone(&found.device), found.superblock.dev_item, role, found.seen))
    };
    let members = std::iter::once(old).chain(others).filter_map(member).collect();
    let options = OpenOptions { missing: Missing::Accept, ..OpenOptions::new(OpenMode::ReadOnly) };
    let mut volume = Volume::assemble(members, sb, &options, [0; 16]);
    add_system_chunks(&mut volume, sb)?;
    load_chunk_tree(&mut volume, sb, BadChunks::Refuse)?;
    volume.stored_replace_item()
}

//! The UUID tree against the subvolumes: which subvolume has a UUID, and which were received from it.
//!
//! The kernel goes through this tree again when its generation is not the superblock's, adds what is
//! missing and removes what is stale; and it does not fail for what is wrong here. So these are warnings.

use std::collections::BTreeSet;

use butterfs_format::ids::FIRST_FREE_OBJECTID;
use butterfs_format::{ItemType, Key, TreeBlock, TreeId};

use crate::context::Context;
use crate::finding::{Kind, Place};
use crate::forest::Forest;
use crate::walk::LeafVisitor;

/// One entry: the key of a UUID and a subvolume.
type Entry = (Key, u64);

/// What the UUID tree says.
#[derive(Default)]
pub(crate) struct UuidTree {
    entries: BTreeSet<Entry>,
}

impl LeafVisitor for UuidTree {
    fn leaf(&mut self, context: &mut Context<'_>, leaf: &TreeBlock) {
        for slot in 0..leaf.len() {
            let (key, data) = (leaf.key(slot), leaf.data(slot));
            let place = Place::item(TreeId::UUID, &key);
            if key.objectid == FIRST_FREE_OBJECTID {
                // mkfs.btrfs of some versions made a directory here; nobody looks at it.
                context.warn(Kind::UnknownKey, place, "left by mkfs: does not belong here");
            } else if !matches!(key.item_type, ItemType::UUID_SUBVOL | ItemType::UUID_RECEIVED_SUBVOL) {
                context.error(Kind::UnknownKey, place, "does not belong here");
            } else if data.is_empty() || !data.len().is_multiple_of(8) {
                context.error(Kind::UuidTree, place, format!("item of {} bytes", data.len()));
            } else {
                let (ids, _) = data.as_chunks::<8>();
                self.entries.extend(ids.iter().map(|id| (key, u64::from_le_bytes(*id))));
            }
        }
    }
}

/// The key of a UUID: its two halves as numbers.
fn uuid_key(uuid: &[u8; 16], item_type: ItemType) -> Key {
    let half = |at: usize| uuid[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    Key::new(half(0), item_type, half(8))
}

/// Compares in both directions; what is missing only if the whole tree could be read.
pub(crate) fn check(context: &mut Context<'_>, forest: &Forest, tree: &UuidTree, complete: bool) {
    let wanted = wanted(forest);
    for (key, id) in tree.entries.difference(&wanted) {
        // The top level has a UUID since btrfs-progs 4.16, in the tree or not.
        if *id != TreeId::FS.0 {
            let problem = format!("leads to subvolume {id}, which does not have this UUID");
            context.warn(Kind::UuidTree, Place::item(TreeId::UUID, key), problem);
        }
    }
    for (key, id) in wanted.difference(&tree.entries).filter(|_| complete) {
        let problem = format!("there is no entry for subvolume {id}");
        context.warn(Kind::UuidTree, Place::item(TreeId::UUID, key), problem);
    }
}

fn wanted(forest: &Forest) -> BTreeSet<Entry> {
    let mut wanted = BTreeSet::new();
    let living = |key: &Key| TreeId(key.objectid).is_subvolume() && key.objectid != TreeId::FS.0;
    for (key, item) in forest.roots.iter().filter(|(key, item)| living(key) && item.refs.get() > 0) {
        let uuids = [(&item.uuid, ItemType::UUID_SUBVOL), (&item.received_uuid, ItemType::UUID_RECEIVED_SUBVOL)];
        for (uuid, item_type) in uuids.into_iter().filter(|(uuid, _)| **uuid != [0; 16]) {
            wanted.insert((uuid_key(uuid, item_type), key.objectid));
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_halves_of_a_uuid_are_little_endian() {
        let uuid = [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(uuid_key(&uuid, ItemType::UUID_SUBVOL), Key::new(1, ItemType::UUID_SUBVOL, 2));
    }
}

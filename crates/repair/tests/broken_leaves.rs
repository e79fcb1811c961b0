//! Leaves of derived trees that are wrong behind a right checksum: what can be told of them is kept, what contradicts
//! the data or the rest of the filesystem is made anew.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod common;

use butterfs_format::{ItemType, Logical, TreeBlock, TreeId};
use butterfs_volume::BlockDevice;

use butterfs_testkit::damage::{Dice, Subject};
use common::{content, has_errors, repaired, trouble};

/// Where the count of items is in a header, and where item headers begin.
const COUNT: usize = 96;
const ITEMS: usize = 101;
const ITEM_SIZE: usize = 25;

/// Flips each of these bits in each leaf of a tree, in all copies and behind a right checksum; all must be repaired,
/// with no file changed.
fn all_repaired(tree: TreeId, least: usize, bits: impl Fn(&TreeBlock, &mut Dice) -> Vec<usize>) {
    let subject = Subject::new();
    let good = content(&subject.device);
    let folder = tempfile::tempdir().unwrap();
    let (mut dice, mut tried, mut wrong) = (Dice(5), 0, Vec::new());
    for leaf in subject.blocks(subject.root_of(tree)).into_iter().filter(TreeBlock::is_leaf) {
        for bit in bits(&leaf, &mut dice) {
            let mut broken = leaf.clone();
            broken.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
            let broken = subject.with_block(leaf.bytenr(), &broken);
            if !has_errors(&broken) {
                continue;
            }
            tried += 1;
            wrong.extend(trouble(&format!("bit {bit} of {}", leaf.bytenr()), &broken, &good, 0, &folder));
        }
    }
    assert!(wrong.is_empty(), "{} of {tried} are not repaired:\n{}", wrong.len(), wrong.join("\n"));
    assert!(tried >= least, "only {tried} were tried");
}

fn count_bits(_: &TreeBlock, _: &mut Dice) -> Vec<usize> {
    (COUNT * 8..COUNT * 8 + 32).step_by(3).collect()
}

/// Bits of keys, places and lengths.
fn item_bits(leaf: &TreeBlock, dice: &mut Dice) -> Vec<usize> {
    (0..25).map(|_| (ITEMS + dice.roll(leaf.len()) * ITEM_SIZE) * 8 + dice.roll(ITEM_SIZE * 8)).collect()
}

#[test]
fn a_wrong_count_of_checksum_items_is_set_right() {
    all_repaired(TreeId::CSUM, 8, count_bits);
}

#[test]
fn a_wrong_checksum_item_is_set_right_by_the_data() {
    all_repaired(TreeId::CSUM, 15, item_bits);
}

#[test]
fn any_damage_to_the_uuid_tree_is_repaired() {
    all_repaired(TreeId::UUID, 8, count_bits);
    all_repaired(TreeId::UUID, 8, item_bits);
}

#[test]
fn wrong_counts_in_other_derived_trees_are_set_right() {
    for tree in [TreeId::EXTENT, TreeId::DEV, TreeId::FREE_SPACE, TreeId::BLOCK_GROUP] {
        all_repaired(tree, 8, count_bits);
    }
}

#[test]
fn wrong_items_in_other_derived_trees_are_set_right() {
    for tree in [TreeId::EXTENT, TreeId::DEV, TreeId::FREE_SPACE, TreeId::BLOCK_GROUP] {
        all_repaired(tree, 8, item_bits);
    }
}

/// An extent item with a wrong address has the back reference of a file: that the file is right is told by checksums,
/// by other files' extents, and by the free space tree.
#[test]
fn a_wrong_extent_item_costs_no_file_its_data() {
    all_repaired(TreeId::EXTENT, 20, |leaf, _| {
        let is_data = |slot: &usize| leaf.key(*slot).item_type == ItemType::EXTENT_ITEM;
        let slots: Vec<usize> = (1..leaf.len()).filter(is_data).step_by(20).collect();
        slots.iter().flat_map(|slot| [3, 12, 14, 15, 21].map(|bit| (ITEMS + slot * ITEM_SIZE) * 8 + bit)).collect()
    });
}

/// Bad data beside a broken item of the same leaf: its own checksum was not guessed, so it stays, and tells.
#[test]
fn bad_data_is_never_called_good() {
    let subject = Subject::new();
    let leaves = subject.blocks(subject.root_of(TreeId::CSUM));
    let leaf = leaves.iter().find(|leaf| leaf.is_leaf() && leaf.len() >= 2).unwrap();
    // A length of the second item, and a byte of data of the first.
    let mut broken = leaf.clone();
    broken.bytes_mut()[ITEMS + ITEM_SIZE + 21] ^= 4;
    let broken = subject.with_block(leaf.bytenr(), &broken);
    let folder = tempfile::tempdir().unwrap();
    let (_, plan) = repaired(&broken, &folder).unwrap();
    assert!(plan.steps.iter().any(|step| step.name == "tree-block"), "{plan}");
    let at = Logical(leaf.key(0).offset);
    subject.places(at).iter().for_each(|place| broken.write_at(*place + 100, b"rotten").unwrap());
    let refused = repaired(&broken, &folder).map(|(_, plan)| plan).unwrap_err();
    assert!(refused.contains(&format!("data {at}")), "{refused}");
}

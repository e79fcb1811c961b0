//! Every single fault of the checker's tables in what users stored: the plan must make the filesystem clean and keep
//! every file as it was, but for what the fault itself took.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod common;

use butterfs_format::items::RootFlags;
use butterfs_format::{Generation, Key, TreeBlock, TreeId};
use butterfs_volume::{BlockDevice, MemDevice};

use butterfs_testkit::damage::rows::{ConcatRows, EXTENTS_OF_FILES, INODES, ROOTS, Row};
use butterfs_testkit::damage::{Dice, Subject};
use common::subvolumes::{LARGE, many_subvolumes, root_items, root_items_in, wipe_old_root_leaves};
use common::{content, differing, has_errors, make_plan, repaired, trouble};

const TRIES: usize = 4;
const FS: TreeId = TreeId::FS;
const SUB: TreeId = TreeId(256);

/// What users stored: subvolumes, and the root tree.
fn is_stored(row: &Row) -> bool {
    row.tree.is_subvolume() || row.tree == TreeId::ROOT
}

/// Faults after which something is gone that nothing else tells: one file's bytes.
const LOSSY: &[&str] = &["file extent lost", "inline extent lost", "inode item lost"];

#[test]
fn single_faults_in_what_users_stored_are_repaired() {
    let subject = Subject::new();
    let good = content(&subject.device);
    let folder = tempfile::tempdir().unwrap();
    let (mut dice, mut tried, mut wrong) = (Dice(7), 0, Vec::new());
    let rows = [INODES, EXTENTS_OF_FILES, ROOTS].concat_rows();
    for row in rows.into_iter().filter(|row| is_stored(row)) {
        let mut items = subject.items(row);
        for _ in 0..TRIES.min(items.len()) {
            let (mut leaf, slot) = items.swap_remove(dice.roll(items.len()));
            let key = leaf.key(slot);
            (row.change)(&mut leaf, slot);
            let broken = subject.with_block(leaf.bytenr(), &leaf);
            if !has_errors(&broken) {
                continue;
            }
            tried += 1;
            let most = usize::from(LOSSY.contains(&row.name));
            wrong.extend(trouble(row.name, &broken, &good, most, &folder).map(|text| format!("{key} {text}")));
        }
    }
    assert!(wrong.is_empty(), "{} of {tried} are not repaired:\n{}", wrong.len(), wrong.join("\n"));
    assert!(tried > 150, "only {tried} faults were tried");
}

/// Blocks of the trees of users and of the root tree.
fn stored_blocks(subject: &Subject) -> Vec<(TreeId, TreeBlock)> {
    let of = |tree| subject.blocks(subject.root_of(tree)).into_iter().map(move |block| (tree, block));
    [FS, SUB, TreeId::ROOT].into_iter().flat_map(of).collect()
}

/// Breaks blocks in a number of ways, and tells which were not repaired with all content kept.
fn all_kept(name: &str, breaks: impl Fn(&Subject, &TreeBlock, &mut Dice) -> Vec<MemDevice>) {
    let subject = Subject::new();
    let good = content(&subject.device);
    let folder = tempfile::tempdir().unwrap();
    let (mut dice, mut tried, mut wrong) = (Dice(11), 0, Vec::new());
    for (tree, block) in stored_blocks(&subject) {
        for (number, broken) in breaks(&subject, &block, &mut dice).into_iter().enumerate() {
            if !has_errors(&broken) {
                continue;
            }
            tried += 1;
            let at = format!("{number} in block {} of tree {tree}, level {}", block.bytenr(), block.level());
            wrong.extend(trouble(name, &broken, &good, 0, &folder).map(|text| format!("{at}: {text}")));
        }
    }
    assert!(wrong.is_empty(), "{} of {tried} are not repaired:\n{}", wrong.len(), wrong.join("\n"));
    assert!(tried > 10, "only {tried} were tried");
}

#[test]
fn one_wrong_bit_in_all_copies_of_a_block_is_set_right() {
    all_kept("one bit", |subject, block, dice| {
        let bit = dice.roll(block.bytes().len() * 8);
        let mut bytes = block.bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        vec![subject.with_bytes(&subject.places(block.bytenr()), &bytes)]
    });
}

#[test]
fn copies_torn_in_different_places_and_wiped_checksums_lose_nothing() {
    all_kept("torn", |subject, block, _| {
        let places = subject.places(block.bytenr());
        let torn = subject.with_bytes(&places[..1], &[0x5a; 3000]);
        places[1..].iter().for_each(|at| torn.write_at(*at + 8192, &[0xa5; 3000]).unwrap());
        vec![torn, subject.with_bytes(&places, &[0; 32])]
    });
}

#[test]
fn one_wrong_fact_in_a_header_is_set_right() {
    type Break = fn(&mut TreeBlock);
    let breaks: [Break; 6] = [
        |b| b.header_mut().generation = (b.generation().0 - 1).into(),
        |b| b.header_mut().generation = Generation(b.generation().0 + 1000).0.into(),
        |b| b.header_mut().bytenr = (b.bytenr().0 + 16384).into(),
        |b| b.header_mut().fsid[0] ^= 1,
        |b| b.header_mut().owner = 7.into(),
        |b| b.header_mut().nritems = 60_000.into(),
    ];
    all_kept("header", |subject, block, _| {
        let broken = |change: &Break| {
            let mut block = block.clone();
            let at = block.bytenr();
            change(&mut block);
            subject.with_block(at, &block)
        };
        breaks.iter().map(broken).collect()
    });
}

/// Where a leaf's item headers or a node's pointers begin.
const HEADER: usize = 101;

fn with_bit(subject: &Subject, block: &TreeBlock, bit: usize) -> MemDevice {
    let mut broken = block.clone();
    broken.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
    subject.with_block(block.bytenr(), &broken)
}

#[test]
fn a_wrong_place_or_length_of_an_item_is_told_by_its_neighbours() {
    all_kept("item place", |subject, block, dice| {
        let slots = if block.is_leaf() { block.len() } else { 0 };
        let bits = (0..3.min(slots)).map(|_| {
            let slot = dice.roll(slots);
            (HEADER + slot * 25 + 17) * 8 + dice.roll(64)
        });
        bits.collect::<Vec<_>>().into_iter().map(|bit| with_bit(subject, block, bit)).collect()
    });
}

#[test]
fn a_wrong_bit_in_a_pointer_is_set_right() {
    all_kept("pointer", |subject, block, dice| {
        let slots = if block.is_leaf() { 0 } else { block.len() };
        let bits = (0..40.min(slots * 8)).map(|_| (HEADER + dice.roll(slots) * 33) * 8 + dice.roll(33 * 8));
        bits.collect::<Vec<_>>().into_iter().map(|bit| with_bit(subject, block, bit)).collect()
    });
}

#[test]
fn lost_nodes_are_made_again_of_their_children() {
    let subject = Subject::new();
    let good = content(&subject.device);
    let folder = tempfile::tempdir().unwrap();
    let mut tried = 0;
    for (tree, block) in stored_blocks(&subject).into_iter().filter(|(_, block)| !block.is_leaf()) {
        let broken = subject.with_bytes(&subject.places(block.bytenr()), &[0; 16384]);
        let problem = trouble("node", &broken, &good, 0, &folder);
        assert_eq!(problem, None, "tree {tree}");
        tried += 1;
    }
    assert!(tried >= 2, "only {tried} nodes");
}

/// A part of the extent tree that is lost, too, says nothing against children of a lost node.
#[test]
fn lost_nodes_are_made_again_without_the_extent_tree() {
    let subject = Subject::new();
    let good = content(&subject.device);
    let folder = tempfile::tempdir().unwrap();
    let extents = subject.root_of(TreeId::EXTENT);
    for (tree, block) in stored_blocks(&subject).into_iter().filter(|(_, block)| !block.is_leaf()) {
        let broken = subject.with_bytes(&subject.places(block.bytenr()), &[0; 16384]);
        subject.places(extents).iter().for_each(|at| broken.write_at(*at, &[0; 16384]).unwrap());
        assert_eq!(trouble("node", &broken, &good, 0, &folder), None, "tree {tree}");
    }
}

/// The inodes that a leaf has something of.
fn inodes_in(leaf: &TreeBlock) -> (u64, u64) {
    let key = |slot| -> Key { leaf.key(slot) };
    (key(0).objectid, key(leaf.len() - 1).objectid)
}

#[test]
fn a_lost_leaf_takes_only_what_was_in_it() {
    let subject = Subject::new();
    let good = content(&subject.device);
    let folder = tempfile::tempdir().unwrap();
    let leaves = stored_blocks(&subject).into_iter().filter(|(tree, block)| block.is_leaf() && *tree != TreeId::ROOT);
    let mut tried = 0;
    for (tree, leaf) in leaves {
        let broken = subject.with_bytes(&subject.places(leaf.bytenr()), &[0; 16384]);
        let (device, plan) = repaired(&broken, &folder).unwrap_or_else(|problem| panic!("{leaf:?}: {problem}"));
        assert!(!has_errors(&device), "{leaf:?} of tree {tree}");
        let (now, (first, last)) = (content(&device), inodes_in(&leaf));
        let kept = good.iter().filter(|(path, bytes)| {
            let name = path.rsplit('/').next().unwrap_or_default();
            now.iter().any(|(other, same)| other.ends_with(name) && same == *bytes)
        });
        let lost = good.len() - kept.count();
        // Each inode has at most a few names, also in the snapshot.
        let most = (last.min(500) - first.min(500) + 2) as usize * 3 + leaf.len() * 2;
        assert!(
            lost <= most,
            "{leaf:?} of tree {tree}: {lost} of {} are lost, at most {most} were there\n{plan}",
            good.len()
        );
        tried += 1;
    }
    assert!(tried > 10, "only {tried} leaves");
}

/// Each leaf of the root tree but the first is given up without any file or subvolume: the trees are still there.
#[test]
fn a_lost_leaf_of_the_root_tree_takes_no_subvolume() {
    let subject = many_subvolumes();
    let good = content(&subject.device);
    let folder = tempfile::tempdir().unwrap();
    let leaves: Vec<_> = subject.blocks(subject.root_of(TreeId::ROOT)).into_iter().filter(TreeBlock::is_leaf).collect();
    assert!(leaves.len() > 2, "only {} leaves", leaves.len());
    for leaf in &leaves {
        let broken = subject.with_bytes(&subject.places(leaf.bytenr()), &[0; 16384]);
        let keys = (leaf.key(0), leaf.key(leaf.len() - 1));
        assert_eq!(trouble("leaf", &broken, &good, 0, &folder), None, "{keys:?}");
        let (device, plan) = repaired(&broken, &folder).unwrap();
        assert!(plan.steps.iter().all(|step| step.name != "name-lost"), "{plan}");
        let (before, after) = (root_items(&subject.device), root_items(&device));
        for (id, item) in before.iter().filter(|(id, _)| id.is_subvolume()) {
            let now = after.get(id).unwrap_or_else(|| panic!("{keys:?}: subvolume {id} is gone\n{plan}"));
            assert_eq!(
                (now.uuid, now.parent_uuid, now.flags),
                (item.uuid, item.parent_uuid, item.flags),
                "{id}\n{plan}"
            );
            assert_eq!(now.otime, item.otime, "{id}");
        }
    }
}

/// No older leaf tells of them, so they come back read-only, which is told.
#[test]
fn subvolumes_of_which_nothing_is_known_come_back_read_only() {
    let subject = many_subvolumes();
    let folder = tempfile::tempdir().unwrap();
    let leaves: Vec<_> = subject.blocks(subject.root_of(TreeId::ROOT)).into_iter().filter(TreeBlock::is_leaf).collect();
    let leaf = leaves.iter().max_by_key(|leaf| root_items_in(leaf).len()).unwrap();
    let broken = subject.with_bytes(&subject.places(leaf.bytenr()), &[0; 16384]);
    wipe_old_root_leaves(&subject, &broken, &leaves);
    let (device, plan) = repaired(&broken, &folder).unwrap();
    let (before, after) = (root_items(&subject.device), root_items(&device));
    let lost = root_items_in(leaf);
    for id in lost.keys().filter(|id| id.is_subvolume() && **id != FS) {
        assert!(after[id].flags().contains(RootFlags::RDONLY), "{id}\n{plan}");
        assert_eq!(after[id].uuid, before[id].uuid, "{id}");
        assert!(after[id].last_snapshot.get() >= before[id].last_snapshot.get(), "{id}");
    }
    assert!(plan.steps.iter().any(|step| step.action.contains("nor whether it was read-only")), "{plan}");
    // What no item calls a snapshot cannot have the empty directories that stand in one for subvolumes.
    let mut good = content(&subject.device);
    good.retain(|path, _| !path.starts_with("/copy/sub"));
    assert_eq!(differing(&good, &content(&device)), Vec::<String>::new());
}

/// A root block that is lost beside its root item leaves blocks that no one can hang up: that is refused.
#[test]
fn subvolumes_whose_root_is_not_known_are_not_given_up() {
    let subject = many_subvolumes();
    let leaves: Vec<_> = subject.blocks(subject.root_of(TreeId::ROOT)).into_iter().filter(TreeBlock::is_leaf).collect();
    let leaf = leaves.iter().find(|leaf| root_items_in(leaf).contains_key(&LARGE)).unwrap();
    let broken = subject.with_bytes(&subject.places(leaf.bytenr()), &[0; 16384]);
    let root = subject.root_of(LARGE);
    assert!(subject.blocks(root).len() > 2);
    subject.places(root).iter().for_each(|at| broken.write_at(*at, &[0; 16384]).unwrap());
    let refusal = make_plan(&broken).unwrap_err();
    assert!(refusal.contains("butterfs restore"), "{refusal}");
}

/// It is empty between balances, so nothing is lost with it.
#[test]
fn a_lost_tree_of_relocated_data_is_made_anew() {
    let subject = many_subvolumes();
    let good = content(&subject.device);
    let folder = tempfile::tempdir().unwrap();
    let leaves = subject.blocks(subject.root_of(TreeId::ROOT)).into_iter().filter(TreeBlock::is_leaf);
    let leaf = leaves.into_iter().find(|leaf| root_items_in(leaf).contains_key(&TreeId::DATA_RELOC)).unwrap();
    let broken = subject.with_bytes(&subject.places(leaf.bytenr()), &[0; 16384]);
    let root = subject.root_of(TreeId::DATA_RELOC);
    subject.places(root).iter().for_each(|at| broken.write_at(*at, &[0; 16384]).unwrap());
    assert_eq!(trouble("relocation", &broken, &good, 0, &folder), None);
}

/// How many damaged filesystems are tried; more show nothing new in every run.
const RANDOM: usize = 120;

/// Damage of any kind to a few blocks, in all copies: what comes out is clean with nothing changed that was not told
/// of, or nothing is done.
#[test]
fn random_damage_is_repaired_or_left_alone() {
    let subject = Subject::new();
    let good = content(&subject.device);
    let folder = tempfile::tempdir().unwrap();
    let trees = [FS, SUB, TreeId::ROOT, TreeId::EXTENT, TreeId::CSUM, TreeId::FREE_SPACE, TreeId::UUID];
    let blocks: Vec<TreeBlock> = trees.iter().flat_map(|tree| subject.blocks(subject.root_of(*tree))).collect();
    let (mut dice, mut repaired_count, mut wrong) = (Dice(23), 0, Vec::new());
    for number in 0..RANDOM {
        let device = subject.device.snapshot();
        for _ in 0..=dice.roll(3) {
            let block = &blocks[dice.roll(blocks.len())];
            let most = [4, 300, 16384][dice.roll(3)];
            let (from, len) = (dice.roll(16384), 1 + dice.roll(most));
            let garbage: Vec<u8> = (0..len.min(16384 - from)).map(|_| dice.roll(256) as u8).collect();
            let places = subject.places(block.bytenr());
            places.iter().for_each(|at| device.write_at(*at + from as u64, &garbage).unwrap());
        }
        if !has_errors(&device) {
            continue;
        }
        let Ok((after, plan)) = repaired(&device, &folder) else { continue };
        repaired_count += 1;
        let told = plan.steps.iter().any(|step| step.name.ends_with("lost"));
        let now = content(&after);
        let silent = !told && !differing(&good, &now).is_empty();
        if silent || has_errors(&after) {
            wrong.push(format!("{number}: {} differ\n{plan}", differing(&good, &now).len()));
        }
    }
    assert!(wrong.is_empty(), "{} of {RANDOM} made worse:\n{}", wrong.len(), wrong.join("\n"));
    assert!(repaired_count * 3 > RANDOM * 2, "only {repaired_count} of {RANDOM} were repaired");
}

/// A file extent whose place in the file is impossible: its back reference tells where it belongs.
#[test]
fn file_extents_at_impossible_offsets_are_put_back() {
    let subject = Subject::new();
    let good = content(&subject.device);
    let folder = tempfile::tempdir().unwrap();
    let rows = [EXTENTS_OF_FILES].concat_rows();
    let row = rows.into_iter().find(|row| row.name == "file extent elsewhere").unwrap();
    let (mut leaf, slot) = subject.items(row).swap_remove(0);
    let key = leaf.key(slot);
    leaf.set_item_key(slot, Key { offset: key.offset + 1, ..key });
    let broken = subject.with_block(leaf.bytenr(), &leaf);
    assert!(has_errors(&broken));
    assert_eq!(trouble("offset", &broken, &good, 0, &folder), None);
}

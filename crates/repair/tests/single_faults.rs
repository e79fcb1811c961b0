//! Every single fault of the checker's tables, in what is derived: the plan must make the filesystem clean, keep
//! every file as it was, and undo must give every byte back.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod common;

use butterfs_format::superblock::SUPERBLOCK_OFFSETS;
use butterfs_format::{ItemType as T, Key, Logical, Superblock, TreeId};
use butterfs_repair::{Goal, Options, Verdict, plan};
use butterfs_volume::BlockDevice;

use butterfs_testkit::damage::rows::{ANY, ConcatRows, DEVICES, EXTENTS_OF_FILES, ROOTS, Row, SPACE};
use butterfs_testkit::damage::{Dice, SIZE, Subject, findings};
use common::{content, has_errors, make_plan, repaired_and_undone, shared, trouble};

const TRIES: usize = 3;

/// What is derived: everything about extents, block groups, free space and device extents; checksums; UUIDs.
fn is_derived(row: &Row) -> bool {
    let tables = [TreeId::EXTENT, TreeId::DEV, TreeId::CSUM, TreeId::UUID, TreeId::FREE_SPACE, TreeId::BLOCK_GROUP];
    // With these the volume cannot be opened: the chunk tree's own blocks are a matter of rescue, and an image that
    // ends too early is not completed by a smaller number.
    let unopenable = ["device used beyond", "device size", "device number"];
    let is_device = row.tree == TreeId::CHUNK && row.item_type == T::DEV_ITEM;
    tables.contains(&row.tree) || is_device && !unopenable.contains(&row.name)
}

#[test]
fn single_faults_in_derived_trees_are_repaired() {
    let subject = Subject::new();
    let good = content(&subject.device);
    let folder = tempfile::tempdir().unwrap();
    let (mut dice, mut tried, mut wrong) = (Dice(7), 0, Vec::new());
    let rows = [EXTENTS_OF_FILES, ROOTS, SPACE, DEVICES].concat_rows();
    for row in rows.into_iter().filter(|row| is_derived(row)) {
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
            wrong.extend(trouble(row.name, &broken, &good, 0, &folder).map(|text| format!("{key} {text}")));
        }
    }
    assert!(wrong.is_empty(), "{} of {tried} are not repaired:\n{}", wrong.len(), wrong.join("\n"));
    assert!(tried > 80, "only {tried} faults were tried");
}

/// Trees that are worked out from the others.
const DERIVED: [TreeId; 6] =
    [TreeId::EXTENT, TreeId::DEV, TreeId::CSUM, TreeId::UUID, TreeId::FREE_SPACE, TreeId::BLOCK_GROUP];

#[test]
fn lost_blocks_of_derived_trees_are_made_anew() {
    let subject = Subject::new();
    let good = content(&subject.device);
    let folder = tempfile::tempdir().unwrap();
    for tree in DERIVED {
        for block in subject.blocks(subject.root_of(tree)) {
            let zeros = vec![0; block.bytes().len()];
            let broken = subject.with_bytes(&subject.places(block.bytenr()), &zeros);
            let device =
                repaired_and_undone(&broken, &folder).unwrap_or_else(|problem| panic!("tree {tree}: {problem}"));
            assert_eq!(content(&device), good, "tree {tree}");
        }
    }
}

#[test]
fn bad_copies_are_healed_from_good_ones() {
    let subject = Subject::new();
    let folder = tempfile::tempdir().unwrap();
    for tree in [TreeId::ROOT, TreeId::CHUNK, TreeId::FS, TreeId::EXTENT] {
        let at = subject.root_of(tree);
        let broken = subject.with_bytes(&subject.places(at)[1..], &[0; 16384]);
        let device = repaired_and_undone(&broken, &folder).unwrap_or_else(|problem| panic!("tree {tree}: {problem}"));
        assert_eq!(findings(&device, true), [], "tree {tree}");
    }
}

#[test]
fn a_clean_filesystem_has_an_empty_plan() {
    let subject = Subject::new();
    let plan = make_plan(&subject.device).unwrap();
    assert_eq!((plan.verdict, plan.steps, plan.changes), (Verdict::NothingToDo, vec![], vec![vec![]]));
}

#[test]
fn faults_of_superblocks_are_repaired() {
    type Break = fn(&mut Superblock);
    let breaks: [Break; 6] = [
        |sb| sb.bytes_used = (sb.bytes_used.get() + 4096).into(),
        |sb| sb.total_bytes = (sb.total_bytes.get() - 4096).into(),
        |sb| sb.num_devices = 8.into(),
        |sb| sb.root_dir_objectid = 7.into(),
        |sb| sb.dev_item.total_bytes = (sb.dev_item.total_bytes.get() - 4096).into(),
        |sb| sb.log_root = (200u64 << 20).into(),
    ];
    let subject = Subject::new();
    let folder = tempfile::tempdir().unwrap();
    let places: Vec<u64> = SUPERBLOCK_OFFSETS.into_iter().filter(|at| at + 4096 <= SIZE).collect();
    for (number, change) in breaks.into_iter().enumerate() {
        let mut sb = subject.volume.superblock();
        change(&mut sb);
        let device = subject.device.snapshot();
        places.iter().for_each(|at| device.write_at(*at, &sb.to_bytes_at(*at)).unwrap());
        let fixed = repaired_and_undone(&device, &folder).unwrap_or_else(|problem| panic!("{number}: {problem}"));
        assert_eq!(findings(&fixed, false), [], "{number}");
    }
    for place in &places {
        let torn = subject.with_bytes(&[*place + 600], &[0xff; 16]);
        let fixed = repaired_and_undone(&torn, &folder).unwrap_or_else(|problem| panic!("copy at {place}: {problem}"));
        assert_eq!(findings(&fixed, false), [], "copy at {place}");
    }
}

/// Old conversions from ext4 left such blocks.
#[test]
fn a_block_across_a_stripe_is_moved() {
    let subject = Subject::new();
    let good = content(&subject.device);
    let root = subject.root_of(TreeId::FS);
    let blocks = subject.blocks(root);
    let (mut node, mut leaf) = (blocks[0].clone(), blocks[1].clone());
    let chunk = subject.volume.chunk_containing(root).unwrap();
    let place = Logical(chunk.0.0 + chunk.1.length() - (128 << 10) + (56 << 10));
    leaf.header_mut().bytenr = place.0.into();
    let mut ptr = *node.ptr(0);
    assert_eq!(ptr.blockptr.get(), blocks[1].bytenr().0);
    ptr.blockptr = place.0.into();
    node.set_ptr(0, ptr);
    let broken = subject.with_block(root, &node);
    let csum = subject.volume.geometry().csum_type.compute_block(leaf.bytes());
    leaf.header_mut().csum = csum;
    subject.places(place).iter().for_each(|at| broken.write_at(*at, leaf.bytes()).unwrap());
    let device = repaired_and_undone(&broken, &tempfile::tempdir().unwrap()).unwrap();
    assert_eq!(findings(&device, true), []);
    assert_eq!(content(&device), good);
}

/// The extents of a part that cannot be read stay, whatever else is wrong.
#[test]
fn extents_of_what_cannot_be_read_are_kept() {
    let subject = Subject::new();
    let blocks = subject.blocks(subject.root_of(TreeId::FS));
    let leaf = blocks.iter().rfind(|block| block.is_leaf()).unwrap();
    let broken = subject.with_bytes(&subject.places(leaf.bytenr()), &[0; 16384]);
    let lost = subject.root_of(TreeId::FREE_SPACE);
    subject.places(lost).iter().for_each(|at| broken.write_at(*at, &[0; 16384]).unwrap());
    let options = Options { goal: Goal::Better, ..Options::default() };
    let plan = plan(&shared(&broken), &options).unwrap();
    assert!(plan.steps.iter().any(|step| step.name == "free-space"), "{plan}");
    // Once mends give the leaf up, its extents may go.
    let mended = plan.steps.iter().any(|step| step.place.tree == Some(TreeId::FS));
    assert!(mended || plan.verdict == Verdict::Better, "{plan}\n{}", plan.after);
    assert!(mended || plan.steps.iter().all(|step| step.name != "extent-tree"), "{plan}");
}

/// Checksums that overlap are cut, not thrown away: bad data is still found.
#[test]
fn overlapping_checksums_are_cut() {
    let subject = Subject::new();
    let row = Row { tree: TreeId::CSUM, item_type: T::EXTENT_CSUM, pick: ANY, ..EXTENTS_OF_FILES[0] };
    let wanted = |(leaf, slot): &(butterfs_format::TreeBlock, usize)| *slot > 0 && leaf.data(*slot - 1).len() > 8;
    let (mut leaf, slot) = subject.items(&row).into_iter().find(wanted).unwrap();
    let (key, size) = (leaf.key(slot), leaf.data(slot).len());
    let (before, before_len) = (leaf.key(slot - 1), leaf.data(slot - 1).len() as u64 / 4 * 4096);
    let old = leaf.data(slot).to_vec();
    // The item begins in the middle of the one before, with sums of its own there.
    let first = before.offset + before_len - 4096;
    let gap = ((key.offset - first) / 4096) as usize;
    leaf.remove_items(slot..slot + 1);
    let sums = [vec![7; gap * 4], old].concat();
    leaf.insert_item(slot, &Key { offset: first, ..key }, &sums);
    let broken = subject.with_block(leaf.bytenr(), &leaf);
    let plan = make_plan(&broken).unwrap();
    assert!(!plan.steps.iter().any(|step| step.action.contains("computed")), "{plan}");
    let device = repaired_and_undone(&broken, &tempfile::tempdir().unwrap()).unwrap();
    assert_eq!(findings(&device, true), [], "{size} bytes");
}

/// What is not understood is not written, whatever is wanted.
#[test]
fn unknown_features_and_seeds_are_refused() {
    type Break = fn(&mut Superblock);
    let breaks: [(&str, Break); 3] = [
        ("does not know", |sb| sb.incompat_flags = (sb.incompat_flags.get() | 1 << 50).into()),
        ("does not know", |sb| sb.compat_ro_flags = (sb.compat_ro_flags.get() | 1 << 50).into()),
        ("seed", |sb| sb.flags = (sb.flags.get() | 1 << 32).into()),
    ];
    let subject = Subject::new();
    let places: Vec<u64> = SUPERBLOCK_OFFSETS.into_iter().filter(|at| at + 4096 <= SIZE).collect();
    for (word, change) in breaks {
        let mut sb = subject.volume.superblock();
        sb.bytes_used = 4096.into();
        change(&mut sb);
        let device = subject.device.snapshot();
        places.iter().for_each(|at| device.write_at(*at, &sb.to_bytes_at(*at)).unwrap());
        let options = Options { goal: Goal::Better, ..Options::default() };
        let error = plan(&shared(&device), &options).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

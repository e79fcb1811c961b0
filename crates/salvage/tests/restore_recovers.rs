//! A filesystem in each kind of ruin: what can be had is had, and the list of what is lost is right.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use butterfs_format::superblock::{SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_format::{ChecksumType, ItemType, Logical, TreeId};
use butterfs_salvage::{Begin, Damaged, LossKind, MadeUp, Options, Report, Source, Top, restore};
use butterfs_testkit::random::Random;
use butterfs_testkit::tree_blocks::{Dump, blocks_of, items, only_in, places, subvolumes_named_in, touched};
use butterfs_volume::{BlockDevice, MemDevice, superblock_copy};
use common::dump::{dump, extents, open, zero};
use common::memory::MemorySink;
use common::{FILES, SIZE, TRUTH, assert_all_is_had, content, devices, everything, image, restored};

fn wipe_superblocks(device: &MemDevice) {
    for offset in SUPERBLOCK_OFFSETS.into_iter().filter(|offset| *offset < SIZE) {
        device.write_at(offset, &[0; SUPERBLOCK_SIZE]).unwrap();
    }
}

/// Undamaged: everything, as the engine was told to make it.
#[test]
fn all_of_a_whole_filesystem() {
    let report = assert_all_is_had(&image());
    assert!(report.blocks.is_empty());
    let truth = TRUTH.all();
    let by_name: BTreeMap<&[u8], &[u8]> =
        truth.iter().map(|(path, node)| (path.rsplit(|b| *b == b'/').next().unwrap(), &node.bytes[..])).collect();
    for number in (0..FILES).filter(|number| number % 50 != 1) {
        assert_eq!(by_name[format!("file {number}").as_bytes()], content(number), "file {number}");
    }
    let holes = &by_name[&b"file 51"[..]];
    assert_eq!((holes.len(), &holes[100_000..]), (100_013, &b"behind a hole"[..]));
    assert_eq!(by_name[&b"link 51"[..]], *holes);
    assert_eq!(by_name[&b"symlink 43"[..]], b"../file 43");
    assert_eq!(&TRUTH.get("sub/in sub 50").unwrap().bytes[..13], b"changed since");
    assert_eq!(TRUTH.get("snapshot/in sub 50").unwrap().bytes, content(50));
    let attributes = truth.values().filter(|node| !node.xattrs.is_empty()).count();
    assert_eq!(attributes, FILES / 10);
}

#[test]
fn snapshots_links_and_paths_are_a_matter_of_choice() {
    let source = Source::open(&devices(&image()), Begin::Usual).unwrap();
    let run = |options: &Options<'_>| {
        let sink = MemorySink::default();
        let report = restore(&source, options, &sink).unwrap();
        assert!(report.is_whole(), "{report:?}");
        (sink, report)
    };
    let (sink, report) = run(&Options::new());
    assert!(sink.get("snapshot/in sub 1").is_none() && sink.get("sub/in sub 1").is_some());
    assert_eq!((report.counts.snapshots, report.counts.symlinks), (1, 0));
    assert!(report.counts.unwanted > 0);
    let select = |path: &[u8]| path.ends_with(b"in sub 7");
    let (sink, _) = run(&Options { select: Some(&select), ..everything() });
    let paths: Vec<_> = sink.all().into_iter().filter(|(_, node)| node.kind == 'f').map(|(path, _)| path).collect();
    assert_eq!(paths, [b"snapshot/in sub 7".to_vec(), b"sub/in sub 7".to_vec()]);
    let (sink, _) = run(&Options { top: Top::Tree(TreeId(256)), ..everything() });
    assert_eq!(sink.get("in sub 1"), TRUTH.get("sub/in sub 1"));
    assert!(restore(&source, &Options { top: Top::Tree(TreeId(999)), ..everything() }, &sink).is_err());
}

#[test]
fn all_without_a_superblock() {
    let device = image();
    device.write_at(SUPERBLOCK_OFFSETS[0], &[0; SUPERBLOCK_SIZE]).unwrap();
    assert_all_is_had(&device);
    wipe_superblocks(&device);
    let report = assert_all_is_had(&device);
    assert_eq!(report.notes.len(), 2, "{:?}", report.notes);
}

#[test]
fn all_with_a_zeroed_root_tree() {
    let device = image();
    zero(&device, blocks_of(&dump(&device), TreeId::ROOT), 0..2);
    let report = assert_all_is_had(&device);
    assert!(!report.blocks.is_empty());
    // And with no superblock either.
    wipe_superblocks(&device);
    assert_all_is_had(&device);
}

#[test]
fn all_with_a_zeroed_chunk_tree() {
    let device = image();
    let at = Logical(open(&device).superblock().chunk_root.get());
    zero(&device, [at], 0..2);
    assert_all_is_had(&device);
}

#[test]
fn all_with_one_copy_of_many_blocks_zeroed() {
    let mut random = Random::new(5);
    let all: Vec<Logical> = dump(&image()).into_keys().collect();
    for copy in [0..1, 1..2] {
        let device = image();
        let some: Vec<_> = all.iter().filter(|_| random.percent(10)).copied().collect();
        assert!(some.len() > 20);
        zero(&device, some, copy);
        assert!(assert_all_is_had(&device).blocks.is_empty());
    }
}

/// Below lost nodes every leaf is there, and the extent tree knows them.
#[test]
fn all_below_lost_nodes() {
    let nodes: Vec<_> = dump(&image()).into_iter().filter(|(_, one)| one.level > 0).collect();
    let trees: BTreeSet<TreeId> = nodes.iter().flat_map(|(_, one)| one.trees.clone()).collect();
    let wanted = |tree: &&TreeId| tree.is_subvolume() || **tree == TreeId::CSUM || **tree == TreeId::ROOT;
    for tree in trees.iter().filter(wanted) {
        let device = image();
        let lost = nodes.iter().filter(|(_, one)| one.trees.contains(tree)).map(|(at, _)| *at);
        zero(&device, lost, 0..2);
        let report = assert_all_is_had(&device);
        let whole = report.blocks.iter().filter(|block| block.made_up == MadeUp::Whole).count();
        assert!(whole > 0 || !tree.is_subvolume(), "tree {tree}: {:?}", report.blocks);
    }
}

/// Extent tree, checksum tree, free space: nothing of them is needed. Without checksums that is said.
#[test]
fn all_without_the_trees_that_are_not_needed() {
    let device = image();
    let all = dump(&device);
    for tree in [TreeId::EXTENT, TreeId::FREE_SPACE, TreeId::DEV, TreeId::UUID] {
        zero(&device, blocks_of(&all, tree), 0..2);
    }
    assert_all_is_had(&device);
    zero(&device, blocks_of(&all, TreeId::CSUM), 0..2);
    let (sink, report) = restored(&device);
    sink.assert_same(&TRUTH);
    assert!(report.losses.iter().all(|loss| loss.kind == LossKind::Unverified) && report.is_whole());
    let truth = TRUTH.all();
    let told: BTreeSet<&Vec<u8>> = report.losses.iter().map(|loss| &loss.path).collect();
    let large = truth.iter().filter(|(_, node)| node.kind == 'f' && node.bytes.len() > 4096).map(|(path, _)| path);
    // What has several names is told of under the first.
    let single = |path: &&Vec<u8>| truth.values().filter(|node| **node == truth[*path]).count() == 1;
    let first_names: BTreeSet<_> = large.filter(single).collect();
    assert!(first_names.len() > 100);
    assert!(first_names.is_subset(&told), "{:?}", first_names.difference(&told).collect::<Vec<_>>());
}

/// The list against what a dump made before the damage says is in the blocks that were destroyed.
fn assert_list_is_exact(all: &Dump, lost: &BTreeSet<Logical>, sink: &MemorySink, report: &Report) {
    let told: BTreeSet<(TreeId, u64)> = report.losses.iter().map(|loss| (loss.tree, loss.ino.0)).collect();
    let must = only_in(all, lost);
    let silent: Vec<_> = must.difference(&told).collect();
    assert!(silent.is_empty(), "not told of: {silent:?}");
    let mut may = touched(all, lost, |_| true);
    may.extend(subvolumes_named_in(all, lost));
    let wrong: Vec<_> = report.losses.iter().filter(|loss| !may.contains(&(loss.tree, loss.ino.0))).collect();
    assert!(wrong.is_empty(), "nothing of these is lost: {wrong:#?}");
    // And whatever is not told of is as it was.
    let paths: BTreeSet<&Vec<u8>> = report.losses.iter().map(|loss| &loss.path).collect();
    let truth = TRUTH.all();
    let names = |path: &Vec<u8>| path.rsplit(|b| *b == b'/').next().unwrap_or_default().to_vec();
    let lost_names: BTreeSet<Vec<u8>> = paths.iter().map(|path| names(path)).collect();
    for path in sink.differences(&TRUTH) {
        let folder = path.windows(10).any(|part| part == b"lost+found");
        let below = paths.iter().any(|lost| path.starts_with(lost));
        let linked = truth
            .get(&path)
            .is_some_and(|node| truth.iter().any(|(other, same)| paths.contains(other) && same == node));
        let told = folder || below || linked || lost_names.contains(&names(&path)) || hidden(report, &path);
        assert!(told, "{} differs, and is not told of: {:#?}", path.escape_ascii(), report.losses);
    }
}

/// Entries of a directory whose listing is told to be incomplete.
fn hidden(report: &Report, path: &[u8]) -> bool {
    let listings = report.losses.iter().filter(|loss| matches!(loss.kind, LossKind::Listing | LossKind::Name));
    listings.map(|loss| &loss.path).any(|dir| dir.is_empty() || path.starts_with(dir))
}

/// Leaves lost in both copies: files whose items are elsewhere are whole, and the list names all others.
#[test]
fn the_list_is_exact_when_leaves_are_lost_in_both_copies() {
    let all = dump(&image());
    let leaves: Vec<Logical> = all
        .iter()
        .filter(|(_, one)| one.level == 0 && one.trees.iter().any(|tree| tree.is_subvolume()))
        .map(|(at, _)| *at)
        .collect();
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let lost: BTreeSet<Logical> = (0..4).map(|_| *random.pick(&leaves).unwrap()).collect();
        let device = image();
        zero(&device, lost.iter().copied(), 0..2);
        let (sink, report) = restored(&device);
        assert_eq!(report.blocks.iter().map(|block| block.name.0).collect::<BTreeSet<_>>(), lost, "seed {seed}");
        assert_list_is_exact(&all, &lost, &sink, &report);
    }
}

/// The same with any blocks of any tree, at one in a hundred.
#[test]
fn one_block_in_a_hundred_lost_in_both_copies() {
    let all = dump(&image());
    for seed in 100..106 {
        let mut random = Random::new(seed);
        let lost: BTreeSet<Logical> = all.keys().filter(|_| random.percent(1)).copied().collect();
        let device = image();
        zero(&device, lost.iter().copied(), 0..2);
        let (_, report) = restored(&device);
        let told: BTreeSet<_> = report.losses.iter().map(|loss| (loss.tree, loss.ino.0)).collect();
        let silent: Vec<_> = only_in(&all, &lost).difference(&told).copied().collect();
        assert!(silent.is_empty(), "seed {seed}: {silent:?}");
        let files = TRUTH.all().values().filter(|node| node.kind == 'f').count();
        assert!(report.counts.files as usize > files * 8 / 10, "seed {seed}: {:?}", report.counts);
    }
}

/// The checksums of leaves overwritten in both copies, and a key in each: all but one item of each leaf is had, and
/// all that comes of them is told.
#[test]
fn leaves_with_wrong_checksums_are_the_last_resort() {
    let device = image();
    let all = dump(&device);
    let volume = open(&device);
    let leaves = all.iter().filter(|(_, one)| one.level == 0 && one.trees.iter().any(|tree| tree.is_subvolume()));
    for (at, _) in leaves.clone() {
        places(&volume, *at).into_iter().for_each(|place| device.write_at(place, &[0xa5; 32]).unwrap());
    }
    let (sink, report) = restored(&device);
    sink.assert_same(&TRUTH);
    assert!(!report.is_whole());
    let told: BTreeSet<&Vec<u8>> = report.losses.iter().map(|loss| &loss.path).collect();
    assert!(TRUTH.all().iter().filter(|(_, node)| node.kind == 'f').all(|(path, _)| told.contains(path)));
    // The object of the third key.
    for (at, _) in leaves.filter(|(_, one)| one.block().len() > 4) {
        places(&volume, *at).into_iter().for_each(|place| device.write_at(place + 101 + 50 + 4, &[0xff; 3]).unwrap());
    }
    let (sink, report) = restored(&device);
    let files = |sink: &MemorySink| sink.all().into_values().filter(|node| node.kind == 'f').count();
    assert!(files(&sink) >= files(&TRUTH) * 95 / 100, "{} of {}", files(&sink), files(&TRUTH));
    assert!(!report.is_whole());
}

/// A leaf that is right but for its generation, which is far above that of its pointer.
#[test]
fn a_leaf_of_a_wrong_generation_is_told_and_used() {
    let device = image();
    let volume = open(&device);
    let all = dump(&device);
    let (at, one) = all.iter().find(|(_, one)| one.level == 0 && one.trees.contains(&TreeId::FS)).unwrap();
    let mut block = one.block();
    block.bytes_mut()[80..88].copy_from_slice(&755_944_791u64.to_le_bytes());
    let checksum = volume.geometry().csum_type.compute_block(block.bytes());
    block.bytes_mut()[..32].copy_from_slice(&checksum);
    places(&volume, *at).into_iter().for_each(|place| device.write_at(place, block.bytes()).unwrap());
    let (sink, report) = restored(&device);
    sink.assert_same(&TRUTH);
    assert!(!report.is_whole() && report.losses.iter().any(|loss| loss.kind == LossKind::Outdated));
}

fn inode_of(report_path: &str) -> (TreeId, u64) {
    // Found by damage: nothing else tells numbers.
    let device = image();
    let all = dump(&device);
    let name = report_path.rsplit('/').next().unwrap().as_bytes();
    for one in all.values().filter(|one| one.level == 0 && one.trees.contains(&TreeId::FS)) {
        for (key, data) in items(&one.block()).filter(|(key, _)| key.item_type == ItemType::INODE_REF) {
            if data.len() > 10 && &data[10..] == name {
                return (TreeId::FS, key.objectid);
            }
        }
    }
    panic!("no inode has the name {report_path}");
}

/// A sector of data that is wrong in its only copy: the rest of the file is there, and the range is told.
#[test]
fn lost_sectors_are_told_to_the_byte() {
    let device = image();
    let all = dump(&device);
    let path = TRUTH.all().into_iter().find(|(path, node)| path.ends_with(b"file 8") && node.kind == 'f').unwrap().0;
    let path = String::from_utf8(path).unwrap();
    let (tree, ino) = inode_of(&path);
    let [(at, len, 0)] = extents(&all, tree, ino)[..] else { panic!("one extent") };
    assert_eq!(len, 12288);
    let place = places(&open(&device), Logical(at))[0];
    device.write_at(place + 4096 + 17, b"not what was written").unwrap();
    let (sink, report) = restored(&device);
    assert_eq!(report.losses.len(), 1, "{:#?}", report.losses);
    let loss = &report.losses[0];
    assert_eq!((loss.kind, loss.path.as_slice(), loss.ino.0), (LossKind::Data, path.as_bytes(), ino));
    assert_eq!((loss.ranges.len(), &loss.ranges[0]), (1, &(4096..8192)));
    let mut wanted = TRUTH.get(&path).unwrap();
    wanted.bytes[4096..8192].fill(0);
    assert_eq!(sink.get(&path), Some(wanted));
    assert_eq!(sink.differences(&TRUTH), [path.clone().into_bytes()]);
    // Or the file is left out.
    let source = Source::open(&devices(&device), Begin::Usual).unwrap();
    let sink = MemorySink::default();
    let report = restore(&source, &Options { damaged: Damaged::Skip, ..everything() }, &sink).unwrap();
    assert!(sink.get(&path).is_none() && report.losses[0].kind == LossKind::Inode);
}

/// The inode item gets another size, in all copies of its leaf.
fn set_size(device: &Arc<MemDevice>, all: &Dump, (tree, ino): (TreeId, u64), size: u64) {
    let is_it = |key: &butterfs_format::Key| (key.objectid, key.item_type) == (ino, ItemType::INODE_ITEM);
    for (at, one) in all.iter().filter(|(_, one)| one.level == 0 && one.trees.contains(&tree)) {
        let mut leaf = one.block();
        let Some(slot) = (0..leaf.len()).find(|slot| is_it(&leaf.key(*slot))) else { continue };
        leaf.data_mut(slot)[16..24].copy_from_slice(&size.to_le_bytes());
        let csum = ChecksumType::Crc32c.compute_block(leaf.bytes());
        leaf.bytes_mut()[..4].copy_from_slice(&csum[..4]);
        places(&open(device), *at).into_iter().for_each(|place| device.write_at(place, leaf.bytes()).unwrap());
        return;
    }
    panic!("there is no such inode");
}

/// A size that no file can have: what there is of it is made, under all its names, and it is told.
#[test]
fn a_size_past_all_bounds_is_told() {
    let device = image();
    let all = dump(&device);
    let path = TRUTH.all().into_iter().find(|(path, _)| path.ends_with(b"/file 51")).unwrap().0;
    let path = String::from_utf8(path).unwrap();
    let id = inode_of(&path);
    set_size(&device, &all, id, u64::MAX - 4095);
    let (sink, report) = restored(&device);
    assert!(!report.is_whole());
    assert_eq!(report.losses.len(), 1, "{:#?}", report.losses);
    assert_eq!((report.losses[0].kind, report.losses[0].ino.0), (LossKind::Data, id.1));
    let (file, link) = (sink.get(&path).unwrap(), sink.all().into_iter().find(|(path, _)| path.ends_with(b"link 51")));
    assert_eq!(file.bytes[..100_013], TRUTH.get(&path).unwrap().bytes[..]);
    assert_eq!(link.unwrap().1, file);
    // Where damaged files are not wanted, both names are told.
    let source = Source::open(&devices(&device), Begin::Usual).unwrap();
    let sink = MemorySink::default();
    let report = restore(&source, &Options { damaged: Damaged::Skip, ..everything() }, &sink).unwrap();
    let names = sink.all().into_keys().filter(|path| path.ends_with(b"/file 51") || path.ends_with(b"link 51")).count();
    assert_eq!((names, report.losses.len()), (0, 2), "{:#?}", report.losses);
    assert!(report.losses.iter().all(|loss| loss.kind == LossKind::Inode));
}

#[test]
fn an_unknown_feature_is_named_and_read_on() {
    let device = image();
    for (copy, offset) in SUPERBLOCK_OFFSETS.into_iter().enumerate().take(2) {
        let mut sb = superblock_copy(&*device, copy).unwrap();
        sb.incompat_flags = (sb.incompat_flags.get() | 1 << 40).into();
        device.write_at(offset, &sb.to_bytes_at(offset)).unwrap();
    }
    let report = assert_all_is_had(&device);
    assert!(report.notes.iter().any(|note| note.contains("bit 40 (0x10000000000)")), "{:?}", report.notes);
}

/// A device shorter than its filesystem: what lies before its end is had.
#[test]
fn what_is_left_of_a_truncated_image() {
    let whole = image();
    let short = Arc::new(MemDevice::new(SIZE / 2));
    for (offset, bytes) in whole.written().into_iter().filter(|(offset, _)| *offset < SIZE / 2) {
        let len = bytes.len().min((SIZE / 2 - offset) as usize);
        short.write_at(offset, &bytes[..len]).unwrap();
    }
    let (sink, report) = restored(&short);
    let paths: BTreeSet<&Vec<u8>> = report.losses.iter().map(|loss| &loss.path).collect();
    for path in sink.differences(&TRUTH) {
        assert!(paths.contains(&path), "{} differs, and is not told of", path.escape_ascii());
    }
}

#[test]
fn what_is_no_filesystem_is_an_error() {
    let empty = Arc::new(MemDevice::new(64 << 20));
    let error = Source::open(&devices(&empty), Begin::Usual).err().unwrap().to_string();
    assert!(error.contains("no Btrfs filesystem found"), "{error}");
    assert!(Source::open(&Vec::new(), Begin::Usual).is_err());
    assert!(Source::open(&devices(&image()), Begin::Copy(2)).is_err(), "there is no third copy");
    assert!(Source::open(&devices(&image()), Begin::Copy(1)).is_ok());
}

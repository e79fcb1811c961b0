//! Block groups that are emptied: what is shared stays shared, and nobody sees anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use butterfs_format::TreeId;
use butterfs_format::items::BlockGroupFlags;
use butterfs_testkit::random::Random;
use butterfs_volume::MemDevice;

use super::space_tests::{made, open_with};
use super::tests::{FILE, judge, top};
use super::{FileOffset, Filesystem, OpenOptions, Settings};
use crate::environment::SystemEnvironment;
use crate::error::Error;
use crate::file::{CloneLen, CompressRule, SizeMode};
use crate::inode::InodeId;
use crate::relocate::{GroupFilter, Room};
use crate::subvolume::root::Access;
use crate::tx::{DiscardRule, SpaceRules, Trim};

const DATA: BlockGroupFlags = BlockGroupFlags::DATA;
const METADATA: BlockGroupFlags = BlockGroupFlags::METADATA;

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 7) as u8 ^ (at >> 12) as u8 ^ seed).collect()
}

fn file(fs: &Filesystem, name: &str, bytes: &[u8]) -> InodeId {
    let id = fs.create(top(name.as_bytes()), &FILE).unwrap();
    fs.write(id, 0, bytes).unwrap();
    id
}

fn content(fs: &Filesystem, id: InodeId) -> Vec<u8> {
    let mut bytes = vec![0; fs.attributes(id).unwrap().item.size.get() as usize];
    assert_eq!(fs.read(id, 0, &mut bytes).unwrap(), bytes.len());
    bytes
}

fn used(fs: &Filesystem, kind: BlockGroupFlags) -> u64 {
    let space = fs.shared.gate.space();
    if kind == DATA { space.data.used } else { space.metadata.used }
}

fn starts(fs: &Filesystem, kind: BlockGroupFlags) -> Vec<u64> {
    fs.shared.gate.view(|tx| Ok(tx.groups_of(kind))).unwrap().iter().map(|group| group.start).collect()
}

/// Relocates all groups of a kind; all of them must go.
fn relocate_all(fs: &Filesystem, kind: BlockGroupFlags) {
    let before = starts(fs, kind);
    let filter = GroupFilter::used_at_most(kind, 100);
    assert_eq!(fs.relocate(&filter, Room::NewChunks).unwrap(), before.len());
    assert!(starts(fs, kind).iter().all(|start| !before.contains(start)), "{before:?}");
}

/// Everything with a reference of its own kind: clones, snapshots with and without changes, preallocated space,
/// compressed extents, small neighbours in many leaves.
fn populate(fs: &Filesystem) -> Vec<InodeId> {
    let big = file(fs, "big", &bytes(1, 3 << 20));
    for number in 0..300 {
        file(fs, &format!("neighbour {number}"), &bytes(number as u8, 5000));
    }
    fs.sync().unwrap();
    let clone = fs.create(top(b"clone"), &FILE).unwrap();
    let at = |id, offset| FileOffset { id, offset };
    fs.clone_range(at(big, 0), at(clone, 8192), CloneLen::ToEnd).unwrap();
    fs.clone_range(at(big, 1 << 20), at(clone, 0), CloneLen::Bytes(8192)).unwrap();
    let prealloc = fs.create(top(b"prealloc"), &FILE).unwrap();
    fs.preallocate(prealloc, 0..1 << 20, SizeMode::Extend).unwrap();
    fs.write(prealloc, 65536, &bytes(3, 65536)).unwrap();
    fs.sync().unwrap();
    let mut ids = vec![big, clone, prealloc];
    for (name, access) in [("first", Access::ReadOnly), ("second", Access::ReadWrite)] {
        let tree = fs.snapshot(TreeId::FS, top(name.as_bytes()), access).unwrap();
        ids.extend([big, clone, prealloc].map(|id| InodeId { tree, ..id }));
        fs.write(big, 1 << 20, &bytes(9, 100_000)).unwrap();
        fs.write(prealloc, 8192, &bytes(8, 8192)).unwrap();
        file(fs, &format!("after {name}"), &bytes(7, 20_000));
        fs.sync().unwrap();
    }
    // Full back references: the first owner of the leaves has copies, others still share them.
    for number in (0..300).step_by(20) {
        fs.unlink(top(format!("neighbour {number}").as_bytes())).unwrap();
    }
    fs.sync().unwrap();
    ids
}

fn move_and_compare(device: &Arc<MemDevice>, fs: Filesystem, kinds: &[BlockGroupFlags]) {
    let ids = populate(&fs);
    let before: Vec<_> = ids.iter().map(|id| content(&fs, *id)).collect();
    let snapshots = |fs: &Filesystem| fs.subvolumes().unwrap();
    let (listed, data) = (snapshots(&fs), used(&fs, DATA));
    let transids = |fs: &Filesystem| -> Vec<u64> {
        let trees = listed.iter().map(|one| one.id);
        trees.map(|tree| fs.shared.gate.view(|tx| tx.root_item(tree)).unwrap().ctransid.get()).collect()
    };
    let changed = transids(&fs);
    for _ in 0..2 {
        for kind in kinds {
            relocate_all(&fs, *kind);
            assert_eq!(used(&fs, DATA), data, "something is not shared any more");
        }
    }
    assert_eq!(transids(&fs), changed, "a subvolume looks changed");
    assert!(ids.iter().map(|id| content(&fs, *id)).eq(before.iter().cloned()));
    // Moved blocks and extents are shared as before: what is written now, the others do not see.
    fs.write(ids[0], 0, &bytes(77, 200_000)).unwrap();
    fs.write(ids[2], 0, &bytes(78, 1 << 20)).unwrap();
    fs.write(ids[7], 500_000, &bytes(79, 100_000)).unwrap();
    fs.sync().unwrap();
    for (index, id) in ids.iter().enumerate().filter(|(index, _)| ![0, 2, 7].contains(index)) {
        assert!(content(&fs, *id) == before[index], "{id:?} changed");
    }
    fs.delete_subvolume(top(b"second")).unwrap();
    while fs.clean_once(10).unwrap() {}
    assert!(content(&fs, ids[3]) == before[3]);
    for kind in kinds {
        relocate_all(&fs, *kind);
    }
    judge(device, fs);
}

#[test]
fn data_moves_for_all_who_share_it() {
    let device = made(640 << 20);
    let fs = open_with(&device, SpaceRules::default());
    move_and_compare(&device, fs, &[DATA]);
}

#[test]
fn tree_blocks_move_for_all_who_share_them() {
    let device = made(640 << 20);
    let fs = open_with(&device, SpaceRules::default());
    move_and_compare(&device, fs, &[METADATA, DATA]);
}

#[test]
fn compressed_data_moves_and_discards_lose_nothing() {
    for discard in [DiscardRule::Sync, DiscardRule::Async] {
        let device = made(640 << 20);
        let volume = butterfs_volume::Volume::open(vec![device.clone()], butterfs_volume::OpenMode::ReadWrite).unwrap();
        let compress = CompressRule::Force(
            "zstd:1"
                .parse()
                .map(|choice| match choice {
                    butterfs_format::compression::Choice::With(method) => method,
                    other => panic!("{other:?}"),
                })
                .unwrap(),
        );
        let space = SpaceRules { discard, ..SpaceRules::default() };
        let options = OpenOptions { compress, space, ..OpenOptions::default() };
        let fs = Filesystem::open(volume, options, Box::new(SystemEnvironment)).unwrap();
        move_and_compare(&device, fs, &[DATA, METADATA]);
    }
}

/// 200 GB free, and every write fails: all space is in data chunks that hold next to nothing, and metadata is full.
#[test]
fn chunks_of_data_give_way_to_metadata() {
    let device = made(256 << 20);
    let fs = open_with(&device, SpaceRules::default());
    let piece = bytes(5, 1 << 20);
    let mut count = 0;
    loop {
        let id = fs.create(top(format!("data {count}").as_bytes()), &FILE).unwrap();
        match fs.write(id, 0, &piece) {
            Ok(_) => count += 1,
            Err(Error::NoSpace) => break,
            Err(error) => panic!("{error}"),
        }
        fs.sync().unwrap();
    }
    let groups = starts(&fs, DATA).len();
    assert!(groups >= 4 && fs.shared.gate.space().unallocated < 8 << 20);
    // One file in eight stays, so that no group becomes empty.
    for number in (0..count).filter(|number| number % 8 != 0) {
        fs.unlink(top(format!("data {number}").as_bytes())).unwrap();
    }
    fs.sync().unwrap();
    fs.sync().unwrap();
    let metadata = fs.shared.gate.space().metadata.total;
    let mut made = 0u64;
    while fs.shared.gate.space().metadata.total < 2 * metadata {
        let id = fs.create(top(format!("small {made}").as_bytes()), &FILE).unwrap();
        fs.write(id, 0, &[7; 2000]).unwrap();
        made += 1;
        assert!(made < 100_000, "metadata never became full");
    }
    assert!(starts(&fs, DATA).len() < groups);
    for number in (0..count).step_by(8) {
        let id = fs.lookup(top(format!("data {number}").as_bytes())).unwrap();
        assert!(content(&fs, id) == piece);
    }
    judge(&device, fs);
}

#[test]
fn the_cleaner_empties_groups_before_space_is_short() {
    let device = made(256 << 20);
    let fs = open_with(&device, SpaceRules::default());
    assert!(!fs.reclaim_once().unwrap(), "nothing is short");
    let mut count = 0;
    loop {
        let id = fs.create(top(format!("{count}").as_bytes()), &FILE).unwrap();
        if fs.write(id, 0, &bytes(1, 1 << 20)).is_err() {
            break;
        }
        fs.sync().unwrap();
        count += 1;
    }
    assert!(!fs.reclaim_once().unwrap(), "all groups are full");
    for number in (0..count).filter(|number| number % 8 != 0) {
        fs.unlink(top(format!("{number}").as_bytes())).unwrap();
    }
    fs.sync().unwrap();
    let before = fs.shared.gate.space().unallocated;
    assert!(fs.reclaim_once().unwrap());
    assert!(fs.shared.gate.space().unallocated > before);
    judge(&device, fs);
}

/// Bytes that the device holds.
fn held(device: &MemDevice) -> usize {
    device.written().iter().filter(|(_, page)| page.iter().any(|byte| *byte != 0)).map(|(_, page)| page.len()).sum()
}

#[test]
fn freed_space_is_discarded_when_the_user_wants() {
    const LEN: usize = 24 << 20;
    for (discard, by_commit) in [(DiscardRule::Never, false), (DiscardRule::Sync, true), (DiscardRule::Async, false)] {
        let device = made(256 << 20);
        let fs = open_with(&device, SpaceRules { discard, ..SpaceRules::default() });
        file(&fs, "file", &vec![7; LEN]);
        let kept = file(&fs, "kept", &vec![9; 1 << 20]);
        fs.sync().unwrap();
        fs.unlink(top(b"file")).unwrap();
        assert!(held(&device) > LEN, "nothing is discarded before the commit");
        fs.sync().unwrap();
        assert_eq!(held(&device) < LEN, by_commit, "{discard:?}");
        let mut ranges = 0;
        while fs.shared.gate.discard_some(1).unwrap() > 0 {
            ranges += 1;
        }
        assert_eq!((held(&device) < LEN, ranges > 0), (discard != DiscardRule::Never, discard == DiscardRule::Async));
        assert_eq!(content(&fs, kept), vec![9; 1 << 20]);
        judge(&device, fs);
    }
}

/// The rule can be chosen anew: what is freed from then on follows it.
#[test]
fn discards_begin_and_end_while_the_filesystem_is_open() {
    const LEN: usize = 24 << 20;
    let device = made(256 << 20);
    let fs = open_with(&device, SpaceRules::default());
    let settings = |discard| Settings { space: SpaceRules { discard, ..SpaceRules::default() }, ..fs.settings() };
    for (discard, goes) in [(DiscardRule::Sync, true), (DiscardRule::Never, false), (DiscardRule::Async, false)] {
        fs.set_settings(settings(discard));
        assert_eq!(fs.settings(), settings(discard));
        file(&fs, "file", &vec![7; LEN]);
        fs.sync().unwrap();
        fs.unlink(top(b"file")).unwrap();
        fs.sync().unwrap();
        assert_eq!(held(&device) < LEN, goes, "{discard:?}");
    }
    // What waits is forgotten with the rule that it waited by.
    fs.set_settings(settings(DiscardRule::Never));
    assert_eq!(fs.shared.gate.discard_some(usize::MAX).unwrap(), 0);
    judge(&device, fs);
}

#[test]
fn a_trim_reaches_all_that_is_free() {
    const LEN: usize = 24 << 20;
    let device = made(256 << 20);
    let fs = open_with(&device, SpaceRules::default());
    file(&fs, "file", &vec![7; LEN]);
    let kept = file(&fs, "kept", &vec![9; 1 << 20]);
    fs.sync().unwrap();
    fs.unlink(top(b"file")).unwrap();
    fs.sync().unwrap();
    let none = fs.trim(&Trim { range: 0..u64::MAX, minimum: 1 << 40 }).unwrap();
    assert_eq!((none, held(&device) > LEN), (0, true));
    let all = fs.trim(&Trim { range: 0..u64::MAX, minimum: 0 }).unwrap();
    let space = fs.shared.gate.space();
    assert!(held(&device) < LEN && all > 100 << 20 && all <= space.total, "{all}");
    assert_eq!(fs.shared.gate.space().data.available, space.data.total - space.data.used);
    assert_eq!(content(&fs, kept), vec![9; 1 << 20]);
    judge(&device, fs);
}

/// Files that change, are read and synced all the time while everything is moved to and fro.
#[test]
fn writers_go_on_while_groups_are_emptied() {
    const LEN: usize = 600_000;
    let device = made(640 << 20);
    let fs = open_with(&device, SpaceRules { discard: DiscardRule::Sync, ..SpaceRules::default() });
    populate(&fs);
    let stop = AtomicBool::new(false);
    let work = |number: u64| {
        let mut random = Random::new(number);
        let id = file(&fs, &format!("worker {number}"), &vec![0; LEN]);
        fs.preallocate(id, 0..2 * LEN as u64, SizeMode::Keep).unwrap();
        let mut expected = vec![0; LEN];
        while !stop.load(Ordering::Relaxed) {
            let at = random.below(LEN as u64 - 1) as usize;
            let len = (1 + random.below(60_000) as usize).min(LEN - at);
            let new = random.bytes(len);
            fs.write(id, at as u64, &new).unwrap();
            expected[at..at + len].copy_from_slice(&new);
            if random.percent(20) {
                fs.fsync(id).unwrap();
            }
            assert!(content(&fs, id) == expected, "worker {number}");
        }
        (id, expected)
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> = (1..4).map(|number| scope.spawn(move || work(number))).collect();
        for kind in [DATA, METADATA, DATA, METADATA, DATA, METADATA] {
            fs.relocate(&GroupFilter::used_at_most(kind, 100), Room::NewChunks).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    for (id, expected) in results {
        assert!(content(&fs, id) == expected);
    }
    judge(&device, fs);
}

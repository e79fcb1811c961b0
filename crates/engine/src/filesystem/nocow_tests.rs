//! Files that are overwritten in place, beside snapshots, clones and power cuts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use butterfs_format::TreeId;
use butterfs_format::items::{BlockGroupFlags, InodeFlags};
use butterfs_testkit::filter::Filtered;
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

use super::prealloc_tests::OnWrite;
use super::space_tests::made;
use super::tests::{FILE, device, judge, top};
use super::{FileOffset, Filesystem, OpenOptions};
use crate::environment::SystemEnvironment;
use crate::error::Error;
use crate::file::extents::{MappedKind, map};
use crate::file::{CloneLen, DataRule, SizeMode};
use crate::inode::InodeId;
use crate::relocate::{GroupFilter, Room};
use crate::subvolume::root::Access;

const SECTOR: usize = 4096;
const LEN: usize = 64 * SECTOR;

fn open_over(device: Arc<dyn BlockDevice>, new_data: DataRule) -> Filesystem {
    let volume = Volume::open(vec![device], OpenMode::ReadWrite).unwrap();
    let options = OpenOptions { new_data, ..OpenOptions::default() };
    Filesystem::open(volume, options, Box::new(SystemEnvironment)).unwrap()
}

fn open_in_place(device: &Arc<MemDevice>) -> Filesystem {
    open_over(device.clone(), DataRule::InPlace)
}

fn file_of(fs: &Filesystem, name: &[u8], byte: u8) -> InodeId {
    let id = fs.create(top(name), &FILE).unwrap();
    fs.write(id, 0, &[byte; LEN]).unwrap();
    fs.sync().unwrap();
    id
}

/// Where the written extents of a file are.
fn places(fs: &Filesystem, id: InodeId) -> Vec<(u64, u64)> {
    let found = fs.shared.gate.view(|tx| map(tx, id, 0..1 << 30)).unwrap();
    let place = |kind| match kind {
        MappedKind::Regular(data) => Some(data.disk_bytenr + data.offset),
        _ => None,
    };
    found.into_iter().filter_map(|extent| place(extent.kind).map(|at| (extent.file_offset, at))).collect()
}

fn bytes(fs: &Filesystem, id: InodeId) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    let len = fs.read(id, 0, &mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}

fn write_back(fs: &Filesystem) {
    fs.write_back_subvolume(TreeId::FS).unwrap();
}

#[test]
fn overwriting_changes_no_extent_until_a_snapshot_shares_it() {
    let device = device();
    let fs = open_in_place(&device);
    let id = file_of(&fs, b"file", 1);
    let flags = fs.attributes(id).unwrap().item.flags();
    assert!(flags.contains(InodeFlags::NODATACOW | InodeFlags::NODATASUM), "{flags:?}");
    let before = places(&fs, id);
    fs.write(id, 5000, &[2; 9000]).unwrap();
    fs.sync().unwrap();
    assert_eq!((places(&fs, id), &bytes(&fs, id)[4999..5001]), (before.clone(), &[1, 2][..]));

    let snapshot = fs.snapshot(TreeId::FS, top(b"snapshot"), Access::ReadWrite).unwrap();
    let kept = InodeId { tree: snapshot, ..id };
    fs.write(id, 0, &[3; SECTOR]).unwrap();
    fs.write(kept, SECTOR as u64, &[4; SECTOR]).unwrap();
    fs.sync().unwrap();
    let now = (places(&fs, id), places(&fs, kept));
    assert_eq!((now.0.len(), now.1.len()), (2, 3), "one sector of each was copied");
    // What is new is nobody else's.
    fs.write(id, 0, &[5; SECTOR]).unwrap();
    fs.write(kept, SECTOR as u64, &[6; SECTOR]).unwrap();
    fs.sync().unwrap();
    assert_eq!((places(&fs, id), places(&fs, kept)), now);
    let (file, kept) = (bytes(&fs, id), bytes(&fs, kept));
    assert_eq!((file[0], file[SECTOR], kept[0], kept[SECTOR]), (5, 1, 1, 6));
    judge(&device, fs);
}

#[test]
fn what_is_not_in_the_tree_yet_is_overwritten_too_and_small_files_have_a_place() {
    let device = device();
    let fs = open_in_place(&device);
    let id = fs.create(top(b"file"), &FILE).unwrap();
    fs.write(id, 0, &[1; 100]).unwrap();
    write_back(&fs);
    let before = places(&fs, id);
    assert_eq!(before.len(), 1, "it is not kept inline");
    fs.write(id, 50, &[2; 100]).unwrap();
    write_back(&fs);
    assert_eq!(places(&fs, id), before);
    fs.preallocate(id, SECTOR as u64..LEN as u64, SizeMode::Extend).unwrap();
    fs.write(id, 0, &[3; 3 * SECTOR]).unwrap();
    write_back(&fs);
    let before = places(&fs, id);
    fs.write(id, 0, &[4; 3 * SECTOR]).unwrap();
    fs.set_size(id, 2 * SECTOR as u64 + 1).unwrap();
    fs.sync().unwrap();
    assert_eq!(places(&fs, id), before);
    assert!(bytes(&fs, id).iter().all(|byte| *byte == 4));
    judge(&device, fs);
}

#[test]
fn a_clone_is_not_overwritten_nor_what_it_was_before_the_commit() {
    let device = device();
    let fs = open_in_place(&device);
    let (id, other) = (file_of(&fs, b"file", 1), file_of(&fs, b"other", 2));
    let whole = |id| FileOffset { id, offset: 0 };
    fs.clone_range(whole(id), whole(other), CloneLen::ToEnd).unwrap();
    fs.sync().unwrap();
    let shared = places(&fs, id);
    assert_eq!(places(&fs, other), shared);
    fs.write(id, 0, &[3; SECTOR]).unwrap();
    fs.sync().unwrap();
    assert_eq!(bytes(&fs, other)[..SECTOR], [1; SECTOR]);

    // The clone goes. As long as that is not durable, a power cut brings it back.
    fs.set_size(other, 0).unwrap();
    let last = SECTOR * 63;
    fs.write(id, last as u64, &[4; SECTOR]).unwrap();
    write_back(&fs);
    let cut = open_in_place(&Arc::new(device.snapshot()));
    let back = cut.lookup(top(b"other")).unwrap();
    assert_eq!(bytes(&cut, back)[last..], [1; SECTOR]);
    fs.sync().unwrap();
    let before = places(&fs, id);
    fs.write(id, SECTOR as u64, &[5; SECTOR]).unwrap();
    fs.sync().unwrap();
    assert_eq!(places(&fs, id), before, "the extent is this file's alone by now");
    judge(&device, fs);
}

/// The log of a clone that was synced refers to the extent, though the clone itself does not any more.
#[test]
fn what_a_log_refers_to_is_not_overwritten() {
    let device = device();
    let fs = open_in_place(&device);
    let (id, other) = (file_of(&fs, b"file", 1), file_of(&fs, b"other", 2));
    fs.clone_range(FileOffset { id, offset: 0 }, FileOffset { id: other, offset: 0 }, CloneLen::ToEnd).unwrap();
    fs.fsync(other).unwrap();
    fs.set_size(other, 0).unwrap();
    fs.write(id, 0, &[3; LEN]).unwrap();
    write_back(&fs);
    let cut = open_in_place(&Arc::new(device.snapshot()));
    let back = cut.lookup(top(b"other")).unwrap();
    assert_eq!(bytes(&cut, back), [1; LEN]);
    judge(&device, fs);
}

#[test]
fn a_full_filesystem_can_still_be_overwritten() {
    let device = device();
    let fs = open_in_place(&device);
    let id = file_of(&fs, b"file", 1);
    let full = fs.create(top(b"full"), &FILE).unwrap();
    let (mut at, mut piece) = (0, 256 << 20);
    while piece >= SECTOR as u64 {
        match fs.preallocate(full, at..at + piece, SizeMode::Keep) {
            Ok(()) => at += piece,
            Err(Error::NoSpace) => piece /= 2,
            Err(error) => panic!("{error}"),
        }
    }
    fs.write(id, 0, &[2; LEN]).unwrap();
    fs.sync().unwrap();
    assert_eq!(bytes(&fs, id), [2; LEN]);
    // Bytes that have no other space must be there before a snapshot shares it; then there is none for others.
    fs.write(id, 0, &[3; LEN]).unwrap();
    let early = fs.snapshot_written(TreeId::FS, top(b"early"), Access::ReadOnly);
    assert!(matches!(early, Err(Error::NoSpace)), "{early:?}");
    let snapshot = fs.snapshot(TreeId::FS, top(b"snapshot"), Access::ReadOnly).unwrap();
    assert_eq!(bytes(&fs, InodeId { tree: snapshot, ..id }), [3; LEN]);
    assert!(matches!(fs.write(id, 0, &[4; LEN]), Err(Error::NoSpace)));
    assert_eq!(bytes(&fs, id), [3; LEN]);
    judge(&device, fs);
}

const FAR: usize = 2 * SECTOR;
const EXTENTS: usize = 100;

/// A file of small extents with holes between them, over a device that calls.
fn scattered(device: &Arc<MemDevice>, first: usize) -> (Arc<Filtered<OnWrite>>, Arc<Filesystem>, InodeId) {
    let filtered = Arc::new(Filtered::over(device.clone(), OnWrite::default()));
    let fs = Arc::new(open_over(filtered.clone(), DataRule::InPlace));
    let id = fs.create(top(b"file"), &FILE).unwrap();
    scatter(&fs, id, first, 1);
    fs.sync().unwrap();
    (filtered, fs, id)
}

fn scatter(fs: &Filesystem, id: InodeId, first: usize, byte: u8) {
    for extent in first..EXTENTS {
        fs.write(id, (extent * FAR) as u64, &[byte; SECTOR]).unwrap();
    }
}

fn count(fs: &Filesystem, id: InodeId, byte: u8) -> usize {
    bytes(fs, id).chunks(FAR).filter(|part| part[0] == byte).count()
}

/// Writeback goes in batches; the first is all of holes. What comes after a snapshot is not written where that has its
/// bytes.
#[test]
fn a_snapshot_that_overtakes_writeback_is_not_overwritten() {
    const HOLES: usize = 40;
    let device = device();
    let (filtered, fs, id) = scattered(&device, HOLES);
    scatter(&fs, id, 0, 2);
    let other = Arc::clone(&fs);
    *filtered.0.lock().unwrap() = Some(Box::new(move || {
        other.snapshot_written(TreeId::FS, top(b"snapshot"), Access::ReadWrite).unwrap();
    }));
    fs.sync().unwrap();
    let snapshot = fs.lookup(top(b"snapshot")).unwrap().tree;
    let kept = InodeId { tree: snapshot, ..id };
    assert_eq!((count(&fs, id, 2), count(&fs, kept, 1)), (EXTENTS, EXTENTS - HOLES));
    drop(filtered);
    judge(&device, Arc::into_inner(fs).unwrap());
}

#[test]
fn a_snapshot_waits_for_what_is_being_overwritten() {
    let device = device();
    let (filtered, fs, id) = scattered(&device, 0);
    scatter(&fs, id, 0, 2);
    let (other, started) = (Arc::clone(&fs), Arc::new(Mutex::new(None)));
    let thread = Arc::clone(&started);
    *filtered.0.lock().unwrap() = Some(Box::new(move || {
        let snapshot = move || other.snapshot_written(TreeId::FS, top(b"snapshot"), Access::ReadWrite).map(drop);
        let running = std::thread::spawn(snapshot);
        std::thread::sleep(Duration::from_millis(100));
        let waits = !running.is_finished();
        *thread.lock().unwrap() = Some((running, waits));
    }));
    fs.sync().unwrap();
    let (running, waits) = started.lock().unwrap().take().unwrap();
    running.join().unwrap().unwrap();
    assert!(waits, "the snapshot came while its bytes were being written");
    let kept = InodeId { tree: fs.lookup(top(b"snapshot")).unwrap().tree, ..id };
    let before = count(&fs, kept, 2);
    scatter(&fs, id, 0, 3);
    fs.sync().unwrap();
    assert_eq!((count(&fs, kept, 2), count(&fs, kept, 3), count(&fs, id, 3)), (before, 0, EXTENTS));
    drop(filtered);
    judge(&device, Arc::into_inner(fs).unwrap());
}

#[test]
fn without_checksums_is_still_copied() {
    let device = device();
    let fs = open_over(device.clone(), DataRule::NoChecksums);
    let id = file_of(&fs, b"file", 1);
    let before = places(&fs, id);
    let sums = fs.shared.gate.view(|tx| tx.checksums(butterfs_format::Logical(before[0].1), LEN as u64)).unwrap();
    assert!(sums.iter().all(Option::is_none));
    fs.write(id, 0, &[2; LEN]).unwrap();
    fs.sync().unwrap();
    assert_ne!(places(&fs, id), before);
    judge(&device, fs);
}

/// What its tree alone refers to is its tree's alone after a move, too: a full filesystem counts on that.
#[test]
fn files_whose_metadata_was_moved_are_overwritten_in_place() {
    let device = made(640 << 20);
    let fs = open_in_place(&device);
    let id = file_of(&fs, b"file", 1);
    // Enough for leaves that are no roots.
    for number in 0..600 {
        fs.create(top(format!("file {number} {}", "x".repeat(150)).as_bytes()), &FILE).unwrap();
    }
    fs.sync().unwrap();
    let before = places(&fs, id);
    let move_metadata = || {
        let filter = GroupFilter::used_at_most(BlockGroupFlags::METADATA, 100);
        assert!(fs.relocate(&filter, Room::NewChunks).unwrap() > 0);
    };
    move_metadata();
    fs.write(id, 0, &[2; LEN]).unwrap();
    // Between a write and its way to the device.
    move_metadata();
    fs.sync().unwrap();
    assert_eq!((places(&fs, id), bytes(&fs, id)), (before, vec![2; LEN]));
    judge(&device, fs);
}

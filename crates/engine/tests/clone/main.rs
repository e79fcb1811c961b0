//! Clones and deduplication, rule by rule; the checker judges what is left.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod bench;
mod dedupe;
mod space;

use std::sync::atomic::{AtomicBool, Ordering};

use butterfs_engine::Error;
use butterfs_engine::dir::Place;
use butterfs_engine::file::{CloneLen, MappedKind, SizeMode};
use butterfs_engine::filesystem::Access;
use butterfs_engine::inode::InodeId;
use butterfs_format::TreeId;
use butterfs_format::items::InodeFlags;

use bench::{Bench, FILE, K, SECTOR, SUBVOLUME, pattern};

#[test]
fn a_whole_file_shares_its_extents() {
    let bench = Bench::new();
    let bytes = pattern(1, 1_000_000);
    let source = bench.file("source", &bytes);
    let copy = bench.file("copy", b"");
    let before = bench.data_used();
    assert_eq!(bench.clone((source, 0), (copy, 0), CloneLen::ToEnd).unwrap(), 1_000_000);
    assert_eq!(bench.addresses(source, 0..1 << 20), bench.addresses(copy, 0..1 << 20));
    assert_eq!(bench.data_used(), before);
    assert_eq!(bench.item(copy).nbytes.get(), bench.item(source).nbytes.get());
    let bench = bench.judge();
    assert!(bench.bytes(copy) == bytes);
    // What is written later is each file's own.
    bench.fs.write(source, 5000, &[7; 10_000]).unwrap();
    bench.fs.write(copy, 500_000, &[8; 10_000]).unwrap();
    let (mut first, mut second) = (bytes.clone(), bytes);
    first[5000..15_000].fill(7);
    second[500_000..510_000].fill(8);
    let bench = bench.judge();
    assert!(bench.bytes(source) == first && bench.bytes(copy) == second);
    for name in ["source", "copy"] {
        bench.fs.unlink(Place::new(bench.fs.root(), name.as_bytes())).unwrap();
    }
    assert_eq!(bench.data_used(), 0, "space that two files shared comes back");
    bench.judge();
}

#[test]
fn what_is_in_memory_is_written_first_or_goes() {
    let bench = Bench::new();
    let bytes = pattern(1, 300_000);
    let source = bench.file("source", &bytes);
    let dest = bench.file("dest", &vec![9; 400_000]);
    bench.clone_bytes((source, 4 * SECTOR), (dest, 8 * SECTOR), 16 * SECTOR).unwrap();
    let mut expected = vec![9; 400_000];
    expected[8 * 4096..24 * 4096].copy_from_slice(&bytes[4 * 4096..20 * 4096]);
    assert!(bench.bytes(dest) == expected);
    let bench = bench.judge();
    assert!(bench.bytes(dest) == expected && bench.bytes(source) == bytes);
}

#[test]
fn ranges_that_cannot_be_shared_are_refused_and_nothing_changes() {
    let bench = Bench::new();
    let source = bench.file("source", &pattern(1, 10_000));
    let dest = bench.file("dest", &pattern(2, 50_000));
    bench.fs.sync().unwrap();
    let before = (bench.item(source), bench.item(dest));
    for (from, to, len, why) in [
        ((source, 100), (dest, 0), 4096, "source not aligned"),
        ((source, 0), (dest, 100), 4096, "destination not aligned"),
        ((source, 0), (dest, 0), 5000, "length not aligned"),
        ((source, 8192), (dest, 0), 1808, "a tail into the middle"),
        ((source, 8192), (dest, 0), 4096, "past the end"),
        ((source, 16384), (dest, 0), 4096, "behind the end"),
        ((source, u64::MAX - 4095), (dest, 0), 8192, "wraps"),
        ((dest, 0), (dest, 4096), 8192, "overlap"),
        ((dest, 8192), (dest, 4096), 8192, "overlap from behind"),
        ((dest, 0), (dest, 0), 4096, "onto itself"),
    ] {
        let result = bench.clone_bytes(from, to, len);
        assert!(matches!(result, Err(Error::Invalid(_))), "{why}: {result:?}");
    }
    assert!(matches!(bench.clone((source, 16384), (dest, 0), CloneLen::ToEnd), Err(Error::Invalid(_))));
    assert!(matches!(bench.clone_bytes((source, 0), (dest, 1 << 63), 4096), Err(Error::Invalid(_))));
    let top = bench.fs.root();
    assert!(matches!(bench.clone_bytes((top, 0), (dest, 0), 4096), Err(Error::IsDirectory)));
    assert!(matches!(bench.clone_bytes((source, 0), (top, 0), 4096), Err(Error::IsDirectory)));
    assert_eq!(bench.clone_bytes((source, 0), (dest, 0), 0).unwrap(), 0);
    assert_eq!((bench.item(source), bench.item(dest)), before);
    bench.judge();
}

#[test]
fn a_tail_is_shared_where_nothing_follows() {
    let bench = Bench::new();
    let bytes = pattern(1, 10_000);
    let source = bench.file("source", &bytes);
    let exact = bench.file("exact", &pattern(2, 10_000));
    let shorter = bench.file("shorter", &pattern(3, 9000));
    let far = bench.file("far", b"");
    assert_eq!(bench.clone((source, 0), (exact, 0), CloneLen::ToEnd).unwrap(), 10_000);
    assert_eq!(bench.clone_bytes((source, 4096), (shorter, 4096), 5904).unwrap(), 5904);
    assert_eq!(bench.clone((source, 8192), (far, 1 << 20), CloneLen::ToEnd).unwrap(), 1808);
    let mut third = pattern(3, 10_000);
    third[4096..].copy_from_slice(&bytes[4096..]);
    let mut fourth = vec![0; (1 << 20) + 1808];
    fourth[1 << 20..].copy_from_slice(&bytes[8192..]);
    let bench = bench.judge();
    assert!(bench.bytes(exact) == bytes && bench.bytes(shorter) == third && bench.bytes(far) == fourth);
    // Behind the tail there are zeros.
    bench.fs.set_size(far, (1 << 20) + 5000).unwrap();
    fourth.resize((1 << 20) + 5000, 0);
    assert!(bench.bytes(far) == fourth);
    bench.judge();
}

#[test]
fn within_one_file() {
    let bench = Bench::new();
    let mut bytes = pattern(1, 256 * K);
    let id = bench.file("file", &bytes);
    for copy in 1..=20 {
        let to = 256 * K + copy * 32 * K;
        bench.clone_bytes((id, 16 * K), (id, to), 32 * K).unwrap();
    }
    // Before the place where the extent begins in the file.
    bench.clone_bytes((id, 128 * K), (id, 0), 64 * K).unwrap();
    bytes.resize((256 + 21 * 32) * 1024, 0);
    let part = bytes[16 * 1024..48 * 1024].to_vec();
    for copy in 1..=20 {
        let to = (256 + copy * 32) * 1024;
        bytes[to..to + part.len()].copy_from_slice(&part);
    }
    let front = bytes[128 * 1024..192 * 1024].to_vec();
    bytes[..64 * 1024].copy_from_slice(&front);
    let bench = bench.judge();
    assert!(bench.bytes(id) == bytes);
    assert!(bench.addresses(id, 0..1 << 20).len() > 20);
    bench.fs.set_size(id, 0).unwrap();
    assert_eq!(bench.data_used(), 0);
    bench.judge();
}

fn is_inline(bench: &Bench, id: InodeId) -> bool {
    matches!(bench.map(id, 0..SECTOR)[0].kind, MappedKind::Inline(_))
}

#[test]
fn inline_sources_are_copied() {
    for bench in [Bench::new(), Bench::explicit_holes()] {
        let small = pattern(1, 900);
        let source = bench.file("source", &small);
        let empty = bench.file("empty", b"");
        let smaller = bench.file("smaller", &pattern(2, 500));
        let larger = bench.file("larger", &pattern(3, 30_000));
        let hollow = bench.file("hollow", b"");
        bench.fs.preallocate(hollow, 64 * K..128 * K, SizeMode::Keep).unwrap();
        bench.fs.sync().unwrap();
        assert!(is_inline(&bench, source));
        assert_eq!(bench.clone((source, 0), (empty, 0), CloneLen::ToEnd).unwrap(), 900);
        bench.clone((source, 0), (smaller, 0), CloneLen::ToEnd).unwrap();
        bench.clone((source, 0), (larger, 32 * K), CloneLen::ToEnd).unwrap();
        bench.clone((source, 0), (hollow, 0), CloneLen::ToEnd).unwrap();
        assert!(is_inline(&bench, empty) && is_inline(&bench, smaller));
        let mut grown = pattern(3, 30_000);
        grown.resize(32 * 1024 + 900, 0);
        grown[32 * 1024..].copy_from_slice(&small);
        let bench = bench.judge();
        for id in [source, empty, smaller, hollow] {
            assert_eq!(bench.bytes(id), small);
        }
        assert!(bench.bytes(larger) == grown && !is_inline(&bench, hollow));
        bench.judge();
    }
}

#[test]
fn inline_destinations_leave_the_tree_when_they_grow() {
    for bench in [Bench::new(), Bench::explicit_holes()] {
        let bytes = pattern(1, 64 * K);
        let source = bench.file("source", &bytes);
        let behind = bench.file("behind", &pattern(2, 700));
        let over = bench.file("over", &pattern(3, 700));
        let tail = bench.file("tail", &pattern(4, 700));
        let tail_source = bench.file("tail source", &pattern(5, 800));
        bench.fs.sync().unwrap();
        assert!(is_inline(&bench, behind) && is_inline(&bench, over));
        bench.clone_bytes((source, 0), (behind, 16 * K), 16 * K).unwrap();
        bench.clone_bytes((source, 8 * K), (over, 0), 8 * K).unwrap();
        bench.clone((tail_source, 0), (tail, 4 * K), CloneLen::ToEnd).unwrap();
        let mut first = pattern(2, 700);
        first.resize(16 * 1024, 0);
        first.extend_from_slice(&bytes[..16 * 1024]);
        let mut third = pattern(4, 700);
        third.resize(4096, 0);
        third.extend(pattern(5, 800));
        let bench = bench.judge();
        assert!(bench.bytes(behind) == first && bench.bytes(over) == bytes[8 * 1024..16 * 1024]);
        assert!(bench.bytes(tail) == third);
        bench.judge();
    }
}

#[test]
fn holes_and_preallocated_space() {
    for bench in [Bench::new(), Bench::explicit_holes()] {
        let source = bench.file("source", &pattern(1, 16 * K));
        bench.fs.write(source, 64 * K, &pattern(2, 16 * K)).unwrap();
        bench.fs.preallocate(source, 128 * K..192 * K, SizeMode::Extend).unwrap();
        bench.fs.set_size(source, 256 * K).unwrap();
        let full = bench.file("full", &vec![9; 300 * 1024]);
        let empty = bench.file("empty", b"");
        let bytes = bench.bytes(source);
        for dest in [full, empty] {
            bench.clone((source, 0), (dest, 0), CloneLen::ToEnd).unwrap();
            assert!(matches!(bench.map(dest, 128 * K..192 * K)[0].kind, MappedKind::Prealloc(_)));
        }
        let mut longer = bytes.clone();
        longer.resize(300 * 1024, 9);
        let bench = bench.judge();
        assert!(bench.bytes(full) == longer && bench.bytes(empty) == bytes);
        // A hole alone, past the end.
        bench.clone_bytes((source, 32 * K), (empty, 512 * K), 16 * K).unwrap();
        assert_eq!(bench.item(empty).size.get(), 528 * K);
        bench.judge();
    }
}

/// References that are still pending count: within one transaction, too.
#[test]
fn shared_preallocated_space_is_not_written_in_place() {
    for commit_between in [false, true] {
        let bench = Bench::new();
        let source = bench.file("source", b"");
        bench.fs.preallocate(source, 0..256 * K, SizeMode::Extend).unwrap();
        let dest = bench.file("dest", b"");
        bench.fs.sync().unwrap();
        bench.clone((source, 0), (dest, 0), CloneLen::ToEnd).unwrap();
        if commit_between {
            bench.fs.sync().unwrap();
        }
        bench.fs.write(source, 16 * K, &pattern(1, 32 * K)).unwrap();
        bench.fs.fsync(source).unwrap();
        let zeros = vec![0; 256 * 1024];
        assert!(bench.bytes(dest) == zeros);
        let MappedKind::Prealloc(shared) = bench.map(dest, 0..256 * K)[0].kind else { panic!("not preallocated") };
        let shared = shared.disk_bytenr..shared.disk_bytenr + shared.disk_num_bytes;
        let written = bench.addresses(source, 0..256 * K);
        assert!(written.iter().all(|(at, _)| !shared.contains(at)), "{written:?} in {shared:?}");
        bench.fs.write(dest, 24 * K, &pattern(2, 32 * K)).unwrap();
        let (mut first, mut second) = (zeros.clone(), zeros);
        first[16 * 1024..48 * 1024].copy_from_slice(&pattern(1, 32 * K));
        second[24 * 1024..56 * 1024].copy_from_slice(&pattern(2, 32 * K));
        let bench = bench.judge();
        assert!(bench.bytes(source) == first && bench.bytes(dest) == second);
    }
}

#[test]
fn across_subvolumes_and_into_read_only_ones() {
    let bench = Bench::new();
    let top = bench.fs.root();
    let bytes = pattern(1, 100_000);
    let source = bench.file("source", &bytes);
    let tree = bench.fs.create_subvolume(Place::new(top, b"other"), &SUBVOLUME).unwrap();
    let dest = bench.fs.create(Place::new(InodeId::top_of(tree), b"dest"), &FILE).unwrap();
    bench.clone((source, 0), (dest, 0), CloneLen::ToEnd).unwrap();
    assert_eq!(bench.addresses(source, 0..100 * K), bench.addresses(dest, 0..100 * K));
    let frozen = bench.fs.snapshot(TreeId::FS, Place::new(top, b"frozen"), Access::ReadOnly).unwrap();
    let old = InodeId::new(frozen, source.ino);
    assert!(matches!(bench.clone((dest, 0), (old, 0), CloneLen::ToEnd), Err(Error::ReadOnly)));
    // Out of a snapshot whose source is gone.
    bench.fs.unlink(Place::new(top, b"source")).unwrap();
    let again = bench.file("again", b"");
    bench.clone((old, 0), (again, 0), CloneLen::ToEnd).unwrap();
    bench.fs.delete_subvolume(Place::new(top, b"frozen")).unwrap();
    bench.fs.delete_subvolume(Place::new(top, b"other")).unwrap();
    while bench.fs.clean_once(100).unwrap() {}
    let bench = bench.judge();
    assert!(bench.bytes(again) == bytes);
    bench.fs.unlink(Place::new(top, b"again")).unwrap();
    assert_eq!(bench.data_used(), 0);
    bench.judge();
}

#[test]
fn files_with_and_without_checksums_do_not_share() {
    let bench = Bench::new();
    let with = bench.file("with", &pattern(1, 64 * K));
    let (first, second) = (bench.file("first", b""), bench.file("second", b""));
    for id in [first, second] {
        bench.fs.set_flags(id, InodeFlags::NODATACOW | InodeFlags::NODATASUM).unwrap();
    }
    bench.fs.write(first, 0, &pattern(2, 64 * K)).unwrap();
    assert!(matches!(bench.clone_bytes((with, 0), (first, 0), 64 * K), Err(Error::Invalid(_))));
    assert!(matches!(bench.clone_bytes((first, 0), (with, 0), 64 * K), Err(Error::Invalid(_))));
    bench.clone_bytes((first, 0), (second, 0), 64 * K).unwrap();
    bench.fs.write(first, 0, &[3; 4096]).unwrap();
    let bench = bench.judge();
    assert!(bench.bytes(second) == pattern(2, 64 * K));
}

/// Many more extents than a step has, on both sides.
#[test]
fn many_extents_go_in_many_steps() {
    let bench = Bench::new();
    let (source, dest) = (bench.file("source", b""), bench.file("dest", b""));
    for number in 0..150 {
        bench.fs.write(source, number * 2 * SECTOR, &pattern(number, SECTOR)).unwrap();
        bench.fs.write(dest, number * 3 * SECTOR, &pattern(number + 7, SECTOR)).unwrap();
    }
    bench.fs.sync().unwrap();
    let bytes = bench.bytes(source);
    let before = bench.bytes(dest);
    bench.clone((source, 0), (dest, SECTOR), CloneLen::ToEnd).unwrap();
    let mut expected = before;
    expected[4096..4096 + bytes.len()].copy_from_slice(&bytes);
    let bench = bench.judge();
    assert!(bench.bytes(dest) == expected);
    assert_eq!(bench.addresses(dest, SECTOR..SECTOR + bytes.len() as u64).len(), 150);
    // One extent of the source in place of many.
    let large = bench.file("large", &pattern(9, 2000 * K));
    bench.clone_bytes((large, 0), (dest, 0), 1200 * K).unwrap();
    assert!(bench.bytes(dest)[..1200 * 1024] == pattern(9, 2000 * K)[..1200 * 1024]);
    bench.judge();
}

/// More references to one extent than its item has room for, also several counted as one.
#[test]
fn many_references_to_one_extent() {
    const COPIES: u64 = 1500;
    let bench = Bench::new();
    let source = bench.file("source", &pattern(1, 64 * K));
    let files: Vec<_> = (0..5).map(|number| bench.file(&format!("file{number}"), b"")).collect();
    for copy in 0..COPIES {
        let file = files[(copy % 5) as usize];
        let from = copy % 16 * SECTOR;
        // The same difference of offsets, and so the same reference, for some.
        let to = if copy % 3 == 0 { from + copy / 160 * 128 * K } else { copy * 2 * SECTOR };
        bench.clone_bytes((source, from), (file, to), SECTOR).unwrap();
    }
    let contents: Vec<_> = files.iter().map(|id| bench.bytes(*id)).collect();
    let used = bench.data_used();
    assert_eq!(used, 64 * K);
    let bench = bench.judge();
    for (id, content) in files.iter().zip(&contents) {
        assert!(bench.bytes(*id) == *content);
    }
    bench.fs.unlink(Place::new(bench.fs.root(), b"source")).unwrap();
    for (number, id) in files.iter().enumerate() {
        bench.fs.set_size(*id, 1 << 20).unwrap();
        bench.fs.sync().unwrap();
        bench.fs.unlink(Place::new(bench.fs.root(), format!("file{number}").as_bytes())).unwrap();
    }
    assert_eq!(bench.data_used(), 0);
    bench.judge();
}

/// Two opposite clones, with writers on both files.
#[test]
fn opposite_clones_do_not_wait_for_each_other() {
    let bench = Bench::new();
    let (a, b) = (bench.file("a", &pattern(1, 512 * K)), bench.file("b", &pattern(2, 512 * K)));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let work: Vec<_> = [(a, b), (b, a), (a, a)]
            .into_iter()
            .map(|(from, to)| {
                let bench = &bench;
                scope.spawn(move || {
                    for step in 0..120 {
                        let (source, dest) = (step % 30 * 2 * SECTOR, 64 * SECTOR + step % 20 * 2 * SECTOR);
                        bench.clone_bytes((from, source), (to, dest), 2 * SECTOR).unwrap();
                    }
                })
            })
            .collect();
        for id in [a, b] {
            let (bench, done) = (&bench, &done);
            scope.spawn(move || {
                for step in 0.. {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    bench.fs.write(id, step % 128 * SECTOR, &pattern(step, SECTOR)).unwrap();
                    if step % 16 == 0 {
                        bench.fs.fsync(id).unwrap();
                    }
                }
            });
        }
        let results: Vec<_> = work.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.unwrap());
    });
    bench.judge();
}

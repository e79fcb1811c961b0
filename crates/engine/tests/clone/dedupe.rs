//! Deduplication.

use butterfs_engine::Error;
use butterfs_engine::file::Dedupe;

use super::bench::{Bench, at, pattern};

#[test]
fn same_bytes_are_deduplicated() {
    let bench = Bench::new();
    let bytes = pattern(1, 600_000);
    let (first, second) = (bench.file("first", &bytes), bench.file("second", &bytes));
    let before = bench.data_used();
    let item = bench.item(second);
    assert_eq!(bench.fs.dedupe_range(at((first, 0)), at((second, 0)), 600_000).unwrap(), Dedupe::Shared);
    assert!(bench.data_used() <= before - 600_000);
    assert_eq!(bench.addresses(first, 0..600_000), bench.addresses(second, 0..600_000));
    let now = bench.item(second);
    assert_eq!((now.mtime, now.ctime, now.size), (item.mtime, item.ctime, item.size));
    let bench = bench.judge();
    assert!(bench.bytes(second) == bytes);
    // Zeros are shared by a hole.
    let (zeros, hole) = (bench.file("zeros", &[0; 65536]), bench.file("hole", b""));
    bench.fs.set_size(hole, 65536).unwrap();
    assert_eq!(bench.fs.dedupe_range(at((hole, 0)), at((zeros, 0)), 65536).unwrap(), Dedupe::Shared);
    assert!(bench.addresses(zeros, 0..65536).is_empty());
    bench.judge();
}

#[test]
fn other_bytes_are_left_alone() {
    let bench = Bench::new();
    let bytes = pattern(1, 600_000);
    let (first, second) = (bench.file("first", &bytes), bench.file("second", &bytes));
    bench.fs.write(second, 599_999, &[bytes[599_999] ^ 1]).unwrap();
    bench.fs.sync().unwrap();
    let before = (bench.addresses(second, 0..600_000), bench.item(second));
    assert_eq!(bench.fs.dedupe_range(at((first, 0)), at((second, 0)), 600_000).unwrap(), Dedupe::Differs);
    assert_eq!((bench.addresses(second, 0..600_000), bench.item(second)), before);
    let short = bench.file("short", &bytes[..10_000]);
    for (from, to, len) in [((first, 0), (short, 0), 12_288), ((short, 0), (short, 0), 8192)] {
        assert!(matches!(bench.fs.dedupe_range(at(from), at(to), len), Err(Error::Invalid(_))));
    }
    assert_eq!(bench.fs.dedupe_range(at((short, 0)), at((second, 0)), 8192).unwrap(), Dedupe::Shared);
    let bench = bench.judge();
    assert!(bench.bytes(second)[..599_999] == bytes[..599_999]);
}

/// As in the kernel: a part of a sector is shared where both files end, and elsewhere it stays as it is.
#[test]
fn a_part_of_a_sector_stays_where_something_follows() {
    let bench = Bench::new();
    let bytes = pattern(1, 600_000);
    let (long, short) = (bench.file("long", &bytes), bench.file("short", &bytes[..10_000]));
    let tiny = bench.file("tiny", &bytes[..100]);
    bench.fs.sync().unwrap();
    let first = |id, range| bench.addresses(id, range)[0].0;
    let before = first(long, 0..600_000);
    assert_eq!(bench.fs.dedupe_range(at((tiny, 0)), at((long, 0)), 100).unwrap(), Dedupe::Shared);
    assert_eq!(first(long, 0..600_000), before);
    assert_eq!(bench.fs.dedupe_range(at((short, 0)), at((long, 0)), 10_000).unwrap(), Dedupe::Shared);
    assert_eq!(first(long, 0..8192), first(short, 0..8192));
    assert_eq!(first(long, 8192..12_288), before + 8192);
    let bench = bench.judge();
    assert!(bench.bytes(long) == bytes);
}

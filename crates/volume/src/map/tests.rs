//! Every profile's places, by hand.

use super::*;
use butterfs_format::items::{BlockGroupFlags, ChunkHeader, Stripe};

const KIB64: u64 = 64 << 10;

fn mapped(profile: BlockGroupFlags, stripes: usize, length: u64) -> Mapped {
    let header = ChunkHeader {
        length: length.into(),
        owner: 2.into(),
        stripe_len: STRIPE_LEN.into(),
        chunk_type: (BlockGroupFlags::DATA | profile).bits().into(),
        io_align: 65536.into(),
        io_width: 65536.into(),
        sector_size: 4096.into(),
        num_stripes: (stripes as u16).into(),
        sub_stripes: 2.into(),
    };
    let stripe =
        |i: usize| Stripe { devid: (i as u64 + 1).into(), offset: ((i as u64 + 1) << 20).into(), dev_uuid: [0; 16] };
    let chunk = Chunk { header, stripes: (0..stripes).map(stripe).collect() };
    Mapped::new(Logical(1 << 30), chunk, (0..stripes).collect()).unwrap()
}

fn map(profile: BlockGroupFlags, stripes: usize) -> ChunkMap {
    let mut map = ChunkMap::default();
    map.insert(mapped(profile, stripes, 12 * KIB64)).unwrap();
    map
}

/// (device, physical, bytes) of each piece of a copy.
fn places(map: &ChunkMap, offset: u64, bytes: usize, copy: usize) -> Vec<(usize, u64, usize)> {
    let reads = map.reads(Logical((1 << 30) + offset), bytes, copy).unwrap();
    let place = |read: Read| match read.source {
        Source::Stored(place) => (place.member, place.physical, read.in_buf.len()),
        Source::Rebuilt(_) => panic!("copy {copy} is not stored"),
    };
    reads.into_iter().map(place).collect()
}

#[test]
fn profiles_without_columns_map_straight() {
    use BlockGroupFlags as F;
    for (profile, copies) in [(F::empty(), 1), (F::DUP, 2), (F::RAID1, 2), (F::RAID1C3, 3), (F::RAID1C4, 4)] {
        let map = map(profile, copies);
        for copy in 0..copies {
            let base = (copy as u64 + 1) << 20;
            assert_eq!(places(&map, 5000, 200_000, copy), [(copy, base + 5000, 200_000)]);
        }
        assert!(matches!(map.reads(Logical(1 << 30), 1, copies), Err(Error::NoCopy { .. })));
    }
}

#[test]
fn raid0_goes_round_the_devices() {
    let map = map(BlockGroupFlags::RAID0, 3);
    let (a, b, c) = (1 << 20, 2 << 20, 3 << 20);
    assert_eq!(
        places(&map, KIB64 - 4096, 3 * KIB64 as usize, 0),
        [(0, a + KIB64 - 4096, 4096), (1, b, 65536), (2, c, 65536), (0, a + KIB64, 61440)]
    );
}

#[test]
fn raid10_pairs_neighbours() {
    let map = map(BlockGroupFlags::RAID10, 4);
    let base = |i: u64| (i + 1) << 20;
    for copy in 0..2usize {
        let c = copy as u64;
        assert_eq!(
            places(&map, 0, 3 * KIB64 as usize, copy),
            [(copy, base(c), 65536), (2 + copy, base(2 + c), 65536), (copy, base(c) + KIB64, 65536)]
        );
    }
    assert_eq!(map.stored(Logical(1 << 30), 4096).unwrap().len(), 2);
}

/// RAID5 over three devices: rows of two data stripes, and parity one device further each row.
#[test]
fn raid5_rotates() {
    let map = map(BlockGroupFlags::RAID5, 3);
    let base = |i: u64| (i + 1) << 20;
    assert_eq!(
        places(&map, 4096, 5 * KIB64 as usize, 0),
        [
            (0, base(0) + 4096, 61440),
            (1, base(1), 65536),
            (1, base(1) + KIB64, 65536),
            (2, base(2) + KIB64, 65536),
            (2, base(2) + 2 * KIB64, 65536),
            (0, base(0) + 2 * KIB64, 4096),
        ]
    );
    let rebuilt = map.reads(Logical((1 << 30) + 2 * KIB64 + 8192), 4096, 1).unwrap();
    let place = |member: usize| Place { member, physical: base(member as u64) + KIB64 + 8192 };
    // The first data stripe of row 1 is on device 1; P is on device 0, the other data on device 2.
    assert_eq!(rebuilt, [Read { source: Source::Rebuilt(vec![(place(0), 1), (place(2), 1)]), in_buf: 0..4096 }]);
    assert!(map.reads(Logical(1 << 30), 1, 2).is_err());
}

/// With two devices the parity of RAID5 is a mirror, and with three both parities of RAID6 are.
#[test]
fn one_column_with_parity_is_mirrored() {
    let base = |i: u64| (i + 1) << 20;
    for (profile, stripes) in [(BlockGroupFlags::RAID5, 2), (BlockGroupFlags::RAID6, 3)] {
        let map = map(profile, stripes);
        assert_eq!(map.find(Logical(1 << 30)).unwrap().grid.ways(), stripes);
        for way in 1..stripes {
            let read = map.reads(Logical((1 << 30) + KIB64), 4096, way).unwrap();
            let member = (1 + way) % stripes;
            let place = Place { member, physical: base(member as u64) + KIB64 };
            assert_eq!(read, [Read { source: Source::Rebuilt(vec![(place, 1)]), in_buf: 0..4096 }]);
        }
    }
}

/// With parity a whole row is kept clear of a superblock on any of its devices.
#[test]
fn superblocks_take_rows_of_raid5() {
    let chunk = mapped(BlockGroupFlags::RAID5, 3, 256 << 20);
    let ranges = chunk.superblock_ranges();
    let row = |stripe: u64| ((64 << 20) - ((stripe + 1) << 20)) / KIB64;
    let range = |stripe: u64| {
        let start = Logical((1 << 30) + row(stripe) * 2 * KIB64);
        start..Logical(start.0 + 2 * KIB64)
    };
    assert_eq!(ranges, [range(2), range(1), range(0)]);
}

#[test]
fn overlapping_chunks_are_refused() {
    let mut map = map(BlockGroupFlags::empty(), 1);
    for (start, length) in [(0u64, u64::MAX), ((1 << 30) + 4096, 4096), ((1 << 30) - 4096, 8192), (1 << 30, 4096)] {
        let mut chunk = mapped(BlockGroupFlags::empty(), 1, length);
        chunk.start = Logical(start);
        assert!(matches!(map.insert(chunk), Err(Error::Corruption(_))), "{start} {length}");
    }
    let mut chunk = mapped(BlockGroupFlags::empty(), 1, 4096);
    chunk.start = Logical((1 << 30) + 12 * KIB64);
    map.insert(chunk).unwrap();
    assert_eq!(map.len(), 2);
}

#[test]
fn requests_cross_chunks_and_end_with_them() {
    let mut map = map(BlockGroupFlags::empty(), 1);
    let mut next = mapped(BlockGroupFlags::DUP, 2, KIB64);
    next.start = Logical((1 << 30) + 12 * KIB64);
    map.insert(next).unwrap();
    assert_eq!(places(&map, 12 * KIB64 - 10, 30, 0), [(0, (1 << 20) + 12 * KIB64 - 10, 10), (0, 1 << 20, 20)]);
    assert_eq!(map.stored(Logical((1 << 30) + 12 * KIB64 - 10), 30).unwrap().len(), 3);
    for (logical, bytes) in [(u64::MAX, 10), (0, 1), ((1 << 30) + 13 * KIB64 - 1, 2)] {
        assert!(map.reads(Logical(logical), bytes, 0).is_err());
    }
}

#[test]
fn superblocks_are_found_in_logical_space() {
    let mut chunk = mapped(BlockGroupFlags::RAID0, 2, 128 << 20);
    chunk.chunk.stripes[1].offset = (1 << 20).into();
    // 64 MiB on the device is 63 MiB into each stripe (the first begins at 1 MiB too).
    let row = (63 << 20) / KIB64;
    let at = |column: u64| Logical((1 << 30) + (row * 2 + column) * KIB64);
    let end = |column: u64| Logical(at(column).0 + KIB64);
    assert_eq!(chunk.superblock_ranges(), [at(0)..end(0), at(1)..end(1)]);
    assert!(mapped(BlockGroupFlags::DUP, 2, 1 << 20).superblock_ranges().is_empty());
}

fn vec_of(range: Range<u64>) -> Vec<Range<u64>> {
    std::iter::once(range).collect()
}

#[test]
fn superblocks_are_cut_out_of_ranges() {
    assert_eq!(without_superblocks(0..1 << 20), [0..65536, 69632..1 << 20]);
    assert_eq!(without_superblocks(66000..69632), Vec::<Range<u64>>::new());
    assert_eq!(without_superblocks(68000..70000), vec_of(69632..70000));
    assert_eq!(without_superblocks(69632..(64 << 20) + 1), vec_of(69632..64 << 20));
    let whole = without_superblocks(0..1 << 40);
    assert_eq!(whole.len(), 4);
}

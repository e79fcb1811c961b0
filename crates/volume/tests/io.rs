//! Reads with fallback and repair, writes to all copies, superblocks, and what must be refused.

mod common;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use butterfs_format::items::BlockGroupFlags as F;
use butterfs_format::superblock::{SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_format::validate::Expected;
use butterfs_format::{Logical, Superblock};
use butterfs_testkit::filter::{Filter, Filtered};
use butterfs_volume::{BlockDevice, Error, MemDevice, OpenMode, Reader, Volume, erase_superblocks};
use common::*;

fn root() -> Expected {
    Expected::at(Logical(SYSTEM))
}

/// Bytes that differ from sector to sector.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 4096 * 31 + i % 251) as u8).collect()
}

#[test]
fn a_bad_block_is_read_from_its_twin_and_repaired() {
    let devices = Image::dup().build();
    let volume = open(&devices, OpenMode::ReadWrite).unwrap();
    for place in [16 << 20, 32 << 20] {
        let good = bytes_at(&devices[0], place, NODE);
        devices[0].write_at(place + 500, &[0xaa; 100]).unwrap();
        volume.read_block(&root()).unwrap();
        // Copy 1 is not looked at while copy 0 is good.
        assert_eq!(bytes_at(&devices[0], place, NODE) == good, place == 16 << 20);
        devices[0].write_at(place, &good).unwrap();
    }
}

#[test]
fn a_read_only_volume_repairs_nothing() {
    let devices = Image::dup().build();
    let volume = open(&devices, OpenMode::ReadOnly).unwrap();
    devices[0].write_at((16 << 20) + 500, &[0xaa; 100]).unwrap();
    let bad = bytes_at(&devices[0], 16 << 20, NODE);
    volume.read_block(&root()).unwrap();
    assert_eq!(bytes_at(&devices[0], 16 << 20, NODE), bad);
    assert!(volume.read_block_copy(&root(), 0).is_err());
    assert!(volume.read_block_copy(&root(), 1).is_ok());
    assert!(volume.read_block_copy(&root(), 2).is_err());
}

#[test]
fn a_block_without_good_copy_names_all() {
    let devices = Image::dup().build();
    let volume = open(&devices, OpenMode::ReadWrite).unwrap();
    for place in [16 << 20, 32 << 20] {
        devices[0].write_at(place + 500, &[0xaa; 100]).unwrap();
    }
    let error = volume.read_block(&root()).unwrap_err();
    assert!(matches!(error, Error::NoCopy { .. }));
    let text = error.to_string();
    for part in ["logical 16777216", "disk1", "offset 16777216", "offset 33554432", "checksum"] {
        assert!(text.contains(part), "{text}");
    }
}

/// Another system has committed since: its blocks must not be overwritten with what we think is good.
#[test]
fn nothing_is_repaired_after_another_system_wrote() {
    let image = Image::dup();
    let devices = image.build();
    let volume = open(&devices, OpenMode::ReadWrite).unwrap();
    let mut newer = image.superblock_of(&dev_item(1));
    newer.generation = 10.into();
    devices[0].write_at(65536, &newer.to_bytes_at(65536)).unwrap();
    assert!(matches!(volume.check_unchanged(), Err(Error::Busy(_))));
    devices[0].write_at((16 << 20) + 500, &[0xaa; 100]).unwrap();
    let bad = bytes_at(&devices[0], 16 << 20, NODE);
    volume.read_block(&root()).unwrap();
    assert_eq!(bytes_at(&devices[0], 16 << 20, NODE), bad);
}

#[test]
fn bad_sectors_are_healed_one_by_one() {
    let devices = Image::dup().build();
    let volume = open(&devices, OpenMode::ReadWrite).unwrap();
    let want = pattern(16 * 4096);
    volume.write(Logical(DATA), &want).unwrap();
    let good = |index: usize, bytes: &[u8]| bytes == &want[index * 4096..][..4096];
    // Sector 3 is bad in copy 0, sector 5 in copy 1.
    devices[0].write_at((80 << 20) + 3 * 4096, &[0xee; 10]).unwrap();
    devices[0].write_at((96 << 20) + 5 * 4096, &[0xee; 10]).unwrap();
    let mut buf = vec![0; want.len()];
    volume.read_verified(Logical(DATA), &mut buf, &good).unwrap();
    assert_eq!(buf, want);
    assert_eq!(bytes_at(&devices[0], 80 << 20, want.len()), want);
    assert_ne!(bytes_at(&devices[0], 96 << 20, want.len()), want);
    // Sector 5 is bad in both.
    devices[0].write_at((80 << 20) + 5 * 4096, &[0xdd; 10]).unwrap();
    let error = volume.read_verified(Logical(DATA), &mut buf, &good).unwrap_err();
    assert!(matches!(error, Error::Corruption(_)));
    let place = format!("offset {}", (80 << 20) + 5 * 4096);
    let text = error.to_string();
    assert!(text.contains(&place) && text.contains(&format!("logical {}", DATA + 5 * 4096)), "{text}");
}

/// Each reader begins with a copy of its own, and what is bad of that is mended from the others; in one device, all with
/// the first.
#[test]
fn a_reader_has_its_copy() {
    let mirrored = chunk(F::DATA | F::RAID1C3, CHUNK_LEN, &[(1, 80 << 20), (2, 80 << 20), (3, 80 << 20)]);
    let devices = Image::with_devices(3, mirrored).build();
    let volume = open(&devices, OpenMode::ReadWrite).unwrap();
    let want = pattern(4 * 4096);
    volume.write(Logical(DATA), &want).unwrap();
    let good = |index: usize, bytes: &[u8]| bytes == &want[index * 4096..][..4096];
    let read = |reader| {
        let mut buf = vec![0; want.len()];
        volume.read_verified_for(Reader(reader), Logical(DATA), &mut buf, &good).unwrap();
        assert_eq!(buf, want);
    };
    let is_whole = |device: usize| bytes_at(&devices[device], 80 << 20, want.len()) == want;
    for (device, bytes) in devices.iter().enumerate() {
        bytes.write_at((80 << 20) + 4096, &[0xee; 10]).unwrap();
        for reader in [0, 1, 2, 4, 5].into_iter().filter(|reader| reader % 3 != device) {
            read(reader as u32);
            assert!(!is_whole(device), "reader {reader} looked at device {device}");
        }
        read(3 + device as u32);
        assert!(is_whole(device), "device {device}");
    }
    // The copies of two devices are bad: the third mends both that were looked at.
    devices[1].write_at(80 << 20, &[0xee; 10]).unwrap();
    devices[0].write_at(80 << 20, &[0xee; 10]).unwrap();
    read(1);
    assert!(is_whole(0) && is_whole(1));
    let on_one = Image::dup().build();
    let volume = open(&on_one, OpenMode::ReadWrite).unwrap();
    volume.write(Logical(DATA), &want).unwrap();
    on_one[0].write_at(96 << 20, &[0xee; 10]).unwrap();
    let mut buf = vec![0; want.len()];
    volume.read_verified_for(Reader(1), Logical(DATA), &mut buf, &good).unwrap();
    assert_ne!(bytes_at(&on_one[0], 96 << 20, want.len()), want, "all begin with the first");
}

/// Every profile gives back what was written, from each copy, and the copies are where they should be.
#[test]
fn all_profiles_round_trip() {
    let at = |devices: &[u64]| devices.iter().map(|d| (*d, 80 << 20)).collect::<Vec<_>>();
    let cases = [
        (F::empty(), at(&[1]), 1),
        (F::DUP, vec![(1, 80 << 20), (1, 100 << 20)], 2),
        (F::RAID1, at(&[1, 2]), 2),
        (F::RAID1C3, at(&[1, 2, 3]), 3),
        (F::RAID1C4, at(&[1, 2, 3, 4]), 4),
        (F::RAID0, at(&[1, 2, 3]), 1),
        (F::RAID10, at(&[4, 3, 2, 1]), 2),
    ];
    for (profile, stripes, copies) in cases {
        let image = Image::with_devices(4, chunk(F::DATA | profile, 6 << 20, &stripes));
        let devices = image.build();
        let volume = open(&devices, OpenMode::ReadWrite).unwrap();
        let want = pattern(3 << 20);
        volume.write(Logical(DATA + 12288), &want).unwrap();
        assert_eq!(volume.copies(Logical(DATA)).unwrap(), copies);
        for copy in 0..copies {
            let mut buf = vec![0; want.len()];
            volume.read_copy(Logical(DATA + 12288), &mut buf, copy).unwrap();
            assert!(buf == want, "{profile:?} copy {copy}");
        }
        let mut stored = 0;
        for (devid, offset) in stripes {
            stored += bytes_at(&devices[devid as usize - 1], offset, 6 << 20).iter().filter(|b| **b != 0).count();
        }
        assert_eq!(stored, want.iter().filter(|b| **b != 0).count() * copies, "{profile:?}");
    }
}

/// Lets every request to a device fail when told to.
struct Failing(AtomicBool);

impl Failing {
    fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(io::Error::other("broken")) } else { Ok(()) }
    }
}

impl Filter for Failing {
    fn read_at(&self, inner: &dyn BlockDevice, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.check().and_then(|()| inner.read_at(offset, buf))
    }

    fn write_at(&self, inner: &dyn BlockDevice, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.check().and_then(|()| inner.write_at(offset, buf))
    }

    fn flush(&self, inner: &dyn BlockDevice) -> io::Result<()> {
        self.check().and_then(|()| inner.flush())
    }

    fn discard(&self, inner: &dyn BlockDevice, offset: u64, len: u64) -> io::Result<()> {
        self.check().and_then(|()| inner.discard(offset, len))
    }
}

#[test]
fn a_dead_mirror_is_read_around_and_dropped() {
    let data = chunk(F::DATA | F::RAID1, CHUNK_LEN, &[(1, 80 << 20), (2, 80 << 20)]);
    let devices = Image::with_devices(2, data).build();
    let failing = Arc::new(Filtered::over(devices[0].clone(), Failing(AtomicBool::new(false))));
    let both: Vec<Arc<dyn BlockDevice>> = vec![Arc::clone(&failing) as _, Arc::clone(&devices[1]) as _];
    let volume = Volume::open(both, OpenMode::ReadWrite).unwrap();
    let want = pattern(65536);
    volume.write(Logical(DATA), &want).unwrap();
    failing.0.store(true, Ordering::Relaxed);
    let mut buf = vec![0; want.len()];
    volume.read(Logical(DATA), &mut buf).unwrap();
    assert_eq!(buf, want);
    buf.fill(0);
    volume.read_verified(Logical(DATA), &mut buf, &|i, b| b == &want[i * 4096..][..4096]).unwrap();
    assert_eq!(buf, want);
    volume.read_block(&root()).unwrap();
    volume.write(Logical(DATA), &want).unwrap();
    assert_eq!(volume.dropped_devices().iter().map(|id| id.devid.0).collect::<Vec<_>>(), [1]);
    failing.0.store(false, Ordering::Relaxed);
    let left = volume.superblock();
    let newer = butterfs_format::Superblock { generation: (left.generation.get() + 1).into(), ..left };
    volume.write_superblocks(&newer).unwrap();
    volume.flush().unwrap();
    volume.discard(Logical(DATA), 4096).unwrap();
    let generation = |device: &Arc<dyn BlockDevice>| {
        let mut bytes = vec![0; 4096];
        device.read_at(65536, &mut bytes).unwrap();
        butterfs_format::Superblock::parse(&bytes, 65536).unwrap().generation.get()
    };
    let behind: Arc<dyn BlockDevice> = failing;
    assert_eq!(
        (generation(&behind), generation(&(devices[1].clone() as _))),
        (left.generation.get(), newer.generation.get())
    );
}

#[test]
fn a_device_with_the_only_copy_says_what_failed() {
    let data = chunk(F::DATA, CHUNK_LEN, &[(1, 80 << 20)]);
    let devices = Image::with_devices(2, data).build();
    let failing = Arc::new(Filtered::over(devices[0].clone(), Failing(AtomicBool::new(false))));
    let both: Vec<Arc<dyn BlockDevice>> = vec![Arc::clone(&failing) as _, Arc::clone(&devices[1]) as _];
    let volume = Volume::open(both, OpenMode::ReadWrite).unwrap();
    failing.0.store(true, Ordering::Relaxed);
    let errors = [
        volume.write(Logical(DATA), &pattern(65536)).unwrap_err(),
        volume.flush().unwrap_err(),
        volume.write_superblocks(&volume.superblock()).unwrap_err(),
    ];
    let what = ["write of 65536 bytes at offset 83886080", "flush", "write of the superblock at offset 65536"];
    for (error, what) in errors.iter().zip(what) {
        assert_eq!(error.to_string(), format!("disk1 (device 1): {what}: broken"));
    }
}

#[test]
fn superblocks_go_to_all_places_of_all_devices() {
    let devices = Image::with_devices(2, chunk(F::DATA, CHUNK_LEN, &[(2, 80 << 20)])).build();
    let volume = open(&devices, OpenMode::ReadWrite).unwrap();
    let mut sb = volume.superblock();
    sb.generation = 10.into();
    sb.dev_item.bytes_used = 4096.into();
    let given = sb.dev_item.devid.get();
    volume.write_superblocks(&sb).unwrap();
    volume.check_unchanged().unwrap();
    assert_eq!(volume.superblock().generation.get(), 10);
    for (device, devid) in devices.iter().zip(1..) {
        for offset in &SUPERBLOCK_OFFSETS[..2] {
            let copy = Superblock::parse(&bytes_at(device, *offset, 4096), *offset).unwrap();
            assert_eq!((copy.generation.get(), copy.dev_item.devid.get()), (10, devid));
            assert_eq!(copy.dev_item.uuid, dev_uuid(devid));
            assert_eq!(copy.dev_item.bytes_used.get(), if devid == given { 4096 } else { 0 });
        }
    }
}

#[test]
fn a_log_written_by_another_system_is_noticed() {
    let image = Image::dup();
    let devices = image.build();
    let volume = open(&devices, OpenMode::ReadWrite).unwrap();
    volume.check_unchanged().unwrap();
    let mut other = image.superblock_of(&dev_item(1));
    other.log_root = (SYSTEM + 65536).into();
    devices[0].write_at(65536, &other.to_bytes_at(65536)).unwrap();
    assert!(matches!(volume.check_unchanged(), Err(Error::Busy(_))));
}

#[test]
fn a_read_only_volume_refuses_writes() {
    let volume = Image::dup().open(OpenMode::ReadOnly).unwrap();
    assert!(matches!(volume.write(Logical(DATA), &[0; 4096]), Err(Error::NotWritable(_))));
    assert!(matches!(volume.write_superblocks(&volume.superblock()), Err(Error::NotWritable(_))));
}

#[test]
fn superblocks_are_never_overwritten_or_discarded() {
    let image = Image::with_devices(2, chunk(F::DATA, 16 << 20, &[(1, 60 << 20)]));
    let devices = image.build();
    let volume = open(&devices, OpenMode::ReadWrite).unwrap();
    let over = Logical(DATA + (4 << 20));
    assert_eq!(
        volume.superblock_ranges(Logical(DATA)),
        std::iter::once(over..Logical(over.0 + 65536)).collect::<Vec<_>>()
    );
    assert!(volume.superblock_ranges(Logical(SYSTEM)).is_empty());
    assert!(volume.write(over, &[0; 4096]).is_err());
    volume.write(Logical(over.0 + 4096), &[7; 4096]).unwrap();
    let before = bytes_at(&devices[0], 64 << 20, 4096);
    volume.discard(Logical(DATA), 16 << 20).unwrap();
    assert_eq!(bytes_at(&devices[0], 64 << 20, 4096), before);
    assert_eq!(bytes_at(&devices[0], (64 << 20) + 4096, 4096), [0; 4096]);
}

/// A copy of a larger filesystem must not survive a smaller one that is made in its place.
#[test]
fn all_superblocks_are_erased() {
    let device = MemDevice::new(300 << 30);
    for offset in SUPERBLOCK_OFFSETS {
        device.write_at(offset - 1, &[7; SUPERBLOCK_SIZE + 2]).unwrap();
    }
    erase_superblocks(&device).unwrap();
    for offset in SUPERBLOCK_OFFSETS {
        let around = bytes_at(&device, offset - 1, SUPERBLOCK_SIZE + 2);
        assert_eq!((around[0], around[SUPERBLOCK_SIZE + 1]), (7, 7));
        assert!(around[1..=SUPERBLOCK_SIZE].iter().all(|byte| *byte == 0));
    }
    erase_superblocks(&MemDevice::new(65536)).unwrap();
}

#[test]
fn a_new_filesystem_starts_without_chunks() {
    let device = Arc::new(MemDevice::new(DEVICE_LEN));
    let image = Image::dup();
    let sb = image.superblock_of(&dev_item(1));
    let volume = Volume::create(vec![(Arc::clone(&device) as _, sb.dev_item)], sb, CHUNK_UUID);
    assert!(volume.chunks().is_empty() && volume.write(Logical(SYSTEM), &[0]).is_err());
    for (logical, chunk) in &image.chunks {
        volume.add_chunk(Logical(*logical), chunk.clone()).unwrap();
    }
    assert!(volume.add_chunk(Logical(SYSTEM + 4096), image.chunks[0].1.clone()).is_err());
    let leaf = image.leaf();
    volume.write_batch(&[(Logical(SYSTEM), leaf.bytes()), (Logical(DATA), &[1; 4096])]).unwrap();
    volume.check_unchanged().unwrap();
    volume.write_superblocks(&sb).unwrap();
    volume.check_unchanged().unwrap();
    volume.remove_chunk(Logical(DATA));
    assert!(volume.read(Logical(DATA), &mut [0; 4]).is_err());
    let again = open(&[device], OpenMode::ReadOnly).unwrap();
    assert_eq!(again.chunks().len(), 2);
    let mut buf = [0; 4096];
    again.read(Logical(DATA), &mut buf).unwrap();
    assert_eq!(buf, [1; 4096]);
}

/// Lets reads of some ranges fail.
struct Unreadable(Vec<std::ops::Range<u64>>);

impl Filter for Unreadable {
    fn read_at(&self, inner: &dyn BlockDevice, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset + buf.len() as u64;
        match self.0.iter().any(|bad| bad.start < end && offset < bad.end) {
            true => Err(io::Error::from_raw_os_error(5)),
            false => inner.read_at(offset, buf),
        }
    }
}

/// Where no copy can be read it is the device that failed, and the error names it; where one can be read and is wrong,
/// the disk lies.
#[test]
fn a_device_that_cannot_be_read_is_no_corruption() {
    let want = pattern(4 * 4096);
    let read = |offsets: &[u64], wrong: &[u64]| {
        let devices = Image::dup().build();
        open(&devices, OpenMode::ReadWrite).unwrap().write(Logical(DATA), &want).unwrap();
        for place in wrong {
            devices[0].write_at(place + 4096, &[0xaa; 9]).unwrap();
        }
        let offsets = offsets.iter().map(|offset| *offset..offset + (1 << 20)).collect();
        let broken = Arc::new(Filtered::over(devices[0].clone(), Unreadable(offsets)));
        let volume = Volume::open(vec![broken], OpenMode::ReadOnly);
        let mut buf = vec![0; want.len()];
        let good = |index: usize, bytes: &[u8]| bytes == &want[index * 4096..][..4096];
        let data = volume.and_then(|volume| volume.read_verified(Logical(DATA), &mut buf, &good));
        data.map(|()| assert!(buf == want))
    };
    let (first, second) = (80 << 20, 96 << 20);
    read(&[first], &[]).unwrap();
    read(&[first], &[first]).unwrap();
    for device in [read(&[first, second], &[]), read(&[16 << 20, 32 << 20], &[])] {
        let error = device.unwrap_err();
        assert!(matches!(&error, Error::Device { source, .. } if source.raw_os_error() == Some(5)), "{error:?}");
        assert!(error.to_string().contains("disk1"), "{error}");
    }
    for lie in [read(&[second], &[first]), read(&[first], &[second]), read(&[], &[first, second])] {
        assert!(matches!(lie, Err(Error::Corruption(_))), "{lie:?}");
    }
}

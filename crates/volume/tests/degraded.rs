//! Devices that are missing, behind, doubled, of another filesystem, or of a seed; and what is counted.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::sync::Arc;

use butterfs_format::items::BlockGroupFlags as F;
use butterfs_format::superblock::{Incompat, SUPER_FLAG_CHANGING_FSID_V2, SUPER_FLAG_SEEDING, SUPERBLOCK_OFFSETS};
use butterfs_format::validate::{Checksum, Expected};
use butterfs_format::{DevId, Generation, Logical};
use butterfs_volume::{BadChunks, BlockDevice, DeviceStats, Error, MemDevice, Missing, OpenMode, OpenOptions, Volume};
use common::*;

const ACCEPT: OpenOptions = OpenOptions {
    mode: OpenMode::ReadOnly,
    missing: Missing::Accept,
    bad_chunks: BadChunks::Refuse,
    block_checksums: Checksum::Verify,
};

fn open_degraded(devices: &[Arc<MemDevice>]) -> Result<Volume, Error> {
    Volume::open_with(devices.iter().map(|device| Arc::clone(device) as Arc<dyn BlockDevice>).collect(), &ACCEPT)
}

/// Data in one stripe of 64 KiB on each of the devices, as `profile` has it.
fn with_data(profile: F, stripes: &[u64]) -> (Vec<Arc<MemDevice>>, Vec<u8>) {
    let stripes: Vec<_> = stripes.iter().map(|devid| (*devid, 80 << 20)).collect();
    let devices = Image::with_devices(4, chunk(F::DATA | profile, 8 << 20, &stripes)).build();
    let want: Vec<u8> = (0..1 << 20).map(|i: usize| (i / 4096 * 31 + i % 251) as u8).collect();
    open(&devices, OpenMode::ReadWrite).unwrap().write(Logical(DATA), &want).unwrap();
    (devices, want)
}

fn without(devices: &[Arc<MemDevice>], missing: &[usize]) -> Vec<Arc<MemDevice>> {
    let there = devices.iter().enumerate().filter(|(index, _)| !missing.contains(index));
    there.map(|(_, device)| Arc::clone(device)).collect()
}

#[test]
fn what_a_profile_survives_stays_readable() {
    // With the devices that can go, besides one of the first two, which hold the system chunk.
    for (profile, stripes, missing) in [
        (F::RAID1, &[3, 4][..], &[&[2][..], &[3]][..]),
        (F::RAID1C3, &[2, 3, 4], &[&[1, 2], &[2, 3], &[1, 3]]),
        (F::RAID1C4, &[1, 2, 3, 4], &[&[0, 2, 3], &[1, 2, 3]]),
        (F::RAID10, &[1, 2, 3, 4], &[&[0, 2], &[1, 3], &[0, 3]]),
    ] {
        let (devices, want) = with_data(profile, stripes);
        for missing in missing {
            let volume = open_degraded(&without(&devices, missing)).unwrap();
            let ids: Vec<_> = volume.missing_devices().iter().map(|id| id.devid.0 as usize - 1).collect();
            assert_eq!(ids, *missing);
            let mut buf = vec![0; want.len()];
            volume.read(Logical(DATA), &mut buf).unwrap();
            assert!(buf == want, "{profile:?} without {missing:?}");
            buf.fill(0);
            volume.read_verified(Logical(DATA), &mut buf, &|i, b| b == &want[i * 4096..][..4096]).unwrap();
            assert!(buf == want, "{profile:?} without {missing:?}");
            assert!(volume.device_stats().iter().all(|(_, stats)| *stats == DeviceStats::default()));
        }
    }
}

#[test]
fn what_no_profile_survives_is_an_error_and_the_rest_is_read() {
    let (devices, want) = with_data(F::RAID0, &[1, 3]);
    let volume = open_degraded(&without(&devices, &[2])).unwrap();
    let mut buf = vec![0; 65536];
    for number in 0..16 {
        let result = volume.read(Logical(DATA + number * 65536), &mut buf);
        if number % 2 == 0 {
            result.unwrap();
            assert!(buf == want[number as usize * 65536..][..65536]);
        } else {
            let error = result.unwrap_err();
            assert!(error.is_absence() && error.to_string().contains("device 3"), "{error}");
        }
    }
}

#[test]
fn all_missing_devices_are_named() {
    let (devices, _) = with_data(F::RAID1C3, &[2, 3, 4]);
    let error = open(&without(&devices, &[2, 3]), OpenMode::ReadOnly).unwrap_err();
    assert!(matches!(&error, Error::MissingDevices(missing) if missing.len() == 2), "{error}");
    let text = error.to_string();
    assert!(text.contains("devices 3 (uuid 03030303-") && text.contains(", 4 (uuid 04040404-"), "{text}");
    // Those that the chunk tree itself is on.
    let error = open(&without(&devices, &[0, 1]), OpenMode::ReadOnly).unwrap_err();
    assert!(matches!(&error, Error::MissingDevices(missing) if missing.len() == 2), "{error}");
    let error = open_degraded(&without(&devices, &[0, 1])).unwrap_err();
    assert!(matches!(&error, Error::NoCopy { .. }), "{error}");
    assert!(error.to_string().contains("device 1") && error.to_string().contains("device 2"), "{error}");
}

#[test]
fn what_survives_opens_for_writing_and_chunks_on_missing_devices_stay_as_they_are() {
    let options = OpenOptions { mode: OpenMode::ReadWrite, ..ACCEPT };
    let open_writable = |devices: Vec<Arc<MemDevice>>| {
        Volume::open_with(devices.into_iter().map(|device| device as Arc<dyn BlockDevice>).collect(), &options)
    };
    let (devices, _) = with_data(F::RAID1, &[3, 4]);
    let volume = open_writable(without(&devices, &[3])).unwrap();
    assert!(matches!(volume.write(Logical(DATA), &[0; 4096]), Err(Error::NotWritable(_))));
    volume.write_superblocks(&volume.superblock()).unwrap();
    let (devices, _) = with_data(F::RAID0, &[3, 4]);
    assert!(matches!(open_writable(without(&devices, &[3])), Err(Error::NotWritable(_))));
    let (devices, _) = with_data(F::RAID10, &[1, 2, 3, 4]);
    open_writable(without(&devices, &[3])).unwrap();
    assert!(matches!(open_writable(without(&devices, &[2, 3])), Err(Error::NotWritable(_))));
}

fn set_generation(image: &Image, device: &MemDevice, devid: u64, generation: u64) {
    let mut sb = image.superblock_of(&dev_item(devid));
    sb.generation = generation.into();
    for offset in &SUPERBLOCK_OFFSETS[..2] {
        device.write_at(*offset, &sb.to_bytes_at(*offset)).unwrap();
    }
}

/// What a device that missed commits holds may be old: without checksums the others are asked first.
#[test]
fn a_device_that_is_behind_is_the_last_to_be_asked() {
    let image = Image::with_devices(2, chunk(F::DATA | F::RAID1, CHUNK_LEN, &[(1, 80 << 20), (2, 80 << 20)]));
    let devices = image.build();
    open(&devices, OpenMode::ReadWrite).unwrap().write(Logical(DATA), &[1; 8192]).unwrap();
    set_generation(&image, &devices[1], 2, 12);
    devices[1].write_at(80 << 20, &[2; 8192]).unwrap();
    let volume = open(&devices, OpenMode::ReadOnly).unwrap();
    assert_eq!(volume.superblock().generation.get(), 12);
    let mut buf = [0; 8192];
    volume.read(Logical(DATA), &mut buf).unwrap();
    assert_eq!(buf, [2; 8192]);
    // Where there is nobody else, it is better than nothing.
    let volume = open_degraded(&devices[..1]).unwrap();
    volume.read(Logical(DATA), &mut buf).unwrap();
    assert_eq!(buf, [1; 8192]);
}

/// A device is back whose superblock knows a system chunk where there is another chunk now: it is refused, unless that one was made
/// beside a device that has the newest commit; then its address was used again.
#[test]
fn an_address_that_was_used_again_is_no_sign_of_another_history() {
    let data = chunk(F::DATA | F::RAID1, CHUNK_LEN, &[(2, 80 << 20), (3, 80 << 20)]);
    let image = Image::with_devices(4, data);
    let back_with = |old: &[(u64, u64)], profile: F| {
        let devices = image.build();
        let mut sb = image.superblock_of(&dev_item(4));
        (sb.generation, sb.chunk_root_generation) = (5.into(), 5.into());
        let old = array_entry(DATA, &chunk(F::SYSTEM | profile, CHUNK_LEN, old));
        let known = sb.sys_chunk_array_size.get() as usize;
        sb.sys_chunk_array[known..known + old.len()].copy_from_slice(&old);
        sb.sys_chunk_array_size = ((known + old.len()) as u32).into();
        for offset in &SUPERBLOCK_OFFSETS[..2] {
            devices[3].write_at(*offset, &sb.to_bytes_at(*offset)).unwrap();
        }
        open(&devices, OpenMode::ReadOnly).map(|volume| volume.devices_behind().len())
    };
    assert_eq!(back_with(&[(1, 120 << 20), (4, 120 << 20)], F::RAID1).unwrap(), 1);
    let error = back_with(&[(4, 120 << 20), (4, 140 << 20)], F::DUP).unwrap_err();
    assert!(error.to_string().contains("written apart") && error.to_string().contains("disk4"), "{error}");
}

#[test]
fn faults_are_counted_for_the_device_that_has_them() {
    let image = Image::dup();
    let devices = image.build();
    let volume = open(&devices, OpenMode::ReadWrite).unwrap();
    volume.add_device_stats(DevId(1), &DeviceStats { corruption_errors: 5, ..DeviceStats::default() });
    assert!(!volume.device_stats_changed());
    devices[0].write_at((16 << 20) + 500, &[0xaa; 100]).unwrap();
    volume.read_block(&Expected::at(Logical(SYSTEM))).unwrap();
    let stats = DeviceStats { corruption_errors: 6, ..DeviceStats::default() };
    assert_eq!(volume.take_changed_device_stats(), [(DevId(1), stats)]);
    // A whole block of another generation: a write that was lost, on both copies.
    let expected = Expected { generation: Some(Generation(8)), ..Expected::at(Logical(SYSTEM)) };
    volume.read_block(&expected).unwrap_err();
    let stats = DeviceStats { generation_errors: 2, ..stats };
    assert_eq!(volume.take_changed_device_stats(), [(DevId(1), stats)]);
}

/// A tree block that is right but for its checksum, in all copies.
#[test]
fn block_checksums_can_be_ignored() {
    let image = Image::dup();
    let devices = image.build();
    for place in [16 << 20, 32 << 20] {
        devices[0].write_at(place, &[0xee; 4]).unwrap();
    }
    assert!(matches!(open(&devices, OpenMode::ReadOnly), Err(Error::NoCopy { .. })));
    let all: Vec<Arc<dyn BlockDevice>> = vec![devices[0].clone()];
    let options = OpenOptions { block_checksums: Checksum::Skip, ..OpenOptions::new(OpenMode::ReadOnly) };
    assert_eq!(Volume::open_with(all, &options).unwrap().chunks().len(), 2);
}

/// While the UUID that users see is changed, devices differ in it; the blocks' UUID tells that they belong
/// together.
#[test]
fn a_change_of_the_uuid_may_be_under_way() {
    let image = Image::with_devices(2, chunk(F::DATA, CHUNK_LEN, &[(2, 80 << 20)]));
    for flag in [0, SUPER_FLAG_CHANGING_FSID_V2] {
        let devices = image.build();
        let mut sb = image.superblock_of(&dev_item(2));
        sb.flags = flag.into();
        sb.incompat_flags = Incompat::METADATA_UUID.bits().into();
        (sb.metadata_uuid, sb.fsid) = (FSID, [0x77; 16]);
        devices[1].write_at(65536, &sb.to_bytes_at(65536)).unwrap();
        match open(&devices, OpenMode::ReadOnly) {
            Ok(volume) => {
                assert_ne!(flag, 0);
                assert_eq!(volume.superblock().flags.get() & flag, 0, "the finished superblock is preferred");
            }
            Err(error) => {
                assert_eq!(flag, 0);
                assert!(error.to_string().contains("another filesystem"), "{error}");
            }
        }
    }
}

const SEED_FSID: [u8; 16] = [0x5e; 16];

/// A filesystem on two devices, the first of which is that of a seed.
fn sprout() -> (Image, Vec<Arc<MemDevice>>) {
    let mut image = Image::with_devices(2, chunk(F::DATA, CHUNK_LEN, &[(1, 80 << 20)]));
    (image.dev_items[0].fsid, image.dev_items[0].generation) = (SEED_FSID, 5.into());
    let devices = image.build();
    let mut seed = image.superblock_of(&image.dev_items[0]);
    (seed.fsid, seed.flags) = (SEED_FSID, SUPER_FLAG_SEEDING.into());
    (seed.generation, seed.chunk_root_generation) = (5.into(), 5.into());
    for offset in &SUPERBLOCK_OFFSETS[..2] {
        devices[0].write_at(*offset, &seed.to_bytes_at(*offset)).unwrap();
    }
    (image, devices)
}

#[test]
fn a_sprout_opens_with_its_seed() {
    let (image, devices) = sprout();
    let mut old = image.leaf();
    old.header_mut().fsid = SEED_FSID;
    seal(&mut old);
    // The second copy of the chunk tree is a block that the seed wrote.
    image.put_block(&devices, SYSTEM, &old);
    for order in [[0, 1], [1, 0]] {
        let volume = open(&order.map(|index| Arc::clone(&devices[index])), OpenMode::ReadOnly).unwrap();
        assert_eq!(volume.superblock().fsid, FSID);
        assert!(volume.missing_devices().is_empty());
        volume.read_block(&Expected::at(Logical(SYSTEM))).unwrap();
    }
    let error = open(&devices[1..], OpenMode::ReadOnly).unwrap_err();
    assert!(!matches!(error, Error::Unsupported(_)), "{error}");
}

/// Its trees are not those that the sprout refers to any more.
#[test]
fn a_seed_that_was_changed_is_refused() {
    let (image, devices) = sprout();
    let mut seed = image.superblock_of(&image.dev_items[0]);
    (seed.fsid, seed.flags) = (SEED_FSID, SUPER_FLAG_SEEDING.into());
    (seed.generation, seed.chunk_root_generation) = (6.into(), 5.into());
    devices[0].write_at(SUPERBLOCK_OFFSETS[0], &seed.to_bytes_at(SUPERBLOCK_OFFSETS[0])).unwrap();
    for mode in [OpenMode::ReadOnly, OpenMode::ReadWrite] {
        let error = open(&devices, mode).unwrap_err().to_string();
        assert!(error.contains("it is of generation 6, and was of 5"), "{error}");
    }
}

#[test]
fn a_seed_is_never_written() {
    let (_, devices) = sprout();
    let before = bytes_at(&devices[0], 0, 1 << 20);
    let volume = open(&devices, OpenMode::ReadWrite).unwrap();
    assert!(volume.write(Logical(DATA), &[1; 4096]).is_err());
    volume.write_superblocks(&volume.superblock()).unwrap();
    volume.discard(Logical(DATA), 4096).unwrap();
    assert_eq!(bytes_at(&devices[0], 0, 1 << 20), before);
}

#[test]
fn a_seed_of_another_filesystem_is_a_stranger() {
    let (_, devices) = sprout();
    let mut other = Image::dup();
    (other.superblock.fsid, other.dev_items[0].fsid) = ([9; 16], [9; 16]);
    other.superblock.flags = SUPER_FLAG_SEEDING.into();
    other.dev_items[0].uuid = [0x99; 16];
    let theirs = other.build();
    let all = [devices[0].clone(), devices[1].clone(), theirs[0].clone()];
    let error = open(&all, OpenMode::ReadOnly).unwrap_err();
    assert!(error.to_string().contains("another filesystem"), "{error}");
}

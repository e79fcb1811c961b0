//! Opening: superblock copies, system chunks, the chunk tree, missing and short devices, hostile images.

mod common;

use std::sync::Arc;

use butterfs_format::items::BlockGroupFlags as F;
use butterfs_format::superblock::SUPERBLOCK_OFFSETS;
use butterfs_format::{Logical, Superblock};
use butterfs_volume::{BlockDevice, Error, MemDevice, OpenMode, Volume};
use common::*;

fn fails(image: &Image, words: &str) {
    let error = image.open(OpenMode::ReadOnly).expect_err(words).to_string();
    assert!(error.contains(words), "'{error}' does not say '{words}'");
    assert!(!error.contains('\n'));
}

#[test]
fn a_good_image_opens() {
    let volume = Image::dup().open(OpenMode::ReadWrite).unwrap();
    assert_eq!(volume.superblock().generation.get(), 9);
    assert_eq!(volume.chunk_tree_uuid(), CHUNK_UUID);
    assert_eq!(volume.geometry().nodesize as usize, NODE);
    assert_eq!(volume.dev_items(), [dev_item(1)]);
    assert_eq!(volume.chunks().len(), 2);
    assert_eq!(volume.copies(Logical(DATA)).unwrap(), 2);
    assert!(volume.copies(Logical(DATA + CHUNK_LEN)).is_err());
    assert_eq!(volume.chunk_containing(Logical(DATA + 5)).unwrap().0, Logical(DATA));
    assert!(volume.chunk_containing(Logical(DATA - 1)).is_none());
    assert!(!volume.is_read_only());
}

#[test]
fn nothing_is_not_btrfs() {
    for len in [0, 4096, 1 << 20] {
        let result = open(&[Arc::new(MemDevice::new(len))], OpenMode::ReadOnly);
        assert!(matches!(result, Err(Error::NotBtrfs { .. })), "{len}");
    }
    assert!(Volume::open(Vec::new(), OpenMode::ReadOnly).is_err());
}

#[test]
fn a_damaged_primary_gives_way_to_a_copy() {
    let devices = Image::dup().build();
    devices[0].write_at(SUPERBLOCK_OFFSETS[0] + 1000, &[0xff; 8]).unwrap();
    let volume = open(&devices, OpenMode::ReadWrite).unwrap();
    volume.check_unchanged().unwrap();
    volume.write_superblocks(&volume.superblock()).unwrap();
    let bytes = bytes_at(&devices[0], SUPERBLOCK_OFFSETS[0], 4096);
    assert!(Superblock::parse(&bytes, SUPERBLOCK_OFFSETS[0]).is_ok());
}

/// A copy may be what is left of an older filesystem: reading is harmless, writing is not.
#[test]
fn a_wiped_primary_allows_reading_only() {
    let devices = Image::dup().build();
    devices[0].write_at(SUPERBLOCK_OFFSETS[0], &[0; 4096]).unwrap();
    assert!(matches!(open(&devices, OpenMode::ReadWrite), Err(Error::NotWritable(_))));
    open(&devices, OpenMode::ReadOnly).unwrap();
}

#[test]
fn a_good_primary_wins_over_a_newer_copy() {
    let image = Image::dup();
    let devices = image.build();
    let mut newer = image.superblock_of(&dev_item(1));
    newer.generation = 50.into();
    devices[0].write_at(SUPERBLOCK_OFFSETS[1], &newer.to_bytes_at(SUPERBLOCK_OFFSETS[1])).unwrap();
    assert_eq!(open(&devices, OpenMode::ReadOnly).unwrap().superblock().generation.get(), 9);
}

#[test]
fn a_short_device_is_called_truncated() {
    let image = Image::dup();
    let short = MemDevice::new(DEVICE_LEN - 4096);
    short.write_at(65536, &image.superblock_of(&dev_item(1)).to_bytes_at(65536)).unwrap();
    let error = open(&[Arc::new(short)], OpenMode::ReadOnly).unwrap_err();
    assert!(error.to_string().contains("truncated image"), "{error}");
}

#[test]
fn a_missing_device_is_named() {
    let image = Image::with_devices(2, chunk(F::DATA, CHUNK_LEN, &[(2, 80 << 20)]));
    let devices = image.build();
    let error = open(&devices[..1], OpenMode::ReadOnly).unwrap_err();
    assert!(error.to_string().contains("device 2 (uuid 02020202-0202-0202-0202-020202020202)"), "{error}");
    // In either order, both together are good.
    open(&[Arc::clone(&devices[1]), Arc::clone(&devices[0])], OpenMode::ReadOnly).unwrap();
    let twice = open(&[Arc::clone(&devices[0]), Arc::clone(&devices[0])], OpenMode::ReadOnly);
    assert!(matches!(twice, Err(Error::Unsupported(_))));
}

#[test]
fn a_stranger_among_the_devices_is_refused() {
    let image = Image::dup();
    let mut other = Image::dup();
    other.superblock.fsid = [9; 16];
    other.dev_items[0].fsid = [9; 16];
    let (mine, theirs) = (image.build(), other.build());
    let error = open(&[Arc::clone(&mine[0]), Arc::clone(&theirs[0])], OpenMode::ReadOnly).unwrap_err();
    assert!(error.to_string().contains("another filesystem"), "{error}");
}

#[test]
fn hostile_system_arrays_are_refused() {
    let mut image = Image::dup();
    image.sys_array.truncate(100);
    fails(&image, "sys_chunk_array offset 0");

    let mut image = Image::dup();
    image.sys_array.extend([0xff; 300]);
    fails(&image, "sys_chunk_array offset");

    // num_stripes at the end of the header, far more than there are.
    let mut image = Image::dup();
    image.sys_array[17 + 44..17 + 46].fill(0xff);
    fails(&image, "sys_chunk_array offset 0");

    let mut image = Image::dup();
    image.sys_array[17 + 44..17 + 46].fill(0);
    fails(&image, "stripes");

    // A system array without the chunk that the chunk tree lies in.
    let mut image = Image::dup();
    image.sys_array = array_entry(1 << 40, &image.chunks[0].1);
    fails(&image, "16777216");

    let mut image = Image::dup();
    let data = chunk(F::DATA, CHUNK_LEN, &[(1, 16 << 20)]);
    image.sys_array = array_entry(SYSTEM, &data);
    fails(&image, "not a system chunk");

    // The same chunk twice.
    let mut image = Image::dup();
    image.sys_array.extend(image.sys_array.clone());
    fails(&image, "overlaps");

    // Two chunks over one another.
    let mut image = Image::dup();
    image.sys_array.extend(array_entry(SYSTEM + 65536, &image.chunks[0].1));
    fails(&image, "overlaps");

    // A chunk that ends past all numbers, or past the device.
    for length in [!4095, 1 << 40] {
        let mut image = Image::dup();
        let huge = chunk(F::SYSTEM, length, &[(1, 16 << 20)]);
        image.sys_array = array_entry(SYSTEM, &huge);
        fails(&image, "chunk");
    }
}

#[test]
fn hostile_chunk_items_are_refused() {
    let mut image = Image::dup();
    image.chunks.push((DATA + 4096, image.chunks[1].1.clone()));
    fails(&image, "overlaps");

    let mut image = Image::dup();
    image.chunks[1].1.stripes[1].offset = (DEVICE_LEN - 4096).into();
    fails(&image, "past the end of device 1");

    let mut image = Image::dup();
    image.chunks[1].1.stripes[1].offset = (u64::MAX - 4095).into();
    fails(&image, "past the end of device 1");

    let mut image = Image::dup();
    image.chunks[1].1.stripes[1].devid = 5.into();
    fails(&image, "device 5");

    let mut image = Image::dup();
    image.chunks[0].1.stripes[1].offset = (48u64 << 20).into();
    let devices = image.build();
    devices[0].write_at(16 << 20, image.leaf().bytes()).unwrap();
    let error = open(&devices, OpenMode::ReadOnly).unwrap_err();
    assert!(error.to_string().contains("differs between"), "{error}");

    // Shorter by its own word than the device is: stripes count against that too.
    let mut image = Image::dup();
    image.dev_items[0].total_bytes = (90u64 << 20).into();
    fails(&image, "past the end of device 1");
}

#[test]
fn a_chunk_tree_that_meets_itself_is_refused() {
    let image = Image::dup();
    let devices = image.build();
    let (root, child) = (SYSTEM, SYSTEM + NODE as u64);
    let mut leaf = new_block(child, 0);
    leaf.insert_item(0, &chunk_key(SYSTEM), &image.chunks[0].1.pack());
    seal(&mut leaf);
    image.put_block(&devices, child, &leaf);
    let mut node = new_block(root, 1);
    node.insert_ptrs(0, &[pointer(child, chunk_key(SYSTEM)), pointer(child, chunk_key(DATA))]);
    seal(&mut node);
    image.put_block(&devices, root, &node);
    for level in [0, 1, 7] {
        let mut sb = image.superblock_of(&dev_item(1));
        sb.chunk_root_level = level;
        devices[0].write_at(65536, &sb.to_bytes_at(65536)).unwrap();
        assert!(open(&devices, OpenMode::ReadOnly).is_err(), "{level}");
    }
}

#[test]
fn a_chunk_tree_of_two_levels_is_walked() {
    let image = Image::dup();
    let devices = image.build();
    let places = [SYSTEM + NODE as u64, SYSTEM + 2 * NODE as u64];
    let whole = image.leaf();
    let mut root = new_block(SYSTEM, 1);
    for (place, slots) in places.iter().zip([0..1, 1..whole.len()]) {
        let mut leaf = new_block(*place, 0);
        leaf.append_items_of(&whole, slots);
        seal(&mut leaf);
        image.put_block(&devices, *place, &leaf);
        root.insert_ptrs(root.len(), &[pointer(*place, leaf.key(0))]);
    }
    seal(&mut root);
    image.put_block(&devices, SYSTEM, &root);
    let mut sb = image.superblock_of(&dev_item(1));
    sb.chunk_root_level = 1;
    devices[0].write_at(65536, &sb.to_bytes_at(65536)).unwrap();
    assert_eq!(open(&devices, OpenMode::ReadOnly).unwrap().chunks().len(), 2);
}

#[test]
fn totals_matter_for_writing() {
    let mut image = Image::dup();
    image.superblock.total_bytes = (1u64 << 20).into();
    image.open(OpenMode::ReadOnly).unwrap();
    assert!(matches!(image.open(OpenMode::ReadWrite), Err(Error::Corruption(_))));
}

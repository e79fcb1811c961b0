//! Finding the devices of a filesystem among files.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use butterfs_format::items::BlockGroupFlags as F;
use butterfs_format::superblock::SUPERBLOCK_OFFSETS;
use butterfs_volume::{BlockDevice, Error, find_missing, paths_in, scan};
use common::*;

/// A directory that is gone at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("butterfs-scan-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Stores the devices of an image as sparse files.
fn store(image: &Image, directory: &Directory, names: &[&str]) -> Vec<PathBuf> {
    let devices = image.build();
    let files = devices.iter().zip(names).map(|(device, name)| {
        let path = directory.file(name);
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(device.len()).unwrap();
        for (offset, bytes) in device.written() {
            file.write_all_at(&bytes, offset).unwrap();
        }
        path
    });
    files.collect()
}

fn set_generation(image: &Image, path: &Path, devid: u64, generation: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let mut sb = image.superblock_of(&dev_item(devid));
    sb.generation = generation.into();
    for offset in &SUPERBLOCK_OFFSETS[..2] {
        file.write_all_at(&sb.to_bytes_at(*offset), *offset).unwrap();
    }
}

fn image() -> Image {
    Image::with_devices(3, chunk(F::DATA | F::RAID0, CHUNK_LEN, &[(1, 80 << 20), (2, 80 << 20)]))
}

#[test]
fn the_others_are_found_in_a_directory() {
    let directory = Directory::new("others");
    let files = store(&image(), &directory, &["a", "b", "c"]);
    let mut other = image();
    (other.superblock.fsid, other.superblock.metadata_uuid) = ([9; 16], [0; 16]);
    other.dev_items.iter_mut().for_each(|item| item.fsid = [9; 16]);
    store(&other, &directory, &["x", "y", "z"]);
    std::fs::write(directory.file("no device"), "text").unwrap();
    let candidates = || paths_in(&directory.0).unwrap();
    assert_eq!(candidates().len(), 7);
    assert_eq!(scan(candidates()).iter().filter(|device| device.fsid == FSID).count(), 3);
    assert_eq!(find_missing(&files[1..2], candidates()).unwrap(), [files[0].clone(), files[2].clone()]);
    assert!(find_missing(&files, candidates()).unwrap().is_empty());
    assert!(find_missing(&[directory.file("no device")], candidates()).is_err());
}

/// Of copies of one device the newer one counts; of equal ones, the one that is named.
#[test]
fn copies_of_a_device_are_told_apart() {
    let directory = Directory::new("copies");
    let files = store(&image(), &directory, &["a", "b", "c"]);
    let copy = directory.file("copy of b");
    std::fs::copy(&files[1], &copy).unwrap();
    let candidates = || paths_in(&directory.0).unwrap();
    let error = find_missing(&files[..1], candidates()).unwrap_err();
    assert!(matches!(&error, Error::Unsupported(text) if text.contains("are both device 2")), "{error}");
    let named = [files[0].clone(), copy.clone()];
    assert_eq!(find_missing(&named, candidates()).unwrap(), files[2..]);
    set_generation(&image(), &copy, 2, 8);
    assert_eq!(find_missing(&files[..1], candidates()).unwrap(), files[1..]);
}

/// A device whose first superblock is gone is passed over, whatever further copies say.
#[test]
fn a_device_without_its_first_superblock_is_passed_over() {
    let directory = Directory::new("wiped");
    let files = store(&image(), &directory, &["a", "b", "c"]);
    let candidates = || paths_in(&directory.0).unwrap();
    let wiped = std::fs::OpenOptions::new().write(true).open(&files[2]).unwrap();
    wiped.write_all_at(&[0; 4096], SUPERBLOCK_OFFSETS[0]).unwrap();
    assert_eq!(scan(candidates()).iter().map(|device| device.path.clone()).collect::<Vec<_>>(), files[..2]);
    assert_eq!(find_missing(&files[..1], candidates()).unwrap(), files[1..2]);
}

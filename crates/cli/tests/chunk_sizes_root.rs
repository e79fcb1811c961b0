//! New chunks are as large as the kernel's driver makes them on the same devices.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use butterfs_testkit::command::run;
use butterfs_testkit::devices::{self, KernelMount};
use common::ours::Ours;
use common::{MIB, setup};

const FILE: u64 = 200 * MIB;

/// The kinds and lengths of the chunks there are, in the order of their addresses.
fn chunks(images: &[PathBuf]) -> Vec<String> {
    let dumped = run(Command::new("btrfs").args(["inspect-internal", "dump-tree", "-t", "chunk"]).args(images)).ok();
    let of_a_chunk = |line: &str| line.trim().starts_with("length ").then(|| line.trim().to_owned());
    dumped.stdout.lines().filter_map(of_a_chunk).collect()
}

/// Reserves space, so that there have to be new chunks of data.
fn reserve(dir: &Path, files: u64) {
    for number in 0..files {
        let file = std::fs::File::create(dir.join(number.to_string())).expect("create");
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, FILE).expect("fallocate");
        file.sync_all().expect("fsync");
    }
}

fn compared(name: &str, mib: &[u64], mkfs: &[&str], files: u64) {
    let Some(work) = setup(name) else { return };
    let mnt = work.dir("mnt");
    let sizes: Vec<u64> = mib.iter().map(|mib| mib * MIB).collect();
    let images = devices::mkfs(work.path(), &sizes, mkfs);
    let made = chunks(&images);
    let kernel = KernelMount::new(&images, &mnt, "noatime");
    reserve(&mnt, files);
    drop(kernel);
    let expected = chunks(&images);
    let images = devices::mkfs(work.path(), &sizes, mkfs);
    let ours = Ours::new(&images, &mnt, "noatime");
    reserve(&mnt, files);
    drop(ours);
    let found = chunks(&images);
    assert!(found.len() > made.len(), "{name}: nothing new of {found:?}");
    // The kernel reserves more than it takes, and so makes chunks earlier.
    assert_eq!(Some(&found[..]), expected.get(..found.len()), "{name}, ours | the kernel's: {expected:?}");
    devices::assert_clean(&images);
}

#[test]
fn raid1_of_uneven_devices() {
    compared("cs-raid1", &[1500, 1500, 900], &["-d", "raid1", "-m", "raid1"], 3);
}

#[test]
fn dup_on_one_device() {
    compared("cs-dup", &[3000], &["-d", "dup", "-m", "dup"], 4);
}

#[test]
fn raid0_of_uneven_devices() {
    compared("cs-raid0", &[1500, 1500, 900], &["-d", "raid0", "-m", "raid1"], 4);
}

#[test]
fn raid10_that_one_device_outlasts() {
    compared("cs-raid10", &[800, 800, 800, 900], &["-d", "raid10", "-m", "raid1"], 4);
}

#[test]
fn raid5_that_narrows() {
    compared("cs-raid5", &[1000, 1000, 1000, 700], &["-d", "raid5", "-m", "raid1"], 5);
}

#[test]
fn raid6_of_all_sizes() {
    compared("cs-raid6", &[800, 900, 1000, 800, 700], &["-d", "raid6", "-m", "raid1c3"], 4);
}

//! The write hole: power fails between the data and the parity of rows that are changed, then a device is lost. Files
//! that were durable long before are lost with the kernel, and none with ours.
//!
//! The same work is done by both on the same kind of filesystem: files of all sizes, made durable, some deleted, and
//! others made. What reached the devices of the second half is chosen: of data chunks the data and no parity, or the parity
//! and no data; of all else nothing, so that the first half is what is committed.

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, OpenOptions};
use butterfs_format::items::{BlockGroupFlags, STRIPE_LEN};
use butterfs_testkit::command::run;
use butterfs_testkit::devices::{self, KernelMount};
use butterfs_testkit::library_tree::losses;
use butterfs_testkit::random::Random;
use butterfs_testkit::unmount::patiently;
use butterfs_volume::{BlockDevice, FileDevice, Missing, OpenMode, Profile, Volume};
use common::{MIB, setup};

const BUTTERFS: &str = env!("CARGO_BIN_EXE_butterfs");
const SIZE: u64 = 400 * MIB;
const SECTOR: u64 = 4096;

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    Kernel,
    Ours,
}

/// What reached the devices before power failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    Data,
    Parity,
}

fn mounted(writer: Writer, images: &[PathBuf], mnt: &Path, work: impl FnOnce(&Path)) {
    match writer {
        Writer::Kernel => {
            let kernel = KernelMount::new(images, mnt, "noatime");
            work(mnt);
            drop(kernel);
        }
        Writer::Ours => {
            run(Command::new(BUTTERFS).args(["mount", "-o", "noatime"]).args(images).arg(mnt)).ok();
            work(mnt);
            patiently(|| run(Command::new(BUTTERFS).arg("umount").arg(mnt))).ok();
        }
    }
}

/// Files of 4 KiB to 200 KiB, in several commits.
fn files(dir: &Path, name: &str, seed: u64) {
    let mut random = Random::new(seed);
    for number in 0..200 {
        let len = [4, 8, 20, 60, 200][random.below(5) as usize] << 10;
        std::fs::write(dir.join(format!("{name}{number}")), random.bytes(len)).expect("write");
        if number % 20 == 0 {
            let top = File::open(dir).expect("the mount point");
            rustix::fs::syncfs(&top).expect("syncfs");
        }
    }
}

fn delete_some(dir: &Path, name: &str) {
    for number in (0..200).step_by(3) {
        std::fs::remove_file(dir.join(format!("{name}{number}"))).expect("it is there");
    }
}

fn open(images: &[PathBuf], missing: &[usize]) -> Volume {
    let there = images.iter().enumerate().filter(|(index, _)| !missing.contains(index));
    let device = |path: &PathBuf| Arc::new(FileDevice::open_read_only(path).expect("open")) as Arc<dyn BlockDevice>;
    let how = butterfs_volume::OpenOptions {
        missing: Missing::Accept,
        ..butterfs_volume::OpenOptions::new(OpenMode::ReadOnly)
    };
    Volume::open_with(there.map(|(_, path)| device(path)).collect(), &how).expect("open")
}

fn filesystem(images: &[PathBuf], missing: &[usize]) -> Filesystem {
    let options = OpenOptions { access: Access::ReadOnly, ..OpenOptions::default() };
    Filesystem::open(open(images, missing), options, Box::new(SystemEnvironment)).expect("open")
}

/// Brings those sectors of data chunks from the images of later that reached the devices; says how many differed.
fn cut(before: &[PathBuf], later: &[PathBuf], reached: Reached) -> u64 {
    let mut changed = 0;
    let volume = open(before, &[]);
    for (_, chunk) in volume.chunks() {
        if !chunk.flags().contains(BlockGroupFlags::DATA) {
            continue;
        }
        let (stripes, parity) = (chunk.stripes.len(), Profile::of(chunk.flags()).expect("a profile").parity);
        let columns = stripes - parity;
        for row in 0..chunk.length() / STRIPE_LEN / columns as u64 {
            let parts = if reached == Reached::Data { 0..columns } else { columns..stripes };
            for part in parts {
                let stripe = &chunk.stripes[(row as usize + part) % stripes];
                let (device, at) = (stripe.devid.get() as usize - 1, stripe.offset.get() + row * STRIPE_LEN);
                changed += copy_stripe(&before[device], &later[device], at);
            }
        }
    }
    changed
}

fn copy_stripe(to: &Path, from: &Path, at: u64) -> u64 {
    let (mut old, mut new) = (vec![0; STRIPE_LEN as usize], vec![0; STRIPE_LEN as usize]);
    File::open(to).and_then(|file| file.read_exact_at(&mut old, at)).expect("read");
    File::open(from).and_then(|file| file.read_exact_at(&mut new, at)).expect("read");
    if old == new {
        return 0;
    }
    File::options().write(true).open(to).and_then(|file| file.write_all_at(&new, at)).expect("write");
    old.chunks(SECTOR as usize).zip(new.chunks(SECTOR as usize)).filter(|(old, new)| old != new).count() as u64
}

fn copies(images: &[PathBuf], name: &str) -> Vec<PathBuf> {
    let copy = |image: &PathBuf| {
        let to = image.with_extension(name);
        run(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(image).arg(&to)).ok();
        to
    };
    images.iter().map(copy).collect()
}

/// Each set of so many of `count` devices.
fn sets(count: usize, lost: u32) -> Vec<Vec<usize>> {
    let all = (0..1usize << count).filter(|bits| bits.count_ones() == lost);
    all.map(|bits| (0..count).filter(|index| bits >> index & 1 != 0).collect()).collect()
}

/// Sectors of committed files that are lost, over all sets of devices that can be lost; and sectors that were written.
fn lost(writer: Writer, profile: &str, count: usize, reached: Reached) -> (usize, u64) {
    let (metadata, survives) = if profile == "raid6" { ("raid1c3", 2) } else { ("raid1", 1) };
    let Some(work) = setup(&format!("hole-{writer:?}-{profile}-{count}-{reached:?}")) else { return (0, 0) };
    let mnt = work.dir("mnt");
    let images = devices::mkfs(work.path(), &vec![SIZE; count], &["-d", profile, "-m", metadata]);
    mounted(writer, &images, &mnt, |dir| {
        files(dir, "first", 1);
        delete_some(dir, "first");
    });
    let before = copies(&images, "before");
    mounted(writer, &images, &mnt, |dir| files(dir, "second", 2));
    let whole = filesystem(&before, &[]);
    let written = cut(&before, &images, reached);
    let mut sectors = 0;
    for gone in sets(count, survives) {
        let losses = losses(&whole, &filesystem(&before, &gone));
        assert!(losses.objects.is_empty(), "metadata is elsewhere");
        sectors += losses.sectors.len();
    }
    (sectors, written)
}

#[test]
fn the_kernel_loses_what_was_committed_and_we_do_not() {
    if !butterfs_testkit::report::is_root("write-hole") {
        return;
    }
    let mut by_kernel = BTreeMap::new();
    for (profile, count) in [("raid5", 3), ("raid5", 5), ("raid6", 4)] {
        for reached in [Reached::Data, Reached::Parity] {
            let kernel = lost(Writer::Kernel, profile, count, reached);
            let ours = lost(Writer::Ours, profile, count, reached);
            println!("| {profile} on {count} | {reached:?} | {} | {} | {} | {} |", kernel.1, kernel.0, ours.1, ours.0);
            assert!(ours.1 > 0 && kernel.1 > 0, "something was written");
            assert_eq!(ours.0, 0, "{profile} on {count}: {reached:?} reached the devices");
            by_kernel.insert((profile, count, format!("{reached:?}")), kernel.0);
        }
    }
    assert!(by_kernel.values().any(|lost| *lost > 0), "the experiment shows the hole: {by_kernel:?}");
}

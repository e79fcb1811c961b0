//! Every profile that is written, on several devices: our mount and the kernel's one after the other on filesystems that
//! either made, judged by `btrfs check` and by what each reads.

mod common;

use butterfs_testkit::command::{Finished, run};
use butterfs_testkit::devices::{self, KernelMount};
use butterfs_testkit::oracle;
use butterfs_testkit::populate::{self, Plan};
use butterfs_testkit::report::scaled;
use butterfs_testkit::tree_compare::{Times, Tree};
use common::ours::Ours;
use common::{MIB, setup};
use std::path::{Path, PathBuf};
use std::process::Command;

const BUTTERFS: &str = env!("CARGO_BIN_EXE_butterfs");
const SIZE: u64 = 512 * MIB;

struct Case {
    name: &'static str,
    data: &'static str,
    metadata: &'static str,
    sizes: &'static [u64],
}

const CASES: [Case; 12] = [
    Case { name: "w-single", data: "single", metadata: "single", sizes: &[SIZE; 2] },
    Case { name: "w-raid0", data: "raid0", metadata: "raid0", sizes: &[SIZE; 3] },
    Case { name: "w-raid1", data: "raid1", metadata: "raid1", sizes: &[SIZE, 300 * MIB, 700 * MIB] },
    Case { name: "w-raid1c3", data: "raid1c3", metadata: "raid1c3", sizes: &[SIZE; 4] },
    Case { name: "w-raid1c4", data: "raid1c4", metadata: "raid1c4", sizes: &[SIZE; 4] },
    Case { name: "w-raid10", data: "raid10", metadata: "raid10", sizes: &[SIZE; 5] },
    Case { name: "w-raid5", data: "raid5", metadata: "raid5", sizes: &[SIZE; 3] },
    Case { name: "w-raid5-two", data: "raid5", metadata: "raid5", sizes: &[SIZE; 2] },
    Case { name: "w-raid5-mixed", data: "raid5", metadata: "raid1c3", sizes: &[SIZE, 700 * MIB, SIZE, 300 * MIB] },
    Case { name: "w-raid6", data: "raid6", metadata: "raid6", sizes: &[SIZE; 5] },
    Case { name: "w-raid6-three", data: "raid6", metadata: "raid6", sizes: &[SIZE; 3] },
    Case { name: "w-uneven", data: "raid0", metadata: "raid1", sizes: &[SIZE, 300 * MIB, 1024 * MIB] },
];

/// On RAID5 of two devices `btrfs check --check-data-csum` of btrfs-progs 6.14 reads the mirror wrong, of the kernel's
/// filesystems too: there the scrub is the judge of data.
fn clean(images: &[PathBuf]) -> Finished {
    // Once all are attached, the others are found by scanning.
    let loops: Vec<_> = images.iter().map(|image| devices::Loop::over(image)).collect();
    let last = loops.last().expect("there are devices");
    let raid5_on_two = images.len() == 2
        && run(Command::new("btrfs").args(["inspect-internal", "dump-super"]).arg(last.path()))
            .stdout
            .contains("RAID56");
    let data: &[&str] = if raid5_on_two { &[] } else { &["--check-data-csum"] };
    run(Command::new("btrfs").arg("check").args(data).arg(last.path())).ok()
}

fn populated(dir: &Path, name: &str, seed: u64) {
    let inner = dir.join(name);
    std::fs::create_dir(&inner).expect("mkdir");
    populate::tree(&inner, Plan { seed, files: scaled(300), huge: 0, devices: true });
    let noise = butterfs_testkit::random::Random::new(seed).bytes(40 << 20);
    std::fs::write(inner.join("noise"), noise).expect("write");
}

/// We write, the kernel reads and writes, we read and write, the kernel reads.
fn back_and_forth(images: &[PathBuf], mnt: &Path) {
    let ours = Ours::new(images, mnt, "noatime");
    populated(mnt, "first", 1);
    let expected = Tree::content_of(mnt);
    drop(ours);
    clean(images);
    let kernel = KernelMount::new(images, mnt, "noatime");
    Tree::content_of(mnt).assert_same(&expected, Times::Exact, "the kernel's mount | ours before");
    std::fs::remove_dir_all(mnt.join("first")).expect("the kernel deletes");
    populated(mnt, "second", 2);
    let expected = Tree::content_of(mnt);
    drop(kernel);
    let ours = Ours::new(images, mnt, "noatime");
    Tree::content_of(mnt).assert_same(&expected, Times::Exact, "our mount | the kernel's before");
    std::fs::remove_dir_all(mnt.join("second")).expect("we delete");
    populated(mnt, "third", 3);
    let expected = Tree::content_of(mnt);
    drop(ours);
    clean(images);
    let kernel = KernelMount::new(images, mnt, "noatime");
    Tree::content_of(mnt).assert_same(&expected, Times::Exact, "the kernel's mount | ours before");
    scrubbed(&kernel);
    drop(kernel);
}

/// The kernel finds every checksum right, and all parity as it would make it.
fn scrubbed(kernel: &KernelMount) {
    let finished = kernel.btrfs(&["scrub", "start", "-B"]);
    assert!(finished.stdout.contains("no errors found"), "{finished}");
}

/// The kernel reads what we wrote without any one of the devices.
fn degraded(images: &[PathBuf], mnt: &Path) {
    let kernel = KernelMount::new(images, mnt, "ro");
    let expected = Tree::content_of(mnt);
    drop(kernel);
    for gone in 0..images.len() {
        let mut left = images.to_vec();
        left.remove(gone);
        let kernel = KernelMount::new(&left, mnt, "ro,degraded");
        Tree::content_of(mnt).assert_same(&expected, Times::Exact, "the kernel without a device | with all");
        drop(kernel);
    }
}

fn case(name: &str) {
    let case = CASES.iter().find(|case| case.name == name).expect("a case");
    let Some(work) = setup(case.name) else { return };
    let mnt = work.dir("mnt");
    let mkfs = ["-d", case.data, "-m", case.metadata];
    let theirs = devices::mkfs(work.path(), case.sizes, &mkfs);
    back_and_forth(&theirs, &mnt);
    theirs.iter().for_each(|image| std::fs::remove_file(image).expect("it is there"));
    let ours: Vec<PathBuf> = (0..case.sizes.len()).map(|number| work.file(&format!("ours{number}"))).collect();
    for (image, size) in ours.iter().zip(case.sizes) {
        butterfs_testkit::mounter::create_sparse(image, *size);
    }
    run(Command::new(BUTTERFS).arg("mkfs").args(mkfs).args(&ours)).ok();
    clean(&ours);
    back_and_forth(&ours, &mnt);
    if case.name.contains("raid5") || case.name.contains("raid6") {
        degraded(&ours, &mnt);
    }
}

macro_rules! cases {
    ($($name:ident: $case:literal;)*) => {$(
        #[test]
        fn $name() {
            case($case);
        }
    )*};
}

cases! {
    single: "w-single";
    raid0: "w-raid0";
    raid1: "w-raid1";
    raid1c3: "w-raid1c3";
    raid1c4: "w-raid1c4";
    raid10: "w-raid10";
    raid5: "w-raid5";
    raid5_on_two: "w-raid5-two";
    raid5_of_several_widths: "w-raid5-mixed";
    raid6: "w-raid6";
    raid6_on_three: "w-raid6-three";
    uneven: "w-uneven";
}

/// The kernel grows a filesystem out of a seed; we write to what has grown, and not a byte of the seed changes.
#[test]
fn a_sprout_is_written_and_its_seed_is_not() {
    let Some(work) = setup("w-sprout") else { return };
    let mnt = work.dir("mnt");
    let mut images = devices::mkfs(work.path(), &[SIZE], &[]);
    {
        let _kernel = KernelMount::new(&images, &mnt, "noatime");
        populated(&mnt, "of the seed", 5);
    }
    run(Command::new("btrfstune").args(["-f", "-S", "1"]).arg(&images[0])).ok();
    let seed = oracle::file_hash(&images[0]);
    let grown = work.file("grown");
    butterfs_testkit::mounter::create_sparse(&grown, SIZE);
    {
        let kernel = KernelMount::new(&images, &mnt, "noatime");
        let added = devices::Loop::over(&grown);
        run(Command::new("btrfs").args(["device", "add", "-f"]).arg(added.path()).arg(&mnt)).ok();
        run(Command::new("mount").args(["-o", "remount,rw"]).arg(&mnt)).ok();
        populated(&mnt, "of the kernel", 6);
        drop(kernel);
    }
    // Whoever mounts the seed's own device gets the seed.
    images.insert(0, grown);
    let ours = Ours::new(&images, &mnt, "noatime");
    std::fs::remove_dir_all(mnt.join("of the seed")).expect("we delete what lies on the seed");
    populated(&mnt, "of ours", 7);
    let expected = Tree::content_of(&mnt);
    drop(ours);
    assert_eq!(oracle::file_hash(&images[1]), seed, "the seed was written");
    clean(&images);
    let _kernel = KernelMount::new(&images, &mnt, "noatime");
    Tree::content_of(&mnt).assert_same(&expected, Times::Exact, "the kernel's mount | ours before");
}

#[test]
fn too_few_devices_are_refused_with_the_number_needed() {
    let Some(work) = setup("w-few") else { return };
    let image = work.file("image");
    butterfs_testkit::mounter::create_sparse(&image, SIZE);
    for (profile, needed) in [("raid1", 2), ("raid10", 2), ("raid1c3", 3), ("raid1c4", 4), ("raid5", 2), ("raid6", 3)] {
        let finished = run(Command::new(BUTTERFS).args(["mkfs", "-d", profile]).arg(&image));
        assert_eq!(finished.status.code(), Some(1), "{finished}");
        let words = format!("have 1 devices but {needed} devices are required");
        assert!(finished.stderr.contains(&words) && finished.stderr.contains("data profile"), "{finished}");
    }
    assert!(oracle::check(&image).stderr.contains("No valid Btrfs"), "something was written");
}

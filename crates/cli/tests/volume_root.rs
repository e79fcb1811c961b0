//! Balance, resize, devices added and removed, by our commands on mounts and images and by the kernel's over our mount:
//! `btrfs check` and the kernel's mount judge, and either side goes on where the other was interrupted.

mod common;

use butterfs_testkit::command::{Finished, run};
use butterfs_testkit::devices::{self, KernelMount};
use butterfs_testkit::mounter::create_sparse;
use butterfs_testkit::populate::{self, Plan};
use butterfs_testkit::random::Random;
use butterfs_testkit::report::scaled;
use butterfs_testkit::tree_compare::{Times, Tree};
use common::ours::Ours;
use common::{MIB, compat_library, setup};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const BUTTERFS: &str = env!("CARGO_BIN_EXE_butterfs");

fn butterfs(arguments: &[&str], path: &Path) -> Finished {
    run(Command::new(BUTTERFS).args(arguments).arg(path))
}

/// Btrfs-progs over our mount.
fn compat(arguments: &[&str], path: &Path) -> Finished {
    compat_library();
    run(Command::new(BUTTERFS).args(["compat", "--", "btrfs"]).args(arguments).arg(path))
}

fn populated(dir: &Path, noise: usize) -> Tree {
    populate::tree(dir, Plan { seed: 3, files: scaled(200), huge: 0, devices: true });
    for number in 0..noise {
        std::fs::write(dir.join(format!("noise{number}")), Random::new(number as u64).bytes(8 << 20)).expect("write");
    }
    Tree::content_of(dir)
}

/// Images of these sizes, in MiB, with a populated filesystem on the first so many of them.
fn made(work: &Path, sizes: &[u64], count: usize, mkfs: &[&str], noise: usize) -> (Vec<PathBuf>, Tree) {
    let sizes: Vec<u64> = sizes.iter().map(|size| size * MIB).collect();
    let mut images = devices::mkfs(work, &sizes[..count], mkfs);
    for (number, size) in sizes.iter().enumerate().skip(count) {
        images.push(work.join(format!("disk{number}")));
        create_sparse(&images[number], *size);
    }
    let mount = KernelMount::new(&images[..count], &work.join("mnt"), "noatime");
    let tree = populated(&work.join("mnt"), noise);
    drop(mount);
    (images, tree)
}

#[track_caller]
fn kernel_has(images: &[PathBuf], mnt: &Path, tree: &Tree, options: &str) {
    devices::assert_clean(images);
    let _kernel = KernelMount::new(images, mnt, options);
    Tree::content_of(mnt).assert_same(tree, Times::Exact, "the kernel's mount | before");
}

#[test]
fn on_a_mount() {
    let Some(work) = setup("volume-mount") else { return };
    let mnt = work.dir("mnt");
    let (images, tree) = made(work.path(), &[600, 600, 600], 1, &["-d", "single", "-m", "dup"], 10);
    let ours = Ours::new(&images[..1], &mnt, "noatime");
    butterfs(&["device", "add", images[1].to_str().expect("text"), images[2].to_str().expect("text")], &mnt).ok();
    let refused = butterfs(&["device", "add", images[0].to_str().expect("text")], &mnt);
    assert!(!refused.status.success(), "{refused}");
    let refused = butterfs(&["balance", "start", "-dconvert=raid1c4"], &mnt);
    assert!(refused.stderr.contains("raid1c4 needs at least 4 devices, there would be 3"), "{refused}");
    let refused = butterfs(&["balance", "start", "-mconvert=single"], &mnt);
    assert!(refused.stderr.contains("would be less redundant: use --force"), "{refused}");
    let converted = butterfs(&["balance", "start", "-dconvert=raid1", "-mconvert=raid1c3"], &mnt).ok();
    assert!(converted.stdout.contains("Done, had to relocate "), "{converted}");
    let status = butterfs(&["balance", "status"], &mnt).ok();
    assert!(status.stdout.contains("No balance found on"), "{status}");
    assert_eq!(butterfs(&["balance", "pause"], &mnt).status.code(), Some(2));
    Tree::content_of(&mnt).assert_same(&tree, Times::Exact, "our mount | before");
    let refused = butterfs(&["device", "remove", "2"], &mnt);
    assert!(refused.stderr.contains("raid1c3 needs at least 3"), "{refused}");
    butterfs(&["balance", "start", "-mconvert=raid1", "-f"], &mnt).ok();
    butterfs(&["device", "remove", "1"], &mnt).ok();
    butterfs(&["filesystem", "resize", "2:-100M"], &mnt).ok();
    Tree::content_of(&mnt).assert_same(&tree, Times::Exact, "our mount | before");
    drop(ours);
    kernel_has(&images[1..], &mnt, &tree, "noatime");
    // The removed one is nobody's any more.
    assert!(
        !run(Command::new("btrfs").args(["inspect-internal", "dump-super"]).arg(&images[0])).stdout.contains("[match]")
    );
}

/// How many chunks were looked at, and balanced, is what the kernel says of the same filesystem.
#[test]
fn chunks_are_counted_as_by_the_kernel() {
    let Some(work) = setup("volume-counts") else { return };
    let mnt = work.dir("mnt");
    let (images, _) = made(work.path(), &[1200, 1200], 2, &["-d", "single", "-m", "raid1"], 20);
    // Elsewhere, or nobody could tell which of the copies is meant.
    let elsewhere = work.dir("before");
    let before: Vec<PathBuf> = images.iter().map(|image| elsewhere.join(image.file_name().expect("a file"))).collect();
    let copy = |from: &[PathBuf], to: &[PathBuf]| {
        for (from, to) in from.iter().zip(to) {
            run(Command::new("cp").arg("--sparse=always").args([from, to])).ok();
        }
    };
    copy(&images, &before);
    for filters in ["-dusage=0", "-dlimit=1", "-mlimit=1", "-dlimit=9..20", "-mconvert=raid1,soft"] {
        let line = ["balance", "start", filters];
        let kernel = KernelMount::new(&images, &mnt, "noatime");
        let wanted = run(Command::new("btrfs").args(line).arg(&mnt)).ok().stdout;
        drop(kernel);
        assert!(wanted.starts_with("Done, had to relocate "), "{wanted}");
        copy(&before, &images);
        assert_eq!(butterfs(&line, &images[0]).ok().stdout, wanted, "{filters}, images");
        copy(&before, &images);
    }
    let ours = Ours::new(&images, &mnt, "noatime");
    // What is empty is gone then, whenever it was that the mount took it away.
    butterfs(&["balance", "start", "-dusage=0"], &mnt).ok();
    let line = ["balance", "start", "-mlimit=1"];
    let by_us = butterfs(&line, &mnt).ok().stdout;
    assert!(by_us.starts_with("Done, had to relocate 2 out of 4 "), "data twice, metadata, system: {by_us}");
    assert_eq!(compat(&line, &mnt).ok().stdout, by_us);
    drop(ours);
}

/// Findmnt and the kernel stay with the device that the mount was made from: who takes it out is told.
#[test]
fn who_takes_out_the_first_device_is_told() {
    let Some(work) = setup("volume-first") else { return };
    let mnt = work.dir("mnt");
    let (images, tree) = made(work.path(), &[600, 600, 600], 2, &["-d", "raid1", "-m", "raid1"], 1);
    let loops: Vec<_> = images.iter().map(|image| devices::Loop::over(image)).collect();
    let paths: Vec<PathBuf> = loops.iter().map(|one| one.path().to_path_buf()).collect();
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let [first, second, third] = [0, 1, 2].map(|number: usize| text(&paths[number]));
    let ours = Ours::new(&paths[..2], &mnt, "noatime");
    let note = format!("the mount was made from {first}");
    let by_another = butterfs(&["device", "replace", "start", "-B", "-f", &second, &third], &mnt).ok();
    assert!(!by_another.stderr.contains("note"), "{by_another}");
    let told = butterfs(&["device", "replace", "start", "-B", "-f", "1", &second], &mnt).ok();
    assert!(told.stderr.contains(&note), "{told}");
    let shown = butterfs(&["filesystem", "show"], &mnt).ok().stdout;
    assert!(shown.contains(&second) && shown.contains(&third) && !shown.contains(&first), "{shown}");
    // What the note says: when that changes, it is to go.
    let source = run(Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(&mnt)).ok().stdout;
    assert_eq!(source.trim(), first);
    let refused = run(Command::new(BUTTERFS).args(["mkfs", "-f"]).arg(&first));
    assert!(refused.stderr.contains("in use"), "{refused}");
    drop(ours);
    run(Command::new(BUTTERFS).args(["mkfs", "-f"]).arg(&first)).ok();
    drop(loops);
    kernel_has(&images[1..], &mnt, &tree, "noatime");
    // The same of a device that is removed, which is asked for by its path.
    let loops: Vec<_> = images[1..].iter().map(|image| devices::Loop::over(image)).collect();
    let paths: Vec<PathBuf> = loops.iter().map(|one| one.path().to_path_buf()).collect();
    let ours = Ours::new(&paths, &mnt, "noatime");
    butterfs(&["balance", "start", "-f", "-dconvert=single", "-mconvert=dup"], &mnt).ok();
    let told = butterfs(&["device", "remove", &text(&paths[0])], &mnt).ok();
    assert!(told.stderr.contains(&format!("the mount was made from {}", text(&paths[0]))), "{told}");
    drop(ours);
}

#[test]
fn on_images() {
    let Some(work) = setup("volume-images") else { return };
    let mnt = work.dir("mnt");
    let (images, tree) = made(work.path(), &[600, 500, 500], 1, &["-d", "single", "-m", "dup"], 10);
    butterfs(&["device", "add", images[1].to_str().expect("text"), images[2].to_str().expect("text")], &images[0]).ok();
    kernel_has(&images, &mnt, &tree, "noatime");
    butterfs(&["balance", "start", "-dconvert=raid0", "-mconvert=raid1"], &images[0]).ok();
    kernel_has(&images, &mnt, &tree, "noatime");
    butterfs(&["balance", "start", "-dconvert=single", "-musage=80"], &images[0]).ok();
    butterfs(&["device", "remove", images[0].to_str().expect("text")], &images[1]).ok();
    kernel_has(&images[1..], &mnt, &tree, "noatime");
    butterfs(&["filesystem", "resize", "3:450M"], &images[1]).ok();
    let len = std::fs::metadata(&images[2]).expect("it is there").len();
    assert_eq!(len, 450 * MIB, "the file shrinks with the device");
    butterfs(&["filesystem", "resize", "3:+300M"], &images[2]).ok();
    kernel_has(&images[1..], &mnt, &tree, "noatime");
    let refused = butterfs(&["device", "remove", "2"], &images[1]);
    assert!(refused.stderr.contains("raid1 needs at least 2 devices, there would be 1"), "{refused}");
    let refused = butterfs(&["balance", "start", "-sconvert=single"], &images[1]);
    assert_eq!((refused.status.code(), refused.stderr.contains("--force")), (Some(1), true), "{refused}");
}

/// The kernel's `BTRFS_IOC_RESIZE`; gives the error in words.
fn ioctl_resize(mnt: &Path, wish: &str) -> String {
    let program = r#"open(my $d, "<", $ARGV[0]) or die; my $a = pack("x8Z4088", $ARGV[1]);
        print ioctl($d, 0x50009403, $a) ? "done" : $!"#;
    run(Command::new("perl").args(["-e", program]).arg(mnt).arg(wish)).ok().stdout
}

/// The stock tool, over our mount.
#[test]
fn by_btrfs_progs() {
    let Some(work) = setup("volume-progs") else { return };
    let mnt = work.dir("mnt");
    let (images, tree) = made(work.path(), &[600, 600], 1, &["-d", "single", "-m", "dup"], 5);
    let spare = devices::Loop::over(&images[1]);
    let ours = Ours::new(&images[..1], &mnt, "noatime");
    compat(&["device", "add", "-K", spare.path().to_str().expect("text")], &mnt).ok();
    let done = compat(&["balance", "start", "-dconvert=raid1", "-mconvert=raid1"], &mnt).ok();
    assert!(done.stdout.contains("Done, had to relocate "), "{done}");
    let refused = compat(&["device", "remove", "2"], &mnt);
    assert!(refused.stderr.contains("unable to go below two devices on raid1"), "{refused}");
    let status = compat(&["balance", "status"], &mnt);
    assert!(status.stdout.contains("No balance found"), "{status}");
    assert_eq!(compat(&["balance", "cancel"], &mnt).status.code(), Some(2));
    compat(&["balance", "start", "-f", "-dconvert=single", "-mconvert=dup"], &mnt).ok();
    // That command looks for the device first.
    assert_eq!(ioctl_resize(&mnt, "9:max"), "No such device");
    compat(&["filesystem", "resize", "1:-50M"], &mnt).ok();
    compat(&["device", "remove", "2"], &mnt).ok();
    Tree::content_of(&mnt).assert_same(&tree, Times::Exact, "our mount | before");
    drop(ours);
    drop(spare);
    kernel_has(&images[..1], &mnt, &tree, "noatime");
}

/// What one side began, the other ends.
#[test]
fn either_side_goes_on() {
    let Some(work) = setup("volume-resume") else { return };
    let mnt = work.dir("mnt");
    let (images, tree) = made(work.path(), &[900, 900], 2, &["-d", "single", "-m", "raid1"], 40);
    // We begin and pause, the kernel resumes.
    let ours = Ours::new(&images, &mnt, "noatime");
    butterfs(&["balance", "start", "--bg", "-dconvert=raid1"], &mnt).ok();
    let paused = butterfs(&["balance", "pause"], &mnt);
    let was_running = paused.status.success();
    drop(ours);
    devices::assert_clean(&images);
    let kernel = KernelMount::new(&images, &mnt, "noatime,skip_balance");
    if was_running {
        let status = run(Command::new("btrfs").args(["balance", "status"]).arg(&mnt));
        assert!(status.stdout.contains("is paused"), "{status}");
        run(Command::new("btrfs").args(["balance", "resume"]).arg(&mnt)).ok();
    }
    let profiles = kernel.btrfs(&["filesystem", "df"]).stdout;
    assert!(profiles.contains("Data, RAID1") && !profiles.contains("Data, single"), "{profiles}");
    Tree::content_of(&mnt).assert_same(&tree, Times::Exact, "the kernel's mount | before");
    // The kernel begins and pauses, we resume, at the mount.
    run(Command::new("btrfs").args(["balance", "start", "--bg", "-dconvert=single"]).arg(&mnt)).ok();
    std::thread::sleep(Duration::from_millis(100));
    let paused = run(Command::new("btrfs").args(["balance", "pause"]).arg(&mnt));
    let was_running = paused.status.success();
    drop(kernel);
    let ours = Ours::new(&images, &mnt, "noatime,skip_balance");
    if was_running {
        let status = butterfs(&["balance", "status"], &mnt);
        assert!(status.stdout.contains("is paused") && status.status.code() == Some(1), "{status}");
    }
    drop(ours);
    let ours = Ours::new(&images, &mnt, "noatime");
    while butterfs(&["balance", "status"], &mnt).stdout.contains("is running") {
        std::thread::sleep(Duration::from_millis(100));
    }
    Tree::content_of(&mnt).assert_same(&tree, Times::Exact, "our mount | before");
    drop(ours);
    devices::assert_clean(&images);
    let kernel = KernelMount::new(&images, &mnt, "noatime");
    let profiles = kernel.btrfs(&["filesystem", "df"]).stdout;
    assert!(profiles.contains("Data, single") && !profiles.contains("Data, RAID1"), "{profiles}");
    Tree::content_of(&mnt).assert_same(&tree, Times::Exact, "the kernel's mount | before");
}

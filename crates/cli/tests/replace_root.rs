//! Devices replaced by our command on images and on mounts, by the kernel's over our mount, and killed half-way: `btrfs check`
//! and the kernel's mount judge.

mod common;

use butterfs_testkit::command::{Finished, run};
use butterfs_testkit::daemon;
use butterfs_testkit::devices::{self, KernelMount, Loop};
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

fn replace(options: &[&str], source: &Path, target: &Path, path: &Path) -> Finished {
    let mut command = Command::new(BUTTERFS);
    run(command.args(["device", "replace", "start"]).args(options).args([source, target, path]))
}

/// Images with a populated filesystem, and one more that is empty.
fn made(work: &Path, mkfs: &[&str]) -> (Vec<PathBuf>, PathBuf, Tree) {
    let images = devices::mkfs(work, &[400 * MIB, 400 * MIB, 400 * MIB], mkfs);
    let target = work.join("target");
    create_sparse(&target, 450 * MIB);
    let mnt = work.join("mnt");
    let mount = KernelMount::new(&images, &mnt, "noatime");
    populate::tree(&mnt, Plan { seed: 7, files: 100, huge: 0, devices: false });
    (0..6).for_each(|number| {
        std::fs::write(mnt.join(format!("noise{number}")), Random::new(number).bytes(8 << 20)).expect("write");
    });
    let tree = Tree::content_of(&mnt);
    drop(mount);
    (images, target, tree)
}

#[track_caller]
fn kernel_has(images: &[PathBuf], mnt: &Path, tree: &Tree) {
    devices::assert_clean(images);
    let kernel = KernelMount::new(images, mnt, "noatime");
    Tree::content_of(mnt).assert_same(tree, Times::Exact, "the kernel's mount | before");
    drop(kernel);
}

#[test]
fn on_images() {
    let Some(work) = setup("replace-images") else { return };
    let mnt = work.dir("mnt");
    let (mut images, target, tree) = made(work.path(), &["-d", "raid5", "-m", "raid1"]);
    let small = work.file("small");
    create_sparse(&small, 399 * MIB);
    let refused = replace(&[], &images[0], &small, &images[1]);
    assert!(refused.stderr.contains(&format!("at least {} are needed", 400 * MIB)), "{refused}");
    let refused = replace(&["-f"], &images[0], &images[0], &images[1]);
    assert!(!refused.status.success(), "{refused}");
    let refused = replace(&["-f"], &images[0], &images[1], &images[1]);
    assert!(!refused.status.success(), "a device of the filesystem is taken: {refused}");
    replace(&[], &images[0], &target, &images[1]).ok();
    let old = std::mem::replace(&mut images[0], target);
    kernel_has(&images, &mnt, &tree);
    // The old one is free, and holds nothing; it takes the place of one that is missing.
    std::fs::remove_file(&images[2]).expect("is removed");
    replace(&["-K"], Path::new("3"), &old, &images[0]).ok();
    images[2] = old;
    kernel_has(&images, &mnt, &tree);
    let again = replace(&[], Path::new("3"), &images[1], &images[0]);
    assert!(!again.status.success(), "{again}");
}

#[test]
fn on_a_mount() {
    let Some(work) = setup("replace-mount") else { return };
    let mnt = work.dir("mnt");
    let (mut images, target, tree) = made(work.path(), &["-d", "raid1", "-m", "raid1"]);
    let ours = Ours::new(&images, &mnt, "noatime");
    let status = |words: &[&str]| run(Command::new(BUTTERFS).args(["device", "replace"]).args(words).arg(&mnt));
    assert_eq!(status(&["status", "-1"]).ok().stdout, "Never started\n");
    assert_eq!(status(&["cancel"]).status.code(), Some(2));
    replace(&["-B"], &images[1], &target, &mnt).ok();
    assert_eq!(status(&["status", "-1"]).ok().stdout, "Finished, 0 write errs, 0 uncorr. read errs\n");
    Tree::content_of(&mnt).assert_same(&tree, Times::Exact, "our mount | before");
    drop(ours);
    images[1] = target;
    kernel_has(&images, &mnt, &tree);
}

/// The stock tool, over our mount.
#[test]
fn by_btrfs_progs() {
    let Some(work) = setup("replace-progs") else { return };
    compat_library();
    let mnt = work.dir("mnt");
    let (mut images, target, tree) = made(work.path(), &["-d", "raid1", "-m", "raid1"]);
    let ours = Ours::new(&images, &mnt, "noatime");
    let device = Loop::over(&target);
    let btrfs =
        |words: &[&str]| run(Command::new(BUTTERFS).args(["compat", "--", "btrfs", "replace"]).args(words).arg(&mnt));
    btrfs(&["start", "-B", "2", device.path().to_str().expect("text")]).ok();
    let status = btrfs(&["status", "-1"]).ok();
    assert!(status.stdout.contains("inished"), "{status}");
    drop(ours);
    drop(device);
    images[1] = target;
    kernel_has(&images, &mnt, &tree);
}

/// Killed at random moments: the filesystem is what it was, or the target is its device.
/// `BUTTERFS_TEST_SCALE` makes it more often.
#[test]
fn killed_at_any_moment() {
    let Some(work) = setup("replace-kill") else { return };
    let mnt = work.dir("mnt");
    let (mut images, mut target, tree) = made(work.path(), &["-d", "raid1", "-m", "raid1"]);
    let mut random = Random::new(12);
    for round in 0..scaled(4) {
        let log = work.file("log");
        let mut command = Command::new(BUTTERFS);
        command.args(["device", "replace", "start", "-f"]).args([&images[1], &target, &images[0]]);
        let mut process = daemon::Foreground::start(&mut command, &log);
        process.wait(Duration::from_millis(random.between(30, 800)));
        daemon::kill(process.pid());
        drop(process);
        let printed = std::fs::read_to_string(&log).expect("a log");
        assert!(!printed.contains("panicked"), "{printed}");
        if has_superblock(&target) {
            std::mem::swap(&mut images[1], &mut target);
        }
        devices::assert_clean(&images);
        let ours = Ours::new(&images, &mnt, "noatime");
        Tree::content_of(&mnt).assert_same(&tree, Times::Exact, &format!("after kill {round} | before"));
        drop(ours);
        // What was killed at the last moment left the superblock that the next one is refused for.
        std::fs::OpenOptions::new().write(true).open(&target).expect("opens").set_len(0).expect("is emptied");
        create_sparse(&target, 450 * MIB);
    }
    kernel_has(&images, &mnt, &tree);
}

fn has_superblock(image: &Path) -> bool {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(image).expect("it is there");
    let mut magic = [0; 8];
    file.read_exact_at(&mut magic, 65536 + 64).expect("it reads");
    &magic == b"_BHRfS_M"
}

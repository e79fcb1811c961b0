//! Seeds and what grows from them: several sprouts of one seed, a sprout of a sprout, and a seed that is removed. The
//! kernel makes them; we read and write, the kernel judges, and not a byte of a seed changes.

mod common;

use butterfs_testkit::command::run;
use butterfs_testkit::devices::{self, KernelMount};
use butterfs_testkit::mounter::create_sparse;
use butterfs_testkit::oracle;
use butterfs_testkit::populate::{self, Plan};
use butterfs_testkit::tree_compare::{Times, Tree};
use butterfs_testkit::workdir::WorkDir;
use common::ours::Ours;
use common::{MIB, setup};
use std::path::{Path, PathBuf};
use std::process::Command;

const BUTTERFS: &str = env!("CARGO_BIN_EXE_butterfs");
const SIZE: u64 = 512 * MIB;

fn populated(dir: &Path, name: &str, seed: u64) {
    let inner = dir.join(name);
    std::fs::create_dir(&inner).expect("mkdir");
    populate::tree(&inner, Plan { seed, files: 80, huge: 0, devices: true });
    std::fs::write(inner.join("noise"), butterfs_testkit::random::Random::new(seed).bytes(6 << 20)).expect("write");
}

#[track_caller]
fn clean(images: &[PathBuf]) {
    let loops: Vec<_> = images.iter().map(|image| devices::Loop::over(image)).collect();
    run(Command::new("btrfs").args(["check", "--check-data-csum"]).arg(loops[0].path())).ok();
}

/// A filesystem of the kernel on one device, made a seed.
fn seed(work: &WorkDir, mnt: &Path) -> PathBuf {
    let images = devices::mkfs(work.path(), &[SIZE], &[]);
    let kernel = KernelMount::new(&images, mnt, "noatime");
    populated(mnt, "of the seed", 5);
    drop(kernel);
    becomes_seed(&images);
    images[0].clone()
}

fn becomes_seed(images: &[PathBuf]) {
    let loops: Vec<_> = images.iter().map(|image| devices::Loop::over(image)).collect();
    run(Command::new("btrfstune").args(["-f", "-S", "1"]).arg(loops[0].path())).ok();
}

/// The kernel has a filesystem grow out of seeds, the youngest first, to a new image; gives all, the new one first.
fn sprouted(work: &WorkDir, mnt: &Path, seeds: &[PathBuf], name: &str) -> Vec<PathBuf> {
    let grown = work.file(name);
    create_sparse(&grown, SIZE);
    let kernel = KernelMount::new(seeds, mnt, "noatime");
    let added = devices::Loop::over(&grown);
    run(Command::new("btrfs").args(["device", "add", "-f"]).arg(added.path()).arg(mnt)).ok();
    run(Command::new("mount").args(["-o", "remount,rw"]).arg(mnt)).ok();
    populated(mnt, &format!("of the kernel, {name}"), 6);
    drop(kernel);
    [vec![grown], seeds.to_vec()].concat()
}

/// We write to what has grown; the kernel finds it so, and the seeds as they were.
fn written(images: &[PathBuf], mnt: &Path, name: &str) -> Tree {
    let before: Vec<_> = images[1..].iter().map(|seed| oracle::file_hash(seed)).collect();
    let ours = Ours::new(images, mnt, "noatime");
    populated(mnt, &format!("of ours, {name}"), 7);
    let of_the_seed = mnt.join("of the seed/noise");
    if of_the_seed.exists() {
        std::fs::remove_file(of_the_seed).expect("unlink");
    }
    let expected = Tree::content_of(mnt);
    drop(ours);
    let after: Vec<_> = images[1..].iter().map(|seed| oracle::file_hash(seed)).collect();
    assert_eq!(after, before, "a seed was written");
    seen_by_the_kernel(images, mnt, &expected);
    expected
}

fn seen_by_the_kernel(images: &[PathBuf], mnt: &Path, expected: &Tree) {
    clean(images);
    let _kernel = KernelMount::new(images, mnt, "noatime");
    Tree::content_of(mnt).assert_same(expected, Times::Exact, "the kernel's mount | ours before");
}

#[test]
fn one_seed_has_several_sprouts() {
    let Some(work) = setup("seed-several") else { return };
    let mnt = work.dir("mnt");
    let seed = seed(&work, &mnt);
    let first = sprouted(&work, &mnt, std::slice::from_ref(&seed), "first");
    let second = sprouted(&work, &mnt, std::slice::from_ref(&seed), "second");
    let of_first = written(&first, &mnt, "first");
    written(&second, &mnt, "second");
    // What was done to one is not seen in the other, nor in the seed, from which more can grow.
    seen_by_the_kernel(&first, &mnt, &of_first);
    let third = sprouted(&work, &mnt, std::slice::from_ref(&seed), "third");
    let ours = Ours::new(&third, &mnt, "ro");
    assert!(mnt.join("of the seed/noise").exists() && !mnt.join("of ours, first").exists());
    drop(ours);
}

#[test]
fn a_sprout_is_a_seed_itself() {
    let Some(work) = setup("seed-chain") else { return };
    let mnt = work.dir("mnt");
    let seed = seed(&work, &mnt);
    let first = sprouted(&work, &mnt, &[seed], "first");
    written(&first, &mnt, "first");
    becomes_seed(&first);
    let second = sprouted(&work, &mnt, &first, "second");
    let expected = written(&second, &mnt, "second");
    let ours = Ours::new(&second, &mnt, "ro");
    Tree::content_of(&mnt).assert_same(&expected, Times::Exact, "our mount of the chain | before");
    drop(ours);
}

/// What lies on a seed moves to what has grown, which then needs the seed no more.
#[test]
fn a_seed_is_removed() {
    let Some(work) = setup("seed-removed") else { return };
    let mnt = work.dir("mnt");
    let seed = seed(&work, &mnt);
    for (name, on_mount) in [("first", false), ("second", true)] {
        let images = sprouted(&work, &mnt, std::slice::from_ref(&seed), name);
        let expected = written(&images, &mnt, name);
        let before = oracle::file_hash(&seed);
        if on_mount {
            let ours = Ours::new(&images, &mnt, "noatime");
            run(Command::new(BUTTERFS).args(["device", "remove", "1"]).arg(&mnt)).ok();
            Tree::content_of(&mnt).assert_same(&expected, Times::Exact, "our mount without the seed | before");
            drop(ours);
        } else {
            let mut command = Command::new(BUTTERFS);
            command.args(["device", "remove", "--device"]).arg(&seed).arg("1").arg(&images[0]);
            run(&mut command).ok();
        }
        assert_eq!(oracle::file_hash(&seed), before, "the seed was written");
        seen_by_the_kernel(&images[..1], &mnt, &expected);
    }
    let kernel = KernelMount::new(std::slice::from_ref(&seed), &mnt, "ro");
    assert!(mnt.join("of the seed/noise").exists(), "the seed is what it was");
    drop(kernel);
}

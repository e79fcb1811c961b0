//! `butterfs restore` on filesystems that the kernel made: everything out of 20,000 files and more, whole and in ruins;
//! and what is lost is told, by a dump that was made before the damage.

mod common;

use butterfs_format::{Logical, TreeId};
use butterfs_testkit::command::{Finished, run_program};
use butterfs_testkit::devices;
use butterfs_testkit::populate;
use butterfs_testkit::random::Random;
use butterfs_testkit::tree_blocks::{Dump, blocks_of, dump, only_in, touched, zero};
use butterfs_testkit::tree_compare::{Times, Tree};
use butterfs_testkit::unmount::unmount;
use butterfs_testkit::workdir::WorkDir;
use butterfs_volume::{BlockDevice, FileDevice};
use common::{GIB, kernel, setup};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FILES: usize = 20_000;

/// The filesystem, and what is in it.
struct Whole {
    work: WorkDir,
    image: PathBuf,
    tree: Tree,
}

/// Many small files; a tree of every kind of object; compressed files; a subvolume with a snapshot that changed since.
fn whole(test: &str) -> Option<Whole> {
    let work = setup(test)?;
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 2 * GIB, &["-m", "dup"]);
    let mounted = kernel().mount(&image, &mnt, "noatime");
    for number in 0..FILES {
        let dir = mnt.join(format!("dir {}", number % 100));
        if number < 100 {
            fs::create_dir(&dir).expect("mkdir");
        }
        let len = if number % 4 == 0 { 5000 } else { number % 700 };
        fs::write(dir.join(format!("file {number}")), vec![number as u8; len]).expect("write");
    }
    let all = mnt.join("all");
    fs::create_dir(&all).expect("mkdir");
    populate::tree(&all, populate::Plan { seed: 3, files: 400, huge: 1, devices: true });
    kernel().create_subvolume(&mnt.join("sub"));
    for number in 0..500 {
        fs::write(mnt.join(format!("sub/file {number}")), format!("first {number}")).expect("write");
    }
    kernel().snapshot(&mnt.join("sub"), &mnt.join("sub/snapshot"));
    for number in (0..500).step_by(3) {
        fs::write(mnt.join(format!("sub/file {number}")), format!("second {number}")).expect("write");
    }
    mounted.unmount();
    let mounted = kernel().mount(&image, &mnt, "noatime,compress-force=zstd");
    for number in 0..50 {
        fs::write(mnt.join(format!("compressed {number}")), vec![number as u8; 200_000]).expect("write");
    }
    let tree = comparable(Tree::read(&mnt));
    mounted.unmount();
    Some(Whole { work, image, tree })
}

/// Without what a restore cannot give back, and what directories are on each filesystem.
fn comparable(mut tree: Tree) -> Tree {
    for entry in tree.entries.values_mut() {
        (entry.ctime, entry.atime, entry.placeholder) = ((0, 0), (0, 0), false);
        if entry.kind == 'd' {
            (entry.size, entry.links) = (0, 0);
        }
        // A property of the filesystem, not of the file.
        entry.xattrs.retain(|name, _| !name.starts_with(b"btrfs."));
    }
    tree
}

impl Whole {
    fn butterfs(&self, image: &Path, arguments: &[&str]) -> Finished {
        let mut all = vec!["--format", "json", "restore"];
        all.extend(arguments);
        all.push(image.to_str().expect("UTF-8"));
        let out = self.out();
        all.push(out.to_str().expect("UTF-8"));
        run_program(env!("CARGO_BIN_EXE_butterfs"), &all)
    }

    fn out(&self) -> PathBuf {
        self.work.file("out")
    }

    fn copy(&self) -> PathBuf {
        let copy = self.work.file("damaged");
        run_program("cp", &["--sparse=always".as_ref(), self.image.as_os_str(), copy.as_os_str()]).ok();
        copy
    }

    /// Everything, into an empty directory; gives the report.
    fn restore(&self, image: &Path) -> (Finished, Tree) {
        let _ = fs::remove_dir_all(self.out());
        let finished = self.butterfs(image, &["-smSx"]);
        let tree = comparable(Tree::read(&self.out()));
        (finished, tree)
    }

    #[track_caller]
    fn assert_all_is_had(&self, image: &Path, what: &str) {
        let (finished, tree) = self.restore(image);
        assert!(finished.status.success(), "{what}: {finished}");
        let differences = self.tree.differences(&tree, Times::Exact);
        assert!(differences.is_empty(), "{what}: {differences:#?}");
    }
}

fn device(image: &Path) -> Arc<dyn BlockDevice> {
    Arc::new(FileDevice::open_read_write(image).expect("the image opens"))
}

fn damage(image: &Path, blocks: impl IntoIterator<Item = Logical>, copies: std::ops::Range<usize>) {
    zero(&device(image), blocks, copies);
}

fn wipe_superblocks(image: &Path) {
    let file = fs::File::options().write(true).open(image).expect("open");
    for offset in [64 << 10, 64 << 20] {
        file.write_all_at(&[0; 4096], offset).expect("write");
    }
}

fn one_in_a_hundred(all: &Dump, seed: u64) -> BTreeSet<Logical> {
    let mut random = Random::new(seed);
    all.keys().filter(|_| random.percent(1)).copied().collect()
}

/// Kinds of losses by tree and inode, from the JSON report.
fn losses(finished: &Finished) -> BTreeSet<(TreeId, u64)> {
    let report: serde_json::Value = serde_json::from_str(&finished.stdout).expect("JSON");
    let losses = report["losses"].as_array().expect("a list").iter();
    losses
        .map(|loss| (TreeId(loss["tree"].as_u64().expect("a tree")), loss["inode"].as_u64().expect("an inode")))
        .collect()
}

#[test]
fn everything_that_can_be_had_of_20000_files() {
    let Some(whole) = whole("everything_that_can_be_had_of_20000_files") else { return };
    all_that_btrfs_restore_gets(&whole);
    everything_from_ruins(&whole);
    both_copies_lost_and_told_of(&whole);
}

fn everything_from_ruins(whole: &Whole) {
    whole.assert_all_is_had(&whole.image, "undamaged");
    let all = dump(&device(&whole.image));

    let copy = whole.copy();
    wipe_superblocks(&copy);
    whole.assert_all_is_had(&copy, "no superblock");

    let copy = whole.copy();
    damage(&copy, blocks_of(&all, TreeId::ROOT), 0..2);
    whole.assert_all_is_had(&copy, "no root tree");

    for one in 0..2 {
        let copy = whole.copy();
        damage(&copy, one_in_a_hundred(&all, 7), one..one + 1);
        whole.assert_all_is_had(&copy, "one copy of 1%");
    }
}

/// What is told as lost has something in a lost block, and what has something there that is nowhere else is told.
/// Everything that is not told of is as it was.
fn both_copies_lost_and_told_of(whole: &Whole) {
    let all = dump(&device(&whole.image));
    let leaves = |at: &Logical| all[at].level == 0 && all[at].trees.iter().any(|tree| tree.is_subvolume());
    for seed in [1, 2] {
        let lost: BTreeSet<Logical> = one_in_a_hundred(&all, seed).into_iter().filter(leaves).collect();
        let copy = whole.copy();
        damage(&copy, lost.iter().copied(), 0..2);
        let (finished, tree) = whole.restore(&copy);
        assert_eq!(finished.status.code(), Some(2), "{finished}");
        let told = losses(&finished);
        let silent: Vec<_> = only_in(&all, &lost).difference(&told).copied().collect();
        assert!(silent.is_empty(), "seed {seed}: not told of: {silent:?}");
        let wrong: Vec<_> = told.difference(&touched(&all, &lost, |_| true)).copied().collect();
        assert!(wrong.is_empty(), "seed {seed}: nothing of these is lost: {wrong:?}");
        let changed = whole.tree.entries.iter().filter(|(path, entry)| tree.entries.get(*path) != Some(entry)).count();
        assert!(
            changed <= told.len() + 800,
            "seed {seed}: {changed} of {} changed, {} told",
            tree.entries.len(),
            told.len()
        );
    }
}

/// What `btrfs restore` gets from an undamaged filesystem, and more: it makes neither pipes nor links.
fn all_that_btrfs_restore_gets(whole: &Whole) {
    let theirs = whole.work.dir("theirs");
    let arguments = ["restore".as_ref(), "-smSx".as_ref(), whole.image.as_os_str(), theirs.as_os_str()];
    run_program("btrfs", &arguments).ok();
    let (finished, ours) = whole.restore(&whole.image);
    assert!(finished.status.success(), "{finished}");
    for (path, their) in comparable(Tree::read(&theirs)).entries {
        let our = ours.entries.get(&path).unwrap_or_else(|| panic!("{} is missing", path.display()));
        let same = (our.kind, our.size, our.hash, &our.target) == (their.kind, their.size, their.hash, &their.target);
        assert!(same, "{}: {our:?}, {their:?}", path.display());
    }
}

/// A second run makes what is missing and touches nothing else, unless it is told to.
#[test]
fn a_restore_goes_on_where_it_was_interrupted() {
    let Some(work) = setup("a_restore_goes_on_where_it_was_interrupted") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, GIB, &[]);
    let mounted = kernel().mount(&image, &mnt, "noatime");
    for name in ["a", "b", "c"] {
        fs::write(mnt.join(name), name).expect("write");
    }
    std::os::unix::fs::symlink("/etc", mnt.join("way out")).expect("symlink");
    mounted.unmount();
    let out = work.dir("out");
    fs::write(out.join("a"), "mine").expect("write");
    // Nothing is written through a symbolic link that lies in the way.
    let outside = work.file("outside");
    std::os::unix::fs::symlink(&outside, out.join("b")).expect("symlink");
    let run = |arguments: &[&str]| {
        let mut all = vec!["restore"];
        all.extend(arguments);
        all.extend([image.to_str().expect("UTF-8"), out.to_str().expect("UTF-8")]);
        run_program(env!("CARGO_BIN_EXE_butterfs"), &all).ok()
    };
    let finished = run(&["-S"]);
    assert!(finished.stdout.contains("2 existing"), "{finished}");
    assert_eq!(fs::read(out.join("a")).expect("read"), b"mine");
    assert_eq!(fs::read(out.join("c")).expect("read"), b"c");
    assert!(!outside.exists());
    run(&["-So"]);
    assert_eq!(fs::read(out.join("a")).expect("read"), b"a");
    assert_eq!(fs::read(out.join("b")).expect("read"), b"b");
    assert!(!outside.exists());
}

/// What lies in a log tree alone: the image is copied while it is mounted, as a power cut would leave it.
#[test]
fn what_was_fsynced_last_is_restored() {
    let Some(work) = setup("what_was_fsynced_last_is_restored") else { return };
    let (image, mnt, copy, out) = (work.file("image"), work.dir("mnt"), work.file("copy"), work.dir("out"));
    kernel().mkfs(&image, GIB, &[]);
    let mounted = kernel().mount(&image, &mnt, "noatime,commit=300");
    fs::write(mnt.join("before"), "before").expect("write");
    mounted.sync();
    fs::write(mnt.join("after"), vec![7; 20_000]).expect("write");
    fs::File::open(mnt.join("after")).expect("open").sync_all().expect("fsync");
    run_program("cp", &["--sparse=always", image.to_str().expect("UTF-8"), copy.to_str().expect("UTF-8")]).ok();
    mounted.unmount();
    let paths = [copy.to_str().expect("UTF-8"), out.to_str().expect("UTF-8")];
    let finished = run_program(env!("CARGO_BIN_EXE_butterfs"), &["restore", paths[0], paths[1]]).ok();
    assert_eq!(finished.stderr, "", "{finished}");
    assert_eq!(fs::read(out.join("before")).expect("read"), b"before");
    assert_eq!(fs::read(out.join("after")).expect("read"), vec![7; 20_000]);
}

#[test]
fn roots_are_listed_as_btrfs_lists_them() {
    let Some(work) = setup("roots_are_listed_as_btrfs_lists_them") else { return };
    let image = work.file("image");
    kernel().mkfs(&image, GIB, &[]);
    let image = image.to_str().expect("UTF-8");
    let ours = run_program(env!("CARGO_BIN_EXE_butterfs"), &["restore", "-l", image]).ok();
    let theirs = run_program("btrfs", &["restore", "-l", image]).ok();
    assert_eq!(ours.stdout, theirs.stdout);
    let ours = run_program(env!("CARGO_BIN_EXE_butterfs"), &["find-root", image]).ok();
    let theirs = run_program("btrfs-find-root", &[image]).ok();
    assert_eq!(ours.stdout, theirs.stdout);
}

/// Which device is which is found out without superblocks, whatever the order in which they are named.
#[test]
fn devices_without_superblocks_are_told_apart() {
    let Some(work) = setup("devices_without_superblocks_are_told_apart") else { return };
    for (profiles, count, wiped) in [
        (["-d", "raid1", "-m", "raid1"], 2, &[&[0][..], &[1], &[0, 1]][..]),
        (["-d", "raid5", "-m", "raid1"], 4, &[&[0], &[1], &[2], &[3]]),
        (["-d", "raid5", "-m", "raid5"], 3, &[&[1], &[0, 1, 2]]),
    ] {
        let dir = work.dir(&format!("{}-{count}", profiles[3]));
        let images = devices::mkfs(&dir, &vec![GIB; count], &profiles);
        let mounted = devices::KernelMount::new(&images, &work.dir("mnt"), "noatime");
        for number in 0..300 {
            fs::write(mounted.join(format!("file {number}")), vec![number as u8; number * 300]).expect("write");
        }
        let tree = comparable(Tree::read(&mounted.join("")));
        drop(mounted);
        for wiped in wiped {
            let copies = copies(&images, wiped);
            let backwards: Vec<_> = copies.iter().rev().collect();
            for order in [copies.iter().collect(), backwards] {
                let out = work.dir("out");
                let mut arguments = vec!["restore".as_ref(), "-smSx".as_ref()];
                arguments.extend(order.iter().map(|path| path.as_os_str()));
                arguments.push(out.as_os_str());
                let what = format!("{profiles:?}, {wiped:?} wiped, {order:?}");
                let finished = run_program(env!("CARGO_BIN_EXE_butterfs"), &arguments);
                assert!(finished.status.success(), "{what}: {finished}");
                let differences = tree.differences(&comparable(Tree::read(&out)), Times::Exact);
                assert!(differences.is_empty(), "{what}: {differences:#?}");
                fs::remove_dir_all(&out).expect("remove");
            }
        }
        fs::remove_dir_all(&dir).expect("remove");
    }
}

/// What will be so for every file that follows is said once, and ends it.
#[test]
fn a_destination_that_cannot_be_written_to_ends_a_restore() {
    let Some(work) = setup("a_destination_that_cannot_be_written_to_ends_a_restore") else { return };
    let (image, mnt, out) = (work.file("image"), work.dir("mnt"), work.dir("out"));
    kernel().mkfs(&image, GIB, &[]);
    let mounted = kernel().mount(&image, &mnt, "noatime");
    for number in 0..100 {
        fs::create_dir(mnt.join(format!("dir {number}"))).expect("mkdir");
        fs::write(mnt.join(format!("dir {number}/file")), vec![1; 100_000]).expect("write");
    }
    mounted.unmount();
    for (options, problem) in [("size=1m", "No space left"), ("ro", "read-only filesystem")] {
        run_program("mount", &["-t", "tmpfs", "-o", options, "none", out.to_str().expect("UTF-8")]).ok();
        let finished =
            run_program(env!("CARGO_BIN_EXE_butterfs"), &["restore".as_ref(), image.as_os_str(), out.as_os_str()]);
        unmount(&out).ok();
        assert_eq!(finished.status.code(), Some(2), "{finished}");
        assert!(finished.stderr.contains(problem) && finished.stderr.lines().count() == 1, "{finished}");
        assert!(finished.stdout.lines().count() < 20 && finished.stdout.contains("stopped"), "{finished}");
    }
}

/// Copies of images, some of which have no superblock.
fn copies(images: &[PathBuf], wiped: &[usize]) -> Vec<PathBuf> {
    let copy = |(number, image): (usize, &PathBuf)| {
        let copy = image.with_extension("copy");
        run_program("cp", &["--sparse=always".as_ref(), image.as_os_str(), copy.as_os_str()]).ok();
        if wiped.contains(&number) {
            wipe_superblocks(&copy);
        }
        copy
    };
    images.iter().enumerate().map(copy).collect()
}

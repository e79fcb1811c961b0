//! Log trees that the kernel left behind: after our replay the tree is what it is after the kernel's own.
//!
//! Each scenario is run on the kernel's mount: `before`, sync, `after` with its fsyncs; then the image is copied behind
//! the kernel's back, as a power cut leaves it, and the copies are mounted by the kernel and by us. The same on our own
//! mount: what was fsynced there is whole after the kernel's replay, and after ours.

mod common;
mod log_scenarios;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use butterfs_testkit::command::run_program;
use butterfs_testkit::mounter::{Mounted, Mounter};
use butterfs_testkit::oracle;
use butterfs_testkit::tree_compare::{Entry, Times, Tree};
use common::{MIB, kernel, setup, subject};
use log_scenarios::first::SCENARIOS;
use log_scenarios::{GONE, SYNCED, Scenario, clones, fstests, near_misses};

/// The kernel's replay sets the times of directories that lose names to that of the replay.
const NEAR: Times = Times::Within(Duration::from_secs(60));

/// Runs scenarios on filesystems of this kind.
fn replay(shape: &str, mkfs: &[&str], options: &str, scenarios: impl Iterator<Item = &'static Scenario>) {
    let Some(work) = setup(shape) else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    let (theirs, ours, read) = (work.file("theirs"), work.file("ours"), work.file("read"));
    let mut with_log = 0;
    for scenario in scenarios {
        let name = scenario.name;
        kernel().mkfs(&image, 300 * MIB, mkfs);
        let mounted = kernel().mount(&image, &mnt, options);
        (scenario.before)(&mnt);
        mounted.sync();
        (scenario.after)(&mnt);
        SYNCED.take();
        GONE.take();
        copy(&image, &[&theirs, &ours, &read]);
        mounted.unmount();
        let log = oracle::superblock(&ours).remove("log_root").expect("dump-super names log_root");
        with_log += usize::from(log != "0");

        let mounted = kernel().mount(&theirs, &mnt, "noatime");
        let expected = tree(&mnt);
        mounted.unmount();

        let hash = oracle::file_hash(&read);
        let mounted = subject().mount(&read, &mnt, "ro");
        tree(&mnt).assert_same(&expected, NEAR, &format!("{shape}, {name}: read-only | the kernel's replay"));
        mounted.unmount();
        assert_eq!(oracle::file_hash(&read), hash, "{shape}, {name}: a read-only mount wrote");

        let mounted = subject().mount(&ours, &mnt, "noatime");
        let found = tree(&mnt);
        found.assert_same(&expected, NEAR, &format!("{shape}, {name}: our replay | the kernel's"));
        fs::write(mnt.join("afterwards"), vec![1; 50_000]).expect("write");
        fs::remove_file(mnt.join("afterwards")).expect("unlink");
        mounted.unmount();
        oracle::assert_clean(&ours);
        let mounted = kernel().mount(&ours, &mnt, "noatime");
        tree(&mnt).assert_same(&expected, NEAR, &format!("{shape}, {name}: the kernel after us"));
        mounted.unmount();
    }
    println!("{with_log} scenarios left a log");
    assert!(with_log > 0, "no scenario left a log: the test proves nothing");
}

/// The parts of an entry that a sync promises. Of the directories that it did not promise, sizes differ.
type Seen = (char, u32, (u32, u32), u64, BTreeMap<Vec<u8>, Vec<u8>>, Option<u64>);

fn seen(entry: &Entry) -> Seen {
    let size = if entry.kind == 'd' { 0 } else { entry.size };
    (entry.kind, entry.mode, entry.owner, size, entry.xattrs.clone(), entry.hash)
}

fn copy(image: &Path, copies: &[&Path]) {
    for copy in copies {
        run_program("cp", &["--sparse=always".as_ref(), image.as_os_str(), copy.as_os_str()]).ok();
    }
}

/// Everything can be removed: no name is left that leads nowhere, no directory that is not empty.
fn remove_all(mounted: &Mounted) {
    for entry in fs::read_dir(mounted.path()).expect("read_dir") {
        let path = entry.expect("an entry").path();
        match fs::symlink_metadata(&path).expect("lstat") {
            found if !found.is_dir() => fs::remove_file(&path).expect("unlink"),
            _ => fs::remove_dir_all(&path).expect("remove"),
        }
    }
}

/// Runs scenarios on our own mount, cuts the power, and has the kernel and us replay what we logged.
fn crossed(shape: &str, mkfs: &[&str], scenarios: impl Iterator<Item = &'static Scenario>) {
    let Some(work) = setup(shape) else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    let (theirs, ours) = (work.file("theirs"), work.file("ours"));
    let mut with_log = 0;
    for scenario in scenarios {
        let name = scenario.name;
        subject().mkfs(&image, 300 * MIB, &[mkfs, &["-f"]].concat());
        let mounted = subject().mount(&image, &mnt, "commit=300,noatime");
        (scenario.before)(&mnt);
        mounted.sync();
        SYNCED.take();
        GONE.take();
        (scenario.after)(&mnt);
        copy(&image, &[&theirs, &ours]);
        let live = tree(&mnt);
        mounted.unmount();
        with_log += usize::from(oracle::superblock(&ours)["log_root"] != "0");
        oracle::assert_clean(&ours);

        let mut trees = Vec::new();
        for (mounter, copy) in [(kernel(), &theirs), (subject(), &ours)] {
            let mounted = mounter.mount(copy, &mnt, "noatime");
            trees.push(tree(&mnt));
            mounted.unmount();
            oracle::assert_clean(copy);
        }
        trees[1].assert_same(&trees[0], NEAR, &format!("{shape}, {name}: our replay of our log | the kernel's"));
        let inside = |path: PathBuf| path.strip_prefix(&mnt).expect("below the mount point").to_owned();
        for path in SYNCED.take().into_iter().map(inside) {
            // Renamed since: then only what came after counts.
            let Some(wanted) = live.entries.get(&path) else { continue };
            let found = trees[0].entries.get(&path).map(|entry| (seen(entry), entry.mtime));
            assert_eq!(found, Some((seen(wanted), wanted.mtime)), "{shape}, {name}: {}", path.display());
        }
        for path in GONE.take().into_iter().map(inside) {
            assert!(!trees[0].entries.contains_key(&path), "{shape}, {name}: {} is still there", path.display());
        }
        for copy in [&theirs, &ours] {
            let mounted = kernel().mount(copy, &mnt, "noatime");
            remove_all(&mounted);
            mounted.unmount();
            oracle::assert_clean(copy);
        }
    }
    println!("{with_log} scenarios left a log");
    if subject().is_butterfs() {
        assert!(with_log > 5, "only {with_log} scenarios left a log");
    }
}

/// What is there after `scenario` on the mounter's own mount: when the power was cut, and after its replay.
fn cut(mounter: &Mounter, scenario: &Scenario, image: &Path, mnt: &Path) -> (Tree, Tree) {
    mounter.mkfs(image, 300 * MIB, &["-f"]);
    let mounted = mounter.mount(image, mnt, "commit=300,noatime");
    (scenario.before)(mnt);
    mounted.sync();
    (scenario.after)(mnt);
    let left = image.with_extension("cut");
    copy(image, &[&left]);
    let live = tree(mnt);
    mounted.unmount();
    let mounted = mounter.mount(&left, mnt, "noatime");
    let replayed = tree(mnt);
    mounted.unmount();
    (live, replayed)
}

/// What the kernel makes durable in a scenario, we do too; and what we leave besides is old, new, or a new file that is
/// still empty.
fn no_less(shape: &str, scenarios: impl Iterator<Item = &'static Scenario>) {
    let Some(work) = setup(shape) else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    for scenario in scenarios {
        let (live, theirs) = cut(&kernel(), scenario, &image, &mnt);
        let (our_live, ours) = cut(&subject(), scenario, &image, &mnt);
        SYNCED.take();
        GONE.take();
        let paths: BTreeSet<&PathBuf> =
            [&live, &theirs, &our_live, &ours].into_iter().flat_map(|tree| tree.entries.keys()).collect();
        for path in paths {
            let at = |tree: &Tree| tree.entries.get(path).map(seen);
            let what = format!("{shape}, {}: {}", scenario.name, path.display());
            assert_eq!(at(&our_live), at(&live), "{what}: before the cut");
            let (live, theirs, ours) = (at(&live), at(&theirs), at(&ours));
            if theirs == live {
                assert_eq!(ours, live, "{what}: the kernel keeps it");
            }
            let is_new_and_empty = ours.as_ref().is_some_and(|(kind, _, _, size, _, _)| *kind == 'f' && *size == 0);
            assert!(
                ours == live || ours == theirs || is_new_and_empty,
                "{what}: {ours:?}, not {live:?} nor {theirs:?}"
            );
        }
    }
}

#[test]
fn the_kernel_replays_what_we_log() {
    crossed("ours", &[], SCENARIOS.iter());
}

#[test]
fn the_kernel_replays_what_we_log_with_small_nodes_and_holes() {
    crossed("ours_small", &["-n", "4096", "-O", "^no-holes", "--csum", "sha256"], SCENARIOS.iter());
}

#[test]
fn the_kernel_replays_what_we_log_in_fstests() {
    crossed("ours_fstests", &[], fstests::SCENARIOS.iter());
}

#[test]
fn the_kernel_replays_what_we_log_in_fstests_with_small_nodes_and_holes() {
    let mkfs = ["-n", "4096", "-O", "^no-holes", "--csum", "sha256"];
    crossed("ours_fstests_small", &mkfs, fstests::SCENARIOS.iter());
}

#[test]
fn the_kernel_replays_what_we_log_at_its_limits() {
    crossed("ours_limits", &[], near_misses::SCENARIOS.iter());
}

#[test]
fn the_kernel_replays_our_logs_of_clones() {
    crossed("ours_clones", &[], clones::SCENARIOS.iter());
}

#[test]
fn the_kernel_replays_our_logs_of_clones_with_small_nodes_and_holes() {
    crossed("ours_clones_small", &["-n", "4096", "-O", "^no-holes", "--csum", "sha256"], clones::SCENARIOS.iter());
}

#[test]
fn the_kernels_logs_of_clones() {
    replay("theirs_clones", &[], "commit=300,noatime", clones::SCENARIOS.iter());
}

#[test]
fn what_the_kernel_keeps_we_keep() {
    no_less("kept", SCENARIOS.iter());
}

#[test]
fn what_the_kernel_keeps_in_fstests_we_keep() {
    no_less("kept_fstests", fstests::SCENARIOS.iter().chain(near_misses::SCENARIOS).chain(clones::SCENARIOS));
}

#[test]
fn the_kernels_logs_of_fstests() {
    replay("theirs_fstests", &[], "commit=300,noatime", fstests::SCENARIOS.iter());
}

#[test]
fn the_kernels_logs_at_their_limits() {
    replay("theirs_limits", &[], "commit=300,noatime", near_misses::SCENARIOS.iter());
}

fn tree(mnt: &Path) -> Tree {
    Tree::read(mnt)
}

#[test]
fn the_first_half_on_the_default() {
    replay("default_first", &[], "commit=300,noatime", SCENARIOS.iter().step_by(2));
}

#[test]
fn the_second_half_on_the_default() {
    replay("default_second", &[], "commit=300,noatime", SCENARIOS.iter().skip(1).step_by(2));
}

#[test]
fn with_small_nodes_and_holes() {
    let mkfs = ["-n", "4096", "-O", "^no-holes", "--csum", "sha256"];
    replay("small_nodes", &mkfs, "commit=300,noatime", SCENARIOS.iter());
}

#[test]
fn with_compression() {
    let named = |scenario: &&Scenario| scenario.name.contains("file") || scenario.name.contains("append");
    replay("compressed", &[], "commit=300,noatime,compress-force=zstd", SCENARIOS.iter().filter(named));
}

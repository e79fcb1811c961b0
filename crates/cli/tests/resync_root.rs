//! A device that was away while the kernel, or we, wrote the others: it is brought up to date, the kernel and `btrfs check`
//! judge, also with another device lost afterwards.

mod common;

use butterfs_testkit::command::{Finished, run};
use butterfs_testkit::daemon;
use butterfs_testkit::devices::{self, KernelMount};
use butterfs_testkit::populate::{self, Plan};
use butterfs_testkit::random::Random;
use butterfs_testkit::report::scaled;
use butterfs_testkit::tree_compare::{Times, Tree, hash_file};
use common::ours::Ours;
use common::{MIB, setup};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

fn butterfs(arguments: &[&str], path: &Path) -> Finished {
    run(Command::new(env!("CARGO_BIN_EXE_butterfs")).args(arguments).arg(path))
}

/// Files, of which one is overwritten in place from now on.
fn before(dir: &Path) {
    populate::tree(dir, Plan { seed: 5, files: 100, huge: 0, devices: false });
    std::fs::write(dir.join("in place"), "").expect("write");
    run(Command::new("chattr").arg("+C").arg(dir.join("in place"))).ok();
    std::fs::write(dir.join("in place"), Random::new(1).bytes(2 << 20)).expect("write");
    run(Command::new("fallocate").args(["-l", "2M"]).arg(dir.join("preallocated"))).ok();
    std::fs::write(dir.join("removed"), Random::new(2).bytes(4 << 20)).expect("write");
}

fn meanwhile(dir: &Path) {
    use std::os::unix::fs::FileExt;
    let opened = |name: &str| std::fs::OpenOptions::new().write(true).open(dir.join(name)).expect("opens");
    opened("in place").write_all_at(&Random::new(3).bytes(1 << 20), 4096).expect("write");
    opened("preallocated").write_all_at(&Random::new(4).bytes(1 << 20), 0).expect("write");
    std::fs::remove_file(dir.join("removed")).expect("is removed");
    run(Command::new("sync").arg("-f").arg(dir)).ok();
    std::fs::write(dir.join("new"), Random::new(5).bytes(60 << 20)).expect("write");
}

fn commits(dir: &Path, count: usize) {
    for number in 0..count {
        std::fs::write(dir.join("counted"), number.to_string()).expect("write");
        run(Command::new("sync").arg("-f").arg(dir)).ok();
    }
}

fn after_the_kernel(name: &str, mkfs: &[&str], further: usize, bring: impl Fn(&[PathBuf], &Path)) {
    let Some(work) = setup(name) else { return };
    let mnt = work.dir("mnt");
    let images = devices::mkfs(work.path(), &[400 * MIB, 400 * MIB, 400 * MIB], mkfs);
    let kernel = KernelMount::new(&images, &mnt, "noatime");
    before(&mnt);
    drop(kernel);
    let kernel = KernelMount::new(&images[..2], &mnt, "noatime,degraded");
    meanwhile(&mnt);
    commits(&mnt, further);
    let tree = Tree::content_of(&mnt);
    drop(kernel);
    bring(&images, &mnt);
    devices::assert_clean(&images);
    let kernel = KernelMount::new(&images, &mnt, "noatime");
    Tree::content_of(&mnt).assert_same(&tree, Times::Exact, "the kernel's mount | before");
    drop(kernel);
    // What came back stands in for another.
    let _kernel = KernelMount::new(&images[1..], &mnt, "noatime,degraded,ro");
    Tree::content_of(&mnt).assert_same(&tree, Times::Exact, "without the first | before");
}

fn by_command(images: &[PathBuf], _: &Path) {
    let refused = butterfs(&["filesystem", "resize", "1:max"], &images[0]);
    assert!(refused.stderr.contains("missed commits") && refused.stderr.contains("disk2"), "{refused}");
    let done = butterfs(&["device", "resync"], &images[0]).ok();
    assert!(done.stdout.contains("Device 3 was of generation") && done.stdout.contains("is up to date"), "{done}");
    let again = butterfs(&["device", "resync"], &images[0]).ok();
    assert_eq!(again.stdout, "All devices are up to date\n");
}

fn by_a_mount(images: &[PathBuf], mnt: &Path) {
    let generation = |image: &PathBuf| {
        let shown = run(Command::new("btrfs").args(["inspect-internal", "dump-super"]).arg(image)).ok().stdout;
        shown.lines().find(|line| line.starts_with("generation")).expect("it has one").to_owned()
    };
    let ours = Ours::new(images, mnt, "noatime");
    let begun = Instant::now();
    while generation(&images[2]) != generation(&images[0]) {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is not brought up to date");
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(ours);
}

#[test]
fn raid1_written_by_the_kernel() {
    after_the_kernel("resync-raid1", &["-d", "raid1", "-m", "raid1"], 0, by_command);
}

#[test]
fn raid5_written_by_the_kernel() {
    after_the_kernel("resync-raid5", &["-d", "raid5", "-m", "raid1"], 0, by_command);
}

#[test]
fn a_mount_does_it_by_itself() {
    after_the_kernel("resync-mount", &["-d", "raid1", "-m", "raid1"], 0, by_a_mount);
}

/// Killed at random moments: without the device all is there, and with it, whichever is lost; alone it is nothing.
#[test]
fn killed_half_way() {
    after_the_kernel("resync-kill", &["-d", "raid1c3", "-m", "raid1c3"], 0, killed);
}

fn killed(images: &[PathBuf], mnt: &Path) {
    // Not beside the images, where it would be found.
    let (log, copies) = (mnt.with_file_name("log"), mnt.with_file_name("copies"));
    std::fs::create_dir(&copies).expect("mkdir");
    let away = copies.join("away");
    let copy = |from: &Path, to: &Path| drop(run(Command::new("cp").arg("--sparse=always").args([from, to])).ok());
    let whole = only(images, &[0, 1], || files_of(&images[..2], mnt));
    copy(&images[2], &away);
    let (mut random, mut limit, mut half_way) = (Random::new(4), 400, 0);
    for round in 0..scaled(80) {
        if half_way >= scaled(4) {
            break;
        }
        let begun = Instant::now();
        let resync = &mut Command::new(env!("CARGO_BIN_EXE_butterfs"));
        let mut process = daemon::Foreground::start(resync.args(["device", "resync"]).arg(&images[0]), &log);
        if process.wait(Duration::from_millis(random.between(limit / 16, limit))) {
            let told = std::fs::read_to_string(&log).expect("a log");
            assert!(told.contains("up to date"), "round {round}: {told}");
            limit = (begun.elapsed().as_millis() as u64).max(32);
            copy(&away, &images[2]);
            continue;
        }
        daemon::kill(process.pid());
        drop(process);
        for left in [&[0, 1][..], &[0], &[0, 2], &[1, 2]] {
            let some: Vec<PathBuf> = left.iter().map(|number| images[*number].clone()).collect();
            let found = only(images, left, || files_of(&some, mnt));
            let is_right = |path: &PathBuf| found[path].is_none() || found[path] == whole[path];
            assert!(found.len() == whole.len() && found.keys().all(is_right), "round {round}, with {left:?}");
            // What the kernel wrote new has no third copy.
            let lost = found.values().filter(|hash| hash.is_none()).count();
            assert!(
                lost <= if left.len() == 2 && left[1] == 1 { 0 } else { 3 },
                "round {round}: with {left:?} {lost} are lost"
            );
        }
        let alone = only(images, &[2], || {
            let mut mount = Command::new(env!("CARGO_BIN_EXE_butterfs"));
            let mounted = run(mount.args(["mount", "-o", "ro,degraded"]).arg(&images[2]).arg(mnt));
            // Before the first byte it is what it was.
            if mounted.status.success() {
                run(Command::new(env!("CARGO_BIN_EXE_butterfs")).arg("umount").arg(mnt)).ok();
            }
            mounted
        });
        half_way += usize::from(alone.stderr.contains("half of it is old"));
    }
    assert!(half_way >= scaled(4), "only {half_way} were cut half-way");
    butterfs(&["device", "resync"], &images[0]).ok();
}

/// What a mount of ours shows that writes nothing; `None` for what cannot be read.
fn files_of(images: &[PathBuf], mnt: &Path) -> BTreeMap<PathBuf, Option<u64>> {
    let _ours = Ours::new(images, mnt, "ro,degraded");
    let (mut files, mut open) = (BTreeMap::new(), vec![mnt.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("is read").flatten() {
            let (path, kind) = (entry.path(), entry.file_type().expect("it has one"));
            if kind.is_file() {
                files.insert(path.clone(), hash_file(&path).ok());
            } else if kind.is_dir() {
                open.push(path);
            }
        }
    }
    files
}

/// Does something while the other images are elsewhere.
fn only<R>(images: &[PathBuf], left: &[usize], work: impl FnOnce() -> R) -> R {
    let away: Vec<&PathBuf> =
        images.iter().enumerate().filter(|(n, _)| !left.contains(n)).map(|(_, path)| path).collect();
    let elsewhere = |path: &Path| {
        let directory = path.with_file_name("elsewhere");
        std::fs::create_dir_all(&directory).expect("mkdir");
        directory.join(path.file_name().expect("a name"))
    };
    away.iter().for_each(|path| std::fs::rename(path, elsewhere(path)).expect("is renamed"));
    let result = work();
    away.iter().for_each(|path| std::fs::rename(elsewhere(path), path).expect("is renamed"));
    result
}

/// Superblocks do not tell of the last commit that it has.
#[test]
fn raid1_that_missed_many_commits() {
    after_the_kernel("resync-many", &["-d", "raid1", "-m", "raid1"], 12, by_command);
}

/// The kernel wrote each half without the other, one of them so often that its superblock does not remember the commits
/// of the other: that is seen by the tree blocks, and neither is changed.
#[test]
fn halves_that_no_superblock_remembers_are_refused() {
    let Some(work) = setup("resync-apart") else { return };
    let mnt = work.dir("mnt");
    let images = devices::mkfs(work.path(), &[400 * MIB, 400 * MIB], &["-d", "raid1", "-m", "raid1"]);
    let files = |text: &str| {
        (0..300).for_each(|n| std::fs::write(mnt.join(format!("sub/file{n}")), format!("{text} {n}")).expect("write"));
        run(Command::new("sync").arg("-f").arg(&mnt)).ok();
    };
    let kernel = KernelMount::new(&images, &mnt, "noatime");
    run(Command::new("btrfs").args(["subvolume", "create"]).arg(mnt.join("sub"))).ok();
    files("both");
    drop(kernel);
    for (half, text, more) in [(1, "second", 1), (0, "first", 12)] {
        let _kernel = KernelMount::new(&images[half..=half], &mnt, "noatime,degraded");
        files(text);
        commits(&mnt, more);
    }
    let hashes = || images.iter().map(|image| hash_file(image).expect("read")).collect::<Vec<_>>();
    let before = hashes();
    let refused = butterfs(&["device", "resync"], &images[0]);
    assert!(!refused.status.success() && refused.stderr.contains("written apart"), "{refused}");
    let mut mount = Command::new(env!("CARGO_BIN_EXE_butterfs"));
    let refused = run(mount.arg("mount").args(&images).arg(&mnt));
    assert!(!refused.status.success() && refused.stderr.contains("written apart"), "{refused}");
    assert!(hashes() == before, "one of them was written");
}

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
    devices::assert_clean(images);
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

/// We have a filesystem grow out of seeds, on a mount or on an image; gives all, the new one first.
fn sprouted_by_us(work: &WorkDir, mnt: &Path, seeds: &[PathBuf], name: &str, how: On) -> Vec<PathBuf> {
    let grown = work.file(name);
    create_sparse(&grown, SIZE);
    let before: Vec<_> = seeds.iter().map(|seed| oracle::file_hash(seed)).collect();
    let mut add = Command::new(BUTTERFS);
    add.args(["device", "add"]);
    match how {
        On::Image => {
            for seed in &seeds[1..] {
                add.arg("--device").arg(seed);
            }
            // Without another device they are looked for beside the image, where earlier sprouts are.
            if seeds.len() == 1 {
                add.arg("--device").arg(&seeds[0]);
            }
            run(add.arg(&grown).arg(&seeds[0])).ok();
        }
        On::Mount => {
            let ours = Ours::new(seeds, mnt, "noatime");
            assert!(std::fs::write(mnt.join("file"), b"").is_err(), "a seed is for reading");
            let held = std::fs::File::open(mnt.join("of the seed")).expect("open");
            run(add.arg(&grown).arg(mnt)).ok();
            run(Command::new("mount").args(["-o", "remount,rw"]).arg(mnt)).ok();
            std::fs::write(mnt.join("written after the device came"), name).expect("write");
            assert!(held.metadata().expect("stat").is_dir());
            drop((held, ours));
        }
    }
    let after: Vec<_> = seeds.iter().map(|seed| oracle::file_hash(seed)).collect();
    assert_eq!(after, before, "a seed was written");
    let images = [vec![grown], seeds.to_vec()].concat();
    devices::assert_clean(&images);
    images
}

#[derive(Clone, Copy)]
enum On {
    Image,
    Mount,
}

#[test]
fn we_have_several_grow_from_one_seed() {
    let Some(work) = setup("seed-ours") else { return };
    let mnt = work.dir("mnt");
    let seed = seed(&work, &mnt);
    let seeds = std::slice::from_ref(&seed);
    let first = sprouted_by_us(&work, &mnt, seeds, "first", On::Mount);
    let second = sprouted_by_us(&work, &mnt, seeds, "second", On::Image);
    let of_first = written(&first, &mnt, "first");
    written(&second, &mnt, "second");
    seen_by_the_kernel(&first, &mnt, &of_first);
    // The kernel writes, too, and takes the seed out.
    let kernel = KernelMount::new(&first, &mnt, "noatime");
    populated(&mnt, "of the kernel", 9);
    run(Command::new("btrfs").args(["device", "remove", "1"]).arg(&mnt)).ok();
    let expected = Tree::content_of(&mnt);
    drop(kernel);
    seen_by_the_kernel(&first[..1], &mnt, &expected);
}

/// A chain that is ours alone, and the seeds removed from its end, one by one.
#[test]
fn we_have_a_chain_of_seeds_and_remove_them() {
    let Some(work) = setup("seed-ours-chain") else { return };
    let mnt = work.dir("mnt");
    let seed = seed(&work, &mnt);
    let first = sprouted_by_us(&work, &mnt, &[seed], "first", On::Image);
    written(&first, &mnt, "first");
    becomes_seed(&first);
    let second = sprouted_by_us(&work, &mnt, &first, "second", On::Mount);
    let expected = written(&second, &mnt, "second");
    for (devid, left) in [("1", 3), ("2", 2)] {
        let ours = Ours::new(&second[..left], &mnt, "noatime");
        run(Command::new(BUTTERFS).args(["device", "remove", devid]).arg(&mnt)).ok();
        drop(ours);
    }
    seen_by_the_kernel(&second[..1], &mnt, &expected);
}

/// What has grown is shown with its seed's device, as by btrfs-progs: on the kernel's mount, on ours, and without one.
#[test]
fn a_sprout_is_shown_with_its_seed() {
    let Some(work) = setup("seed-show") else { return };
    let mnt = work.dir("mnt");
    let seeds = [seed(&work, &mnt)];
    let grown = sprouted(&work, &mnt, &seeds, "grown");
    let loops: Vec<_> = grown.iter().map(|image| devices::Loop::over(image)).collect();
    let paths: Vec<PathBuf> = loops.iter().map(|one| one.path().to_path_buf()).collect();
    let show = |what: &Path| run(Command::new(BUTTERFS).args(["filesystem", "show"]).arg(what)).ok().stdout;
    let stock = |what: &Path| run(Command::new("btrfs").args(["filesystem", "show"]).arg(what)).ok().stdout;
    let both = |shown: &str| {
        assert!(shown.contains("Total devices 2 ") && !shown.contains("missing"), "{shown}");
        assert!(paths.iter().all(|path| shown.contains(&path.display().to_string())), "{shown}");
    };
    let unmounted = [&paths[0], &paths[1]].map(|path| show(path));
    both(&unmounted[0]);
    assert!(unmounted[1].contains("Total devices 1 ") && unmounted[1] != unmounted[0], "the seed: {}", unmounted[1]);
    let options = format!("noatime,device={}", paths[1].display());
    run(Command::new("mount").args(["-o", &options]).args([&paths[0], &mnt])).ok();
    assert_eq!(show(&mnt), stock(&mnt), "on the kernel's mount");
    run(Command::new("umount").arg(&mnt)).ok();
    let ours = Ours::new(&paths, &mnt, "noatime");
    both(&show(&mnt));
    assert_eq!(show(&paths[0]), show(&mnt));
    let usage = run(Command::new(BUTTERFS).args(["device", "usage"]).arg(&mnt)).ok().stdout;
    assert!(!usage.contains(&paths[1].display().to_string()), "the seed gets nothing: {usage}");
    drop(ours);
    drop(loops);
    // Images that lie side by side.
    let shown = show(&grown[0]);
    assert!(shown.contains("Total devices 2 ") && shown.contains(&seeds[0].display().to_string()), "{shown}");
}

#[track_caller]
fn refuses(command: &mut Command) -> String {
    let finished = run(command);
    assert!(!finished.status.success(), "{finished}");
    finished.stderr
}

/// Seeds with two devices and mirrors; and what is refused.
#[test]
fn a_seed_of_two_devices_and_what_is_refused() {
    let Some(work) = setup("seed-ours-two") else { return };
    let mnt = work.dir("mnt");
    let images = devices::mkfs(work.path(), &[SIZE, SIZE], &["-d", "raid1", "-m", "raid1"]);
    let kernel = KernelMount::new(&images, &mnt, "noatime");
    populated(&mnt, "of the seed", 5);
    drop(kernel);
    let tiny = work.file("tiny");
    create_sparse(&tiny, 4 * MIB);
    // No seed yet: what is mounted for reading gets no device, and the device stays as it is.
    let other = work.file("other");
    create_sparse(&other, SIZE);
    let ours = Ours::new(&images, &mnt, "ro");
    let refused = refuses(Command::new(BUTTERFS).args(["device", "add"]).arg(&other).arg(&mnt));
    assert!(refused.contains("read-only"), "{refused}");
    drop(ours);
    becomes_seed(&images);
    let hashes = || images.iter().map(|image| oracle::file_hash(image)).collect::<Vec<_>>();
    let before = hashes();
    let ours = Ours::new(&images, &mnt, "noatime");
    refuses(Command::new(BUTTERFS).args(["device", "add"]).arg(&tiny).arg(&mnt));
    refuses(Command::new(BUTTERFS).args(["mount", "-o", "remount,rw"]).arg(&mnt));
    drop(ours);
    assert_eq!(hashes(), before);
    let grown = sprouted_by_us(&work, &mnt, &images, "grown", On::Mount);
    let expected = written(&grown, &mnt, "grown");
    // The seed's mirror makes up for the loss of one of its devices.
    let ours = Ours::new(&[grown[0].clone(), grown[2].clone()], &mnt, "noatime,degraded");
    Tree::content_of(&mnt).assert_same(&expected, Times::Exact, "without a device of the seed | before");
    drop(ours);
}

//! Devices replaced by our command on images and on mounts, by the kernel's over our mount, and killed half-way: `btrfs check`
//! and the kernel's mount judge.

mod common;

use butterfs_testkit::command::{Finished, run};
use butterfs_testkit::daemon;
use butterfs_testkit::devices::{self, KernelMount, Loop};
use butterfs_testkit::mounter::{create_sparse, wait_until};
use butterfs_testkit::populate::{self, Plan};
use butterfs_testkit::random::Random;
use butterfs_testkit::report::scaled;
use butterfs_testkit::tree_compare::{Times, Tree};
use common::ours::Ours;
use common::{MIB, compat_library, setup};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

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

/// Data on RAID5 is judged by the kernel's scrub: `btrfs check --check-data-csum` of btrfs-progs 6.14 reads the second copy wrong
/// where an item of checksums goes over the end of a stripe.
#[track_caller]
fn parity_has(images: &[PathBuf], mnt: &Path, tree: &Tree) {
    let loops: Vec<_> = images.iter().map(|image| Loop::over(image)).collect();
    run(Command::new("btrfs").arg("check").arg(loops[0].path())).ok();
    drop(loops);
    let kernel = KernelMount::new(images, mnt, "noatime");
    Tree::content_of(mnt).assert_same(tree, Times::Exact, "the kernel's mount | before");
    for device in kernel.loops() {
        let scrubbed = run(Command::new("btrfs").args(["scrub", "start", "-B"]).arg(device.path()));
        assert!(scrubbed.stdout.contains("no errors found"), "{scrubbed}");
    }
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
    parity_has(&images, &mnt, &tree);
    // The old one is free, and holds nothing; it takes the place of one that is missing.
    std::fs::remove_file(&images[2]).expect("is removed");
    replace(&["-K"], Path::new("3"), &old, &images[0]).ok();
    images[2] = old;
    parity_has(&images, &mnt, &tree);
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
    let told = status(&["status", "-1"]).ok().stdout;
    assert!(told.contains(", finished on ") && told.ends_with(", 0 write errs, 0 uncorr. read errs\n"), "{told}");
    Tree::content_of(&mnt).assert_same(&tree, Times::Exact, "our mount | before");
    drop(ours);
    images[1] = target;
    kernel_has(&images, &mnt, &tree);
}

/// The device that took the place of the only one is named, by ours and by the stock tool, not the one that was mounted; so is the
/// one that is left when others are removed.
#[test]
fn the_device_that_is_left_is_named() {
    let Some(work) = setup("replace-names") else { return };
    compat_library();
    let mnt = work.dir("mnt");
    let images: Vec<_> = ["first", "second", "third"].map(|name| work.file(name)).into();
    images.iter().for_each(|image| create_sparse(image, 400 * MIB));
    let loops: Vec<_> = images.iter().map(|image| Loop::over(image)).collect();
    run(Command::new("mkfs.btrfs").arg("-q").arg(loops[0].path())).ok();
    let mounted = Ours::new(&[loops[0].path().to_path_buf()], &mnt, "noatime");
    let named = |expected: &Path| {
        let ours = run(Command::new(BUTTERFS).args(["filesystem", "show"]).arg(&mnt)).ok().stdout;
        let stock = ["compat", "--", "btrfs", "device", "usage"];
        let stock = run(Command::new(BUTTERFS).args(stock).arg(&mnt)).ok().stdout;
        let expected = expected.to_str().expect("a plain path");
        assert!(ours.contains(&format!(" path {expected}\n")), "{expected}: {ours}");
        assert!(stock.starts_with(&format!("{expected}, ID: ")), "{expected}: {stock}");
    };
    named(loops[0].path());
    replace(&["-B"], Path::new("1"), loops[1].path(), &mnt).ok();
    named(loops[1].path());
    run(Command::new(BUTTERFS).args(["device", "add"]).arg(loops[2].path()).arg(&mnt)).ok();
    run(Command::new(BUTTERFS).args(["device", "remove"]).arg(loops[1].path()).arg(&mnt)).ok();
    named(loops[2].path());
    drop(mounted);
    drop(loops);
    devices::assert_clean(&images[2..]);
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
    let stock = btrfs(&["status", "-1"]).ok();
    assert!(stock.stdout.contains("finished"), "{stock}");
    let own = run(Command::new(BUTTERFS).args(["device", "replace", "status", "-1"]).arg(&mnt)).ok();
    assert_eq!(own.stdout, stock.stdout);
    drop(ours);
    drop(device);
    images[1] = target;
    kernel_has(&images, &mnt, &tree);
}

/// Who goes on with what was cut, or ends it.
#[derive(Clone, Copy, Debug)]
enum Heir {
    Command,
    Mount,
    Kernel,
    Cancel,
    KernelCancels,
}

const HEIRS: [Heir; 5] = [Heir::Mount, Heir::Kernel, Heir::Cancel, Heir::Command, Heir::KernelCancels];

struct Rig {
    mnt: PathBuf,
    images: Vec<PathBuf>,
    target: PathBuf,
}

impl Rig {
    /// With the target, as long as it is one.
    fn devices(&self) -> Vec<PathBuf> {
        let is_target = devid_of(&self.target) == Some(0);
        self.images.iter().chain(is_target.then_some(&self.target)).cloned().collect()
    }

    fn start(&self) -> Command {
        let mut command = Command::new(BUTTERFS);
        command.args(["device", "replace", "start", "-f"]).args([Path::new("2"), &self.target]);
        command
    }

    /// The target is the device once it has its number.
    fn name_them(&mut self) {
        if devid_of(&self.target) == Some(2) && generation_of(&self.target) > generation_of(&self.images[1]) {
            std::mem::swap(&mut self.images[1], &mut self.target);
        }
    }

    /// What was replaced may have its superblock still: a mount that is shown it ends that.
    fn end_of_the_source(&self) {
        if devid_of(&self.target) == Some(2) {
            let all = self.images.iter().chain([&self.target]).cloned().collect::<Vec<_>>();
            drop(Ours::new(&all, &self.mnt, "noatime"));
        }
    }

    /// It is clean as it is; then somebody goes on with it or cancels it. Says whether there was something to do.
    fn inherited(&mut self, heir: Heir, what: &str, compare: impl Fn(&Path, &str)) -> bool {
        self.name_them();
        self.end_of_the_source();
        let devices = self.devices();
        // (With the target `btrfs check` counts it among the devices, of the kernel's replacements too.)
        devices::assert_clean(&self.images);
        let cut = devices.len() > self.images.len();
        match heir {
            Heir::Command if cut => {
                let told = run(self.start().arg(&self.images[0])).ok();
                assert!(told.stdout.contains("Going on at"), "{told}");
            }
            Heir::Cancel if cut => {
                let path = &self.images[0];
                run(Command::new(BUTTERFS).args(["device", "replace", "cancel"]).arg(path)).ok();
                assert_eq!(devid_of(&self.target), None, "{what}");
            }
            Heir::Kernel | Heir::KernelCancels => {
                let kernel = KernelMount::new(&devices, &self.mnt, "noatime");
                let cancels = matches!(heir, Heir::KernelCancels);
                if cancels {
                    run(Command::new("btrfs").args(["replace", "cancel"]).arg(&self.mnt));
                }
                wait_for_end(&|| kernel.btrfs(&["replace", "status", "-1"]).stdout);
                if cancels {
                    // The kernel erases the target, and writes that it was cancelled with its next commit only. That has to come
                    // after the end, which `cancel` does not wait for: else a target is missing afterwards.
                    run(Command::new("btrfs").args(["filesystem", "label"]).arg(&self.mnt).arg(what)).ok();
                }
                compare(&self.mnt, what);
            }
            _ => {
                let ours = Ours::new(&devices, &self.mnt, "noatime");
                let status = || run(Command::new(BUTTERFS).args(["device", "replace", "status", "-1"]).arg(&self.mnt));
                wait_for_end(&|| status().ok().stdout);
                compare(&self.mnt, what);
                drop(ours);
            }
        }
        self.name_them();
        assert_eq!(devid_of(&self.target), None, "{what}");
        devices::assert_clean(&self.images);
        let ours = Ours::new(&self.images, &self.mnt, "noatime");
        compare(&self.mnt, what);
        drop(ours);
        cut
    }
}

fn wait_for_end(status: &dyn Fn() -> String) {
    let end = Instant::now() + Duration::from_secs(60);
    while status().contains("% done") {
        assert!(Instant::now() < end, "it does not end: {}", status());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!status().contains("suspended"), "{}", status());
}

/// The first mebibyte.
fn front_of(image: &Path) -> Vec<u8> {
    let mut bytes = vec![0; MIB as usize];
    std::fs::File::open(image).and_then(|mut file| file.read_exact(&mut bytes)).expect("it reads");
    bytes
}

/// What a superblock says the device is; `None` without one.
fn devid_of(image: &Path) -> Option<u64> {
    number_in_superblock(image, 201)
}

/// Zero without a superblock.
fn generation_of(image: &Path) -> u64 {
    number_in_superblock(image, 72).unwrap_or(0)
}

fn number_in_superblock(image: &Path, at: usize) -> Option<u64> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(image).expect("it is there");
    let mut bytes = [0; 4096];
    file.read_exact_at(&mut bytes, 65536).expect("it reads");
    (bytes[64..72] == *b"_BHRfS_M").then(|| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes")))
}

/// How many replacements were cut while they were under way: rounds go on until there are enough. How long one takes is the
/// machine's; the tests come nearer with every round.
struct Cuts {
    wanted: usize,
    rounds: usize,
    cut: usize,
}

impl Cuts {
    fn new(wanted: usize) -> Self {
        Self { wanted, rounds: 0, cut: 0 }
    }

    /// The number of the next round, while there are more to come.
    #[track_caller]
    fn next_round(&mut self) -> Option<usize> {
        let Self { wanted, rounds, cut } = *self;
        if cut >= wanted {
            return None;
        }
        assert!(rounds < 8 * wanted + 8, "only {cut} of {rounds} were cut while they were under way");
        self.rounds += 1;
        Some(rounds)
    }

    fn note(&mut self, cut: bool) {
        self.cut += usize::from(cut);
    }
}

/// Killed at random moments, with images: whoever comes next goes on with it, or cancels it; nothing is lost.
/// `BUTTERFS_TEST_SCALE` makes it more often.
#[test]
fn killed_at_any_moment() {
    let Some(work) = setup("replace-kill") else { return };
    let (images, target, tree) = made(work.path(), &["-d", "raid1", "-m", "raid1"]);
    let mut rig = Rig { mnt: work.dir("mnt"), images, target };
    let (mut random, mut limit, mut cuts) = (Random::new(12), 1000, Cuts::new(scaled(5)));
    while let Some(round) = cuts.next_round() {
        let (log, begun) = (work.file("log"), Instant::now());
        let mut process = daemon::Foreground::start(rig.start().arg(&rig.images[0]), &log);
        if process.wait(Duration::from_millis(random.between(limit / 8, limit))) {
            limit = (begun.elapsed().as_millis() as u64).max(40);
        }
        daemon::kill(process.pid());
        drop(process);
        let printed = std::fs::read_to_string(&log).expect("a log");
        assert!(!printed.contains("panicked"), "{printed}");
        let heir = HEIRS[cuts.cut % HEIRS.len()];
        cuts.note(rig.inherited(heir, &format!("round {round}, {heir:?}"), |mnt, what| {
            Tree::content_of(mnt).assert_same(&tree, Times::Exact, what);
        }));
    }
    kernel_has(&rig.images, &rig.mnt, &tree);
}

/// The same on a mount that is written meanwhile: what was made durable is there.
#[test]
fn killed_on_a_mount_with_writers() {
    let Some(work) = setup("replace-kill-mount") else { return };
    let (images, target, _) = made(work.path(), &["-d", "raid1", "-m", "raid1"]);
    let mut rig = Rig { mnt: work.dir("mnt"), images, target };
    let (mut random, mut limit, mut cuts) = (Random::new(13), 1200, Cuts::new(scaled(5)));
    let mut durable: BTreeMap<String, u64> = BTreeMap::new();
    while let Some(round) = cuts.next_round() {
        let ours = Ours::new(&rig.images, &rig.mnt, "noatime,nodatacow");
        run(rig.start().arg(&rig.mnt)).ok();
        let (begun, length) = (Instant::now(), Duration::from_millis(random.between(limit / 8, limit)));
        let mut seed = round as u64 * 1000;
        while begun.elapsed() < length {
            let name = format!("w{}", random.below(8));
            let path = rig.mnt.join(&name);
            // In place, where it is there.
            let mut file =
                std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path).expect("opens");
            file.write_all(&Random::new(seed).bytes(300_000)).expect("writes");
            durable.remove(&name);
            file.sync_all().expect("is durable");
            durable.insert(name, seed);
            seed += 1;
        }
        let status = run(Command::new(BUTTERFS).args(["device", "replace", "status", "-1"]).arg(&rig.mnt)).ok();
        if status.stdout.contains("finished") {
            limit = (limit / 2).max(60);
        }
        daemon::find_below(&rig.images[0]).into_iter().for_each(daemon::kill);
        run(Command::new("umount").arg("-l").arg(&rig.mnt));
        std::mem::forget(ours);
        let heir = HEIRS[cuts.cut % HEIRS.len()];
        cuts.note(rig.inherited(heir, &format!("round {round}, {heir:?}"), |mnt, what| {
            for (name, seed) in &durable {
                let found = std::fs::read(mnt.join(name)).expect("it is there");
                assert!(found == Random::new(*seed).bytes(300_000), "{what}: {name} has other bytes");
            }
        }));
    }
}

/// A mount that ends suspends it; the kernel goes on, and the other way round.
#[test]
fn suspended_here_and_there() {
    let Some(work) = setup("replace-suspend") else { return };
    let (images, target, tree) = made(work.path(), &["-d", "raid1", "-m", "raid1"]);
    let mut rig = Rig { mnt: work.dir("mnt"), images, target };
    let compare = |mnt: &Path, what: &str| Tree::content_of(mnt).assert_same(&tree, Times::Exact, what);
    for heir in [Heir::Kernel, Heir::Mount, Heir::KernelCancels] {
        let ours = Ours::new(&rig.images, &rig.mnt, "noatime");
        run(rig.start().arg(&rig.mnt)).ok();
        drop(ours);
        let told = run(Command::new(BUTTERFS).args(["device", "replace", "status"]).arg(&rig.images[0])).ok().stdout;
        assert!(told.contains("suspended on") || told.contains("finished on"), "{told}");
        rig.inherited(heir, &format!("suspended by us, {heir:?}"), compare);
    }
    for heir in [Heir::Mount, Heir::Cancel, Heir::Command] {
        suspended_by_the_kernel(&rig);
        assert!(rig.inherited(heir, &format!("suspended by the kernel, {heir:?}"), compare), "it was not suspended");
    }
}

/// The kernel begins it slowly, and suspends it when it is mounted read-only.
fn suspended_by_the_kernel(rig: &Rig) {
    let target = Loop::over(&rig.target);
    let kernel = KernelMount::new(&rig.images, &rig.mnt, "noatime");
    let fsid = run(Command::new("findmnt").args(["-n", "-o", "UUID"]).arg(&rig.mnt)).ok();
    let limit = format!("/sys/fs/btrfs/{}/devinfo/2/scrub_speed_max", fsid.stdout.trim());
    std::fs::write(limit, "4m").expect("a limit");
    let device = target.path().to_str().expect("text");
    run(Command::new("btrfs").args(["replace", "start", "-f", "2", device]).arg(&rig.mnt)).ok();
    wait_until("the replacement begins", || kernel.btrfs(&["replace", "status", "-1"]).stdout.contains("% done"));
    run(Command::new("mount").args(["-o", "remount,ro"]).arg(&rig.mnt)).ok();
    drop(kernel);
}

/// A target that is full of one byte, which it keeps.
struct Full(PathBuf);

impl Full {
    const BLOCK: [u8; MIB as usize] = [b'Z'; MIB as usize];

    fn new(path: PathBuf) -> Self {
        let mut file = std::fs::File::create(&path).expect("is made");
        (0..400).for_each(|_| file.write_all(&Self::BLOCK).expect("is written"));
        Self(path)
    }

    /// Refused with this text, with nothing written.
    #[track_caller]
    fn is_refused(&self, command: &mut Command, text: &str) {
        let refused = run(command);
        assert!(!refused.status.success() && refused.stderr.contains(text), "{refused}");
        let mut file = std::fs::File::open(&self.0).expect("is there");
        let mut block = vec![0; MIB as usize];
        for at in 0..400 {
            file.read_exact(&mut block).expect("reads");
            assert!(block == Self::BLOCK, "the target was written in MiB {at}: {refused}");
        }
    }

    #[track_caller]
    fn is_no_target(&self, source: &str, path: &Path, text: &str) {
        let mut command = Command::new(BUTTERFS);
        self.is_refused(command.args(["device", "replace", "start", "-B", source]).args([&self.0, path]), text);
    }
}

/// What a target holds stays until nothing can be refused any more; nor is anything added to what rests.
#[test]
fn refused_before_the_target_is_cleared() {
    let Some(work) = setup("replace-kept") else { return };
    let mnt = work.dir("mnt");
    let (images, target, _) = made(work.path(), &["-d", "raid1", "-m", "raid1"]);
    let full = Full::new(work.file("full"));
    let ours = Ours::new(&images, &mnt, "ro");
    full.is_no_target("2", &mnt, "read-only");
    drop(ours);
    full.is_no_target("9", &images[0], "9");
    let ours = Ours::new(&images, &mnt, "noatime");
    full.is_no_target("9", &mnt, "9");
    full.is_no_target("/nowhere", &mnt, "/nowhere");
    run(Command::new(BUTTERFS).args(["device", "replace", "start", "2"]).args([&target, &mnt])).ok();
    drop(ours);
    std::fs::rename(&target, work.dir("elsewhere").join("target")).expect("is renamed");
    let told = run(Command::new(BUTTERFS).args(["device", "replace", "status"]).arg(&images[0])).ok().stdout;
    if told.contains("finished") {
        return;
    }
    let add = |path: &Path| {
        let mut command = Command::new(BUTTERFS);
        command.args(["device", "add", "-f"]).args([&full.0, path]);
        command
    };
    full.is_refused(&mut add(&images[0]), "device replace");
    let ours = Ours::new(&images, &mnt, "noatime,degraded");
    full.is_refused(&mut add(&mnt), "device replace");
    // There is no end to wait for.
    full.is_refused(add(&mnt).arg("--enqueue"), "device replace");
    full.is_no_target("2", &mnt, "device replace");
    drop(ours);
}

/// What cannot be is refused, and nothing is written.
#[test]
fn refused() {
    let Some(work) = setup("replace-refused") else { return };
    let mnt = work.dir("mnt");
    let (images, target, _) = made(work.path(), &["-d", "raid1", "-m", "raid1"]);
    let (odd, small) = (work.file("odd"), work.file("small"));
    create_sparse(&small, 400 * MIB - 4096);
    create_sparse(&odd, 400 * MIB + 1234);
    let taken = devices::mkfs(&work.dir("other"), &[400 * MIB], &[]).remove(0);
    let ours = Ours::new(&images, &mnt, "noatime");
    for (target, source, text) in [
        (&small, "2", format!("at least {} are needed", 400 * MIB)),
        (&taken, "2", "-f".into()),
        (&images[1], "2", String::new()),
        (&target, "9", "9".into()),
    ] {
        let before = front_of(target);
        let refused = replace(&["-B"], Path::new(source), target, &mnt);
        assert!(!refused.status.success() && refused.stderr.contains(&text), "{refused}");
        if target != &images[1] {
            assert!(front_of(target) == before, "it was written: {refused}");
        }
    }
    replace(&["-B", "-r", "-K", "--enqueue"], Path::new("2"), &odd, &mnt).ok();
    drop(ours);
    let images = [images[0].clone(), odd, images[2].clone()];
    devices::assert_clean(&images);
}

//! Balance, removal and resize killed at random points, on images and on mounts: the filesystem is whole, the next mount
//! goes on or the operation is cancelled, and nothing is lost. `BUTTERFS_TEST_SCALE=5000` makes it a hundred kills of each.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use butterfs_testkit::command::{Finished, run};
use butterfs_testkit::daemon::{self, Foreground};
use butterfs_testkit::devices::{self, KernelMount};
use butterfs_testkit::populate::{self, Plan};
use butterfs_testkit::random::Random;
use butterfs_testkit::report::scaled;
use butterfs_testkit::tree_compare::{Times, Tree};
use butterfs_testkit::workdir::WorkDir;
use common::ours::Ours;
use common::{MIB, setup};

const BUTTERFS: &str = env!("CARGO_BIN_EXE_butterfs");
const SIZE: u64 = 700 * MIB;
/// Kills of a short run.
const KILLS: usize = 2;

/// Where it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    Image,
    Mount,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Balance,
    Remove,
    Resize,
}

impl Operation {
    fn words(self, round: usize) -> &'static [&'static str] {
        match (self, round % 2) {
            (Self::Balance, 0) => &["balance", "start", "-dconvert=raid1", "-mconvert=raid1c3", "-f"],
            (Self::Balance, _) => &["balance", "start", "-dconvert=raid0", "-mconvert=raid1", "-f"],
            (Self::Remove, _) => &["device", "remove", "3"],
            (Self::Resize, _) => &["filesystem", "resize", "1:400M"],
        }
    }
}

struct Rig {
    work: WorkDir,
    mnt: PathBuf,
    images: Vec<PathBuf>,
    tree: Tree,
    on: On,
}

impl Rig {
    fn new(operation: Operation, on: On) -> Option<Self> {
        let work = setup(&format!("kill-{operation:?}-{on:?}"))?;
        let mnt = work.dir("mnt");
        let images = devices::mkfs(&work.dir("disks"), &[SIZE; 3], &["-d", "single", "-m", "raid1"]);
        let mounted = KernelMount::new(&images, &mnt, "noatime");
        populate::tree(&mnt, Plan { seed: 3, files: 150, huge: 0, devices: true });
        for number in 0..24 {
            let noise = Random::new(number).bytes(8 << 20);
            std::fs::write(mnt.join(format!("noise{number}")), noise).expect("write");
        }
        let tree = Tree::content_of(&mnt);
        drop(mounted);
        Some(Self { work, mnt, images, tree, on })
    }

    fn butterfs(&self, words: &[&str], path: &Path) -> Finished {
        run(Command::new(BUTTERFS).args(words).arg(path))
    }

    /// Begins it, and kills what does it after `delay`; says how long it took if it ended before.
    fn killed(&self, words: &[&str], delay: Duration) -> Option<Duration> {
        let mounted = (self.on == On::Mount).then(|| Ours::new(&self.images, &self.mnt, "noatime,skip_balance"));
        let path = if mounted.is_some() { &self.mnt } else { &self.images[0] };
        let (log, begun) = (self.work.file("log"), Instant::now());
        let mut process = Foreground::start(Command::new(BUTTERFS).args(words).arg(path), &log);
        let took = process.wait(delay).then(|| begun.elapsed());
        if mounted.is_some() {
            for pid in daemon::find_below(&self.images[0]) {
                daemon::kill(pid);
            }
            run(Command::new("umount").arg("-l").arg(&self.mnt));
            std::mem::forget(mounted);
        } else {
            daemon::kill(process.pid());
        }
        drop(process);
        let printed = std::fs::read_to_string(&log).expect("a log");
        assert!(!printed.contains("panicked"), "{printed}");
        took
    }

    /// The devices that the filesystem has; one whose removal is committed may still look like a part of it.
    fn present(&self) -> Vec<PathBuf> {
        let shown = run(Command::new("btrfs").args(["inspect-internal", "dump-super"]).arg(&self.images[0])).ok();
        let count = shown.stdout.lines().find_map(|line| line.strip_prefix("num_devices")?.trim().parse().ok());
        self.images[..count.expect("a number of devices")].to_vec()
    }

    /// It goes on with the next mount, or is cancelled; nothing is lost either way.
    fn recovers(&self, round: usize, what: &str) {
        let present = self.present();
        devices::assert_clean(&present);
        let options = if round.is_multiple_of(3) { "noatime" } else { "noatime,skip_balance" };
        let ours = Ours::new(&present, &self.mnt, options);
        Tree::content_of(&self.mnt).assert_same(&self.tree, Times::Exact, &format!("{what} | before"));
        if round.is_multiple_of(3) {
            while self.butterfs(&["balance", "status"], &self.mnt).stdout.contains("is running") {
                std::thread::sleep(Duration::from_millis(20));
            }
        } else {
            self.butterfs(&["balance", "cancel"], &self.mnt);
        }
        let status = self.butterfs(&["balance", "status"], &self.mnt);
        assert!(status.stdout.contains("No balance found"), "{what}: {status}");
        drop(ours);
        if present.len() < self.images.len() {
            let gone = self.images[2].to_str().expect("text");
            self.butterfs(&["device", "add", "-f", gone], &self.images[0]).ok();
        }
        self.butterfs(&["filesystem", "resize", "1:700M"], &self.images[0]).ok();
        devices::assert_clean(&self.images);
    }

    /// What was moved together is spread again, so that there is something to move the next time.
    fn spread(&self, operation: Operation) {
        if operation == Operation::Balance {
            return;
        }
        let ours = Ours::new(&self.images, &self.mnt, "noatime");
        self.butterfs(&["balance", "start", "-dconvert=raid0", "-mconvert=raid1", "-f"], &self.mnt).ok();
        drop(ours);
    }
}

fn kills(operation: Operation, on: On) {
    let Some(rig) = Rig::new(operation, on) else { return };
    rig.spread(operation);
    // How long it takes when nobody kills it tells when to.
    let long = rig.killed(operation.words(1), Duration::from_secs(60)).expect("it ends by itself");
    rig.recovers(1, "the whole operation");
    let (mut random, mut ended) = (Random::new(11), 0);
    for round in 0..scaled(KILLS) {
        rig.spread(operation);
        let delay = Duration::from_millis(random.between(1, long.as_millis() as u64 + 20));
        ended += usize::from(rig.killed(operation.words(round), delay).is_some());
        rig.recovers(round, &format!("{operation:?} on an {on:?}, killed after {delay:?}, round {round}"));
    }
    println!("{operation:?}, {on:?}: {} kills within {long:?}, {ended} after its end", scaled(KILLS));
    let _kernel = KernelMount::new(&rig.images, &rig.mnt, "noatime");
    Tree::content_of(&rig.mnt).assert_same(&rig.tree, Times::Exact, "the kernel's mount | before");
}

#[test]
fn balance_of_an_image() {
    kills(Operation::Balance, On::Image);
}

#[test]
fn balance_of_a_mount() {
    kills(Operation::Balance, On::Mount);
}

#[test]
fn removal_from_an_image() {
    kills(Operation::Remove, On::Image);
}

#[test]
fn removal_from_a_mount() {
    kills(Operation::Remove, On::Mount);
}

#[test]
fn resize_of_an_image() {
    kills(Operation::Resize, On::Image);
}

#[test]
fn resize_of_a_mount() {
    kills(Operation::Resize, On::Mount);
}

//! Every profile in long use: mixed operations beside a reference, then random devices that the profile survives the loss
//! of are lost or damaged, the filesystem is used and repaired, and all that was written is there at every point; by
//! turns we write and the kernel does. `BUTTERFS_TEST_SCALE=2500` makes it 50,000 operations for each profile.
//!
//! The kernel and `btrfs check` judge what is whole or lacks a device; what is damaged they see after the repair only.

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use butterfs_format::items::STRIPE_LEN;
use butterfs_testkit::command::{Finished, run};
use butterfs_testkit::devices::{self, KernelMount};
use butterfs_testkit::mounter::{Mounted, create_sparse};
use butterfs_testkit::operations::{Features, Generator, Worker, run_together};
use butterfs_testkit::oracle;
use butterfs_testkit::random::Random;
use butterfs_testkit::report::scaled;
use butterfs_testkit::tree_compare::{Times, Tree};
use butterfs_testkit::workdir::WorkDir;
use common::ours::Ours;
use common::{GIB, kernel, setup};
use rustix::fs::SeekFrom;

const BUTTERFS: &str = env!("CARGO_BIN_EXE_butterfs");
/// Large, as chunks are a tenth of all devices, and chunks that lack a device are not filled up.
const SIZE: u64 = 6 * GIB;
const SECTOR: u64 = 4096;
const THREADS: usize = 2;
/// Operations of a short run, over all rounds.
const OPERATIONS: usize = 2000;
/// Sectors of so many in a hundred are damaged on a device that is.
const DAMAGED: u64 = 30;
const NEAR: Times = Times::Within(Duration::from_secs(60));

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    data: &'static str,
    metadata: &'static str,
    more: &'static [&'static str],
    devices: usize,
    /// Of how many devices.
    survives: usize,
}

/// What is done about devices that are lost or damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repair {
    /// Scrub; what is lost is made anew on devices that are added.
    InPlace,
    /// Other devices take their places.
    Replace,
}

/// Who has it mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    Ours,
    Kernel,
}

enum Mount {
    Ours(#[allow(dead_code, reason = "held")] Ours),
    Kernel(KernelMount),
}

struct Rig {
    case: Case,
    work: WorkDir,
    mnt: PathBuf,
    images: Vec<PathBuf>,
    /// The kernel's filesystem on one device, where all is done as well.
    #[allow(dead_code, reason = "held")]
    reference: Mounted,
    reference_dir: PathBuf,
    workers: Vec<Worker>,
    random: Random,
    made: usize,
}

impl Rig {
    fn new(case: Case) -> Option<Self> {
        let work = setup(&format!("loss-{}", case.name))?;
        let (mnt, dir, image) = (work.dir("mnt"), work.dir("reference"), work.file("reference.img"));
        kernel().mkfs(&image, 3 * GIB, case.more);
        let reference = kernel().mount(&image, &dir, "noatime");
        let worker = |thread: usize| {
            let (tag, features) = (format!("t{thread}"), Features { fallocate: true, acl: true });
            std::fs::create_dir(dir.join(&tag)).expect("mkdir");
            Worker::new(Generator::new(case.devices as u64, &tag, &tag, "shared", features), &mnt, &dir)
        };
        let workers = (0..THREADS).map(worker).collect();
        std::fs::create_dir(dir.join("shared")).expect("mkdir");
        let mut rig = Self {
            case,
            work,
            mnt,
            images: Vec::new(),
            reference,
            reference_dir: dir,
            workers,
            random: Random::new(5),
            made: 0,
        };
        rig.images = (0..case.devices).map(|_| rig.new_image()).collect();
        let profiles = ["-d", case.data, "-m", case.metadata];
        run(Command::new(BUTTERFS).arg("mkfs").args(profiles).args(case.more).args(&rig.images)).ok();
        let mounted = rig.mount(Writer::Ours, &rig.images, "noatime");
        for thread in 0..THREADS {
            std::fs::create_dir(rig.mnt.join(format!("t{thread}"))).expect("mkdir");
        }
        std::fs::create_dir(rig.mnt.join("shared")).expect("mkdir");
        drop(mounted);
        Some(rig)
    }

    fn new_image(&mut self) -> PathBuf {
        let path = self.work.dir("devices").join(format!("disk{}", self.made));
        self.made += 1;
        create_sparse(&path, SIZE);
        path
    }

    fn mount(&self, writer: Writer, images: &[PathBuf], options: &str) -> Mount {
        match writer {
            Writer::Ours => Mount::Ours(Ours::new(images, &self.mnt, options)),
            Writer::Kernel => Mount::Kernel(KernelMount::new(images, &self.mnt, options)),
        }
    }

    fn compare(&self, what: &str) {
        let what = format!("{}: {what} | the reference", self.case.name);
        Tree::content_of(&self.mnt).assert_same(&Tree::content_of(&self.reference_dir), NEAR, &what);
    }

    /// So many operations on both, and then all is compared.
    fn used(&mut self, writer: Writer, images: &[PathBuf], options: &str, count: usize) {
        let mounted = self.mount(writer, images, options);
        run_together(&mut self.workers, count.div_ceil(THREADS));
        self.workers.iter_mut().for_each(Worker::release);
        self.compare(&format!("{writer:?} wrote ({options})"));
        drop(mounted);
    }

    fn seen_by(&self, writer: Writer, images: &[PathBuf], options: &str) {
        let mounted = self.mount(writer, images, options);
        self.compare(&format!("{writer:?} reads ({options})"));
        drop(mounted);
    }

    /// One to as many devices as may be lost.
    fn victims(&mut self) -> Vec<usize> {
        let mut all: Vec<usize> = (0..self.images.len()).collect();
        let count = self.random.between(1, self.case.survives as u64) as usize;
        while all.len() > count {
            all.remove(self.random.below(all.len() as u64) as usize);
        }
        all
    }

    fn without(&self, victims: &[usize]) -> Vec<PathBuf> {
        let there = self.images.iter().enumerate().filter(|(index, _)| !victims.contains(index));
        there.map(|(_, image)| image.clone()).collect()
    }

    /// Devices are gone: both read without them, we write, and new devices take their place.
    fn lose(&mut self, count: usize, repair: Repair) {
        let victims = self.victims();
        println!("{}: lost {victims:?}", self.case.name);
        let left = self.without(&victims);
        let devids: Vec<u64> = victims.iter().map(|index| devid_of(&self.images[*index])).collect();
        victims.iter().for_each(|index| std::fs::remove_file(&self.images[*index]).expect("it is there"));
        self.seen_by(Writer::Ours, &left, "ro,degraded");
        self.seen_by(Writer::Kernel, &left, "ro,degraded");
        self.used(Writer::Ours, &left, "noatime,degraded", count);
        let new: Vec<PathBuf> = victims.iter().map(|_| self.new_image()).collect();
        self.images = [left.clone(), new.clone()].concat();
        if repair == Repair::Replace {
            devids.iter().zip(&new).for_each(|(devid, new)| replace(*devid, new, &left[0]));
        } else {
            run(Command::new(BUTTERFS).args(["device", "add"]).args(&new).arg(&left[0])).ok();
            let missing = vec!["missing"; victims.len()];
            run(Command::new(BUTTERFS).args(["device", "remove"]).args(missing).arg(&left[0])).ok();
        }
        self.as_it_was_made();
        self.whole("what was lost was made anew");
    }

    /// What was written while devices were missing has other profiles, or lies on fewer devices.
    fn as_it_was_made(&self) {
        let (data, metadata) = (self.case.data, self.case.metadata);
        let convert = [format!("-dconvert={data}"), format!("-mconvert={metadata}"), "-f".into()];
        run(Command::new(BUTTERFS).args(["balance", "start"]).args(convert).arg(&self.images[0])).ok();
    }

    /// Sectors of devices are damaged: what is read is right nevertheless, and a scrub repairs all, or others take their places.
    fn damage(&mut self, repair: Repair) {
        self.trim();
        if self.case.survives == 0 {
            return self.damage_one_copy();
        }
        // Some devices may hold next to nothing.
        let (mut hit, mut victims) = (0, Vec::new());
        for _ in 0..20 {
            victims = self.victims();
            hit = victims.iter().map(|index| damaged(&self.images[*index], &mut self.random)).sum();
            println!("{}: {hit} sectors of {victims:?} are bad", self.case.name);
            if hit > 0 {
                break;
            }
        }
        if repair == Repair::Replace {
            self.seen_by(Writer::Ours, &self.images, "ro");
            for index in victims {
                let new = self.new_image();
                let old = std::mem::replace(&mut self.images[index], new.clone());
                let other = self.images[(index + 1) % self.images.len()].clone();
                replace(devid_of(&old), &new, &other);
                std::fs::remove_file(old).expect("it is there");
            }
            self.scrubbed_after_replacing();
            return self.whole("the damaged ones were replaced");
        }
        self.repaired(hit);
    }

    /// Nothing is bad any more, nor does anything not fit its parity, also beside what was damaged in free space.
    fn scrubbed_after_replacing(&self) {
        let scrubbed = run(Command::new(BUTTERFS).args(["scrub", "start"]).args(&self.images)).ok();
        assert!(scrubbed.stdout.contains("no errors found"), "{scrubbed}");
    }

    /// What was freed leaves the images, so that damage hits what is in use. (Not where there is parity.)
    fn trim(&self) {
        let mounted = self.mount(Writer::Ours, &self.images, "noatime");
        run(Command::new(BUTTERFS).arg("fstrim").arg(&self.mnt)).ok();
        drop(mounted);
    }

    /// DUP has both copies on one device.
    fn damage_one_copy(&mut self) {
        if self.case.data != "dup" {
            return;
        }
        let hit = damaged_copies(&self.images, &mut self.random);
        println!("{}: {hit} sectors are bad", self.case.name);
        self.repaired(hit);
    }

    fn repaired(&mut self, hit: usize) {
        assert!(hit > 0, "nothing was there to be damaged");
        self.seen_by(Writer::Ours, &self.images, "ro");
        let first = run(Command::new(BUTTERFS).args(["scrub", "start"]).args(&self.images));
        assert!(first.stdout.contains("Corrected:") && first.stdout.contains("Uncorrectable:  0"), "{first}");
        let again = run(Command::new(BUTTERFS).args(["scrub", "start"]).args(&self.images)).ok();
        assert!(again.stdout.contains("no errors found"), "{again}");
        self.whole("the damage was repaired");
    }

    /// All judges find it right.
    fn whole(&self, what: &str) {
        run(Command::new(BUTTERFS).args(["check", "--check-data-csum"]).args(&self.images)).ok();
        checked(&self.case, &self.images);
        let kernel = self.mount(Writer::Kernel, &self.images, "noatime");
        self.compare(&format!("the kernel, after {what}"));
        if let Mount::Kernel(kernel) = &kernel {
            // One by one: the kernel may remember lost ones from when it was without them.
            for device in kernel.loops() {
                let scrubbed = run(Command::new("btrfs").args(["scrub", "start", "-B"]).arg(device.path()));
                assert!(scrubbed.stdout.contains("no errors found"), "{what}: {scrubbed}");
            }
        }
        drop(kernel);
    }
}

/// Data on RAID5 is judged by the kernel's scrub and our check only: there `btrfs check --check-data-csum` of btrfs-progs 6.14
/// reads the second copy wrong on two devices, and where an extent goes over the end of a stripe.
fn checked(case: &Case, images: &[PathBuf]) -> Finished {
    let loops: Vec<_> = images.iter().map(|image| devices::Loop::over(image)).collect();
    let last = loops.last().expect("there are devices");
    let data: &[&str] = if case.data == "raid5" { &[] } else { &["--check-data-csum"] };
    run(Command::new("btrfs").arg("check").args(data).arg(last.path())).ok()
}

/// The sectors of a device that hold something, superblocks left out.
fn used(image: &File) -> Vec<u64> {
    let (mut at, mut sectors) = (0, Vec::new());
    while let Ok(start) = rustix::fs::seek(image, SeekFrom::Data(at)) {
        let end = rustix::fs::seek(image, SeekFrom::Hole(start)).expect("data has an end");
        sectors.extend((start / SECTOR..end / SECTOR).map(|number| number * SECTOR));
        at = end;
    }
    sectors.retain(|at| !oracle::SUPERBLOCKS.contains(at));
    sectors
}

fn hurt(image: &File, at: u64) {
    let mut bytes = [0; 32];
    image.read_exact_at(&mut bytes, at + 700).expect("it reads");
    bytes.iter_mut().for_each(|byte| *byte ^= 0x3c);
    image.write_all_at(&bytes, at + 700).expect("it is written");
}

fn opened(image: &Path) -> File {
    File::options().read(true).write(true).open(image).expect("the image opens")
}

/// Damages many sectors of a device.
fn damaged(image: &Path, random: &mut Random) -> usize {
    let file = opened(image);
    let sectors: Vec<u64> = used(&file).into_iter().filter(|_| random.percent(DAMAGED)).collect();
    sectors.iter().for_each(|at| hurt(&file, *at));
    sectors.len()
}

/// Damages one of two copies of sectors, where both are on one device.
fn damaged_copies(images: &[PathBuf], random: &mut Random) -> usize {
    let device = |path: &PathBuf| {
        std::sync::Arc::new(butterfs_volume::FileDevice::open_read_only(path).expect("open")) as std::sync::Arc<_>
    };
    let volume =
        butterfs_volume::Volume::open(images.iter().map(device).collect(), butterfs_volume::OpenMode::ReadOnly);
    let (volume, mut hit) = (volume.expect("open"), 0);
    for (_, chunk) in volume.chunks() {
        for block in (0..chunk.length()).step_by(STRIPE_LEN as usize) {
            // All of a tree block is bad in one and the same copy.
            let stripe = &chunk.stripes[random.below(chunk.stripes.len() as u64) as usize];
            let file = opened(&images[stripe.devid.get() as usize - 1]);
            let block = stripe.offset.get() + block;
            for at in (block..block + STRIPE_LEN).step_by(SECTOR as usize).filter(|_| random.percent(DAMAGED)) {
                if rustix::fs::seek(&file, SeekFrom::Data(at)).is_ok_and(|data| data == at) {
                    hurt(&file, at);
                    hit += 1;
                }
            }
        }
    }
    hit
}

/// The number of a device, by its superblock.
fn devid_of(image: &Path) -> u64 {
    const DEVID: u64 = 65536 + 201;
    let mut bytes = [0; 8];
    opened(image).read_exact_at(&mut bytes, DEVID).expect("it reads");
    u64::from_le_bytes(bytes)
}

fn replace(devid: u64, new: &Path, other: &Path) {
    let words = ["device", "replace", "start", "-f", &devid.to_string()];
    run(Command::new(BUTTERFS).args(words).args([new, other])).ok();
}

fn campaign(case: Case) {
    let Some(mut rig) = Rig::new(case) else { return };
    let count = scaled(OPERATIONS) / 4;
    for (writer, repair) in [(Writer::Ours, Repair::InPlace), (Writer::Kernel, Repair::Replace)] {
        let images = rig.images.clone();
        rig.used(writer, &images, "noatime", count);
        checked(&case, &images);
        rig.damage(repair);
        if case.survives > 0 {
            rig.lose(count, repair);
        } else {
            rig.used(writer, &images, "noatime", count);
            rig.whole("it was used again");
        }
    }
}

macro_rules! cases {
    ($($name:ident: $data:literal, $metadata:literal, $more:expr, $devices:literal, survives $survives:literal;)*) => {$(
        #[test]
        fn $name() {
            campaign(Case {
                name: stringify!($name),
                data: $data,
                metadata: $metadata,
                more: &$more,
                devices: $devices,
                survives: $survives,
            });
        }
    )*};
}

cases! {
    single: "single", "single", [], 2, survives 0;
    dup: "dup", "dup", [], 1, survives 0;
    raid0: "raid0", "raid0", [], 3, survives 0;
    raid1: "raid1", "raid1", [], 3, survives 1;
    raid1c3: "raid1c3", "raid1c3", [], 4, survives 2;
    raid1c4: "raid1c4", "raid1c4", [], 5, survives 3;
    raid10: "raid10", "raid10", [], 4, survives 1;
    raid5: "raid5", "raid5", [], 3, survives 1;
    raid5_and_raid1: "raid5", "raid1", [], 4, survives 1;
    raid6: "raid6", "raid6", [], 5, survives 2;
    raid6_and_raid1c3: "raid6", "raid1c3", [], 4, survives 2;
    mixed_groups_dup: "dup", "dup", ["-M"], 1, survives 0;
    mixed_groups_raid1: "raid1", "raid1", ["-M"], 3, survives 1;
}

//! A device is replaced by another, there or missing, good or bad, while files are written: content is whole, also with
//! another one lost afterwards, and the check finds nothing.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use butterfs_engine::Error;
use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::file::DataRule;
use butterfs_engine::filesystem::exclusive::Exclusive;
use butterfs_engine::filesystem::{Access, Filesystem, OpenOptions, ReplaceEnd, Returning};
use butterfs_format::DevId;
use butterfs_format::items::{BlockGroupFlags, ReadSource, ReplaceState};
use butterfs_testkit::disks;
use butterfs_testkit::fault::{FaultDevice, Request, Rule};
use butterfs_testkit::random::Random;
use butterfs_volume::{BlockDevice, MemDevice, Missing, OpenMode, Volume};

const MIB: u64 = 1 << 20;
const FILES: u64 = 20;
/// Of each device, in MiB: room for the new chunks that writing without one of them takes.
const SIZE: u64 = 1200;

struct Devices(Vec<Arc<MemDevice>>);

impl Devices {
    fn made(count: u64, data: BlockGroupFlags, metadata: BlockGroupFlags) -> Self {
        let named = |number| Arc::new(MemDevice::named(format!("disk{number}"), SIZE * MIB));
        let devices = Self((0..count).map(named).collect());
        disks::make(&devices.0, data, metadata);
        let fs = devices.open(&[]).unwrap();
        (0..FILES).for_each(|number| disks::write_noise(&fs, &format!("old{number}"), 0, number));
        fs.sync().unwrap();
        drop(fs);
        let options = OpenOptions { new_data: DataRule::InPlace, ..OpenOptions::default() };
        let fs = devices.open_with(&[], options).unwrap();
        disks::write_noise(&fs, "in place", 0, 100);
        fs.sync().unwrap();
        drop(fs);
        devices
    }

    fn open(&self, missing: &[usize]) -> Result<Filesystem, Error> {
        self.open_with(missing, OpenOptions::default())
    }

    fn open_with(&self, missing: &[usize], options: OpenOptions) -> Result<Filesystem, Error> {
        let mode = if options.access == Access::ReadOnly { OpenMode::ReadOnly } else { OpenMode::ReadWrite };
        let how = butterfs_volume::OpenOptions { missing: Missing::Accept, ..butterfs_volume::OpenOptions::new(mode) };
        let there = disks::as_devices(&self.0).into_iter().enumerate().filter(|(index, _)| !missing.contains(index));
        let volume = Volume::open_with(there.map(|(_, device)| device).collect(), &how)?;
        Filesystem::open(volume, options, Box::new(SystemEnvironment))
    }

    fn snapshot(&self) -> Self {
        Self(self.0.iter().map(|device| Arc::new(device.snapshot())).collect())
    }

    #[track_caller]
    fn judge(&self) {
        disks::judge(&disks::as_devices(&self.0));
    }
}

#[track_caller]
fn assert_whole(fs: &Filesystem) {
    (0..FILES).for_each(|number| disks::assert_noise(fs, &format!("old{number}"), 0, number));
}

fn target(mib: u64) -> Arc<MemDevice> {
    let target = Arc::new(MemDevice::named("target", mib * MIB));
    target.write_at(0, &Random::new(9).bytes(MIB as usize)).unwrap();
    target
}

fn replace(fs: &Filesystem, devid: u64, target: &Arc<MemDevice>) -> Result<ReplaceEnd, Error> {
    let device: Arc<dyn BlockDevice> = target.clone();
    let begun = fs.begin_replacement(DevId(devid), &device, ReadSource::Always)?;
    fs.run_replacement(begun)
}

/// What is done with the source.
#[derive(Clone, Copy, PartialEq)]
enum Source {
    There,
    Missing,
}

fn replaced(data: BlockGroupFlags, metadata: BlockGroupFlags, count: u64, source: Source) {
    let mut devices = Devices::made(count, data, metadata);
    let survives = data != BlockGroupFlags::RAID0;
    for which in [0, count as usize - 1] {
        let missing: &[usize] = if source == Source::Missing { &[which] } else { &[] };
        let fs = devices.open(missing).unwrap();
        let new = target(SIZE + 20);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for round in 0..6 {
                    disks::write_noise(&fs, "in place", 0, 200 + round);
                    disks::write_noise(&fs, "beside", round * MIB, 300 + round);
                    disks::write_noise(&fs, &format!("old{round}"), 0, round);
                    fs.sync().unwrap();
                }
            });
            let end = replace(&fs, which as u64 + 1, &new).unwrap();
            assert!(
                matches!(end, ReplaceEnd::Done(progress) if progress.unreadable == 0 && progress.copied > 0),
                "{end:?}"
            );
            writer.join().unwrap();
        });
        assert_eq!(fs.replace_status().state, ReplaceState::Finished);
        disks::write_noise(&fs, "after", 0, 400);
        fs.sync().unwrap();
        drop(fs);
        // Nobody takes the old one for a part of the filesystem.
        if source == Source::There {
            assert!(Volume::open(vec![devices.0[which].clone()], OpenMode::ReadOnly).is_err());
        }
        devices.0[which] = new;
        devices.judge();
        let losses = (0..count as usize).filter(|other| survives && *other != which).map(|other| vec![other]);
        for lost in losses.chain([Vec::new()]) {
            let options = OpenOptions { access: Access::ReadOnly, ..OpenOptions::default() };
            let fs = devices.open_with(&lost, options).unwrap();
            assert_whole(&fs);
            disks::assert_noise(&fs, "in place", 0, 205);
            disks::assert_noise(&fs, "after", 0, 400);
            (0..6).for_each(|round| disks::assert_noise(&fs, "beside", round * MIB, 300 + round));
        }
    }
}

macro_rules! profiles {
    ($($name:ident: $data:ident, $metadata:ident, $count:literal, $source:ident;)*) => {
        $(#[test]
        fn $name() {
            replaced(BlockGroupFlags::$data, BlockGroupFlags::$metadata, $count, Source::$source);
        })*
    };
}

profiles! {
    raid0: RAID0, RAID1, 2, There;
    raid1: RAID1, RAID1, 2, There;
    raid1_missing: RAID1, RAID1, 3, Missing;
    raid10: RAID10, RAID1C3, 4, There;
    raid5: RAID5, RAID5, 3, There;
    raid5_missing: RAID5, RAID5, 3, Missing;
    raid6_missing: RAID6, RAID6, 5, Missing;
}

/// What is bad on the source comes from the others.
#[test]
fn bad_sectors_are_taken_from_the_others() {
    let mut devices = Devices::made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    // All that lies between the superblocks, in half of the sectors.
    let noise = Random::new(1).bytes(4096);
    (1 << 20..64 << 20).step_by(8192).for_each(|at| devices.0[0].write_at(at, &noise).unwrap());
    let fs = devices.open(&[]).unwrap();
    let new = target(SIZE);
    assert!(matches!(replace(&fs, 1, &new).unwrap(), ReplaceEnd::Done(progress) if progress.unreadable == 0));
    drop(fs);
    devices.0[0] = new;
    devices.judge();
    assert_whole(&devices.open(&[1]).unwrap());
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_written() {
    let devices = Devices::made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    let fs = devices.open(&[]).unwrap();
    let small = target(SIZE - 1);
    let before = small.written();
    let refused = replace(&fs, 1, &small).unwrap_err().to_string();
    assert!(refused.contains(&format!("at least {} are needed", SIZE * MIB)), "{refused}");
    assert!(small.written() == before, "the target was written");
    assert!(replace(&fs, 7, &target(SIZE)).unwrap_err().to_string().contains("no device 7"));
    let turn = fs.exclusive().begin(Exclusive::Resize).unwrap();
    let whole = target(SIZE);
    let before = whole.written();
    assert!(matches!(replace(&fs, 1, &whole), Err(Error::InProgress("resize"))));
    assert!(matches!(fs.check_replacement(DevId(1), &*whole), Err(Error::InProgress("resize"))));
    assert!(matches!(fs.check_addition(), Err(Error::InProgress("resize"))));
    drop(turn);
    fs.check_replacement(DevId(1), &*whole).unwrap();
    fs.check_addition().unwrap();
    assert!(whole.written() == before, "the target was written");
    assert_eq!(fs.replace_status().state, ReplaceState::Never);
    assert!(matches!(replace(&fs, 1, &target(SIZE)).unwrap(), ReplaceEnd::Done(_)));
}

/// Where a replacement is cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// As by a kill or a power cut.
    Power,
    /// By the end of a mount.
    Suspended,
}

/// Begins to replace device 2, and stops somewhere; gives the devices with the target as the last one.
fn interrupted(devices: &Devices, size: u64, cut: Cut) -> Devices {
    // Now and then it comes to its end before.
    let mut tries = (0..50).filter_map(|_| try_to_interrupt(&devices.snapshot(), &target(size), cut));
    tries.next().expect("it is slower than this once")
}

fn try_to_interrupt(devices: &Devices, new: &Arc<MemDevice>, cut: Cut) -> Option<Devices> {
    let fs = devices.open(&[]).unwrap();
    let device: Arc<dyn BlockDevice> = new.clone();
    let begun = fs.begin_replacement(DevId(2), &device, ReadSource::Always).unwrap();
    let all = Devices(devices.0.iter().cloned().chain([new.clone()]).collect());
    std::thread::scope(|scope| {
        let running = scope.spawn(|| fs.run_replacement(begun).unwrap());
        while fs.replace_status().thousandths < 2 && !running.is_finished() {
            std::thread::yield_now();
        }
        if let Cut::Suspended = cut {
            let _ = fs.suspend_replacement();
            if running.join().unwrap() != ReplaceEnd::Suspended {
                return None;
            }
            assert_eq!(fs.replace_status().state, ReplaceState::Suspended);
            assert!(matches!(fs.exclusive().begin(Exclusive::Balance), Err(Error::InProgress("device replace"))));
        }
        // Some of it is on disk; what is written until the end reaches the target, too.
        disks::write_noise(&fs, "in place", 0, 500);
        fs.sync().unwrap();
        let snapshot = all.snapshot();
        let was_under_way = fs.replace_status().is_under_way();
        was_under_way.then_some(snapshot)
    })
}

fn resume(fs: &Filesystem) -> ReplaceEnd {
    let status = fs.replace_status();
    assert_eq!((status.state, status.source), (ReplaceState::Suspended, Some(DevId(2))));
    let begun = fs.begin_resumed_replacement().unwrap();
    fs.run_replacement(begun).unwrap()
}

#[test]
fn what_was_cut_goes_on() {
    let devices = Devices::made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    for cut in [Cut::Power, Cut::Suspended] {
        let mut all = interrupted(&devices, SIZE + 7, cut);
        let fs = all.open(&[]).unwrap();
        disks::write_noise(&fs, "between", 0, 501);
        assert!(matches!(resume(&fs), ReplaceEnd::Done(progress) if progress.unreadable == 0), "{cut:?}");
        assert_eq!(fs.replace_status().state, ReplaceState::Finished);
        drop(fs);
        all.0.remove(1);
        all.judge();
        let fs = all.open(&[0]).unwrap();
        assert_whole(&fs);
        disks::assert_noise(&fs, "in place", 0, 500);
        disks::assert_noise(&fs, "between", 0, 501);
        assert_eq!(fs.replace_status().state, ReplaceState::Finished);
    }
}

/// The target missed a commit: nothing that it has counts, or it would be taken for new.
#[test]
fn without_its_target_it_begins_anew() {
    let devices = Devices::made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    let mut all = interrupted(&devices, SIZE, Cut::Suspended);
    let fs = all.open(&[2]).unwrap();
    assert!(matches!(fs.begin_resumed_replacement(), Err(Error::NotRunning)));
    assert!(matches!(replace(&fs, 2, &target(SIZE)), Err(Error::InProgress("device replace"))));
    disks::write_noise(&fs, "in place", 0, 600);
    fs.sync().unwrap();
    assert_eq!(fs.replace_status().thousandths, 0);
    drop(fs);
    let how = butterfs_volume::OpenOptions::new(OpenMode::ReadWrite);
    let volume = Volume::open_with(disks::as_devices(&all.0[..2]), &how).unwrap();
    let refused = Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).map(drop).unwrap_err();
    assert!(refused.to_string().contains("is missing"), "{refused}");
    let fs = all.open(&[]).unwrap();
    assert!(matches!(resume(&fs), ReplaceEnd::Done(_)));
    drop(fs);
    all.0.remove(1);
    all.judge();
    disks::assert_noise(&all.open(&[0]).unwrap(), "in place", 0, 600);
}

/// What the devices but the target say that is durable: from where it goes on.
fn durable_cursor(all: &Devices) -> u64 {
    let volume = Volume::open(disks::as_devices(&all.0[..2]), OpenMode::ReadOnly).unwrap();
    let item = volume.stored_replace_item().unwrap().unwrap();
    assert!(item.is_under_way());
    item.cursor_left.get()
}

/// Writes that become durable without a commit: in place, and by the log.
fn write_and_fsync(fs: &Filesystem, seed: u64) {
    for (name, seed) in [("in place", seed), ("logged", seed + 1)] {
        disks::write_noise(fs, name, 0, seed);
        fs.fsync(fs.lookup(Place::new(fs.root(), name.as_bytes())).unwrap()).unwrap();
    }
}

/// Goes on after a cut with all devices; the target alone has what was durable then.
#[track_caller]
fn assert_goes_on(mut all: Devices, seed: u64) {
    let fs = all.open(&[]).unwrap();
    assert!(matches!(resume(&fs), ReplaceEnd::Done(_)));
    drop(fs);
    all.0.remove(1);
    all.judge();
    let fs = all.open(&[0]).unwrap();
    assert_whole(&fs);
    disks::assert_noise(&fs, "in place", 0, seed);
    disks::assert_noise(&fs, "logged", 0, seed + 1);
}

/// Without its target, and without a commit by who writes: a power cut, and the target must not be taken for whole.
#[test]
fn what_is_fsynced_without_the_target_is_copied() {
    let devices = Devices::made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    let all = interrupted(&devices, SIZE, Cut::Power);
    assert!(durable_cursor(&all) > 0);
    let fs = all.open(&[2]).unwrap();
    assert_eq!(durable_cursor(&all.snapshot()), 0, "before anything is written");
    write_and_fsync(&fs, 800);
    let cut = all.snapshot();
    drop(fs);
    // With a log that the target does not know, and with one that is replayed without it.
    let replayed = cut.snapshot();
    let fs = replayed.open(&[2]).unwrap();
    let cut_again = replayed.snapshot();
    drop(fs);
    for cut in [cut, cut_again] {
        assert_goes_on(cut, 800);
    }
}

/// A log from before the target went: the commit that replays it says that the target counts for nothing.
#[test]
fn a_log_is_replayed_without_the_target() {
    let devices = Devices::made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    let all = interrupted(&devices, SIZE, Cut::Suspended);
    let fs = all.open(&[]).unwrap();
    write_and_fsync(&fs, 810);
    let cut = all.snapshot();
    drop(fs);
    assert!(durable_cursor(&cut) > 0);
    let fs = cut.open(&[2]).unwrap();
    assert_eq!(durable_cursor(&cut.snapshot()), 0);
    disks::assert_noise(&fs, "logged", 0, 811);
    let cut = cut.snapshot();
    drop(fs);
    assert_goes_on(cut, 810);
}

/// A target that fails a single write, while it is suspended: the next fsync counts only when that is durable.
#[test]
fn what_is_fsynced_after_the_target_failed_is_copied() {
    let devices = Devices::made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    let suspended = interrupted(&devices, SIZE, Cut::Suspended);
    let open_with_fault = |all: &Devices, rule| {
        let fault = Arc::new(FaultDevice::new(all.0[2].clone(), rule));
        let mut there = disks::as_devices(&all.0[..2]);
        there.push(fault.clone());
        let volume = Volume::open(there, OpenMode::ReadWrite).unwrap();
        (Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap(), fault)
    };
    let writes = open_with_fault(&suspended.snapshot(), None).1.counts().writes;
    let all = suspended.snapshot();
    let (fs, fault) = open_with_fault(&all, Some(Rule::error(Request::Write, writes)));
    assert!(durable_cursor(&all.snapshot()) > 0);
    disks::write_noise(&fs, "in place", 0, 820);
    fs.fsync(fs.lookup(Place::new(fs.root(), b"in place")).unwrap()).unwrap();
    assert_eq!(fault.struck(), 1);
    let cut = all.snapshot();
    assert_eq!(durable_cursor(&cut), 0);
    write_and_fsync(&fs, 820);
    assert_goes_on(all.snapshot(), 820);
    drop(fs);
    let fs = cut.open(&[]).unwrap();
    disks::assert_noise(&fs, "in place", 0, 820);
}

/// Its source missed commits: that is brought up to date first, and the target is filled with the next mount.
#[test]
fn a_source_that_missed_commits_comes_first() {
    let devices = Devices::made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    let all = interrupted(&devices, SIZE, Cut::Suspended);
    let fs = all.open(&[1, 2]).unwrap();
    for _ in 0..2 {
        write_and_fsync(&fs, 830);
        fs.sync().unwrap();
    }
    drop(fs);
    let open = |returning| {
        let volume = Volume::open(disks::as_devices(&all.0), OpenMode::ReadWrite).unwrap();
        let options = OpenOptions { returning, ..OpenOptions::default() };
        Filesystem::open(volume, options, Box::new(SystemEnvironment))
    };
    let refused = open(Returning::Refuse).map(drop).unwrap_err().to_string();
    assert!(refused.contains("missed commits") && !refused.contains("is missing"), "{refused}");
    let fs = open(Returning::CatchUp).unwrap();
    assert!(fs.begin_resumed_replacement().is_err());
    assert_eq!(fs.resync().unwrap().len(), 1);
    fs.sync().unwrap();
    drop(fs);
    let mut all = all;
    let fs = all.open(&[]).unwrap();
    assert!(matches!(resume(&fs), ReplaceEnd::Done(_)));
    drop(fs);
    all.0.remove(1);
    all.judge();
    // What was written with one device has no second copy.
    let fs = all.open(&[]).unwrap();
    assert_whole(&fs);
    disks::assert_noise(&fs, "in place", 0, 830);
    disks::assert_noise(&fs, "logged", 0, 831);
}

/// A cut at its end leaves the source with its superblocks. It is left out and erased; but not if it went on by itself.
#[test]
fn what_was_replaced_is_left_out() {
    let devices = Devices::made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    let all = interrupted(&devices, SIZE, Cut::Suspended);
    let fs = all.open(&[]).unwrap();
    let begun = fs.begin_resumed_replacement().unwrap();
    let source = Arc::new(all.0[1].snapshot());
    assert!(matches!(fs.run_replacement(begun).unwrap(), ReplaceEnd::Done(_)));
    drop(fs);
    let with_source =
        |source: &MemDevice| Devices(vec![all.0[0].clone(), Arc::new(source.snapshot()), all.0[2].clone()]).snapshot();
    let cut = with_source(&source);
    let fs = cut.open(&[]).unwrap();
    assert_eq!(fs.replace_status().state, ReplaceState::Finished);
    assert_whole(&fs);
    drop(fs);
    assert!(Volume::open(vec![cut.0[1].clone()], OpenMode::ReadOnly).is_err(), "it was not erased");
    for commits in [1, 12] {
        let alone = Devices(vec![Arc::new(source.snapshot())]);
        let fs = alone.open(&[]).unwrap();
        fs.cancel_replacement().unwrap();
        for round in 0..commits {
            disks::write_noise(&fs, "alone", 0, round);
            fs.sync().unwrap();
        }
        drop(fs);
        let refused = with_source(&alone.0[0]).open(&[]).map(drop).unwrap_err().to_string();
        assert!(refused.contains("are both device 2"), "{refused}");
    }
}

/// Somebody wants it to be suspended while it begins.
#[test]
fn suspended_before_it_runs() {
    let devices = Devices::made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    let fs = devices.open(&[]).unwrap();
    let device: Arc<dyn BlockDevice> = target(SIZE);
    let begun = fs.begin_replacement(DevId(2), &device, ReadSource::Always).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| fs.suspend_replacement().unwrap());
        while !fs.exclusive().is_cancelled() {
            std::thread::yield_now();
        }
        assert_eq!(fs.run_replacement(begun).unwrap(), ReplaceEnd::Suspended);
    });
    // Nobody wants that any more.
    let begun = fs.begin_resumed_replacement().unwrap();
    std::thread::scope(|scope| {
        let canceller = scope.spawn(|| fs.cancel_replacement());
        while !fs.exclusive().is_cancelled() {
            std::thread::yield_now();
        }
        assert_eq!(fs.run_replacement(begun).unwrap(), ReplaceEnd::Cancelled);
        canceller.join().unwrap().unwrap();
    });
}

/// With its source lost after the cut, the others are enough.
#[test]
fn it_goes_on_without_its_source() {
    let devices = Devices::made(3, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    let mut all = interrupted(&devices, SIZE, Cut::Power);
    let fs = all.open(&[1]).unwrap();
    disks::write_noise(&fs, "in place", 0, 700);
    assert!(matches!(resume(&fs), ReplaceEnd::Done(progress) if progress.unreadable == 0));
    // Its chunks are used again at once.
    let fixed = |fs: &Filesystem| {
        let chunks = fs.shared().gate.volume().chunks();
        fs.shared().gate.view(|tx| Ok(!chunks.iter().all(|(start, _)| tx.is_writable(*start)))).unwrap()
    };
    assert!(!fixed(&fs));
    disks::write_noise(&fs, "in place", 0, 701);
    fs.sync().unwrap();
    drop(fs);
    all.0.swap_remove(1);
    all.judge();
    for lost in 0..3 {
        let fs = all.open(&[lost]).unwrap();
        assert_whole(&fs);
        assert!(fixed(&fs));
        disks::assert_noise(&fs, "in place", 0, 701);
    }
}

#[test]
fn what_was_cut_can_be_cancelled() {
    let devices = Devices::made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    for cut in [Cut::Power, Cut::Suspended] {
        let mut all = interrupted(&devices, SIZE, cut);
        let before = all.snapshot();
        let fs = all.open(&[]).unwrap();
        fs.cancel_replacement().unwrap();
        assert_eq!(fs.replace_status().state, ReplaceState::Canceled);
        assert!(matches!(fs.cancel_replacement(), Err(Error::NotRunning)));
        drop(fs.exclusive().begin(Exclusive::Balance).unwrap());
        drop(fs);
        // A cut before the end of the target's superblock: it is left out, and erased.
        all.0[2] = before.0[2].clone();
        drop(all.open(&[]).unwrap());
        assert!(Volume::open(vec![all.0[2].clone()], OpenMode::ReadOnly).is_err());
        all.0.pop();
        all.judge();
        let fs = all.open(&[]).unwrap();
        assert_whole(&fs);
        disks::assert_noise(&fs, "in place", 0, 500);
        assert!(matches!(replace(&fs, 2, &target(SIZE)).unwrap(), ReplaceEnd::Done(_)));
    }
}

/// A target that fails is told of as what it was.
#[test]
fn a_target_that_fails() {
    let devices = Devices::made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    let fs = devices.open(&[]).unwrap();
    let new = target(SIZE);
    let device: Arc<dyn BlockDevice> = Arc::new(FaultDevice::new(new, Some(Rule::error(Request::Write, 40))));
    let begun = fs.begin_replacement(DevId(2), &device, ReadSource::Avoid).unwrap();
    let error = fs.run_replacement(begun).unwrap_err().to_string();
    let status = fs.replace_status();
    assert_eq!((status.state, status.write_errors), (ReplaceState::Canceled, 1), "{error}");
    assert_eq!(status.failure, Some(error));
    disks::write_noise(&fs, "after", 0, 400);
    fs.sync().unwrap();
    drop(fs);
    devices.judge();
    assert_eq!(devices.open(&[]).unwrap().replace_status().write_errors, 1);
}

/// With `-r` the source is not asked for what others have.
#[test]
fn the_source_is_not_read() {
    let mut devices = Devices::made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    let source = Arc::new(FaultDevice::new(devices.0[0].clone(), None));
    let all: Vec<Arc<dyn BlockDevice>> = vec![source.clone(), devices.0[1].clone()];
    let volume = Volume::open(all, OpenMode::ReadWrite).unwrap();
    let fs = Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap();
    let new = target(SIZE);
    let device: Arc<dyn BlockDevice> = new.clone();
    let begun = fs.begin_replacement(DevId(1), &device, ReadSource::Avoid).unwrap();
    let before = source.counts().reads;
    assert!(matches!(fs.run_replacement(begun).unwrap(), ReplaceEnd::Done(progress) if progress.copied > 4 << 20));
    // Superblocks are looked at before each commit, and erased at the end.
    let reads = source.counts().reads - before;
    assert!(reads < 20, "{reads}");
    drop(fs);
    devices.0[0] = new;
    devices.judge();
}

/// Cancelled, or cut at any moment, the filesystem is what it was, or the target is its device.
#[test]
fn cancelled_and_cut() {
    let devices = Devices::made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    let fs = devices.open(&[]).unwrap();
    let new = target(SIZE);
    let device: Arc<dyn BlockDevice> = new.clone();
    let begun = fs.begin_replacement(DevId(2), &device, ReadSource::Always).unwrap();
    std::thread::scope(|scope| {
        let canceller = scope.spawn(|| fs.cancel_replacement());
        while !fs.exclusive().is_cancelled() {
            std::thread::yield_now();
        }
        assert_eq!(fs.run_replacement(begun).unwrap(), ReplaceEnd::Cancelled);
        canceller.join().unwrap().unwrap();
    });
    assert_eq!(fs.replace_status().state, ReplaceState::Canceled);
    disks::write_noise(&fs, "after", 0, 400);
    fs.sync().unwrap();
    let cuts = std::thread::scope(|scope| {
        let running = scope.spawn(|| replace(&fs, 2, &new).unwrap());
        let mut cuts = Vec::new();
        while !running.is_finished() && cuts.len() < 12 {
            // What counts on a device is looked at before it.
            let first = devices.0[0].snapshot();
            let (old, new) = (devices.0[1].snapshot(), new.snapshot());
            cuts.push(Devices(vec![Arc::new(first), Arc::new(old), Arc::new(new)]));
        }
        running.join().unwrap();
        cuts
    });
    drop(fs);
    for cut in cuts {
        let has_superblock = |at: &usize| {
            let mut magic = [0; 8];
            cut.0[*at].read_at(65536 + 64, &mut magic).unwrap();
            &magic == b"_BHRfS_M"
        };
        let there = (0..3).filter(has_superblock).map(|at| cut.0[at].clone()).collect();
        let cut = Devices(there).snapshot();
        let fs = cut.open(&[]).unwrap();
        assert_whole(&fs);
        disks::assert_noise(&fs, "after", 0, 400);
        if fs.replace_status().state == ReplaceState::Suspended && cut.0.len() == 3 {
            assert!(matches!(resume(&fs), ReplaceEnd::Done(_)));
        }
    }
    let done = Devices(vec![devices.0[0].clone(), new]);
    done.judge();
    assert_whole(&done.open(&[0]).unwrap());
}

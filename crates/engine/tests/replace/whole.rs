//! What is bad, what fails, and what cannot be.

use std::sync::Arc;

use butterfs_engine::Error;
use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::exclusive::Exclusive;
use butterfs_engine::filesystem::{Filesystem, OpenOptions, ReplaceEnd};
use butterfs_engine::scrub::{ScrubMode, ScrubMonitor, ScrubOptions};
use butterfs_format::DevId;
use butterfs_format::items::{BlockGroupFlags, ReadSource, ReplaceState};
use butterfs_format::superblock::SUPERBLOCK_OFFSETS;
use butterfs_testkit::disks::{self, Disks};
use butterfs_testkit::fault::{FaultDevice, Request, Rule};
use butterfs_testkit::random::Random;
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

use super::{MIB, SIZE, assert_whole, made, replace, target};

/// What is bad on the source comes from the others.
#[test]
fn bad_sectors_are_taken_from_the_others() {
    let mut devices = made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
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

/// Of what was ever written to a device, free space included, a third of the sectors gets other bytes.
fn damage(device: &MemDevice, seed: u64) {
    let mut random = Random::new(seed);
    for (offset, bytes) in device.written() {
        for at in (offset..offset + bytes.len() as u64).step_by(4096).filter(|at| !SUPERBLOCK_OFFSETS.contains(at)) {
            if random.percent(33) {
                device.write_at(at + 700, &random.bytes(64)).unwrap();
            }
        }
    }
}

/// Nothing is bad, and everything fits its parity.
#[track_caller]
fn assert_scrubbed(fs: &Filesystem, what: &str) {
    for item in fs.shared().gate.volume().dev_items() {
        let monitor = Arc::new(ScrubMonitor::default());
        fs.scrub(DevId(item.devid.get()), &ScrubOptions::whole(ScrubMode::ReadOnly), &monitor).unwrap();
        let findings = monitor.take_findings();
        assert!(findings.is_empty(), "{what}: {} findings, the first is {:?}", findings.len(), findings[0]);
    }
}

/// Where lines hold something in one column, and what was freed, or nothing, in others; all of it with checksums.
fn with_holes(devices: &Disks) {
    let fs = devices.open(&[]).unwrap();
    fs.unlink(Place::new(fs.root(), b"in place")).unwrap();
    for round in 0..30 {
        let id = fs.create(Place::new(fs.root(), format!("small{round}").as_bytes()), &disks::FILE);
        fs.write(id.unwrap(), 0, &Random::new(round).bytes(20_000)).unwrap();
        fs.sync().unwrap();
    }
    for round in (0..30).step_by(3) {
        fs.unlink(Place::new(fs.root(), format!("small{round}").as_bytes())).unwrap();
    }
    fs.sync().unwrap();
}

/// What was damaged in free space does not fit the parity of what lies beside it: the heirs get what fits.
#[test]
fn heirs_fit_their_parity() {
    for (profile, count, victims) in [
        (BlockGroupFlags::RAID5, 3, &[0][..]),
        (BlockGroupFlags::RAID5, 4, &[3]),
        (BlockGroupFlags::RAID6, 4, &[0, 2]),
        (BlockGroupFlags::RAID6, 5, &[4, 1]),
    ] {
        let mut devices = made(count, profile, profile);
        with_holes(&devices);
        victims.iter().for_each(|victim| damage(&devices.0[*victim], *victim as u64));
        for victim in victims {
            let fs = devices.open(&[]).unwrap();
            let new = target(SIZE);
            assert!(matches!(replace(&fs, *victim as u64 + 1, &new).unwrap(), ReplaceEnd::Done(_)));
            drop(fs);
            devices.0[*victim] = new;
        }
        let what = format!("{profile:?} of {count}, {victims:?}");
        devices.judge();
        let fs = devices.open(&[]).unwrap();
        assert_whole(&fs);
        assert_scrubbed(&fs, &what);
    }
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_written() {
    let devices = made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
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

/// A target that fails is told of as what it was.
#[test]
fn a_target_that_fails() {
    let devices = made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
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
    let mut devices = made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
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

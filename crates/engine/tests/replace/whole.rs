//! What is bad, what fails, and what cannot be.

use std::sync::Arc;

use butterfs_engine::Error;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::exclusive::Exclusive;
use butterfs_engine::filesystem::{Filesystem, OpenOptions, ReplaceEnd};
use butterfs_format::DevId;
use butterfs_format::items::{BlockGroupFlags, ReadSource, ReplaceState};
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

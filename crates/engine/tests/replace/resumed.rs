//! What was written without the target, or without its source, before it goes on.

use std::sync::Arc;

use butterfs_engine::Error;
use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Filesystem, OpenOptions, ReplaceEnd, Returning};
use butterfs_format::items::BlockGroupFlags;
use butterfs_testkit::disks::{self, Disks};
use butterfs_testkit::fault::{FaultDevice, Request, Rule};
use butterfs_volume::{OpenMode, Volume};

use super::interrupted::{Cut, interrupted, resume};
use super::{SIZE, assert_whole, made, replace, target};

/// The target missed a commit: nothing that it has counts, or it would be taken for new.
#[test]
fn without_its_target_it_begins_anew() {
    let devices = made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
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
fn durable_cursor(all: &Disks) -> u64 {
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
fn assert_goes_on(mut all: Disks, seed: u64) {
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
    let devices = made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
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
    let devices = made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
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
    let devices = made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    let suspended = interrupted(&devices, SIZE, Cut::Suspended);
    let open_with_fault = |all: &Disks, rule| {
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
    let devices = made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
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

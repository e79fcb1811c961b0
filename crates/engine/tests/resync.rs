//! A device that was away gets what it missed, and no more: content is whole without the others, the check finds nothing.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use butterfs_engine::Error;
use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::file::{DataRule, SizeMode};
use butterfs_engine::filesystem::{Access, Filesystem, NewLength, OpenOptions, Resynced, Returning, WhichDevice};
use butterfs_format::DevId;
use butterfs_format::items::BlockGroupFlags;
use butterfs_testkit::disks::{self, Disks, FILE};
use butterfs_testkit::fault::{Counts, Fault, FaultDevice, Lasting, Request, Rule, errno};
use butterfs_volume::{OpenMode, Volume};

const MIB: u64 = 1 << 20;
/// What is there before the device goes.
const OLD: u64 = 12;

fn made(count: u64, data: BlockGroupFlags, metadata: BlockGroupFlags) -> Disks {
    let devices = Disks::new((0..count).map(|number| (400 + 32 * number) * MIB));
    disks::make(&devices.0, data, metadata);
    devices
}

fn opened(devices: &Disks, new_data: DataRule) -> Filesystem {
    let options = OpenOptions { new_data, returning: Returning::CatchUp, ..OpenOptions::default() };
    devices.open_with(&[], options).unwrap()
}

fn read_only() -> OpenOptions {
    OpenOptions { access: Access::ReadOnly, ..OpenOptions::default() }
}

fn refused(devices: &Disks) -> String {
    devices.open(&[]).map(drop).unwrap_err().to_string()
}

/// What is there before a device goes: files, one that is overwritten in place, and preallocated space.
fn before(devices: &Disks) {
    let fs = opened(devices, DataRule::Usual);
    (0..OLD).for_each(|number| disks::write_noise(&fs, &format!("old{number}"), 0, number));
    let id = fs.create(Place::new(fs.root(), b"preallocated"), &FILE).unwrap();
    fs.preallocate(id, 0..2 * MIB, SizeMode::Extend).unwrap();
    fs.sync().unwrap();
    drop(fs);
    let fs = opened(devices, DataRule::InPlace);
    disks::write_noise(&fs, "in place", 0, 100);
    fs.sync().unwrap();
}

/// What is done without it, in several commits: each way in which bytes come where old chunks are.
fn meanwhile(fs: &Filesystem) {
    disks::write_noise(fs, "in place", 0, 200);
    disks::write_noise(fs, "preallocated", 0, 201);
    disks::write_noise(fs, "freed", 0, 202);
    fs.sync().unwrap();
    fs.unlink(Place::new(fs.root(), b"freed")).unwrap();
    fs.unlink(Place::new(fs.root(), b"old0")).unwrap();
    fs.sync().unwrap();
    disks::write_noise(fs, "new", 0, 203);
    disks::write_noise(fs, "old1", 0, 204);
    fs.sync().unwrap();
}

#[track_caller]
fn assert_whole(fs: &Filesystem) {
    disks::assert_noise(fs, "in place", 0, 200);
    disks::assert_noise(fs, "preallocated", 0, 201);
    disks::assert_noise(fs, "new", 0, 203);
    disks::assert_noise(fs, "old1", 0, 204);
    (2..OLD).for_each(|number| disks::assert_noise(fs, &format!("old{number}"), 0, number));
}

fn resynced(fs: &Filesystem) -> Resynced {
    let mut done = fs.resync().unwrap();
    assert_eq!(done.len(), 1, "{done:?}");
    done.remove(0)
}

/// The device comes back as it was, and the others were written in all chunks, as the kernel writes degraded.
fn comes_back(data: BlockGroupFlags, metadata: BlockGroupFlags, count: u64) {
    let devices = made(count, data, metadata);
    before(&devices);
    let mut devices = devices;
    for gone in [0, count as usize - 1] {
        let away = Arc::new(devices.0[gone].snapshot());
        let all = devices.snapshot();
        meanwhile(&opened(&all, DataRule::Usual));
        devices = Disks(all.0);
        devices.0[gone] = away;
        assert!(refused(&devices).contains("missed commits"));
        let copy = devices.snapshot();
        let fs = opened(&copy, DataRule::Usual);
        assert_whole(&fs);
        disks::write_noise(&fs, "written before", 0, 300);
        // Others go on meanwhile.
        let done = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for round in 0..4 {
                    disks::write_noise(&fs, "in place", MIB, 301 + round);
                    disks::write_noise(&fs, "preallocated", MIB, 310 + round);
                    disks::write_noise(&fs, "beside", round * MIB, 320 + round);
                    fs.sync().unwrap();
                }
            });
            let done = resynced(&fs);
            writer.join().unwrap();
            done
        });
        // Each device has at most one of the copies: 4 MiB are new, 2 may have been overwritten, some is metadata.
        assert!(done.progress.copied < 14 * MIB, "{done:?}");
        assert_eq!(done.progress.unreadable, 0);
        fs.sync().unwrap();
        drop(fs);
        copy.judge();
        assert_eq!(opened(&copy, DataRule::Usual).resync().unwrap(), []);
        // Whichever else is lost, what came back stands in for it.
        for other in (0..count as usize).filter(|other| *other != gone) {
            let options = read_only();
            let fs = copy.open_with(&[other], options).unwrap();
            assert_whole(&fs);
            disks::assert_noise(&fs, "written before", 0, 300);
            disks::assert_noise(&fs, "in place", MIB, 304);
            disks::assert_noise(&fs, "preallocated", MIB, 313);
            (0..4).for_each(|round| disks::assert_noise(&fs, "beside", round * MIB, 320 + round));
        }
        devices.0[gone] = Arc::new(copy.0[gone].snapshot());
        devices = Disks(copy.0);
        let fs = opened(&devices, DataRule::Usual);
        disks::write_noise(&fs, "old0", 0, 0);
        fs.unlink(Place::new(fs.root(), b"preallocated")).unwrap();
        let id = fs.create(Place::new(fs.root(), b"preallocated"), &FILE).unwrap();
        fs.preallocate(id, 0..2 * MIB, SizeMode::Extend).unwrap();
        fs.sync().unwrap();
    }
}

#[test]
fn raid1_of_two() {
    comes_back(BlockGroupFlags::RAID1, BlockGroupFlags::RAID1, 2);
}

#[test]
fn raid1c3_and_raid10_of_four() {
    comes_back(BlockGroupFlags::RAID10, BlockGroupFlags::RAID1C3, 4);
}

#[test]
fn raid5_of_three() {
    comes_back(BlockGroupFlags::RAID5, BlockGroupFlags::RAID5, 3);
}

#[test]
fn raid6_of_four() {
    comes_back(BlockGroupFlags::RAID6, BlockGroupFlags::RAID6, 4);
}

/// What is cut short leaves the device as old as it was, whatever it holds by then.
#[test]
fn a_power_cut_leaves_the_device_old() {
    let devices = made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    before(&devices);
    let away = Arc::new(devices.0[1].snapshot());
    meanwhile(&opened(&devices, DataRule::Usual));
    let devices = Disks(vec![devices.0[0].clone(), away]);
    let fs = opened(&devices, DataRule::Usual);
    let mut cuts = vec![devices.snapshot()];
    std::thread::scope(|scope| {
        let resync = scope.spawn(|| resynced(&fs));
        while !resync.is_finished() && cuts.len() < 12 {
            // The first device last: its commits count on nothing of the other.
            let second = Arc::new(devices.0[1].snapshot());
            cuts.push(Disks(vec![Arc::new(devices.0[0].snapshot()), second]));
        }
        resync.join().unwrap();
    });
    drop(fs);
    let mut old = 0;
    for cut in &cuts {
        let fs = opened(cut, DataRule::Usual);
        old += fs.resync().unwrap().len();
        assert_whole(&fs);
        drop(fs);
        cut.judge();
        assert_whole(&cut.open_with(&[0], read_only()).unwrap());
    }
    assert!(old > 0, "no cut came before the end");
}

/// A single commit without the device, and its newest roots copied: it must not count as whole then.
#[test]
fn one_commit_behind_is_not_whole_half_way() {
    let devices = made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    before(&devices);
    let fs = opened(&devices, DataRule::Usual);
    let away = Arc::new(devices.0[1].snapshot());
    disks::write_noise(&fs, "in place", 0, 200);
    fs.sync().unwrap();
    drop(fs);
    let devices = Disks(vec![devices.0[0].clone(), away]);
    let fs = opened(&devices, DataRule::Usual);
    fs.cancel_resync();
    assert!(fs.resync().is_err());
    drop(fs);
    assert!(refused(&devices).contains("missed commits"));
    let fs = opened(&devices, DataRule::Usual);
    resynced(&fs);
    drop(fs);
    devices.judge();
    let fs = devices.open_with(&[0], read_only()).unwrap();
    disks::assert_noise(&fs, "in place", 0, 200);
}

#[test]
fn what_only_it_has_is_refused() {
    let devices = made(2, BlockGroupFlags::RAID0, BlockGroupFlags::RAID1);
    before(&devices);
    let away = Arc::new(devices.0[1].snapshot());
    meanwhile(&opened(&devices, DataRule::Usual));
    let devices = Disks(vec![devices.0[0].clone(), away]);
    let options = OpenOptions { returning: Returning::CatchUp, ..OpenOptions::default() };
    let refused = devices.open_with(&[], options).map(drop).unwrap_err().to_string();
    assert!(refused.contains("cannot be read without"), "{refused}");
}

/// Files of one MiB that are written while a device is brought up to date.
const NEW: u64 = 400;

/// While a device is brought up to date, what is new lies on the others, whatever the profile: a power cut takes nothing.
#[test]
fn new_chunks_do_not_count_on_it() {
    for (data, metadata, count) in [
        (BlockGroupFlags::empty(), BlockGroupFlags::RAID1, 2),
        (BlockGroupFlags::RAID1, BlockGroupFlags::RAID1, 2),
        (BlockGroupFlags::RAID1, BlockGroupFlags::RAID1C3, 3),
        (BlockGroupFlags::RAID5, BlockGroupFlags::RAID1, 3),
    ] {
        println!("data {data:?}, metadata {metadata:?}");
        let last = count as usize - 1;
        // The first chunk on one device alone lies on the first, the next would lie on the last.
        let size = |number| if number == 0 { 1500 } else { 1450 };
        let mut devices = Disks::new((0..count).map(|number| size(number) * MIB));
        disks::make(&devices.0, data, metadata);
        let away = {
            let fs = opened(&devices, DataRule::Usual);
            fs.sync().unwrap();
            drop(fs);
            Arc::new(devices.0[last].snapshot())
        };
        let fs = devices.open_with(&[last], OpenOptions::default()).unwrap();
        (0..3).for_each(|n| {
            disks::write_noise(&fs, &format!("old{n}"), 0, n);
            fs.sync().unwrap();
        });
        drop(fs);
        devices.0[last] = away;
        let fs = opened(&devices, DataRule::Usual);
        for refused in [
            fs.resize_device(DevId(1), NewLength::Less(MIB)).map(drop),
            fs.begin_removal(&[WhichDevice::Id(DevId(1))]).map(drop),
        ] {
            assert!(matches!(refused, Err(Error::Busy(_))), "{refused:?}");
        }
        // More than any chunk that there is can take.
        (0..NEW).for_each(|n| disks::write_noise(&fs, &format!("new{n}"), 0, 1000 + n));
        fs.sync().unwrap();
        let cut = devices.snapshot();
        for copies in [&devices, &cut] {
            let options = read_only();
            let fs = copies.open_with(&[last], options).unwrap();
            (0..NEW).for_each(|n| disks::assert_noise(&fs, &format!("new{n}"), 0, 1000 + n));
        }
        drop(fs);
        let fs = opened(&cut, DataRule::Usual);
        resynced(&fs);
        (0..NEW).for_each(|n| disks::assert_noise(&fs, &format!("new{n}"), 0, 1000 + n));
        drop(fs);
        cut.judge();
    }
}

/// Half of what it missed is there, also where no checksum tells: nobody takes it for a filesystem, until it is one.
#[test]
fn half_way_it_is_nothing_alone() {
    let mut devices = made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    before(&devices);
    let away = Arc::new(devices.0[1].snapshot());
    meanwhile(&opened(&devices, DataRule::InPlace));
    devices.0[1] = away;
    let fs = opened(&devices, DataRule::Usual);
    let windows = std::cell::Cell::new(0);
    let stopped = fs.resync_until(&|| windows.replace(windows.get() + 1) == 2);
    assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
    drop(fs);
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let alone = devices.open_with(&[0], OpenOptions { access, ..OpenOptions::default() });
        let refused = alone.map(drop).unwrap_err().to_string();
        assert!(refused.contains("half of it is old"), "{refused}");
    }
    let fs = opened(&devices, DataRule::Usual);
    assert_whole(&fs);
    resynced(&fs);
    fs.sync().unwrap();
    drop(fs);
    devices.judge();
    assert_whole(&devices.open_with(&[0], OpenOptions::default()).unwrap());
}

/// What is overwritten in place would come to the devices without a commit, and the one that was away would count with its old
/// bytes: so nothing is overwritten where a part of it lies on a device that is missing.
#[test]
fn nothing_is_overwritten_beside_a_missing_device() {
    let devices = made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    before(&devices);
    let away = Arc::new(devices.0[1].snapshot());
    let fs = devices.open_with(&[1], OpenOptions::default()).unwrap();
    disks::write_noise(&fs, "in place", 0, 200);
    fs.write_back_to(0).unwrap();
    let cut = || Disks(vec![Arc::new(devices.0[0].snapshot()), Arc::new(away.snapshot())]);
    let written = cut();
    fs.fsync(fs.lookup(Place::new(fs.root(), b"in place")).unwrap()).unwrap();
    let synced = cut();
    drop(fs);
    // As it was, whichever is read.
    for lost in [0, 1] {
        disks::assert_noise(&written.open_with(&[lost], read_only()).unwrap(), "in place", 0, 100);
    }
    assert!(refused(&synced).contains("missed commits"));
    let fs = opened(&synced, DataRule::Usual);
    disks::assert_noise(&fs, "in place", 0, 200);
    resynced(&fs);
    drop(fs);
    for devices in [&written, &synced] {
        devices.judge();
    }
}

/// Opens all, one of them with a fault.
fn opened_with_fault(
    devices: &Disks,
    which: usize,
    rule: Option<Rule>,
) -> Result<(Filesystem, Arc<FaultDevice>), Error> {
    let mut all = disks::as_devices(&devices.0);
    let fault = Arc::new(FaultDevice::new(all[which].clone(), rule));
    all[which] = fault.clone();
    let volume = Volume::open(all, OpenMode::ReadWrite)?;
    let options = OpenOptions { returning: Returning::CatchUp, ..OpenOptions::default() };
    Ok((Filesystem::open(volume, options, Box::new(SystemEnvironment))?, fault))
}

/// A device fails while it is brought up to date, or the one that it is copied from: that is told, or made up for, and nothing
/// wrong is read, then or later.
#[test]
fn a_device_fails_half_way() {
    let mut devices = made(3, BlockGroupFlags::RAID1C3, BlockGroupFlags::RAID1C3);
    before(&devices);
    let away = Arc::new(devices.0[2].snapshot());
    meanwhile(&opened(&devices, DataRule::InPlace));
    devices.0[2] = away;
    let mut failed = 0;
    for (which, request, lasting) in [
        (2, Request::Write, Lasting::Forever),
        (2, Request::Flush, Lasting::Once),
        (0, Request::Read, Lasting::Once),
        (0, Request::Read, Lasting::Forever),
    ] {
        let of = |counts: Counts| match request {
            Request::Read => counts.reads,
            Request::Write => counts.writes,
            _ => counts.flushes,
        };
        let (fs, fault) = opened_with_fault(&devices.snapshot(), which, None).unwrap();
        let first = of(fault.counts());
        resynced(&fs);
        let all = of(fault.counts());
        for at in (first..all).step_by((all - first).div_ceil(6) as usize) {
            let what = format!("device {which}, {request:?} {at} of {first} to {all}, {lasting:?}");
            let copy = devices.snapshot();
            let rule = Rule { request, at, fault: Fault::Error(errno::EIO), lasting };
            let (fs, fault) = opened_with_fault(&copy, which, Some(rule)).unwrap();
            let done = fs.resync();
            assert!(fault.struck() > 0, "{what}");
            failed += usize::from(done.is_err());
            assert_whole(&fs);
            let _ = fs.sync();
            drop(fs);
            // Whatever it is by now, it is not taken for what it is not.
            if done.is_err() {
                assert!(refused(&copy).contains("missed commits"), "{what}");
            }
            let fs = opened(&copy, DataRule::Usual);
            assert_whole(&fs);
            fs.resync().unwrap();
            assert_whole(&fs);
            fs.sync().unwrap();
            drop(fs);
            copy.judge();
        }
    }
    assert!(failed > 5, "only {failed} failed");
}

/// Each gets what it missed itself, and both together are enough afterwards.
#[test]
fn two_return_of_different_generations() {
    let mut devices = made(4, BlockGroupFlags::RAID1C3, BlockGroupFlags::RAID1C3);
    before(&devices);
    let first = Arc::new(devices.0[0].snapshot());
    let fs = opened(&devices, DataRule::InPlace);
    disks::write_noise(&fs, "in place", 0, 150);
    disks::write_noise(&fs, "between", 0, 151);
    fs.sync().unwrap();
    drop(fs);
    let second = Arc::new(devices.0[3].snapshot());
    meanwhile(&opened(&devices, DataRule::InPlace));
    (devices.0[0], devices.0[3]) = (first, second);
    let fs = opened(&devices, DataRule::Usual);
    let done = fs.resync().unwrap();
    let of = |number| done.iter().find(|resynced| resynced.devid == DevId(number)).map(|resynced| resynced.since);
    assert!(of(1).unwrap() < of(4).unwrap(), "{done:?}");
    fs.sync().unwrap();
    drop(fs);
    devices.judge();
    let fs = devices.open_with(&[1, 2], read_only()).unwrap();
    assert_whole(&fs);
    disks::assert_noise(&fs, "between", 0, 151);
}

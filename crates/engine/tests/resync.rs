//! A device that was away gets what it missed, and no more: content is whole without the others, the check finds nothing.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use butterfs_engine::Error;
use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::file::{DataRule, SizeMode};
use butterfs_engine::filesystem::{
    Access, Filesystem, NewInode, NewKind, NewLength, OpenOptions, Resynced, Returning, WhichDevice,
};
use butterfs_format::DevId;
use butterfs_format::items::BlockGroupFlags;
use butterfs_testkit::disks;
use butterfs_volume::{BlockDevice, MemDevice, Missing, OpenMode, Volume};

const MIB: u64 = 1 << 20;
const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 0, gid: 0 };
/// What is there before the device goes.
const OLD: u64 = 12;

struct Devices(Vec<Arc<MemDevice>>);

impl Devices {
    fn made(count: u64, data: BlockGroupFlags, metadata: BlockGroupFlags) -> Self {
        let named = |number| Arc::new(MemDevice::named(format!("disk{number}"), (400 + 32 * number) * MIB));
        let devices = Self((0..count).map(named).collect());
        disks::make(&devices.0, data, metadata);
        devices
    }

    fn snapshot(&self) -> Self {
        Self(self.0.iter().map(|device| Arc::new(device.snapshot())).collect())
    }

    fn all(&self) -> Vec<Arc<dyn BlockDevice>> {
        disks::as_devices(&self.0)
    }

    fn open_some(&self, missing: &[usize], options: OpenOptions) -> Result<Filesystem, Error> {
        let mode = if options.access == Access::ReadOnly { OpenMode::ReadOnly } else { OpenMode::ReadWrite };
        let how = butterfs_volume::OpenOptions { missing: Missing::Accept, ..butterfs_volume::OpenOptions::new(mode) };
        let there = self.all().into_iter().enumerate().filter(|(index, _)| !missing.contains(index));
        let volume = Volume::open_with(there.map(|(_, device)| device).collect(), &how)?;
        Filesystem::open(volume, options, Box::new(SystemEnvironment))
    }

    fn open(&self, new_data: DataRule) -> Filesystem {
        let options = OpenOptions { new_data, returning: Returning::CatchUp, ..OpenOptions::default() };
        self.open_some(&[], options).unwrap()
    }

    fn refused(&self) -> String {
        self.open_some(&[], OpenOptions::default()).map(drop).unwrap_err().to_string()
    }

    #[track_caller]
    fn judge(&self) {
        disks::judge(&self.all());
    }
}

/// What is there before a device goes: files, one that is overwritten in place, and preallocated space.
fn before(devices: &Devices) {
    let fs = devices.open(DataRule::Usual);
    (0..OLD).for_each(|number| disks::write_noise(&fs, &format!("old{number}"), 0, number));
    let id = fs.create(Place::new(fs.root(), b"preallocated"), &FILE).unwrap();
    fs.preallocate(id, 0..2 * MIB, SizeMode::Extend).unwrap();
    fs.sync().unwrap();
    drop(fs);
    let fs = devices.open(DataRule::InPlace);
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
    let devices = Devices::made(count, data, metadata);
    before(&devices);
    let mut devices = devices;
    for gone in [0, count as usize - 1] {
        let away = Arc::new(devices.0[gone].snapshot());
        let all = devices.snapshot();
        meanwhile(&all.open(DataRule::Usual));
        devices = Devices(all.0);
        devices.0[gone] = away;
        assert!(devices.refused().contains("missed commits"));
        let copy = devices.snapshot();
        let fs = copy.open(DataRule::Usual);
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
        assert_eq!(copy.open(DataRule::Usual).resync().unwrap(), []);
        // Whichever else is lost, what came back stands in for it.
        for other in (0..count as usize).filter(|other| *other != gone) {
            let options = OpenOptions { access: Access::ReadOnly, ..OpenOptions::default() };
            let fs = copy.open_some(&[other], options).unwrap();
            assert_whole(&fs);
            disks::assert_noise(&fs, "written before", 0, 300);
            disks::assert_noise(&fs, "in place", MIB, 304);
            disks::assert_noise(&fs, "preallocated", MIB, 313);
            (0..4).for_each(|round| disks::assert_noise(&fs, "beside", round * MIB, 320 + round));
        }
        devices.0[gone] = Arc::new(copy.0[gone].snapshot());
        devices = Devices(copy.0);
        let fs = devices.open(DataRule::Usual);
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
    let devices = Devices::made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    before(&devices);
    let away = Arc::new(devices.0[1].snapshot());
    meanwhile(&devices.open(DataRule::Usual));
    let devices = Devices(vec![devices.0[0].clone(), away]);
    let fs = devices.open(DataRule::Usual);
    let mut cuts = vec![devices.snapshot()];
    std::thread::scope(|scope| {
        let resync = scope.spawn(|| resynced(&fs));
        while !resync.is_finished() && cuts.len() < 12 {
            // The first device last: its commits count on nothing of the other.
            let second = Arc::new(devices.0[1].snapshot());
            cuts.push(Devices(vec![Arc::new(devices.0[0].snapshot()), second]));
        }
        resync.join().unwrap();
    });
    drop(fs);
    let mut old = 0;
    for cut in &cuts {
        let fs = cut.open(DataRule::Usual);
        old += fs.resync().unwrap().len();
        assert_whole(&fs);
        drop(fs);
        cut.judge();
        assert_whole(&cut.open_some(&[0], OpenOptions { access: Access::ReadOnly, ..OpenOptions::default() }).unwrap());
    }
    assert!(old > 0, "no cut came before the end");
}

/// A single commit without the device, and its newest roots copied: it must not count as whole then.
#[test]
fn one_commit_behind_is_not_whole_half_way() {
    let devices = Devices::made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    before(&devices);
    let fs = devices.open(DataRule::Usual);
    let away = Arc::new(devices.0[1].snapshot());
    disks::write_noise(&fs, "in place", 0, 200);
    fs.sync().unwrap();
    drop(fs);
    let devices = Devices(vec![devices.0[0].clone(), away]);
    let fs = devices.open(DataRule::Usual);
    fs.cancel_resync();
    assert!(fs.resync().is_err());
    drop(fs);
    assert!(devices.refused().contains("missed commits"));
    let fs = devices.open(DataRule::Usual);
    resynced(&fs);
    drop(fs);
    devices.judge();
    let fs = devices.open_some(&[0], OpenOptions { access: Access::ReadOnly, ..OpenOptions::default() }).unwrap();
    disks::assert_noise(&fs, "in place", 0, 200);
}

#[test]
fn what_only_it_has_is_refused() {
    let devices = Devices::made(2, BlockGroupFlags::RAID0, BlockGroupFlags::RAID1);
    before(&devices);
    let away = Arc::new(devices.0[1].snapshot());
    meanwhile(&devices.open(DataRule::Usual));
    let devices = Devices(vec![devices.0[0].clone(), away]);
    let options = OpenOptions { returning: Returning::CatchUp, ..OpenOptions::default() };
    let refused = devices.open_some(&[], options).map(drop).unwrap_err().to_string();
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
        let named = |number| Arc::new(MemDevice::named(format!("disk{number}"), size(number) * MIB));
        let mut devices = Devices((0..count).map(named).collect());
        disks::make(&devices.0, data, metadata);
        let away = {
            let fs = devices.open(DataRule::Usual);
            fs.sync().unwrap();
            drop(fs);
            Arc::new(devices.0[last].snapshot())
        };
        let fs = devices.open_some(&[last], OpenOptions::default()).unwrap();
        (0..3).for_each(|n| {
            disks::write_noise(&fs, &format!("old{n}"), 0, n);
            fs.sync().unwrap();
        });
        drop(fs);
        devices.0[last] = away;
        let fs = devices.open(DataRule::Usual);
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
            let options = OpenOptions { access: Access::ReadOnly, ..OpenOptions::default() };
            let fs = copies.open_some(&[last], options).unwrap();
            (0..NEW).for_each(|n| disks::assert_noise(&fs, &format!("new{n}"), 0, 1000 + n));
        }
        drop(fs);
        let fs = cut.open(DataRule::Usual);
        resynced(&fs);
        (0..NEW).for_each(|n| disks::assert_noise(&fs, &format!("new{n}"), 0, 1000 + n));
        drop(fs);
        cut.judge();
    }
}

/// Half of what it missed is there, also where no checksum tells: nobody takes it for a filesystem, until it is one.
#[test]
fn half_way_it_is_nothing_alone() {
    let mut devices = Devices::made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    before(&devices);
    let away = Arc::new(devices.0[1].snapshot());
    meanwhile(&devices.open(DataRule::InPlace));
    devices.0[1] = away;
    let fs = devices.open(DataRule::Usual);
    let windows = std::cell::Cell::new(0);
    let stopped = fs.resync_until(&|| windows.replace(windows.get() + 1) == 2);
    assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
    drop(fs);
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let alone = devices.open_some(&[0], OpenOptions { access, ..OpenOptions::default() });
        let refused = alone.map(drop).unwrap_err().to_string();
        assert!(refused.contains("half of it is old"), "{refused}");
    }
    let fs = devices.open(DataRule::Usual);
    assert_whole(&fs);
    resynced(&fs);
    fs.sync().unwrap();
    drop(fs);
    devices.judge();
    assert_whole(&devices.open_some(&[0], OpenOptions::default()).unwrap());
}

/// Each gets what it missed itself, and both together are enough afterwards.
#[test]
fn two_return_of_different_generations() {
    let mut devices = Devices::made(4, BlockGroupFlags::RAID1C3, BlockGroupFlags::RAID1C3);
    before(&devices);
    let first = Arc::new(devices.0[0].snapshot());
    let fs = devices.open(DataRule::InPlace);
    disks::write_noise(&fs, "in place", 0, 150);
    disks::write_noise(&fs, "between", 0, 151);
    fs.sync().unwrap();
    drop(fs);
    let second = Arc::new(devices.0[3].snapshot());
    meanwhile(&devices.open(DataRule::InPlace));
    (devices.0[0], devices.0[3]) = (first, second);
    let fs = devices.open(DataRule::Usual);
    let done = fs.resync().unwrap();
    let of = |number| done.iter().find(|resynced| resynced.devid == DevId(number)).map(|resynced| resynced.since);
    assert!(of(1).unwrap() < of(4).unwrap(), "{done:?}");
    fs.sync().unwrap();
    drop(fs);
    devices.judge();
    let fs = devices.open_some(&[1, 2], OpenOptions { access: Access::ReadOnly, ..OpenOptions::default() }).unwrap();
    assert_whole(&fs);
    disks::assert_noise(&fs, "between", 0, 151);
}

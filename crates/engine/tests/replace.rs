//! A device is replaced by another, there or missing, good or bad, while files are written: content is whole, also with
//! another one lost afterwards, and the check finds nothing.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use butterfs_engine::Error;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::file::DataRule;
use butterfs_engine::filesystem::exclusive::Exclusive;
use butterfs_engine::filesystem::{Access, Filesystem, OpenOptions, ReplaceEnd, ReplaceStatus};
use butterfs_engine::tx::Need;
use butterfs_format::items::BlockGroupFlags;
use butterfs_format::{DevId, ItemType, Key, TreeId};
use butterfs_testkit::disks;
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
    let begun = fs.begin_replacement(DevId(devid), &device)?;
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
        assert!(matches!(fs.replace_status(), ReplaceStatus::Finished(..)));
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
    assert!(matches!(replace(&fs, 1, &target(SIZE)), Err(Error::InProgress("resize"))));
    drop(turn);
    assert_eq!(fs.replace_status(), ReplaceStatus::Never);
    assert!(matches!(replace(&fs, 1, &target(SIZE)).unwrap(), ReplaceEnd::Done(_)));
}

/// What the kernel suspended is its own: what we wrote would be missing on the device that it fills.
#[test]
fn a_replacement_of_the_kernel_is_left_alone() {
    const SUSPENDED: u8 = 4;
    let devices = Devices::made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    let fs = devices.open(&[]).unwrap();
    let key = Key { objectid: 0, item_type: ItemType::DEV_REPLACE, offset: 0 };
    let mut item = [0; 72];
    item[32] = SUSPENDED;
    fs.shared().gate.commit_with(Need::Deletion, |tx| tx.put(TreeId::DEV, &key, &item)).unwrap();
    drop(fs);
    let refused = devices.open(&[]).map(drop).unwrap_err().to_string();
    assert!(refused.contains("while the kernel replaces a device"), "{refused}");
    assert_whole(&devices.open_with(&[], OpenOptions { access: Access::ReadOnly, ..OpenOptions::default() }).unwrap());
}

/// Cancelled, or cut at any moment, the filesystem is what it was, or the target is its device.
#[test]
fn cancelled_and_cut() {
    let devices = Devices::made(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    let fs = devices.open(&[]).unwrap();
    let new = target(SIZE);
    let device: Arc<dyn BlockDevice> = new.clone();
    let begun = fs.begin_replacement(DevId(2), &device).unwrap();
    std::thread::scope(|scope| {
        let canceller = scope.spawn(|| fs.exclusive().cancel(Exclusive::DeviceReplace));
        while !fs.exclusive().is_cancelled() {
            std::thread::yield_now();
        }
        assert_eq!(fs.run_replacement(begun).unwrap(), ReplaceEnd::Cancelled);
        canceller.join().unwrap().unwrap();
    });
    assert!(matches!(fs.replace_status(), ReplaceStatus::Cancelled(..)));
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
        let is_there = |at: usize| {
            Volume::open_with(
                vec![cut.0[at].clone()],
                &butterfs_volume::OpenOptions {
                    missing: Missing::Accept,
                    ..butterfs_volume::OpenOptions::new(OpenMode::ReadOnly)
                },
            )
            .is_ok()
        };
        let there: Vec<_> = (0..3).filter(|at| is_there(*at)).map(|at| cut.0[at].clone()).collect();
        let cut = Devices(there).snapshot();
        let fs = cut.open(&[]).unwrap();
        assert_whole(&fs);
        disks::assert_noise(&fs, "after", 0, 400);
    }
    let done = Devices(vec![devices.0[0].clone(), new]);
    done.judge();
    assert_whole(&done.open(&[0]).unwrap());
}

//! A device is replaced by another, there or missing, good or bad, while files are written: content is whole, also with
//! another one lost afterwards, and the check finds nothing.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod interrupted;
mod resumed;
mod whole;

use std::sync::Arc;

use butterfs_engine::Error;
use butterfs_engine::file::DataRule;
use butterfs_engine::filesystem::{Access, Filesystem, OpenOptions, ReplaceEnd};
use butterfs_format::DevId;
use butterfs_format::items::{BlockGroupFlags, ReadSource, ReplaceState};
use butterfs_testkit::disks::{self, Disks};
use butterfs_testkit::random::Random;
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

const MIB: u64 = 1 << 20;
const FILES: u64 = 20;
/// Of each device, in MiB: room for the new chunks that writing without one of them takes.
const SIZE: u64 = 1200;

/// Devices with files that are there before anything else happens, and one that is overwritten in place.
fn made(count: u64, data: BlockGroupFlags, metadata: BlockGroupFlags) -> Disks {
    let devices = Disks::new((0..count).map(|_| SIZE * MIB));
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
    let mut devices = made(count, data, metadata);
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

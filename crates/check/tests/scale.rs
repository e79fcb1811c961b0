//! Time and findings where something could grow with a square: many subvolumes, many links to one file.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use butterfs_check::{Options, Report, check};
use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, NewInode, NewKind, NewSubvolume, OpenOptions};
use butterfs_engine::inode::InodeId;
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

const SIZE: u64 = 4 << 30;
const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 1, gid: 2 };

fn filesystem() -> (Arc<MemDevice>, Filesystem) {
    let device = Arc::new(MemDevice::new(SIZE));
    mkfs::make(device.clone(), &MakeOptions::new(SIZE, &SystemEnvironment)).unwrap();
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadWrite).unwrap();
    (device, Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap())
}

/// Checks with little memory, too, and gives the report and the longer time.
fn timed(device: &MemDevice) -> (Report, Duration) {
    let device: Arc<dyn BlockDevice> = Arc::new(device.snapshot());
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadOnly).unwrap();
    let options = Options { devices: vec![device], ..Options::default() };
    let begin = Instant::now();
    let report = check(&volume, &options);
    let large = begin.elapsed();
    let begin = Instant::now();
    let tiny = check(&volume, &Options { memory: 1 << 20, ..options });
    assert_eq!((tiny.findings, tiny.statistics), (report.findings.clone(), report.statistics));
    (report, large.max(begin.elapsed()))
}

/// Ten times as many take about ten times as long; a square would be a hundred.
#[track_caller]
fn assert_straight(few: Duration, many: Duration) {
    let floor = Duration::from_millis(30);
    assert!(many < few.max(floor) * 40, "ten times as many take {many:?}, not {few:?}");
}

#[test]
fn three_thousand_subvolumes_take_no_square() {
    let time = |snapshots: usize| {
        let (device, fs) = filesystem();
        let plain = NewSubvolume { permissions: 0o755, uid: 0, gid: 0 };
        let base = fs.create_subvolume(Place::new(fs.root(), b"base"), &plain).unwrap();
        for number in 0..400 {
            fs.create(Place::new(InodeId::top_of(base), format!("file {number}").as_bytes()), &FILE).unwrap();
        }
        for number in 0..snapshots {
            let name = format!("snapshot {number}");
            match number % 3 {
                0 => fs.create_subvolume(Place::new(fs.root(), name.as_bytes()), &plain).map(|_| ()).unwrap(),
                // Each holds the entries of all before it.
                _ => {
                    let top = fs.snapshot(base, Place::new(fs.root(), name.as_bytes()), Access::ReadWrite).unwrap();
                    fs.create(Place::new(InodeId::top_of(top), b"own"), &FILE).unwrap();
                }
            }
        }
        fs.sync().unwrap();
        let (report, time) = timed(&device);
        assert_eq!(report.findings, []);
        assert!(report.statistics.inodes as usize > snapshots * 2 / 3 * 400, "{report}");
        time
    };
    assert_straight(time(300), time(3000));
}

#[test]
fn a_hundred_thousand_links_take_no_square() {
    let time = |links: usize| {
        let (device, fs) = filesystem();
        let file = fs.create(Place::new(fs.root(), b"file"), &FILE).unwrap();
        // One inode takes 65,535 links at most.
        let other = fs.create(Place::new(fs.root(), b"other"), &FILE).unwrap();
        for number in 0..links {
            let target = if number % 2 == 0 { file } else { other };
            fs.link(target, Place::new(fs.root(), format!("link {number}").as_bytes())).unwrap();
        }
        fs.sync().unwrap();
        let (report, time) = timed(&device);
        assert_eq!(report.findings, []);
        time
    };
    assert_straight(time(10_000), time(100_000));
}

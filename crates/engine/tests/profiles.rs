//! Every profile that is written: filled beyond its first chunks, checked, and read with each set of devices missing
//! that it survives.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use butterfs_check::{Finding, Kind, Severity};
use butterfs_engine::Error;
use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::file::SizeMode;
use butterfs_engine::filesystem::{Access, Filesystem, NewInode, NewKind, OpenOptions, RemovalEnd, WhichDevice};
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_format::items::BlockGroupFlags;
use butterfs_testkit::disks;
use butterfs_testkit::random::Random;
use butterfs_volume::{BlockDevice, MemDevice, Missing, OpenMode, Volume};

const MIB: u64 = 1 << 20;
const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 0, gid: 0 };

/// Devices, each 32 MiB larger than the one before.
struct Devices(Vec<Arc<MemDevice>>);

impl Devices {
    fn new(count: u64) -> Self {
        Self::of(160, count)
    }

    fn of(mib: u64, count: u64) -> Self {
        Self((0..count).map(|number| Arc::new(MemDevice::new((mib + 32 * number) * MIB))).collect())
    }

    fn all(&self) -> Vec<Arc<dyn BlockDevice>> {
        self.without(&[])
    }

    fn without(&self, missing: &[usize]) -> Vec<Arc<dyn BlockDevice>> {
        let there = self.0.iter().enumerate().filter(|(index, _)| !missing.contains(index));
        there.map(|(_, device)| device.clone() as Arc<dyn BlockDevice>).collect()
    }

    fn make(&self, data: BlockGroupFlags, metadata: BlockGroupFlags) {
        disks::make(&self.0, data, metadata);
    }

    fn open(&self) -> Filesystem {
        let volume = Volume::open(self.all(), OpenMode::ReadWrite).unwrap();
        Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap()
    }

    fn open_without(&self, missing: &[usize], access: Access) -> Result<Filesystem, Error> {
        let mode = if access == Access::ReadOnly { OpenMode::ReadOnly } else { OpenMode::ReadWrite };
        let how = butterfs_volume::OpenOptions { missing: Missing::Accept, ..butterfs_volume::OpenOptions::new(mode) };
        let volume = Volume::open_with(self.without(missing), &how)?;
        let options = OpenOptions { access, ..OpenOptions::default() };
        Filesystem::open(volume, options, Box::new(SystemEnvironment))
    }

    fn findings(&self) -> Vec<Finding> {
        let volume = Volume::open(self.all(), OpenMode::ReadOnly).unwrap();
        let options = butterfs_check::Options { data_csums: true, devices: self.all(), ..Default::default() };
        let findings = butterfs_check::check(&volume, &options).findings;
        findings.into_iter().filter(|finding| finding.severity != Severity::Note).collect()
    }

    fn judge(&self) {
        assert!(self.findings().is_empty(), "{:?}", self.findings());
    }
}

/// Large files of noise, and many small ones, so that data and metadata need new chunks.
fn fill(fs: &Filesystem, from: u64, large: u64) {
    for number in from..from + large {
        let id = fs.create(Place::new(fs.root(), format!("large{number}").as_bytes()), &FILE).unwrap();
        fs.write(id, 0, &content(number)).unwrap();
        for small in 0..400 {
            let name = small_name(number, small);
            let id = fs.create(Place::new(fs.root(), name.as_bytes()), &FILE).unwrap();
            fs.write(id, 0, name.as_bytes()).unwrap();
        }
        fs.sync().unwrap();
    }
}

fn small_name(number: u64, small: u64) -> String {
    format!("small{number}.{small} {}", "x".repeat(100))
}

fn content(number: u64) -> Vec<u8> {
    Random::new(number).bytes(5 << 20)
}

fn assert_has(fs: &Filesystem, large: u64, what: &str) {
    for number in 0..large {
        let id = fs.lookup(Place::new(fs.root(), format!("large{number}").as_bytes())).unwrap();
        let mut bytes = vec![0; 5 << 20];
        let read = fs.read(id, 0, &mut bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(read == bytes.len() && bytes == content(number), "{what}: large{number} differs");
        fs.lookup(Place::new(fs.root(), small_name(number, 399).as_bytes())).unwrap();
    }
}

/// Each set of one to `most` of `count` devices.
fn sets(count: usize, most: usize) -> Vec<Vec<usize>> {
    let all = (1..1usize << count).map(|bits| (0..count).filter(|at| bits >> at & 1 != 0).collect::<Vec<_>>());
    all.filter(|set| set.len() <= most).collect()
}

fn round_trip(data: BlockGroupFlags, metadata: BlockGroupFlags, count: u64, survives: usize) {
    let devices = Devices::new(count);
    devices.make(data, metadata);
    devices.judge();
    let fs = devices.open();
    fill(&fs, 0, 10);
    drop(fs);
    devices.judge();
    let fs = devices.open();
    fill(&fs, 10, 4);
    assert_has(&fs, 14, "all there");
    for number in 0..5 {
        fs.unlink(Place::new(fs.root(), format!("large{number}").as_bytes())).unwrap();
        for small in 0..400 {
            fs.unlink(Place::new(fs.root(), small_name(number, small).as_bytes())).unwrap();
        }
    }
    fill(&fs, 0, 5);
    fs.sync().unwrap();
    drop(fs);
    devices.judge();
    for missing in sets(count as usize, survives) {
        let fs = devices.open_without(&missing, Access::ReadOnly).unwrap();
        assert_has(&fs, 14, &format!("without {missing:?}"));
    }
}

macro_rules! profiles {
    ($($name:ident: $data:expr, $metadata:expr, $devices:literal, survives $survives:literal;)*) => {$(
        #[test]
        fn $name() {
            round_trip($data, $metadata, $devices, $survives);
        }
    )*};
}

const SINGLE: BlockGroupFlags = BlockGroupFlags::empty();

profiles! {
    single_on_three: SINGLE, SINGLE, 3, survives 0;
    dup_on_two: BlockGroupFlags::DUP, BlockGroupFlags::DUP, 2, survives 0;
    raid0: BlockGroupFlags::RAID0, BlockGroupFlags::RAID0, 3, survives 0;
    raid1: BlockGroupFlags::RAID1, BlockGroupFlags::RAID1, 3, survives 1;
    raid1c3: BlockGroupFlags::RAID1C3, BlockGroupFlags::RAID1C3, 4, survives 2;
    raid1c4: BlockGroupFlags::RAID1C4, BlockGroupFlags::RAID1C4, 5, survives 3;
    raid10: BlockGroupFlags::RAID10, BlockGroupFlags::RAID10, 5, survives 1;
    raid5_on_two: BlockGroupFlags::RAID5, BlockGroupFlags::RAID5, 2, survives 1;
    raid5_on_three: BlockGroupFlags::RAID5, BlockGroupFlags::RAID5, 3, survives 1;
    raid5_on_five: BlockGroupFlags::RAID5, BlockGroupFlags::RAID1, 5, survives 1;
    raid6_on_three: BlockGroupFlags::RAID6, BlockGroupFlags::RAID6, 3, survives 2;
    raid6_on_four: BlockGroupFlags::RAID6, BlockGroupFlags::RAID1C3, 4, survives 2;
    raid6_on_six: BlockGroupFlags::RAID6, BlockGroupFlags::RAID6, 6, survives 2;
    mixed_profiles: BlockGroupFlags::RAID0, BlockGroupFlags::RAID1C3, 3, survives 0;
}

/// A filesystem whose files grew while a device was missing. Chunks of the missing device stay as they are, so that
/// device still fits them when it is back.
fn without_one(data: BlockGroupFlags, metadata: BlockGroupFlags, count: u64) {
    let devices = Devices::of(640, count);
    devices.make(data, metadata);
    let fs = devices.open();
    fill(&fs, 0, 4);
    // What is preallocated, or deleted and made again, lies in chunks that must not be written now.
    let early = fs.create(Place::new(fs.root(), b"preallocated"), &FILE).unwrap();
    fs.preallocate(early, 0..1 << 20, SizeMode::Keep).unwrap();
    fs.sync().unwrap();
    drop(fs);
    let gone = count as usize - 1;
    let before = devices.0[gone].written();
    let fs = devices.open_without(&[gone], Access::ReadWrite).unwrap();
    assert_has(&fs, 4, "degraded");
    fs.write(fs.lookup(Place::new(fs.root(), b"preallocated")).unwrap(), 0, &[7; 1 << 20]).unwrap();
    fs.unlink(Place::new(fs.root(), b"large0")).unwrap();
    fs.sync().unwrap();
    (0..400).for_each(|small| fs.unlink(Place::new(fs.root(), small_name(0, small).as_bytes())).unwrap());
    fill(&fs, 0, 1);
    fill(&fs, 4, 2);
    drop(fs);
    assert!(devices.0[gone].written() == before, "the missing device changed");
    let fs = devices.open_without(&[gone], Access::ReadOnly).unwrap();
    assert_has(&fs, 6, "degraded again");
    drop(fs);
    assert!(
        devices.findings().iter().all(|finding| finding.kind == Kind::SuperblockMirror),
        "{:?}",
        devices.findings()
    );
    let fs = devices.open_without(&[], Access::ReadOnly).unwrap();
    assert_has(&fs, 6, "with the old device");
    drop(fs);
    let refused = devices.open_without(&[], Access::ReadWrite).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("missed commits"), "{refused}");
}

#[test]
fn raid1_is_written_without_one_of_three() {
    without_one(BlockGroupFlags::RAID1, BlockGroupFlags::RAID1, 3);
}

#[test]
fn raid1_is_written_without_one_of_two() {
    without_one(BlockGroupFlags::RAID1, BlockGroupFlags::RAID1, 2);
}

#[test]
fn raid5_is_written_without_one_of_three() {
    without_one(BlockGroupFlags::RAID5, BlockGroupFlags::RAID5, 3);
}

#[test]
fn raid6_is_written_without_one_of_five() {
    without_one(BlockGroupFlags::RAID6, BlockGroupFlags::RAID6, 5);
}

#[test]
fn raid10_is_written_without_one_of_four() {
    without_one(BlockGroupFlags::RAID10, BlockGroupFlags::RAID1C3, 4);
}

/// Whichever device is missing, and whatever chunks lie on it: groups become empty, a device comes, the missing one goes.
#[test]
fn a_device_comes_where_the_chunk_tree_has_no_room() {
    for (gone, sizes) in (0..3).flat_map(|gone| [[400u64, 400, 400], [400, 500, 600]].map(|sizes| (gone, sizes))) {
        let devices = Devices(sizes.map(|mib| Arc::new(MemDevice::new(mib * MIB))).to_vec());
        devices.make(BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
        let fs = devices.open();
        fill(&fs, 0, 8);
        drop(fs);
        let fs = devices.open_without(&[gone], Access::ReadWrite).unwrap();
        for number in 1..8 {
            fs.unlink(Place::new(fs.root(), format!("large{number}").as_bytes())).unwrap();
        }
        (0..3).for_each(|_| fs.sync().unwrap());
        let new: Arc<dyn BlockDevice> = Arc::new(MemDevice::named("new", 600 * MIB));
        fs.add_device(&new).unwrap_or_else(|error| panic!("without {gone} of {sizes:?}: {error}"));
        let removal = fs.begin_removal(&[WhichDevice::Missing]).unwrap();
        assert_eq!(fs.run_removal(removal).unwrap(), RemovalEnd::Done);
        assert_has(&fs, 1, "the new device is there");
        drop(fs);
        let left = devices.without(&[gone]).into_iter().chain([new]).collect();
        let volume = Volume::open(left, OpenMode::ReadOnly).unwrap();
        let options = butterfs_check::Options { data_csums: true, ..Default::default() };
        let mut findings = butterfs_check::check(&volume, &options).findings;
        findings.retain(|finding| finding.severity != Severity::Note);
        assert!(findings.is_empty(), "without {gone} of {sizes:?}: {findings:?}");
    }
}

#[test]
fn single_data_is_not_written_without_a_device() {
    let devices = Devices::new(2);
    devices.make(BlockGroupFlags::RAID0, BlockGroupFlags::RAID1);
    let refused = devices.open_without(&[1], Access::ReadWrite).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("is lost without") && refused.contains("read-only"), "{refused}");
    devices.open_without(&[1], Access::ReadOnly).unwrap();
}

#[test]
fn too_few_devices_are_refused_before_anything_is_written() {
    let devices = Devices::new(1);
    let mut options = MakeOptions::new(160 * MIB, &SystemEnvironment);
    options.data_profile = BlockGroupFlags::RAID1;
    let refused = mkfs::make_on(&devices.all(), &options);
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    let mut front = [0; 1 << 17];
    devices.0[0].read_at(0, &mut front).unwrap();
    assert!(front.iter().all(|byte| *byte == 0));
}

/// Power fails between the superblocks of one commit: the rest of it is on all devices.
#[test]
fn a_device_one_superblock_behind_is_written_and_one_further_behind_is_refused() {
    let devices = Devices::new(2);
    devices.make(BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    let fs = devices.open();
    let mut superblocks = Vec::new();
    for number in 0..3 {
        let mut bytes = [0; 4096];
        devices.0[1].read_at(65536, &mut bytes).unwrap();
        superblocks.push(bytes);
        fill(&fs, number, 1);
    }
    drop(fs);
    let access = |superblock: &[u8; 4096]| {
        let copies = Devices(devices.0.iter().map(|device| Arc::new(device.snapshot())).collect());
        copies.0[1].write_at(65536, superblock).unwrap();
        let volume = Volume::open(copies.all(), OpenMode::ReadWrite).unwrap();
        Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).map(|fs| {
            assert_has(&fs, 3, "one superblock behind");
            fill(&fs, 3, 1);
            drop(fs);
            copies.judge();
        })
    };
    access(&superblocks[2]).unwrap();
    let refused = access(&superblocks[1]).unwrap_err().to_string();
    assert!(refused.contains("missed commits") && refused.contains("device 2"), "{refused}");
}

/// What was read wrong is to be written down; while a device is missing there may be no chunk to write it to.
#[test]
fn statistics_alone_are_committed_while_a_device_is_missing() {
    let devices = Devices::new(2);
    devices.make(BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    let fs = devices.open();
    let id = fs.create(Place::new(fs.root(), b"file"), &FILE).unwrap();
    fs.write(id, 0, &content(1)).unwrap();
    fs.sync().unwrap();
    drop(fs);
    let start = &content(1)[..4096];
    let written = devices.0[0].written();
    let found = written.iter().find_map(|(at, bytes)| {
        bytes.chunks(4096).position(|block| block == start).map(|block| at + 4096 * block as u64)
    });
    devices.0[0].write_at(found.unwrap(), &[0; 4096]).unwrap();
    let fs = devices.open_without(&[1], Access::ReadWrite).unwrap();
    let id = fs.lookup(Place::new(fs.root(), b"file")).unwrap();
    assert!(fs.read(id, 0, &mut [0; 4096]).is_err());
    fs.sync().unwrap();
    fs.create(Place::new(fs.root(), b"another"), &FILE).unwrap();
    fs.sync().unwrap();
}

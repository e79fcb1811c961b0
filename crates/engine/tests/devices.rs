//! Balance, and devices that come, go and change their size: content stays, and the check finds nothing.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use butterfs_check::{Finding, Severity};
use butterfs_engine::Error;
use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{
    Access, BalanceEnd, BalanceProgress, Filesystem, NewInode, NewKind, NewLength, OpenOptions, RemovalEnd, WhichDevice,
};
use butterfs_engine::mkfs::{self, MakeOptions, NewDevice};
use butterfs_format::items::{BalanceArgs, BalanceFilters, BalanceFlags, BalanceItem, BlockGroupFlags, SINGLE};
use butterfs_format::superblock::{Incompat, SUPERBLOCK_OFFSETS};
use butterfs_format::{DevId, TreeId};
use butterfs_testkit::disks;
use butterfs_testkit::random::Random;
use butterfs_volume::{BlockDevice, MemDevice, Missing, OpenMode, Volume};

const MIB: u64 = 1 << 20;
const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 0, gid: 0 };
const ALL: BalanceFlags = BalanceFlags::DATA.union(BalanceFlags::METADATA).union(BalanceFlags::SYSTEM);
const KINDS: [BlockGroupFlags; 3] = [BlockGroupFlags::DATA, BlockGroupFlags::METADATA, BlockGroupFlags::SYSTEM];
const SINGLE_PROFILE: BlockGroupFlags = BlockGroupFlags::empty();

struct Devices(Vec<Arc<MemDevice>>);

impl Devices {
    fn new(sizes: &[u64]) -> Self {
        Self(sizes.iter().map(|mib| Arc::new(MemDevice::named(format!("disk {mib}"), mib * MIB))).collect())
    }

    /// A filesystem on the first so many of them.
    fn make(&self, count: usize, data: BlockGroupFlags, metadata: BlockGroupFlags) {
        disks::make(&self.0[..count], data, metadata);
    }

    fn some(&self, which: impl IntoIterator<Item = usize>) -> Vec<Arc<dyn BlockDevice>> {
        which.into_iter().map(|index| self.0[index].clone() as Arc<dyn BlockDevice>).collect()
    }

    fn open(&self, which: impl IntoIterator<Item = usize>) -> Filesystem {
        let how = butterfs_volume::OpenOptions {
            missing: Missing::Accept,
            ..butterfs_volume::OpenOptions::new(OpenMode::ReadWrite)
        };
        let volume = Volume::open_with(self.some(which), &how).unwrap();
        Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap()
    }

    #[track_caller]
    fn judge(&self, which: impl IntoIterator<Item = usize>) {
        let devices = self.some(which);
        let volume = Volume::open(devices.clone(), OpenMode::ReadOnly).unwrap();
        let options = butterfs_check::Options { data_csums: true, devices, ..Default::default() };
        let findings: Vec<Finding> = butterfs_check::check(&volume, &options).findings;
        let bad: Vec<_> = findings.into_iter().filter(|finding| finding.severity != Severity::Note).collect();
        assert!(bad.is_empty(), "{bad:?}");
    }
}

fn content(seed: u64) -> Vec<u8> {
    Random::new(seed).bytes(3_000_000)
}

/// Large files of noise, small ones, a snapshot that shares them.
fn fill(fs: &Filesystem, files: u64) {
    for number in 0..files {
        let id = fs.create(Place::new(fs.root(), format!("large{number}").as_bytes()), &FILE).unwrap();
        fs.write(id, 0, &content(number)).unwrap();
        for small in 0..50 {
            let id = fs.create(Place::new(fs.root(), format!("small{number}.{small}").as_bytes()), &FILE).unwrap();
            fs.write(id, 0, &[small as u8; 1000]).unwrap();
        }
    }
    fs.sync().unwrap();
    fs.snapshot(TreeId::FS, Place::new(fs.root(), b"snapshot"), Access::ReadOnly).unwrap();
    let id = fs.lookup(Place::new(fs.root(), b"large0")).unwrap();
    fs.write(id, 0, &content(0)[..100_000]).unwrap();
    fs.sync().unwrap();
}

#[track_caller]
fn compare(fs: &Filesystem, files: u64) {
    let snapshot = fs.lookup(Place::new(fs.root(), b"snapshot")).unwrap();
    for dir in [fs.root(), snapshot] {
        for number in 0..files {
            let id = fs.lookup(Place::new(dir, format!("large{number}").as_bytes())).unwrap();
            let mut bytes = vec![0; 3_000_000];
            assert_eq!(fs.read(id, 0, &mut bytes).unwrap(), bytes.len());
            assert!(bytes == content(number), "large{number} differs");
        }
    }
}

fn balance_all() -> BalanceItem {
    BalanceItem { flags: ALL.bits().into(), ..BalanceItem::default() }
}

fn convert(target: BlockGroupFlags) -> BalanceItem {
    let mut args = BalanceArgs::default();
    args.use_filters(BalanceFilters::CONVERT);
    args.target = if target.is_empty() { SINGLE } else { target.bits() }.into();
    let flags = (ALL | BalanceFlags::FORCE).bits().into();
    BalanceItem { flags, data: args, metadata: args, system: args, ..BalanceItem::default() }
}

fn profiles(fs: &Filesystem) -> Vec<BlockGroupFlags> {
    let all = fs.shared().gate.view(|tx| Ok(KINDS.map(|kind| tx.all_groups_of(kind)).concat())).unwrap();
    let mut found: Vec<_> = all.iter().map(|group| group.flags).collect();
    found.sort_by_key(|flags| flags.bits());
    found.dedup();
    found
}

fn used(fs: &Filesystem) -> u64 {
    fs.shared().gate.space().data.used
}

#[test]
fn a_full_balance_moves_all_and_changes_nothing() {
    let devices = Devices::new(&[700]);
    devices.make(1, SINGLE_PROFILE, BlockGroupFlags::DUP);
    let fs = devices.open([0]);
    fill(&fs, 10);
    let (before, data) = (fs.shared().gate.volume().chunks(), used(&fs));
    let (end, progress) = fs.balance(&balance_all()).unwrap();
    assert_eq!(end, BalanceEnd::Done);
    assert_eq!((progress.expected, progress.completed), (before.len() as u64, before.len() as u64));
    let after = fs.shared().gate.volume().chunks();
    assert!(after.iter().all(|(start, _)| before.iter().all(|(old, _)| old != start)), "a group is where it was");
    assert_eq!(used(&fs), data, "something is not shared any more");
    assert_eq!(fs.balance_status(), None);
    compare(&fs, 10);
    drop(fs);
    devices.judge([0]);
    compare(&devices.open([0]), 10);
}

#[test]
fn every_profile_becomes_every_other() {
    let devices = Devices::new(&[1600, 1600, 1620, 1700]);
    devices.make(4, SINGLE_PROFILE, BlockGroupFlags::DUP);
    let fs = devices.open(0..4);
    fill(&fs, 6);
    let data = used(&fs);
    for target in [
        BlockGroupFlags::RAID1,
        BlockGroupFlags::RAID0,
        BlockGroupFlags::RAID1C4,
        BlockGroupFlags::RAID10,
        SINGLE_PROFILE,
        BlockGroupFlags::DUP,
        BlockGroupFlags::RAID1C3,
    ] {
        assert_eq!(fs.balance(&convert(target)).unwrap().0, BalanceEnd::Done);
        let expected = KINDS.map(|kind| kind | target);
        assert_eq!(profiles(&fs), {
            let mut all = expected.to_vec();
            all.sort_by_key(|f| f.bits());
            all
        });
        assert!(fs.mixed_profiles().unwrap().is_empty());
        assert_eq!(used(&fs), data);
        // What is written from then on has it too.
        let name = format!("after {}", target.profile_name());
        let id = fs.create(Place::new(fs.root(), name.as_bytes()), &FILE).unwrap();
        fs.write(id, 0, &content(99)).unwrap();
        fs.sync().unwrap();
        fs.unlink(Place::new(fs.root(), name.as_bytes())).unwrap();
        fs.sync().unwrap();
        compare(&fs, 6);
        devices.judge(0..4);
    }
    // Three of four may go now.
    drop(fs);
    compare(&devices.open([1, 3]), 6);
}

#[test]
fn mixed_groups_become_another_profile() {
    let devices = Devices::new(&[400, 400]);
    let mut options = MakeOptions::new(0, &SystemEnvironment);
    options.devices = devices.0.iter().map(|device| NewDevice::new(device.len(), &SystemEnvironment)).collect();
    (options.nodesize, options.incompat) = (options.sectorsize, options.incompat | Incompat::MIXED_GROUPS);
    (options.data_profile, options.metadata_profile) = (SINGLE_PROFILE, SINGLE_PROFILE);
    mkfs::make_on(&devices.some(0..2), &options).unwrap();
    let fs = devices.open(0..2);
    fill(&fs, 4);
    let generation = fs.shared().gate.volume().superblock().generation();
    let mut only_data = convert(BlockGroupFlags::RAID1);
    only_data.flags = (BalanceFlags::DATA | BalanceFlags::FORCE).bits().into();
    let mut unequal = convert(BlockGroupFlags::RAID1);
    unequal.metadata = BalanceArgs::default();
    for item in [only_data, unequal] {
        let refused = fs.balance(&item);
        assert!(matches!(&refused, Err(Error::Refused(why)) if why.contains("mixed block groups")), "{refused:?}");
    }
    assert_eq!(fs.shared().gate.volume().superblock().generation(), generation, "something was written");
    for target in [BlockGroupFlags::RAID1, BlockGroupFlags::DUP, SINGLE_PROFILE] {
        let (end, progress) = fs.balance(&convert(target)).unwrap();
        assert_eq!((end, progress.completed), (BalanceEnd::Done, progress.expected));
        let mixed = BlockGroupFlags::DATA | BlockGroupFlags::METADATA;
        assert_eq!(profiles(&fs), [BlockGroupFlags::SYSTEM | target, mixed | target]);
        compare(&fs, 4);
        fs.sync().unwrap();
        devices.judge(0..2);
    }
}

#[test]
fn an_interrupted_balance_goes_on() {
    let devices = Devices::new(&[1500, 1500]);
    devices.make(2, SINGLE_PROFILE, BlockGroupFlags::RAID1);
    let fs = devices.open(0..2);
    fill(&fs, 60);
    let fs = std::sync::Arc::new(fs);
    let item = convert(BlockGroupFlags::RAID1);
    let turn = fs.begin_balance(&item).unwrap();
    assert!(matches!(fs.balance(&item), Err(Error::InProgress("balance"))));
    assert!(matches!(fs.resize_device(DevId(1), NewLength::Max), Err(Error::InProgress("balance"))));
    let other = Arc::clone(&fs);
    let runs = std::thread::spawn(move || other.run_balance(turn).unwrap());
    fs.pause_balance().unwrap();
    assert_eq!(runs.join().unwrap().0, BalanceEnd::Paused);
    let paused = fs.balance_status().unwrap();
    assert!(!paused.running && paused.item == item);
    assert!(matches!(fs.resize_device(DevId(1), NewLength::Max), Err(Error::InProgress("balance paused"))));
    drop(Arc::into_inner(fs).unwrap());
    devices.judge(0..2);
    let fs = devices.open(0..2);
    let found = fs.balance_status().expect("the item is on disk");
    assert!(found.item.data.filters().contains(BalanceFilters::CONVERT | BalanceFilters::SOFT));
    assert_eq!(fs.resume_balance().unwrap().0, BalanceEnd::Done);
    assert!(profiles(&fs).iter().all(|flags| flags.profile() == BlockGroupFlags::RAID1), "{:?}", profiles(&fs));
    compare(&fs, 60);
    assert!(matches!(fs.resume_balance(), Err(Error::NotRunning)));
    // Cancelled while paused: the item goes.
    let turn = fs.begin_balance(&balance_all()).unwrap();
    fs.ask_balance_to_pause();
    assert_eq!(
        fs.run_balance(turn).unwrap(),
        (
            BalanceEnd::Paused,
            BalanceProgress { expected: fs.balance_status().unwrap().progress.expected, considered: 0, completed: 0 }
        )
    );
    fs.cancel_balance().unwrap();
    assert_eq!((fs.balance_status(), fs.exclusive().current()), (None, None));
    assert!(matches!(fs.cancel_balance(), Err(Error::NotRunning)));
    drop(fs);
    devices.judge(0..2);
    assert_eq!(devices.open(0..2).balance_status(), None);
}

/// As the kernel: all groups are looked at, whatever the filters let through, and those that are empty count.
#[test]
fn a_balance_looks_at_all_groups() {
    let devices = Devices::new(&[1500]);
    devices.make(1, SINGLE_PROFILE, BlockGroupFlags::DUP);
    let fs = devices.open([0]);
    fill(&fs, 60);
    let count = |fs: &Filesystem| fs.shared().gate.volume().chunks().len() as u64;
    let mut item = BalanceItem { flags: BalanceFlags::DATA.bits().into(), ..BalanceItem::default() };
    item.data.use_filters(BalanceFilters::LIMIT);
    item.data.set_limit(1);
    let groups = count(&fs);
    assert!(groups >= 3);
    let (end, progress) = fs.balance(&item).unwrap();
    let wanted = BalanceProgress { expected: 1, considered: groups, completed: 1 };
    assert_eq!((end, progress), (BalanceEnd::Done, wanted));
    // Nothing is chosen, and all is looked at.
    item.data = BalanceArgs::default();
    item.data.use_filters(BalanceFilters::VRANGE);
    let groups = count(&fs);
    let wanted = BalanceProgress { expected: 0, considered: groups, completed: 0 };
    assert_eq!(fs.balance(&item).unwrap(), (BalanceEnd::Done, wanted));
    devices.judge([0]);
}

/// What a balance moves goes into other groups: those that are fuller than its filters want by then stay.
#[test]
fn filters_are_asked_when_the_turn_comes() {
    let devices = Devices::new(&[1000]);
    devices.make(1, SINGLE_PROFILE, SINGLE_PROFILE);
    let fs = devices.open([0]);
    let data = |fs: &Filesystem| {
        let groups = fs.shared().gate.view(|tx| Ok(tx.all_groups_of(BlockGroupFlags::DATA))).unwrap();
        groups.into_iter().filter(|group| group.used > 0).collect::<Vec<_>>()
    };
    let mut count = 0;
    while data(&fs).len() < 3 {
        let id = fs.create(Place::new(fs.root(), format!("file{count}").as_bytes()), &FILE).unwrap();
        fs.write(id, 0, &content(count)).unwrap();
        fs.sync().unwrap();
        count += 1;
    }
    // Of three files in a row one stays, in all of them: each group is a third full, and two are more than a half.
    for number in (0..count).filter(|number| number % 3 > 0) {
        fs.unlink(Place::new(fs.root(), format!("file{number}").as_bytes())).unwrap();
    }
    fs.sync().unwrap();
    fs.sync().unwrap();
    let mut item = BalanceItem { flags: BalanceFlags::DATA.bits().into(), ..BalanceItem::default() };
    item.data.use_filters(BalanceFilters::USAGE_RANGE);
    (item.data.usage_min, item.data.usage_max) = (20.into(), 45.into());
    let chosen = data(&fs).iter().filter(|group| (20..45).contains(&(group.used * 100 / group.len))).count() as u64;
    let (_, progress) = fs.balance(&item).unwrap();
    assert!(chosen >= 2 && progress.expected == chosen, "{chosen}, {progress:?}");
    assert!(progress.completed > 0 && progress.completed < chosen, "{progress:?}");
    for number in (0..count).step_by(3) {
        let id = fs.lookup(Place::new(fs.root(), format!("file{number}").as_bytes())).unwrap();
        let mut bytes = vec![0; content(number).len()];
        fs.read(id, 0, &mut bytes).unwrap();
        assert!(bytes == content(number), "file{number}");
    }
    drop(fs);
    devices.judge([0]);
}

/// Where too many devices are missing for a profile, what is written is on as many of the others as can be: those that it was to
/// survive may still be lost.
#[test]
fn what_is_written_without_devices_survives_what_is_left() {
    use BlockGroupFlags as F;
    for (profile, there, copies) in [(F::RAID1C4, 3, 3), (F::RAID1C4, 2, 2), (F::RAID1C3, 2, 2), (F::RAID6, 2, 2)] {
        let devices = Devices::new(&[600; 4]);
        let count = if profile == F::RAID1C3 { 3 } else { 4 };
        devices.make(count, profile, profile);
        fill(&devices.open(0..count), 2);
        let fs = devices.open(0..there);
        for number in 0..2 {
            let id = fs.create(Place::new(fs.root(), format!("new{number}").as_bytes()), &FILE).unwrap();
            fs.write(id, 0, &content(number)).unwrap();
            fs.sync().unwrap();
        }
        drop(fs);
        // Old chunks of RAID6 bear no more losses.
        let lost: Vec<usize> = if profile == F::RAID6 { Vec::new() } else { (0..there).collect() };
        for one in lost {
            let fs = devices.open((0..there).filter(|device| *device != one));
            for (name, number) in [("large", 0), ("large", 1), ("new", 0), ("new", 1)] {
                let id = fs.lookup(Place::new(fs.root(), format!("{name}{number}").as_bytes())).unwrap();
                let mut bytes = vec![0; content(number).len()];
                fs.read(id, 0, &mut bytes).unwrap();
                assert!(bytes == content(number), "{}, without {one}: {name}{number}", profile.profile_name());
            }
        }
        let fs = devices.open(0..there);
        let chunks = fs.shared().gate.volume().chunks();
        let new = chunks.iter().max_by_key(|(start, _)| *start).unwrap().1.clone();
        let on: std::collections::BTreeSet<u64> = new.stripes.iter().map(|stripe| stripe.devid.get()).collect();
        assert_eq!(on.len(), copies, "{}, {there} devices", profile.profile_name());
    }
}

/// All is taken by chunks with a device that is gone: nothing can be written, and what devices say of themselves waits.
#[test]
fn statistics_wait_where_there_is_no_room() {
    let devices = Devices::new(&[300, 300]);
    devices.make(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    let fs = devices.open(0..2);
    for number in 0.. {
        let id = fs.create(Place::new(fs.root(), format!("file{number}").as_bytes()), &FILE).unwrap();
        if fs.write(id, 0, &content(number)).and_then(|_| fs.sync()).is_err() {
            break;
        }
    }
    drop(fs);
    let fs = devices.open(0..1);
    fs.shared().gate.volume().note_corruption(DevId(1));
    fs.sync().unwrap();
    assert!(fs.shared().gate.stopped().is_none());
    fs.shared().gate.volume().note_corruption(DevId(1));
    fs.sync().unwrap();
    let (_, stats) =
        fs.shared().gate.volume().device_stats().into_iter().find(|(devid, _)| *devid == DevId(1)).unwrap();
    assert_eq!(stats.corruption_errors, 2);
}

#[test]
fn a_conversion_without_enough_devices_is_refused() {
    let devices = Devices::new(&[400, 400]);
    devices.make(2, SINGLE_PROFILE, BlockGroupFlags::RAID1);
    let fs = devices.open(0..2);
    let generation = fs.shared().gate.volume().superblock().generation();
    let refused = fs.balance(&convert(BlockGroupFlags::RAID1C4));
    assert!(matches!(refused, Err(Error::TooFewDevices { profile: "raid1c4", needed: 4, left: 2 })), "{refused:?}");
    let mut less = convert(SINGLE_PROFILE);
    less.flags = ALL.bits().into();
    assert!(matches!(fs.balance(&less), Err(Error::Refused(_))));
    for refused in
        [fs.begin_removal(&[WhichDevice::Id(DevId(2))]), fs.begin_removal(&[WhichDevice::Name("disk 400".into())])]
    {
        assert!(matches!(refused, Err(Error::TooFewDevices { profile: "raid1", needed: 2, left: 1 })), "{refused:?}");
    }
    assert!(matches!(fs.begin_removal(&[WhichDevice::Missing]), Err(Error::Refused(_))));
    assert!(matches!(fs.begin_removal(&[WhichDevice::Id(DevId(7))]), Err(Error::NoDevice(DevId(7)))));
    assert_eq!((fs.shared().gate.volume().superblock().generation(), fs.exclusive().current()), (generation, None));
}

#[test]
fn devices_come_and_go() {
    let devices = Devices::new(&[1000, 1010, 1020, 1030, 1040]);
    devices.make(2, SINGLE_PROFILE, BlockGroupFlags::RAID1);
    let fs = devices.open(0..2);
    fill(&fs, 20);
    for (index, devid) in [(2, 3), (3, 4)] {
        assert_eq!(fs.add_device(&devices.some([index])[0]).unwrap(), DevId(devid));
    }
    devices.judge(0..4);
    // Both of the first, in one pass.
    let removal = fs.begin_removal(&[WhichDevice::Id(DevId(1)), WhichDevice::Name("disk 1010".into())]).unwrap();
    assert_eq!(fs.run_removal(removal).unwrap(), RemovalEnd::Done);
    compare(&fs, 20);
    for index in 0..2 {
        let mut bytes = [1; 4096];
        devices.0[index].read_at(SUPERBLOCK_OFFSETS[0], &mut bytes).unwrap();
        assert_eq!(bytes, [0; 4096], "superblocks of device {index} are erased");
    }
    let write = |name: &str| {
        let id = fs.create(Place::new(fs.root(), name.as_bytes()), &FILE).unwrap();
        fs.write(id, 0, &content(5)).unwrap();
        fs.sync().unwrap();
    };
    write("written on those that are left");
    drop(fs);
    devices.judge([2, 3]);
    let fs = devices.open([2, 3]);
    compare(&fs, 20);
    // The number of one that was removed is given again, if it was the highest.
    assert_eq!(fs.add_device(&devices.some([4])[0]).unwrap(), DevId(5));
    let removal = fs.begin_removal(&[WhichDevice::Id(DevId(5))]).unwrap();
    fs.run_removal(removal).unwrap();
    assert_eq!(fs.add_device(&devices.some([0])[0]).unwrap(), DevId(5));
    fs.balance(&convert(BlockGroupFlags::RAID1)).unwrap();
    drop(fs);
    devices.judge([2, 3, 0]);
    // One is lost, and what it had is made anew.
    let fs = devices.open([2, 0]);
    let removal = fs.begin_removal(&[WhichDevice::Missing]);
    let lost = removal.and_then(|removal| fs.run_removal(removal));
    assert_eq!(lost.unwrap(), RemovalEnd::Done);
    drop(fs);
    devices.judge([2, 0]);
}

/// The only data group has nothing in it: the new one that takes its place is empty, too, and stays.
#[test]
fn a_device_of_an_empty_filesystem_goes() {
    let devices = Devices::new(&[800, 800]);
    devices.make(2, BlockGroupFlags::RAID0, BlockGroupFlags::RAID0);
    let fs = devices.open(0..2);
    let removal = fs.begin_removal(&[WhichDevice::Id(DevId(2))]).unwrap();
    assert_eq!(fs.run_removal(removal).unwrap(), RemovalEnd::Done);
    drop(fs);
    devices.judge(0..1);
}

#[test]
fn a_device_shrinks_and_grows() {
    let devices = Devices::new(&[800]);
    devices.make(1, SINGLE_PROFILE, BlockGroupFlags::DUP);
    let fs = devices.open([0]);
    fill(&fs, 50);
    for name in 0..40 {
        fs.unlink(Place::new(fs.root(), format!("large{}", 10 + name).as_bytes())).unwrap();
    }
    fs.delete_subvolume(Place::new(fs.root(), b"snapshot")).unwrap();
    while fs.clean_once(64).unwrap() {}
    fs.sync().unwrap();
    let (before, after) = fs.resize_device(DevId(1), NewLength::Less(400 * MIB)).unwrap();
    assert_eq!((before, after), (800 * MIB, 400 * MIB));
    devices.judge([0]);
    for (start, chunk) in fs.shared().gate.volume().chunks() {
        let length = butterfs_volume::stripe_length(start, &chunk).unwrap();
        assert!(chunk.stripes.iter().all(|stripe| stripe.offset.get() + length <= 400 * MIB));
    }
    assert!(matches!(fs.resize_device(DevId(1), NewLength::Bytes(200 * MIB)), Err(Error::Refused(_))));
    assert!(
        matches!(fs.resize_device(DevId(1), NewLength::Bytes(2000 * MIB)), Err(Error::BeyondDevice { has, .. }) if has == 800 * MIB)
    );
    let less = fs.resize_device(DevId(1), NewLength::Less(500 * MIB));
    assert!(matches!(&less, Err(Error::Refused(why)) if why.contains("has 419430400 bytes")), "{less:?}");
    assert!(matches!(fs.resize_device(DevId(9), NewLength::Max), Err(Error::NoDevice(_))));
    // Full: what lies beyond has no room, and the device stays as large as it is.
    for number in 0.. {
        let id = fs.create(Place::new(fs.root(), format!("more{number}").as_bytes()), &FILE).unwrap();
        if fs.write(id, 0, &content(number)).and_then(|_| fs.sync()).is_err() {
            break;
        }
    }
    let refused = fs.resize_device(DevId(1), NewLength::Bytes(256 * MIB));
    let used = fs.shared().gate.volume().dev_items()[0].bytes_used.get();
    let says_so = |why: &str| why.contains("to 268435456 bytes") && why.contains(&format!("take {used} bytes"));
    assert!(matches!(&refused, Err(Error::NoRoom(why)) if says_so(why)), "{refused:?}, {used}");
    devices.judge([0]);
    assert_eq!(fs.resize_device(DevId(1), NewLength::Max).unwrap(), (400 * MIB, 800 * MIB));
    let id = fs.create(Place::new(fs.root(), b"there is room again"), &FILE).unwrap();
    fs.write(id, 0, &content(1)).unwrap();
    fs.sync().unwrap();
    drop(fs);
    devices.judge([0]);
}

/// Counts the bytes that are written.
struct Counting(MemDevice, AtomicU64);

impl BlockDevice for Counting {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.0.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> std::io::Result<()> {
        self.1.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.0.write_at(offset, buf)
    }

    fn flush(&self) -> std::io::Result<()> {
        self.0.flush()
    }

    fn discard(&self, offset: u64, len: u64) -> std::io::Result<()> {
        self.0.discard(offset, len)
    }

    fn len(&self) -> u64 {
        self.0.len()
    }

    fn name(&self) -> String {
        self.0.name()
    }
}

/// Bytes that balancing data writes, with so many snapshots of 40 MB of it.
fn cost_with_snapshots(snapshots: u32) -> u64 {
    let device = Arc::new(Counting(MemDevice::new(1000 * MIB), AtomicU64::new(0)));
    let devices: Vec<Arc<dyn BlockDevice>> = vec![device.clone()];
    mkfs::make_on(&devices, &MakeOptions::new(1000 * MIB, &SystemEnvironment)).unwrap();
    let volume = Volume::open(devices, OpenMode::ReadWrite).unwrap();
    let fs = Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap();
    for number in 0..400u64 {
        let id = fs.create(Place::new(fs.root(), format!("file{number}").as_bytes()), &FILE).unwrap();
        fs.write(id, 0, &Random::new(number).bytes(100_000)).unwrap();
    }
    fs.sync().unwrap();
    for number in 0..snapshots {
        fs.snapshot(TreeId::FS, Place::new(fs.root(), format!("snapshot{number}").as_bytes()), Access::ReadOnly)
            .unwrap();
        fs.create(Place::new(fs.root(), format!("after{number}").as_bytes()), &FILE).unwrap();
        fs.sync().unwrap();
    }
    let before = device.1.load(Ordering::Relaxed);
    let item = BalanceItem { flags: BalanceFlags::DATA.bits().into(), ..BalanceItem::default() };
    assert_eq!(fs.balance(&item).unwrap().0, BalanceEnd::Done);
    device.1.load(Ordering::Relaxed) - before
}

/// What is written grows with the data moved, not with data times snapshots.
#[test]
fn a_hundred_snapshots_cost_little() {
    let (none, hundred) = (cost_with_snapshots(0), cost_with_snapshots(100));
    println!("balancing 40 MB of data writes {none} bytes without snapshots, {hundred} with a hundred");
    assert!(hundred < 2 * none, "{none} without snapshots, {hundred} with a hundred");
}

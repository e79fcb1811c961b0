//! A device of several that fails: the filesystem goes on while the profile allows, what is lost is counted, and the
//! device is never mixed in again.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use butterfs_check::Severity;
use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::file::DataRule;
use butterfs_engine::filesystem::{Filesystem, NewInode, NewKind, OpenOptions};
use butterfs_engine::scrub::{ScrubMode, ScrubMonitor, ScrubOptions};
use butterfs_engine::{Error, Result};
use butterfs_format::DevId;
use butterfs_format::items::BlockGroupFlags;
use butterfs_testkit::disks;
use butterfs_testkit::fault::{Fault, FaultDevice, Lasting, Request, Rule, errno};
use butterfs_volume::{BlockDevice, DeviceStats, MemDevice, Missing, OpenMode, Volume};

const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 0, gid: 0 };
const LEN: u64 = 160 << 20;
const FILES: u64 = 12;

struct Disks(Vec<Arc<MemDevice>>);

impl Disks {
    fn make(count: u64, data: BlockGroupFlags, metadata: BlockGroupFlags) -> Self {
        let disks = Self((1..=count).map(|number| Arc::new(MemDevice::named(format!("disk{number}"), LEN))).collect());
        disks::make(&disks.0, data, metadata);
        disks
    }

    fn all(&self) -> Vec<Arc<dyn BlockDevice>> {
        disks::as_devices(&self.0)
    }

    /// With the second disk behind a fault.
    fn failing(&self, rule: Option<Rule>, files: DataRule) -> (Filesystem, Arc<FaultDevice>) {
        let fault = Arc::new(FaultDevice::new(Arc::clone(&self.0[1]) as _, rule));
        let mut devices = self.all();
        devices[1] = Arc::clone(&fault) as _;
        (open(devices, Missing::Refuse, files).unwrap(), fault)
    }

    fn without_second(&self) -> Vec<Arc<dyn BlockDevice>> {
        let mut devices = self.all();
        devices.remove(1);
        devices
    }
}

fn open(devices: Vec<Arc<dyn BlockDevice>>, missing: Missing, files: DataRule) -> Result<Filesystem> {
    let how = butterfs_volume::OpenOptions { missing, ..butterfs_volume::OpenOptions::new(OpenMode::ReadWrite) };
    let options = OpenOptions { new_data: files, ..OpenOptions::default() };
    Filesystem::open(Volume::open_with(devices, &how)?, options, Box::new(SystemEnvironment))
}

fn content(number: u64, round: u64) -> Vec<u8> {
    (0..200_000u64).map(|at| (at * 31 + number * 7 + round * 113 + at / 4096) as u8).collect()
}

fn name(number: u64) -> String {
    format!("file {number}")
}

/// Files that are written, made durable, and written again.
fn work(fs: &Filesystem) -> Result<()> {
    for number in 0..FILES {
        let id = fs.create(Place::new(fs.root(), name(number).as_bytes()), &FILE)?;
        for round in 0..2 {
            fs.write(id, 0, &content(number, round))?;
            match number % 3 {
                0 => fs.fsync(id)?,
                1 => fs.sync()?,
                _ => {}
            }
        }
    }
    fs.sync()
}

fn assert_whole(fs: &Filesystem, what: &str) {
    for number in 0..FILES {
        let id = fs.lookup(Place::new(fs.root(), name(number).as_bytes())).unwrap();
        let mut bytes = vec![0; 200_000];
        fs.read(id, 0, &mut bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(bytes == content(number, 1), "{what}: file {number} differs");
    }
}

fn assert_clean(devices: Vec<Arc<dyn BlockDevice>>, missing: Missing, what: &str) {
    let how = butterfs_volume::OpenOptions { missing, ..butterfs_volume::OpenOptions::new(OpenMode::ReadOnly) };
    let volume = Volume::open_with(devices, &how).unwrap();
    let options = butterfs_check::Options { data_csums: true, ..Default::default() };
    let mut findings = butterfs_check::check(&volume, &options).findings;
    findings.retain(|finding| finding.severity == Severity::Error);
    assert!(findings.is_empty(), "{what}: {findings:?}");
}

fn second_stats(fs: &Filesystem) -> DeviceStats {
    let stats = fs.shared().gate.volume().device_stats();
    stats.iter().find(|(devid, _)| devid.0 == 2).unwrap().1
}

fn rule(request: Request, at: u64, lasting: Lasting) -> Rule {
    Rule { request, at, fault: Fault::Error(errno::EIO), lasting }
}

/// Numbers below `count`, about `most` of them.
fn spread(count: u64, most: u64) -> impl Iterator<Item = u64> {
    (0..count).step_by(count.div_ceil(most).max(1) as usize)
}

/// A write that fails once is done again: the device stays, and is as good as the others.
#[test]
fn a_write_that_fails_once_is_counted_and_done_again() {
    for files in [DataRule::Usual, DataRule::InPlace] {
        let writes = {
            let (fs, fault) = Disks::make(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1).failing(None, files);
            work(&fs).unwrap();
            fault.counts().writes
        };
        let mut struck = 0;
        for at in spread(writes, 25) {
            let disks = Disks::make(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
            let (fs, fault) = disks.failing(Some(rule(Request::Write, at, Lasting::Once)), files);
            let what = format!("write {at} of {writes}");
            work(&fs).unwrap_or_else(|error| panic!("{what}: {error}"));
            // How many there are depends on the clock, too.
            if fault.struck() == 0 {
                continue;
            }
            struck += 1;
            assert_eq!(second_stats(&fs), DeviceStats { write_errors: 1, ..DeviceStats::default() }, "{what}");
            // Only where its first superblock was not written it is not used any more.
            let is_dropped = !fs.shared().gate.volume().dropped_devices().is_empty();
            // As unmounting does: what the last commit counted itself is durable with the next.
            fs.sync().unwrap();
            drop(fs);
            if is_dropped {
                assert_clean(disks.without_second(), Missing::Accept, &what);
                continue;
            }
            for survivor in 0..2 {
                let fs = open(vec![disks.all().swap_remove(survivor)], Missing::Accept, files).unwrap();
                assert_whole(&fs, &what);
            }
            assert_clean(disks.all(), Missing::Refuse, &what);
            assert_eq!(second_stats(&open(disks.all(), Missing::Refuse, files).unwrap()).write_errors, 1, "{what}");
        }
        assert!(struck > 15, "{struck} were struck");
    }
}

/// A device that fails for good at any request: the others go on, and it is refused when it is back.
#[test]
fn a_device_that_fails_for_good_is_dropped_and_not_mixed_in_again() {
    for (count, profile, files) in [
        (2, BlockGroupFlags::RAID1, DataRule::InPlace),
        (3, BlockGroupFlags::RAID1C3, DataRule::Usual),
        (4, BlockGroupFlags::RAID10, DataRule::Usual),
    ] {
        let total = {
            let (fs, fault) = Disks::make(count, profile, profile).failing(None, files);
            work(&fs).unwrap();
            fault.counts()
        };
        let write = spread(total.writes, 8).map(|at| rule(Request::Write, at, Lasting::Forever));
        let flush = spread(total.flushes, 4).map(|at| rule(Request::Flush, at, Lasting::Once));
        let vanish = spread(total.writes + total.flushes, 8).map(|at| Rule::vanish(at + total.reads));
        for rule in write.chain(flush).chain(vanish) {
            let what = format!("{count} devices, {rule:?}");
            let disks = Disks::make(count, profile, profile);
            let (fs, fault) = disks.failing(Some(rule), files);
            work(&fs).unwrap_or_else(|error| panic!("{what}: {error}"));
            if fault.struck() == 0 {
                continue;
            }
            let volume = Arc::clone(fs.shared().gate.volume());
            assert_eq!(volume.dropped_devices().len(), 1, "{what}");
            assert!(second_stats(&fs) != DeviceStats::default(), "{what}: nothing is counted");
            assert!(!volume.owes_commit(), "{what}");
            assert_whole(&fs, &what);
            drop((fs, volume));

            assert_clean(disks.without_second(), Missing::Accept, &what);
            let refused = open(disks.all(), Missing::Refuse, files).map(|_| ()).unwrap_err().to_string();
            assert!(refused.contains("missed commits") && refused.contains("disk2"), "{what}: {refused}");
            let fs = open(disks.without_second(), Missing::Accept, files).unwrap();
            assert_whole(&fs, &what);
            assert!(second_stats(&fs) != DeviceStats::default() || rule.request == Request::Any, "{what}");
        }
    }
}

/// Where data is on one device only, that device cannot be spared.
#[test]
fn a_device_that_holds_the_only_copy_is_not_dropped() {
    let disks = Disks::make(2, BlockGroupFlags::RAID0, BlockGroupFlags::RAID1);
    let (fs, _) = disks.failing(Some(Rule::vanish(120)), DataRule::Usual);
    let failed = work(&fs).unwrap_err();
    assert!(matches!(failed, Error::Volume(_) | Error::Aborted(_)), "{failed}");
    assert!(fs.shared().gate.volume().dropped_devices().is_empty());
}

/// Writes a file with one device only, in as many commits as are wanted.
fn write_alone(disks: &Disks, which: usize, commits: u64) {
    let fs = open(vec![disks.all().swap_remove(which)], Missing::Accept, DataRule::InPlace).unwrap();
    for commit in 0..commits {
        let name = format!("half {which}, commit {commit}");
        let id = fs.create(Place::new(fs.root(), name.as_bytes()), &FILE).unwrap();
        fs.write(id, 0, &content(which as u64, commit)).unwrap();
        fs.sync().unwrap();
    }
}

/// Each half has what the other lacks: nobody may choose.
#[test]
fn halves_that_were_written_apart_are_not_put_together() {
    for (first, second) in [(1, 1), (2, 1), (1, 2), (3, 1), (3, 3)] {
        let disks = Disks::make(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
        work(&open(disks.all(), Missing::Refuse, DataRule::Usual).unwrap()).unwrap();
        write_alone(&disks, 0, first);
        write_alone(&disks, 1, second);
        let refused = open(disks.all(), Missing::Refuse, DataRule::Usual).map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains("written apart") && refused.contains("disk"), "{first} and {second}: {refused}");
        for half in 0..2 {
            assert_whole(
                &open(vec![disks.all().swap_remove(half)], Missing::Accept, DataRule::Usual).unwrap(),
                "a half",
            );
        }
    }
}

/// One commit may be missed by a power cut, but not by a device that was away.
#[test]
fn a_device_that_was_away_for_one_commit_is_told_from_one_that_was_cut_off() {
    let disks = Disks::make(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    work(&open(disks.all(), Missing::Refuse, DataRule::InPlace).unwrap()).unwrap();
    write_alone(&disks, 0, 1);
    let refused = open(disks.all(), Missing::Refuse, DataRule::InPlace).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("missed commits") && refused.contains("disk2"), "{refused}");
}

/// Ways in which a device lies or fails in passing.
const LIES: [(Request, Fault); 9] = [
    (Request::Read, Fault::Error(errno::EIO)),
    (Request::Read, Fault::Short(errno::EIO)),
    (Request::Read, Fault::FlipOnRead),
    (Request::Read, Fault::Stale),
    (Request::Write, Fault::Lost),
    (Request::Write, Fault::Torn),
    (Request::Write, Fault::Misdirected(8192)),
    (Request::Write, Fault::FlipOnWrite),
    (Request::Flush, Fault::Lost),
];

/// Reads each file; says how many could not be read. What is read is right.
fn unreadable(fs: &Filesystem, what: &str) -> usize {
    let is_read = |number: &u64| {
        let id = fs.lookup(Place::new(fs.root(), name(*number).as_bytes())).unwrap();
        let mut bytes = vec![0; 200_000];
        let read = fs.read(id, 0, &mut bytes).is_ok();
        assert!(!read || bytes == content(*number, 1), "{what}: file {number} has wrong bytes");
        read
    };
    FILES as usize - (0..FILES).filter(is_read).count()
}

/// All devices; or all but the second, if a superblock that was lost or damaged shows that to be behind.
fn in_use_again(disks: &Disks, what: &str) -> Filesystem {
    open(disks.all(), Missing::Refuse, DataRule::Usual).unwrap_or_else(|error| {
        assert!(error.to_string().contains("missed commits"), "{what}: {error}");
        open(disks.without_second(), Missing::Accept, DataRule::Usual).unwrap()
    })
}

/// One device of several gives or keeps wrong bytes. Copies heal it, at once and by a scrub. With parity a line is made of
/// what the device says it holds, so a lie may reach parity before the commit: then it is told, and never believed.
fn one_device_lies(count: u64, profile: BlockGroupFlags) {
    let has_parity = profile.intersects(BlockGroupFlags::RAID5 | BlockGroupFlags::RAID6);
    // What is read to open it tells who wrote there; an error then is told, and nothing is written.
    let (opened, total) = {
        let (fs, fault) = Disks::make(count, profile, profile).failing(None, DataRule::Usual);
        let opened = fault.counts();
        work(&fs).unwrap();
        assert_whole(&fs, "no fault");
        (opened, fault.counts())
    };
    let (mut struck, mut told, mut stopped) = (0, 0, 0);
    for (request, fault) in LIES {
        let (first, end) = match request {
            Request::Read => (opened.reads, total.reads),
            Request::Write => (opened.writes, total.writes),
            _ => (opened.flushes, total.flushes),
        };
        for at in spread(end - first, 4).map(|number| first + number) {
            let what = format!("{profile:?} on {count}, {request:?} {at}: {fault:?}");
            let disks = Disks::make(count, profile, profile);
            let (fs, device) = disks.failing(Some(Rule::once(request, at, fault)), DataRule::Usual);
            let worked = work(&fs);
            struck += usize::from(device.struck() > 0);
            if let Err(error) = worked {
                // A superblock that is not what was written: nothing more is, and what is durable stays so.
                assert!(error.to_string().contains("another system wrote to it"), "{what}: {error}");
                drop(fs);
                assert_clean(disks.without_second(), Missing::Accept, &what);
                stopped += 1;
                continue;
            }
            let lost = unreadable(&fs, &what);
            drop(fs);
            let fs = in_use_again(&disks, &what);
            for devid in fs.shared().gate.volume().dev_items().iter().map(|item| DevId(item.devid.get())) {
                // One that is missing is not scrubbed.
                let _ = fs.scrub(devid, &ScrubOptions::whole(ScrubMode::Repair), &Arc::new(ScrubMonitor::default()));
            }
            let lost = lost.max(unreadable(&fs, &what));
            assert!(lost == 0 || has_parity && request == Request::Write, "{what}: {lost} files are lost");
            told += lost;
            drop(fs);
            if lost == 0 && open(disks.all(), Missing::Refuse, DataRule::Usual).is_ok() {
                assert_clean(disks.all(), Missing::Refuse, &what);
            }
        }
    }
    println!("{profile:?} on {count}: {struck} lies, {stopped} stopped it, {told} files told to be lost, none wrong");
    assert!(struck > 20, "{struck} were struck");
}

#[test]
fn a_device_that_lies_is_healed_from_its_mirror() {
    one_device_lies(2, BlockGroupFlags::RAID1);
}

#[test]
fn a_device_that_lies_is_healed_from_mirrors_of_stripes() {
    one_device_lies(4, BlockGroupFlags::RAID10);
}

#[test]
fn a_device_that_lies_is_healed_from_parity_or_told() {
    one_device_lies(3, BlockGroupFlags::RAID5);
}

#[test]
fn a_device_that_lies_is_healed_from_two_parities_or_told() {
    one_device_lies(4, BlockGroupFlags::RAID6);
}

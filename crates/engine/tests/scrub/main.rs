//! Scrub: errors are planted in known places, on each copy of data, tree blocks and superblocks, for each profile that
//! is written; every one is found, what can be is repaired, and the rest is told exactly. `BUTTERFS_SCRUB_MIB=4096` has so
//! much data.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cost;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use butterfs_check::Severity;
use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::file::{DataRule, SizeMode};
use butterfs_engine::filesystem::{Access, Filesystem, NewInode, NewKind, OpenOptions};
use butterfs_engine::scrub::{
    Remedy, ScrubEnd, ScrubFinding, ScrubMode, ScrubMonitor, ScrubOptions, ScrubProgress, Trouble,
};
use butterfs_format::items::BlockGroupFlags;
use butterfs_format::{DevId, ItemType, Key, Logical, TreeId};
use butterfs_testkit::disks;
use butterfs_testkit::random::Random;
use butterfs_volume::{BlockDevice, Held, MemDevice, OpenMode, Volume};

const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 0, gid: 0 };
const FILE_LEN: usize = 700_416;
const SECTOR: u64 = 4096;
/// Data sectors that are damaged at most.
const PLANTED: usize = 4000;
/// So many losses are looked up in files.
const LOOKED_UP: usize = 200;

/// How much data there is: `BUTTERFS_SCRUB_MIB`, or a few files.
fn file_count() -> u64 {
    let mib = std::env::var("BUTTERFS_SCRUB_MIB").ok().map_or(4, |text| text.parse::<u64>().unwrap());
    (mib << 20) / FILE_LEN as u64 + 1
}

/// Large enough for it, twice.
fn device_len() -> u64 {
    (160 << 20) + 3 * file_count() * FILE_LEN as u64
}

struct Disks(Vec<Arc<MemDevice>>);

impl Disks {
    fn make(count: u64, data: BlockGroupFlags, metadata: BlockGroupFlags) -> Self {
        let disk = |number| Arc::new(MemDevice::named(format!("disk{number}"), device_len()));
        let disks = Self((1..=count).map(disk).collect());
        disks::make(&disks.0, data, metadata);
        disks
    }

    fn all(&self) -> Vec<Arc<dyn BlockDevice>> {
        disks::as_devices(&self.0)
    }

    fn open(&self, access: Access, files: DataRule) -> Filesystem {
        let mode = if access == Access::ReadOnly { OpenMode::ReadOnly } else { OpenMode::ReadWrite };
        let volume = Volume::open(self.all(), mode).unwrap();
        let options = OpenOptions { access, new_data: files, ..OpenOptions::default() };
        Filesystem::open(volume, options, Box::new(SystemEnvironment)).unwrap()
    }

    fn fill(&self, files: DataRule) {
        let fs = self.open(Access::ReadWrite, files);
        for number in 0..file_count() {
            let id = fs.create(Place::new(fs.root(), format!("file {number}").as_bytes()), &FILE).unwrap();
            fs.write(id, 0, &content(number)).unwrap();
        }
        for number in 0..800 {
            let name = format!("a small file with a long name, so that there are some leaves, {number}");
            fs.create(Place::new(fs.root(), name.as_bytes()), &FILE).unwrap();
        }
        fs.sync().unwrap();
    }

    fn damage(&self, at: &Spot) {
        let mut bytes = vec![0; 64];
        self.0[at.devid as usize - 1].read_at(at.physical + 1000, &mut bytes).unwrap();
        bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
        self.0[at.devid as usize - 1].write_at(at.physical + 1000, &bytes).unwrap();
    }

    fn assert_clean(&self) {
        let volume = Volume::open(self.all(), OpenMode::ReadOnly).unwrap();
        let options = butterfs_check::Options { data_csums: true, devices: self.all(), ..Default::default() };
        let mut findings = butterfs_check::check(&volume, &options).findings;
        findings.retain(|finding| finding.severity != Severity::Note);
        assert!(findings.is_empty(), "{findings:?}");
    }
}

fn content(number: u64) -> Vec<u8> {
    Random::new(number).bytes(FILE_LEN)
}

/// A place on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Spot {
    devid: u64,
    physical: u64,
    logical: u64,
}

/// All stretches of the devices that hold bytes, by the address of the first, device and place on it, and length.
struct Places(BTreeMap<u64, Vec<(u64, u64, u64)>>);

impl Places {
    fn of(volume: &Volume) -> Self {
        let mut places: BTreeMap<u64, Vec<(u64, u64, u64)>> = BTreeMap::new();
        for devid in volume.dev_items().iter().map(|item| item.devid.get()) {
            for extent in volume.device_extents(DevId(devid)) {
                for part in volume.stored_parts(&extent, 0..extent.length) {
                    if let Held::Bytes(Logical(at)) = part.held {
                        places.entry(at).or_default().push((devid, part.physical, part.len));
                    }
                }
            }
        }
        Self(places)
    }

    /// Where an address is stored.
    fn spots(&self, logical: u64) -> Vec<Spot> {
        let (start, copies) = self.0.range(..=logical).next_back().unwrap();
        let is_there = |copy: &&(u64, u64, u64)| logical < start + copy.2;
        let spot = |(devid, physical, _): &(u64, u64, u64)| Spot {
            devid: *devid,
            physical: physical + logical - start,
            logical,
        };
        copies.iter().filter(is_there).map(spot).collect()
    }
}

/// Where an address is stored.
fn spots(volume: &Volume, logical: u64) -> Vec<Spot> {
    Places::of(volume).spots(logical)
}

/// Addresses of all data sectors, and of all tree blocks.
fn used(fs: &Filesystem) -> (Vec<u64>, Vec<u64>) {
    let (mut data, mut blocks) = (Vec::new(), Vec::new());
    fs.shared()
        .gate
        .view(|tx| {
            let mut cursor = tx.cursor(TreeId::EXTENT, &Key::new(0, ItemType(0), 0))?;
            while let Some(key) = cursor.key() {
                match key.item_type {
                    ItemType::METADATA_ITEM => blocks.push(key.objectid),
                    ItemType::EXTENT_ITEM => {
                        data.extend((key.objectid..key.objectid + key.offset).step_by(SECTOR as usize));
                    }
                    _ => {}
                }
                cursor.advance()?;
            }
            Ok(())
        })
        .unwrap();
    (data, blocks)
}

/// Scrubs all devices; gives what was counted together, and what was found.
fn scrub(fs: &Filesystem, mode: ScrubMode) -> (ScrubProgress, Vec<ScrubFinding>) {
    let (mut sum, mut findings) = ([0; 15], Vec::new());
    for item in fs.shared().gate.volume().dev_items() {
        let monitor = Arc::new(ScrubMonitor::default());
        let end = fs.scrub(DevId(item.devid.get()), &ScrubOptions::whole(mode), &monitor).unwrap();
        assert_eq!(end, ScrubEnd::Finished);
        for (sum, value) in sum.iter_mut().zip(monitor.progress().values()) {
            *sum += value;
        }
        findings.extend(monitor.take_findings());
    }
    (ScrubProgress::from_values(sum), findings)
}

fn places(findings: &[ScrubFinding]) -> BTreeSet<(u64, u64)> {
    let sectors = |finding: &ScrubFinding| {
        let (devid, physical) = (finding.devid.0, finding.physical);
        (physical..physical + finding.len).step_by(SECTOR as usize).map(move |at| (devid, at)).collect::<Vec<_>>()
    };
    findings.iter().flat_map(sectors).collect()
}

/// One copy of every few sectors and blocks is damaged, each time another copy: all are found, and repaired if there is
/// another copy.
fn planted(count: u64, data: BlockGroupFlags, metadata: BlockGroupFlags) {
    let disks = Disks::make(count, data, metadata);
    disks.fill(DataRule::Usual);
    let (mut wanted, mut lost) = (BTreeSet::new(), BTreeSet::new());
    {
        let fs = disks.open(Access::ReadOnly, DataRule::Usual);
        let volume = fs.shared().gate.volume();
        let (data, blocks) = used(&fs);
        let (clean, findings) = scrub(&fs, ScrubMode::ReadOnly);
        assert_eq!((clean.errors(), findings.len()), (0, 0));
        let copies = |addresses: &[u64]| volume.stored_copies(Logical(addresses[0])).unwrap() as u64;
        assert_eq!(clean.data_bytes, data.len() as u64 * SECTOR * copies(&data), "each byte is read once");
        let nodesize = u64::from(volume.geometry().nodesize);
        assert_eq!(clean.tree_bytes, blocks.len() as u64 * nodesize * copies(&blocks));
        assert_eq!(clean.no_csum, 0);
        let places = Places::of(volume);
        // Findings that nobody takes are kept up to a number.
        for (number, at) in data.iter().enumerate().step_by((data.len() / PLANTED).max(37)) {
            let spots = places.spots(*at);
            let spot = spots[number % spots.len()];
            disks.damage(&spot);
            wanted.insert((spot.devid, spot.physical));
            if spots.len() == 1 {
                lost.insert((spot.devid, spot.physical));
            }
        }
        // Not the blocks that have one copy: nothing could be opened.
        for (number, at) in blocks.iter().enumerate().filter(|_| copies(&blocks) > 1) {
            let spots = places.spots(*at);
            let spot = spots[number % spots.len()];
            disks.damage(&spot);
            wanted.extend((spot.physical..spot.physical + nodesize).step_by(4096).map(|at| (spot.devid, at)));
        }
    }
    // Not both of one device: it could not be opened.
    let superblocks = [(1, 65536), (count, 64 << 20)];
    let superblocks = &superblocks[..2.min(count as usize)];
    for (devid, offset) in superblocks {
        disks.damage(&Spot { devid: *devid, physical: *offset, logical: 0 });
        wanted.insert((*devid, *offset));
    }
    // Reading the trees of a filesystem that is open for writing repairs, so nothing is told of what was met.
    let fs = disks.open(Access::ReadOnly, DataRule::Usual);
    let (dry, findings) = scrub(&fs, ScrubMode::ReadOnly);
    let found = places(&findings);
    let differs: Vec<_> = found.symmetric_difference(&wanted).collect();
    let some = &differs[..differs.len().min(20)];
    assert!(differs.is_empty(), "found or planted, and not both: {}, such as {some:?}", differs.len());
    let is_lost = |finding: &ScrubFinding| finding.remedy == Remedy::None;
    let told: Vec<ScrubFinding> = findings.iter().filter(|finding| is_lost(finding)).cloned().collect();
    assert_eq!(places(&told), lost);
    assert_eq!(dry.uncorrectable_errors, lost.len() as u64);
    assert_eq!(dry.csum_errors + dry.super_errors, wanted.len() as u64);
    let each = told.len().div_ceil(LOOKED_UP).max(1);
    for finding in told.into_iter().step_by(each) {
        let files = fs.files_at(finding.logical.unwrap()).unwrap();
        assert!(files.len() == 1 && files[0].paths[0].starts_with(b"file "), "{finding}: {files:?}");
        let number: u64 = String::from_utf8_lossy(&files[0].paths[0][5..]).parse().unwrap();
        let mut bytes = vec![0; SECTOR as usize];
        disks.0[finding.devid.0 as usize - 1].read_at(finding.physical, &mut bytes).unwrap();
        bytes[1000..1064].iter_mut().for_each(|byte| *byte ^= 0x5a);
        assert_eq!(bytes, content(number)[files[0].offset as usize..][..SECTOR as usize], "{finding}");
    }
    drop(fs);
    println!("{data:?}, {metadata:?} on {count}: {} planted and found, {} beyond repair", wanted.len(), lost.len());

    let fs = disks.open(Access::ReadWrite, DataRule::Usual);
    let (_, first) = scrub(&fs, ScrubMode::Repair);
    assert!(places(&first).is_subset(&wanted) && places(&first).is_superset(&lost));
    let stats = fs.shared().gate.volume().device_stats();
    let counted: u64 = stats.iter().map(|(_, stats)| stats.corruption_errors).sum();
    // The commit after the first device's scrub may have freed blocks of which the second has a bad copy.
    let told: u64 = first.iter().map(|finding| if finding.is_data { finding.len / SECTOR } else { 1 }).sum();
    assert!(counted >= told && told > lost.len() as u64, "{counted} of {told} are counted");
    let (again, findings) = scrub(&fs, ScrubMode::Repair);
    assert_eq!(places(&findings), lost, "what was repaired is right");
    assert_eq!((again.corrected_errors, again.super_errors), (0, 0));
    drop(fs);
    if lost.is_empty() {
        disks.assert_clean();
    }
}

#[test]
fn planted_errors_are_found_dup() {
    planted(1, BlockGroupFlags::DUP, BlockGroupFlags::DUP);
}

#[test]
fn planted_errors_are_found_single() {
    planted(2, BlockGroupFlags::empty(), BlockGroupFlags::RAID1);
}

#[test]
fn planted_errors_are_found_raid0() {
    planted(3, BlockGroupFlags::RAID0, BlockGroupFlags::RAID1C3);
}

#[test]
fn planted_errors_are_found_raid1() {
    planted(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
}

#[test]
fn planted_errors_are_found_raid1c3() {
    planted(3, BlockGroupFlags::RAID1C3, BlockGroupFlags::RAID1C3);
}

#[test]
fn planted_errors_are_found_raid1c4() {
    planted(4, BlockGroupFlags::RAID1C4, BlockGroupFlags::RAID1C4);
}

#[test]
fn planted_errors_are_found_raid10() {
    planted(4, BlockGroupFlags::RAID10, BlockGroupFlags::RAID10);
}

/// Mirrors without checksums that differ are told of, with the file, and left as they are; preallocated space may
/// hold anything.
#[test]
fn mirrors_without_checksums_are_compared() {
    let disks = Disks::make(2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    disks.fill(DataRule::InPlace);
    let fs = disks.open(Access::ReadWrite, DataRule::InPlace);
    let empty = fs.create(Place::new(fs.root(), b"preallocated"), &FILE).unwrap();
    let (before, _) = used(&fs);
    fs.preallocate(empty, 0..1 << 20, SizeMode::Extend).unwrap();
    fs.sync().unwrap();
    let (data, _) = used(&fs);
    let preallocated = data.iter().find(|at| !before.contains(at)).unwrap();
    disks.damage(&spots(fs.shared().gate.volume(), *preallocated)[1]);
    let wanted = spots(fs.shared().gate.volume(), before[70])[1];
    disks.damage(&wanted);
    for mode in [ScrubMode::ReadOnly, ScrubMode::Repair, ScrubMode::Repair] {
        let (progress, findings) = scrub(&fs, mode);
        assert_eq!(progress.no_csum, data.len() as u64 * 2);
        assert_eq!(places(&findings), BTreeSet::from([(wanted.devid, wanted.physical)]), "{findings:?}");
        assert_eq!((&findings[0].trouble, findings[0].remedy), (&Trouble::Mirrors, Remedy::None));
        assert!(fs.files_at(findings[0].logical.unwrap()).unwrap()[0].paths[0].starts_with(b"file "));
    }
}

/// A scrub that is cancelled goes on where it was, and all together is seen once.
#[test]
fn a_cancelled_scrub_is_resumed() {
    let disks = Disks::make(1, BlockGroupFlags::empty(), BlockGroupFlags::DUP);
    disks.fill(DataRule::Usual);
    let fs = disks.open(Access::ReadWrite, DataRule::Usual);
    let (whole, _) = scrub(&fs, ScrubMode::Repair);
    // Slow enough to be cancelled between two windows.
    fs.set_scrub_limit(DevId(1), 8 << 20).unwrap();
    let (mut start, mut bytes, mut parts) = (0, 0, 0);
    loop {
        let monitor = Arc::new(ScrubMonitor::default());
        let cancelled = Arc::clone(&monitor);
        let canceller = std::thread::spawn(move || {
            while cancelled.progress().last_physical == 0 && !cancelled.is_cancelled() {
                std::thread::yield_now();
            }
            cancelled.cancel();
        });
        let options = ScrubOptions { start, ..ScrubOptions::whole(ScrubMode::Repair) };
        let end = fs.scrub(DevId(1), &options, &monitor).unwrap();
        monitor.cancel();
        let progress = monitor.progress();
        if progress.last_physical == 0 {
            break;
        }
        canceller.join().unwrap();
        bytes += progress.data_bytes + progress.tree_bytes;
        assert!(progress.last_physical > start);
        start = progress.last_physical;
        parts += 1;
        if end == ScrubEnd::Finished {
            break;
        }
    }
    assert!(parts > 1, "it was never cancelled in time");
    assert_eq!(bytes, whole.data_bytes + whole.tree_bytes);
    assert!(!fs.cancel_scrubs());
    assert_eq!(fs.scrub_progress(DevId(1)), None);
}

#[test]
fn writers_make_no_false_errors() {
    beside_writers(2, BlockGroupFlags::RAID1);
}

#[test]
fn writers_make_no_false_errors_raid5() {
    beside_writers(3, BlockGroupFlags::RAID5);
}

/// Beside writers that free and allocate all the time nothing is found that is not there.
fn beside_writers(count: u64, profile: BlockGroupFlags) {
    let disks = Disks::make(count, profile, profile);
    disks.fill(DataRule::Usual);
    let fs = Arc::new(disks.open(Access::ReadWrite, DataRule::Usual));
    let writers: Vec<_> = (0..2u64)
        .map(|writer| {
            let fs = Arc::clone(&fs);
            std::thread::spawn(move || {
                let name = format!("busy {writer}");
                for round in 0..40u64 {
                    let place = Place::new(fs.root(), name.as_bytes());
                    let id = fs.lookup(place).or_else(|_| fs.create(place, &FILE)).unwrap();
                    fs.write(id, round % 7 * 4096, &content(round)).unwrap();
                    if round % 3 == 0 {
                        fs.fsync(id).unwrap();
                    } else {
                        fs.sync().unwrap();
                    }
                }
            })
        })
        .collect();
    let mut scrubs = 0;
    while scrubs < 2 || writers.iter().any(|writer| !writer.is_finished()) {
        let (progress, findings) = scrub(&fs, ScrubMode::Repair);
        assert!(findings.is_empty() && progress.errors() == 0, "{findings:?}");
        scrubs += 1;
    }
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    println!("{scrubs} scrubs beside writers");
    drop(fs);
    disks.assert_clean();
}

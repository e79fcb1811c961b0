//! Power cuts while a filesystem is made over another one, on one device or several: whoever opens what is left, all
//! devices or some of them, finds the old filesystem as it was, the new one whole, or none.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use butterfs_engine::dir::Place;
use butterfs_engine::filesystem::{Access, Filesystem, Flow, NewInode, NewKind, OpenOptions};
use butterfs_engine::inode::InodeId;
use butterfs_engine::mkfs::{MakeOptions, NewDevice, make_on};
use butterfs_format::items::BlockGroupFlags;
use butterfs_format::superblock::{SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_testkit::crash::judge::{Maker, Strictness, check_devices, environment, use_it};
use butterfs_testkit::crash::recording::Event;
use butterfs_testkit::crash::states::{CrashState, Plan, Settings, SuperblockTear, shared};
use butterfs_testkit::crash::workload::{CountingEnvironment, open};
use butterfs_testkit::random::Random;
use butterfs_volume::{BlockDevice, MemDevice, Missing, OpenMode, Volume, signatures};

const LEN: u64 = 160 << 20;
const FILES: u64 = 12;
const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 0, gid: 0 };
const SINGLE: BlockGroupFlags = BlockGroupFlags::empty();
const RAID0: BlockGroupFlags = BlockGroupFlags::RAID0;
const RAID1: BlockGroupFlags = BlockGroupFlags::RAID1;
const RAID5: BlockGroupFlags = BlockGroupFlags::RAID5;

/// A filesystem on some of the disks, with the profiles of data and metadata.
#[derive(Clone, Copy)]
struct Layout {
    disks: &'static [usize],
    data: BlockGroupFlags,
    metadata: BlockGroupFlags,
}

const fn on(disks: &'static [usize], data: BlockGroupFlags, metadata: BlockGroupFlags) -> Layout {
    Layout { disks, data, metadata }
}

impl Layout {
    fn make(&self, devices: &[Arc<dyn BlockDevice>], environment: &CountingEnvironment) {
        let mut options = MakeOptions::new(0, environment);
        options.devices = self.disks.iter().map(|_| NewDevice::new(LEN, environment)).collect();
        (options.data_profile, options.metadata_profile) = (self.data, self.metadata);
        make_on(&self.of(devices), &options).unwrap();
    }

    /// Its own of all disks.
    fn of(&self, disks: &[Arc<dyn BlockDevice>]) -> Vec<Arc<dyn BlockDevice>> {
        self.disks.iter().map(|disk| Arc::clone(&disks[*disk])).collect()
    }
}

/// What was done before, and is not durable either.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// Somebody put zeros over the superblocks and did not wait for the disk.
    Wiped,
}

fn content(number: u64) -> Vec<u8> {
    Random::new(number + 1).bytes(60_000 + number as usize * 20_000)
}

/// What a filesystem holds, as far as it can be read.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    Old,
    New,
}

/// Reads all that can be read; wrong names or bytes are no errors but lies.
fn look(fs: &Filesystem, whole: bool) -> Result<Shown, String> {
    let mut names = BTreeMap::new();
    let listed = fs.read_dir(fs.root(), 2, |entry| {
        names.insert(String::from_utf8_lossy(&entry.name).into_owned(), ());
        Ok(Flow::More)
    });
    match listed {
        Err(error) if whole => return Err(format!("the top directory cannot be read: {error}")),
        Err(_) => return Ok(Shown::Old),
        Ok(_) if names.is_empty() => return Ok(Shown::New),
        Ok(_) => {}
    }
    let wanted: BTreeSet<_> = (0..FILES).map(|number| format!("file {number}")).collect();
    if !names.keys().eq(wanted.iter()) {
        return Err(format!("the names are {names:?}"));
    }
    for number in 0..FILES {
        let wanted = content(number);
        let read = || -> butterfs_engine::Result<Vec<u8>> {
            let id: InodeId = fs.lookup(Place::new(fs.root(), format!("file {number}").as_bytes()))?;
            let mut bytes = vec![0; wanted.len() + 1];
            let len = fs.read(id, 0, &mut bytes)?;
            bytes.truncate(len);
            Ok(bytes)
        };
        match read() {
            Ok(bytes) if bytes == wanted => {}
            Ok(_) => return Err(format!("file {number} has other bytes")),
            Err(error) if whole => return Err(format!("file {number} cannot be read: {error}")),
            Err(_) => {}
        }
    }
    Ok(Shown::Old)
}

/// What somebody sees who opens these; `None`: no filesystem opens.
fn seen(devices: &[MemDevice], missing: Missing) -> Result<Option<Shown>, String> {
    let devices = shared(devices.iter().map(MemDevice::snapshot).collect());
    let how = butterfs_volume::OpenOptions { missing, ..butterfs_volume::OpenOptions::new(OpenMode::ReadOnly) };
    let Ok(volume) = Volume::open_with(devices.clone(), &how) else { return Ok(None) };
    let options = OpenOptions { access: Access::ReadOnly, ..OpenOptions::default() };
    let whole = missing == Missing::Refuse;
    let fs = match Filesystem::open(volume, options, Box::new(environment())) {
        Ok(fs) => fs,
        Err(error) if whole => return Err(format!("the volume opens, the filesystem does not: {error}")),
        Err(_) => return Ok(None),
    };
    let shown = look(&fs, whole)?;
    if whole {
        check_devices(&devices, Maker::Butterfs, Strictness::OneCopy).map_err(|why| why.0)?;
    }
    Ok(Some(shown))
}

/// Who opens it for writing can use it.
fn use_devices(devices: &[MemDevice]) -> Result<(), String> {
    let devices = shared(devices.iter().map(MemDevice::snapshot).collect());
    let Ok(fs) = open(devices.clone(), Access::ReadWrite, environment()) else { return Ok(()) };
    use_it(&fs).map_err(|error| format!("cannot be used: {error}"))?;
    drop(fs);
    check_devices(&devices, Maker::Butterfs, Strictness::OneCopy).map_err(|why| format!("after use: {}", why.0))
}

/// The devices of each filesystem that a scan finds.
fn found(devices: &[MemDevice]) -> Vec<Vec<MemDevice>> {
    let mut groups: BTreeMap<[u8; 16], Vec<MemDevice>> = BTreeMap::new();
    for device in devices {
        let mut bytes = [0; 72];
        device.read_at(SUPERBLOCK_OFFSETS[0], &mut bytes).unwrap();
        if bytes[64..] == butterfs_format::superblock::MAGIC {
            groups.entry(bytes[32..48].try_into().unwrap()).or_default().push(device.snapshot());
        }
    }
    groups.into_values().collect()
}

/// Counts of what was seen: the old one, the new one, none.
#[derive(Debug, Default)]
struct Counts {
    old: usize,
    new: usize,
    none: usize,
}

fn judge(state: &CrashState, counts: &mut Counts) -> Result<(), String> {
    let mut all = found(&state.devices);
    let whole = all.len();
    all.extend(state.devices.iter().map(|device| vec![device.snapshot()]));
    let mut any = false;
    for (number, devices) in all.iter().enumerate() {
        for missing in [Missing::Refuse, Missing::Accept] {
            match seen(devices, missing)? {
                Some(Shown::Old) if number < whole => (any, counts.old) = (true, counts.old + 1),
                Some(Shown::New) if number < whole => (any, counts.new) = (true, counts.new + 1),
                _ => {}
            }
        }
        use_devices(devices)?;
    }
    counts.none += usize::from(!any);
    Ok(())
}

fn cut(old: Layout, new: Layout, before: Before, superblocks: SuperblockTear) {
    let disks = 1 + old.disks.iter().chain(new.disks).max().unwrap();
    let bases: Vec<_> = (0..disks).map(|disk| MemDevice::named(format!("disk{disk}"), LEN)).collect();
    let devices = shared(bases.iter().map(MemDevice::snapshot).collect());
    old.make(&devices, &CountingEnvironment::new(1));
    let fs = open(old.of(&devices), Access::ReadWrite, CountingEnvironment::new(1000)).unwrap();
    for number in 0..FILES {
        let id = fs.create(Place::new(fs.root(), format!("file {number}").as_bytes()), &FILE).unwrap();
        fs.write(id, 0, &content(number)).unwrap();
        fs.sync().unwrap();
    }
    drop(fs);
    let bases = devices.iter().map(|device| copy(&**device)).collect();
    let plan = Plan::of(bases, Settings { superblocks, ..Settings::new(7, 120) }, |devices, recorder| {
        if before == Before::Wiped {
            for device in new.of(devices) {
                let places = SUPERBLOCK_OFFSETS.iter().filter(|at| **at < LEN);
                places.for_each(|at| device.write_at(*at, &[0; SUPERBLOCK_SIZE]).unwrap());
            }
        }
        new.make(devices, &CountingEnvironment::new(1 << 20));
        recorder.mark("made");
    });
    let made = plan.events().iter().position(|event| matches!(event, Event::Mark(_))).unwrap();
    let mut counts = Counts::default();
    for state in (0..plan.len()).map(|number| plan.state(number)) {
        judge(&state, &mut counts).unwrap_or_else(|why| panic!("{state}: {why}"));
        if state.cut > made {
            let own: Vec<_> = new.disks.iter().map(|disk| state.devices[*disk].snapshot()).collect();
            assert_eq!(seen(&own, Missing::Refuse), Ok(Some(Shown::New)), "{state}: it was made");
        }
    }
    println!("{counts:?}");
    assert!(counts.old > 0 && counts.new > 0 && counts.none > 0, "{counts:?}");
}

fn copy(device: &dyn BlockDevice) -> MemDevice {
    let copy = MemDevice::named(device.name(), device.len());
    let mut bytes = vec![0; 1 << 20];
    for at in (0..device.len()).step_by(bytes.len()) {
        device.read_at(at, &mut bytes).unwrap();
        if bytes.iter().any(|byte| *byte != 0) {
            copy.write_at(at, &bytes).unwrap();
        }
    }
    copy
}

const DUP: BlockGroupFlags = BlockGroupFlags::DUP;

#[test]
fn on_one_device() {
    cut(on(&[0], SINGLE, DUP), on(&[0], SINGLE, DUP), Before::Nothing, SuperblockTear::Never);
}

#[test]
fn on_the_devices_of_the_old_one() {
    cut(on(&[0, 1, 2], RAID1, RAID1), on(&[0, 1, 2], RAID0, RAID1), Before::Nothing, SuperblockTear::Never);
    cut(on(&[0, 1, 2], RAID5, RAID1), on(&[2, 1, 0], RAID5, RAID5), Before::Nothing, SuperblockTear::OneCopy);
}

#[test]
fn on_some_devices_of_the_old_one() {
    cut(on(&[0, 1, 2], RAID1, RAID1), on(&[1, 2], SINGLE, RAID1), Before::Nothing, SuperblockTear::Never);
    cut(on(&[0, 1, 2], SINGLE, RAID1), on(&[2, 0], RAID1, RAID1), Before::Nothing, SuperblockTear::OneCopy);
}

#[test]
fn on_others_besides() {
    cut(on(&[0], SINGLE, DUP), on(&[0, 1], RAID1, RAID1), Before::Nothing, SuperblockTear::Never);
    cut(on(&[0, 1], RAID0, RAID0), on(&[2, 1, 0], RAID0, RAID1), Before::Nothing, SuperblockTear::OneCopy);
}

/// The old superblocks are zeros already, but only in somebody's memory: after the cut they may be there again.
#[test]
fn after_the_old_one_was_wiped_in_memory() {
    cut(on(&[0, 1], RAID1, RAID1), on(&[0, 1], RAID1, RAID1), Before::Wiped, SuperblockTear::Never);
}

/// What was there of another kind is made unknown before its place is taken.
#[test]
fn another_filesystem_is_gone_before_it_is_overwritten() {
    const MAGIC_AT: u64 = 1080;
    let bases = vec![MemDevice::named("disk", LEN), MemDevice::named("other", LEN)];
    bases.iter().for_each(|base| base.write_at(MAGIC_AT, &[0x53, 0xef]).unwrap());
    let layout = on(&[0, 1], SINGLE, RAID1);
    let plan = Plan::of(bases, Settings::new(7, 120), |devices, _| {
        layout.make(devices, &CountingEnvironment::new(1));
    });
    let (mut theirs, mut ours) = (0, 0);
    for state in (0..plan.len()).map(|number| plan.state(number)) {
        for device in &state.devices {
            let is_theirs = signatures::find(device).unwrap().is_some_and(|name| name.contains("ext4"));
            let is_written = device.written().iter().any(|(at, bytes)| *at >= 1 << 20 && bytes.iter().any(|b| *b != 0));
            assert!(!(is_theirs && is_written), "{state}: it is half overwritten and still there");
            (theirs, ours) = (theirs + usize::from(is_theirs), ours + usize::from(is_written));
        }
    }
    assert!(theirs > 0 && ours > 0, "{theirs} {ours}");
}

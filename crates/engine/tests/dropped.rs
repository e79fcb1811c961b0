//! A device is dropped because it failed, and then the power fails: what the device missed is never read from it later,
//! where no checksum tells.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::cell::RefCell;
use std::sync::Arc;

use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::file::DataRule;
use butterfs_engine::filesystem::{Access, Filesystem, OpenOptions, Returning};
use butterfs_format::items::BlockGroupFlags;
use butterfs_testkit::crash::recording::Recorder;
use butterfs_testkit::crash::states::{CrashState, Plan, Settings};
use butterfs_testkit::disks::{self, Disks};
use butterfs_testkit::fault::{Counts, Fault, FaultDevice, Lasting, Request, Rule, errno};
use butterfs_testkit::random::Random;
use butterfs_volume::{BlockDevice, OpenMode, Volume};

const MIB: u64 = 1 << 20;
/// The device that fails, by its place.
const FAILING: usize = 1;
/// States of each run.
const STATES: usize = 60;

/// Devices with a file that is overwritten in place.
fn made(count: u64, profile: BlockGroupFlags) -> Disks {
    // The one that fails is not among those that get every chunk.
    let devices = Disks::new((0..count).map(|number| (600 - 64 * number) * MIB));
    disks::make(&devices.0, profile, profile);
    let options = OpenOptions { new_data: DataRule::InPlace, ..OpenOptions::default() };
    let fs = devices.open_with(&[], options).unwrap();
    disks::write_noise(&fs, "in place", 0, 100);
    disks::write_noise(&fs, "another", 0, 101);
    fs.sync().unwrap();
    drop(fs);
    devices
}

/// What happens, call by call; the files are in place and have no checksums.
const CALLS: [fn(&Filesystem); 5] = [
    |fs| {
        disks::write_noise(fs, "in place", 0, 200);
        fs.write_back_to(0).unwrap();
    },
    |fs| fsync(fs, "in place"),
    |fs| {
        disks::write_noise(fs, "another", 0, 201);
        fs.write_back_to(0).unwrap();
    },
    |fs| {
        disks::write_noise(fs, "new", 0, 300);
        fsync(fs, "new");
    },
    |fs| {
        disks::write_noise(fs, "in place", 0, 202);
        disks::write_noise(fs, "newer", 0, 301);
        fs.sync().unwrap();
    },
];

/// What is overwritten: by which call, and by the end of which call it is synced.
struct Overwrite {
    name: &'static str,
    seed: u64,
    call: usize,
    synced: usize,
}

const OVERWRITES: [Overwrite; 3] = [
    Overwrite { name: "in place", seed: 200, call: 0, synced: 1 },
    Overwrite { name: "another", seed: 201, call: 2, synced: 3 },
    Overwrite { name: "in place", seed: 202, call: 4, synced: 4 },
];
const OLD: [(&str, u64); 2] = [("in place", 100), ("another", 101)];
const NEW: [&str; 2] = ["new", "newer"];

/// When calls ended, in events, the first of all being the open; and which of them dropped the device.
struct Told {
    ends: Vec<usize>,
    dropped: Option<usize>,
}

impl Told {
    /// What an overwritten file has to hold; `None` while that may differ from mirror to mirror.
    ///
    /// An overwrite that is not synced is on both mirrors, one or none after a power cut, however healthy they are. The
    /// call that drops a device is other: what it overwrote is old on that device for good, so by its end others must
    /// say so, synced or not. Before that end nobody was told anything.
    fn seed(&self, (name, old): (&str, u64), cut: usize) -> Option<u64> {
        let dropped = self.dropped.filter(|call| cut >= self.ends[call + 1])?;
        let begun = |write: &&Overwrite| write.name == name && self.ends[write.call] < cut;
        let Some(last) = OVERWRITES.iter().rfind(begun) else { return Some(old) };
        let done = if dropped == last.call { last.call } else { last.synced };
        (cut >= self.ends[done + 1]).then_some(last.seed)
    }
}

fn fsync(fs: &Filesystem, name: &str) {
    fs.fsync(fs.lookup(Place::new(fs.root(), name.as_bytes())).unwrap()).unwrap();
}

fn opened(devices: Vec<Arc<dyn BlockDevice>>) -> Filesystem {
    let volume = Volume::open(devices, OpenMode::ReadWrite).unwrap();
    let options = OpenOptions { new_data: DataRule::InPlace, returning: Returning::CatchUp, ..OpenOptions::default() };
    Filesystem::open(volume, options, Box::new(SystemEnvironment)).unwrap()
}

/// How many requests there are from the moment that it is open.
fn counts(devices: &Disks) -> (Counts, Counts) {
    let mut all = disks::as_devices(&devices.snapshot().0);
    let fault = Arc::new(FaultDevice::new(all[FAILING].clone(), None));
    all[FAILING] = fault.clone();
    let fs = opened(all);
    let first = fault.counts();
    CALLS.iter().for_each(|call| call(&fs));
    (first, fault.counts())
}

/// A file's bytes, if it is there.
fn content(fs: &Filesystem, name: &str) -> Option<Vec<u8>> {
    let id = fs.lookup(Place::new(fs.root(), name.as_bytes())).ok()?;
    let mut bytes = vec![0; MIB as usize];
    let len = fs.read(id, 0, &mut bytes).unwrap();
    bytes.truncate(len);
    Some(bytes)
}

/// Whichever device is left out, all files are the same, and those that are overwritten hold what was told as done.
fn assert_same(state: &CrashState, told: &Told, what: &str) {
    let devices = Disks(state.devices.iter().map(|device| Arc::new(device.snapshot())).collect());
    let assert_holds = |fs: &Filesystem, when: &str| {
        for file in OLD {
            let Some(seed) = told.seed(file, state.cut) else { continue };
            let wanted = Some(Random::new(seed).bytes(MIB as usize));
            assert!(content(fs, file.0) == wanted, "{what}, {state}: {} is not of {seed} {when}", file.0);
        }
    };
    let fs = opened(disks::as_devices(&devices.0));
    assert_holds(&fs, "at once");
    let new = NEW.map(|name| content(&fs, name));
    fs.resync().unwrap();
    // All superblocks are written again.
    disks::write_noise(&fs, "last", 0, 400);
    fs.sync().unwrap();
    drop(fs);
    for lost in 0..devices.0.len() {
        let when = format!("without device {}", lost + 1);
        let options = OpenOptions { access: Access::ReadOnly, ..OpenOptions::default() };
        let fs = devices.open_with(&[lost], options).unwrap();
        assert_holds(&fs, &when);
        assert!(NEW.map(|name| content(&fs, name)) == new, "{what}, {state}: what is new differs {when}");
    }
    devices.judge();
}

/// The second device fails for good at requests of a kind; then the power fails.
fn dropped_and_cut(count: u64, profile: BlockGroupFlags, request: Request, lasting: Lasting, most: u64) {
    let devices = made(count, profile);
    let (first, all) = counts(&devices);
    let of = |counts: &Counts| if request == Request::Write { counts.writes } else { counts.flushes };
    let (first, all) = (of(&first), of(&all));
    let (mut dropped, mut judged) = (0, 0);
    for at in (first..all).step_by((all - first).div_ceil(most).max(1) as usize) {
        let what = format!("{profile:?} on {count}, {request:?} {at} of {first} to {all}");
        let told = RefCell::new(Told { ends: Vec::new(), dropped: None });
        let bases = devices.0.iter().map(|device| device.snapshot()).collect();
        let plan = Plan::of(bases, Settings::new(at, STATES), |recording, recorder: &Arc<Recorder>| {
            let mut recording = recording.to_vec();
            let rule = Rule { request, at, fault: Fault::Error(errno::EIO), lasting };
            recording[FAILING] = Arc::new(FaultDevice::new(recording[FAILING].clone(), Some(rule)));
            let fs = opened(recording);
            let mut told = told.borrow_mut();
            told.ends.push(recorder.position());
            for (number, call) in CALLS.iter().enumerate() {
                call(&fs);
                told.ends.push(recorder.position());
                let is_dropped = !fs.shared().gate.volume().dropped_devices().is_empty();
                told.dropped = told.dropped.or(is_dropped.then_some(number));
            }
            recorder.mark("all is done");
        });
        let told = told.into_inner();
        let Some(call) = told.dropped else { continue };
        dropped += 1;
        for state in (0..plan.len()).map(|number| plan.state(number)) {
            assert_same(&state, &told, &format!("{what}, dropped by call {call}"));
            judged += OLD.iter().filter(|file| told.seed(**file, state.cut).is_some()).count();
        }
    }
    println!("{profile:?} on {count}, {request:?}: dropped {dropped} times, {judged} files judged after the call");
    assert!(dropped > 3 && judged > 50, "{dropped} dropped, {judged} judged");
}

#[test]
fn what_a_dropped_device_missed_is_never_read_from_it() {
    dropped_and_cut(2, BlockGroupFlags::RAID1, Request::Write, Lasting::Forever, 12);
    dropped_and_cut(3, BlockGroupFlags::RAID1, Request::Write, Lasting::Forever, 12);
    dropped_and_cut(4, BlockGroupFlags::RAID10, Request::Write, Lasting::Forever, 12);
}

#[test]
fn what_a_dropped_device_did_not_flush_is_never_read_from_it() {
    dropped_and_cut(2, BlockGroupFlags::RAID1, Request::Flush, Lasting::Once, 12);
    dropped_and_cut(3, BlockGroupFlags::RAID1, Request::Flush, Lasting::Once, 12);
    dropped_and_cut(4, BlockGroupFlags::RAID10, Request::Flush, Lasting::Once, 12);
}

/// The moment itself: nothing was synced, and the device is old by its superblock when the write is done.
#[test]
fn a_write_in_place_that_a_device_misses_is_done_when_others_tell_so() {
    let devices = made(2, BlockGroupFlags::RAID1);
    let (first, _) = counts(&devices);
    let mut all = disks::as_devices(&devices.0);
    let rule =
        Rule { request: Request::Write, at: first.writes, fault: Fault::Error(errno::EIO), lasting: Lasting::Forever };
    all[FAILING] = Arc::new(FaultDevice::new(all[FAILING].clone(), Some(rule)));
    let fs = opened(all);
    CALLS[0](&fs);
    assert_eq!(fs.shared().gate.volume().dropped_devices().len(), 1);
    let cut = devices.snapshot();
    drop(fs);
    let refused = cut.open(&[]).map(drop).unwrap_err().to_string();
    assert!(refused.contains("missed commits"), "{refused}");
    let fs = opened(disks::as_devices(&cut.0));
    disks::assert_noise(&fs, "in place", 0, 200);
    assert_eq!(fs.resync().unwrap().len(), 1);
    fs.sync().unwrap();
    drop(fs);
    for lost in [0, 1] {
        disks::assert_noise(&cut.open(&[lost]).unwrap(), "in place", 0, 200);
    }
}

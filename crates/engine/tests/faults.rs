//! Devices that fail: the n-th request of a workload goes wrong, for every n (every few, for the larger counts).
//!
//! Whatever it is: no panic, no hang; an error is told to the caller or healed from another copy; after a commit that
//! failed all writing is refused with the first cause; and a new open finds the last durable state, and clean.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::file::{CompressRule, DataRule};
use butterfs_engine::filesystem::{Access, Filesystem, Flow, NewInode, NewKind, State};
use butterfs_engine::mkfs::{MakeOptions, make};
use butterfs_engine::tx::{DiscardRule, Groups};
use butterfs_engine::{Error, Result};
use butterfs_format::ChecksumType;
use butterfs_format::compression::Method;
use butterfs_format::items::BlockGroupFlags;
use butterfs_testkit::crash::judge::{Violation, judge, tells_no_lies};
use butterfs_testkit::crash::recording::Recorder;
use butterfs_testkit::crash::states::{CrashState, Fate};
use butterfs_testkit::crash::workload::{self, CountingEnvironment, DEVICE_LEN, OnError, Outcome, Script, Style};
use butterfs_testkit::fault::errno::EIO;
use butterfs_testkit::fault::{Counts, Fault, FaultDevice, Lasting, Request, Rule};
use butterfs_volume::{BlockDevice, DeviceStats, MemDevice};

const SCRIPTS: [Script; 3] = [
    Script {
        name: "mixed, dup",
        style: Style::Mixed,
        seed: 3,
        steps: 60,
        nodesize: 4096,
        csum_type: ChecksumType::Crc32c,
        devices: 1,
        data: BlockGroupFlags::empty(),
        metadata: BlockGroupFlags::DUP,
        compress: CompressRule::Asked,
        files: DataRule::Usual,
        discard: DiscardRule::Never,
        groups: Groups::Apart,
    },
    Script {
        name: "snapshots, single",
        style: Style::Snapshots,
        seed: 4,
        steps: 60,
        nodesize: 16384,
        csum_type: ChecksumType::Xxhash64,
        devices: 1,
        data: BlockGroupFlags::empty(),
        metadata: BlockGroupFlags::empty(),
        compress: CompressRule::Asked,
        files: DataRule::Usual,
        discard: DiscardRule::Never,
        groups: Groups::Apart,
    },
    Script {
        name: "lzo, fsync, dup",
        style: Style::Fsync,
        seed: 5,
        steps: 60,
        nodesize: 16384,
        csum_type: ChecksumType::Crc32c,
        devices: 1,
        data: BlockGroupFlags::empty(),
        metadata: BlockGroupFlags::DUP,
        compress: CompressRule::Force(Method::Lzo),
        files: DataRule::Usual,
        discard: DiscardRule::Sync,
        groups: Groups::Apart,
    },
];

/// A workload over a device that failed.
struct Attempt {
    outcome: Outcome,
    image: Arc<MemDevice>,
    position: usize,
    struck: u64,
    counts: Counts,
    place: String,
}

fn attempt(script: &Script, rule: Option<Rule>) -> Attempt {
    let image = Arc::new(MemDevice::named("disk", script.device_len()));
    let inner: Arc<dyn BlockDevice> = Arc::clone(&image) as _;
    let device = Arc::new(FaultDevice::new(inner, rule));
    let recorder = Recorder::new();
    let outcome = workload::run(script, vec![Arc::clone(&device) as _], &recorder, OnError::Stop);
    if let (Some(filesystem), Some(failure)) = (&outcome.filesystem, &outcome.failure) {
        after_failure(filesystem, failure);
    }
    let (position, struck, counts) = (recorder.position(), device.struck(), device.counts());
    Attempt { outcome, image, position, struck, counts, place: format!("{}: {rule:?}", script.name) }
}

/// A filesystem that stopped says so to every writer, always with the first cause; readers go on.
fn after_failure(filesystem: &Filesystem, failure: &Error) {
    let gate = &filesystem.shared().gate;
    if let Some(cause) = gate.stopped().map(|stopped| stopped.cause.clone()) {
        assert_eq!(filesystem.health().state, State::Error);
        let new = NewInode { kind: NewKind::File, permissions: 0o600, uid: 0, gid: 0 };
        let create = || filesystem.create(Place::new(filesystem.root(), b"too late"), &new).map(|_| ());
        let attempts: [Result<()>; 3] = [filesystem.sync(), create(), filesystem.sync()];
        for attempt in attempts {
            let told = attempt.expect_err("nothing is written after a commit that failed");
            assert!(matches!(&told, Error::Aborted(text) if *text == cause), "{told} is not {cause}, after {failure}");
        }
        assert_eq!(gate.stopped().map(|stopped| &stopped.cause), Some(&cause), "the first cause is kept");
    } else {
        let _it_may_work_again = filesystem.sync();
    }
    let _readers_may_fail_too = filesystem.read_dir(filesystem.root(), 0, |_| Ok(Flow::More));
}

impl Attempt {
    fn state(&self, torn: bool) -> CrashState {
        let fates = if torn { vec![(0, Fate::Torn(Vec::new()))] } else { Vec::new() };
        CrashState { number: 0, cut: self.position, fates, devices: vec![self.image.snapshot()] }
    }

    /// A new open of the device, which is well again.
    fn reopens(&self, torn: bool) {
        if let Err(Violation(why)) = judge(&self.outcome.history, &self.state(torn)) {
            panic!("{}, after {:?}: {why}", self.place, self.outcome.failure);
        }
    }

    /// Whether exactly the writes that failed are in the statistics of the device.
    fn counted(&self) -> bool {
        let stats = |filesystem: &Filesystem| filesystem.shared().gate.volume().device_stats()[0].1;
        let failed = DeviceStats { write_errors: self.struck, ..DeviceStats::default() };
        self.outcome.filesystem.as_ref().is_some_and(|filesystem| stats(filesystem) == failed)
    }

    fn stopped(&self) -> bool {
        self.outcome.filesystem.as_ref().is_some_and(|filesystem| filesystem.shared().gate.stopped().is_some())
    }
}

/// What a script does when nothing fails.
fn counts(script: &Script) -> Counts {
    let whole = attempt(script, None);
    assert!(whole.outcome.failure.is_none());
    whole.counts
}

/// Numbers below `count`, at most `most` of them, spread evenly.
fn spread(count: u64, most: u64) -> impl Iterator<Item = u64> {
    let step = count.div_ceil(most).max(1);
    (0..count).step_by(step as usize)
}

/// What every write that goes wrong in a way that is told must lead to.
fn writes_fail(fault: Fault) {
    for script in &SCRIPTS {
        let (mut stopped, mut tried) = (0, 0);
        for at in spread(counts(script).writes, 200) {
            let attempt = attempt(script, Some(Rule::once(Request::Write, at, fault)));
            assert_eq!(attempt.struck, 1, "{}", attempt.place);
            // Of a further superblock copy it is enough that the failure is counted.
            assert!(attempt.outcome.failure.is_some() || attempt.counted(), "{}: nobody was told", attempt.place);
            attempt.reopens(fault != Fault::Error(EIO));
            stopped += usize::from(attempt.stopped());
            tried += 1;
        }
        println!("{}: {tried} writes failed, {stopped} times it was made read-only", script.name);
        assert!(stopped > 0);
    }
}

#[test]
fn a_write_that_fails_is_told_and_nothing_durable_is_lost() {
    writes_fail(Fault::Error(EIO));
}

/// The first half is there, and then the device fails.
#[test]
fn a_short_write_is_told_and_nothing_durable_is_lost() {
    writes_fail(Fault::Short(EIO));
}

#[test]
fn a_flush_that_fails_is_told_and_stops_all_writing() {
    for script in &SCRIPTS {
        let flushes = counts(script).flushes;
        for at in 0..flushes {
            let attempt = attempt(script, Some(Rule::error(Request::Flush, at)));
            assert!(attempt.outcome.failure.is_some(), "{}: nobody was told", attempt.place);
            assert!(attempt.stopped() || attempt.outcome.filesystem.is_none(), "{}: writing goes on", attempt.place);
            attempt.reopens(false);
        }
        println!("{}: {flushes} flushes failed", script.name);
    }
}

/// Reads that fail or give wrong bytes. The workload compares what it reads: wrong bytes never come through.
fn reads_go_wrong(fault: Fault) {
    for script in &SCRIPTS {
        let (mut healed, mut told) = (0, 0);
        for at in spread(counts(script).reads, 100) {
            let attempt = attempt(script, Some(Rule::once(Request::Read, at, fault)));
            if attempt.outcome.failure.is_some() {
                told += 1
            } else {
                healed += 1
            }
            attempt.reopens(false);
        }
        println!("{}: {healed} reads healed, {told} told", script.name);
        assert!(healed + told > 0);
    }
}

#[test]
fn a_read_that_fails_is_healed_or_told() {
    reads_go_wrong(Fault::Error(EIO));
}

#[test]
fn a_short_read_is_healed_or_told() {
    reads_go_wrong(Fault::Short(EIO));
}

#[test]
fn a_read_with_a_wrong_bit_is_healed_or_told() {
    reads_go_wrong(Fault::FlipOnRead);
}

/// The device gives what was there before the last write.
#[test]
fn a_stale_read_is_healed_or_told() {
    reads_go_wrong(Fault::Stale);
}

#[test]
fn the_file_below_is_on_a_full_disk() {
    for script in &SCRIPTS {
        for at in spread(counts(script).writes, 60) {
            let attempt = attempt(script, Some(Rule::no_space(at)));
            // The last write of all is that of a further superblock copy.
            assert!(attempt.outcome.failure.is_some() || attempt.counted(), "{}: nobody was told", attempt.place);
            attempt.reopens(false);
        }
    }
}

#[test]
fn the_device_vanishes() {
    for script in &SCRIPTS {
        let Counts { reads, writes, flushes } = counts(script);
        for at in spread(reads + writes + flushes, 120) {
            let attempt = attempt(script, Some(Rule::vanish(at)));
            assert!(attempt.outcome.failure.is_some(), "{}: nobody was told", attempt.place);
            attempt.reopens(false);
        }
    }
}

/// A device that lies when it writes: what can be read is right all the same, or it is an error.
fn writes_are_lies(fault: Fault) {
    for script in &SCRIPTS {
        let (mut whole, mut partly, mut closed) = (0, 0, 0);
        for at in spread(counts(script).writes, 60) {
            let attempt = attempt(script, Some(Rule::once(Request::Write, at, fault)));
            match tells_no_lies(&attempt.outcome.history, &attempt.state(true)) {
                Ok((0, _)) => closed += 1,
                Ok((_, 0)) => whole += 1,
                Ok(_) => partly += 1,
                Err(Violation(why)) => panic!("{}: {why}", attempt.place),
            }
        }
        println!("{}: {whole} read whole, {partly} in part, {closed} empty or not at all", script.name);
        assert!(whole > 0);
    }
}

#[test]
fn a_torn_write_is_found_out() {
    writes_are_lies(Fault::Torn);
}

#[test]
fn a_lost_write_is_found_out() {
    writes_are_lies(Fault::Lost);
}

#[test]
fn a_misdirected_write_is_found_out() {
    writes_are_lies(Fault::Misdirected(1 << 20));
}

#[test]
fn a_write_with_a_wrong_bit_is_found_out() {
    writes_are_lies(Fault::FlipOnWrite);
}

/// DUP metadata heals: where a tree block's copy was damaged on its way, all is read, and the next open repairs it.
#[test]
fn one_bad_copy_of_metadata_is_as_good_as_none() {
    let script = &SCRIPTS[0];
    let (mut healed, mut data) = (0, 0);
    for at in spread(counts(script).writes, 120) {
        for fault in [Fault::FlipOnWrite, Fault::Lost, Fault::Torn] {
            let attempt = attempt(script, Some(Rule::once(Request::Write, at, fault)));
            match attempt.outcome.failure {
                None => healed += 1,
                Some(Error::Corruption(_) | Error::Volume(_)) => data += 1,
                Some(error) => panic!("{}: {error}", attempt.place),
            }
        }
    }
    println!("{healed} runs did not notice, {data} were told of damaged data");
    assert!(healed > data);
}

/// Data that the device does not give back is EIO with the device's name, not corruption; a tree block likewise.
#[test]
fn a_read_that_fails_names_the_device() {
    let image = Arc::new(MemDevice::named("disk", DEVICE_LEN));
    let mut options = MakeOptions::new(DEVICE_LEN, &SystemEnvironment);
    options.metadata_profile = BlockGroupFlags::empty();
    make(Arc::clone(&image) as _, &options).unwrap();
    let opened = |rule| {
        let device = Arc::new(FaultDevice::new(Arc::clone(&image) as _, rule));
        workload::open(vec![Arc::clone(&device) as _], Access::ReadWrite, CountingEnvironment::new(1))
            .map(|filesystem| (filesystem, device))
    };
    let (filesystem, _) = opened(None).unwrap();
    let new = NewInode { kind: NewKind::File, permissions: 0o600, uid: 0, gid: 0 };
    let id = filesystem.create(Place::new(filesystem.root(), b"file"), &new).unwrap();
    filesystem.write(id, 0, &[7; 100_000]).unwrap();
    filesystem.sync().unwrap();
    drop(filesystem);
    let (filesystem, device) = opened(None).unwrap();
    filesystem.attributes(id).unwrap();
    let to_open = device.counts().reads;
    let read = |filesystem: &Filesystem| filesystem.read(id, 0, &mut [0; 4096]).map(|_| ());
    read(&filesystem).unwrap();
    let all = device.counts().reads;
    assert!(all > to_open, "data is read from the device");
    drop(filesystem);
    // From every read on, all fail: to open, to find the file, to read it.
    for at in 0..all {
        let rule = Rule { lasting: Lasting::Forever, ..Rule::error(Request::Read, at) };
        let told = opened(Some(rule)).and_then(|(filesystem, _)| read(&filesystem));
        match told.expect_err("nothing can be read") {
            Error::Volume(butterfs_volume::Error::Device { name, source, .. }) => {
                assert_eq!((name.as_str(), source.raw_os_error()), ("disk", Some(EIO)), "read {at}");
            }
            other => panic!("read {at} of {all}: {other}"),
        }
    }
}

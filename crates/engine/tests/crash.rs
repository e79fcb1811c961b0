//! Power cuts: seeded workloads on recorded devices, and every state judged that a cut could have left (a sample of
//! them, by seed). `BUTTERFS_CRASH_STATES=100000` makes it long, `BUTTERFS_CRASH_SEED` makes it another one. See
//! `docs/crash-testing.md`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use butterfs_engine::dir::Place;
use butterfs_engine::filesystem::{Access, NewInode, NewKind, NewSubvolume};
use butterfs_engine::mkfs::{MakeOptions, make};
use butterfs_format::superblock::{SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_testkit::crash::breaker::{Breach, BrokenDevice};
use butterfs_testkit::crash::campaign::{Campaign, Tally, Wrap, campaigns};
use butterfs_testkit::crash::cut::Cut;
use butterfs_testkit::crash::judge::{Maker, Strictness, check_devices, use_it};
use butterfs_testkit::crash::recording::Event;
use butterfs_testkit::crash::states::{Plan, Settings, SuperblockTear};
use butterfs_testkit::crash::workload::{CountingEnvironment, DEVICE_LEN, OnError, Style, open};
use butterfs_testkit::library_tree::files;
use butterfs_volume::{BlockDevice, MemDevice};

/// Judged in each run, over all workloads.
const STATES: usize = 2500;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}

fn all_campaigns(superblocks: SuperblockTear) -> Vec<Campaign> {
    campaigns(number("BUTTERFS_CRASH_SEED", 1), number("BUTTERFS_CRASH_STATES", STATES as u64) as usize, superblocks)
}

/// Judges the workloads of some styles and prints the counts.
fn judge(styles: &[Style], superblocks: SuperblockTear) -> Tally {
    let mut all = Tally::default();
    println!("{}", Tally::HEAD);
    for campaign in all_campaigns(superblocks).iter().filter(|campaign| styles.contains(&campaign.script.style)) {
        let tally = campaign.run(1);
        println!("{}", tally.row(campaign.script.name));
        all.add(&tally);
    }
    all
}

fn require_none(violations: &[(String, String)]) {
    let first: Vec<_> = violations.iter().take(5).map(|(state, why)| format!("{state}\n  {why}")).collect();
    assert!(first.is_empty(), "{} violations:\n{}", violations.len(), first.join("\n"));
}

/// Fails if a state is not as it must be.
fn cut(styles: &[Style]) -> Tally {
    let tally = judge(styles, SuperblockTear::Never);
    require_none(&tally.violations);
    tally
}

#[test]
fn making_a_filesystem() {
    let tally = cut(&[Style::MakeOnly]);
    assert!(tally.not_made > 0 && tally.last_commit > 0, "{tally:?}");
}

#[test]
fn mixed_operations() {
    let tally = cut(&[Style::Mixed]);
    assert!(tally.newer > 0 && tally.torn > 0, "{tally:?}");
}

#[test]
fn many_fsyncs() {
    cut(&[Style::Fsync]);
}

#[test]
fn subvolumes_come_and_go() {
    cut(&[Style::Snapshots]);
}

#[test]
fn hardly_any_space() {
    cut(&[Style::NearlyFull]);
}

/// Groups change their profile, devices their size.
#[test]
fn volumes_change() {
    cut(&[Style::Volume]);
}

/// Devices come and go, stay away and return.
#[test]
fn devices_change() {
    cut(&[Style::Devices]);
}

/// That workload does all that it is for.
#[test]
fn devices_change_in_all_ways() {
    let (mut done, mut ends) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    for campaign in all_campaigns(SuperblockTear::Never).iter().filter(|c| c.script.style == Style::Devices) {
        let recorded = campaign.record(|device| device, OnError::Panic);
        let steps = recorded.history.steps.iter();
        done.extend(steps.clone().filter_map(|step| step.what.split(' ').next().map(str::to_owned)));
        ends.extend(steps.filter_map(|step| {
            step.what.strip_prefix("replacement ").map(|end| end.split('(').next().map(str::to_owned))
        }));
    }
    for end in ["ended: Done", "ended: Suspended", "cancelled: Cancelled"] {
        assert!(ends.contains(&Some(end.to_owned())), "no {end}: {ends:?}");
    }
    for what in ["add", "remove", "resize", "balance", "open", "device", "replace"] {
        assert!(done.contains(what), "no {what}: {done:?}");
    }
}

/// The workload with hardly any space does run out of space.
#[test]
fn hardly_any_space_is_not_enough() {
    for campaign in all_campaigns(SuperblockTear::Never).iter().filter(|c| c.script.style == Style::NearlyFull) {
        let recorded = campaign.record(|device| device, OnError::Panic);
        let filled = recorded.history.steps.iter().position(|step| step.what == "sync").unwrap();
        let refused = recorded.history.steps[filled..].iter().filter(|step| step.what.ends_with("(no space)")).count();
        assert!(refused > 0, "{}", campaign.script.name);
    }
}

/// A half-written superblock is not used; the other copy is.
#[test]
fn a_superblock_is_half_written() {
    let styles = [Style::MakeOnly, Style::Mixed, Style::Fsync, Style::Snapshots, Style::NearlyFull];
    let tally = judge(&styles, SuperblockTear::OneCopy);
    require_none(&tally.violations);
}

/// The superblock that leads to a log is written to all its places. If the superblock of the next commit is torn in the
/// first, the filesystem opens by the second copy, which must know the log.
#[test]
fn a_torn_superblock_keeps_what_fsync_made_durable() {
    let device: Arc<dyn BlockDevice> = Arc::new(MemDevice::named("disk", DEVICE_LEN));
    make(Arc::clone(&device), &MakeOptions::new(DEVICE_LEN, &CountingEnvironment::new(1))).unwrap();
    let open = || open(vec![Arc::clone(&device)], Access::ReadWrite, CountingEnvironment::new(1000)).unwrap();
    let filesystem = open();
    let new = NewInode { kind: NewKind::File, permissions: 0o644, uid: 0, gid: 0 };
    let create = |name: &[u8]| filesystem.create(Place::new(filesystem.root(), name), &new).unwrap();
    let id = create(b"file");
    filesystem.sync().unwrap();
    filesystem.write(id, 0, b"content").unwrap();
    filesystem.fsync(id).unwrap();
    let before = SUPERBLOCK_OFFSETS[..2].iter().map(|offset| {
        let mut bytes = [0; SUPERBLOCK_SIZE];
        device.read_at(*offset, &mut bytes).unwrap();
        bytes
    });
    let before: Vec<_> = before.collect();
    create(b"other");
    filesystem.sync().unwrap();
    drop(filesystem);
    // A cut while the first superblock is written: 512 bytes of it are there, and nothing of the second.
    device.write_at(SUPERBLOCK_OFFSETS[0] + 512, &before[0][512..]).unwrap();
    device.write_at(SUPERBLOCK_OFFSETS[1], &before[1]).unwrap();
    let filesystem = open();
    let mut content = [0; 7];
    assert_eq!(filesystem.read(id, 0, &mut content).unwrap(), 7, "fsync of it had returned");
    assert_eq!(&content, b"content");
}

/// The same script writes the same bytes in the same order, so a seed and a number are enough to see a state again.
#[test]
fn a_run_can_be_repeated() {
    for campaign in all_campaigns(SuperblockTear::Never) {
        let events = || -> Vec<String> {
            let recorded = campaign.record(|device| device, OnError::Panic);
            recorded.plan.events().iter().map(describe).collect()
        };
        assert!(events() == events(), "{}", campaign.script.name);
    }
}

fn describe(event: &Event) -> String {
    match event {
        Event::Write { offset, bytes, .. } => format!("{offset} {:x}", crc(bytes)),
        other => format!("{other:?}"),
    }
}

fn crc(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum: u64, byte| sum.rotate_left(5) ^ u64::from(*byte).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Any work on devices can be cut: here what a tool does that deletes a subvolume and removes what it held.
#[test]
fn a_subvolume_that_is_deleted_is_there_or_gone() {
    const FILES: usize = 150;
    let image = Arc::new(MemDevice::named("disk", DEVICE_LEN));
    let open = |device: &Arc<dyn BlockDevice>, clock| {
        open(vec![Arc::clone(device)], Access::ReadWrite, CountingEnvironment::new(clock)).unwrap()
    };
    let device: Arc<dyn BlockDevice> = Arc::clone(&image) as _;
    let environment = CountingEnvironment::new(1);
    let mut options = MakeOptions::new(DEVICE_LEN, &environment);
    options.nodesize = 4096;
    make(Arc::clone(&device), &options).unwrap();
    let filesystem = open(&device, 1000);
    let new = NewSubvolume { permissions: 0o755, uid: 0, gid: 0 };
    let place = Place::new(filesystem.root(), b"volume");
    filesystem.create_subvolume(place, &new).unwrap();
    let top = filesystem.lookup(place).unwrap();
    let new = NewInode { kind: NewKind::File, permissions: 0o644, uid: 0, gid: 0 };
    for name in 0..FILES {
        let id = filesystem.create(Place::new(top, format!("file {name}").as_bytes()), &new).unwrap();
        filesystem.write(id, 0, &[name as u8; 5000]).unwrap();
    }
    filesystem.sync().unwrap();
    drop(filesystem);
    let plan =
        Plan::of(vec![image.snapshot()], Settings::new(number("BUTTERFS_CRASH_SEED", 1), 200), |devices, recorder| {
            let filesystem = open(&devices[0], 2000);
            filesystem.delete_subvolume(Place::new(filesystem.root(), b"volume")).unwrap();
            while filesystem.clean_once(5).unwrap() {
                filesystem.sync().unwrap();
            }
            filesystem.sync().unwrap();
            recorder.mark("deleted");
        });
    let (mut there, mut gone) = (0, 0);
    for state in (0..plan.len()).map(|n| plan.state(n)) {
        let allowed = if state.is_torn() { Strictness::OneCopy } else { Strictness::Cut };
        let clean = |devices: &[Arc<dyn BlockDevice>], allowed| {
            check_devices(devices, Maker::Butterfs, allowed).unwrap_or_else(|why| panic!("{state}: {why:?}"));
        };
        clean(&state.forks(), allowed);
        let devices = state.forks();
        let filesystem = open(&devices[0], 3000);
        match files(&filesystem).unwrap().len() {
            FILES => there += 1,
            0 => gone += 1,
            some => panic!("{state}: {some} files of {FILES}"),
        }
        use_it(&filesystem).unwrap();
        drop(filesystem);
        clean(&devices, Strictness::Clean);
    }
    println!("{there} times it was there, {gone} times gone");
    assert!(there > 0 && gone > 0);
}

fn violations_with(wrap: Wrap) -> Vec<(String, String)> {
    let campaigns = all_campaigns(SuperblockTear::Never);
    let campaign = campaigns.iter().find(|campaign| campaign.script.style == Style::Mixed).unwrap();
    let campaign = Campaign { settings: Settings::new(1, 150), ..*campaign };
    campaign.record(wrap, OnError::Stop).judge_all(1).violations
}

/// The judge can say no: each broken promise is seen.
#[test]
fn broken_devices_are_found_out() {
    let wraps: [(Breach, Wrap); 4] = [
        (Breach::FlushBeforeSuperblock, |d| Arc::new(BrokenDevice::new(d, Breach::FlushBeforeSuperblock))),
        (Breach::FlushAfterSuperblock, |d| Arc::new(BrokenDevice::new(d, Breach::FlushAfterSuperblock))),
        (Breach::SuperblockFirst, |d| Arc::new(BrokenDevice::new(d, Breach::SuperblockFirst))),
        (Breach::LosesWrites, |d| Arc::new(BrokenDevice::new(d, Breach::LosesWrites))),
    ];
    assert_eq!(wraps.map(|(breach, _)| breach), Breach::ALL);
    assert!(violations_with(|device| device).is_empty());
    for (breach, wrap) in wraps {
        let found = violations_with(wrap);
        println!("{breach:?}: {} violations, such as {:?}", found.len(), found.first());
        assert!(found.len() >= 3, "{breach:?}: {found:?}");
    }
}

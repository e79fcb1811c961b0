//! The undo file lies on a mount of its own whose device is cut with the repaired one: where anything of the repaired
//! device differs from before, the undo file is found whole, and brings every byte back.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, OpenOptions};
use butterfs_engine::mkfs::{MakeOptions, make};
use butterfs_fuse::adapter::AdapterOptions;
use butterfs_repair::{Options, Verdict, apply, plan, undo};
use butterfs_testkit::crash::judge::environment;
use butterfs_testkit::crash::states::{CrashState, Plan, Settings};
use butterfs_testkit::crash::tools::damaged::{Damage, damaged};
use butterfs_testkit::crash::workload::{DEVICE_LEN, open};
use butterfs_testkit::damage::Subject;
use butterfs_testkit::library_tree;
use butterfs_testkit::mounter::create_sparse;
use butterfs_testkit::report::is_root;
use butterfs_testkit::served::Served;
use butterfs_testkit::workdir::WorkDir;
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

const STATES: usize = 300;

fn bytes(device: &MemDevice) -> Vec<(u64, Vec<u8>)> {
    let zeros = |part: &(u64, Vec<u8>)| part.1.iter().any(|byte| *byte != 0);
    device.written().into_iter().filter(zeros).collect()
}

/// Where the undo file lies.
fn disk() -> MemDevice {
    let device = Arc::new(MemDevice::named("undo's disk", DEVICE_LEN));
    make(device.clone(), &MakeOptions::new(DEVICE_LEN, &SystemEnvironment)).unwrap();
    device.snapshot()
}

fn repair_on_a_mount(devices: &[Arc<dyn BlockDevice>], broken: &MemDevice, work: &WorkDir) {
    let volume = Volume::open(vec![Arc::clone(&devices[0])], OpenMode::ReadWrite).unwrap();
    let filesystem = Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap();
    let stand_in = work.file("stand-in");
    create_sparse(&stand_in, DEVICE_LEN);
    let served = Served::filesystem(Arc::new(filesystem), &work.dir("mnt"), &stand_in, AdapterOptions::default());
    let repair = plan(&vec![Arc::new(broken.snapshot()) as Arc<dyn BlockDevice>], &Options::default()).unwrap();
    assert_eq!(repair.verdict, Verdict::Repaired, "{repair}");
    apply(&repair, &vec![Arc::clone(&devices[1])], &served.path().join("undo"), [0; 16]).unwrap();
    served.unmount().unwrap();
}

/// Gives whether something was to be undone.
fn undone(state: &CrashState, broken: &MemDevice, work: &WorkDir) -> bool {
    if bytes(&state.devices[1]) == bytes(broken) {
        return false;
    }
    let disk = Arc::new(state.devices[0].snapshot());
    let filesystem = open(vec![disk], Access::ReadOnly, environment()).unwrap_or_else(|e| panic!("{state}: {e}"));
    let mut files = library_tree::files(&filesystem).unwrap_or_else(|(_, error)| panic!("{state}: {error}"));
    let found = files.remove("undo").unwrap_or_else(|| panic!("{state}: there is no undo file"));
    let file = work.file("found");
    std::fs::write(&file, found).unwrap();
    let fork = Arc::new(state.devices[1].snapshot());
    undo(&file, &vec![fork.clone() as Arc<dyn BlockDevice>]).unwrap_or_else(|error| panic!("{state}: {error}"));
    assert!(bytes(&fork) == bytes(broken), "{state}: not every byte is back");
    true
}

#[test]
fn the_undo_file_is_durable_before_the_first_write() {
    if !is_root("the_undo_file_is_durable_before_the_first_write") {
        return;
    }
    let work = WorkDir::new("repair-cuts");
    let broken = damaged(&Subject::new(), Damage::LostTrees, 1);
    let plan = Plan::of(vec![disk(), broken.snapshot()], Settings::new(1, STATES), |devices, _| {
        repair_on_a_mount(devices, &broken, &work);
    });
    let count = (0..plan.len()).filter(|number| undone(&plan.state(*number), &broken, &work)).count();
    println!("{count} of {STATES} states are undone");
    assert!(count > STATES / 10, "{count} states had anything to undo");
}

//! Repairs while a device is being replaced.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::cell::Cell;
use std::sync::Arc;

use butterfs_engine::filesystem::ReplaceEnd;
use butterfs_format::DevId;
use butterfs_format::items::{BlockGroupFlags, ReadSource};
use butterfs_repair::{Options, Renew, apply, plan};
use butterfs_testkit::disks::{self, Disks};
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

const SIZE: u64 = 512 << 20;

/// Up to where the filesystem says that the target is filled.
fn cursor(devices: &Disks) -> u64 {
    let volume = Volume::open(disks::as_devices(&devices.0), OpenMode::ReadOnly).unwrap();
    volume.stored_replace_item().unwrap().unwrap().cursor_left.get()
}

/// The kernel does not look at generations: it would go on from there, with a target that lacks what was repaired.
#[test]
fn without_its_target_it_begins_anew() {
    let devices = Disks::new([SIZE; 2].into_iter());
    disks::make(&devices.0, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1);
    let target = Arc::new(MemDevice::named("target", SIZE));
    let fs = devices.open(&[]).unwrap();
    (0..10).for_each(|number| disks::write_noise(&fs, &format!("file{number}"), 0, number));
    fs.sync().unwrap();
    let device: Arc<dyn BlockDevice> = target.clone();
    let begun = fs.begin_replacement(DevId(2), &device, ReadSource::Always).unwrap();
    let windows = Cell::new(0);
    let end = fs.run_replacement_until(begun, &|| windows.replace(windows.get() + 1) == 5).unwrap();
    assert_eq!(end, ReplaceEnd::Suspended);
    drop(fs);
    assert!(cursor(&devices) > 0);

    let (given, folder) = (disks::as_devices(&devices.0), tempfile::tempdir().unwrap());
    let options = Options { renew: Renew { extent_tree: true, ..Renew::default() }, ..Options::default() };
    let plan = plan(&given, &options).unwrap();
    assert!(plan.steps.iter().any(|step| step.name == "device-replace"), "{plan}");
    apply(&plan, &given, &folder.path().join("undo"), [0; 16]).unwrap();
    assert_eq!(cursor(&devices), 0);
    devices.judge();

    let mut all = Disks(devices.0.iter().cloned().chain([target]).collect());
    let fs = all.open(&[]).unwrap();
    let begun = fs.begin_resumed_replacement().unwrap();
    assert!(matches!(fs.run_replacement(begun).unwrap(), ReplaceEnd::Done(_)));
    drop(fs);
    all.0.remove(1);
    all.judge();
    let fs = all.open(&[0]).unwrap();
    (0..10).for_each(|number| disks::assert_noise(&fs, &format!("file{number}"), 0, number));
}

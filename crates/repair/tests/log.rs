//! A log tree outlives a repair: what was fsynced since the last commit is there after the next mount.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::sync::Arc;

use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Filesystem, NewInode, NewKind, OpenOptions};
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_engine::tree::TreeReader;
use butterfs_format::{Generation, TreeId};
use butterfs_repair::store::Store;
use butterfs_repair::{Devices, Options, Verdict, apply, plan};
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

const SIZE: u64 = 300 << 20;
const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 0, gid: 0 };

fn open(device: &Arc<MemDevice>) -> Filesystem {
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadWrite).unwrap();
    Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap()
}

/// An image as a power cut after an fsync leaves it.
fn with_log() -> MemDevice {
    let device = Arc::new(MemDevice::new(SIZE));
    mkfs::make(device.clone(), &MakeOptions::new(SIZE, &SystemEnvironment)).unwrap();
    let fs = open(&device);
    let file = fs.create(Place::new(fs.root(), b"file"), &FILE).unwrap();
    fs.write(file, 0, &[1; 100_000]).unwrap();
    fs.sync().unwrap();
    fs.write(file, 50_000, &[2; 30_000]).unwrap();
    fs.fsync(file).unwrap();
    let image = device.snapshot();
    drop(fs);
    image
}

fn lose_free_space_tree(device: &MemDevice) {
    let volume = Volume::open(vec![Arc::new(device.snapshot())], OpenMode::ReadOnly).unwrap();
    assert!(volume.superblock().log_root.get() != 0, "there is a log");
    let store = Store::new(Arc::new(volume), Generation(0));
    let at = store.root(TreeId::FREE_SPACE).unwrap().bytenr;
    let (start, chunk) = store.volume().chunk_containing(at).unwrap();
    for stripe in &chunk.stripes {
        device.write_at(stripe.offset.get() + (at.0 - start.0), &[0; 16384]).unwrap();
    }
}

#[test]
fn what_was_fsynced_is_there_after_a_repair() {
    let device = Arc::new(with_log());
    lose_free_space_tree(&device);
    let devices: Devices = vec![device.clone()];
    let plan = plan(&devices, &Options::default()).unwrap();
    assert_eq!(plan.verdict, Verdict::Repaired, "{plan}\n{}", plan.after);
    assert!(plan.steps.iter().all(|step| step.name != "log"), "{plan}");
    let folder = tempfile::tempdir().unwrap();
    apply(&plan, &devices, &folder.path().join("undo"), [0; 16]).unwrap();
    let fs = open(&device);
    let file = fs.lookup(Place::new(fs.root(), b"file")).unwrap();
    let mut bytes = vec![0; 100_000];
    fs.read(file, 0, &mut bytes).unwrap();
    assert!(bytes[..50_000].iter().chain(&bytes[80_000..]).all(|byte| *byte == 1));
    assert!(bytes[50_000..80_000].iter().all(|byte| *byte == 2), "the log was replayed");
}

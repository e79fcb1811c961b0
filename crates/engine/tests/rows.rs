//! Space of RAID5 and RAID6 that waits beside small files that were committed one by one, and how it is got back.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use butterfs_engine::Error;
use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Filesystem, NewInode, NewKind, OpenOptions};
use butterfs_engine::mkfs::{self, MakeOptions, NewDevice};
use butterfs_engine::relocate::{GroupFilter, Room};
use butterfs_format::items::BlockGroupFlags;
use butterfs_testkit::disks;
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 0, gid: 0 };
const FILES: u64 = 300;

fn devices(count: u64, mib: u64) -> Vec<Arc<dyn BlockDevice>> {
    (0..count).map(|_| Arc::new(MemDevice::new(mib << 20)) as Arc<dyn BlockDevice>).collect()
}

fn make(devices: &[Arc<dyn BlockDevice>], metadata: BlockGroupFlags) {
    let mut options = MakeOptions::new(0, &SystemEnvironment);
    options.devices = devices.iter().map(|device| NewDevice::new(device.len(), &SystemEnvironment)).collect();
    (options.data_profile, options.metadata_profile) = (BlockGroupFlags::RAID5, metadata);
    mkfs::make_on(devices, &options).unwrap();
}

fn open(devices: &[Arc<dyn BlockDevice>]) -> Filesystem {
    let volume = Volume::open(devices.to_vec(), OpenMode::ReadWrite).unwrap();
    Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap()
}

fn content(number: u64) -> Vec<u8> {
    vec![(number % 250) as u8 + 1; 4096]
}

fn assert_has_all(fs: &Filesystem) {
    for number in 0..FILES {
        let id = fs.lookup(Place::new(fs.root(), format!("file{number}").as_bytes())).unwrap();
        let mut bytes = vec![0; 4096];
        assert_eq!(fs.read(id, 0, &mut bytes).unwrap(), 4096);
        assert!(bytes == content(number), "file{number}");
    }
}

/// Files that are committed one by one take a line each; moved together, they fill lines.
#[test]
fn what_waits_beside_small_files_is_got_back() {
    let devices = devices(4, 200);
    make(&devices, BlockGroupFlags::RAID1);
    let fs = open(&devices);
    let empty = fs.usage().available;
    for number in 0..FILES {
        let id = fs.create(Place::new(fs.root(), format!("file{number}").as_bytes()), &FILE).unwrap();
        fs.write(id, 0, &content(number)).unwrap();
        fs.sync().unwrap();
    }
    let scattered = empty - fs.usage().available;
    assert!(scattered >= 3 * FILES * 4096, "each took a line of three sectors: {scattered}");
    let filter = GroupFilter::used_at_most(BlockGroupFlags::DATA, 100);
    assert!(fs.relocate(&filter, Room::NewChunks).unwrap() > 0);
    let packed = empty.saturating_sub(fs.usage().available);
    assert!(packed <= scattered / 2, "{packed} bytes are taken now, {scattered} before");
    assert_has_all(&fs);
    drop(fs);
    disks::judge(&devices);
}

/// A filesystem with parity can be filled, deleted from when it is full, and filled again.
#[test]
fn a_filesystem_is_filled_to_the_end() {
    let devices = devices(3, 128);
    // Metadata takes as much of each device, so that all that is left can be data.
    make(&devices, BlockGroupFlags::RAID1C3);
    let fs = open(&devices);
    for round in 0..2 {
        let before = fs.usage().available;
        let id = fs.create(Place::new(fs.root(), format!("large{round}").as_bytes()), &FILE).unwrap();
        let mut written = 0;
        let full = loop {
            match fs.write(id, written, &[round as u8 + 1; 1 << 18]) {
                Ok(_) => written += 1 << 18,
                Err(error) => break error,
            }
        };
        assert!(matches!(full, Error::NoSpace), "{full}");
        assert!(written + (8 << 20) > before, "{written} of {before} bytes could be written");
        fs.sync().unwrap();
        fs.unlink(Place::new(fs.root(), format!("large{round}").as_bytes())).unwrap();
        fs.sync().unwrap();
        while fs.clean_once(64).unwrap() {}
        fs.sync().unwrap();
    }
    drop(fs);
    disks::judge(&devices);
}

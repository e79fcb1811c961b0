//! Writes into preallocated space beside snapshots.

use std::sync::{Arc, Mutex};

use butterfs_format::TreeId;
use butterfs_testkit::filter::{Filter, Filtered};
use butterfs_volume::{BlockDevice, OpenMode, Volume};

use super::tests::{FILE, device, judge, open, top};
use super::{Filesystem, OpenOptions};
use crate::environment::SystemEnvironment;
use crate::file::SizeMode;
use crate::inode::InodeId;
use crate::subvolume::root::Access;

/// A preallocated file of 1 MiB, on the device. Its tree has leaves that a snapshot shares: a root, a
/// snapshot copies.
fn preallocated(fs: &Filesystem) -> InodeId {
    for number in 0..200 {
        fs.create(top(format!("neighbour {number}").as_bytes()), &FILE).unwrap();
    }
    let id = fs.create(top(b"file"), &FILE).unwrap();
    fs.preallocate(id, 0..1 << 20, SizeMode::Extend).unwrap();
    fs.sync().unwrap();
    id
}

fn assert_zeros(fs: &Filesystem, id: InodeId) {
    let mut bytes = vec![1; 1 << 20];
    assert_eq!(fs.read(id, 0, &mut bytes).unwrap(), bytes.len());
    assert!(bytes.iter().all(|byte| *byte == 0), "the snapshot has bytes that were written later");
}

#[test]
fn what_is_left_of_a_punched_preallocation_is_still_the_snapshots_too() {
    let device = device();
    let fs = open(&device);
    let id = preallocated(&fs);
    let snapshot = fs.snapshot(TreeId::FS, top(b"snapshot"), Access::ReadWrite).unwrap();
    // Cuts the item in two, which makes both parts items of this generation.
    fs.punch_hole(id, 400_000..500_000).unwrap();
    fs.write(id, 0, &[7; 300_000]).unwrap();
    fs.sync().unwrap();
    fs.unlink(top(b"file")).unwrap();
    assert_zeros(&fs, InodeId { tree: snapshot, ..id });
    judge(&device, fs);
}

/// What `statfs` says is available can be preallocated, but for the last bit: the metadata of a preallocation is a few
/// items, however long it is.
#[test]
fn all_available_space_can_be_preallocated() {
    let device = device();
    let fs = open(&device);
    let id = fs.create(top(b"file"), &FILE).unwrap();
    let most = fs.usage().available - (512 << 10);
    fs.preallocate(id, 0..most, SizeMode::Extend).unwrap();
    judge(&device, fs);
}

/// As in the kernel, where a file is cut to the length that it has.
#[test]
fn cutting_a_file_where_it_ends_frees_what_is_preallocated_behind() {
    let device = device();
    let fs = open(&device);
    let id = fs.create(top(b"file"), &FILE).unwrap();
    fs.preallocate(id, 0..10 << 20, SizeMode::Keep).unwrap();
    fs.write(id, 0, &[7; 5_000_001]).unwrap();
    fs.set_size(id, 5_000_001).unwrap();
    fs.sync().unwrap();
    assert_eq!(fs.attributes(id).unwrap().item.nbytes.get(), 5_001_216);
    let mut bytes = vec![0; 5_000_001];
    assert_eq!(fs.read(id, 0, &mut bytes).unwrap(), bytes.len());
    assert!(bytes.iter().all(|byte| *byte == 7));
    // What is preallocated behind the end by itself stays when the file grows into it.
    fs.preallocate(id, 5 << 20..10 << 20, SizeMode::Keep).unwrap();
    fs.set_size(id, 7 << 20).unwrap();
    fs.sync().unwrap();
    assert_eq!(fs.attributes(id).unwrap().item.nbytes.get(), 5_001_216 + (5 << 20));
    judge(&device, fs);
}

/// Calls a function once, before a write that comes after it was armed.
#[derive(Default)]
pub(super) struct OnWrite(pub(super) Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Filter for OnWrite {
    fn write_at(&self, inner: &dyn BlockDevice, offset: u64, buf: &[u8]) -> std::io::Result<()> {
        let armed = self.0.lock().unwrap().take();
        if let Some(call) = armed {
            call();
        }
        inner.write_at(offset, buf)
    }
}

#[test]
fn a_snapshot_that_overtakes_writeback_keeps_preallocated_space_unwritten() {
    let device = device();
    let filtered = Arc::new(Filtered::over(device.clone(), OnWrite::default()));
    let volume = Volume::open(vec![filtered.clone()], OpenMode::ReadWrite).unwrap();
    let fs = Arc::new(Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap());
    let id = preallocated(&fs);
    fs.write(id, 0, &[7; 300_000]).unwrap();
    fs.write(id, 600_000, &[8; 300_000]).unwrap();
    let other = Arc::clone(&fs);
    *filtered.0.lock().unwrap() = Some(Box::new(move || {
        other.snapshot_written(TreeId::FS, top(b"snapshot"), Access::ReadWrite).unwrap();
    }));
    fs.sync().unwrap();
    assert!(filtered.0.lock().unwrap().is_none(), "no snapshot came between");
    let mut bytes = vec![0; 1 << 20];
    fs.read(id, 0, &mut bytes).unwrap();
    assert_eq!((bytes[0], bytes[299_999], bytes[300_000], bytes[899_999]), (7, 7, 0, 8));
    let snapshot = fs.lookup(top(b"snapshot")).unwrap().tree;
    assert_zeros(&fs, InodeId { tree: snapshot, ..id });
    fs.unlink(top(b"file")).unwrap();
    judge(&device, Arc::into_inner(fs).unwrap());
}

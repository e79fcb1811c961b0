//! What a scrub reads: each byte that is in use once; where there is parity, the data of a row once more for each parity of
//! it, as a device's parity is judged when that device is scrubbed (`docs/decisions/0019-failing-devices.md`).

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// Counts the bytes that are read.
struct Counting {
    inner: Arc<MemDevice>,
    read: AtomicU64,
}

impl BlockDevice for Counting {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.inner.write_at(offset, buf)
    }

    fn flush(&self) -> io::Result<()> {
        self.inner.flush()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.discard(offset, len)
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn name(&self) -> String {
        self.inner.name()
    }
}

/// Bytes in use on all devices, and bytes that a scrub of all of them reads when the trees are in memory.
fn cost(count: u64, data: BlockGroupFlags, metadata: BlockGroupFlags) -> (u64, u64) {
    let disks = Disks::make(count, data, metadata);
    disks.fill(DataRule::Usual);
    let counting = |disk: &Arc<MemDevice>| Arc::new(Counting { inner: Arc::clone(disk), read: AtomicU64::new(0) });
    let devices: Vec<_> = disks.0.iter().map(counting).collect();
    let as_devices = devices.iter().map(|device| Arc::clone(device) as Arc<dyn BlockDevice>).collect();
    let volume = Volume::open(as_devices, OpenMode::ReadOnly).unwrap();
    let options = OpenOptions { access: Access::ReadOnly, ..OpenOptions::default() };
    let fs = Filesystem::open(volume, options, Box::new(SystemEnvironment)).unwrap();
    // Brings the trees to memory.
    scrub(&fs, ScrubMode::ReadOnly);
    let before: u64 = devices.iter().map(|device| device.read.load(Ordering::Relaxed)).sum();
    let (progress, findings) = scrub(&fs, ScrubMode::ReadOnly);
    assert!(findings.is_empty(), "{findings:?}");
    let after: u64 = devices.iter().map(|device| device.read.load(Ordering::Relaxed)).sum();
    (progress.data_bytes + progress.tree_bytes, after - before)
}

/// No more than this beyond what is in use: superblocks, and small gaps that are read along.
const BESIDE: u64 = 1 << 20;

#[test]
fn each_byte_is_read_once() {
    for (count, data, metadata) in [
        (1, BlockGroupFlags::empty(), BlockGroupFlags::DUP),
        (1, BlockGroupFlags::DUP, BlockGroupFlags::DUP),
        (2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1),
        (3, BlockGroupFlags::RAID0, BlockGroupFlags::RAID1C3),
        (4, BlockGroupFlags::RAID10, BlockGroupFlags::RAID1C4),
    ] {
        let (used, read) = cost(count, data, metadata);
        println!("{data:?} on {count}: {used} bytes are in use, {read} were read");
        assert!((used..used + BESIDE).contains(&read), "{data:?} on {count}: {used} in use, {read} read");
    }
}

/// The price of parity is no more than what it is computed from.
#[test]
fn a_row_is_read_once_more_for_each_parity() {
    for (count, profile, parities) in [(3, BlockGroupFlags::RAID5, 1), (5, BlockGroupFlags::RAID6, 2)] {
        let (used, read) = cost(count, profile, BlockGroupFlags::RAID1C3);
        let most = used * (1 + parities) + used * parities / (count - parities) + 2 * BESIDE;
        println!("{profile:?} on {count}: {used} bytes are in use, {read} were read, {most} may be");
        assert!(read <= most, "{profile:?} on {count}: {used} in use, {read} read, {most} may be");
    }
}

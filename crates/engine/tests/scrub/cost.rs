//! What a scrub reads: each byte that is in use once, parity too, when the scrubs of all devices began together. When they
//! run one after the other, the data of a row is read once more for each parity of it
//! (`docs/decisions/0031-rows-are-read-once.md`).

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use butterfs_format::superblock::SUPERBLOCK_OFFSETS;

use super::rows::{parity_spots, parts};
use super::*;

/// Counts how often each sector is read.
struct Counting {
    inner: Arc<MemDevice>,
    reads: Vec<AtomicU32>,
}

impl Counting {
    fn new(inner: &Arc<MemDevice>) -> Self {
        let sectors = inner.len().div_ceil(SECTOR);
        Self { inner: Arc::clone(inner), reads: (0..sectors).map(|_| AtomicU32::new(0)).collect() }
    }

    fn reset(&self) {
        self.reads.iter().for_each(|reads| reads.store(0, Ordering::Relaxed));
    }

    fn reads(&self, sector: u64) -> u32 {
        self.reads[sector as usize].load(Ordering::Relaxed)
    }

    fn bytes(&self) -> u64 {
        self.reads.iter().map(|reads| u64::from(reads.load(Ordering::Relaxed)) * SECTOR).sum()
    }
}

impl BlockDevice for Counting {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        for sector in offset / SECTOR..(offset + buf.len() as u64).div_ceil(SECTOR) {
            self.reads[sector as usize].fetch_add(1, Ordering::Relaxed);
        }
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

/// A filesystem on devices that count, with its trees in memory.
struct Counted {
    fs: Filesystem,
    devices: Vec<Arc<Counting>>,
}

impl Counted {
    fn make(count: u64, data: BlockGroupFlags, metadata: BlockGroupFlags) -> Self {
        let disks = Disks::make(count, data, metadata);
        disks.fill(DataRule::Usual);
        let devices: Vec<_> = disks.0.iter().map(|disk| Arc::new(Counting::new(disk))).collect();
        let as_devices = devices.iter().map(|device| Arc::clone(device) as Arc<dyn BlockDevice>).collect();
        let volume = Volume::open(as_devices, OpenMode::ReadOnly).unwrap();
        let options = OpenOptions { access: Access::ReadOnly, ..OpenOptions::default() };
        let fs = Filesystem::open(volume, options, Box::new(SystemEnvironment)).unwrap();
        scrub(&fs, ScrubMode::ReadOnly);
        devices.iter().for_each(|device| device.reset());
        Self { fs, devices }
    }

    /// What is in use, by device and sector: data, tree blocks, and the parity beside them.
    fn used(&self) -> BTreeSet<(u64, u64)> {
        let volume = self.fs.shared().gate.volume();
        let (data, blocks) = used(&self.fs);
        let nodesize = u64::from(volume.geometry().nodesize);
        let sectors = blocks.into_iter().flat_map(|at| (at..at + nodesize).step_by(SECTOR as usize));
        let (parts, places) = (parts(volume), Places::of(volume));
        let of_sector = |at: u64| [places.spots(at), parity_spots(&parts, at).1].concat();
        let spots = data.into_iter().chain(sectors).flat_map(of_sector);
        spots.map(|spot| (spot.devid, spot.physical / SECTOR)).collect()
    }
}

/// Scrubs all devices at the same time; gives what each counted.
pub(super) fn scrub_together(fs: &Filesystem, mode: ScrubMode) -> Vec<(ScrubProgress, Vec<ScrubFinding>)> {
    let options = ScrubOptions::whole(mode);
    let devids: Vec<DevId> = fs.shared().gate.volume().dev_items().iter().map(|item| DevId(item.devid.get())).collect();
    let begun: Vec<_> = devids.iter().map(|devid| (*devid, Arc::new(ScrubMonitor::default()))).collect();
    begun.iter().for_each(|(devid, monitor)| fs.begin_scrub(*devid, &options, monitor).unwrap());
    std::thread::scope(|scope| {
        for (devid, monitor) in &begun {
            scope.spawn(move || assert_eq!(fs.run_scrub(*devid, &options, monitor).unwrap(), ScrubEnd::Finished));
        }
    });
    begun.into_iter().map(|(_, monitor)| (monitor.progress(), monitor.take_findings())).collect()
}

/// Sectors that hold superblocks.
fn is_superblock(sector: u64) -> bool {
    SUPERBLOCK_OFFSETS.contains(&(sector * SECTOR))
}

#[test]
fn each_byte_is_read_once() {
    let none = BlockGroupFlags::empty();
    for (count, data, metadata) in [
        (1, none, BlockGroupFlags::DUP),
        (1, BlockGroupFlags::DUP, BlockGroupFlags::DUP),
        (2, BlockGroupFlags::RAID1, BlockGroupFlags::RAID1),
        (3, BlockGroupFlags::RAID0, BlockGroupFlags::RAID1C3),
        (4, BlockGroupFlags::RAID10, BlockGroupFlags::RAID1C4),
        (2, BlockGroupFlags::RAID5, BlockGroupFlags::RAID5),
        (3, BlockGroupFlags::RAID5, BlockGroupFlags::RAID1),
        (3, BlockGroupFlags::RAID6, BlockGroupFlags::RAID6),
        (5, BlockGroupFlags::RAID6, BlockGroupFlags::RAID5),
        (4, BlockGroupFlags::RAID5, BlockGroupFlags::RAID10),
    ] {
        let counted = Counted::make(count, data, metadata);
        let done = scrub_together(&counted.fs, ScrubMode::ReadOnly);
        assert!(done.iter().all(|(_, findings)| findings.is_empty()), "{data:?} on {count}: {done:?}");
        for (devid, sector) in counted.used() {
            let reads = counted.devices[devid as usize - 1].reads(sector);
            assert_eq!(reads, 1, "{data:?}, {metadata:?} on {count}: device {devid} sector {sector}");
        }
        for (number, device) in counted.devices.iter().enumerate() {
            let twice = (0..device.len() / SECTOR).find(|sector| device.reads(*sector) > 1 && !is_superblock(*sector));
            assert_eq!(twice, None, "{data:?}, {metadata:?} on {count}: a sector of device {}", number + 1);
        }
    }
}

/// What is counted does not depend on who read it.
#[test]
fn each_device_counts_its_own() {
    for (count, profile) in [(3, BlockGroupFlags::RAID5), (5, BlockGroupFlags::RAID6)] {
        let counted = Counted::make(count, profile, profile);
        let together = scrub_together(&counted.fs, ScrubMode::ReadOnly);
        for (number, (progress, _)) in together.into_iter().enumerate() {
            let monitor = Arc::new(ScrubMonitor::default());
            let options = ScrubOptions::whole(ScrubMode::ReadOnly);
            counted.fs.scrub(DevId(number as u64 + 1), &options, &monitor).unwrap();
            assert_eq!(progress, monitor.progress(), "{profile:?}: device {}", number + 1);
        }
    }
}

/// No more than this beyond what is in use: superblocks, and small gaps that are read along.
const BESIDE: u64 = 1 << 20;

/// The price of parity is no more than what it is computed from, when devices are scrubbed one after the other.
#[test]
fn a_row_is_read_once_more_for_each_parity() {
    for (count, profile, parities) in [(3, BlockGroupFlags::RAID5, 1), (5, BlockGroupFlags::RAID6, 2)] {
        let counted = Counted::make(count, profile, BlockGroupFlags::RAID1C3);
        let (progress, findings) = scrub(&counted.fs, ScrubMode::ReadOnly);
        assert!(findings.is_empty(), "{findings:?}");
        let used = progress.data_bytes + progress.tree_bytes;
        let read: u64 = counted.devices.iter().map(|device| device.bytes()).sum();
        let most = used * (1 + parities) + used * parities / (count - parities) + 2 * BESIDE;
        println!("{profile:?} on {count}: {used} bytes are in use, {read} were read, {most} may be");
        assert!(read <= most, "{profile:?} on {count}: {used} in use, {read} read, {most} may be");
    }
}

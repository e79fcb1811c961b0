//! A filesystem that nobody finds before it is whole: the superblocks that are written to a device stay in memory until all
//! is done. Whoever is killed before leaves no filesystem, instead of a part of one.
//!
//! # Invariants
//! * From the first write to [`HeldBack::publish`] no superblock is on the device, neither a new one nor an old one.
//! * Of several devices none has a superblock before all that it leads to is durable, on each of them. A cut between two of
//!   them leaves a filesystem whose devices are not all there; what is on those that are is whole.
//! * Who reads and writes through it sees what he would see of a plain device.
//!
//! # Locking
//! The lock of the superblocks is not held while the device is waited for, but by `publish`. Who writes first makes the
//! others wait until the old superblocks are gone.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use butterfs_format::superblock::{SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};

use crate::device::BlockDevice;
use crate::superblock::erase_superblocks;

/// What is to be where a superblock can be.
type Slots = [[u8; SUPERBLOCK_SIZE]; SUPERBLOCK_OFFSETS.len()];

/// A device whose superblocks wait.
pub struct HeldBack {
    device: Arc<dyn BlockDevice>,
    slots: Mutex<Slots>,
    /// Those that the device had are gone.
    erased: Mutex<bool>,
}

impl HeldBack {
    /// From now on superblocks wait; what the device has of them is erased by the first write.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(device: Arc<dyn BlockDevice>) -> io::Result<Self> {
        let mut slots = [[0; SUPERBLOCK_SIZE]; SUPERBLOCK_OFFSETS.len()];
        for (place, bytes) in places().zip(&mut slots).filter(|(place, _)| place.end <= device.len()) {
            device.read_at(place.start, bytes)?;
        }
        Ok(Self { device, slots: Mutex::new(slots), erased: Mutex::new(false) })
    }

    fn begin_to_write(&self) -> io::Result<()> {
        let mut erased = self.erased.lock().unwrap_or_else(PoisonError::into_inner);
        if !*erased {
            erase_superblocks(&*self.device).map_err(io::Error::other)?;
            *erased = true;
        }
        Ok(())
    }

    /// Makes all else durable on the devices of a filesystem, and then the superblocks of each. Where that fails none keeps
    /// its superblocks, as far as they can be erased.
    ///
    /// # Errors
    /// Those of a device, and which of them it is.
    pub fn publish(held: &[Arc<Self>]) -> std::result::Result<(), (usize, io::Error)> {
        let each = |act: fn(&Self) -> io::Result<()>| {
            let numbered = held.iter().enumerate();
            numbered
                .map(|(number, one)| (number, act(one)))
                .try_for_each(|(number, done)| done.map_err(|error| (number, error)))
        };
        each(Self::settle)?;
        each(Self::put_superblocks).inspect_err(|_| {
            // The first error is the one to tell.
            held.iter().for_each(|one| drop(erase_superblocks(&*one.device)));
        })
    }

    /// Makes all but the superblocks durable.
    fn settle(&self) -> io::Result<()> {
        self.begin_to_write()?;
        self.device.flush()
    }

    fn put_superblocks(&self) -> io::Result<()> {
        let slots = self.slots();
        let len = self.device.len();
        for (slot, bytes) in places().zip(slots.iter()).filter(|(slot, _)| slot.end <= len) {
            self.device.write_at(slot.start, bytes)?;
        }
        self.device.flush()
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where superblocks can be.
fn places() -> impl Iterator<Item = Range<u64>> {
    SUPERBLOCK_OFFSETS.into_iter().map(|offset| offset..offset + SUPERBLOCK_SIZE as u64)
}

/// The part of `len` bytes at `offset` that lies in a place: where it is in them, and in the place.
fn overlap(offset: u64, len: usize, place: &Range<u64>) -> Option<(Range<usize>, Range<usize>)> {
    let (from, to) = (offset.max(place.start), offset.saturating_add(len as u64).min(place.end));
    let within = |origin: u64| (from - origin) as usize..(to - origin) as usize;
    (from < to).then(|| (within(offset), within(place.start)))
}

impl BlockDevice for HeldBack {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.device.read_at(offset, buf)?;
        for (number, place) in places().enumerate() {
            if let Some((into, from)) = overlap(offset, buf.len(), &place) {
                buf[into].copy_from_slice(&self.slots()[number][from]);
            }
        }
        Ok(())
    }

    fn prefetch(&self, offset: u64, len: u64) {
        self.device.prefetch(offset, len);
    }

    fn forget(&self, offset: u64, len: u64) {
        self.device.forget(offset, len);
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.begin_to_write()?;
        let mut at = 0;
        for (number, place) in places().enumerate() {
            if let Some((from, into)) = overlap(offset, buf.len(), &place) {
                if from.start > at {
                    self.device.write_at(offset + at as u64, &buf[at..from.start])?;
                }
                at = from.end;
                self.slots()[number][into].copy_from_slice(&buf[from]);
            }
        }
        if at < buf.len() { self.device.write_at(offset + at as u64, &buf[at..]) } else { Ok(()) }
    }

    fn write_batch(&self, writes: &[(u64, &[u8])]) -> io::Result<()> {
        let waits = |(offset, buf): &&(u64, &[u8])| places().any(|place| overlap(*offset, buf.len(), &place).is_some());
        if !writes.iter().any(|write| waits(&write)) {
            self.begin_to_write()?;
            return self.device.write_batch(writes);
        }
        writes.iter().try_for_each(|(offset, buf)| self.write_at(*offset, buf))
    }

    fn flush(&self) -> io::Result<()> {
        self.device.flush()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.begin_to_write()?;
        self.device.discard(offset, len)
    }

    fn len(&self) -> u64 {
        self.device.len()
    }

    fn measure(&self) -> io::Result<u64> {
        self.device.measure()
    }

    fn resize(&self, len: u64) -> io::Result<()> {
        self.device.resize(len)
    }

    fn name(&self) -> String {
        self.device.name()
    }

    fn open_for_writing(&self) -> io::Result<()> {
        self.device.open_for_writing()
    }

    fn release_claim(&self) {
        self.device.release_claim();
    }

    fn take_claim(&self) -> io::Result<()> {
        self.device.take_claim()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemDevice;

    #[test]
    fn superblocks_wait_until_all_is_done() {
        let below: Arc<dyn BlockDevice> = Arc::new(MemDevice::new(66 << 20));
        let [first, second, _] = SUPERBLOCK_OFFSETS;
        below.write_at(second, &[9; SUPERBLOCK_SIZE]).unwrap();
        let held = HeldBack::new(Arc::clone(&below)).unwrap();
        let read = |device: &dyn BlockDevice, offset: u64, len: usize| {
            let mut bytes = vec![0xff; len];
            device.read_at(offset, &mut bytes).unwrap();
            bytes
        };
        assert_eq!(
            (read(&held, second, 3), read(&*below, second, 3)),
            (vec![9; 3], vec![9; 3]),
            "nothing is written yet"
        );
        let bytes: Vec<u8> = (0..3 * SUPERBLOCK_SIZE).map(|number| (number / 100) as u8 + 1).collect();
        held.write_at(first - 4096, &bytes).unwrap();
        held.write_batch(&[(second + 100, &[7; 50]), (1 << 20, &[8; 50])]).unwrap();
        assert!(read(&held, first - 4096, bytes.len()) == bytes);
        assert!(read(&*below, first, SUPERBLOCK_SIZE).iter().all(|byte| *byte == 0), "nobody else sees it");
        assert!(read(&*below, second, SUPERBLOCK_SIZE).iter().all(|byte| *byte == 0), "the old one is gone");
        assert_eq!(read(&*below, first - 4096, 4096), bytes[..4096]);
        assert_eq!(read(&*below, first + 4096, 4096), bytes[8192..]);
        assert_eq!((read(&*below, 1 << 20, 50), read(&*below, second + 100, 50)), (vec![8; 50], vec![0; 50]));
        HeldBack::publish(&[Arc::new(held)]).unwrap();
        assert!(read(&*below, first - 4096, bytes.len()) == bytes);
        assert_eq!(read(&*below, second + 100, 50), [7; 50]);
    }
    /// What was done to devices, in order.
    type Log = Arc<Mutex<Vec<(usize, Act)>>>;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Act {
        Data,
        Superblock,
        Flush,
    }

    /// A device that tells what is done to it, and whose superblocks cannot be written after some.
    struct Told {
        below: MemDevice,
        number: usize,
        log: Log,
        superblocks_left: usize,
    }

    impl BlockDevice for Told {
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            self.below.read_at(offset, buf)
        }

        fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
            let is_superblock = SUPERBLOCK_OFFSETS.contains(&offset) && buf.iter().any(|byte| *byte != 0);
            let mut log = self.log.lock().unwrap();
            let written = log.iter().filter(|act| **act == (self.number, Act::Superblock)).count();
            if is_superblock && written >= self.superblocks_left {
                return Err(io::Error::other("no more"));
            }
            log.push((self.number, if is_superblock { Act::Superblock } else { Act::Data }));
            self.below.write_at(offset, buf)
        }

        fn flush(&self) -> io::Result<()> {
            self.log.lock().unwrap().push((self.number, Act::Flush));
            Ok(())
        }

        fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
            self.below.discard(offset, len)
        }

        fn len(&self) -> u64 {
            self.below.len()
        }

        fn name(&self) -> String {
            self.below.name()
        }
    }

    /// Devices with an old superblock each, data, and a new superblock that waits.
    fn held(superblocks_left: [usize; 3]) -> (Log, Vec<Arc<Told>>, Vec<Arc<HeldBack>>) {
        let log = Log::default();
        let told = |(number, superblocks_left)| {
            let below = MemDevice::new(66 << 20);
            below.write_at(SUPERBLOCK_OFFSETS[0], &[9; SUPERBLOCK_SIZE]).unwrap();
            Arc::new(Told { below, number, log: Arc::clone(&log), superblocks_left })
        };
        let devices: Vec<_> = superblocks_left.into_iter().enumerate().map(told).collect();
        let held = devices.iter().map(|device| {
            let held = HeldBack::new(Arc::clone(device) as Arc<dyn BlockDevice>).unwrap();
            held.write_at(1 << 20, &[7; 4096]).unwrap();
            SUPERBLOCK_OFFSETS[..2].iter().for_each(|at| held.write_at(*at, &[8; SUPERBLOCK_SIZE]).unwrap());
            Arc::new(held)
        });
        let held = held.collect();
        (log, devices, held)
    }

    fn first_byte(device: &Told) -> u8 {
        let mut byte = [0];
        device.read_at(SUPERBLOCK_OFFSETS[0], &mut byte).unwrap();
        byte[0]
    }

    #[test]
    fn no_device_is_published_before_all_have_what_they_lead_to() {
        let (log, devices, held) = held([2; 3]);
        HeldBack::publish(&held).unwrap();
        let log = log.lock().unwrap();
        let first = log.iter().position(|(_, act)| *act == Act::Superblock).unwrap();
        let (before, after) = log.split_at(first);
        for number in 0..3 {
            let last = |acts: &[(usize, Act)]| acts.iter().rev().find(|act| act.0 == number).map(|act| act.1);
            assert_eq!((last(before), last(after)), (Some(Act::Flush), Some(Act::Flush)), "device {number}: {log:?}");
            assert!(!after.contains(&(number, Act::Data)), "{log:?}");
        }
        assert_eq!(devices.iter().map(|device| first_byte(device)).collect::<Vec<_>>(), [8; 3]);
    }

    #[test]
    fn where_one_cannot_be_published_none_is() {
        let (_, devices, held) = held([2, 1, 2]);
        let (number, _) = HeldBack::publish(&held).unwrap_err();
        assert_eq!(number, 1);
        assert_eq!(devices.iter().map(|device| first_byte(device)).collect::<Vec<_>>(), [0; 3]);
    }
}

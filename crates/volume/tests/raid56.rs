//! RAID5 and RAID6: every loss that they survive, judged by bytes that the test laid out by itself.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::sync::Arc;

use butterfs_format::items::{BlockGroupFlags as F, DevReplaceItem};
use butterfs_format::superblock::{SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_format::{DevId, Logical, Superblock};
use butterfs_volume::{BlockDevice, Error, MemDevice, Missing, OpenMode, OpenOptions, Volume};
use common::*;

const STRIPE: usize = 65536;
const SECTOR: usize = 4096;
const ROWS: usize = 9;

/// A filesystem whose data chunk is full of a pattern.
struct Array {
    devices: Vec<Arc<MemDevice>>,
    want: Vec<u8>,
    columns: usize,
}

fn pattern(len: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Twice a byte in the field of the parity.
fn double(byte: u8) -> u8 {
    let wide = u16::from(byte) << 1;
    (if wide > 255 { wide ^ 0x11d } else { wide }) as u8
}

impl Array {
    fn new(profile: F, devices: usize) -> Self {
        let parity = if profile == F::RAID5 { 1 } else { 2 };
        let columns = devices - parity;
        let stripes: Vec<_> = (1..=devices as u64).map(|devid| (devid, 80 << 20)).collect();
        let length = (ROWS * columns * STRIPE) as u64;
        let devices = Image::with_devices(devices as u64, chunk(F::DATA | profile, length, &stripes)).build();
        let array = Self { devices, want: pattern(length as usize), columns };
        for (row, bytes) in array.want.chunks(columns * STRIPE).enumerate() {
            array.put_row(row, bytes, parity);
        }
        array
    }

    fn put_row(&self, row: usize, bytes: &[u8], parity: usize) {
        let (mut p, mut q) = (vec![0; STRIPE], vec![0; STRIPE]);
        for stripe in bytes.chunks(STRIPE).rev() {
            for at in 0..STRIPE {
                p[at] ^= stripe[at];
                q[at] = double(q[at]) ^ stripe[at];
            }
        }
        let parts = bytes.chunks(STRIPE).chain([&p[..], &q[..]]).take(self.columns + parity);
        for (place, part) in parts.enumerate() {
            self.device(row, place).write_at(Self::physical(row), part).unwrap();
        }
    }

    fn device(&self, row: usize, place: usize) -> &MemDevice {
        &self.devices[(row + place) % self.devices.len()]
    }

    fn physical(row: usize) -> u64 {
        (80 << 20) + (row * STRIPE) as u64
    }

    /// Opens without some devices.
    fn open_without(&self, missing: &[usize]) -> Volume {
        self.open_as(missing, OpenMode::ReadOnly)
    }

    fn open_as(&self, missing: &[usize], mode: OpenMode) -> Volume {
        let there = self.devices.iter().enumerate().filter(|(index, _)| !missing.contains(index));
        let there = there.map(|(_, device)| Arc::clone(device) as Arc<dyn BlockDevice>).collect();
        let options = OpenOptions { missing: Missing::Accept, ..OpenOptions::new(mode) };
        Volume::open_with(there, &options).unwrap()
    }

    /// What a verified read of everything gives.
    fn read(&self, volume: &Volume) -> (Vec<u8>, Result<(), Error>) {
        let mut buf = vec![0; self.want.len()];
        let good = |index: usize, bytes: &[u8]| bytes == &self.want[index * SECTOR..][..bytes.len()];
        let result = volume.read_verified(Logical(DATA), &mut buf, &good);
        (buf, result)
    }

    #[track_caller]
    fn assert_reads(&self, volume: &Volume, what: &str) {
        let (bytes, result) = self.read(volume);
        result.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(bytes == self.want, "{what}");
    }
}

/// Numbers that follow from a seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

impl Array {
    /// Writes random sectors, in batches of several pieces.
    fn scribble(&mut self, volume: &Volume, seed: u64) {
        let mut numbers = Numbers(seed);
        let sectors = self.want.len() / SECTOR;
        for _ in 0..20 {
            let mut batch: Vec<(usize, Vec<u8>)> = Vec::new();
            for _ in 0..=numbers.below(6) {
                let (first, most) = (numbers.below(sectors), [1, 5, 40, 100][numbers.below(4)]);
                let range = first..sectors.min(first + 1 + numbers.below(most));
                let taken = |(at, bytes): &(usize, Vec<u8>)| *at < range.end && range.start < at + bytes.len() / SECTOR;
                if !batch.iter().any(taken) {
                    batch.push((first, (0..range.len() * SECTOR).map(|_| numbers.below(256) as u8).collect()));
                }
            }
            let at = |first: usize| Logical(DATA + (first * SECTOR) as u64);
            volume
                .write_batch(&batch.iter().map(|(first, bytes)| (at(*first), &bytes[..])).collect::<Vec<_>>())
                .unwrap();
            for (first, bytes) in batch {
                self.want[first * SECTOR..][..bytes.len()].copy_from_slice(&bytes);
            }
        }
    }

    fn snapshot(&self) -> Self {
        Self { devices: self.devices.iter().map(|d| Arc::new(d.snapshot())).collect(), ..clone(self) }
    }
}

/// Each set of up to `most` of `count` things.
fn sets(count: usize, most: usize) -> Vec<Vec<usize>> {
    (0..1usize << count)
        .map(|bits| (0..count).filter(|index| bits >> index & 1 != 0).collect::<Vec<_>>())
        .filter(|set| set.len() <= most)
        .collect()
}

/// The metadata of these images is on devices 1 and 2, so one of them must stay.
fn can_open(missing: &[usize]) -> bool {
    !(missing.contains(&0) && missing.contains(&1))
}

const SHAPES: [(F, usize, usize); 6] =
    [(F::RAID5, 2, 1), (F::RAID5, 3, 1), (F::RAID5, 5, 1), (F::RAID6, 3, 2), (F::RAID6, 4, 2), (F::RAID6, 6, 2)];

#[test]
fn every_survivable_set_of_missing_devices_is_survived() {
    for (profile, devices, survives) in SHAPES {
        let array = Array::new(profile, devices);
        for missing in sets(devices, survives).into_iter().filter(|set| can_open(set)) {
            let volume = array.open_without(&missing);
            let what = format!("{profile:?} on {devices} without {missing:?}");
            array.assert_reads(&volume, &what);
            // Without checksums, too.
            let mut buf = vec![0; array.want.len()];
            volume.read(Logical(DATA), &mut buf).unwrap();
            assert!(buf == array.want, "{what}");
        }
    }
}

/// One device missing and another bad in places: RAID6 finds out which.
#[test]
fn bad_sectors_are_survived_with_a_device_missing() {
    for devices in [3, 4, 6] {
        let array = Array::new(F::RAID6, devices);
        for bad in 0..devices {
            let copy =
                Array { devices: array.devices.iter().map(|d| Arc::new(d.snapshot())).collect(), ..clone(&array) };
            for row in 0..ROWS {
                let at = Array::physical(row) + (row * 2 * SECTOR) as u64;
                copy.devices[bad].write_at(at, &[0x55; 2 * SECTOR]).unwrap();
            }
            for missing in (0..devices).filter(|other| *other != bad) {
                copy.assert_reads(&copy.open_without(&[missing]), &format!("{devices}: {bad} bad, {missing} missing"));
            }
        }
    }
}

fn clone(array: &Array) -> Array {
    Array { devices: array.devices.clone(), want: array.want.clone(), columns: array.columns }
}

/// Two bad stripes in each row: only RAID6 gets the data back; RAID5 loses exactly the data in them.
#[test]
fn two_bad_devices() {
    for (profile, devices, survives) in SHAPES {
        let array = Array::new(profile, devices);
        let pairs = sets(devices, 2).into_iter().filter(|set| set.len() == 2);
        for pair in pairs {
            let copy =
                Array { devices: array.devices.iter().map(|d| Arc::new(d.snapshot())).collect(), ..clone(&array) };
            for row in 0..ROWS {
                for bad in &pair {
                    copy.devices[*bad].write_at(Array::physical(row) + 8192, &[0x55; SECTOR]).unwrap();
                }
            }
            let (bytes, result) = copy.read(&copy.open_without(&[]));
            if survives == 2 {
                result.unwrap();
                assert!(bytes == copy.want);
                continue;
            }
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Corruption(_)), "{error}");
            for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                let (number, within) = (index * SECTOR / STRIPE, index * SECTOR % STRIPE);
                let (row, column) = (number / copy.columns, number % copy.columns);
                let hit = within == 8192 && pair.contains(&((row + column) % devices));
                // RAID5 on two devices has no other data, and with both bad nothing is left either.
                assert_eq!(sector == &copy.want[index * SECTOR..][..SECTOR], !hit, "{pair:?} sector {index}");
            }
        }
    }
}

/// Repair writes the bad sectors and nothing else: devices are as they were before the damage.
#[test]
fn bad_sectors_are_repaired_and_parity_is_left_alone() {
    for (profile, devices, _) in SHAPES {
        let array = Array::new(profile, devices);
        let volume = open(&array.devices, OpenMode::ReadWrite).unwrap();
        let before: Vec<_> = array.devices.iter().map(|d| bytes_at(d, 80 << 20, ROWS * STRIPE)).collect();
        for row in 0..ROWS {
            let device = array.device(row, row % array.columns);
            device.write_at(Array::physical(row) + 3 * SECTOR as u64, &[0xee; 3 * SECTOR]).unwrap();
        }
        array.assert_reads(&volume, "damaged");
        for (device, before) in array.devices.iter().zip(&before) {
            assert!(bytes_at(device, 80 << 20, ROWS * STRIPE) == *before, "{profile:?} on {devices}");
        }
        let counted: u64 = volume.device_stats().iter().map(|(_, stats)| stats.corruption_errors).sum();
        assert_eq!(counted, 3 * ROWS as u64);
    }
}

#[test]
fn bad_parity_is_not_seen_and_not_written() {
    let array = Array::new(F::RAID5, 3);
    let volume = open(&array.devices, OpenMode::ReadWrite).unwrap();
    array.device(0, 2).write_at(Array::physical(0), &[0; STRIPE]).unwrap();
    array.assert_reads(&volume, "bad parity");
    assert_eq!(bytes_at(array.device(0, 2), Array::physical(0), STRIPE), [0; STRIPE]);
    volume.discard(Logical(DATA), STRIPE as u64).unwrap();
    array.assert_reads(&volume, "discarded");
}

/// After any writes, sectors and whole rows, each device can be missing, and as many as the profile survives.
#[test]
fn what_is_written_fits_its_parity() {
    for (profile, devices, survives) in SHAPES {
        let mut array = Array::new(profile, devices);
        let volume = open(&array.devices, OpenMode::ReadWrite).unwrap();
        array.scribble(&volume, devices as u64);
        drop(volume);
        for missing in sets(devices, survives).into_iter().filter(|set| can_open(set)) {
            array.assert_reads(&array.open_without(&missing), &format!("{profile:?} on {devices} without {missing:?}"));
        }
    }
}

/// What is written without a device is in what the others hold.
#[test]
fn rows_are_written_without_devices() {
    for (profile, devices, survives) in SHAPES {
        let array = Array::new(profile, devices);
        for missing in sets(devices, survives).into_iter().filter(|set| can_open(set)) {
            let mut copy = array.snapshot();
            let volume = copy.open_as(&missing, OpenMode::ReadWrite);
            copy.scribble(&volume, 7);
            copy.assert_reads(&volume, &format!("{profile:?} on {devices} written without {missing:?}"));
            let before: Vec<_> = missing.iter().map(|gone| array.devices[*gone].written()).collect();
            assert!(missing.iter().zip(before).all(|(gone, before)| copy.devices[*gone].written() == before));
        }
    }
}

/// Several write to the same rows at once.
#[test]
fn writers_of_one_row_do_not_lose_each_others_parity() {
    let mut array = Array::new(F::RAID6, 5);
    let volume = open(&array.devices, OpenMode::ReadWrite).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let volume = &volume;
            scope.spawn(move || {
                for sector in (writer..ROWS * 3 * STRIPE / SECTOR).step_by(3) {
                    volume.write(Logical(DATA + (sector * SECTOR) as u64), &[sector as u8; SECTOR]).unwrap();
                }
            });
        }
    });
    array.want.chunks_mut(SECTOR).enumerate().for_each(|(sector, bytes)| bytes.fill(sector as u8));
    drop(volume);
    for missing in sets(5, 2).into_iter().filter(|set| can_open(set)) {
        array.assert_reads(&array.open_without(&missing), &format!("without {missing:?}"));
    }
}

/// Who holds a row keeps writers from it, and from no other.
#[test]
fn a_held_row_is_not_written() {
    let array = Array::new(F::RAID5, 3);
    let volume = open(&array.devices, OpenMode::ReadWrite).unwrap();
    let row = Logical(DATA);
    let before = bytes_at(array.device(0, 0), Array::physical(0), SECTOR);
    let held = volume.hold_row(row);
    volume.write(Logical(DATA + 2 * STRIPE as u64), &[1; SECTOR]).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| volume.write(row, &[2; SECTOR]));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!writer.is_finished(), "it is written while it is held");
        assert_eq!(bytes_at(array.device(0, 0), Array::physical(0), SECTOR), before);
        drop(held);
        writer.join().unwrap().unwrap();
    });
    assert_eq!(bytes_at(array.device(0, 0), Array::physical(0), SECTOR), [2; SECTOR]);
}

/// A sector here, a stripe there, in every row: less than the row holds.
fn write_parts(array: &mut Array, volume: &Volume) {
    for row in 0..ROWS {
        let first = (row * array.columns + row % array.columns) * STRIPE;
        for (at, byte) in [(first, 1), (first + 5 * SECTOR, 2), (first + 9 * SECTOR, 3)] {
            array.want[at..at + SECTOR].fill(byte + row as u8);
            volume.write(Logical(DATA + at as u64), &array.want[at..at + SECTOR]).unwrap();
        }
    }
}

/// What is written in part fits its parity though a device holds anything where nobody wrote yet.
fn fits_on_a_device_that_holds_anything(open: fn(&Array, usize) -> Volume, done: fn(&Volume, usize)) {
    for (profile, devices, survives) in SHAPES {
        for odd in 0..devices {
            let mut array = Array::new(profile, devices);
            for row in 0..ROWS {
                array.devices[odd].write_at(Array::physical(row), &[0xee; STRIPE]).unwrap();
            }
            let volume = open(&array, odd);
            write_parts(&mut array, &volume);
            done(&volume, odd);
            drop(volume);
            let losses: Vec<_> = sets(devices, survives).into_iter().filter(|set| can_open(set)).collect();
            let all = lines_of(&array, &array.open_without(&[]));
            for missing in losses {
                let found = lines_of(&array, &array.open_without(&missing));
                assert!(found == all, "{profile:?} on {devices}, {odd} is odd, {missing:?} missing");
            }
        }
    }
}

/// The lines that [`write_parts`] writes.
fn lines_of(array: &Array, volume: &Volume) -> Vec<u8> {
    let mut all = Vec::new();
    for row in 0..ROWS {
        for (line, column) in [0, 5, 9].into_iter().flat_map(|line| (0..array.columns).map(move |c| (line, c))) {
            let at = (row * array.columns + column) * STRIPE + line * SECTOR;
            let mut bytes = vec![0; SECTOR];
            volume.read(Logical(DATA + at as u64), &mut bytes).unwrap();
            let is_written = column == row % array.columns;
            assert!(!is_written || bytes == array.want[at..at + SECTOR], "row {row}, column {column}, {line}");
            all.extend(bytes);
        }
    }
    all
}

fn devid(place: usize) -> DevId {
    DevId(place as u64 + 1)
}

#[test]
fn what_is_written_fits_its_parity_on_a_device_that_catches_up() {
    let open = |array: &Array, place| {
        let volume = open(&array.devices, OpenMode::ReadWrite).unwrap();
        volume.begin_catching_up(&[devid(place)]).unwrap();
        volume
    };
    fits_on_a_device_that_holds_anything(open, |volume, place| volume.finish_catching_up(devid(place)).unwrap());
}

/// Its superblock is old, because a power cut came between two, or because it has just returned: others are asked before it, but
/// not for what parity is made of.
#[test]
fn what_is_written_fits_its_parity_on_a_device_whose_superblock_is_old() {
    let open = |array: &Array, place: usize| {
        for offset in &SUPERBLOCK_OFFSETS[..2] {
            let bytes = bytes_at(&array.devices[place], *offset, SUPERBLOCK_SIZE);
            let bytes: [u8; SUPERBLOCK_SIZE] = bytes.try_into().unwrap();
            let mut sb = Superblock::parse(&bytes, *offset).unwrap();
            sb.generation = (sb.generation.get() - 1).into();
            array.devices[place].write_at(*offset, &sb.to_bytes_at(*offset)).unwrap();
        }
        open(&array.devices, OpenMode::ReadWrite).unwrap()
    };
    fits_on_a_device_that_holds_anything(open, |_, _| {});
}

/// The target of a replacement has of a line that is written what the device has whose place it will take.
#[test]
fn what_is_written_fits_its_parity_on_the_target_of_a_replacement() {
    for (profile, devices, _) in SHAPES {
        for replaced in 0..devices {
            let mut array = Array::new(profile, devices);
            let volume = open(&array.devices, OpenMode::ReadWrite).unwrap();
            let target = Arc::new(MemDevice::new(DEVICE_LEN));
            let item = DevReplaceItem { src_devid: (replaced as u64 + 1).into(), ..DevReplaceItem::default() };
            volume.begin_replacing(Arc::clone(&target) as Arc<dyn BlockDevice>, [9; 16], item).unwrap();
            write_parts(&mut array, &volume);
            for at in (0..ROWS).flat_map(|row| [0, 5, 9].map(|line| Array::physical(row) + (line * SECTOR) as u64)) {
                let source = bytes_at(&array.devices[replaced], at, SECTOR);
                assert_eq!(bytes_at(&target, at, SECTOR), source, "{profile:?} on {devices}, {replaced} at {at}");
            }
        }
    }
}

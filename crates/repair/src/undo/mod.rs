//! The undo file: what a repair overwrote, and enough to know that it may be put back.
//!
//! # Format
//! Little-endian. A header: magic, version, the filesystem's UUID, number of devices and of records; for each
//! device its length, name, and the first superblock's page before and after; a checksum of all that. Then the
//! records: device, offset, length, a checksum of them and the bytes, and the bytes.
//!
//! # Invariants
//! * The file is whole and durable before the first byte of a device is overwritten.
//! * It is put back only while each device's first superblock is as it was before the repair, as the repair
//!   left it, or (torn) a mix of sectors of both. Whoever commits later changes it, and undo is refused.
//! * Superblocks are put back first: from then on the old filesystem is whole, since what the repair wrote
//!   lies in space that it did not use. An undo that was interrupted can be run again.

mod file;

use std::path::Path;

use butterfs_check::Devices;
use butterfs_format::superblock::{SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_volume::BlockDevice;

use crate::error::{Error, Result};
use crate::overlay::Change;
pub use file::{Header, UndoDevice};
use file::{Reader, Writer};

/// The smallest unit that a device writes whole.
const ATOM: usize = 512;

/// Whether a change is that of a superblock copy.
pub(crate) fn is_superblock(change: &Change) -> bool {
    SUPERBLOCK_OFFSETS.contains(&change.offset)
}

/// The page of a device's first superblock.
fn first_superblock(device: &dyn BlockDevice) -> std::io::Result<Vec<u8>> {
    read(device, SUPERBLOCK_OFFSETS[0], SUPERBLOCK_SIZE)
}

fn read(device: &dyn BlockDevice, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    device.read_at(offset, &mut bytes)?;
    Ok(bytes)
}

fn device_error(device: &dyn BlockDevice, source: std::io::Error) -> Error {
    Error::Volume(butterfs_volume::Error::Device { name: device.name(), devid: None, source })
}

/// Writes the undo file of changes, one list for each device, and makes it durable.
///
/// # Errors
/// [`Error::Undo`] if it exists already or cannot be written; nothing is left of it then.
pub fn save(path: &Path, fsid: [u8; 16], devices: &Devices, changes: &[Vec<Change>]) -> Result<()> {
    let mut header = Header { fsid, records: changes.iter().map(Vec::len).sum::<usize>() as u64, devices: Vec::new() };
    for (device, changes) in devices.iter().zip(changes) {
        let before = first_superblock(&**device).map_err(|e| device_error(&**device, e))?;
        let new = changes.iter().find(|change| change.offset == SUPERBLOCK_OFFSETS[0]);
        let after = new.map_or_else(|| before.clone(), |change| change.bytes.clone());
        header.devices.push(UndoDevice { len: device.len(), name: device.name(), before, after });
    }
    let mut writer = Writer::create(path, &header)?;
    let copied = devices.iter().zip(changes).enumerate().try_for_each(|(number, (device, changes))| {
        changes.iter().try_for_each(|change| {
            let old = read(&**device, change.offset, change.bytes.len()).map_err(|e| device_error(&**device, e))?;
            writer.record(number as u32, change.offset, &old)
        })
    });
    match copied.and_then(|()| writer.finish()) {
        Ok(()) => Ok(()),
        Err(error) => {
            file::remove(path);
            Err(error)
        }
    }
}

/// What an undo file is of.
///
/// # Errors
/// [`Error::Undo`] if it is no undo file, or damaged anywhere.
pub fn inspect(path: &Path) -> Result<Header> {
    let mut reader = Reader::open(path)?;
    while reader.next_record()?.is_some() {}
    Ok(reader.header().clone())
}

/// Puts everything back as it was before the repair.
///
/// # Errors
/// [`Error::Undo`] if the file is damaged, of another filesystem, or the filesystem was changed since; nothing
/// was written then. If a device fails on the way, run it again.
pub fn undo(path: &Path, devices: &Devices) -> Result<()> {
    let header = inspect(path)?;
    let order = match_devices(path, &header, devices)?;
    restore(path, &order, Part::Superblocks)?;
    restore(path, &order, Part::Rest)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Superblocks,
    Rest,
}

fn restore(path: &Path, order: &Devices, part: Part) -> Result<()> {
    let mut reader = Reader::open(path)?;
    while let Some((device, old)) = reader.next_record()? {
        if is_superblock(&old) == (part == Part::Superblocks) {
            let device = order.get(device).ok_or_else(|| file::broken(path, "a record of no device"))?;
            device.write_at(old.offset, &old.bytes).map_err(|e| device_error(&**device, e))?;
        }
    }
    order.iter().try_for_each(|device| device.flush().map_err(|e| device_error(&**device, e)))
}

/// The devices in the order of the file. Each must be one of it, and as the repair left it.
fn match_devices(path: &Path, header: &Header, devices: &Devices) -> Result<Devices> {
    let refuse = |problem: String| Err(file::broken(path, problem));
    if header.devices.len() != devices.len() {
        let (want, have) = (header.devices.len(), devices.len());
        return refuse(format!("the repaired filesystem has {want} devices, {have} were given"));
    }
    let mut order = Devices::new();
    for one in &header.devices {
        let mut found = None;
        for device in devices {
            let now = first_superblock(&**device).map_err(|e| device_error(&**device, e))?;
            if device.len() == one.len && one.is_of(&now) {
                found = Some(device);
            }
        }
        match found {
            Some(device) => order.push(device.clone()),
            None => return refuse(why_none(one, devices)),
        }
    }
    Ok(order)
}

fn why_none(one: &UndoDevice, devices: &Devices) -> String {
    let fsid = |page: &[u8]| page.get(32..48).map(<[u8]>::to_vec);
    let foreign =
        devices.iter().all(|device| first_superblock(&**device).is_ok_and(|now| fsid(&now) != fsid(&one.before)));
    if foreign {
        return format!("it is of another filesystem ({})", one.name);
    }
    "the filesystem was changed since the repair, so the old bytes would damage it; nothing was written".into()
}

impl UndoDevice {
    /// Whether the first superblock is as before the repair, as after it, or torn between the two.
    fn is_of(&self, now: &[u8]) -> bool {
        if now == self.before || now == self.after {
            return true;
        }
        let atoms = now.chunks(ATOM).zip(self.before.chunks(ATOM)).zip(self.after.chunks(ATOM));
        atoms.into_iter().all(|((now, before), after)| now == before || now == after)
    }
}

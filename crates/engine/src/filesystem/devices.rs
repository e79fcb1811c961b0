//! Devices of a filesystem that is open: they are added, removed, made larger and smaller.
//!
//! # Invariants
//! * What cannot be is refused before anything is written.
//! * A device that is removed, and what is cut off one, holds nothing any more when the last commit says so. Until
//!   then a power cut leaves what was moved moved, and the device what it was.
//!
//! # Locking
//! One operation at a time, by its exclusive turn.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use butterfs_format::items::{BlockGroupFlags, DevItem};
use butterfs_format::{Corruption, DevId, Logical};
use butterfs_volume::{BlockDevice, FileDevice, Profile, erase_superblocks};
use zerocopy::FromZeros;

use super::Filesystem;
use super::exclusive::{Exclusive, ExclusiveTurn};
use crate::error::{Error, Result};
use crate::inode::lock;
use crate::relocate::{Relocated, Room};
use crate::tx::{Gate, GroupInfo, MIN_SIZE, Need, Transaction};

/// The least that a device is shrunk to, as in the kernel.
const LEAST: u64 = 256 << 20;

/// A size that a device is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewLength {
    /// All that there is of it.
    Max,
    /// So many bytes.
    Bytes(u64),
    /// So many more.
    More(u64),
    /// So many less.
    Less(u64),
}

/// What `filesystem resize` asks for: `[devid:][+|-]SIZE`, `[devid:]max` or `cancel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeWish {
    /// That a resize ends.
    Cancel,
    /// A size for a device.
    To(DevId, NewLength),
}

impl FromStr for ResizeWish {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "cancel" {
            return Ok(Self::Cancel);
        }
        let (devid, length) = text.split_once(':').unwrap_or(("1", text));
        let wrong = || Error::Invalid("a size is [devid:][+|-]SIZE with K, M, G, T, P or E, or [devid:]max");
        let devid = DevId(devid.parse().map_err(|_| wrong())?);
        let bytes = |text: &str| parse_bytes(text).ok_or_else(wrong);
        let length = match (length, length.as_bytes().first()) {
            ("max", _) => NewLength::Max,
            (_, Some(b'+')) => NewLength::More(bytes(&length[1..])?),
            (_, Some(b'-')) => NewLength::Less(bytes(&length[1..])?),
            _ => NewLength::Bytes(bytes(length)?),
        };
        Ok(Self::To(devid, length))
    }
}

fn parse_bytes(text: &str) -> Option<u64> {
    const LETTERS: &str = "KMGTPE";
    let last = text.chars().next_back()?.to_ascii_uppercase();
    let (digits, power) = match LETTERS.find(last) {
        Some(power) => (&text[..text.len() - 1], power as u32 + 1),
        None => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1u64.checked_shl(10 * power)?)
}

/// A device to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhichDevice {
    /// By number.
    Id(DevId),
    /// By the name that the volume has it by.
    Name(String),
    /// The first of those that are missing.
    Missing,
}

/// Devices that are about to be removed.
#[derive(Debug)]
pub struct Removal {
    turn: ExclusiveTurn,
    devices: Vec<DevId>,
}

/// How a removal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalEnd {
    /// They are removed.
    Done,
    /// Somebody wanted it to end before that. What was moved is moved.
    Cancelled,
}

impl Filesystem {
    /// Makes a device part of the filesystem; gives its number. What it holds is lost: the caller has looked. Where this is
    /// a seed, opened for reading, another filesystem grows from it to the device: this one is that from then on.
    ///
    /// # Errors
    /// If it is too small, or another operation is under way.
    pub fn add_device(&self, device: &Arc<dyn BlockDevice>) -> Result<DevId> {
        let gate = &self.shared.gate;
        if gate.volume().is_a_seed() {
            return self.sprout(device);
        }
        let _turn = self.begin_exclusive(Exclusive::DeviceAdd)?;
        let total = usable_length(gate, &**device)?;
        erase_superblocks(&**device)?;
        let uuid = self.shared.environment.new_uuid();
        let mut devid = DevId(0);
        gate.commit_with(Need::Deletion, |tx| {
            tx.ensure_system()?;
            devid = tx.next_devid();
            let item = new_item(tx, devid, total, uuid);
            gate.volume().add_device(Arc::clone(device), item)?;
            tx.add_device(item)
        })?;
        tracing::info!("added {} as device {devid}", device.name());
        Ok(devid)
    }

    /// The same for a block device or an image file by its path from the root.
    ///
    /// # Errors
    /// As [`Filesystem::add_device`]; if it cannot be opened alone.
    pub fn add_device_at(&self, path: &Path) -> Result<DevId> {
        if !path.is_absolute() {
            return Err(Error::Invalid("the device is to be named by its path from the root"));
        }
        let device: Arc<dyn BlockDevice> = Arc::new(FileDevice::open_read_write(path)?);
        self.add_device(&device)
    }

    /// Makes a device larger or smaller; gives its size before and after.
    ///
    /// # Errors
    /// If it cannot have this size: [`Error::BeyondDevice`] if there is not so much of it; [`Error::NoRoom`] if what lies
    /// beyond has no room elsewhere: the device is as large as it was then.
    pub fn resize_device(&self, devid: DevId, length: NewLength) -> Result<(u64, u64)> {
        let turn = self.begin_exclusive(Exclusive::Resize)?;
        let volume = self.shared.gate.volume();
        let item = self.device_item(devid)?;
        let device = volume.device(devid).filter(|_| volume.is_written(devid));
        let device = device.ok_or_else(|| Error::Refused(format!("device {devid} is missing, or a seed")))?;
        let there = device.measure().map_err(|source| device_error(&*device, source))?;
        let before = item.total_bytes.get();
        let sector = u64::from(volume.geometry().sectorsize);
        let wanted = match length {
            NewLength::Max => Some(there),
            NewLength::Bytes(bytes) => Some(bytes),
            NewLength::More(bytes) => before.checked_add(bytes),
            NewLength::Less(bytes) if bytes > before => {
                return Err(Error::Refused(format!("device {devid} has {before} bytes; {bytes} less cannot be")));
            }
            NewLength::Less(bytes) => Some(before - bytes),
        };
        let wanted = wanted.ok_or(Error::Invalid("the size is beyond all bounds"))? / sector * sector;
        if wanted < LEAST && wanted < before {
            return Err(Error::Refused(format!("a device has at least {LEAST} bytes (256 MiB); {wanted} are too few")));
        }
        if wanted > there {
            device.resize(wanted).map_err(|source| match source.kind() {
                std::io::ErrorKind::Unsupported => Error::BeyondDevice { devid, has: there, wanted },
                _ => device_error(&*device, source),
            })?;
        }
        if wanted < before {
            let emptied = self.empty_beyond(&turn, &[(devid, wanted)]);
            emptied.map_err(|error| self.no_room(devid, wanted, error))?.ok_or(Error::Cancelled)?;
        }
        if wanted != before {
            self.shared.gate.commit_with(Need::Deletion, |tx| {
                tx.ensure_system()?;
                tx.resize_device(devid, wanted)?;
                tx.cap_devices(&[]);
                Ok(())
            })?;
        }
        if wanted < before {
            match device.resize(wanted) {
                Err(error) if error.kind() != std::io::ErrorKind::Unsupported => {
                    tracing::warn!(device = device.name(), %error, "it was shrunk, but its file stays as it was");
                }
                _ => {}
            }
        }
        drop(turn);
        Ok((before, wanted))
    }

    /// Says of a device that cannot be shrunk what is in the way.
    fn no_room(&self, devid: DevId, wanted: u64, error: Error) -> Error {
        match (error, self.device_item(devid)) {
            (Error::NoSpace, Ok(item)) => Error::NoRoom(format!(
                "device {devid} cannot be shrunk to {wanted} bytes: what lies beyond has no room elsewhere, and block groups \
                 take {} bytes of it; name a larger size, balance, or delete something",
                item.bytes_used
            )),
            (error, _) => error,
        }
    }

    /// Whether a resize can begin at this moment.
    ///
    /// # Errors
    /// Why not.
    pub fn check_resize(&self) -> Result<()> {
        self.begin_exclusive(Exclusive::Resize).map(drop)
    }

    pub(super) fn device_item(&self, devid: DevId) -> Result<DevItem> {
        let items = self.shared.gate.view(|tx| Ok(tx.device_items().to_vec()))?;
        let found = items.into_iter().find(|item| item.devid.get() == devid.0);
        found.ok_or(Error::NoDevice(devid))
    }

    /// Begins to remove devices: all that is refused is refused here. [`Filesystem::run_removal`] does it.
    ///
    /// # Errors
    /// If there is no such device; [`Error::TooFewDevices`] if too few would be left for a profile that is in use.
    pub fn begin_removal(&self, wanted: &[WhichDevice]) -> Result<Removal> {
        let turn = self.begin_exclusive(Exclusive::DeviceRemove)?;
        let mut devices: Vec<DevId> = Vec::new();
        for which in wanted {
            let devid = self.find_device(which, &devices)?;
            if !devices.contains(&devid) {
                devices.push(devid);
            }
        }
        self.shared.gate.view(|tx| require_enough(tx, &devices, self))?;
        Ok(Removal { turn, devices })
    }

    /// The number of a device that is named, other than those that are taken already.
    ///
    /// # Errors
    /// If there is none.
    pub fn find_device(&self, which: &WhichDevice, taken: &[DevId]) -> Result<DevId> {
        let volume = self.shared.gate.volume();
        match which {
            WhichDevice::Id(devid) => Ok(DevId(self.device_item(*devid)?.devid.get())),
            WhichDevice::Missing => {
                let missing = volume.missing_devices();
                let found = missing.iter().map(|id| id.devid).find(|devid| !taken.contains(devid));
                found.ok_or_else(|| Error::Refused("no missing devices found to remove".into()))
            }
            WhichDevice::Name(name) => {
                let named =
                    |item: &DevItem| volume.device_name(DevId(item.devid.get())).is_some_and(|own| own == *name);
                let found = volume.dev_items().iter().find(|item| named(item)).map(|item| DevId(item.devid.get()));
                found.ok_or_else(|| Error::Refused(format!("{name} is no device of this filesystem")))
            }
        }
    }

    /// Moves everything off the devices, all in one pass, and takes them out.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if what is on them has no room elsewhere. They stay part of the filesystem then.
    pub fn run_removal(&self, removal: Removal) -> Result<RemovalEnd> {
        let Removal { turn, devices } = removal;
        let caps: Vec<_> = devices.iter().map(|devid| (*devid, 0)).collect();
        if self.empty_beyond(&turn, &caps)?.is_none() {
            return Ok(RemovalEnd::Cancelled);
        }
        let gate = &self.shared.gate;
        let mut gone = Vec::new();
        gate.commit_with(Need::Deletion, |tx| {
            tx.ensure_system()?;
            for devid in &devices {
                tx.remove_device(*devid)?;
                let is_there = gate.volume().is_written(*devid);
                let device = gate.volume().remove_device(*devid)?;
                gone.extend(is_there.then_some((*devid, device)));
            }
            tx.cap_devices(&[]);
            Ok(())
        })?;
        for (devid, device) in gone {
            // No commit counts on it any more; what is left there must not be taken for a part of the filesystem.
            if let Err(error) = erase_superblocks(&*device) {
                tracing::warn!(device = device.name(), %error, "it was removed, but its superblocks could not be erased");
            }
            device.close();
            tracing::info!("removed device {devid}");
        }
        drop(turn);
        Ok(RemovalEnd::Done)
    }

    /// Empties all groups with a part beyond these offsets of devices, and keeps new ones off there. `None`: somebody
    /// wanted it to end. Only after success the caps stay.
    fn empty_beyond(&self, _turn: &ExclusiveTurn, caps: &[(DevId, u64)]) -> Result<Option<()>> {
        let cap = |caps: &[(DevId, u64)]| {
            self.shared.gate.change(Need::Promised, |tx| {
                tx.cap_devices(caps);
                Ok(())
            })
        };
        cap(caps)?;
        let emptied = self.empty_all_beyond();
        if !matches!(emptied, Ok(Some(()))) {
            // After an error that stopped all writing it does not matter any more.
            let _ = cap(&[]);
        }
        emptied
    }

    fn empty_all_beyond(&self) -> Result<Option<()>> {
        loop {
            let groups = self.shared.gate.view(Transaction::groups_beyond_caps)?;
            if groups.is_empty() {
                return Ok(Some(()));
            }
            let mut gone = 0;
            for start in groups {
                match self.empty_group_at(start)? {
                    Relocated::Gone => gone += 1,
                    Relocated::NoRoom => {}
                    Relocated::Stopped => return Ok(None),
                }
            }
            // What had no room at first may have it now.
            if gone == 0 {
                return Err(Error::NoSpace);
            }
        }
    }

    pub(super) fn empty_group_at(&self, start: u64) -> Result<Relocated> {
        let is_cancelled = || self.exclusive.is_cancelled();
        if is_cancelled() {
            return Ok(Relocated::Stopped);
        }
        let _one = lock(&self.reclaiming);
        let Some((_, chunk)) = self.shared.gate.volume().chunk_containing(Logical(start)) else {
            return Ok(Relocated::Gone);
        };
        let group = GroupInfo { start, len: chunk.length(), flags: chunk.flags(), used: 0, waiting: 0 };
        let relocated = self.relocate_until(&group, Room::NewChunks, &is_cancelled)?;
        let is_there = self.shared.gate.volume().chunk_containing(Logical(start)).is_some();
        Ok(if relocated == Relocated::Gone && is_there { Relocated::NoRoom } else { relocated })
    }
}

/// How much of a device can be used.
pub(super) fn usable_length(gate: &Gate, device: &dyn BlockDevice) -> Result<u64> {
    let sector = u64::from(gate.volume().geometry().sectorsize);
    let total = device.len() / sector * sector;
    if total >= MIN_SIZE {
        return Ok(total);
    }
    let text = format!("{}: has {} bytes, a device needs at least {MIN_SIZE}", device.name(), device.len());
    Err(Error::Refused(text))
}

pub(super) fn new_item(tx: &Transaction, devid: DevId, total: u64, uuid: [u8; 16]) -> DevItem {
    let geometry = tx.geometry();
    let sector = geometry.sectorsize;
    DevItem {
        devid: devid.0.into(),
        total_bytes: total.into(),
        bytes_used: 0.into(),
        io_align: sector.into(),
        io_width: sector.into(),
        sector_size: sector.into(),
        generation: tx.generation().0.into(),
        uuid,
        fsid: geometry.fsid,
        ..DevItem::new_zeroed()
    }
}

/// Enough devices are left for each profile that there is.
fn require_enough(tx: &Transaction, removed: &[DevId], fs: &Filesystem) -> Result<()> {
    let volume = fs.shared.gate.volume();
    let items = tx.device_items().iter().map(|item| DevId(item.devid.get()));
    let left = items.filter(|devid| volume.takes_chunks(*devid) && !removed.contains(devid)).count();
    if left == 0 {
        return Err(Error::Refused(
            "the last device that is written cannot be removed; at least 1 must be left".into(),
        ));
    }
    let kinds = [BlockGroupFlags::DATA, BlockGroupFlags::METADATA, BlockGroupFlags::SYSTEM];
    let mixed = BlockGroupFlags::DATA | BlockGroupFlags::METADATA;
    for group in kinds.into_iter().chain([mixed]).flat_map(|kind| tx.all_groups_of(kind)) {
        let profile = Profile::of(group.flags)
            .ok_or_else(|| Corruption::new(format!("block group {}", group.start), "its profile is not known"))?;
        if left < profile.min_devices {
            let name = group.flags.profile_name();
            return Err(Error::TooFewDevices { profile: name, needed: profile.min_devices, left });
        }
    }
    Ok(())
}

pub(super) fn device_error(device: &dyn BlockDevice, source: std::io::Error) -> Error {
    Error::Volume(butterfs_volume::Error::Device { name: device.name(), devid: None, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_the_kernel_reads_them() {
        let to = |devid, length| ResizeWish::To(DevId(devid), length);
        let table = [
            ("max", to(1, NewLength::Max)),
            ("2:max", to(2, NewLength::Max)),
            ("+1g", to(1, NewLength::More(1 << 30))),
            ("3:-20M", to(3, NewLength::Less(20 << 20))),
            ("4096", to(1, NewLength::Bytes(4096))),
            ("cancel", ResizeWish::Cancel),
        ];
        for (text, wanted) in table {
            assert_eq!(text.parse::<ResizeWish>().unwrap(), wanted, "{text}");
        }
        for text in ["", "x", "1:", "a:max", "1G2", "+", "-", "18446744073709551615K", "2:cancel"] {
            assert!(text.parse::<ResizeWish>().is_err(), "{text}");
        }
    }
}

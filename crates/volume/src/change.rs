//! Devices that come and go, grow and shrink, while a filesystem is in use.
//!
//! # Invariants
//! * A device that came gets its first superblock, durably, before any other device gets the one that counts on it: at
//!   each moment the newest superblock found leads to devices that are all there.
//! * A device that goes holds no part of a chunk.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use butterfs_format::items::DevItem;
use butterfs_format::{DevId, Superblock};

use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::member::{Member, Role, Seen};
use crate::volume::Volume;
use crate::write::write_copies;

impl Volume {
    /// Makes a new device part of the volume. It is written from then on; its first superblock is that of the next
    /// commit.
    ///
    /// # Errors
    /// If it is too short for its item, or its number is taken, or there are too many devices.
    pub fn add_device(&self, device: Arc<dyn BlockDevice>, item: DevItem) -> Result<()> {
        self.require_writable()?;
        let name = device.name();
        if device.len() < item.total_bytes.get() {
            return Err(Error::NotWritable(format!("{name}: has {} bytes, not {}", device.len(), item.total_bytes)));
        }
        if self.member(DevId(item.devid.get())).is_some() {
            return Err(Error::Busy(format!("{name}: there is a device {} already", item.devid)));
        }
        let member = Member::new(device, item, Role::Current, Seen::Unknown);
        member.is_new.store(true, Ordering::Release);
        self.members.add(member).map_err(|_| Error::Unsupported(format!("{name}: too many devices were added")))
    }

    /// Ends a device's part in the volume: nothing is read from it or written to it any more. Gives the device.
    ///
    /// # Errors
    /// If there is none with this number.
    pub fn remove_device(&self, devid: DevId) -> Result<Arc<dyn BlockDevice>> {
        let place = self.member(devid).ok_or_else(|| Error::Unsupported(format!("there is no device {devid}")))?;
        debug_assert!(!self.map().iter().any(|mapped| mapped.uses(place)), "device {devid} is in use");
        let member = &self.members[place];
        member.removed.store(true, Ordering::Release);
        Ok(Arc::clone(&member.device))
    }

    /// The device with a number, to be resized by who holds it.
    pub fn device(&self, devid: DevId) -> Option<Arc<dyn BlockDevice>> {
        self.member(devid).map(|place| Arc::clone(&self.members[place].device))
    }

    /// Writes the superblocks of devices that came since the last commit, and makes them durable. What they lead to is.
    ///
    /// # Errors
    /// If a device fails.
    pub fn write_first_superblocks(&self, sb: &Superblock) -> Result<()> {
        let sb = &self.naming_absent(sb);
        for member in self.members.present().filter(|member| member.is_new.load(Ordering::Acquire)) {
            write_copies(member, sb)?;
            member.flush()?;
            member.is_new.store(false, Ordering::Release);
        }
        self.on_target(|target| {
            if target.is_new.load(Ordering::Acquire) {
                write_copies(target, sb)?;
                target.flush()?;
                target.is_new.store(false, Ordering::Release);
            }
            Ok(())
        });
        Ok(())
    }
}

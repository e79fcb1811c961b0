//! A device whose place another one takes while both are in use.
//!
//! The new device, the *target*, belongs to the member that it will stand for: whatever is written there is written to it, too.
//! It holds nothing that anybody counts on, has no superblock, and is not read, until it takes the place: see
//! `docs/decisions/0023-returning-and-replaced-devices.md`.
//!
//! # Invariants
//! * Every write that the old device got since the target came has reached the target, or the target has failed.
//! * Chunks change from the old device to the target at one moment, with the map held alone.
//!
//! # Locking
//! A member's `target` is held shared for the length of each write, so that who sets it waits for those under way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use butterfs_format::DevId;

use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::map::without_superblocks;
use crate::member::{Member, Role, Seen};
use crate::volume::Volume;

/// A device that is about to take the place of another.
pub(crate) struct Target {
    device: Arc<dyn BlockDevice>,
    failed: AtomicBool,
}

impl Target {
    /// Does something with the device; what fails makes it useless, and nobody else's trouble.
    pub fn attempt(&self, work: impl FnOnce(&dyn BlockDevice) -> std::io::Result<()>) {
        if self.has_failed() {
            return;
        }
        if let Err(error) = work(&*self.device) {
            tracing::error!(device = self.device.name(), %error, "the device that is to replace another failed");
            self.failed.store(true, Ordering::Release);
        }
    }

    fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }
}

impl Member {
    fn set_target(&self, target: Option<Arc<Target>>) {
        *self.target.write().unwrap_or_else(PoisonError::into_inner) = target;
    }

    fn target(&self) -> Option<Arc<Target>> {
        self.target.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Volume {
    /// From now on a target gets what is written to a device. Returns when all writes that went to the device alone are done.
    ///
    /// # Errors
    /// If the target is shorter than the device's part in the filesystem, or the device has one already, or is not written
    /// and not missing either.
    pub fn begin_replacing(&self, devid: DevId, target: Arc<dyn BlockDevice>) -> Result<()> {
        self.require_writable()?;
        let member = self.replaced(devid)?;
        let refuse = |why: String| Err(Error::NotWritable(why));
        if member.role() == Role::Seed || member.is_dropped() || member.is_catching_up() {
            return refuse(format!("device {devid} is a seed, failed, or missed commits"));
        }
        let needed = member.item().total_bytes.get();
        if target.len() < needed {
            return refuse(format!("{}: has {} bytes, {needed} are needed", target.name(), target.len()));
        }
        if member.target().is_some() {
            return refuse(format!("device {devid} is being replaced already"));
        }
        member.set_target(Some(Arc::new(Target { device: target, failed: AtomicBool::new(false) })));
        Ok(())
    }

    /// Writes what the device should have to its target; superblocks are left out.
    ///
    /// # Errors
    /// If the target failed.
    pub fn write_target(&self, devid: DevId, physical: u64, bytes: &[u8]) -> Result<()> {
        let target = self.sound_target(devid)?;
        for part in without_superblocks(physical..physical.saturating_add(bytes.len() as u64)) {
            let from = (part.start - physical) as usize;
            let part_bytes = &bytes[from..from + (part.end - part.start) as usize];
            target.attempt(|device| device.write_at(part.start, part_bytes));
        }
        self.sound_target(devid).map(drop)
    }

    /// The target is not wanted any more.
    pub fn forget_target(&self, devid: DevId) {
        if let Ok(member) = self.replaced(devid) {
            member.set_target(None);
        }
    }

    /// Makes what the target has durable.
    ///
    /// # Errors
    /// If it failed, or the device that it stands beside did: from then on that device gets no writes, so neither has it.
    pub fn flush_target(&self, devid: DevId) -> Result<()> {
        let target = self.sound_target(devid)?;
        target.attempt(|device| device.flush());
        self.sound_target(devid).map(drop)
    }

    /// The target takes the device's place, with its number and UUID. Its first superblock is that of the next commit, which
    /// the old device does not get any more. Gives the old device, if it was there.
    ///
    /// # Errors
    /// If the target or the device failed meanwhile.
    pub fn finish_replacing(&self, devid: DevId) -> Result<Option<Arc<dyn BlockDevice>>> {
        let target = self.sound_target(devid)?;
        let place = self.member(devid).ok_or_else(|| unknown(devid))?;
        let old = &self.members[place];
        let new = Member::new(Arc::clone(&target.device), old.item(), Role::Current, Seen::Unknown);
        new.is_new.store(true, Ordering::Release);
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        old.removed.store(true, Ordering::Release);
        let new_place = self.members.len();
        if self.members.add(new).is_err() {
            old.removed.store(false, Ordering::Release);
            return Err(Error::Unsupported("too many devices were added".into()));
        }
        map.move_member(place, new_place);
        drop(map);
        Ok((old.role() != Role::Missing).then(|| Arc::clone(&old.device)))
    }

    fn sound_target(&self, devid: DevId) -> Result<Arc<Target>> {
        let member = self.replaced(devid)?;
        let target =
            member.target().ok_or_else(|| Error::NotWritable(format!("device {devid} is not being replaced")))?;
        if target.has_failed() {
            return Err(Error::NotWritable(format!("{} failed; nothing is replaced", target.device.name())));
        }
        if member.is_dropped() {
            return Err(Error::NotWritable(format!("device {devid} failed meanwhile; replace it as a missing one")));
        }
        Ok(target)
    }

    fn replaced(&self, devid: DevId) -> Result<&Member> {
        self.member(devid).map(|place| &self.members[place]).ok_or_else(|| unknown(devid))
    }
}

fn unknown(devid: DevId) -> Error {
    Error::Unsupported(format!("there is no device {devid}"))
}

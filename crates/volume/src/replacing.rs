//! A device whose place another one takes while both are in use.
//!
//! The new device, the *target*, belongs to the member that it will stand for: whatever is written there is written to it, too.
//! It is not read until it takes the place. It has superblocks of its own, with the number 0, so that whoever opens the
//! filesystem next finds it and goes on: see `docs/decisions/0027-interrupted-replacements.md`.
//!
//! # Invariants
//! * Every write that the old device got since the target came has reached the target, or the target has failed.
//! * A target's superblock is of generation G only if it got all that was written up to G since it came: one that failed, or
//!   whose source was dropped, gets none any more.
//! * Chunks change from the old device to the target at one moment, with the map held alone.
//!
//! # Locking
//! A member's `target` is held shared for the length of each write, so that who sets it waits for those under way. A target's
//! `record` is a leaf.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use butterfs_format::DevId;
use butterfs_format::items::{DevItem, DevReplaceItem, ReadSource};

use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::map::without_superblocks;
use crate::member::{Member, Role, Seen};
use crate::targets::from_the_beginning;
use crate::volume::Volume;

/// A device that is about to take the place of another.
pub(crate) struct Target {
    /// Not among the volume's members; its number is 0.
    pub member: Member,
    /// What failed first.
    failed: OnceLock<String>,
    write_errors: AtomicU64,
    record: Mutex<Record>,
    /// A commit takes with it that it is to be filled from the beginning, since it lacks something.
    given_up: AtomicBool,
}

/// What the device tree says of the replacement, or will say.
struct Record {
    item: DevReplaceItem,
    changed: bool,
}

/// Whether what the record says is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnDisk {
    Yes,
    NotYet,
}

impl Target {
    pub fn new(member: Member, item: DevReplaceItem, on_disk: OnDisk) -> Self {
        let record = Mutex::new(Record { item, changed: on_disk == OnDisk::NotYet });
        let write_errors = AtomicU64::new(item.write_errors.get());
        Self { member, failed: OnceLock::new(), write_errors, record, given_up: AtomicBool::new(false) }
    }

    /// Does something with the device; what fails makes it useless, and nobody else's trouble.
    pub fn attempt(&self, work: impl FnOnce(&dyn BlockDevice) -> std::io::Result<()>) {
        if self.has_failed() {
            return;
        }
        if let Err(error) = work(&*self.member.device) {
            self.write_errors.fetch_add(1, Ordering::Relaxed);
            self.fail(&error);
        }
    }

    fn fail(&self, error: &dyn std::fmt::Display) {
        let device = self.member.device.name();
        tracing::error!(device, %error, "the device that is to replace another failed");
        let _ = self.failed.set(format!("{device} failed: {error}"));
    }

    fn has_failed(&self) -> bool {
        self.failed.get().is_some()
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn item(&self) -> DevReplaceItem {
        DevReplaceItem { write_errors: self.write_errors.load(Ordering::Relaxed).into(), ..self.record().item }
    }
}

/// What a target's superblock says of it while it is none of the filesystem's devices.
fn target_item(source: &DevItem, uuid: [u8; 16]) -> DevItem {
    DevItem { devid: DevReplaceItem::TARGET.into(), uuid, ..*source }
}

impl Member {
    pub(crate) fn set_target(&self, target: Option<Arc<Target>>) {
        self.avoided.store(target.as_ref().is_some_and(avoids), Ordering::Release);
        *self.target.write().unwrap_or_else(PoisonError::into_inner) = target;
    }

    pub(crate) fn target(&self) -> Option<Arc<Target>> {
        self.target.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whether a target did not get all that was written.
fn lacks_something(source: &Member, target: &Target) -> bool {
    target.has_failed() || source.is_dropped()
}

fn avoids(target: &Arc<Target>) -> bool {
    target.item().read_source() == ReadSource::Avoid
}

impl Volume {
    /// From now on a target gets what is written to a device. Returns when all writes that went to the device alone are done.
    /// The next commit writes the item, and the target's first superblock.
    ///
    /// # Errors
    /// If the target is shorter than the device's part in the filesystem, or a device has one already, or the device is not
    /// written and not missing either.
    pub fn begin_replacing(&self, target: Arc<dyn BlockDevice>, uuid: [u8; 16], item: DevReplaceItem) -> Result<()> {
        let devid = DevId(item.src_devid.get());
        self.check_replacing(devid, &*target)?;
        let member = self.replaced(devid)?;
        let new = Member::new(target, target_item(&member.item(), uuid), Role::Current, Seen::Unknown);
        new.is_new.store(true, Ordering::Release);
        member.set_target(Some(Arc::new(Target::new(new, item, OnDisk::NotYet))));
        Ok(())
    }

    /// Whether a target may come.
    ///
    /// # Errors
    /// As [`Volume::begin_replacing`].
    pub fn check_replacing(&self, devid: DevId, target: &dyn BlockDevice) -> Result<()> {
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
        if let Some(other) = self.replaced_device() {
            return refuse(format!("device {other} is being replaced already"));
        }
        Ok(())
    }

    /// The device that a target stands beside.
    pub fn replaced_device(&self) -> Option<DevId> {
        self.members.present().find(|member| member.target().is_some()).map(Member::devid)
    }

    /// The path of the target, for messages.
    pub fn target_name(&self) -> Option<String> {
        self.members.present().find_map(Member::target).map(|target| target.member.device.name())
    }

    /// What the next commit says of the replacement, if there is a target.
    pub fn replace_item(&self) -> Option<DevReplaceItem> {
        let (source, target) = self.replacing()?;
        let item = target.item();
        Some(if lacks_something(source, &target) { from_the_beginning(item) } else { item })
    }

    fn replacing(&self) -> Option<(&Member, Arc<Target>)> {
        self.members.present().find_map(|source| Some((source, source.target()?)))
    }

    /// Whether a target lacks something, and no commit says so yet: until then what is written is not durable, or who opens the
    /// filesystem next would go on with that target.
    pub(crate) fn owes_new_beginning(&self) -> bool {
        let owes = |(source, target): (&Member, Arc<Target>)| {
            lacks_something(source, &target) && !target.given_up.load(Ordering::Acquire)
        };
        self.replacing().is_some_and(owes)
    }

    /// Changes that.
    pub fn change_replace_item(&self, change: impl FnOnce(&mut DevReplaceItem)) {
        if let Some(target) = self.members.present().find_map(Member::target) {
            let mut record = target.record();
            change(&mut record.item);
            record.changed = true;
        }
    }

    /// Whether the item is to be written anew.
    pub fn replace_item_changed(&self) -> bool {
        self.owes_new_beginning() || self.replacing().is_some_and(|(_, target)| target.record().changed)
    }

    /// The item, if it is to be written anew. What it says was copied was written to the target before; the caller flushes.
    pub fn take_changed_replace_item(&self) -> Option<DevReplaceItem> {
        let (source, target) = self.replacing()?;
        let lacks_something = lacks_something(source, &target);
        let is_news = lacks_something && !target.given_up.swap(true, Ordering::AcqRel);
        let was_changed = std::mem::take(&mut target.record().changed);
        let item = target.item();
        (was_changed || is_news).then(|| if lacks_something { from_the_beginning(item) } else { item })
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

    /// The target is not wanted any more: it gets no writes from now on. Gives it.
    pub fn forget_target(&self, devid: DevId) -> Option<Arc<dyn BlockDevice>> {
        let member = self.replaced(devid).ok()?;
        let target = member.target()?;
        member.set_target(None);
        Some(Arc::clone(&target.member.device))
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

    /// The target takes the device's place, with its number and UUID. Its first superblock as such is that of the next commit,
    /// which the old device does not get any more. Gives the old device, if it was there.
    ///
    /// # Errors
    /// If the target or the device failed meanwhile.
    pub fn finish_replacing(&self, devid: DevId) -> Result<Option<Arc<dyn BlockDevice>>> {
        let target = self.sound_target(devid)?;
        let place = self.member(devid).ok_or_else(|| unknown(devid))?;
        let old = &self.members[place];
        let new = Member::new(Arc::clone(&target.member.device), old.item(), Role::Current, Seen::Unknown);
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

    /// Does something with the target, if it has all that was written since it came; one for which it fails has not.
    pub(crate) fn on_target(&self, work: impl Fn(&Member) -> Result<()>) {
        for source in self.members.present().filter(|source| !source.is_dropped()) {
            let Some(target) = source.target().filter(|target| !target.has_failed()) else { continue };
            target.member.set_item(target_item(&source.item(), target.member.id.uuid));
            if let Err(error) = work(&target.member) {
                target.write_errors.fetch_add(1, Ordering::Relaxed);
                target.fail(&error);
            }
        }
    }

    fn sound_target(&self, devid: DevId) -> Result<Arc<Target>> {
        let member = self.replaced(devid)?;
        let target =
            member.target().ok_or_else(|| Error::NotWritable(format!("device {devid} is not being replaced")))?;
        if let Some(why) = target.failed.get() {
            return Err(Error::NotWritable(format!("{why}; nothing is replaced")));
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

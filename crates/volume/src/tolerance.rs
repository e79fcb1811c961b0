//! Going on without a device: which failures of writes are tolerated, and what becomes of the device.
//!
//! A device that lost a write holds old bytes, and where data has no checksums nothing tells them from new ones. So
//! a device is *dropped* when a write, a flush or its first superblock failed and the others have every byte: from
//! then on it is neither written nor read, its superblock stays old, and whoever opens the filesystem later sees
//! that it missed commits. See `docs/decisions/0019-failing-devices.md`.
//!
//! # Invariants
//! * Every chunk can be read without the devices that are missing or were dropped.
//! * No superblock is written to a device after it was dropped.
//!
//! # Locking
//! `dropping` is held while it is decided whether a device can be spared; inside it the map, then the device's
//! `seen`.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use butterfs_format::{Generation, Logical};

use crate::error::{DeviceId, Error, Result};
use crate::map::ChunkMap;
use crate::member::{Member, Role, Seen};
use crate::volume::Volume;

/// What tells good bytes from old ones when they are read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Tree blocks, and data with checksums: a copy that was not written is found, and repaired.
    Checked,
    /// Nothing: all copies must be the same, on all devices that are not dropped.
    Plain,
}

/// A part of a write on its way to one device.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    /// Where in the logical address space: copies of the same bytes have the same.
    pub at: Logical,
    pub physical: u64,
    pub bytes: &'a [u8],
}

/// A part that a device does not have.
struct Lost {
    member: usize,
    at: Logical,
    /// What failed; `None` if the device had been dropped before.
    error: Option<Error>,
}

impl Volume {
    /// The devices that failed since the filesystem was opened, and are not used any more.
    pub fn dropped_devices(&self) -> Vec<DeviceId> {
        self.members.present().filter(|member| member.is_dropped()).map(|member| member.id).collect()
    }

    /// Whether a device was dropped, or is missing and something was committed or logged without it, and what the others have is not far
    /// enough beyond it yet: one that is a single commit behind counts as whole. Or the target of a replacement failed, and
    /// no commit says so.
    pub fn owes_commit(&self) -> bool {
        let newest = self.superblock().generation();
        let is_near = |last: Generation| newest < last.next().next();
        // A log is of the last commit's generation, which a missing device may have without it.
        let is_ahead = newest > self.opened_at || self.logged.load(Ordering::Acquire);
        let early = is_ahead && is_near(self.opened_at);
        let is_owed = |member: &Member| {
            member.dropped_at().is_some_and(is_near)
                || early && member.role() == Role::Missing
                || member.is_catching_up() && is_near(member.last_seen())
        };
        self.owes_new_beginning() || self.members.present().any(is_owed)
    }

    /// Writes each device's parts.
    pub(crate) fn write_parts(&self, batches: &[Vec<Part<'_>>], content: Content) -> Result<()> {
        let mut lost = Vec::new();
        for (member, parts) in batches.iter().enumerate().filter(|(_, parts)| !parts.is_empty()) {
            self.write_to(member, parts, batches, &mut lost)?;
        }
        if lost.is_empty() { Ok(()) } else { self.settle_lost(lost, batches, content) }
    }

    fn write_to(
        &self,
        index: usize,
        parts: &[Part<'_>],
        batches: &[Vec<Part<'_>>],
        lost: &mut Vec<Lost>,
    ) -> Result<()> {
        let member = &self.members[index];
        if member.is_catching_up() {
            // The others have to have it all in any case.
            let writes: Vec<(u64, &[u8])> = parts.iter().map(|part| (part.physical, part.bytes)).collect();
            return if member.is_dropped() { Ok(()) } else { self.write_or_drop(index, &writes) };
        }
        if member.is_dropped() {
            lost.extend(parts.iter().map(|part| Lost { member: index, at: part.at, error: None }));
            return Ok(());
        }
        let writes: Vec<(u64, &[u8])> = parts.iter().map(|part| (part.physical, part.bytes)).collect();
        let Err(error) = member.write_batch(&writes) else { return Ok(()) };
        let devices = self.devices_with(batches);
        if parts.iter().any(|part| devices[&part.at] < 2) {
            return Err(error);
        }
        tracing::warn!(%error, "write failed; trying its parts again");
        // Which of the parts failed the device does not say.
        for part in parts {
            if let Err(error) = member.write_at(part.physical, part.bytes) {
                lost.push(Lost { member: index, at: part.at, error: Some(error) });
            }
        }
        Ok(())
    }

    /// Writes to a device whose part of all this the others make up for: if it fails twice, it is dropped.
    ///
    /// # Errors
    /// What is wrong with it, if it cannot be spared.
    pub(crate) fn write_or_drop(&self, index: usize, writes: &[(u64, &[u8])]) -> Result<()> {
        let member = &self.members[index];
        let Err(error) = member.write_batch(writes) else { return Ok(()) };
        tracing::warn!(%error, "write failed; trying its parts again");
        match writes.iter().try_for_each(|(physical, bytes)| member.write_at(*physical, bytes)) {
            Ok(()) => Ok(()),
            Err(error) => self.drop_or_fail(index, error),
        }
    }

    /// Whether the write counts as done though some devices do not have it.
    fn settle_lost(&self, lost: Vec<Lost>, batches: &[Vec<Part<'_>>], content: Content) -> Result<()> {
        let mut left = self.devices_with(batches);
        let mut noted = HashSet::new();
        for part in lost.iter().filter(|part| noted.insert((part.member, part.at))) {
            left.entry(part.at).and_modify(|devices| *devices -= 1);
        }
        let nowhere = lost.iter().find(|part| left[&part.at] == 0).map(|part| part.at);
        if let Some(at) = nowhere {
            let error = lost.into_iter().find_map(|part| part.error.filter(|_| part.at == at));
            return Err(error.unwrap_or_else(|| no_device(at)));
        }
        let mut settled = HashSet::new();
        for Lost { member, error, .. } in lost {
            let Some(error) = error.filter(|_| settled.insert(member)) else { continue };
            match self.drop_or_fail(member, error) {
                // The bytes are elsewhere, and this copy shows that it is bad when it is met.
                Err(error) if content == Content::Checked => tracing::error!(%error, "one copy was not written"),
                result => result?,
            }
        }
        Ok(())
    }

    /// Does something with each device that is written, and with one that is about to be; those that fail are dropped.
    ///
    /// # Errors
    /// That of a device that cannot be spared.
    pub(crate) fn on_each_written(&self, work: impl Fn(&Member) -> Result<()>) -> Result<()> {
        for (index, member) in self.members.iter().enumerate().filter(|(_, member)| member.is_written()) {
            match work(member) {
                Err(error @ Error::Device { .. }) => self.drop_or_fail(index, error)?,
                result => result?,
            }
        }
        self.on_target(work);
        Ok(())
    }

    /// Goes on without a device, if the others have every byte.
    ///
    /// # Errors
    /// What is wrong with the device, if they do not.
    pub(crate) fn drop_or_fail(&self, index: usize, error: Error) -> Result<()> {
        let _one_at_a_time = self.dropping.lock().unwrap_or_else(PoisonError::into_inner);
        let member = &self.members[index];
        if member.is_dropped() {
            return Ok(());
        }
        if !self.can_spare(index, &self.map()) {
            return Err(error);
        }
        let seen = member.seen();
        let newest = self.superblock().generation();
        let at_most = match *seen {
            Seen::Valid { generation, .. } => newest.max(Generation(generation)),
            // A write of its superblock failed: it may be there all the same.
            Seen::Unknown | Seen::Invalid => newest.next(),
        };
        member.set_dropped(at_most);
        drop(seen);
        let devid = member.devid();
        tracing::error!(%devid, %error, "device dropped: it is not used any more, the others have all of the data");
        Ok(())
    }

    /// On how many devices each part is to be written. Two copies on one device are one: what makes a device lose the
    /// first may soon make it lose the second. A device that is being brought up to date counts for nothing yet.
    fn devices_with(&self, batches: &[Vec<Part<'_>>]) -> HashMap<Logical, usize> {
        let mut devices = HashMap::new();
        let counts = batches.iter().zip(self.members.iter()).filter(|(_, member)| !member.is_catching_up());
        for (parts, _) in counts {
            let distinct: HashSet<Logical> = parts.iter().map(|part| part.at).collect();
            for at in distinct {
                *devices.entry(at).or_default() += 1;
            }
        }
        devices
    }

    fn can_spare(&self, index: usize, map: &ChunkMap) -> bool {
        let is_there = |other: usize| other != index && self.members[other].is_there();
        let others = self.members.iter().enumerate().any(|(other, member)| other != index && member.is_written());
        others && map.iter().all(|mapped| mapped.survives(is_there))
    }
}

impl Member {
    /// Whether it can be asked for what it holds.
    pub(crate) fn is_there(&self) -> bool {
        self.role() != Role::Missing && !self.is_dropped() && !self.is_removed() && !self.is_catching_up()
    }
}

fn no_device(at: Logical) -> Error {
    Error::NotWritable(format!("all devices for logical {at} have failed"))
}

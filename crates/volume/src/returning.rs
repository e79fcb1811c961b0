//! Devices that were away and are back: what they hold is old, until they are brought up to date.
//!
//! While that goes on, a device gets every write that the others get, so that only what it missed has to be copied. But
//! it is not read, counts for nothing where copies are counted, and its superblock stays of its generation: a power cut at
//! any point leaves it a device that missed commits, as before. But it is marked: what it holds is of no one moment any more,
//! so alone it must not be taken for a filesystem. The mark is a feature that nobody knows, so that the kernel does not either;
//! beside a newer superblock it is not looked at. See `docs/decisions/0023-returning-and-replaced-devices.md`.
//!
//! # Invariants
//! * The others have every byte of every chunk.
//! * A device gets a superblock again only after all that was copied to it is on stable storage.
//!
//! # Locking
//! As [`crate::write`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use butterfs_format::{DevId, Generation, Superblock};

use crate::apart::apart;
use crate::error::{Error, Result};
use crate::map::without_superblocks;
use crate::member::Member;
use crate::superblock;
use crate::volume::{OpenMode, Volume};
use crate::write::put_copies;

/// The incompatible feature that marks a device on its way.
const HALF_WAY: u64 = 1 << 62;

impl Volume {
    /// From now on these devices are only written, until each is done with: [`Volume::finish_catching_up`].
    ///
    /// # Errors
    /// If the others do not have every byte; then nothing changes.
    pub fn begin_catching_up(&self, devices: &[DevId]) -> Result<()> {
        self.require_writable()?;
        let places: Vec<usize> = devices.iter().filter_map(|devid| self.member(*devid)).collect();
        let is_there = |place: usize| self.members[place].is_there() && !places.contains(&place);
        if let Some(lost) = self.map().iter().find(|mapped| !mapped.survives(is_there)) {
            let text = format!("chunk {} cannot be read without the devices that missed commits", lost.start);
            return Err(Error::NotWritable(text));
        }
        for place in places {
            let member = &self.members[place];
            member.forgotten.store(!self.remembers(member.last_seen()), Ordering::Release);
            member.catching_up.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Says on the devices that are about to be brought up to date that they are on their way, durably. Before this nothing is
    /// written to them.
    ///
    /// # Errors
    /// If one fails that cannot be spared.
    pub fn mark_catching_up(&self) -> Result<()> {
        for devid in self.catching_up() {
            let (place, member) = self.catching(devid)?;
            if let Err(error) = mark_half_way(member) {
                self.drop_or_fail(place, error)?;
            }
        }
        Ok(())
    }

    /// Whether the newest superblock tells of this generation, so that it was compared when the devices were opened.
    fn remembers(&self, generation: Generation) -> bool {
        self.superblock().super_roots.iter().any(|backup| backup.tree_root_gen.get() == generation.0)
    }

    /// Those that missed so many commits that superblocks do not tell whether they went on by themselves meanwhile.
    pub fn forgotten_devices(&self) -> Vec<(DevId, Generation)> {
        let these = self.members_catching_up().filter(|member| member.forgotten.load(Ordering::Acquire));
        these.map(|member| (member.devid(), member.last_seen())).collect()
    }

    /// The error for a device that has commits of its own.
    pub fn written_apart(&self, devid: DevId) -> Error {
        self.member(devid).map_or_else(|| gone(devid), |place| apart(self, place))
    }

    /// Whether new chunks may lie on a device: not on one that counts for nothing yet, or they would be lost with a power
    /// cut.
    pub fn takes_chunks(&self, devid: DevId) -> bool {
        self.member(devid)
            .map(|place| &self.members[place])
            .is_some_and(|member| member.is_written() && !member.is_catching_up())
    }

    /// The devices that are being brought up to date.
    pub fn catching_up(&self) -> Vec<DevId> {
        self.members_catching_up().map(Member::devid).collect()
    }

    fn members_catching_up(&self) -> impl Iterator<Item = &Member> {
        self.members.present().filter(|member| member.is_catching_up() && !member.is_dropped())
    }

    /// Writes what a device missed, at its place there; superblocks are left out. A device that fails is dropped.
    ///
    /// # Errors
    /// If it is not being brought up to date (any more).
    pub fn write_missed(&self, devid: DevId, physical: u64, bytes: &[u8]) -> Result<()> {
        self.require_writable()?;
        let (place, member) = self.catching(devid)?;
        let end = physical.saturating_add(bytes.len() as u64);
        for part in without_superblocks(physical..end) {
            let from = (part.start - physical) as usize;
            let part_bytes = &bytes[from..from + (part.end - part.start) as usize];
            self.write_or_drop(place, &[(part.start, part_bytes)])?;
        }
        if member.is_dropped() { Err(gone(devid)) } else { Ok(()) }
    }

    /// The device has all that the others have: what it holds is made durable, it is read again, and the next commit gives
    /// it a superblock.
    ///
    /// # Errors
    /// If it fails; it is not used any more then.
    pub fn finish_catching_up(&self, devid: DevId) -> Result<()> {
        let (place, member) = self.catching(devid)?;
        if let Err(error) = member.flush() {
            self.drop_or_fail(place, error)?;
            return Err(gone(devid));
        }
        // A commit must follow, so that there is a change.
        member.counters.touch();
        member.catching_up.store(false, Ordering::Release);
        Ok(())
    }

    fn catching(&self, devid: DevId) -> Result<(usize, &Member)> {
        let place = self.member(devid).ok_or_else(|| gone(devid))?;
        let member = &self.members[place];
        if member.is_catching_up() && !member.is_dropped() { Ok((place, member)) } else { Err(gone(devid)) }
    }
}

/// Says in a device's superblocks, durably, that what it holds is of no one moment. They stay of their generation.
fn mark_half_way(member: &Member) -> Result<()> {
    let found = superblock::find(Arc::clone(&member.device), OpenMode::ReadOnly)?.superblock;
    if is_half_way(&found) {
        return Ok(());
    }
    let marked = Superblock { incompat_flags: (found.incompat_flags.get() | HALF_WAY).into(), ..found };
    put_copies(member, &marked, &mut member.seen())?;
    member.flush()
}

/// Whether a device was being brought up to date when that ended. Alone it is no filesystem.
pub(crate) fn is_half_way(sb: &Superblock) -> bool {
    sb.incompat_flags.get() & HALF_WAY != 0
}

fn gone(devid: DevId) -> Error {
    Error::NotWritable(format!("device {devid} failed and is not brought up to date"))
}

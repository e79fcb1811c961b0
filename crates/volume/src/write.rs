//! Writes to all copies, discards, flushes, and the superblocks.
//!
//! # Invariants
//! * Nothing but [`Volume::write_superblocks`] writes where a superblock copy lies.
//! * The first error is returned; what was written by then is undefined, and the caller's
//!   transaction must fail.
//!
//! # Locking
//! A member's `seen` is held while its superblocks are written, and while they are compared.

use std::ops::Range;

use butterfs_format::superblock::{SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_format::{DevId, Logical, Superblock};

use crate::error::{Error, Result};
use crate::map::{touches_superblock, without_superblocks};
use crate::member::{Member, Seen};
use crate::superblock::look_at_primary;
use crate::volume::Volume;

/// Writes for one device: physical addresses and bytes.
type Batch<'a> = Vec<(u64, &'a [u8])>;

impl Volume {
    /// Writes to all copies.
    ///
    /// # Errors
    /// If the volume is read-only, part of the range is in no chunk, or a device fails.
    pub fn write(&self, logical: Logical, buf: &[u8]) -> Result<()> {
        self.write_batch(&[(logical, buf)])
    }

    /// Writes several ranges to all copies: one batch per device, in the order of its addresses.
    ///
    /// # Errors
    /// As [`Volume::write`].
    pub fn write_batch(&self, writes: &[(Logical, &[u8])]) -> Result<()> {
        self.require_writable()?;
        let batches = self.fan_out(writes)?;
        for (member, batch) in self.members.iter().zip(batches) {
            if !batch.is_empty() {
                member.write_batch(&batch)?;
            }
        }
        Ok(())
    }

    /// The writes for each device, sorted.
    fn fan_out<'a>(&self, writes: &[(Logical, &'a [u8])]) -> Result<Vec<Batch<'a>>> {
        let mut batches = vec![Vec::new(); self.members.len()];
        let map = self.map();
        for (logical, buf) in writes {
            if map.has_parity(*logical, buf.len()) {
                return Err(Error::Unsupported(format!("writing to RAID5 and RAID6 (at logical {logical})")));
            }
            for piece in map.stored(*logical, buf.len())? {
                let member = &self.members[piece.place.member];
                let refuse = |what: &str| {
                    let text = format!("{}: a write at logical {logical} would {what}", member.device.name());
                    Err(Error::NotWritable(text))
                };
                if touches_superblock(piece.place.physical, piece.in_buf.len() as u64) {
                    return refuse("overwrite a superblock");
                }
                if !member.is_written() {
                    return refuse("change a device that is not written");
                }
                batches[piece.place.member].push((piece.place.physical, &buf[piece.in_buf]));
            }
        }
        drop(map);
        batches.iter_mut().for_each(|batch| batch.sort_by_key(|(physical, _)| *physical));
        Ok(batches)
    }

    /// Tells the devices that a range is not needed.
    ///
    /// # Errors
    /// The first failure. Nothing is lost by it, so that a caller may go on.
    pub fn discard(&self, logical: Logical, len: u64) -> Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        let pieces = usize::try_from(len).map(|bytes| {
            let map = self.map();
            // With parity, what is discarded would no longer fit the parity.
            if map.has_parity(logical, bytes) { Ok(Vec::new()) } else { map.stored(logical, bytes) }
        });
        let Ok(Ok(pieces)) = pieces else { return Ok(()) };
        pieces.into_iter().try_for_each(|piece| {
            let end = piece.place.physical.saturating_add(piece.in_buf.len() as u64);
            discard(&self.members[piece.place.member], piece.place.physical..end)
        })
    }

    /// The same for a range of a device that is in no chunk.
    ///
    /// # Errors
    /// As [`Volume::discard`].
    pub fn discard_physical(&self, devid: DevId, range: Range<u64>) -> Result<()> {
        match self.member(devid) {
            Some(index) if !self.is_read_only() => discard(&self.members[index], range),
            _ => Ok(()),
        }
    }

    /// Makes all finished writes durable, on all devices.
    ///
    /// # Errors
    /// If any device fails; what is durable is then unknown.
    pub fn flush(&self) -> Result<()> {
        self.written().try_for_each(Member::flush)
    }

    /// Writes the superblock to all its places on all devices, each with the device's own item
    /// (for the device that `sb.dev_item` is of, that one). The caller flushes before and after.
    ///
    /// # Errors
    /// If the volume is read-only or a device fails.
    pub fn write_superblocks(&self, sb: &Superblock) -> Result<()> {
        self.require_writable()?;
        if let Some(index) = self.member(sb.dev_item.devid.get().into()) {
            self.members[index].set_item(sb.dev_item);
        }
        self.written().try_for_each(|member| write_copies(member, sb))?;
        *self.superblock.write().unwrap_or_else(std::sync::PoisonError::into_inner) = *sb;
        Ok(())
    }

    /// Writes the superblocks of the last commit again, with a log of what came after it.
    /// [`Volume::superblock`] stays that of the commit.
    ///
    /// All copies, other than the kernel: if the first is torn by the next commit's write, the second
    /// still leads to the log.
    ///
    /// # Errors
    /// If the volume is read-only or a device fails.
    pub fn write_log_superblock(&self, sb: &Superblock) -> Result<()> {
        self.require_writable()?;
        self.written().try_for_each(|member| write_copies(member, sb))
    }

    /// Looks at the primary superblocks again: they must be as they were left.
    ///
    /// # Errors
    /// [`Error::Busy`] if another system wrote to a device since.
    pub fn check_unchanged(&self) -> Result<()> {
        self.written().try_for_each(check_member)
    }

    /// The devices that the filesystem writes to.
    fn written(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.is_written())
    }
}

/// All of a range but superblocks.
fn discard(member: &Member, range: Range<u64>) -> Result<()> {
    if !member.is_written() {
        return Ok(());
    }
    let mut parts = without_superblocks(range).into_iter();
    let all = parts.try_for_each(|part| member.device.discard(part.start, part.end - part.start));
    all.map_err(|source| member.error(source))
}

pub(crate) fn write_copies(member: &Member, sb: &Superblock) -> Result<()> {
    let copy = Superblock { dev_item: member.item(), ..*sb };
    let mut seen = member.seen();
    for (number, offset) in places(member).enumerate() {
        let bytes = copy.to_bytes_at(offset);
        let result = member.write_superblock(offset, &bytes);
        if number == 0 {
            // After a failed write, what is there is anybody's guess.
            *seen = if result.is_ok() { Seen::of_bytes(&bytes, offset) } else { Seen::Unknown };
        }
        result?;
    }
    Ok(())
}

/// The superblock offsets that lie within a device, as it is used by the filesystem.
fn places(member: &Member) -> impl Iterator<Item = u64> {
    let len = member.device.len().min(member.item().total_bytes.get());
    SUPERBLOCK_OFFSETS.into_iter().filter(move |offset| offset + SUPERBLOCK_SIZE as u64 <= len)
}

fn check_member(member: &Member) -> Result<()> {
    let seen = member.seen();
    if *seen == Seen::Unknown {
        return Ok(());
    }
    let now = look_at_primary(&*member.device).map_err(|source| member.error(source))?;
    if now == *seen {
        return Ok(());
    }
    Err(Error::Busy(format!(
        "{}: another system wrote to it ({}, now {}); unmount it there and open it again",
        member.device.name(),
        *seen,
        now
    )))
}

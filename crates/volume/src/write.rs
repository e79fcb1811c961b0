//! Writes to all copies, discards, flushes, and the superblocks.
//!
//! # Invariants
//! * What has parity goes by [`crate::rows`].
//! * Nothing but [`Volume::write_superblocks`] writes where a superblock copy lies.
//! * A device that fails is dropped if it can be spared (see [`crate::tolerance`]). Any other error is returned; what
//!   was written by then is undefined, and the caller's transaction must fail.
//!
//! # Locking
//! A member's `seen` is held while its superblocks are written, and while they are compared.

use std::ops::Range;
use std::sync::atomic::Ordering;

use butterfs_format::superblock::{SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_format::{DevId, Logical, Superblock};

use crate::error::{Error, Result};
use crate::map::{ChunkMap, touches_superblock, without_superblocks};
use crate::member::{Member, Seen};
use crate::rows::RowWrites;
use crate::stats::Fault;
use crate::superblock::look_at_primary;
use crate::tolerance::{Content, Part};
use crate::volume::Volume;

/// Writes for one device.
type Batch<'a> = Vec<Part<'a>>;

impl Volume {
    /// Writes to all copies.
    ///
    /// # Errors
    /// If the volume is read-only, part of the range is in no chunk, or it could be written nowhere.
    pub fn write(&self, logical: Logical, buf: &[u8]) -> Result<()> {
        self.write_batch(&[(logical, buf)])
    }

    /// Writes several ranges to all copies: one batch per device, in the order of its addresses.
    ///
    /// # Errors
    /// As [`Volume::write`].
    pub fn write_batch(&self, writes: &[(Logical, &[u8])]) -> Result<()> {
        self.require_writable()?;
        self.write_everywhere(writes, Content::Checked)
    }

    /// The same for data without checksums.
    ///
    /// # Errors
    /// As [`Volume::write`]; and if a copy could not be written, unless its device is not used any more: what is old
    /// there nobody could tell from what is new.
    pub fn write_plain_batch(&self, writes: &[(Logical, &[u8])]) -> Result<()> {
        self.require_writable()?;
        self.write_everywhere(writes, Content::Plain)
    }

    fn write_everywhere(&self, writes: &[(Logical, &[u8])], content: Content) -> Result<()> {
        let (batches, rows) = self.fan_out(writes)?;
        self.write_parts(&batches, content)?;
        if rows.is_empty() { Ok(()) } else { self.write_rows(&rows) }
    }

    /// The writes for each device, sorted; and those to rows with parity.
    fn fan_out<'a>(&self, writes: &[(Logical, &'a [u8])]) -> Result<(Vec<Batch<'a>>, RowWrites<'a>)> {
        // A chunk's devices come before it: once the map is held, all that it names are there.
        let map = self.map();
        let mut batches = vec![Vec::new(); self.members.len()];
        let mut rows = RowWrites::default();
        for (logical, buf) in writes {
            if map.has_parity(*logical, buf.len()) {
                require_only_parity(&map, *logical, buf.len())?;
                map.each_chunk(*logical, buf.len(), |mapped, offset, in_buf| {
                    rows.add(mapped, offset, &buf[in_buf]);
                    Ok(())
                })?;
                continue;
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
                if !member.is_written() && !member.is_dropped() {
                    return refuse("change a device that is not written");
                }
                let at = Logical(logical.0 + piece.in_buf.start as u64);
                let part = Part { at, physical: piece.place.physical, bytes: &buf[piece.in_buf] };
                batches[piece.place.member].push(part);
            }
        }
        drop(map);
        batches.iter_mut().for_each(|batch| batch.sort_by_key(|part| part.physical));
        Ok((batches, rows))
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
    /// If a device fails that cannot be spared; what is durable is then unknown.
    pub fn flush(&self) -> Result<()> {
        if self.torn_rows.load(Ordering::Acquire) {
            return Err(Error::NotWritable("a row of stripes was written in part, because a device failed".into()));
        }
        self.on_each_written(Member::flush)
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
        let naming = self.naming_absent(sb);
        self.on_each_written(|member| write_copies(member, &naming))?;
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
        // A device that came since is not told of in that commit.
        let is_new = |member: &Member| member.is_new.load(Ordering::Acquire);
        self.logged.store(true, Ordering::Release);
        self.on_each_written(|member| if is_new(member) { Ok(()) } else { write_copies(member, sb) })
    }

    /// Looks at the primary superblocks again: they must be as they were left.
    ///
    /// # Errors
    /// [`Error::Busy`] if another system wrote to a device since.
    pub fn check_unchanged(&self) -> Result<()> {
        self.on_each_written(check_member)
    }

    /// A write to rows with parity failed: what they hold may not fit their parity.
    pub(crate) fn note_torn_rows(&self) {
        self.torn_rows.store(true, Ordering::Release);
    }
}

/// One write goes to one profile: extents do not reach over the end of their chunk.
fn require_only_parity(map: &ChunkMap, logical: Logical, bytes: usize) -> Result<()> {
    map.each_chunk(logical, bytes, |mapped, _, _| {
        let mixed = || Error::NotWritable(format!("a write at logical {logical} would cross chunks of two profiles"));
        if mapped.grid.has_parity() { Ok(()) } else { Err(mixed()) }
    })
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

/// The first is needed; that another cannot be written is counted.
pub(crate) fn write_copies(member: &Member, sb: &Superblock) -> Result<()> {
    let copy = Superblock { dev_item: member.item(), ..*sb };
    let mut seen = member.seen();
    if member.is_dropped() || member.is_catching_up() {
        return Ok(());
    }
    put_copies(member, &copy, &mut seen)
}

/// Writes a superblock to all its places, whatever the device is at that moment.
pub(crate) fn put_copies(member: &Member, copy: &Superblock, seen: &mut Seen) -> Result<()> {
    for (number, offset) in places(member).enumerate() {
        let bytes = copy.to_bytes_at(offset);
        let result = member.write_superblock(offset, &bytes);
        if number == 0 {
            // After a failed write, what is there is anybody's guess.
            *seen = if result.is_ok() { Seen::of_bytes(&bytes, offset) } else { Seen::Unknown };
        }
        match result {
            Err(error) if number > 0 => tracing::warn!(%error, "a superblock copy was not written"),
            result => result?,
        }
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
    let look = || look_at_primary(&*member.device);
    // What fails, or is wrong in passing, is read once more.
    if look().is_ok_and(|now| now == *seen) {
        return Ok(());
    }
    let now = look().map_err(|source| member.failed(Fault::Read, source))?;
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

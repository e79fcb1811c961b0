//! Reading: bytes from memory, from trees and from devices, checked.
//!
//! # Invariants
//! * A byte from a device reaches the caller only when its sector's checksum is right, but for
//!   inodes with NODATASUM. What cannot be read right is an error, never other bytes.
//!
//! # Locking
//! `Inode::range` is held shared to the end: extents of this inode cannot be dropped meanwhile, and
//! space that is freed is not used again before the commit; what is moved stays where it was until who is in flight
//! has landed (`tx::in_flight`). The gate is left before a device is read.

use std::ops::Range;

use butterfs_format::checksum::Checksum;
use butterfs_format::items::{Compression, InodeFlags};
use butterfs_format::{Corruption, Logical};
use butterfs_volume::Reader;

use super::compressed::{Last, on_disk, unpack, unpack_inline};
use super::extents::{DataExtent, InlineExtent, MappedExtent, MappedKind, corrupt, map};
use super::sectors::{cover, intersect, len, lock, lock_shared, require_alive, sector_size};
use crate::dir::path;
use crate::error::{Error, Result};
use crate::inode::{BadData, Inode, InodeId, Shared};
use crate::tx::Transaction;

/// Reads into `buf` from `offset` on; gives how many bytes, fewer only at the file's end.
pub fn read(shared: &Shared, inode: &Inode, reader: Reader, offset: u64, buf: &mut [u8]) -> Result<usize> {
    let _range = lock_shared(&inode.range);
    require_alive(inode)?;
    read_as(shared, inode, reader, offset, buf)
}

/// [`read`] for who holds `Inode::range`.
pub(super) fn read_locked(shared: &Shared, inode: &Inode, offset: u64, buf: &mut [u8]) -> Result<usize> {
    read_as(shared, inode, Reader::default(), offset, buf)
}

fn read_as(shared: &Shared, inode: &Inode, reader: Reader, offset: u64, buf: &mut [u8]) -> Result<usize> {
    let (size, flags) = {
        let state = lock(&inode.state);
        (state.item.size.get(), state.item.flags())
    };
    let count = size.saturating_sub(offset).min(buf.len() as u64) as usize;
    let buf = &mut buf[..count];
    for gap in inode.data.copy_to(offset, buf) {
        let part = &mut buf[(gap.start - offset) as usize..(gap.end - offset) as usize];
        let below = Below { shared, id: inode.id, flags, sector: sector_size(shared), reader };
        below.read(&gap, part)?;
    }
    Ok(count)
}

/// What lies below the bytes in memory, also past the file's end, for who holds `Inode::range`.
pub(super) fn read_stored(shared: &Shared, inode: &Inode, offset: u64, buf: &mut [u8]) -> Result<()> {
    let flags = lock(&inode.state).item.flags();
    let range = offset..offset + buf.len() as u64;
    Below { shared, id: inode.id, flags, sector: sector_size(shared), reader: Reader::default() }.read(&range, buf)
}

/// One extent's part of a read, found in the trees and not read yet.
struct Source {
    extent: MappedExtent,
    /// One for each sector, unless the inode has none; those of the whole extent if it is compressed.
    checksums: Option<Vec<Checksum>>,
}

impl Source {
    /// Where the part of a compressed extent that is needed ends in it, if it is that of `data`.
    fn needed_end(&self, data: &DataExtent) -> Option<u64> {
        match &self.extent.kind {
            MappedKind::Regular(own) if own.disk_bytenr == data.disk_bytenr => own.offset.checked_add(own.num_bytes),
            _ => None,
        }
    }
}

/// What lies below the bytes in memory.
struct Below<'a> {
    shared: &'a Shared,
    id: InodeId,
    flags: InodeFlags,
    sector: u64,
    reader: Reader,
}

impl Below<'_> {
    fn read(&self, range: &Range<u64>, buf: &mut [u8]) -> Result<()> {
        let _passenger = self.shared.gate.in_flight().enter();
        let sectors = cover(range, self.sector);
        let sources = self.shared.gate.view(|tx| self.find(tx, sectors))?;
        let mut last = Last::default();
        for source in &sources {
            let extent = &source.extent;
            let part = intersect(&(extent.file_offset..extent.file_offset + extent.len), range);
            let target = &mut buf[(part.start - range.start) as usize..(part.end - range.start) as usize];
            match &extent.kind {
                MappedKind::Hole | MappedKind::Prealloc(_) => target.fill(0),
                MappedKind::Inline(inline) => self.read_inline(inline, part.start, target)?,
                MappedKind::Regular(data) if data.compression == Compression::None => {
                    self.read_part(source, data, &part, target)?;
                }
                MappedKind::Regular(data) => {
                    let skip = (part.start - extent.file_offset) as usize;
                    let whole = self.read_compressed(&sources, source, data, &mut last)?;
                    target.copy_from_slice(&whole[skip..skip + target.len()]);
                }
            }
        }
        Ok(())
    }

    fn find(&self, tx: &Transaction, sectors: Range<u64>) -> Result<Vec<Source>> {
        let extents = map(tx, self.id, sectors)?;
        extents.into_iter().map(|extent| self.with_checksums(tx, extent)).collect()
    }

    fn with_checksums(&self, tx: &Transaction, extent: MappedExtent) -> Result<Source> {
        let MappedKind::Regular(data) = &extent.kind else { return Ok(Source { extent, checksums: None }) };
        let (at, len) = on_disk(data).map_err(|problem| corrupt(self.id, extent.file_offset, problem))?;
        if self.flags.contains(InodeFlags::NODATASUM) {
            return Ok(Source { extent, checksums: None });
        }
        let give = self.shared.options.bad_data == BadData::Give;
        let found = match tx.checksums(at, len) {
            Err(_) if give => return Ok(Source { extent, checksums: None }),
            found => found?,
        };
        if give && found.contains(&None) {
            return Ok(Source { extent, checksums: None });
        }
        let mut checksums = Vec::with_capacity(found.len());
        for (index, checksum) in found.into_iter().enumerate() {
            let missing = || {
                let at = Logical(at.0 + index as u64 * self.sector);
                corrupt(self.id, extent.file_offset, format!("data at logical {at} has no checksum"))
            };
            checksums.push(checksum.ok_or_else(missing)?);
        }
        Ok(Source { extent, checksums: Some(checksums) })
    }

    /// Bytes past the inline ones are zeros.
    fn read_inline(&self, inline: &InlineExtent, offset: u64, target: &mut [u8]) -> Result<()> {
        let bytes = unpack_inline(inline, self.sector as u32).map_err(|problem| self.lies(offset, problem))?;
        let there = bytes.get(offset as usize..).unwrap_or_default();
        let count = there.len().min(target.len());
        target[..count].copy_from_slice(&there[..count]);
        target[count..].fill(0);
        Ok(())
    }

    /// Reads the part of an extent that was asked for: whole sectors into place, else by a copy.
    fn read_part(&self, source: &Source, data: &DataExtent, part: &Range<u64>, target: &mut [u8]) -> Result<()> {
        let sectors = cover(part, self.sector);
        if sectors == *part {
            return self.read_sectors(source, data, part.start, target);
        }
        let mut copy = vec![0; len(&sectors) as usize];
        self.read_sectors(source, data, sectors.start, &mut copy)?;
        let skip = (part.start - sectors.start) as usize;
        target.copy_from_slice(&copy[skip..skip + target.len()]);
        Ok(())
    }

    fn read_sectors(&self, source: &Source, data: &DataExtent, start: u64, target: &mut [u8]) -> Result<()> {
        let skip = start - source.extent.file_offset;
        let at = data.address()?.checked_add(skip).ok_or_else(|| corrupt(self.id, start, "address past 2^64"))?;
        let wanted = source.checksums.as_ref();
        let wanted = wanted.map(|sums| sums.get((skip / self.sector) as usize..).unwrap_or_default());
        self.read_checked(at, target, wanted).map_err(|error| self.failed(error, start, at))
    }

    /// The part of a compressed extent that `data` is. `sources` say what else of it this read needs.
    fn read_compressed<'b>(
        &self,
        sources: &[Source],
        source: &Source,
        data: &DataExtent,
        last: &'b mut Last,
    ) -> Result<&'b [u8]> {
        let start = source.extent.file_offset;
        if last.part(data).is_none() {
            let (at, len) = on_disk(data).map_err(|problem| corrupt(self.id, start, problem))?;
            let mut input = vec![0; len as usize];
            let result = self.read_checked(at, &mut input, source.checksums.as_deref());
            result.map_err(|error| self.failed(error, start, at))?;
            let end = sources.iter().filter_map(|source| source.needed_end(data)).max().unwrap_or(0);
            let bytes = unpack(data, &input, self.sector as u32, end)
                .map_err(|problem| self.lies(start, format!("extent at logical {at}: {problem}")))?;
            last.set(data, bytes);
        }
        last.part(data).ok_or_else(|| corrupt(self.id, start, "items disagree about a compressed extent"))
    }

    /// Reads whole sectors; with checksums, those of these sectors, no other bytes than right ones.
    fn read_checked(
        &self,
        at: Logical,
        target: &mut [u8],
        checksums: Option<&[Checksum]>,
    ) -> std::result::Result<(), butterfs_volume::Error> {
        let volume = self.shared.gate.volume();
        let Some(checksums) = checksums else { return volume.read(at, target) };
        let csum_type = volume.geometry().csum_type;
        let good = |sector: usize, bytes: &[u8]| {
            checksums
                .get(sector)
                .is_some_and(|sum| csum_type.compute(bytes)[..csum_type.size()] == sum[..csum_type.size()])
        };
        match volume.read_verified_for(self.reader, at, target, &good) {
            Err(_) if self.shared.options.bad_data == BadData::Give => self.read_as_it_is(at, target, &good),
            result => result,
        }
    }

    /// Reads sectors that are right where there is a copy of which that is true, and others as they are.
    fn read_as_it_is(
        &self,
        at: Logical,
        target: &mut [u8],
        good: &dyn Fn(usize, &[u8]) -> bool,
    ) -> std::result::Result<(), butterfs_volume::Error> {
        let volume = self.shared.gate.volume();
        for (number, sector) in target.chunks_mut(self.sector as usize).enumerate() {
            let at = Logical(at.0 + number as u64 * self.sector);
            if volume.read_verified(at, sector, &|_, bytes| good(number, bytes)).is_err() {
                volume.read(at, sector)?;
            }
        }
        Ok(())
    }

    /// Says that bytes which are right by their checksum make no sense.
    fn lies(&self, offset: u64, problem: String) -> Error {
        let file = self.shared.gate.view(|tx| Ok(path::describe(tx, self.id))).unwrap_or_default();
        tracing::error!("cannot read {file} at offset {offset}: {problem}");
        corrupt(self.id, offset, problem)
    }

    /// Says what could not be read, in the terms of the file.
    fn failed(&self, error: butterfs_volume::Error, offset: u64, at: Logical) -> Error {
        let file = self.shared.gate.view(|tx| Ok(path::describe(tx, self.id))).unwrap_or_default();
        tracing::error!("cannot read {file} at offset {offset}, logical {at}: {error}");
        match error {
            butterfs_volume::Error::NoCopy { logical, problems } => {
                corrupt(self.id, offset, format!("no good copy at logical {logical}: {problems}"))
            }
            butterfs_volume::Error::Corruption(Corruption { place, problem }) => {
                corrupt(self.id, offset, format!("{place}: {problem}"))
            }
            other => other.into(),
        }
    }
}

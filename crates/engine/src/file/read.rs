//! Reading: bytes from memory, from trees and from devices, checked.
//!
//! # Invariants
//! * A byte from a device reaches the caller only when its sector's checksum is right, but for
//!   inodes with NODATASUM. What cannot be read right is an error, never other bytes.
//!
//! # Locking
//! `Inode::range` is held shared to the end: extents of this inode cannot be dropped meanwhile, and
//! space that is freed is not used again before the commit. The gate is left before a device is read.

use std::ops::Range;

use butterfs_format::checksum::Checksum;
use butterfs_format::items::{Compression, InodeFlags};
use butterfs_format::{Corruption, Logical};

use super::extents::{DataExtent, InlineExtent, MappedExtent, MappedKind, corrupt, map};
use super::sectors::{cover, intersect, len, lock, lock_shared, sector_size};
use crate::dir::path;
use crate::error::{Error, Result};
use crate::inode::{Inode, InodeId, Shared};
use crate::tx::Transaction;

/// Reads into `buf` from `offset` on; gives how many bytes, fewer only at the file's end.
pub fn read(shared: &Shared, inode: &Inode, offset: u64, buf: &mut [u8]) -> Result<usize> {
    let _range = lock_shared(&inode.range);
    read_locked(shared, inode, offset, buf)
}

/// [`read`] for who holds `Inode::range`.
pub(super) fn read_locked(shared: &Shared, inode: &Inode, offset: u64, buf: &mut [u8]) -> Result<usize> {
    let (size, flags) = {
        let state = lock(&inode.state);
        (state.item.size.get(), state.item.flags())
    };
    let count = size.saturating_sub(offset).min(buf.len() as u64) as usize;
    let buf = &mut buf[..count];
    for gap in inode.data.copy_to(offset, buf) {
        let part = &mut buf[(gap.start - offset) as usize..(gap.end - offset) as usize];
        let below = Below { shared, id: inode.id, flags, sector: sector_size(shared) };
        below.read(&gap, part)?;
    }
    Ok(count)
}

/// One extent's part of a read, found in the trees and not read yet.
struct Source {
    extent: MappedExtent,
    /// One for each sector, unless the inode has none.
    checksums: Option<Vec<Checksum>>,
}

/// What lies below the bytes in memory.
struct Below<'a> {
    shared: &'a Shared,
    id: InodeId,
    flags: InodeFlags,
    sector: u64,
}

impl Below<'_> {
    fn read(&self, range: &Range<u64>, buf: &mut [u8]) -> Result<()> {
        let sectors = cover(range, self.sector);
        let sources = self.shared.gate.view(|tx| self.find(tx, sectors))?;
        for source in &sources {
            let extent = &source.extent;
            let part = intersect(&(extent.file_offset..extent.file_offset + extent.len), range);
            let target = &mut buf[(part.start - range.start) as usize..(part.end - range.start) as usize];
            match &extent.kind {
                MappedKind::Hole | MappedKind::Prealloc(_) => target.fill(0),
                MappedKind::Inline(inline) => self.read_inline(inline, part.start, target)?,
                MappedKind::Regular(data) => self.read_part(source, data, &part, target)?,
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
        self.refuse_compressed(data.compression, extent.file_offset)?;
        if self.flags.contains(InodeFlags::NODATASUM) {
            return Ok(Source { extent, checksums: None });
        }
        let found = tx.checksums(data.address()?, extent.len)?;
        let mut checksums = Vec::with_capacity(found.len());
        for (index, checksum) in found.into_iter().enumerate() {
            let at = extent.file_offset + index as u64 * self.sector;
            checksums.push(checksum.ok_or_else(|| corrupt(self.id, at, "data has no checksum"))?);
        }
        Ok(Source { extent, checksums: Some(checksums) })
    }

    fn refuse_compressed(&self, compression: Compression, offset: u64) -> Result<()> {
        if compression == Compression::None {
            return Ok(());
        }
        let (tree, ino) = (self.id.tree, self.id.ino);
        Err(Error::Unsupported(format!(
            "subvolume {tree} inode {ino} file offset {offset} is compressed with {compression}"
        )))
    }

    /// Bytes past the inline ones are zeros.
    fn read_inline(&self, inline: &InlineExtent, offset: u64, target: &mut [u8]) -> Result<()> {
        self.refuse_compressed(inline.compression, offset)?;
        let there = inline.data.get(offset as usize..).unwrap_or_default();
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
        let volume = self.shared.gate.volume();
        let Some(checksums) = &source.checksums else {
            return volume.read(at, target).map_err(|error| self.failed(error, start, at));
        };
        let wanted = checksums.get((skip / self.sector) as usize..).unwrap_or_default();
        let csum_type = volume.geometry().csum_type;
        let good = |sector: usize, bytes: &[u8]| {
            wanted
                .get(sector)
                .is_some_and(|sum| csum_type.compute(bytes)[..csum_type.size()] == sum[..csum_type.size()])
        };
        volume.read_verified(at, target, &good).map_err(|error| self.failed(error, start, at))
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

//! The v1 space cache: files in the root tree that list the free space of block groups.
//!
//! A cache that says itself that it is not valid (another generation, a wrong checksum) is thrown away
//! by every reader, and is no fault. One that seems valid and lists what is taken is: a kernel would
//! write into files.
//!
//! A cache file consists of pages. The first begins with a checksum for each page and the generation;
//! then come entries, none of which crosses a page's end; then one page for each bitmap, in the order
//! of the bitmaps' entries. Bytes are free where an entry or a set bit says so.
//!
//! Memory: one cache file at a time, and the extents of all of them.

use std::collections::BTreeMap;

use butterfs_format::checksum::ChecksumType;
use butterfs_format::ids::objectid;
use butterfs_format::items::{FileExtent, FileExtentBody, InodeItem};
use butterfs_format::superblock::CompatRo;
use butterfs_format::{ItemType, Key, Logical};

use crate::chunks::Chunks;
use crate::context::Context;
use crate::extent_tree::BlockGroups;
use crate::finding::{Kind, Place};
use crate::free_space::{Ranges, add_range, gaps, without};

const PAGE: usize = 4096;
/// Offset, length and type.
const ENTRY: usize = 17;
const EXTENT: u8 = 1;
const BITMAP: u8 = 2;
/// A cache file of a block group of 1 GiB has a few pages; a larger one than this is no cache.
const MAX_FILE: u64 = 16 << 20;

/// The header of a block group's cache: item (FREE_SPACE, UNTYPED, block group).
struct Header {
    ino: u64,
    generation: u64,
    entries: u64,
    bitmaps: u64,
}

/// A cache file.
#[derive(Default)]
struct File {
    size: u64,
    generation: u64,
    /// File offset, address and length.
    extents: Vec<(u64, u64, u64)>,
}

/// What the root tree says of the cache.
#[derive(Default)]
pub(crate) struct CacheFiles {
    headers: BTreeMap<u64, Header>,
    files: BTreeMap<u64, File>,
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

impl CacheFiles {
    pub fn header(&mut self, key: &Key, data: &[u8]) {
        if key.objectid != objectid::FREE_SPACE || key.item_type != ItemType::UNTYPED {
            return;
        }
        // The inode's key takes 17 bytes.
        if let [Some(ino), Some(generation), Some(entries), Some(bitmaps)] = [0, 17, 25, 33].map(|at| number(data, at))
        {
            self.headers.insert(key.offset, Header { ino, generation, entries, bitmaps });
        }
    }

    pub fn inode(&mut self, key: &Key, inode: &InodeItem) {
        let file = self.files.entry(key.objectid).or_default();
        (file.size, file.generation) = (inode.size.get(), inode.generation.get());
    }

    pub fn extent(&mut self, key: &Key, data: &[u8]) {
        let Ok(extent) = FileExtent::parse(data) else { return };
        if let FileExtentBody::Extent { disk_bytenr, offset, num_bytes, .. } = extent.body {
            let extents = &mut self.files.entry(key.objectid).or_default().extents;
            extents.push((key.offset, disk_bytenr.saturating_add(offset), num_bytes));
        }
    }
}

/// Compares each cache that seems valid with the extents of its block group.
pub(crate) fn check(context: &mut Context<'_>, cache: &CacheFiles, groups: &BlockGroups, chunks: &Chunks) {
    let current = context.superblock().cache_generation.get() == context.generation();
    if context.has_ro(CompatRo::FREE_SPACE_TREE) || !current {
        return;
    }
    let superblocks = chunks.superblock_ranges();
    for (start, header) in &cache.headers {
        let Some((len, _)) = groups.get(start) else { continue };
        let end = start.saturating_add(*len);
        let Some(free) = cache.files.get(&header.ino).and_then(|file| load(context, header, file)) else { continue };
        let gaps = without(&gaps(context, *start, end), &superblocks);
        let listed = without(&free, &superblocks);
        let problem = match (without(&listed, &gaps).first(), without(&gaps, &listed).first()) {
            (Some((from, to)), _) => format!("the cache lists {from} to {to} as free, but it is taken"),
            (None, Some((from, to))) => format!("the cache does not list {from} to {to}, which is free"),
            (None, None) => continue,
        };
        // A cache with another total than the block group has is thrown away when it is read.
        if total(&listed) == total(&gaps) {
            context.error(Kind::SpaceCache, Place::block_group(*start), problem);
        } else {
            context.warn(Kind::SpaceCache, Place::block_group(*start), problem);
        }
    }
}

fn total(ranges: &Ranges) -> u64 {
    ranges.iter().map(|(start, end)| end.saturating_sub(*start)).fold(0, u64::saturating_add)
}

/// The free ranges that a cache file lists, sorted; `None` if the cache is not valid.
fn load(context: &Context<'_>, header: &Header, file: &File) -> Option<Ranges> {
    if header.generation != file.generation || file.size == 0 || header.entries == 0 {
        return None;
    }
    let bytes = read(context, file)?;
    verify(&bytes, header.generation)?;
    parse(&bytes, header, context.sectorsize())
}

fn read(context: &Context<'_>, file: &File) -> Option<Vec<u8>> {
    let size = Some(file.size).filter(|size| *size <= MAX_FILE && size.is_multiple_of(PAGE as u64))?;
    let mut bytes = vec![0; size as usize];
    for (offset, at, len) in &file.extents {
        let Some(into) = usize::try_from(*offset).ok().and_then(|offset| bytes.get_mut(offset..)) else { continue };
        let len = into.len().min(usize::try_from(*len).ok()?);
        let copies = context.access.copies(Logical(*at));
        let read = (0..copies).find_map(|copy| context.access.read_copy(Logical(*at), len, copy).ok())?;
        into[..len].copy_from_slice(&read);
    }
    Some(bytes)
}

/// The checksum of each page, and the generation in the first.
fn verify(bytes: &[u8], generation: u64) -> Option<()> {
    let pages = bytes.len() / PAGE;
    for (index, page) in bytes.chunks(PAGE).enumerate() {
        let stored = bytes.get(index * 4..)?.first_chunk().map(|b| u32::from_le_bytes(*b))?;
        let from = if index == 0 { pages * 4 } else { 0 };
        let sum = ChecksumType::Crc32c.compute(page.get(from..)?);
        if sum.first_chunk().map(|b| u32::from_le_bytes(*b)) != Some(stored) {
            return None;
        }
    }
    (number(bytes, pages * 4) == Some(generation)).then_some(())
}

fn parse(bytes: &[u8], header: &Header, sectorsize: u64) -> Option<Ranges> {
    let pages = bytes.len() / PAGE;
    let (mut at, mut found, mut bitmaps) = (pages * 4 + 8, Vec::new(), Vec::new());
    for _ in 0..header.entries {
        if PAGE - at % PAGE < ENTRY {
            at = at.next_multiple_of(PAGE);
        }
        let (start, len, kind) = (number(bytes, at)?, number(bytes, at + 8)?, *bytes.get(at + 16)?);
        match kind {
            EXTENT => found.push((start, start.checked_add(len)?)),
            BITMAP => bitmaps.push(start),
            _ => return None,
        }
        at += ENTRY;
    }
    if bitmaps.len() as u64 != header.bitmaps {
        return None;
    }
    for start in bitmaps {
        at = at.next_multiple_of(PAGE);
        let page = bytes.get(at..at + PAGE)?;
        let free = (0..PAGE * 8).filter(|bit| page[bit / 8] & (1 << (bit % 8)) != 0);
        let sector = |bit: usize| start.saturating_add((bit as u64).saturating_mul(sectorsize));
        found.extend(free.map(|bit| (sector(bit), sector(bit).saturating_add(sectorsize))));
        at += PAGE;
    }
    found.sort_unstable();
    let mut ranges = Ranges::new();
    found.into_iter().for_each(|(start, end)| add_range(&mut ranges, start, end));
    Some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pages: entries in the first, a bitmap in the second.
    fn cache() -> (Vec<u8>, Header) {
        let mut bytes = vec![0; 2 * PAGE];
        bytes[8..16].copy_from_slice(&7u64.to_le_bytes());
        for (at, start, len, kind) in [(16, 1u64 << 20, 8192u64, EXTENT), (33, 2 << 20, 8192, BITMAP)] {
            bytes[at..at + 8].copy_from_slice(&start.to_le_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&len.to_le_bytes());
            bytes[at + 16] = kind;
        }
        bytes[PAGE] = 0b11;
        for page in 0..2 {
            let from = if page == 0 { 8 } else { PAGE };
            let sum = ChecksumType::Crc32c.compute(&bytes[from..(page + 1) * PAGE]);
            bytes[page * 4..page * 4 + 4].copy_from_slice(&sum[..4]);
        }
        (bytes, Header { ino: 256, generation: 7, entries: 2, bitmaps: 1 })
    }

    #[test]
    fn entries_and_bitmaps_are_read() {
        let (bytes, header) = cache();
        verify(&bytes, 7).unwrap();
        let free = parse(&bytes, &header, 4096).unwrap();
        assert_eq!(free, [(1 << 20, (1 << 20) + 8192), (2 << 20, (2 << 20) + 8192)]);
    }

    #[test]
    fn a_damaged_cache_is_no_cache() {
        let (mut bytes, header) = cache();
        assert!(verify(&bytes, 8).is_none());
        bytes[PAGE] = 0;
        assert!(verify(&bytes, 7).is_none());
        assert!(parse(&bytes, &Header { entries: 1000, ..header }, 4096).is_none());
    }
}

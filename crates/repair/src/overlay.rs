//! A device whose writes stay in memory: what a repair tries out before anything is written.
//!
//! # Invariants
//! * The base is never written to.
//! * [`Overlay::changes`] gives only bytes that differ from the base, in whole sectors, in order.
//!
//! # Locking
//! One lock over the pages, held for the copy of one request; the base is read under it on the first write
//! to a page.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use butterfs_format::superblock::SUPERBLOCK_OFFSETS;
use butterfs_volume::BlockDevice;

/// The unit in which changed bytes are kept and told: the smallest that devices write whole.
pub const SECTOR: u64 = 4096;

type Pages = BTreeMap<u64, Box<[u8]>>;

/// A read-only device with changes on top of it.
pub struct Overlay {
    base: Arc<dyn BlockDevice>,
    pages: RwLock<Pages>,
}

/// A range of a device and its new bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where on the device, in bytes.
    pub offset: u64,
    /// What is to be there.
    pub bytes: Vec<u8>,
}

/// Runs of changed sectors are cut here, so that no buffer grows without bound.
const LARGEST_RUN: usize = 1 << 20;

impl Overlay {
    /// Nothing is changed yet.
    pub fn new(base: Arc<dyn BlockDevice>) -> Self {
        Self { base, pages: RwLock::default() }
    }

    /// The device below.
    pub fn base(&self) -> &Arc<dyn BlockDevice> {
        &self.base
    }

    fn pages(&self) -> RwLockReadGuard<'_, Pages> {
        self.pages.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What differs from the base: neighbouring sectors together, in order, of at most a MiB each.
    ///
    /// # Errors
    /// If the base cannot be read.
    pub fn changes(&self) -> io::Result<Vec<Change>> {
        let mut changes: Vec<Change> = Vec::new();
        for (page, bytes) in self.pages().iter() {
            let offset = page * SECTOR;
            if self.base_page(*page)?[..] == bytes[..] {
                continue;
            }
            match changes.last_mut() {
                Some(last) if last.end() == offset && last.bytes.len() < LARGEST_RUN && !is_alone(last, offset) => {
                    last.bytes.extend_from_slice(bytes);
                }
                _ => changes.push(Change { offset, bytes: bytes.to_vec() }),
            }
        }
        Ok(changes)
    }

    /// A page of the base; the last one of a device can be short.
    fn base_page(&self, page: u64) -> io::Result<Vec<u8>> {
        let start = page * SECTOR;
        let len = (self.base.len() - start).min(SECTOR);
        let mut bytes = vec![0; len as usize];
        self.base.read_at(start, &mut bytes)?;
        Ok(bytes)
    }

    fn check_range(&self, offset: u64, len: usize) -> io::Result<()> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.len() => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{len} bytes at {offset} are past the device's end at {}", self.len()),
            )),
        }
    }
}

impl Change {
    /// Where it ends on the device, in bytes.
    pub fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

/// Superblock copies are changes of their own: they are written last.
fn is_alone(last: &Change, offset: u64) -> bool {
    SUPERBLOCK_OFFSETS.contains(&last.offset) || SUPERBLOCK_OFFSETS.contains(&offset)
}

/// The parts of a range that lie in one page each: page, range in the page, range in the buffer.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
    let mut done = 0usize;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let from = (at % SECTOR) as usize;
        let take = (SECTOR as usize - from).min(len - done);
        let part = (at / SECTOR, from..from + take, done..done + take);
        done += take;
        Some(part)
    })
}

impl BlockDevice for Overlay {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.check_range(offset, buf.len())?;
        let pages = self.pages();
        let len = buf.len();
        let first = offset / SECTOR;
        let last = (offset + len as u64).div_ceil(SECTOR);
        if pages.range(first..last).count() as u64 != last - first {
            self.base.read_at(offset, buf)?;
        }
        for (page, in_page, in_buf) in parts(offset, len) {
            if let Some(bytes) = pages.get(&page) {
                buf[in_buf].copy_from_slice(&bytes[in_page]);
            }
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.check_range(offset, buf.len())?;
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        for (page, in_page, in_buf) in parts(offset, buf.len()) {
            let bytes = match pages.entry(page) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(self.base_page(page)?.into_boxed_slice()),
            };
            bytes[in_page].copy_from_slice(&buf[in_buf]);
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    /// A repair gives no space back.
    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> u64 {
        self.base.len()
    }

    fn name(&self) -> String {
        self.base.name()
    }
}

#[cfg(test)]
mod tests {
    use butterfs_volume::MemDevice;

    use super::*;

    fn base() -> Arc<dyn BlockDevice> {
        let device = MemDevice::new(5 * SECTOR + 100);
        device.write_at(0, &[7; 3 * SECTOR as usize]).unwrap();
        Arc::new(device)
    }

    #[test]
    fn writes_are_seen_and_the_base_is_not_changed() {
        let base = base();
        let overlay = Overlay::new(base.clone());
        overlay.write_at(SECTOR - 2, &[1, 2, 3, 4]).unwrap();
        let mut seen = [0; 6];
        overlay.read_at(SECTOR - 3, &mut seen).unwrap();
        assert_eq!(seen, [7, 1, 2, 3, 4, 7]);
        base.read_at(SECTOR - 3, &mut seen).unwrap();
        assert_eq!(seen, [7; 6]);
        assert!(overlay.write_at(5 * SECTOR + 99, &[0; 2]).is_err());
    }

    #[test]
    fn changes_are_what_differs() {
        let overlay = Overlay::new(base());
        overlay.write_at(0, &[7; 100]).unwrap();
        overlay.write_at(2 * SECTOR, &[9; 2 * SECTOR as usize]).unwrap();
        overlay.write_at(5 * SECTOR + 50, &[1; 50]).unwrap();
        let changes = overlay.changes().unwrap();
        let places: Vec<_> = changes.iter().map(|change| (change.offset, change.bytes.len())).collect();
        assert_eq!(places, [(2 * SECTOR, 2 * SECTOR as usize), (5 * SECTOR, 100)]);
        assert_eq!(changes[1].bytes[50..], [1; 50]);
    }
}

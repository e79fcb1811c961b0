//! A device in memory, for tests and for images that are built before they are stored.
//!
//! # Invariants
//! * Only pages that were written take memory; all others read as zeros.
//! * Snapshots share pages, and a page is copied when one of them writes to it: none ever sees what is
//!   written to another after it was taken.
//!
//! # Locking
//! One lock over the page map, held for the copy of one request; those of several devices to copy them all at one moment,
//! shared, by who holds none of them otherwise.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{BlockDevice, check_range};

const PAGE: u64 = 16 << 10;

type Pages = HashMap<u64, Arc<[u8; PAGE as usize]>>;

/// A device in memory, sparse by pages of 16 KiB.
pub struct MemDevice {
    name: String,
    len: u64,
    pages: RwLock<Pages>,
}

/// A part of a request that lies within one page.
struct Part {
    page: u64,
    in_page: std::ops::Range<usize>,
    in_buf: std::ops::Range<usize>,
}

impl MemDevice {
    /// A device of `len` zero bytes.
    pub fn new(len: u64) -> Self {
        Self::named("memory", len)
    }

    /// A device of `len` zero bytes with a name of its own.
    pub fn named(name: impl Into<String>, len: u64) -> Self {
        Self { name: name.into(), len, pages: RwLock::default() }
    }

    fn pages(&self) -> RwLockReadGuard<'_, Pages> {
        self.pages.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn pages_mut(&self) -> RwLockWriteGuard<'_, Pages> {
        self.pages.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy with the same bytes, for tests that try several futures. It costs next to nothing.
    pub fn snapshot(&self) -> Self {
        Self { name: self.name.clone(), len: self.len, pages: RwLock::new(self.pages().clone()) }
    }

    /// Copies of several, all as they are at one moment: as a power cut leaves devices that forget nothing.
    pub fn snapshots(devices: &[Arc<Self>]) -> Vec<Self> {
        let locked: Vec<_> = devices.iter().map(|device| (device, device.pages())).collect();
        let copy = |(device, pages): &(&Arc<Self>, RwLockReadGuard<'_, Pages>)| Self {
            name: device.name.clone(),
            len: device.len,
            pages: RwLock::new((*pages).clone()),
        };
        locked.iter().map(copy).collect()
    }

    /// The parts that were ever written, in order, for a sparse copy in a file.
    pub fn written(&self) -> Vec<(u64, Vec<u8>)> {
        let mut parts: Vec<_> = self.pages().iter().map(|(page, bytes)| (page * PAGE, bytes.to_vec())).collect();
        parts.sort_unstable_by_key(|(offset, _)| *offset);
        parts
    }
}

fn parts(offset: u64, bytes: usize) -> impl Iterator<Item = Part> {
    let mut done = 0usize;
    std::iter::from_fn(move || {
        if done == bytes {
            return None;
        }
        let at = offset + done as u64;
        let start = (at % PAGE) as usize;
        let take = (PAGE as usize - start).min(bytes - done);
        let part = Part { page: at / PAGE, in_page: start..start + take, in_buf: done..done + take };
        done += take;
        Some(part)
    })
}

impl BlockDevice for MemDevice {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.len)?;
        let pages = self.pages();
        for part in parts(offset, buf.len()) {
            match pages.get(&part.page) {
                Some(page) => buf[part.in_buf].copy_from_slice(&page[part.in_page]),
                None => buf[part.in_buf].fill(0),
            }
        }
        Ok(())
    }

    fn stored_from(&self, from: u64) -> Option<Range<u64>> {
        let pages = self.pages();
        let own = Some(from / PAGE).filter(|page| pages.contains_key(page));
        let first = own.or_else(|| pages.keys().filter(|page| *page * PAGE > from).min().copied())?;
        let end = (first..).find(|page| !pages.contains_key(page)).unwrap_or(first);
        Some((first * PAGE).max(from)..(end * PAGE).min(self.len)).filter(|range| !range.is_empty())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.len)?;
        let mut pages = self.pages_mut();
        for part in parts(offset, buf.len()) {
            let page = pages.entry(part.page).or_insert_with(|| Arc::new([0; PAGE as usize]));
            Arc::make_mut(page)[part.in_page].copy_from_slice(&buf[part.in_buf]);
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.saturating_add(len).min(self.len);
        let mut pages = self.pages_mut();
        let whole = offset.div_ceil(PAGE)..end / PAGE;
        pages.retain(|page, _| !whole.contains(page));
        for (page, bytes) in pages.iter_mut() {
            let base = page * PAGE;
            let (from, to) = (offset.max(base), end.min(base + PAGE));
            if from < to {
                Arc::make_mut(bytes)[(from - base) as usize..(to - base) as usize].fill(0);
            }
        }
        Ok(())
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_do_not_see_each_other() {
        let device = MemDevice::new(1 << 20);
        device.write_at(PAGE - 2, &[1, 2, 3, 4]).unwrap();
        let snapshot = device.snapshot();
        device.write_at(PAGE, &[9]).unwrap();
        snapshot.discard(0, PAGE).unwrap();
        let (mut a, mut b) = ([0; 4], [0; 4]);
        device.read_at(PAGE - 2, &mut a).unwrap();
        snapshot.read_at(PAGE - 2, &mut b).unwrap();
        assert_eq!((a, b), ([1, 2, 9, 4], [0, 0, 3, 4]));
        assert!(device.write_at((1 << 20) - 1, &[0; 2]).is_err());
        assert_eq!(snapshot.written().len(), 1);
    }
}

//! A device in memory that can be forked at almost no cost.
//!
//! # Invariants
//! * Pages are shared between forks and copied when one of them writes: a fork never sees what is written to
//!   another after it was taken.
//! * A page that was never written takes no memory and reads as zeros.
//!
//! # Locking
//! One lock over the page map, held for the copy of one request.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use butterfs_volume::BlockDevice;

const PAGE: usize = 16 << 10;

type Pages = HashMap<u64, Arc<[u8; PAGE]>>;

/// A device in memory; see the module.
pub struct Image {
    name: String,
    len: u64,
    pages: RwLock<Pages>,
}

/// A part of a request that lies within one page.
struct Part {
    page: u64,
    in_page: Range<usize>,
    in_buf: Range<usize>,
}

impl Image {
    /// A device of `len` zero bytes.
    pub fn new(name: impl Into<String>, len: u64) -> Self {
        Self { name: name.into(), len, pages: RwLock::default() }
    }

    /// A copy that shares all pages.
    pub fn fork(&self) -> Self {
        Self { name: self.name.clone(), len: self.len, pages: RwLock::new(self.pages().clone()) }
    }

    /// The parts that were ever written, in order, for a sparse copy in a file.
    pub fn written(&self) -> Vec<(u64, Vec<u8>)> {
        let mut parts: Vec<_> = self.pages().iter().map(|(page, bytes)| (page * PAGE as u64, bytes.to_vec())).collect();
        parts.sort_unstable_by_key(|(offset, _)| *offset);
        parts
    }

    fn pages(&self) -> RwLockReadGuard<'_, Pages> {
        self.pages.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn pages_mut(&self) -> RwLockWriteGuard<'_, Pages> {
        self.pages.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, offset: u64, bytes: usize) -> io::Result<()> {
        match offset.checked_add(bytes as u64) {
            Some(end) if end <= self.len => Ok(()),
            _ => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{bytes} bytes at {offset} are past the end")))
            }
        }
    }
}

fn parts(offset: u64, bytes: usize) -> impl Iterator<Item = Part> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let start = (at % PAGE as u64) as usize;
        let take = (PAGE - start).min(bytes - done);
        let part = Part { page: at / PAGE as u64, in_page: start..start + take, in_buf: done..done + take };
        done += take;
        (take > 0).then_some(part)
    })
}

impl BlockDevice for Image {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.check(offset, buf.len())?;
        let pages = self.pages();
        for part in parts(offset, buf.len()) {
            match pages.get(&part.page) {
                Some(page) => buf[part.in_buf].copy_from_slice(&page[part.in_page]),
                None => buf[part.in_buf].fill(0),
            }
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.check(offset, buf.len())?;
        let mut pages = self.pages_mut();
        for part in parts(offset, buf.len()) {
            let page = pages.entry(part.page).or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[part.in_page].copy_from_slice(&buf[part.in_buf]);
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let len = len.min(self.len.saturating_sub(offset));
        let mut pages = self.pages_mut();
        for part in parts(offset, usize::try_from(len).map_err(io::Error::other)?) {
            if part.in_page.len() == PAGE {
                pages.remove(&part.page);
            } else if let Some(page) = pages.get_mut(&part.page) {
                Arc::make_mut(page)[part.in_page].fill(0);
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
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn forks_do_not_see_each_other() {
        let image = Image::new("image", 1 << 20);
        image.write_at(PAGE as u64 - 2, &[1, 2, 3, 4]).unwrap();
        let fork = image.fork();
        image.write_at(PAGE as u64, &[9]).unwrap();
        fork.discard(0, PAGE as u64).unwrap();
        let (mut a, mut b) = ([0; 4], [0; 4]);
        image.read_at(PAGE as u64 - 2, &mut a).unwrap();
        fork.read_at(PAGE as u64 - 2, &mut b).unwrap();
        assert_eq!((a, b), ([1, 2, 9, 4], [0, 0, 3, 4]));
        assert!(image.write_at((1 << 20) - 1, &[0; 2]).is_err());
        assert_eq!(fork.written().len(), 1);
    }
}

//! Delayed allocation: the bytes of one inode that have no extent yet.
//!
//! A run is *dirty* until writeback takes it, then *in flight* until its extent is in the tree.
//! Readers look at dirty bytes first, then at those in flight, then below, at extents.
//!
//! # Invariants
//! * Runs are whole sectors.
//! * Space is promised for every dirty byte that has no preallocated extent to go to, and for no
//!   more bytes than are held.
//! * Nothing is in flight unless `settle` is held.
//!
//! # Locking
//! `inner` is a leaf, taken with the gate held too; so promises, which take the gate, are given back
//! outside of it. `settle` comes before `Inode::range`: who puts extents into the tree or takes
//! them out holds it, so that nothing is in flight meanwhile, and older bytes never overtake newer.
//! Bytes become dirty with `Inode::range` held alone, and in flight with it held shared: so what is
//! dirty does not change under a writer between its promise and its bytes.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use butterfs_format::compression::Choice;

use super::budget::DirtyBudget;
use super::errors::WriteErrors;
use super::runs::Runs;
use super::sectors::lock;
use crate::tx::DataReservation;

/// Dirty bytes of one inode.
#[derive(Default)]
pub struct FileData {
    inner: Mutex<Inner>,
    settle: Mutex<()>,
    errors: WriteErrors,
    budget: Arc<DirtyBudget>,
}

#[derive(Default)]
struct Inner {
    dirty: Runs<Vec<u8>>,
    in_flight: Runs<Arc<Vec<u8>>>,
    /// Bytes dirty and in flight.
    held: u64,
    promise: Option<DataReservation>,
    /// How what is written back next is compressed, whatever file and mount say.
    compress: Option<Choice>,
}

/// A run that writeback took.
pub(super) struct TakenRun {
    pub start: u64,
    pub bytes: Arc<Vec<u8>>,
}

impl TakenRun {
    /// Where it lies in the file.
    pub fn range(&self) -> Range<u64> {
        self.start..self.start + self.bytes.len() as u64
    }
}

impl FileData {
    /// No dirty bytes; those to come are counted in `budget`.
    pub fn new(budget: Arc<DirtyBudget>) -> Self {
        Self { inner: Mutex::default(), settle: Mutex::default(), errors: WriteErrors::default(), budget }
    }

    /// Whether bytes wait for writeback, or are being written back.
    pub fn is_dirty(&self) -> bool {
        let inner = lock(&self.inner);
        !inner.dirty.is_empty() || !inner.in_flight.is_empty()
    }

    /// How many bytes wait for writeback, or are being written back.
    pub fn held_bytes(&self) -> u64 {
        lock(&self.inner).held
    }

    /// Has all that is written back from now on compressed, or not, whatever file and mount say; `None`: as they say.
    pub(super) fn compress_next(&self, how: Option<Choice>) {
        lock(&self.inner).compress = how;
    }

    /// What [`FileData::compress_next`] was told.
    pub(super) fn compression(&self) -> Option<Choice> {
        lock(&self.inner).compress
    }

    /// The errors of writeback.
    pub fn errors(&self) -> &WriteErrors {
        &self.errors
    }

    /// Forgets all bytes: the file is being deleted. Waits for a writeback that runs.
    pub fn forget(&self) {
        let _settle = self.settle();
        self.discard(0..u64::MAX);
    }

    /// The budget that the bytes are counted in.
    pub(super) fn budget(&self) -> &DirtyBudget {
        &self.budget
    }

    /// Waits until nothing is in flight, and keeps it so.
    pub(super) fn settle(&self) -> MutexGuard<'_, ()> {
        lock(&self.settle)
    }

    /// Copies what memory has into `buf`, whose first byte is at `offset`; gives what it has not.
    pub(super) fn copy_to(&self, offset: u64, buf: &mut [u8]) -> Vec<Range<u64>> {
        let inner = lock(&self.inner);
        let mut below = Vec::new();
        for gap in inner.dirty.copy_to(offset, buf) {
            let part = &mut buf[(gap.start - offset) as usize..(gap.end - offset) as usize];
            below.extend(inner.in_flight.copy_to(gap.start, part));
        }
        below
    }

    /// The parts of `range` that are not dirty; in flight is not dirty.
    pub(super) fn clean_parts(&self, range: Range<u64>) -> Vec<Range<u64>> {
        lock(&self.inner).dirty.gaps(range)
    }

    /// Makes bytes dirty, whole sectors in the end: first `edges`, each a sector, then `bytes`.
    pub(super) fn make_dirty(&self, edges: &[(u64, Vec<u8>)], write: (u64, &[u8]), promise: Option<DataReservation>) {
        let mut inner = lock(&self.inner);
        let mut added: u64 = edges.iter().map(|(start, sector)| inner.dirty.write(*start, sector)).sum();
        added += inner.dirty.write(write.0, write.1);
        if let Some(promise) = promise {
            inner.keep(promise);
        }
        inner.held += added;
        self.budget.add(added);
    }

    /// Drops dirty bytes (whole sectors).
    pub(super) fn discard(&self, range: Range<u64>) {
        let discarded = lock(&self.inner).dirty.discard(range);
        self.release(discarded);
    }

    /// Takes the runs that begin below `end` in flight. `settle` and `Inode::range` must be held.
    pub(super) fn take_off(&self, end: u64) -> Vec<TakenRun> {
        let mut inner = lock(&self.inner);
        debug_assert!(inner.in_flight.is_empty(), "two writebacks of one inode");
        let mut taken = Vec::new();
        for (start, bytes) in inner.dirty.take_below(end) {
            let bytes = Arc::new(bytes);
            inner.in_flight.insert(start, Arc::clone(&bytes));
            taken.push(TakenRun { start, bytes });
        }
        taken
    }

    /// The runs that were taken are in the tree, or lost: nothing is in flight any more.
    pub(super) fn land(&self) {
        let landed = lock(&self.inner).in_flight.take_below(u64::MAX);
        self.release(landed.values().map(|run| run.len() as u64).sum());
    }

    /// How many bytes of data space are promised.
    pub(super) fn promised(&self) -> u64 {
        lock(&self.inner).promise.as_ref().map_or(0, DataReservation::bytes)
    }

    /// Space was allocated for `bytes` that were promised; what their metadata was promised stays.
    pub(super) fn spend_data(&self, bytes: u64) {
        self.use_promise(|promise, _| promise.spend_data(bytes));
    }

    /// Whether metadata was promised for keeping the bytes inline.
    pub(super) fn may_be_inline(&self) -> bool {
        lock(&self.inner).promise.as_ref().is_some_and(DataReservation::has_inline)
    }

    /// Whether bytes were promised no space but that which the file has for them.
    pub(super) fn counts_on_own_space(&self) -> bool {
        let inner = lock(&self.inner);
        inner.held > inner.promise.as_ref().map_or(0, DataReservation::bytes)
    }

    /// Bytes left memory: the budget has room again, and what is promised beyond the rest goes.
    fn release(&self, bytes: u64) {
        lock(&self.inner).held -= bytes;
        self.budget.subtract(bytes);
        self.use_promise(DataReservation::shrink);
    }

    /// Changes the promise, given the bytes held; a promise of nothing goes.
    fn use_promise(&self, change: impl FnOnce(&mut DataReservation, u64)) {
        let (promise, held) = {
            let mut inner = lock(&self.inner);
            (inner.promise.take(), inner.held)
        };
        let Some(mut promise) = promise else { return };
        change(&mut promise, held);
        if !promise.is_empty() {
            lock(&self.inner).keep(promise);
        }
    }

    /// Where the lowest byte lies that is dirty and at or after `offset`, or the start of the run
    /// that covers `offset`.
    pub(super) fn first_dirty_after(&self, offset: u64) -> Option<u64> {
        lock(&self.inner).dirty.first_after(offset)
    }

    /// The lowest byte at or after `offset` that memory has.
    pub(super) fn next_in_memory(&self, offset: u64) -> Option<u64> {
        let inner = lock(&self.inner);
        let next = [inner.dirty.first_after(offset), inner.in_flight.first_after(offset)];
        next.into_iter().flatten().min().map(|start| start.max(offset))
    }

    /// Where the bytes that memory has from `offset` on break off.
    pub(super) fn in_memory_until(&self, offset: u64) -> u64 {
        let inner = lock(&self.inner);
        let mut end = offset;
        loop {
            let next = inner.in_flight.covered_until(inner.dirty.covered_until(end));
            if next == end {
                return end;
            }
            end = next;
        }
    }

    /// How many bytes of `range` are dirty.
    #[cfg(test)]
    pub(super) fn dirty_bytes(&self, range: Range<u64>) -> u64 {
        let clean: u64 = self.clean_parts(range.clone()).iter().map(|part| part.end - part.start).sum();
        range.end - range.start - clean
    }
}

impl Inner {
    /// Adds to the promise.
    fn keep(&mut self, promise: DataReservation) {
        match &mut self.promise {
            Some(old) => old.merge(promise),
            none => *none = Some(promise),
        }
    }
}

impl Drop for FileData {
    fn drop(&mut self) {
        self.discard(0..u64::MAX);
        self.land();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(data: &FileData, offset: u64, byte: u8) {
        data.make_dirty(&[], (offset, &[byte; 4096]), None);
    }

    #[test]
    fn dirty_bytes_hide_those_in_flight() {
        let budget = Arc::new(DirtyBudget::default());
        let data = FileData::new(Arc::clone(&budget));
        write(&data, 0, 1);
        write(&data, 4096, 2);
        let settle = data.settle();
        assert_eq!(data.take_off(u64::MAX).len(), 1);
        write(&data, 4096, 3);
        assert_eq!((budget.bytes(), data.dirty_bytes(0..8192)), (12288, 4096));
        assert!(data.counts_on_own_space(), "nothing was promised");
        let mut buf = vec![9; 16384];
        assert_eq!(data.copy_to(0, &mut buf), [Range { start: 8192, end: 16384 }]);
        assert_eq!((buf[0], buf[4096], buf[8192]), (1, 3, 9));
        assert_eq!((data.in_memory_until(0), data.next_in_memory(100)), (8192, Some(100)));
        data.land();
        drop(settle);
        assert_eq!((data.clean_parts(0..8192).len(), budget.bytes()), (1, 4096));
        data.forget();
        assert_eq!((data.is_dirty(), budget.bytes(), data.counts_on_own_space()), (false, 0, false));
    }

    #[test]
    fn a_dropped_file_leaves_the_budget() {
        let budget = Arc::new(DirtyBudget::default());
        let data = FileData::new(Arc::clone(&budget));
        write(&data, 0, 1);
        drop(data);
        assert_eq!(budget.bytes(), 0);
    }
}

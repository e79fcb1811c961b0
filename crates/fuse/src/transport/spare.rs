//! Operations that wait for others than devices: for a caller's memory, which may be a file of this very mount, or for the
//! end of work that takes minutes.
//!
//! # Invariants
//! * However many of them wait, somebody is left to answer requests, so that what they wait for can come.

use crate::Errno;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

thread_local! {
    /// Those of the calling worker. A thread that answers no requests may wait as it likes.
    static OWN: RefCell<Option<Arc<Spares>>> = const { RefCell::new(None) };
}

/// How many of some workers may wait so at once, and do.
#[derive(Debug)]
pub(crate) struct Spares {
    most: usize,
    waiting: AtomicUsize,
}

impl Spares {
    /// That so many may.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, waiting: AtomicUsize::new(0) })
    }

    /// The calling thread is one of the workers.
    pub fn join(self: &Arc<Self>) {
        OWN.set(Some(Arc::clone(self)));
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// While it lives, the calling worker may wait for something that needs other requests to be answered.
pub(crate) struct Waiting(Option<Arc<Spares>>);

impl Waiting {
    /// Begins.
    ///
    /// # Errors
    /// `EBUSY` if as many wait as may.
    pub fn begin() -> Result<Self, Errno> {
        let Some(own) = OWN.with_borrow(Clone::clone) else { return Ok(Self(None)) };
        let one_more = |waiting| (waiting < own.most).then_some(waiting + 1);
        match own.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(Self(Some(own))),
            Err(_) => Err(Errno::EBUSY),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(own) = &self.0 {
            own.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_wait_than_may() {
        assert!(Waiting::begin().is_ok(), "no worker");
        let spares = Spares::new(1);
        spares.join();
        let first = Waiting::begin();
        assert!(first.is_ok());
        assert_eq!((spares.waiting(), Waiting::begin().err()), (1, Some(Errno::EBUSY)));
        drop(first);
        assert_eq!(spares.waiting(), 0);
        assert!(Waiting::begin().is_ok());
    }
}

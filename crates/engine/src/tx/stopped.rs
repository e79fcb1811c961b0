//! Why, when and where writing was stopped.

use std::sync::{Mutex, PoisonError};

use butterfs_format::Generation;
use butterfs_format::items::Timespec;

/// Who stopped writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoppedBy {
    /// An error: what is in memory can still be read.
    Error,
    /// A user, who wants to see what a power cut would leave now: nothing can be read either.
    Request,
}

/// Why a filesystem became read-only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Who did it.
    pub by: StoppedBy,
    /// The first cause, with the device and the place on it where that is known.
    pub cause: String,
    /// When it happened.
    pub at: Timespec,
    /// The transaction that was not committed any more.
    pub generation: Generation,
}

/// Told when writing stops.
type Listener = Box<dyn Fn() + Send + Sync>;

/// Those who are told, once.
#[derive(Default)]
pub(super) struct Listeners(Mutex<Vec<Listener>>);

impl Listeners {
    pub fn add(&self, listener: Listener) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    pub fn tell(&self) {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        all.iter().for_each(|listener| listener());
    }
}

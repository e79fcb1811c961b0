//! The turn to make something durable: one at a time, and whoever finds his work done by then does not wait for it.
//!
//! # Invariants
//! * With each turn that ends all who wait look again. So a thread that comes back at once does not keep those waiting
//!   whose log it wrote along with its own.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Gives out turns.
#[derive(Default)]
pub(super) struct Turns {
    taken: Mutex<bool>,
    ended: Condvar,
}

/// A turn; ends when dropped.
pub(super) struct Turn<'t>(&'t Turns);

impl Turns {
    fn taken(&self) -> MutexGuard<'_, bool> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn.
    pub fn take(&self) -> Turn<'_> {
        let mut taken = self.taken();
        while *taken {
            taken = self.ended.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken = true;
        Turn(self)
    }

    /// Waits for a turn, or until `done`, which is asked whenever a turn ends.
    pub fn take_unless(&self, done: impl Fn() -> bool) -> Option<Turn<'_>> {
        let mut taken = self.taken();
        loop {
            if done() {
                return None;
            }
            if !*taken {
                *taken = true;
                return Some(Turn(self));
            }
            taken = self.ended.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.taken() = false;
        self.0.ended.notify_all();
    }
}

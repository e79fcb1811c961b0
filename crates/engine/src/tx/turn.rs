//! The turn to make something durable: one at a time, and whoever finds his work done by then does not wait for it.
//!
//! # Invariants
//! * With each turn that ends all who wait look again. So a thread that comes back at once does not keep those waiting
//!   whose log it wrote along with its own.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Gives out turns.
#[derive(Default)]
pub(super) struct Turns {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    taken: bool,
    /// How many wait: where nobody does, nobody has to be woken.
    waiting: usize,
}

/// A turn; ends when dropped.
pub(super) struct Turn<'t>(&'t Turns);

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn.
    pub fn take(&self) -> Turn<'_> {
        self.take_unless(|| false).expect("it waits for a turn")
    }

    /// Waits for a turn, or until `done`, which is asked whenever a turn ends.
    pub fn take_unless(&self, done: impl Fn() -> bool) -> Option<Turn<'_>> {
        let mut state = self.state();
        loop {
            if done() {
                return None;
            }
            if !state.taken {
                state.taken = true;
                return Some(Turn(self));
            }
            state.waiting += 1;
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.taken = false;
        if state.waiting > 0 {
            self.0.ended.notify_all();
        }
    }
}

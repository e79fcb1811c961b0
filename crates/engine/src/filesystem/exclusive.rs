//! Operations on a whole filesystem of which one can be under way at a time, as in the kernel.
//!
//! # Invariants
//! * A balance that is paused keeps all others out but the adding of devices.
//!
//! # Locking
//! The mutex is a leaf, held for a look.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::inode::lock;

/// What is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusive {
    /// A balance.
    Balance,
    /// A balance that was interrupted, and goes on later.
    BalancePaused,
    /// A device is added.
    DeviceAdd,
    /// Devices are removed.
    DeviceRemove,
    /// A device is replaced.
    DeviceReplace,
    /// A device is made larger or smaller.
    Resize,
}

impl Exclusive {
    /// Its name, as the kernel shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Balance => "balance",
            Self::BalancePaused => "balance paused",
            Self::DeviceAdd => "device add",
            Self::DeviceRemove => "device remove",
            Self::DeviceReplace => "device replace",
            Self::Resize => "resize",
        }
    }
}

#[derive(Debug, Default)]
struct State {
    running: Option<Exclusive>,
    /// A balance waits to be resumed.
    paused: bool,
    /// Who is under way is asked to end.
    cancel: bool,
}

/// Which of them is under way.
#[derive(Clone, Debug, Default)]
pub struct ExclusiveState {
    state: Arc<Mutex<State>>,
    ended: Arc<Condvar>,
}

/// While it lives, the operation is under way.
#[derive(Debug)]
pub struct ExclusiveTurn {
    all: ExclusiveState,
}

impl ExclusiveState {
    /// Begins an operation.
    ///
    /// # Errors
    /// [`Error::InProgress`] if another one is under way or, but for adding a device, a balance is paused.
    pub fn begin(&self, operation: Exclusive) -> Result<ExclusiveTurn> {
        let mut state = lock(&self.state);
        if let Some(other) = state.running {
            return Err(Error::InProgress(other.name()));
        }
        if state.paused && !matches!(operation, Exclusive::DeviceAdd | Exclusive::Balance) {
            return Err(Error::InProgress(Exclusive::BalancePaused.name()));
        }
        (state.running, state.cancel) = (Some(operation), false);
        Ok(ExclusiveTurn { all: self.clone() })
    }

    /// What is under way.
    pub fn current(&self) -> Option<Exclusive> {
        let state = lock(&self.state);
        state.running.or(state.paused.then_some(Exclusive::BalancePaused))
    }

    /// Asks an operation to end, and waits until it has.
    ///
    /// # Errors
    /// [`Error::NotRunning`] if it is not under way.
    pub fn cancel(&self, operation: Exclusive) -> Result<()> {
        let mut state = lock(&self.state);
        if state.running != Some(operation) {
            return Err(Error::NotRunning);
        }
        state.cancel = true;
        while state.running == Some(operation) && state.cancel {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    pub(super) fn set_paused(&self, paused: bool) {
        lock(&self.state).paused = paused;
    }

    /// Whether the one that is under way is asked to end.
    pub fn is_cancelled(&self) -> bool {
        lock(&self.state).cancel
    }
}

impl Drop for ExclusiveTurn {
    fn drop(&mut self) {
        let mut state = lock(&self.all.state);
        (state.running, state.cancel) = (None, false);
        self.all.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let all = ExclusiveState::default();
        let resize = all.begin(Exclusive::Resize).unwrap();
        assert!(matches!(all.begin(Exclusive::Balance), Err(Error::InProgress("resize"))));
        assert!(matches!(all.cancel(Exclusive::DeviceRemove), Err(Error::NotRunning)));
        drop(resize);
        all.set_paused(true);
        assert_eq!(all.current(), Some(Exclusive::BalancePaused));
        assert!(matches!(all.begin(Exclusive::Resize), Err(Error::InProgress("balance paused"))));
        drop(all.begin(Exclusive::DeviceAdd).unwrap());
        drop(all.begin(Exclusive::Balance).unwrap());
        assert_eq!(all.current(), Some(Exclusive::BalancePaused));
    }
}

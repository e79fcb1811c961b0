//! Operations on a whole filesystem of which one can be under way at a time, as in the kernel.
//!
//! # Invariants
//! * A balance that is paused keeps all others out but the adding of devices; the replacement of a device that is suspended keeps
//!   all others out.
//!
//! # Locking
//! The mutex is a leaf, held for a look.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::Filesystem;
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
    /// So does the replacement of a device.
    suspended: bool,
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
    /// [`Error::InProgress`] if another one is under way, the replacement of a device is suspended or, but for adding a device, a
    /// balance is paused.
    pub fn begin(&self, operation: Exclusive) -> Result<ExclusiveTurn> {
        let mut state = lock(&self.state);
        if let Some(other) = state.running {
            return Err(Error::InProgress(other.name()));
        }
        if state.suspended && operation != Exclusive::DeviceReplace {
            return Err(Error::InProgress(Exclusive::DeviceReplace.name()));
        }
        let goes_on = state.suspended || matches!(operation, Exclusive::DeviceAdd | Exclusive::Balance);
        if state.paused && !goes_on {
            return Err(Error::InProgress(Exclusive::BalancePaused.name()));
        }
        (state.running, state.cancel) = (Some(operation), false);
        Ok(ExclusiveTurn { all: self.clone() })
    }

    /// What is under way, or keeps others out until it goes on.
    pub fn current(&self) -> Option<Exclusive> {
        let state = lock(&self.state);
        let waits = state.suspended.then_some(Exclusive::DeviceReplace);
        state.running.or(waits).or(state.paused.then_some(Exclusive::BalancePaused))
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

    pub(super) fn set_suspended(&self, suspended: bool) {
        lock(&self.state).suspended = suspended;
    }

    pub(super) fn set_paused(&self, paused: bool) {
        lock(&self.state).paused = paused;
    }

    /// Whether the one that is under way is asked to end.
    pub fn is_cancelled(&self) -> bool {
        lock(&self.state).cancel
    }
}

impl Filesystem {
    /// Begins an operation that changes which devices there are, or what lies on them.
    ///
    /// # Errors
    /// If nothing may be written, another one is under way, or a device is being brought up to date (adding one can be done
    /// meanwhile).
    pub(super) fn begin_exclusive(&self, operation: Exclusive) -> Result<ExclusiveTurn> {
        self.shared.gate.check_writable()?;
        if operation != Exclusive::DeviceAdd {
            self.require_up_to_date()?;
        }
        self.exclusive.begin(operation)
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
        assert!(matches!(all.begin(Exclusive::DeviceReplace), Err(Error::InProgress("balance paused"))));
        drop(all.begin(Exclusive::DeviceAdd).unwrap());
        drop(all.begin(Exclusive::Balance).unwrap());
        assert_eq!(all.current(), Some(Exclusive::BalancePaused));
        // Of two that were interrupted, the replacement goes on first.
        all.set_suspended(true);
        assert_eq!(all.current(), Some(Exclusive::DeviceReplace));
        assert!(matches!(all.begin(Exclusive::Balance), Err(Error::InProgress("device replace"))));
        assert!(matches!(all.begin(Exclusive::DeviceAdd), Err(Error::InProgress("device replace"))));
        drop(all.begin(Exclusive::DeviceReplace).unwrap());
    }
}

//! Whether long work may still begin.
//!
//! # Invariants
//! * Whoever has a permit lets go of it only when its work is under way, where [`super::volume_work`] and the engine see it,
//!   or came to nothing. So after [`Beginnings::end`] nothing is under way that a cancel does not reach.
//!
//! # Locking
//! Before all locks of the engine. No work is waited for with a permit.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use butterfs_engine::{Error, Result};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mount {
    #[default]
    There,
    Ending,
}

/// Who begins long work asks here first.
#[derive(Debug, Default)]
pub(super) struct Beginnings(RwLock<Mount>);

/// While it lives, the end of the mount waits.
pub(super) struct Permit<'a>(RwLockReadGuard<'a, Mount>);

impl Beginnings {
    /// Leave to begin something.
    ///
    /// # Errors
    /// [`Error::Busy`] once the mount comes to its end.
    pub fn permit(&self) -> Result<Permit<'_>> {
        let permit = Permit(self.0.read().unwrap_or_else(PoisonError::into_inner));
        match *permit.0 {
            Mount::There => Ok(permit),
            Mount::Ending => Err(Error::Busy("the filesystem is being unmounted; mount it again and repeat this")),
        }
    }

    /// Waits for those who are about to begin something; from now on nobody may.
    pub fn end(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Mount::Ending;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn the_end_waits_for_those_who_begin_and_refuses_others() {
        let all = Beginnings::default();
        let permit = all.permit().unwrap();
        let (ended, hear) = channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                all.end();
                ended.send(()).unwrap();
            });
            assert!(hear.recv_timeout(Duration::from_millis(50)).is_err(), "somebody begins something");
            drop(permit);
            hear.recv_timeout(Duration::from_secs(20)).unwrap();
        });
        assert!(matches!(all.permit(), Err(Error::Busy(_))));
    }
}

//! Work on a whole filesystem that a mount does in a thread of its own: balance, devices removed and resized.
//!
//! # Invariants
//! * What is refused is refused to who asks, before the thread begins. How it ends is kept until the next begins.
//! * A caller waits for none of it, unless by a command of the kernel's, which waits.
//! * Nothing begins without a [`Permit`], so nothing once the mount comes to its end.
//!
//! # Locking
//! The mutex is a leaf.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use butterfs_engine::filesystem::exclusive::{Exclusive, ExclusiveTurn};
use butterfs_engine::filesystem::{
    BalanceEnd, BalanceProgress, Filesystem, NewLength, Removal, RemovalEnd, ReplaceEnd, Replacement, WhichDevice,
};
use butterfs_engine::inode::lock;
use butterfs_engine::{Error, Result};
use butterfs_format::DevId;
use butterfs_format::items::BalanceItem;

use super::beginning::{Beginnings, Permit};
use crate::thread;

/// Work that was asked to rest is asked again after this, if it had not heard.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// How work ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// All is done.
    Done(BalanceProgress),
    /// A balance, or the replacement of a device, can go on later.
    Paused,
    /// Somebody wanted it to end.
    Cancelled,
    /// The errno and the text of an error.
    Failed(i32, String),
}

#[derive(Debug, Default)]
struct State {
    /// Counts what was begun.
    begun: u64,
    /// The last that ended, by that count.
    ended: Option<(u64, Ended)>,
}

/// The work of a mount.
#[derive(Clone, Debug, Default)]
pub(super) struct VolumeWork {
    state: Arc<Mutex<State>>,
    ring: Arc<Condvar>,
    beginnings: Arc<Beginnings>,
}

/// Work that has begun.
pub(super) enum Begun {
    Balance(ExclusiveTurn),
    Removal(Removal),
    Resize(DevId, NewLength),
    Replacement(Replacement),
}

fn balance_ended((end, progress): (BalanceEnd, BalanceProgress)) -> Ended {
    match end {
        BalanceEnd::Done => Ended::Done(progress),
        BalanceEnd::Paused => Ended::Paused,
        BalanceEnd::Cancelled => Ended::Cancelled,
    }
}

impl Begun {
    fn run(self, fs: &Filesystem) -> Ended {
        let ended = match self {
            Self::Balance(turn) => fs.run_balance(turn).map(balance_ended),
            Self::Removal(removal) => fs.run_removal(removal).map(|end| match end {
                RemovalEnd::Done => Ended::Done(BalanceProgress::default()),
                RemovalEnd::Cancelled => Ended::Cancelled,
            }),
            Self::Replacement(replacement) => fs.run_replacement(replacement).map(|end| match end {
                ReplaceEnd::Done(_) => Ended::Done(BalanceProgress::default()),
                ReplaceEnd::Cancelled => Ended::Cancelled,
                ReplaceEnd::Suspended => Ended::Paused,
            }),
            Self::Resize(devid, length) => {
                fs.resize_device(devid, length).map(|_| Ended::Done(BalanceProgress::default()))
            }
        };
        ended.unwrap_or_else(|error| {
            tracing::warn!(%error, "an operation on the whole filesystem failed");
            Ended::Failed(error.errno(), error.to_string())
        })
    }
}

impl VolumeWork {
    /// Begins a balance, or goes on with one.
    pub fn begin_balance(&self, fs: &Filesystem, item: Option<&BalanceItem>) -> Result<Begun> {
        let turn = match item {
            Some(item) => fs.begin_balance(item)?,
            None => fs.begin_resumed_balance()?,
        };
        Ok(Begun::Balance(turn))
    }

    /// Leave to begin something, of these or any other long work.
    ///
    /// # Errors
    /// If the mount comes to its end.
    pub fn permit(&self) -> Result<Permit<'_>> {
        self.beginnings.permit()
    }

    /// Runs what has begun in a thread; gives its count, for [`VolumeWork::wait`].
    ///
    /// # Errors
    /// If there is no thread for it.
    pub fn spawn(&self, fs: &Arc<Filesystem>, begun: Begun, permit: Permit<'_>) -> Result<u64> {
        let count = {
            let mut state = lock(&self.state);
            state.begun += 1;
            state.begun
        };
        let (own, fs) = (self.clone(), Arc::clone(fs));
        let spawned = thread::spawn("volume", move || {
            let ended = begun.run(&fs);
            // Before anybody hears of the end: who waits for it may close the filesystem.
            drop(fs);
            own.end(count, ended);
        });
        drop(permit);
        let refused = Error::Busy("no thread could be started");
        spawned.map(|_| count).map_err(|error| {
            tracing::warn!(%error, "no thread for an operation on the whole filesystem");
            self.end(count, Ended::Failed(refused.errno(), refused.to_string()));
            refused
        })
    }

    fn end(&self, count: u64, ended: Ended) {
        lock(&self.state).ended = Some((count, ended));
        self.ring.notify_all();
    }

    /// Waits for the end.
    pub fn wait(&self, count: u64) -> Ended {
        let mut state = lock(&self.state);
        loop {
            match &state.ended {
                Some((last, ended)) if *last >= count => return ended.clone(),
                _ => state = self.ring.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// How the last that was begun ended; `None` while it is under way, or if there was none.
    pub fn last(&self) -> Option<Ended> {
        let state = lock(&self.state);
        state.ended.as_ref().filter(|(count, _)| *count == state.begun).map(|(_, ended)| ended.clone())
    }

    /// Has all that runs come to rest: a balance and a replacement can go on later.
    pub fn rest(&self, fs: &Filesystem) {
        let begun = lock(&self.state).begun;
        loop {
            // That one does not run is as good.
            fs.ask_balance_to_pause();
            let _ = fs.suspend_replacement();
            for operation in [Exclusive::DeviceRemove, Exclusive::Resize] {
                let _ = fs.exclusive().cancel(operation);
            }
            // What has a thread and not begun there yet did not hear.
            if self.has_ended_within(begun, ASK_AGAIN) {
                return;
            }
        }
    }

    /// The same before the end of the mount: nothing begins any more.
    pub fn rest_for_good(&self, fs: &Filesystem) {
        self.beginnings.end();
        self.rest(fs);
    }

    fn has_ended_within(&self, count: u64, time: Duration) -> bool {
        let runs = |state: &mut State| state.ended.as_ref().map_or(0, |(last, _)| *last) < count;
        let waited = self.ring.wait_timeout_while(lock(&self.state), time, runs);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// The device that a text names: a number, `missing`, or a path.
pub(super) fn named(text: &str) -> WhichDevice {
    match text.parse() {
        Ok(devid) => WhichDevice::Id(DevId(devid)),
        Err(_) if text == "missing" => WhichDevice::Missing,
        Err(_) => WhichDevice::Name(text.into()),
    }
}

//! Work on a whole filesystem that a mount does in a thread of its own: balance, devices removed and resized.
//!
//! # Invariants
//! * What is refused is refused to who asks, before the thread begins. How it ends is kept until the next begins.
//! * A caller waits for none of it, unless by a command of the kernel's, which waits.
//!
//! # Locking
//! The mutex is a leaf.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use butterfs_engine::Result;
use butterfs_engine::filesystem::exclusive::{Exclusive, ExclusiveTurn};
use butterfs_engine::filesystem::{
    BalanceEnd, BalanceProgress, Filesystem, NewLength, Removal, RemovalEnd, ReplaceEnd, Replacement, WhichDevice,
};
use butterfs_engine::inode::lock;
use butterfs_format::DevId;
use butterfs_format::items::BalanceItem;

use crate::thread;

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

    /// Runs what has begun in a thread; gives its count, for [`VolumeWork::wait`].
    pub fn spawn(&self, fs: &Arc<Filesystem>, begun: Begun) -> std::io::Result<u64> {
        let count = {
            let mut state = lock(&self.state);
            state.begun += 1;
            state.begun
        };
        let (own, fs) = (self.clone(), Arc::clone(fs));
        thread::spawn("volume", move || {
            let ended = begun.run(&fs);
            // Before anybody hears of the end: who waits for it may close the filesystem.
            drop(fs);
            lock(&own.state).ended = Some((count, ended));
            own.ring.notify_all();
        })?;
        Ok(count)
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

    /// Has all that runs come to rest, as before the end of a mount: a balance and a replacement go on with the next.
    pub fn rest(&self, fs: &Filesystem) {
        fs.ask_balance_to_pause();
        // That it does not run is as good.
        let _ = fs.suspend_replacement();
        for operation in [Exclusive::DeviceRemove, Exclusive::Resize] {
            // That it does not run is as good.
            let _ = fs.exclusive().cancel(operation);
        }
        let begun = lock(&self.state).begun;
        if begun > 0 {
            self.wait(begun);
        }
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

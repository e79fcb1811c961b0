//! The threads of a mount: one commits now and then, one removes what deleted subvolumes held, one waits for
//! the error that ends all writing.
//!
//! # Locking
//! Work runs without the mutex; that guards only what the threads are told.

use crate::thread;
use butterfs_engine::Error;
use butterfs_engine::dir::Place;
use butterfs_engine::filesystem::Filesystem;
use butterfs_engine::inode::{InodeId, lock};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How soon it is tried again to make the kernel's side read-only, while files are open for writing.
const FOLLOW_AGAIN: Duration = Duration::from_secs(1);
/// Until something happens.
const LONG: Duration = Duration::from_secs(1 << 20);

/// What is done when an error ended all writing, until it says that it is done.
#[derive(Clone, Default)]
pub struct OnError(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

impl OnError {
    /// Calls `act`, from a thread of its own, until it gives true.
    pub fn new(act: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(act)))
    }
}

impl std::fmt::Debug for OnError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "OnError(..)" } else { "OnError" })
    }
}

/// How often freed space is discarded, and so many ranges at most each time.
const DISCARD_AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked whether a remount wants freed space discarded later.
const DISCARD_PERHAPS: Duration = Duration::from_secs(30);
const DISCARDS: usize = 1000;
/// Tree blocks that the cleaner takes in one step.
const CLEAN_STEP: usize = 64;
/// The longest pause between two steps of the cleaner.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// Names of one subvolume that the kernel is asked to forget at once.
const FORGET_STEP: usize = 256;
/// So many absent names are remembered for it. Others the kernel lets go when it needs memory.
const MOST_ABSENT: usize = 16384;
/// How soon the cleaner looks again after a deletion at subvolumes that are still in use: the kernel forgets their inodes
/// a moment later. It waits twice as long each time.
const CLEAN_SOON: Duration = Duration::from_millis(5);
/// How soon the cleaner looks again at them, and at what else there is to do, at the latest.
const CLEAN_AGAIN: Duration = Duration::from_secs(10);

/// Has the kernel forget a name in a directory.
pub(super) type Forget = Box<dyn Fn(InodeId, &[u8]) + Send>;

#[derive(Default)]
struct Told {
    stop: bool,
    clean: bool,
    /// The filesystem became read-only.
    failed: bool,
    /// Time between commits.
    interval: Duration,
    /// The kernel has let something go in a deleted subvolume, or is to: the cleaner looks again, not at once.
    soon: bool,
    /// Names that were looked for in deleted subvolumes, and are not there: the kernel keeps each, and so its directory,
    /// which keeps the subvolume.
    absent: Vec<(InodeId, Vec<u8>)>,
}

#[derive(Default)]
struct Bell {
    told: Mutex<Told>,
    ring: Condvar,
}

/// The threads, while they run.
#[derive(Default)]
pub(super) struct Background {
    bell: Arc<Bell>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    failure: Arc<OnceLock<String>>,
    /// The filesystem, while devices of it are brought up to date.
    resyncs: Mutex<Option<Arc<Filesystem>>>,
}

impl Background {
    /// Starts the threads, if they do not run.
    pub fn start(&self, fs: &Arc<Filesystem>, on_error: &OnError, forget: Forget) -> std::io::Result<()> {
        if !lock(&self.threads).is_empty() {
            return Ok(());
        }
        let bell = Arc::clone(&self.bell);
        fs.shared().gate.on_stop(move || {
            lock(&bell.told).failed = true;
            bell.ring.notify_all();
        });
        let (bell, on_error) = (Arc::clone(&self.bell), on_error.clone());
        self.spawn("on-error", move || follow_error(&bell, &on_error))?;
        let (bell, with, failure) = (Arc::clone(&self.bell), Arc::clone(fs), Arc::clone(&self.failure));
        self.spawn("commit", move || commit_now_and_then(&bell, &with, &failure))?;
        let (bell, with) = (Arc::clone(&self.bell), Arc::clone(fs));
        self.spawn("discard", move || discard_now_and_then(&bell, &with))?;
        if !fs.shared().gate.volume().catching_up().is_empty() {
            *lock(&self.resyncs) = Some(Arc::clone(fs));
            let with = Arc::clone(fs);
            self.spawn("resync", move || bring_up_to_date(&with))?;
        }
        let (bell, with) = (Arc::clone(&self.bell), Arc::clone(fs));
        self.spawn("cleaner", move || clean(&bell, &with, &forget))
    }

    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let thread = thread::spawn(name, work)?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    /// Why a commit failed that nobody asked for, and so nobody was told of: the first one.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// The time between commits, from the last one on.
    pub fn set_commit_interval(&self, interval: Duration) {
        {
            let mut told = lock(&self.bell.told);
            told.interval = interval;
            // The cleaner's interval depends on it.
            told.clean = true;
        }
        self.bell.ring.notify_all();
    }

    /// The kernel is told that a name is not there, in a deleted subvolume; once it knows, it is to forget that.
    pub fn note_absent(&self, place: &Place<'_>) {
        {
            let mut told = lock(&self.bell.told);
            if told.absent.len() >= MOST_ABSENT {
                return;
            }
            told.absent.push((place.dir, place.name.to_vec()));
        }
        self.note_left();
    }

    /// The kernel has let go of something in a deleted subvolume.
    pub fn note_left(&self) {
        if !std::mem::replace(&mut lock(&self.bell.told).soon, true) {
            self.bell.ring.notify_all();
        }
    }

    /// A subvolume was deleted.
    pub fn wake_cleaner(&self) {
        lock(&self.bell.told).clean = true;
        self.bell.ring.notify_all();
    }

    /// Ends the threads, after the step they are in.
    pub fn stop(&self) {
        lock(&self.bell.told).stop = true;
        self.bell.ring.notify_all();
        if let Some(fs) = lock(&self.resyncs).take() {
            fs.cancel_resync();
        }
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            if thread.join().is_err() {
                tracing::error!("a background thread panicked");
                self.failure.get_or_init(|| "a background thread panicked".into());
            }
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Devices that were away get what they missed. What is not done is done with the next mount.
fn bring_up_to_date(fs: &Filesystem) {
    match fs.resync() {
        Err(Error::Cancelled) => tracing::info!("bringing devices up to date goes on with the next mount"),
        Err(error) => tracing::error!("a device could not be brought up to date: {error}"),
        Ok(_) => {}
    }
}

impl Bell {
    /// How long the cleaner sleeps: not longer than from one commit to the next.
    fn clean_interval(&self) -> Duration {
        CLEAN_AGAIN.min(self.commit_interval())
    }

    fn commit_interval(&self) -> Duration {
        lock(&self.told).interval
    }

    /// Waits until `limit` has passed or `early` says so; `false`: stop.
    fn wait(&self, limit: Duration, mut early: impl FnMut(&mut Told) -> bool) -> bool {
        let end = Instant::now() + limit;
        let mut told = lock(&self.told);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if told.stop {
                return false;
            }
            if left.is_zero() || early(&mut told) {
                return true;
            }
            told = self.ring.wait_timeout(told, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn is_stopped(&self) -> bool {
        lock(&self.told).stop
    }

    /// Waits for the time between two commits, which may change meanwhile; `false`: stop.
    fn wait_for_interval(&self) -> bool {
        let begin = Instant::now();
        let mut told = lock(&self.told);
        loop {
            let left = told.interval.saturating_sub(begin.elapsed());
            if told.stop {
                return false;
            }
            if left.is_zero() {
                return true;
            }
            told = self.ring.wait_timeout(told, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Commits what has changed. After an error that ends all writing there is nothing more to do.
fn commit_now_and_then(bell: &Bell, fs: &Filesystem, failure: &OnceLock<String>) {
    while bell.wait_for_interval() {
        if fs.is_shut_down() {
            return;
        }
        if let Err(error) = fs.sync_quietly() {
            tracing::error!(%error, "the periodic commit failed");
            failure.get_or_init(|| error.to_string());
            if fs.shared().gate.stopped().is_some() {
                return;
            }
        }
    }
}

/// Discards what was freed, where it is to be done later. What is left at the end is for a trim.
fn discard_now_and_then(bell: &Bell, fs: &Filesystem) {
    while bell.wait(if fs.discards_later() { DISCARD_AGAIN } else { DISCARD_PERHAPS }, |_| false) {
        if !fs.discards_later() {
            continue;
        }
        if let Err(error) = fs.shared().gate.discard_some(DISCARDS) {
            tracing::error!(%error, "discarding freed space failed");
            return;
        }
    }
}

/// Defragments what small writes scattered, as often as there are commits, as in the kernel: who goes on writing is left
/// alone until then. `false`: stop.
fn autodefrag(bell: &Bell, fs: &Filesystem, last: &mut Instant) -> bool {
    if last.elapsed() < bell.commit_interval() {
        return true;
    }
    *last = Instant::now();
    while !bell.is_stopped() {
        match fs.autodefrag_once() {
            Ok(true) => {}
            Ok(false) => return true,
            // It is that file's, whose reader or writer hears of it.
            Err(error) => tracing::warn!(%error, "a file could not be defragmented"),
        }
    }
    false
}

/// Empties block groups that are hardly used while too little space is in none; `false`: stop.
fn reclaim(bell: &Bell, fs: &Filesystem) -> bool {
    while !bell.is_stopped() {
        match fs.reclaim_once() {
            Ok(true) => {}
            Ok(false) | Err(Error::NoSpace | Error::Busy(_) | Error::ReadOnly) => return true,
            Err(error) => {
                tracing::error!(%error, "emptying a block group failed");
                return false;
            }
        }
    }
    false
}

/// Waits for an error that ends all writing, and has the kernel's side follow.
fn follow_error(bell: &Bell, on_error: &OnError) {
    let Some(act) = &on_error.0 else { return };
    while bell.wait(LONG, |told| told.failed) {
        if lock(&bell.told).failed && act() {
            return;
        }
        if !bell.wait(FOLLOW_AGAIN, |_| false) {
            return;
        }
    }
}

/// What was open in a subvolume while it was deleted stays in the kernel's cache when it is closed, and so does what was
/// looked for in vain.
fn forget_deleted(bell: &Bell, fs: &Filesystem, forget: &Forget) {
    let absent = {
        let mut told = lock(&bell.told);
        told.soon = false;
        std::mem::take(&mut told.absent)
    };
    // What cannot be read is no reason to stop; the cleaner tells.
    let names = fs.names_in_the_way(FORGET_STEP).unwrap_or_default();
    absent.iter().chain(&names).for_each(|(dir, name)| forget(*dir, name));
}

/// How long the cleaner pauses after a step: others get the trees for as long as they were taken from them.
fn pause_after(step: Duration) -> Duration {
    step.min(LONGEST_PAUSE)
}

fn clean(bell: &Bell, fs: &Filesystem, forget: &Forget) {
    let (mut again, mut defragmented) = (CLEAN_AGAIN, Instant::now());
    loop {
        loop {
            let begin = Instant::now();
            match fs.clean_once(CLEAN_STEP) {
                Ok(true) if !bell.wait(pause_after(begin.elapsed()), |_| false) => return,
                Ok(true) => {}
                Err(Error::ShutDown) => return,
                // A remount may allow it again.
                Ok(false) | Err(Error::ReadOnly) => break,
                // It comes back with what others delete.
                Err(Error::NoSpace) => {
                    tracing::warn!("no space to remove a deleted subvolume; trying again later");
                    break;
                }
                Err(error) => {
                    tracing::error!(%error, "removing a deleted subvolume failed");
                    return;
                }
            }
        }
        forget_deleted(bell, fs, forget);
        let (mut deleted, mut soon) = (false, false);
        if !autodefrag(bell, fs, &mut defragmented)
            || !reclaim(bell, fs)
            || !bell.wait(again.min(bell.clean_interval()), |told| {
                (deleted, soon) = (std::mem::take(&mut told.clean), told.soon);
                deleted || soon
            })
            // An answer has to reach the kernel first; and there may be many, one after the other.
            || soon && !bell.wait(CLEAN_SOON, |_| false)
        {
            return;
        }
        again = if deleted || soon { CLEAN_SOON } else { (again * 2).min(CLEAN_AGAIN) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cleaner_works_half_of_the_time_at_most() {
        for milliseconds in [1, 20, 100] {
            let step = Duration::from_millis(milliseconds);
            assert_eq!(pause_after(step), step);
        }
        assert_eq!(pause_after(Duration::from_secs(3)), LONGEST_PAUSE);
    }
}

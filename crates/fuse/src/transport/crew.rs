//! Who waits for the next request of `/dev/fuse`: one worker at a time.
//!
//! The kernel wakes those that wait in turn. With several of them each request wakes another thread, mostly on another
//! CPU, which costs more than most requests do. So one waits, and goes on alone as long as it keeps up; the others are
//! parked. It keeps up unless requests wait while nobody waits for them: a worker looks for that where an operation
//! takes long by its nature, and an overseer twice in some milliseconds where it is another that takes long. (A single
//! caller's next request may have just come, twice: then another worker would only be in the way.)
//!
//! # Invariants
//! * At most one worker waits in the kernel.
//! * While requests wait, and fewer workers are active than may be, somebody waits for them again soon.
//!
//! # Locking
//! `called` is a leaf. Nothing is held while a request is waited for or answered.

use super::dev::End;
use super::follow::Scout;
use super::spare::Spares;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often the overseer looks whether requests wait.
const TICK: Duration = Duration::from_millis(2);
/// After so many ticks without a request it sleeps until there is one.
const IDLE_TICKS: u32 = 50;
/// Workers beyond those that are active at a time, for when so many wait for others than devices.
pub(crate) const SPARE: usize = 8;
/// And no longer than this.
const LONGEST_DOZE: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Called {
    /// Workers that are parked.
    parked: usize,
    /// How many of them are to go on.
    calls: usize,
    /// Why there are no more requests.
    end: Option<End>,
}

/// The workers of a connection.
pub(crate) struct Crew {
    /// So many are active at a time, but for those that wait for others than devices.
    most: usize,
    spares: Arc<Spares>,
    scout: Scout,
    /// Somebody waits in the kernel.
    waits: AtomicBool,
    /// Requests that were taken.
    taken: AtomicUsize,
    /// The thread that made the last one.
    caller: AtomicU32,
    /// How often it was another than before.
    changes: AtomicUsize,
    /// Workers that are not parked.
    active: AtomicUsize,
    /// The overseer sleeps.
    dozes: AtomicBool,
    called: Mutex<Called>,
    call: Condvar,
    overseer: Condvar,
}

impl Crew {
    /// Workers of which so many are active at a time. There are [`SPARE`] more.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            spares: Spares::new(SPARE),
            scout: Scout::new(),
            waits: AtomicBool::new(false),
            taken: AtomicUsize::new(0),
            caller: AtomicU32::new(0),
            changes: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            dozes: AtomicBool::new(false),
            called: Mutex::default(),
            call: Condvar::new(),
            overseer: Condvar::new(),
        }
    }

    fn called(&self) -> MutexGuard<'_, Called> {
        self.called.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker begins; it is active from now on.
    pub fn join(&self) {
        self.spares.join();
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    /// Who knows where callers run.
    pub fn scout(&self) -> &Scout {
        &self.scout
    }

    /// Whether only one worker is at work.
    pub fn is_alone(&self) -> bool {
        self.active.load(Ordering::Relaxed) <= 1
    }

    /// Parks the caller while another waits for requests; then it is the caller who does, unless there are none
    /// any more.
    pub fn wait_turn(&self) -> Result<(), End> {
        while self.waits.swap(true, Ordering::AcqRel) {
            let mut called = self.called();
            if let Some(end) = called.end {
                return Err(end);
            }
            called.parked += 1;
            self.active.fetch_sub(1, Ordering::Relaxed);
            while called.calls == 0 && called.end.is_none() {
                called = self.call.wait(called).unwrap_or_else(PoisonError::into_inner);
            }
            called.calls = called.calls.saturating_sub(1);
            called.parked -= 1;
            self.active.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The caller, who waited, has a request.
    pub fn took(&self) {
        self.waits.store(false, Ordering::Release);
        self.taken.fetch_add(1, Ordering::SeqCst);
        if self.dozes.load(Ordering::SeqCst) {
            let _called = self.called();
            self.overseer.notify_one();
        }
    }

    /// What was taken came from a thread of some number; 0 is the kernel itself.
    pub fn asked_by(&self, thread: u32) {
        if thread != 0 && self.caller.load(Ordering::Relaxed) != thread {
            self.caller.store(thread, Ordering::Relaxed);
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// There are no more requests: all workers end.
    pub fn dissolve(&self, end: End) {
        self.called().end.get_or_insert(end);
        self.call.notify_all();
        self.overseer.notify_one();
    }

    /// Has another worker wait for requests if there are some that nobody waits for.
    pub fn call_if_needed(&self, device: &OwnedFd) {
        if self.is_needed(device) {
            self.call_one();
        }
    }

    fn is_needed(&self, device: &OwnedFd) -> bool {
        !self.waits.load(Ordering::Acquire) && has_requests(device)
    }

    fn call_one(&self) {
        let mut called = self.called();
        let is_allowed = self.active.load(Ordering::Relaxed) + called.calls < self.most + self.spares.waiting();
        if called.parked > called.calls && is_allowed {
            called.calls += 1;
            self.call.notify_one();
        }
    }

    /// Looks after the workers until they end.
    pub fn oversee(&self, device: &OwnedFd) {
        let (mut seen, mut idle, mut needed, mut changes) = (0, 0, false, 0);
        while self.pause(if idle >= IDLE_TICKS { Pause::Doze { seen } } else { Pause::Tick }) {
            let taken = self.taken.load(Ordering::Relaxed);
            let before = std::mem::replace(&mut needed, self.is_needed(device));
            let changed = std::mem::replace(&mut changes, self.changes.load(Ordering::Relaxed)) != changes;
            let keeps_up = taken != seen && !changed;
            idle = if taken == seen { idle + 1 } else { 0 };
            seen = taken;
            if before && needed && !keeps_up {
                self.call_one();
                idle = 0;
            }
        }
    }

    /// Waits; `false` at the end.
    fn pause(&self, pause: Pause) -> bool {
        let mut called = self.called();
        if called.end.is_none() {
            let mut longest = TICK;
            if let Pause::Doze { seen } = pause {
                self.dozes.store(true, Ordering::SeqCst);
                // Who took one since does not know that it is to ring; and while nobody waits nobody will take one.
                if self.taken.load(Ordering::SeqCst) == seen && self.waits.load(Ordering::SeqCst) {
                    longest = LONGEST_DOZE;
                }
            }
            called = self.overseer.wait_timeout(called, longest).unwrap_or_else(PoisonError::into_inner).0;
            self.dozes.store(false, Ordering::SeqCst);
        }
        called.end.is_none()
    }
}

/// How long the overseer waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// A moment.
    Tick,
    /// Until a request is taken after so many.
    Doze { seen: usize },
}

/// Whether requests wait in the kernel.
fn has_requests(device: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(device, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::thread::{sleep, spawn};

    /// A pipe stands for the device: what can be read are requests.
    fn device() -> (OwnedFd, std::fs::File) {
        let (read, write) = rustix::pipe::pipe().expect("a pipe can be made");
        (read, write.into())
    }

    fn until(what: impl Fn() -> bool) {
        for _ in 0..5000 {
            if what() {
                return;
            }
            sleep(Duration::from_millis(1));
        }
        panic!("it did not happen");
    }

    #[test]
    fn one_waits_and_the_others_are_parked_until_they_are_needed() {
        let (crew, (device, mut requests)) = (Arc::new(Crew::new(2)), device());
        crew.join();
        assert!(crew.wait_turn().is_ok());
        let other = spawn({
            let crew = Arc::clone(&crew);
            crew.join();
            move || crew.wait_turn()
        });
        until(|| crew.called().parked == 1);
        assert!(crew.is_alone());
        // Nobody is needed: no request waits, or somebody waits for it.
        crew.call_if_needed(&device);
        requests.write_all(b"r").expect("a pipe has room");
        crew.call_if_needed(&device);
        assert_eq!(crew.called().calls, 0);
        crew.took();
        crew.call_if_needed(&device);
        assert_eq!(other.join().expect("it ends well"), Ok(()));
        assert!(!crew.is_alone());
    }

    #[test]
    fn the_overseer_calls_when_one_takes_long_and_all_end_together() {
        let (crew, (device, mut requests)) = (Arc::new(Crew::new(2)), device());
        crew.join();
        assert!(crew.wait_turn().is_ok());
        let others: Vec<_> = (0..2)
            .map(|_| {
                let crew = Arc::clone(&crew);
                crew.join();
                spawn(move || crew.wait_turn())
            })
            .collect();
        until(|| crew.called().parked == 2);
        let overseer = spawn({
            let crew = Arc::clone(&crew);
            move || crew.oversee(&device)
        });
        crew.took();
        // Long enough for the overseer to doze, if it did while nobody waits.
        sleep(TICK * IDLE_TICKS * 3);
        let begin = std::time::Instant::now();
        requests.write_all(b"r").expect("a pipe has room");
        until(|| crew.called().parked == 1);
        assert!(begin.elapsed() < LONGEST_DOZE / 2);
        crew.dissolve(End::Aborted);
        let ends: Vec<_> = others.into_iter().map(|other| other.join().expect("it ends well")).collect();
        assert!(ends.contains(&Ok(())) && ends.contains(&Err(End::Aborted)), "{ends:?}");
        overseer.join().expect("it ends well");
    }
}

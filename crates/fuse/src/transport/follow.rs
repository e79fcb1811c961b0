//! Where a worker runs: on the CPU of its callers, as long as it answers alone.
//!
//! A caller waits for its answer, so its CPU is free meanwhile, and has its bytes in its caches; another CPU has to be
//! interrupted for each request and for each answer, which on virtual machines costs several times what they cost
//! themselves. The kernel wakes a worker where it ran before, or anywhere else. So a worker that has to wait for requests
//! looks where its caller is, and goes there. With several workers at work they run where the kernel thinks best.
//!
//! # Invariants
//! * No worker looks by itself: what `/proc` tells of a thread may have to wait for that thread, and it waits for its answer.

use crate::thread;
use butterfs_os::cpus;
use butterfs_os::idle_class::{self, IdleClass};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Who waits longer for a request than this is not where its caller is: there a request comes as soon as the caller waits.
const ELSEWHERE: Duration = Duration::from_micros(15);
/// After so many waits in a row it looks where its caller is.
const LOOK_AFTER: u32 = 2;
/// It looks no more often than this, and half as often whenever it found its caller where it was.
const LOOK_OFTEN: Duration = Duration::from_micros(500);
/// And as often as this at least.
const LOOK_SELDOM: Duration = Duration::from_millis(8);

/// A thread that finds out where callers run. Nobody waits for it, not at the end either: it ends by itself.
pub(crate) struct Scout {
    asked: Option<SyncSender<u32>>,
    /// A thread's number and its CPU.
    seen: Arc<AtomicU64>,
}

impl Scout {
    /// Starts it. Where that fails nobody is followed.
    pub fn new() -> Self {
        let (asked, questions) = sync_channel(1);
        let seen = Arc::new(AtomicU64::new(0));
        let answers = Arc::clone(&seen);
        let look = move || {
            // So that it never counts as work that its callers' CPU is busy with. It has all the time there is.
            let _class = idle_class::may_come_back().then(IdleClass::enter);
            for thread in questions {
                if let Some(cpu) = cpu_of(thread) {
                    answers.store(u64::from(thread) << 32 | u64::from(cpu), Ordering::Relaxed);
                }
            }
        };
        let started = thread::spawn("fuse-scout", look);
        Self { asked: started.ok().map(|_| asked), seen }
    }

    /// Has it look where a thread runs, unless it is looking already.
    fn ask(&self, thread: u32) {
        if let Some(asked) = &self.asked {
            self.seen.store(0, Ordering::Relaxed);
            let _ = asked.try_send(thread);
        }
    }

    /// Where the thread runs, once it has looked; it says so once.
    fn cpu_of(&self, thread: u32) -> Option<usize> {
        let seen = self.seen.load(Ordering::Relaxed);
        let is_it = thread != 0 && seen >> 32 == u64::from(thread);
        is_it.then(|| self.seen.store(0, Ordering::Relaxed)).map(|()| (seen & u64::from(u32::MAX)) as usize)
    }
}

/// Where one worker runs.
#[derive(Default)]
pub(crate) struct Place {
    /// Requests in a row that it waited for.
    waits: u32,
    /// When it asked last, and for how long it is not to ask again.
    asked: Option<(Instant, Duration)>,
    bound: Option<usize>,
}

impl Place {
    /// A request of a thread of some number came now to this worker, the only one at work, which waited for it so long.
    pub fn asked_by(&mut self, thread: u32, waited: Duration, now: Instant, scout: &Scout) {
        if let Some(cpu) = scout.cpu_of(thread) {
            self.go_to(cpu);
        }
        self.waits = if waited > ELSEWHERE { self.waits + 1 } else { 0 };
        if self.waits < LOOK_AFTER || thread == 0 {
            return;
        }
        let pause = match self.asked {
            Some((asked, pause)) if now.duration_since(asked) < pause => return,
            Some((_, pause)) => pause,
            None => LOOK_OFTEN,
        };
        (self.waits, self.asked) = (0, Some((now, pause)));
        scout.ask(thread);
    }

    /// It runs anywhere, until it has looked again: for who is not the only one at work.
    pub fn leave(&mut self) {
        let left = std::mem::take(self);
        if left.bound.is_some() {
            cpus::release();
        }
    }

    fn go_to(&mut self, cpu: usize) {
        if self.bound == Some(cpu) {
            self.asked = self.asked.map(|(asked, pause)| (asked, (pause * 2).min(LOOK_SELDOM)));
            return;
        }
        self.asked = self.asked.map(|(asked, _)| (asked, LOOK_OFTEN));
        // What a caller may use may not be for this process.
        if cpus::bind(cpu).is_ok() {
            self.bound = Some(cpu);
        }
    }
}

/// The CPU that a thread ran on last.
fn cpu_of(thread: u32) -> Option<u32> {
    cpu_in(&std::fs::read_to_string(format!("/proc/{thread}/stat")).ok()?)
}

/// Field 39 of a line of `/proc/*/stat`; the second one may have spaces in it.
fn cpu_in(line: &str) -> Option<u32> {
    line.rsplit_once(") ")?.1.split_ascii_whitespace().nth(36)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_found_behind_any_name() {
        let rest: Vec<String> = (3..=52).map(|field| field.to_string()).collect();
        assert_eq!(cpu_in(&format!("77 (a ) 5 b) {}", rest.join(" "))), Some(39));
        assert_eq!(cpu_in("77 (short) S 1"), None);
        assert_eq!(cpu_in(""), None);
    }

    #[test]
    fn a_worker_goes_where_its_caller_is_and_may_leave() {
        let here = || rustix::thread::sched_getaffinity(None).expect("this thread has CPUs");
        let (mut place, scout, everywhere) = (Place::default(), Scout::new(), here());
        let own = rustix::thread::gettid().as_raw_pid() as u32;
        let mut now = Instant::now();
        let mut ask = |place: &mut Place, thread, waited| {
            now += LOOK_SELDOM;
            place.asked_by(thread, waited, now, &scout);
        };
        assert!(cpu_of(own).is_some());
        // Requests that came at once: it is where its caller is.
        (0..LOOK_AFTER * 2).for_each(|_| ask(&mut place, own, Duration::ZERO));
        assert_eq!(place.asked, None);
        // Nobody has this number.
        (0..LOOK_AFTER * 2).for_each(|_| ask(&mut place, u32::MAX, ELSEWHERE * 2));
        assert!(place.asked.is_some());
        assert_eq!((place.bound, scout.cpu_of(u32::MAX)), (None, None));
        while place.bound.is_none() {
            ask(&mut place, own, ELSEWHERE * 2);
            std::thread::yield_now();
        }
        assert_eq!(here().count(), 1);
        assert!(place.bound.is_some_and(|cpu| here().is_set(cpu)));
        // While others answer too.
        place.leave();
        assert_eq!((place.bound, here()), (None, everywhere));
    }

    #[test]
    fn who_finds_its_caller_where_it_was_looks_less_often() {
        let mut place = Place { bound: Some(0), asked: Some((Instant::now(), LOOK_OFTEN)), ..Place::default() };
        let pause = |place: &Place| place.asked.map(|(_, pause)| pause);
        place.go_to(0);
        assert_eq!(pause(&place), Some(LOOK_OFTEN * 2));
        (0..10).for_each(|_| place.go_to(0));
        assert_eq!(pause(&place), Some(LOOK_SELDOM));
        place.go_to(usize::MAX);
        assert_eq!((pause(&place), place.bound), (Some(LOOK_OFTEN), Some(0)), "there is no such CPU");
    }
}

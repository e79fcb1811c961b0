//! Where a worker runs: on the CPU of its callers, as long as it answers alone.
//!
//! A caller waits for its answer, so its CPU is free meanwhile, and has its bytes in its caches; another CPU has to be
//! interrupted for each request and for each answer, which on virtual machines costs several times what they cost
//! themselves. The kernel wakes a worker where it ran before, or anywhere else. So a worker looks now and then where
//! its caller is, and goes there. With several workers at work they run where the kernel thinks best.
//!
//! # Invariants
//! * No worker looks by itself: what `/proc` tells of a thread may have to wait for that thread, and it waits for its answer.

use crate::thread;
use butterfs_os::cpus;
use rustix::thread::sched_getcpu;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

/// After so many requests it looks again.
const LOOK_EVERY: u32 = 32;

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
            let _ = asked.try_send(thread);
        }
    }

    /// Where the thread ran when it was looked at, if it was the last.
    fn cpu_of(&self, thread: u32) -> Option<usize> {
        let seen = self.seen.load(Ordering::Relaxed);
        (seen >> 32 == u64::from(thread)).then_some((seen & u64::from(u32::MAX)) as usize)
    }
}

/// Where one worker runs.
#[derive(Default)]
pub(crate) struct Place {
    since: u32,
    bound: Option<usize>,
}

impl Place {
    /// A request of a thread of some number came to this worker, the only one at work.
    pub fn asked_by(&mut self, thread: u32, scout: &Scout) {
        self.since += 1;
        if self.since >= LOOK_EVERY && thread != 0 {
            self.since = 0;
            scout.cpu_of(thread).into_iter().for_each(|cpu| self.go_to(cpu));
            scout.ask(thread);
        }
    }

    /// It runs anywhere, until it has looked again: for who is not the only one at work.
    pub fn leave(&mut self) {
        self.since = 0;
        if self.bound.take().is_some() {
            cpus::release();
        }
    }

    fn go_to(&mut self, cpu: usize) {
        let is_there = self.bound.map_or_else(|| sched_getcpu() == cpu, |bound| bound == cpu);
        // What a caller may use may not be for this process.
        if !is_there && cpus::bind(cpu).is_ok() {
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
        assert!(cpu_of(own).is_some());
        // Nobody has this number.
        (0..LOOK_EVERY * 2).for_each(|_| place.asked_by(u32::MAX, &scout));
        assert_eq!((place.bound, scout.cpu_of(u32::MAX)), (None, None));
        // As if its caller had gone to another CPU since.
        place.bound = Some(usize::MAX);
        while scout.cpu_of(own).is_none() {
            (0..LOOK_EVERY).for_each(|_| place.asked_by(own, &scout));
            std::thread::yield_now();
        }
        (0..LOOK_EVERY).for_each(|_| place.asked_by(own, &scout));
        assert_eq!(here().count(), 1);
        assert!(place.bound.is_some_and(|cpu| here().is_set(cpu)));
        // While others answer too.
        place.leave();
        assert_eq!((place.bound, here()), (None, everywhere));
    }
}

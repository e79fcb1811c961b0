//! Where a worker runs: on the CPU of its callers, as long as it answers alone and quickly.
//!
//! A caller waits for its answer, so its CPU is free meanwhile, and has its bytes in its caches; another CPU has to be
//! interrupted for each request and for each answer, which on virtual machines costs several times what they cost
//! themselves. The kernel wakes a worker where it ran before, or anywhere else. So a worker looks now and then where
//! its caller is, and goes there. With several workers at work they run where the kernel thinks best.
//!
//! # Invariants
//! * What starts threads does so unbound, or they would all have that one CPU: before operations that take long, and
//!   after one that took long, a worker spreads.

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use std::time::Duration;

/// After so many requests it looks again.
const LOOK_EVERY: u32 = 32;
/// What takes that long may be the work of many cores.
const LONG: Duration = Duration::from_millis(3);

/// Where one worker runs.
pub(crate) struct Place {
    /// Where it may run, if it may choose.
    allowed: Option<CpuSet>,
    since: u32,
    bound: Option<usize>,
    /// Where it was bound until it spread for one operation.
    home: Option<usize>,
}

impl Place {
    /// For the thread that calls.
    pub fn new() -> Self {
        let allowed = sched_getaffinity(None).ok().filter(|set| set.count() > 1);
        Self { allowed, since: 0, bound: None, home: None }
    }

    /// A request of a thread of some number came to this worker, the only one at work.
    pub fn asked_by(&mut self, thread: u32) {
        if let Some(home) = self.home.take() {
            self.bind(home);
        }
        self.since += 1;
        if self.since >= LOOK_EVERY && thread != 0 {
            self.since = 0;
            self.follow(thread);
        }
    }

    /// The answer took so long.
    pub fn took(&mut self, time: Duration) {
        if time >= LONG {
            self.leave();
        }
    }

    /// For one operation it runs anywhere, and so do the threads that it starts.
    pub fn spread(&mut self) {
        let (Some(cpu), Some(allowed)) = (self.bound.take(), &self.allowed) else { return };
        self.home = Some(cpu);
        if sched_setaffinity(None, allowed).is_err() {
            self.allowed = None;
        }
    }

    /// It runs anywhere, until it has looked again: for who is not the only one at work.
    pub fn leave(&mut self) {
        self.spread();
        (self.home, self.since) = (None, 0);
    }

    fn follow(&mut self, thread: u32) {
        let Some(allowed) = &self.allowed else { return };
        let Some(cpu) = cpu_of(thread).filter(|cpu| *cpu < CpuSet::MAX_CPU && allowed.is_set(*cpu)) else { return };
        if self.bound != Some(cpu) && (self.bound.is_some() || sched_getcpu() != cpu) {
            self.bind(cpu);
        }
    }

    fn bind(&mut self, cpu: usize) {
        let mut there = CpuSet::new();
        there.set(cpu);
        match sched_setaffinity(None, &there) {
            Ok(()) => self.bound = Some(cpu),
            // What it may do was changed from outside.
            Err(_) => self.allowed = None,
        }
    }
}

/// The CPU that a thread ran on last.
fn cpu_of(thread: u32) -> Option<usize> {
    cpu_in(&std::fs::read_to_string(format!("/proc/{thread}/stat")).ok()?)
}

/// Field 39 of a line of `/proc/*/stat`; the second one may have spaces in it.
fn cpu_in(line: &str) -> Option<usize> {
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
        let mut place = Place::new();
        let everywhere = sched_getaffinity(None).expect("this thread has CPUs");
        let here = || sched_getaffinity(None).expect("this thread has CPUs");
        let own = rustix::thread::gettid().as_raw_pid() as u32;
        assert!(cpu_of(own).is_some());
        // Nobody has this number.
        (0..LOOK_EVERY).for_each(|_| place.asked_by(u32::MAX));
        assert_eq!(place.bound, None);
        let cpu = sched_getcpu();
        place.bind(cpu);
        assert_eq!((place.bound, here().count()), (Some(cpu), 1));
        // For one operation.
        place.spread();
        assert_eq!((place.bound, here()), (None, everywhere));
        place.asked_by(own);
        assert_eq!((place.bound, here().count()), (Some(cpu), 1));
        // For some, after one that took long, or while others answer too.
        place.took(LONG);
        place.asked_by(own);
        assert_eq!((place.bound, here()), (None, everywhere));
        place.bind(cpu);
        place.leave();
        place.asked_by(own);
        assert_eq!((place.bound, here()), (None, everywhere));
    }
}

//! A caller that is answered goes on where its worker is: the worker hands the CPU over along with the answer.
//!
//! The kernel does not know that the one who answers is about to wait: it wakes the caller on another CPU if one is
//! idle, and from there the next request has to cross back. On an idle virtual machine that is most of what a request
//! costs. For the scheduler a CPU that runs only work of the idle class is free; so a worker is of that class while it
//! sends an answer. The caller takes its CPU at once, and the worker goes on when the caller waits for its next answer.
//!
//! # Invariants
//! * Only a worker that is alone does it, and holds nothing meanwhile but its turn. While its caller goes on for long, the
//!   overseer has another wait for requests.
//! * Where several callers go on for long between their requests, each would wait for the overseer, and where others want
//!   the CPU the worker would get it last: it is not done there.

use butterfs_os::cpus;
use butterfs_os::idle_class::{self, IdleClass};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A worker that had no CPU for longer may have kept others waiting.
const LONG: Duration = Duration::from_micros(200);
/// What a request counts that may have waited while another's caller went on.
const KEPT_WAITING: u32 = 16;
/// From here on there are several callers that go on for long.
const TOO_MANY: u32 = 64;
/// Then it is not done for a time; for twice that if it is no better then, and so on.
const PAUSE: Duration = Duration::from_millis(50);
/// But no longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Whether and how one worker does it.
#[derive(Debug)]
pub(crate) struct HandOver {
    /// The caller that was answered last, if the worker had no CPU for long after that.
    went_on: Option<u32>,
    /// How much requests waited of late.
    waits: u32,
    /// Until then it is not done.
    paused: Option<Instant>,
    /// How long it will not be done next time.
    pause: Duration,
}

impl Default for HandOver {
    fn default() -> Self {
        Self { went_on: None, waits: 0, paused: None, pause: PAUSE }
    }
}

impl HandOver {
    /// A request came now from a thread of some number.
    pub fn asked_by(&mut self, thread: u32, now: Instant) {
        let kept_waiting = self.went_on.take().is_some_and(|last| last != thread);
        self.waits = if kept_waiting { self.waits + KEPT_WAITING } else { self.waits.saturating_sub(1) };
        if self.waits >= TOO_MANY {
            self.pause(now);
        }
        self.paused = self.paused.filter(|until| now < *until);
    }

    fn pause(&mut self, now: Instant) {
        self.waits = 0;
        self.paused = Some(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// Sends the answer for a thread, and hands it the CPU.
    pub fn with<T>(&mut self, thread: u32, send: impl FnOnce() -> T) -> T {
        if self.paused.is_some() || !is_possible() {
            return send();
        }
        let begin = Instant::now();
        let class = IdleClass::enter();
        let sent = send();
        drop(class);
        let end = Instant::now();
        if end - begin > LONG {
            self.had_no_cpu(thread, end, are_cpus_busy());
        }
        sent
    }

    /// The worker had no CPU for long after it answered a thread.
    fn had_no_cpu(&mut self, thread: u32, now: Instant, are_cpus_busy: bool) {
        self.went_on = Some(thread);
        match are_cpus_busy {
            // It was not its caller, or not only, that ran meanwhile.
            true => self.pause(now),
            false => self.pause = PAUSE,
        }
    }
}

/// Whether more threads want to run now than can, this one counted.
fn are_cpus_busy() -> bool {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    runnable_in(&text).is_some_and(|runnable| runnable > cpus::cores())
}

/// In "0.00 0.01 0.05 1/79 1546": 1.
fn runnable_in(loadavg: &str) -> Option<usize> {
    loadavg.split_ascii_whitespace().nth(3)?.split_once('/')?.0.parse().ok()
}

/// Whether this process may.
fn is_possible() -> bool {
    static POSSIBLE: OnceLock<bool> = OnceLock::new();
    *POSSIBLE.get_or_init(idle_class::may_come_back)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer after which the worker had no CPU for long, or had.
    fn answer(hand_over: &mut HandOver, thread: u32, now: Instant, went_on: bool) {
        hand_over.asked_by(thread, now);
        if went_on {
            hand_over.had_no_cpu(thread, now, false);
        }
    }

    #[test]
    fn a_lone_caller_may_go_on_for_long_and_several_may_not() {
        let (mut hand_over, now) = (HandOver::default(), Instant::now());
        (0..10).for_each(|_| answer(&mut hand_over, 1, now, true));
        assert_eq!((hand_over.waits, hand_over.paused), (0, None), "one caller keeps nobody waiting");
        // One process after another, each with some requests.
        for process in 0..10 {
            (0..KEPT_WAITING + 1).for_each(|at| answer(&mut hand_over, process, now, at == KEPT_WAITING));
        }
        assert_eq!(hand_over.paused, None);
        // Two, in turn.
        (0..TOO_MANY / KEPT_WAITING + 1).for_each(|at| answer(&mut hand_over, at % 2, now, true));
        assert_eq!(hand_over.paused, Some(now + PAUSE));
        hand_over.asked_by(1, now + PAUSE);
        assert_eq!(hand_over.paused, None, "it is tried again");
    }

    #[test]
    fn on_a_busy_machine_it_is_tried_less_and_less() {
        let (mut hand_over, mut now) = (HandOver::default(), Instant::now());
        for pause in [PAUSE, PAUSE * 2, PAUSE * 4] {
            hand_over.asked_by(1, now);
            assert_eq!(hand_over.paused, None);
            hand_over.had_no_cpu(1, now, true);
            assert_eq!(hand_over.paused, Some(now + pause));
            now += pause;
        }
        (0..20).for_each(|_| hand_over.had_no_cpu(1, now, true));
        assert_eq!(hand_over.paused, Some(now + LONGEST_PAUSE));
        hand_over.had_no_cpu(1, now, false);
        assert_eq!(hand_over.pause, PAUSE);
    }

    #[test]
    fn an_answer_is_sent_once_whatever_is_possible() {
        let (mut hand_over, mut sent) = (HandOver::default(), 0);
        hand_over.with(1, || sent += 1);
        hand_over.pause(Instant::now());
        hand_over.with(1, || sent += 1);
        assert_eq!(sent, 2);
    }

    #[test]
    fn those_that_want_to_run_are_counted() {
        assert_eq!(runnable_in("0.02 0.01 0.00 3/79 1546\n"), Some(3));
        assert_eq!(runnable_in(""), None);
        let here = std::fs::read_to_string("/proc/loadavg").expect("/proc is mounted");
        assert!(runnable_in(&here).is_some_and(|runnable| runnable > 0), "this thread runs: {here}");
    }
}

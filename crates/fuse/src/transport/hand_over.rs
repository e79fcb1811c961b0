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
//! * Where several callers go on for long between their requests, each would wait for the overseer: it is not done there.

use butterfs_os::idle_class::{self, IdleClass};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A caller that goes on for longer may keep others waiting.
const LONG: Duration = Duration::from_micros(200);
/// What a request counts that may have waited while another's caller went on.
const KEPT_WAITING: u32 = 16;
/// From here on there are several callers that go on for long.
const TOO_MANY: u32 = 64;
/// Then it is not done for so many requests.
const PAUSE: u32 = 1024;

/// Whether and how one worker does it.
#[derive(Debug, Default)]
pub(crate) struct HandOver {
    /// The caller that was answered last, if it went on for long.
    went_on: Option<u32>,
    /// How much requests waited of late.
    waits: u32,
    /// Requests until it is tried again.
    pause: u32,
}

impl HandOver {
    /// A request came from a thread of some number.
    pub fn asked_by(&mut self, thread: u32) {
        let kept_waiting = self.went_on.take().is_some_and(|last| last != thread);
        self.waits = if kept_waiting { self.waits + KEPT_WAITING } else { self.waits.saturating_sub(1) };
        self.pause = self.pause.saturating_sub(1);
        if self.waits >= TOO_MANY {
            (self.waits, self.pause) = (0, PAUSE);
        }
    }

    /// Sends the answer for a thread, and hands it the CPU.
    pub fn with<T>(&mut self, thread: u32, send: impl FnOnce() -> T) -> T {
        if self.pause > 0 || !is_possible() {
            return send();
        }
        let begin = Instant::now();
        let class = IdleClass::enter();
        let sent = send();
        drop(class);
        self.went_on = (begin.elapsed() > LONG).then_some(thread);
        sent
    }
}

/// Whether this process may.
fn is_possible() -> bool {
    static POSSIBLE: OnceLock<bool> = OnceLock::new();
    *POSSIBLE.get_or_init(idle_class::may_come_back)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(hand_over: &mut HandOver, thread: u32, goes_on: bool) {
        hand_over.asked_by(thread);
        hand_over.with(thread, || {
            if goes_on {
                std::thread::sleep(LONG * 2)
            }
        });
    }

    #[test]
    fn a_lone_caller_may_go_on_for_long_and_several_may_not() {
        let mut hand_over = HandOver::default();
        if !is_possible() {
            return;
        }
        (0..10).for_each(|_| answer(&mut hand_over, 1, true));
        assert_eq!((hand_over.waits, hand_over.pause), (0, 0), "one caller keeps nobody waiting");
        // One process after another, each with some requests.
        for process in 0..10 {
            (0..KEPT_WAITING + 1).for_each(|at| answer(&mut hand_over, process, at == KEPT_WAITING));
        }
        assert_eq!(hand_over.pause, 0);
        // Two, in turn.
        (0..TOO_MANY / KEPT_WAITING + 1).for_each(|at| answer(&mut hand_over, at % 2, true));
        assert!(hand_over.pause > 0);
        (0..PAUSE).for_each(|_| answer(&mut hand_over, 1, false));
        assert_eq!((hand_over.waits, hand_over.pause), (0, 0), "it is tried again");
    }
}

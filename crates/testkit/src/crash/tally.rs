//! Counts of judged states.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::judge::{Verdict, Violation};
use super::recording::Event;
use super::states::{CrashState, Plan};

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Events recorded.
    pub events: usize,
    /// Writes among them.
    pub writes: usize,
    /// Flushes among them.
    pub flushes: usize,
    /// States judged.
    pub states: usize,
    /// Of these, from complete lists of small cases.
    pub exact: usize,
    /// With a write that is there in part.
    pub torn: usize,
    /// Before the end of mkfs, without a filesystem.
    pub not_made: usize,
    /// That show the last durable commit.
    pub last_commit: usize,
    /// That show a newer one.
    pub newer: usize,
    /// With a log tree.
    pub with_log: usize,
    /// What was wrong: which state, and why.
    pub violations: Vec<(String, String)>,
}

impl Tally {
    /// The judgement of all states of a plan, by so many threads; what was written in the end comes first, without a cut.
    pub fn of(plan: &Plan, threads: usize, judge: impl Fn(&CrashState) -> Result<Verdict, Violation> + Sync) -> Self {
        let mut tally = Self {
            events: plan.events().len(),
            writes: plan.events().iter().filter(|event| matches!(event, Event::Write { .. })).count(),
            flushes: plan.events().iter().filter(|event| matches!(event, Event::Flush { .. })).count(),
            exact: plan.exact_states(),
            ..Self::default()
        };
        let whole = plan.final_state();
        tally.count(&whole, judge(&whole));
        let next = AtomicUsize::new(0);
        let shared = Mutex::new(tally);
        std::thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= plan.len() {
                            return;
                        }
                        let state = plan.state(number);
                        let result = judge(&state);
                        shared.lock().unwrap_or_else(PoisonError::into_inner).count(&state, result);
                    }
                });
            }
        });
        shared.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&mut self, state: &CrashState, result: Result<Verdict, Violation>) {
        self.states += 1;
        self.torn += usize::from(state.is_torn());
        match result {
            Ok(Verdict::NotMade) => self.not_made += 1,
            Ok(Verdict::LastCommit) => self.last_commit += 1,
            Ok(Verdict::Newer) => self.newer += 1,
            Ok(Verdict::WithLog) => self.with_log += 1,
            Err(Violation(why)) => self.violations.push((state.to_string(), why)),
        }
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.writes += other.writes;
        self.flushes += other.flushes;
        self.states += other.states;
        self.exact += other.exact;
        self.torn += other.torn;
        self.not_made += other.not_made;
        self.last_commit += other.last_commit;
        self.newer += other.newer;
        self.with_log += other.with_log;
        self.violations.extend(other.violations.iter().cloned());
    }

    /// The heads of the columns of [`Tally::row`].
    pub const HEAD: &str = "| workload | writes | flushes | states | exact | torn | no filesystem | last commit | newer | log | violations |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|";

    /// A row of a Markdown table.
    pub fn row(&self, name: &str) -> String {
        let numbers = [
            self.writes,
            self.flushes,
            self.states,
            self.exact,
            self.torn,
            self.not_made,
            self.last_commit,
            self.newer,
            self.with_log,
            self.violations.len(),
        ];
        let cells: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        format!("| {name} | {} |", cells.join(" | "))
    }
}

//! When each turn of a program began and was over, in terms of the recording.
//!
//! # Invariants
//! * The turns of a lane come one after another; the first has the number 1.
//! * A turn is noted as begun before its first change, and as over after its last fsync returned.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::crash::recording::Recorder;

#[derive(Clone, Copy)]
struct Turn {
    begun: usize,
    over: Option<usize>,
}

/// What is known of a lane at the moment of a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The last turn that was over; 0 for none.
    pub over: u64,
    /// The last turn that had begun: the same one, or the next.
    pub begun: u64,
}

/// The turns of all lanes.
pub struct Ledger {
    recorder: Arc<Recorder>,
    lanes: Vec<Mutex<Vec<Turn>>>,
}

impl Ledger {
    /// An empty one.
    pub fn new(recorder: Arc<Recorder>, lanes: usize) -> Self {
        Self { recorder, lanes: (0..lanes).map(|_| Mutex::default()).collect() }
    }

    /// A turn begins; gives its number.
    pub fn begin(&self, lane: usize) -> u64 {
        let begun = self.recorder.position();
        let mut turns = self.lane(lane);
        turns.push(Turn { begun, over: None });
        turns.len() as u64
    }

    /// The turn is over: what it did is durable, as far as the program can tell.
    pub fn over(&self, lane: usize) {
        let mut turns = self.lane(lane);
        let number = turns.len();
        let turn = turns.last_mut().expect("a turn ends after it began");
        turn.over = Some(self.recorder.mark(format!("lane {lane}: turn {number} is over")));
    }

    /// One whole turn.
    pub fn turn(&self, lane: usize, work: impl FnOnce(u64)) {
        let number = self.begin(lane);
        work(number);
        self.over(lane);
    }

    /// How many turns there are in all lanes.
    pub fn turns(&self) -> usize {
        (0..self.lanes.len()).map(|lane| self.lane(lane).len()).sum()
    }

    /// What is known of a lane when the power is cut after so many events.
    pub fn at(&self, lane: usize, cut: usize) -> Bounds {
        let turns = self.lane(lane);
        let over = turns.iter().take_while(|turn| turn.over.is_some_and(|over| over <= cut)).count();
        let begun = turns.iter().take_while(|turn| turn.begun < cut).count();
        Bounds { over: over as u64, begun: begun.max(over) as u64 }
    }

    fn lane(&self, lane: usize) -> MutexGuard<'_, Vec<Turn>> {
        self.lanes[lane].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_over_only_after_its_mark() {
        let recorder = Recorder::new();
        let ledger = Ledger::new(Arc::clone(&recorder), 1);
        recorder.mark("before");
        ledger.turn(0, |_| _ = recorder.mark("within"));
        ledger.begin(0);
        recorder.mark("within the next");
        let bounds = |cut| (ledger.at(0, cut).over, ledger.at(0, cut).begun);
        assert_eq!([1, 2, 3, 4].map(bounds), [(0, 0), (0, 1), (1, 1), (1, 2)]);
    }
}

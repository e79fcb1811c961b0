//! When each turn of a program began and was over, in terms of the recording.
//!
//! # Invariants
//! * The turns of a lane come one after another; the first has the number 1.
//! * A turn is noted as begun before its first change, and as over after its last fsync returned.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::crash::recording::Recorder;

#[derive(Clone)]
struct Turn {
    begun: usize,
    over: Option<usize>,
    note: String,
}

/// What is known of a lane at the moment of a cut.
#[derive(Clone, Debug)]
pub struct Lane {
    /// Which one.
    pub number: usize,
    /// The last turn that was over; 0 for none.
    pub over: u64,
    /// The last turn that had begun: the same one, or the next.
    pub begun: u64,
    /// What the program noted at the end of each turn, those after the cut too.
    pub notes: Vec<String>,
}

impl Lane {
    /// The turns of which one may be the last that is there.
    pub fn possible(&self) -> RangeInclusive<u64> {
        self.over..=self.begun
    }
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

    /// A turn begins.
    pub fn begin(&self, lane: usize) {
        let begun = self.recorder.position();
        self.lane(lane).push(Turn { begun, over: None, note: String::new() });
    }

    /// The turn is over: what it did is durable, as far as the program can tell.
    pub fn over(&self, lane: usize, note: &str) {
        let mut turns = self.lane(lane);
        let number = turns.len();
        let turn = turns.last_mut().expect("a turn ends after it began");
        turn.over = Some(self.recorder.mark(format!("lane {lane}: turn {number} is over")));
        turn.note = note.into();
    }

    /// How many turns there are in all lanes.
    pub fn turns(&self) -> usize {
        (0..self.lanes.len()).map(|lane| self.lane(lane).len()).sum()
    }

    /// What is known of a lane when the power is cut after so many events.
    pub fn at(&self, lane: usize, cut: usize) -> Lane {
        let turns = self.lane(lane);
        let over = turns.iter().take_while(|turn| turn.over.is_some_and(|over| over <= cut)).count();
        let begun = turns.iter().take_while(|turn| turn.begun < cut).count().max(over);
        let notes = turns.iter().map(|turn| turn.note.clone()).collect();
        Lane { number: lane, over: over as u64, begun: begun as u64, notes }
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
        ledger.begin(0);
        recorder.mark("within");
        ledger.over(0, "a note");
        ledger.begin(0);
        recorder.mark("within the next");
        let bounds = |cut| (ledger.at(0, cut).over, ledger.at(0, cut).begun);
        assert_eq!([1, 2, 3, 4].map(bounds), [(0, 0), (0, 1), (1, 1), (1, 2)]);
        assert_eq!(ledger.at(0, 1).notes, ["a note", ""]);
    }
}

//! SQLite, in each way in which it keeps transactions, by Python's module. It runs as a process of its own, because it
//! maps files into memory.
//!
//! A turn is a transaction. What is found after a cut is what a whole number of transactions left, none of those
//! missing whose commit had returned.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use super::ledger::Lane;
use super::turns::{Speaker, Turns};
use super::{Files, Workload};
use crate::workdir::WorkDir;

const SCRIPT: &str = include_str!("sqlite.py");
const NAME: &str = "database";

/// How transactions are kept.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    /// `PRAGMA journal_mode`.
    pub journal: &'static str,
    /// `PRAGMA synchronous`.
    pub synchronous: &'static str,
    /// How many of the last transactions SQLite itself lets go, by its manual.
    pub may_lose: u64,
}

/// All that are durable by SQLite's manual, and the default one: without `EXTRA` the directory is not synced after the
/// journal is deleted, so the journal of the last transaction may be back.
pub const MODES: [Mode; 5] = [
    Mode { journal: "delete", synchronous: "extra", may_lose: 0 },
    Mode { journal: "delete", synchronous: "full", may_lose: 1 },
    Mode { journal: "truncate", synchronous: "full", may_lose: 0 },
    Mode { journal: "persist", synchronous: "full", may_lose: 0 },
    Mode { journal: "wal", synchronous: "full", may_lose: 0 },
];

/// The program.
pub struct Sqlite {
    mode: Mode,
    turns: u64,
    seed: u64,
    /// Started when it is first asked.
    judge: Mutex<Option<Judge>>,
}

impl Sqlite {
    /// So many transactions.
    pub fn new(mode: Mode, turns: u64, seed: u64) -> Self {
        Self { mode, turns, seed, judge: Mutex::default() }
    }
}

fn python(arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", SCRIPT]).args(arguments);
    command
}

/// Looks into databases.
struct Judge {
    python: Speaker,
    work: WorkDir,
}

impl Judge {
    fn start() -> Self {
        Self { python: Speaker::start(&mut python(&["judge"])), work: WorkDir::new("sqlite") }
    }

    /// What is in a database.
    fn look(&mut self, files: &Files) -> String {
        let path = self.work.file(NAME);
        for part in ["", "-journal", "-wal", "-shm"] {
            let copy = PathBuf::from(format!("{}{part}", path.display()));
            let _not_there = std::fs::remove_file(&copy);
            // The shared memory is no part of a database that nobody uses.
            if let Some(bytes) = files.get(&format!("{NAME}{part}")).filter(|_| part != "-shm") {
                std::fs::write(&copy, bytes).expect("a copy can be written");
            }
        }
        self.python.tell(path.to_str().expect("the path of a work directory is text"));
        self.python.hear().expect("the judge answers")
    }
}

impl Workload for Sqlite {
    fn name(&self) -> String {
        format!("SQLite, {}, {}", self.mode.journal, self.mode.synchronous)
    }

    /// Python speaks for this process.
    fn work(&self, top: &Path, _: &Turns) {
        let path = top.join(NAME);
        let path = path.to_str().expect("the path of a mount is text");
        let (turns, seed) = (self.turns.to_string(), self.seed.to_string());
        let mut command = python(&["write", path, self.mode.journal, self.mode.synchronous, &turns, &seed]);
        let status = command.status().unwrap_or_else(|error| panic!("python3 is needed: {error}"));
        assert!(status.success(), "{}: {status}", self.name());
    }

    /// The notes say what was in the database after each turn; before the first there was nothing.
    fn judge(&self, files: &Files, lane: &Lane) -> Result<(), String> {
        let mut judge = self.judge.lock().unwrap_or_else(PoisonError::into_inner);
        let found = judge.get_or_insert_with(Judge::start).look(files);
        drop(judge);
        let digest = |turn: u64| match turn.checked_sub(1) {
            None => Some("empty"),
            Some(index) => lane.notes.get(index as usize).map(String::as_str),
        };
        let possible = lane.over.saturating_sub(self.mode.may_lose)..=lane.begun;
        if possible.clone().any(|turn| digest(turn) == Some(&found)) {
            return Ok(());
        }
        match (0..=lane.notes.len() as u64).find(|turn| digest(*turn) == Some(&found)) {
            Some(turn) => Err(format!("the database is that of turn {turn}, {possible:?} are possible")),
            None => Err(format!("the database is that of no turn ({possible:?} are possible): {found}")),
        }
    }
}

//! SQLite, in each way in which it keeps transactions, by Python's module. It runs as a process of its own, because it
//! maps files into memory.
//!
//! A turn is a transaction. What is found after a cut is what a whole number of transactions left, none of those
//! missing whose commit had returned.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ledger::{Bounds, Ledger};
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
    /// What was in the database after each turn, from none on.
    digests: Mutex<Vec<String>>,
    judge: Mutex<Judge>,
}

impl Sqlite {
    /// So many transactions.
    pub fn new(mode: Mode, turns: u64, seed: u64) -> Self {
        Self { mode, turns, seed, digests: Mutex::new(vec!["empty".into()]), judge: Mutex::new(Judge::start()) }
    }

    fn digests(&self) -> MutexGuard<'_, Vec<String>> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A Python process, killed when dropped.
struct Python {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Python {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", SCRIPT]).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("python3 is needed: {error}"));
        let input = child.stdin.take().expect("the input is a pipe");
        let output = BufReader::new(child.stdout.take().expect("the output is a pipe"));
        Self { child, input, output }
    }

    /// The next line; none at the end.
    fn hear(&mut self) -> Option<String> {
        let mut line = String::new();
        let count = self.output.read_line(&mut line).expect("Python is heard");
        (count > 0).then(|| line.trim_end().to_owned())
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").and_then(|()| self.input.flush()).expect("Python hears");
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks into databases.
struct Judge {
    python: Python,
    work: WorkDir,
}

impl Judge {
    fn start() -> Self {
        Self { python: Python::start(&["judge"]), work: WorkDir::new("sqlite") }
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

    fn run(&self, top: &Path, ledger: &Ledger) {
        let path = top.join(NAME);
        let (turns, seed) = (self.turns.to_string(), self.seed.to_string());
        let path = path.to_str().expect("the path of a mount is text");
        let mut python = Python::start(&["write", path, self.mode.journal, self.mode.synchronous, &turns, &seed]);
        while let Some(line) = python.hear() {
            match line.split_once(' ') {
                None => _ = ledger.begin(0),
                Some((_, digest)) => {
                    ledger.over(0);
                    self.digests().push(digest.to_owned());
                }
            }
            python.tell("");
        }
        let status = python.child.wait().expect("Python ends");
        assert!(status.success(), "{}: {status}", self.name());
        assert_eq!(self.digests().len() as u64, self.turns + 1, "{}", self.name());
    }

    fn judge(&self, files: &Files, _: usize, bounds: Bounds) -> Result<(), String> {
        let found = self.judge.lock().unwrap_or_else(PoisonError::into_inner).look(files);
        let digests = self.digests();
        let possible = bounds.over.saturating_sub(self.mode.may_lose)..=bounds.begun;
        if possible.clone().any(|turn| digests.get(turn as usize) == Some(&found)) {
            return Ok(());
        }
        match digests.iter().position(|digest| *digest == found) {
            Some(turn) => Err(format!("the database is that of turn {turn}, {possible:?} are possible")),
            None => Err(format!("the database is that of no turn ({possible:?} are possible): {found}")),
        }
    }
}

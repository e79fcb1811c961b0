//! Programs that rely on fsync, run on a real mount whose device records; then power cuts.
//!
//! * [`ledger`]: what a program was promised, and when; [`turns`]: how it says so.
//! * [`records`], [`replace`], [`files`], [`sqlite`]: the programs, and what each must find again.
//! * [`run`]: a program on a mount of ours or of the kernel, the cuts, the counts.
//!
//! A program is a process of its own: one that used a mount which it serves itself could not be ended while it waits for
//! itself, and would leave a mount behind that nobody serves.
//!
//! A program works in turns. When a turn is over, all that it did was made durable by fsync (or what the program takes
//! for as good). After a cut each turn that was over must be there whole; the one under way may be there, or not, or, of
//! what is changed in place, in part.
//!
//! See `docs/crash-testing.md`.

use std::collections::BTreeMap;
use std::path::Path;

pub mod files;
pub mod ledger;
pub mod records;
pub mod replace;
pub mod run;
pub mod sqlite;
pub mod turns;

use ledger::Lane;
use turns::Turns;

/// The contents of all regular files that were found, by path from the top.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A program that relies on fsync.
pub trait Workload: Send + Sync {
    /// Its name in tables.
    fn name(&self) -> String;

    /// How many sequences of turns there are, each in a thread of its own.
    fn lanes(&self) -> usize {
        1
    }

    /// Works below the directory `top`, turn by turn.
    fn work(&self, top: &Path, turns: &Turns);

    /// Whether the files found after a cut are as they must be for one lane.
    ///
    /// # Errors
    /// What is lost, or should not be there.
    fn judge(&self, files: &Files, lane: &Lane) -> Result<(), String>;
}

/// All programs, each with so many turns: those that keep databases first.
pub fn all(turns: u64, seed: u64) -> Vec<Box<dyn Workload>> {
    use records::Durable;
    let mut all: Vec<Box<dyn Workload>> = Vec::new();
    for mode in sqlite::MODES {
        all.push(Box::new(sqlite::Sqlite::new(mode, turns, seed)));
    }
    for durable in [Durable::Fsync, Durable::Fdatasync, Durable::OpenSync] {
        all.push(Box::new(records::Records { durable, turns, seed }));
    }
    all.push(Box::new(replace::Replace { turns, seed }));
    all.push(Box::new(files::MixedFiles::new(turns, seed)));
    all
}

//! A log that only grows: each turn appends one record and makes it durable. What is found is a prefix of what was
//! written, with every record that was promised.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

use super::ledger::Lane;
use super::turns::Turns;
use super::{Files, Workload};
use crate::random::Random;

/// How a record is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durable {
    /// By `fsync`.
    Fsync,
    /// By `fdatasync`.
    Fdatasync,
    /// By a file that is open with `O_SYNC`.
    OpenSync,
}

/// The program.
pub struct Records {
    /// How a record is made durable.
    pub durable: Durable,
    /// How many records.
    pub turns: u64,
    /// Of their bytes.
    pub seed: u64,
}

const NAME: &str = "log";

impl Records {
    /// Mostly small, now and then of several sectors; never zero, so that a hole is seen.
    fn record(&self, number: u64) -> Vec<u8> {
        let mut random = Random::new(self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let len = random.between(1, if random.clone().percent(20) { 20_000 } else { 700 }) as usize;
        random.bytes(len).into_iter().map(|byte| byte | 1).collect()
    }

    fn stream(&self, turns: u64) -> Vec<u8> {
        (1..=turns).flat_map(|number| self.record(number)).collect()
    }
}

impl Workload for Records {
    fn name(&self) -> String {
        let how = match self.durable {
            Durable::Fsync => "fsync",
            Durable::Fdatasync => "fdatasync",
            Durable::OpenSync => "O_SYNC",
        };
        format!("append to a log, {how}")
    }

    fn work(&self, top: &Path, turns: &Turns) {
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        if self.durable == Durable::OpenSync {
            options.custom_flags(OFlags::SYNC.bits() as i32);
        }
        let mut file = options.open(top.join(NAME)).expect("the log opens");
        File::open(top).and_then(|dir| dir.sync_all()).expect("the directory is synced");
        for _ in 0..self.turns {
            turns.turn(0, |number| {
                file.write_all(&self.record(number)).expect("a record is written");
                match self.durable {
                    Durable::Fsync => file.sync_all().expect("fsync"),
                    Durable::Fdatasync => file.sync_data().expect("fdatasync"),
                    Durable::OpenSync => {}
                }
            });
        }
    }

    fn judge(&self, files: &Files, lane: &Lane) -> Result<(), String> {
        let Some(found) = files.get(NAME) else {
            return if lane.over == 0 { Ok(()) } else { Err(format!("the log is lost, with {} records", lane.over)) };
        };
        let (least, most) = (self.stream(lane.over), self.stream(lane.begun));
        if found.len() < least.len() {
            return Err(format!("{} bytes, {} were promised in turn {}", found.len(), least.len(), lane.over));
        }
        match found.iter().zip(&most).position(|(found, wanted)| found != wanted) {
            _ if found.len() > most.len() => Err(format!("{} bytes, {} were written", found.len(), most.len())),
            Some(at) => Err(format!("byte {at} of {} is not as it was written", found.len())),
            None => Ok(()),
        }
    }
}

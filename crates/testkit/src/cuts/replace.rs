//! A file that is replaced as a whole, as programs do with their settings: write a new one, fsync it, rename it over the
//! old one; every second time, fsync the directory. What is found is one version, whole.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::ledger::Lane;
use super::turns::Turns;
use super::{Files, Workload};
use crate::random::Random;

/// The program. A turn is two versions, of which the second is promised.
pub struct Replace {
    /// How many turns.
    pub turns: u64,
    /// Of the contents.
    pub seed: u64,
}

const NAME: &str = "settings";
const DRAFT: &str = "settings.new";

impl Replace {
    fn version(&self, number: u64) -> Vec<u8> {
        let mut random = Random::new(self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let len = random.between(1, 30_000) as usize;
        random.bytes(len)
    }

    fn replace(&self, top: &Path, version: u64) -> std::io::Result<()> {
        let mut file = File::create(top.join(DRAFT))?;
        file.write_all(&self.version(version))?;
        file.sync_all()?;
        std::fs::rename(top.join(DRAFT), top.join(NAME))
    }
}

impl Workload for Replace {
    fn name(&self) -> String {
        "replace by rename, fsync".into()
    }

    fn work(&self, top: &Path, turns: &Turns) {
        let dir = File::open(top).expect("the directory opens");
        for _ in 0..self.turns {
            turns.turn(0, |number| {
                self.replace(top, number * 2 - 1).expect("the file is replaced");
                self.replace(top, number * 2).expect("the file is replaced");
                dir.sync_all().expect("the directory is synced");
            });
        }
    }

    fn judge(&self, files: &Files, lane: &Lane) -> Result<(), String> {
        let Some(found) = files.get(NAME) else {
            return if lane.over == 0 { Ok(()) } else { Err(format!("lost, after turn {}", lane.over)) };
        };
        let possible = (lane.over * 2).max(1)..=lane.begun * 2;
        if possible.clone().any(|version| self.version(version) == *found) {
            return Ok(());
        }
        Err(format!("{} bytes, which are none of the versions {possible:?}", found.len()))
    }
}

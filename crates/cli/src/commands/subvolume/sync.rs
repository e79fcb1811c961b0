//! `butterfs subvolume sync`: waits until deleted subvolumes are gone.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use butterfs_fuse::control::{self, MountState};

use super::{failed, open};
use crate::failure::{Failure, Result};
use crate::{exit, output};

/// The numbers that subvolumes can have, but for the top level.
const NUMBERS: std::ops::RangeInclusive<u64> = 256..=u64::MAX - 255;

/// What `subvolume sync` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Look every so many seconds.
    #[arg(short = 's', value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    interval: u64,
    /// Any path in the mounted filesystem.
    path: PathBuf,
    /// The subvolumes; without any, all that are deleted now.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
}

/// Waits for each.
pub fn run(arguments: &Arguments) -> Result<()> {
    let path = arguments.path.as_path();
    let failed = |error: std::io::Error| failed(path, &error);
    let file = open(path)?;
    let deleted = || control::deleted_subvolumes(file.as_fd()).map_err(failed);
    let ids = match arguments.ids.is_empty() {
        true => deleted()?.iter().map(|found| found.id).collect(),
        false => arguments.ids.iter().map(|text| number(text)).collect::<Result<Vec<u64>>>()?,
    };
    if ids.is_empty() {
        return Ok(());
    }
    let (total, plural) = (ids.len(), if ids.len() == 1 { "" } else { "s" });
    output::line(format!("Waiting for {total} subvolume{plural}"));
    let mut left = ids;
    loop {
        // One that was never deleted is waited for, too, as by btrfs.
        let alive = control::list_subvolumes(file.as_fd()).map_err(failed)?;
        let there: Vec<u64> = deleted()?.iter().chain(&alive).map(|found| found.id).collect();
        let (rest, gone): (Vec<u64>, Vec<u64>) = left.iter().partition(|id| there.contains(id));
        for (at, id) in gone.iter().enumerate() {
            output::line(format!("Subvolume id {id} is gone ({}/{total})", total - left.len() + at + 1));
        }
        left = rest;
        if left.is_empty() {
            return Ok(());
        }
        if control::status(file.as_fd()).map_err(failed)?.state != MountState::ReadWrite {
            let text = "read-only, so deleted subvolumes do not go; mount it with -o rw";
            return Err(Failure::at(exit::USAGE, path, text));
        }
        std::thread::sleep(Duration::from_secs(arguments.interval));
    }
}

fn number(text: &str) -> Result<u64> {
    let number = text.parse().ok().filter(|number| NUMBERS.contains(number));
    number.ok_or_else(|| Failure::new(exit::USAGE, format!("subvolume id {text} out of range; see subvolume list -d")))
}

//! Unmounting beside other programs: one that looks at all mounts (`df`, an indexer, another test) holds each for a
//! moment, and `umount` says "busy". That is tried again; what is busy for long is left to the caller.

use crate::command::{Finished, run_program};
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

/// `umount DIRECTORY`.
pub fn unmount(directory: &Path) -> Finished {
    patiently(|| run_program("umount", &[directory]))
}

/// Runs a command that unmounts until it does not say any more that the mount is in use.
pub fn patiently(attempt: impl Fn() -> Finished) -> Finished {
    let end = Instant::now() + PATIENCE;
    loop {
        let finished = attempt();
        if !is_busy(&finished) || Instant::now() > end {
            return finished;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_busy(finished: &Finished) -> bool {
    !finished.status.success() && ["busy", "in use"].iter().any(|word| finished.stderr.contains(word))
}

//! `BTRFS_IOC_SCRUB`: started, and waited for here, so that no thread of the daemon waits.

use std::time::Duration;

use libc::c_int;

use crate::errno::Result;
use crate::real;
use crate::wire::{self, ScrubArgs, ScrubState};

/// How often it is asked whether the scrub has ended.
const NAP: Duration = Duration::from_millis(20);

/// Scrubs a device; gives in `args` what was done, also if it was cancelled.
pub fn run(fd: c_int, args: &mut ScrubArgs) -> Result<c_int> {
    real::flat_ioctl(fd, wire::SCRUB_START, &mut *args)?;
    loop {
        let mut now = *args;
        real::flat_ioctl(fd, wire::SCRUB_STATE, &mut now)?;
        if ScrubState::of(u64::from_ne_bytes(now.state)) == ScrubState::Running {
            std::thread::sleep(NAP);
            continue;
        }
        args.progress = now.progress;
        return match c_int::try_from(u64::from_ne_bytes(now.error)).unwrap_or(libc::EIO) {
            0 => Ok(0),
            error => Err(error),
        };
    }
}

//! Commands of the kernel's Btrfs for work that does not run here: answered as the kernel answers when it does not run.

use super::reply;
use crate::adapter::EngineFrontEnd;
use crate::types::{Caller, IoctlCall, IoctlReply};
use crate::{Errno, Result};

/// `BTRFS_IOC_QUOTA_RESCAN_STATUS` and `_WAIT`: no rescan runs.
const QUOTA_RESCAN_STATUS: u32 = 0x8040_942d;
const QUOTA_RESCAN_WAIT: u32 = 0x0000_942e;

/// What is not running: quotas (groups, rescan).
const NOT_RUNNING: [u32; 4] = [0x4018_9429, 0x4010_942a, 0x8030_942b, 0x4040_942c];

/// What cannot be done: balance by its first command, waiting for a scrub in the daemon, quotas, features.
const NOT_DONE: [u32; 4] = [0x5000_940c, 0xc400_941b, 0xc010_9428, 0x4030_9439];

impl EngineFrontEnd {
    pub(super) fn refused(&self, caller: &Caller, call: &IoctlCall<'_>) -> Result<IoctlReply> {
        let command = call.command;
        if command == QUOTA_RESCAN_WAIT {
            return reply([]);
        }
        if !(command == QUOTA_RESCAN_STATUS || NOT_RUNNING.contains(&command) || NOT_DONE.contains(&command)) {
            return Err(Errno::ENOTTY);
        }
        self.require_privileged(caller)?;
        match command {
            QUOTA_RESCAN_STATUS => reply(vec![0; call.output_capacity]),
            _ if NOT_RUNNING.contains(&command) => Err(Errno::ENOTCONN),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }
}

//! Commands of the kernel's Btrfs for work that does not run here: answered as the kernel answers when it does not run.

use super::reply;
use crate::adapter::EngineFrontEnd;
use crate::types::{Caller, IoctlCall, IoctlReply};
use crate::{Errno, Result};

/// `BTRFS_IOC_DEV_REPLACE`: the command is the first number, the answer the second.
const DEV_REPLACE: u32 = 0xca28_9435;
const REPLACE_STATUS: u64 = 1;
const REPLACE_CANCEL: u64 = 2;
/// `BTRFS_IOCTL_DEV_REPLACE_RESULT_NOT_STARTED`.
const NOT_STARTED: u64 = 1;
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
        if !(command == DEV_REPLACE
            || command == QUOTA_RESCAN_STATUS
            || NOT_RUNNING.contains(&command)
            || NOT_DONE.contains(&command))
        {
            return Err(Errno::ENOTTY);
        }
        self.require_privileged(caller)?;
        match command {
            DEV_REPLACE => replace(call.input),
            QUOTA_RESCAN_STATUS => reply(vec![0; call.output_capacity]),
            _ if NOT_RUNNING.contains(&command) => Err(Errno::ENOTCONN),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }
}

fn replace(input: &[u8]) -> Result<IoctlReply> {
    let mut answer = input.to_vec();
    let (command, rest) = answer.split_first_chunk_mut::<8>().ok_or(Errno::EINVAL)?;
    let result = match u64::from_ne_bytes(*command) {
        // None was ever started: no state, no numbers.
        REPLACE_STATUS => 0,
        REPLACE_CANCEL => NOT_STARTED,
        _ => return Err(Errno::EOPNOTSUPP),
    };
    rest.fill(0);
    rest.get_mut(..8).ok_or(Errno::EINVAL)?.copy_from_slice(&result.to_ne_bytes());
    reply(answer)
}

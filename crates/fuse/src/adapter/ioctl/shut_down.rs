//! `FS_IOC_GOINGDOWN`: the filesystem stops as if the power failed, for tests of what is durable.

use super::memory::Memory;
use super::reply;
use crate::adapter::EngineFrontEnd;
use crate::types::{Caller, IoctlCall, IoctlReply};
use crate::{Errno, Result};
use butterfs_engine::filesystem::ShutDown;

/// Its number says that it gives an `int`; it takes one.
pub(super) const GOINGDOWN: u32 = 0x8004_587d;

/// All is written before.
const DEFAULT: u32 = 0;
/// The log is, in filesystems that have everything in it. Here that is a commit.
const LOG_FLUSH: u32 = 1;
/// Nothing is.
const NO_LOG_FLUSH: u32 = 2;

impl EngineFrontEnd {
    pub(super) fn ioctl_shut_down(&self, caller: &Caller, call: &IoctlCall<'_>) -> Result<IoctlReply> {
        self.require_privileged(caller)?;
        let how = match Memory::at(caller, call.raw_argument)?.read_u32()? {
            DEFAULT | LOG_FLUSH => ShutDown::Flush,
            NO_LOG_FLUSH => ShutDown::Lose,
            _ => return Err(Errno::EINVAL),
        };
        self.fs.shut_down(how).map_err(|error| Errno::new(error.errno()))?;
        reply([])
    }
}

//! The caller's memory behind an ioctl's argument: what Linux does not copy for FUSE because the command's number
//! does not tell of it.
//!
//! It may be a mapped file of the very mount: then the kernel asks for it while we wait for it.

use butterfs_os::caller_memory;
use rustix::process::Pid;

use crate::transport::spare::Waiting;
use crate::types::{Caller, IoctlCall};
use crate::{Errno, Result};

/// Memory of the caller, who waits for the answer.
#[derive(Clone, Copy)]
pub(super) struct Memory {
    thread: Pid,
    address: u64,
}

impl Memory {
    /// What lies `offset` bytes behind the beginning of the argument.
    pub fn behind(caller: &Caller, call: &IoctlCall<'_>, offset: usize) -> Result<Self> {
        let address = call.raw_argument.checked_add(offset as u64).ok_or(Errno::EFAULT)?;
        Self::at(caller, address)
    }

    /// What a pointer in the argument points to.
    pub fn at(caller: &Caller, address: u64) -> Result<Self> {
        // Zero: the caller is in a process namespace that we do not see.
        let thread = i32::try_from(caller.pid).ok().and_then(Pid::from_raw).ok_or(Errno::EOPNOTSUPP)?;
        Ok(Self { thread, address })
    }

    /// A number there.
    pub fn read_u32(self) -> Result<u32> {
        let _waiting = Waiting::begin()?;
        let mut bytes = [0; 4];
        caller_memory::read(self.thread, self.address, &mut bytes).map_err(errno)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    /// Writes there.
    pub fn write(self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let _waiting = Waiting::begin()?;
        caller_memory::write(self.thread, self.address, bytes).map_err(errno)
    }
}

fn errno(error: std::io::Error) -> Errno {
    match Errno::from(error) {
        // Not the caller's fault: it is us who may not.
        Errno::EPERM => Errno::EOPNOTSUPP,
        other => other,
    }
}

//! The ioctl of `/dev/fuse`.

use rustix::io::Result;
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};
use std::os::fd::{AsFd, AsRawFd};

/// `FUSE_DEV_IOC_CLONE`.
const CLONE: Opcode = opcode::read::<u32>(229, 0);

/// Makes `fresh`, a newly opened `/dev/fuse`, a second channel of the connection of `session`.
///
/// A request read from a channel must be answered on the same channel.
pub fn clone_connection(fresh: impl AsFd, session: impl AsFd) -> Result<()> {
    let fd = session.as_fd().as_raw_fd().unsigned_abs();
    // SAFETY: FUSE_DEV_IOC_CLONE reads one u32, a descriptor number, through its argument;
    // `Setter` passes a pointer to that u32. The kernel checks the number itself.
    unsafe { ioctl(fresh, Setter::<CLONE, u32>::new(fd)) }
}

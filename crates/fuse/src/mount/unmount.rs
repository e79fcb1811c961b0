//! Unmounting.

use super::{MountError, fusermount};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a mount that is in use is tried again: a program that looks at all mounts (`df`, an indexer, the
/// daemon itself while it makes the mount read-only) holds each for a moment.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(10);

/// What to do with a mount that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// Leave it, with an error.
    Refuse,
    /// Take it out of the tree now; it ends with its last user.
    Detach,
}

/// How an unmount went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmounted {
    /// It is gone.
    Gone,
    /// It was in use: out of the tree, and gone with its last user.
    Detached,
    /// It was not mounted any more.
    WasNot,
}

/// Unmounts what is mounted at `target`, as root or with `fusermount3`. What is in use for a moment only is
/// waited for, up to a second.
pub fn unmount(target: &Path, busy: Busy) -> Result<Unmounted, MountError> {
    match patiently(target) {
        Ok(()) => Ok(Unmounted::Gone),
        Err(MountError::Busy { .. }) if busy == Busy::Detach => once(target, Lazy::Yes).map(|()| Unmounted::Detached),
        Err(error) => Err(error),
    }
}

/// Whether to detach.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lazy {
    No,
    Yes,
}

/// Tries until it is not in use any more or the patience ends.
fn patiently(target: &Path) -> Result<(), MountError> {
    let end = Instant::now() + PATIENCE;
    loop {
        match once(target, Lazy::No) {
            Err(MountError::Busy { .. }) if Instant::now() < end => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
}

/// Tries once.
fn once(target: &Path, lazy: Lazy) -> Result<(), MountError> {
    if !rustix::process::geteuid().is_root() {
        return fusermount::unmount(target, lazy == Lazy::Yes);
    }
    let flags = match lazy {
        Lazy::No => UnmountFlags::NOFOLLOW,
        Lazy::Yes => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
    };
    rustix::mount::unmount(target, flags).map_err(|errno| {
        let target = target.to_path_buf();
        match errno {
            Errno::BUSY => MountError::Busy { target },
            Errno::INVAL => MountError::NotMounted { target },
            Errno::PERM => MountError::NotPermitted { target },
            errno => MountError::Target { target, source: errno.into() },
        }
    })
}

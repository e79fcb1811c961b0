//! `ioctl`: what the kernel refuses for a mount of Butterfs is done in another way.

use libc::{c_int, c_ulong, c_void};

use crate::errno::{self, Result};
use crate::{clone, dedupe, fiemap, images, mounts, real, scrub, snapshot, wire};

/// `FICLONE`: the descriptor is the argument.
const FICLONE: u32 = 0x4004_9409;
/// `FICLONERANGE`, with [`clone::Range`].
const FICLONERANGE: u32 = 0x4020_940d;
/// `FIDEDUPERANGE`.
const FIDEDUPERANGE: u32 = 0xc018_9436;
/// `FS_IOC_FIEMAP`.
const FIEMAP: u32 = 0xc020_660b;
/// `BTRFS_IOC_SNAP_CREATE`.
const SNAP_CREATE: u32 = 0x5000_9401;
/// `BTRFS_IOC_SNAP_CREATE_V2`.
const SNAP_CREATE_V2: u32 = 0x5000_9417;
/// `BTRFS_IOC_BALANCE_CTL`: a number is the argument.
const BALANCE_CTL: u32 = 0x4004_9421;

/// What changes a filesystem through a descriptor that may be open for reading. (Adding a device is not among them: a seed
/// is mounted for reading.)
const CHANGES: [u32; 13] = [
    SNAP_CREATE,
    SNAP_CREATE_V2,
    wire::SUBVOL_CREATE,
    wire::SUBVOL_CREATE_V2,
    wire::SNAP_DESTROY,
    wire::SNAP_DESTROY_V2,
    wire::SUBVOL_SETFLAGS,
    wire::DEFAULT_SUBVOL,
    wire::SET_LABEL,
    wire::RESIZE,
    wire::RM_DEV,
    wire::RM_DEV_V2,
    wire::BALANCE_V2,
];

/// The kernel passes ioctls on whatever the mount, and the daemon does not hear of which.
fn is_refused(fd: c_int, command: u32) -> bool {
    CHANGES.contains(&command) && mounts::is_fuse(fd) && real::is_read_only(fd)
}

/// As in the C library.
///
/// # Safety
/// As of ioctl.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    if u32::try_from(request).is_ok_and(|command| is_refused(fd, command)) {
        errno::set(libc::EROFS);
        return -1;
    }
    // SAFETY: as the caller promises.
    let result = unsafe { real::ioctl(fd, request, argument) };
    let Ok(command) = u32::try_from(request) else { return result };
    if result != -1 {
        if command == wire::DEV_INFO && mounts::is_fuse(fd) {
            let errno = errno::get();
            // SAFETY: the command has filled its struct.
            unsafe { images::remember(argument) };
            errno::set(errno);
        }
        snapshot::wait_for_change(fd, command, argument);
        return result;
    }
    let refused = errno::get();
    if command == images::BLKGETSIZE64
        && refused == libc::ENOTTY
        && !argument.is_null()
        && let Some(size) = images::size(fd)
    {
        // SAFETY: the argument of this command is a number.
        unsafe { argument.cast::<u64>().write_unaligned(size) };
        return 0;
    }
    // SAFETY: as the caller promises: the argument is what the command wants.
    match unsafe { another_way(fd, command, argument, refused) } {
        Some(Ok(result)) => result,
        Some(Err(failure)) => {
            errno::set(failure);
            -1
        }
        None => {
            errno::set(refused);
            -1
        }
    }
}

/// Does what was refused; `None` if the refusal stands.
///
/// # Safety
/// The argument is what the command wants.
unsafe fn another_way(fd: c_int, command: u32, argument: *mut c_void, refused: c_int) -> Option<Result<c_int>> {
    let by_pointer =
        matches!(command, FICLONERANGE | FIDEDUPERANGE | FIEMAP | SNAP_CREATE | SNAP_CREATE_V2 | wire::SCRUB);
    let expected = match refused {
        libc::EOPNOTSUPP | libc::ENOTTY => command == FICLONE || by_pointer && !argument.is_null(),
        // The kernel took a number, or nothing, for a pointer.
        libc::EFAULT => {
            let may_be_nothing = matches!(command, wire::START_SYNC | wire::WAIT_SYNC);
            command == BALANCE_CTL || may_be_nothing && argument.is_null()
        }
        _ => false,
    };
    if !expected || !mounts::is_fuse(fd) {
        return None;
    }
    // SAFETY: it is not null, and what the command wants.
    let done = unsafe {
        match command {
            FICLONE => clone::whole(fd, argument as c_int),
            FICLONERANGE => clone::range(fd, &argument.cast::<clone::Range>().read_unaligned()),
            FIDEDUPERANGE => dedupe::range(fd, argument.cast()),
            FIEMAP => fiemap::map(fd, argument.cast()),
            SNAP_CREATE => snapshot::create(fd, &argument.cast::<wire::VolArgs>().read_unaligned()),
            SNAP_CREATE_V2 => snapshot::create_v2(fd, &argument.cast::<snapshot::VolArgsV2>().read_unaligned()),
            wire::SCRUB => scrub::run(fd, &mut *argument.cast::<wire::ScrubArgs>()),
            BALANCE_CTL => real::flat_ioctl(fd, wire::BALANCE_CONTROL, &mut (argument as u64)),
            wire::START_SYNC | wire::WAIT_SYNC => real::flat_ioctl(fd, command, &mut 0_u64),
            _ => return None,
        }
    };
    // A mount of somebody else knows none of this.
    match done {
        Err(libc::ENOTTY | libc::ENOSYS) => None,
        done => Some(done),
    }
}

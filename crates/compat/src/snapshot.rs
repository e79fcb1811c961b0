//! Snapshots, whose source the kernel's commands name by a descriptor; and waiting until a new subvolume is seen.

use core::ffi::CStr;

use libc::{c_int, c_void};
use zerocopy::FromZeros;

use crate::errno::{self, Result, check};
use crate::wire::{self, SnapshotArgs, VolArgs, name_in};
use crate::{mounts, real};

/// How often, and how long each time, a change is waited for: two seconds.
const TRIES: usize = 2000;
const PAUSE: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
/// `BTRFS_SUBVOL_CREATE_ASYNC` and `BTRFS_SUBVOL_QGROUP_INHERIT`: the one is obsolete, the other does nothing without
/// quotas.
const IGNORED: u64 = 1 << 0 | 1 << 2;

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
pub struct VolArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    spare: [u64; 4],
    name: [u8; 4040],
}

/// `BTRFS_IOC_SNAP_CREATE`.
pub fn create(dir: c_int, args: &VolArgs) -> Result<c_int> {
    snapshot(dir, i64::from_ne_bytes(args.fd), 0, &args.name)
}

/// `BTRFS_IOC_SNAP_CREATE_V2`.
pub fn create_v2(dir: c_int, args: &VolArgsV2) -> Result<c_int> {
    snapshot(dir, args.fd, args.flags & !IGNORED, &args.name)
}

fn snapshot(dir: c_int, source: i64, flags: u64, name: &[u8]) -> Result<c_int> {
    let source = c_int::try_from(source).map_err(|_| libc::EBADF)?;
    let name = name_in(name).ok_or(libc::ENAMETOOLONG)?;
    if real::fstat(dir)?.st_dev != real::fstat(source)?.st_dev {
        return Err(libc::EXDEV);
    }
    // Fails unless it is a top directory.
    real::flat_ioctl(source, wire::SUBVOL_GETFLAGS, &mut 0_u64)?;
    // SAFETY: takes a number only. What the kernel still holds back of changes through mappings.
    check(unsafe { libc::syncfs(source) })?;
    let mut args = SnapshotArgs::new_zeroed();
    real::flat_ioctl(source, wire::OFFER, &mut args.token)?;
    args.flags = flags.into();
    let place = args.name.get_mut(..name.len()).ok_or(libc::ENAMETOOLONG)?;
    place.copy_from_slice(name);
    real::flat_ioctl(dir, wire::SNAPSHOT, &mut args)?;
    wait_for(dir, &args.name, true);
    Ok(0)
}

/// After a command that made or removed a subvolume: the kernel hears of it a moment later.
pub fn wait_for_change(fd: c_int, command: u32, argument: *const c_void) {
    let (offset, there) = match command {
        wire::SUBVOL_CREATE => (8, true),
        wire::SNAP_DESTROY => (8, false),
        wire::SUBVOL_CREATE_V2 => (56, true),
        _ => return,
    };
    if !mounts::is_fuse(fd) {
        return;
    }
    // SAFETY: the command was done, so its struct of 4096 bytes is there.
    let bytes = unsafe { core::slice::from_raw_parts(argument.cast::<u8>(), wire::size_of_command(command)) };
    let saved = errno::get();
    wait_for(fd, bytes.get(offset..).unwrap_or_default(), there);
    errno::set(saved);
}

/// Waits until the kernel sees a name in a directory, or sees that it is gone.
fn wait_for(dir: c_int, name: &[u8], there: bool) {
    let Ok(name) = CStr::from_bytes_until_nul(name) else { return };
    for _ in 0..TRIES {
        let mut found = core::mem::MaybeUninit::<libc::stat>::uninit();
        // SAFETY: the name ends with a NUL; the kernel writes one struct.
        let result = unsafe {
            let flags = libc::AT_SYMLINK_NOFOLLOW;
            libc::syscall(libc::SYS_newfstatat, dir, name.as_ptr(), found.as_mut_ptr(), flags)
        };
        if (result == 0) == there {
            return;
        }
        // SAFETY: the pointers are to a whole struct, and null.
        unsafe { libc::nanosleep(&PAUSE, core::ptr::null_mut()) };
    }
}

//! The client side of a mount's ioctls: what the command line asks a mounted filesystem to do.
//!
//! [`create_subvolume`], [`delete_subvolume`], [`sync`] and what properties are read and set by work on the kernel's
//! Btrfs too.

mod changed;
mod defrag;
mod device_stats;
mod fiemap;
mod list;
mod remount;
mod report;
mod scrub;
mod share;
mod space;
pub(crate) mod status;
mod volume;

pub use changed::{ChangedExtent, changed_extents};
pub use defrag::{DefragCompression, DefragFlush, DefragSharing, DefragWish, defragment};
pub use device_stats::{StatsReset, device_stats};
pub use fiemap::{FileMap, MapFlag, MappedRange, file_map};
pub use list::{ListedSubvolume, deleted_subvolumes, list_subvolumes};
pub use remount::remount;
pub use report::{DeviceInfo, FilesystemInfo, SpaceInfo, chunks, devices_of, filesystem_info, space_infos};
pub use scrub::{
    ScrubRepair, ScrubStatus, cancel_scrubs, scrub_limit, scrub_report, scrub_status, set_scrub_limit, start_scrub,
    wait_for_scrub,
};
pub use share::{Deduped, Offered, SharedRange, dedupe, offer, reflink};
pub use space::{TrimRange, trim};
pub use status::{MountFailure, MountState, MountStatus, status};
pub use wire::ScrubState;

pub(crate) use volume::READ_OTHERS;
pub use volume::{
    MountBalance, WorkEnd, add_device, balance_status, begin_balance, cancel_balance, cancel_replace, check_addition,
    check_replacement, exclusive_operation, pause_balance, remove_devices, replace_device, replace_failure,
    replace_status, resize, wait_for_end,
};

use butterfs_os::flat_ioctl::flat_ioctl;
pub(crate) use butterfs_wire as wire;
use rustix::fs::{AtFlags, statat};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use wire::{SnapshotArgs, VolArgs, VolArgsV2};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Whether a subvolume can be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It can.
    ReadWrite,
    /// It cannot.
    ReadOnly,
}

impl Access {
    fn of_flags(flags: u64) -> Self {
        if flags & wire::SUBVOL_READ_ONLY != 0 { Self::ReadOnly } else { Self::ReadWrite }
    }

    fn flags(self) -> u64 {
        match self {
            Self::ReadOnly => wire::SUBVOL_READ_ONLY,
            Self::ReadWrite => 0,
        }
    }
}

/// How long to wait until the kernel sees a new name, or sees that one is gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// Makes an empty subvolume in a directory.
pub fn create_subvolume(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    run_with_name(dir, wire::SUBVOL_CREATE, name)?;
    wait_for(dir, name, true);
    Ok(())
}

/// Deletes a subvolume with all that is in it.
pub fn delete_subvolume(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    run_with_name(dir, wire::SNAP_DESTROY, name)?;
    wait_for(dir, name, false);
    Ok(())
}

/// Deletes a subvolume by its number, wherever in the filesystem of `file` it has its name.
pub fn delete_subvolume_by_id(file: BorrowedFd<'_>, tree: u64) -> io::Result<()> {
    require_writable(file)?;
    let mut args = VolArgsV2::new_zeroed();
    args.flags = wire::BY_ID.to_ne_bytes();
    args.name[..8].copy_from_slice(&tree.to_ne_bytes());
    flat_ioctl(file, wire::SNAP_DESTROY_V2, args.as_mut_bytes())?;
    Ok(())
}

/// The number of the subvolume that is mounted when none is chosen.
pub fn default_subvolume(file: BorrowedFd<'_>) -> io::Result<u64> {
    let mut tree = [0; 8];
    flat_ioctl(file, wire::GET_DEFAULT_SUBVOL, &mut tree)?;
    Ok(u64::from_le_bytes(tree))
}

/// Makes a subvolume the one that is mounted when none is chosen; 0 is the top level.
pub fn set_default_subvolume(file: BorrowedFd<'_>, tree: u64) -> io::Result<()> {
    require_writable(file)?;
    flat_ioctl(file, wire::DEFAULT_SUBVOL, &mut tree.to_ne_bytes())?;
    Ok(())
}

/// The path of an inode within the subvolume of `file`, by the first of its names.
pub fn path_of_inode(file: BorrowedFd<'_>, ino: u64) -> io::Result<PathBuf> {
    let mut args = vec![0; wire::size_of_command(wire::INO_LOOKUP)];
    args[8..16].copy_from_slice(&ino.to_ne_bytes());
    flat_ioctl(file, wire::INO_LOOKUP, &mut args)?;
    let name = wire::name_in(&args[16..]).ok_or(io::ErrorKind::InvalidData)?;
    Ok(PathBuf::from(OsStr::from_bytes(name.strip_suffix(b"/").unwrap_or(name))))
}

/// Makes a snapshot of the subvolume whose top directory `source` is; gives its number. The snapshot
/// is durable.
pub fn snapshot(source: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &OsStr, access: Access) -> io::Result<u64> {
    require_writable(dir)?;
    // Fails unless it is a top directory.
    subvolume_access(source)?;
    // What the kernel still holds back of changes through mappings.
    rustix::fs::syncfs(source)?;
    let mut args = SnapshotArgs::new_zeroed();
    flat_ioctl(source, wire::OFFER, &mut args.token)?;
    args.flags = access.flags().into();
    put_name(&mut args.name, name)?;
    flat_ioctl(dir, wire::SNAPSHOT, args.as_mut_bytes())?;
    wait_for(dir, name, true);
    Ok(args.tree.get())
}

/// The number of the subvolume that a file or directory is in.
pub fn subvolume_id(file: BorrowedFd<'_>) -> io::Result<u64> {
    let mut info = [0; wire::size_of_command(wire::GET_SUBVOL_INFO)];
    flat_ioctl(file, wire::GET_SUBVOL_INFO, &mut info)?;
    let (tree, _) = u64::read_from_prefix(&info).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(tree)
}

/// Whether the subvolume with this top directory can be changed.
pub fn subvolume_access(top: BorrowedFd<'_>) -> io::Result<Access> {
    let mut flags = [0; 8];
    flat_ioctl(top, wire::SUBVOL_GETFLAGS, &mut flags)?;
    Ok(Access::of_flags(u64::from_ne_bytes(flags)))
}

/// Makes the subvolume with this top directory read-only or writable.
pub fn set_subvolume_access(top: BorrowedFd<'_>, access: Access) -> io::Result<()> {
    require_writable(top)?;
    flat_ioctl(top, wire::SUBVOL_SETFLAGS, &mut access.flags().to_ne_bytes())?;
    Ok(())
}

/// The UUID of what the subvolume that a file is in was received from; zeros if it was not.
pub fn received_uuid(file: BorrowedFd<'_>) -> io::Result<[u8; 16]> {
    const AT: usize = 328;
    let mut info = [0; wire::size_of_command(wire::GET_SUBVOL_INFO)];
    flat_ioctl(file, wire::GET_SUBVOL_INFO, &mut info)?;
    let (uuid, _) = <[u8; 16]>::read_from_prefix(&info[AT..]).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(uuid)
}

/// Makes a subvolume one that was not received, by its top directory.
pub fn forget_received(top: BorrowedFd<'_>) -> io::Result<()> {
    require_writable(top)?;
    flat_ioctl(top, wire::SET_RECEIVED, wire::ReceivedArgs::new_zeroed().as_mut_bytes())?;
    Ok(())
}

/// The longest label, in bytes.
pub const LABEL_MAX: usize = wire::size_of_command(wire::GET_LABEL) - 1;

/// The label of the filesystem that a file is in.
pub fn label(file: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut field = [0; LABEL_MAX + 1];
    flat_ioctl(file, wire::GET_LABEL, &mut field)?;
    Ok(field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec())
}

/// Changes the label of the filesystem that a file is in, durably.
pub fn set_label(file: BorrowedFd<'_>, label: &[u8]) -> io::Result<()> {
    let mut field = [0; LABEL_MAX + 1];
    let room = field.get_mut(..label.len()).filter(|_| label.len() <= LABEL_MAX && !label.contains(&0));
    room.ok_or(rustix::io::Errno::INVAL)?.copy_from_slice(label);
    require_writable(file)?;
    flat_ioctl(file, wire::SET_LABEL, &mut field)?;
    Ok(())
}

/// Makes everything durable.
pub fn sync(file: BorrowedFd<'_>) -> io::Result<()> {
    // What the kernel still holds back, then ours: plain `fuse` passes the first on to nobody.
    rustix::fs::syncfs(file)?;
    flat_ioctl(file, wire::SYNC, &mut [])?;
    Ok(())
}

/// The kernel passes ioctls on whatever the mount, and the daemon does not hear of which: what a mount that is
/// read-only refuses is refused here.
pub(super) fn require_writable(file: BorrowedFd<'_>) -> io::Result<()> {
    let read_only = rustix::fs::fstatvfs(file)?.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    if read_only { Err(rustix::io::Errno::ROFS.into()) } else { Ok(()) }
}

fn run_with_name(dir: BorrowedFd<'_>, command: u32, name: &OsStr) -> io::Result<()> {
    require_writable(dir)?;
    let mut args = VolArgs::new_zeroed();
    put_name(&mut args.name, name)?;
    flat_ioctl(dir, command, args.as_mut_bytes())?;
    Ok(())
}

fn put_name(field: &mut [u8], name: &OsStr) -> io::Result<()> {
    let name = name.as_bytes();
    let fits = !name.is_empty() && name.len() < field.len() && !name.contains(&0);
    if !fits {
        return Err(rustix::io::Errno::INVAL.into());
    }
    field[..name.len()].copy_from_slice(name);
    Ok(())
}

/// Waits until the kernel, which the server tells only after its answer, knows of a change.
fn wait_for(dir: impl AsFd, name: &OsStr, there: bool) {
    let end = Instant::now() + PATIENCE;
    while statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() != there && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
}

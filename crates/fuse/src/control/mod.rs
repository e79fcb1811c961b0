//! The client side of a mount's ioctls: what the command line asks a mounted filesystem to do.
//!
//! [`create_subvolume`], [`delete_subvolume`] and [`sync`] work on the kernel's Btrfs too.

mod defrag;
mod share;
mod space;
pub(crate) mod status;
pub(crate) mod wire;

pub use defrag::{DefragCompression, DefragFlush, DefragSharing, DefragWish, defragment};
pub use share::{Deduped, Offered, SharedRange, dedupe, offer, reflink};
pub use space::{TrimRange, trim};
pub use status::{MountFailure, MountState, MountStatus, status};

use butterfs_os::flat_ioctl::flat_ioctl;
use rustix::fs::{AtFlags, statat};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use wire::{ListHeader, SnapshotArgs, SubvolumeRecord, VolArgs};
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

/// A subvolume, as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedSubvolume {
    /// Its number.
    pub id: u64,
    /// The subvolume it lies in; `None` for the top level.
    pub parent: Option<u64>,
    /// Its path from the top level; empty for that itself.
    pub path: PathBuf,
    /// The transaction that last changed it.
    pub generation: u64,
    /// The transaction that made it.
    pub created_in: u64,
    /// When it was made: seconds since 1970, and nanoseconds.
    pub created: (i64, u32),
    /// Whether it can be changed.
    pub access: Access,
    /// Its UUID.
    pub uuid: [u8; 16],
    /// The UUID of what it is a snapshot of; zero if of none.
    pub parent_uuid: [u8; 16],
    /// The UUID of what it was received from; zero if of none.
    pub received_uuid: [u8; 16],
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

/// Makes a snapshot of the subvolume whose top directory `source` is; gives its number. The snapshot
/// is durable.
pub fn snapshot(source: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &OsStr, access: Access) -> io::Result<u64> {
    // Fails unless it is a top directory.
    subvolume_access(source)?;
    let tree = subvolume_id(source)?;
    // What the kernel still holds back of changes through mappings.
    rustix::fs::syncfs(source)?;
    let mut args = SnapshotArgs::new_zeroed();
    (args.tree, args.flags) = (tree.into(), access.flags().into());
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
    flat_ioctl(top, wire::SUBVOL_SETFLAGS, &mut access.flags().to_ne_bytes())?;
    Ok(())
}

/// All subvolumes of the filesystem that a file is in, by number.
pub fn list_subvolumes(file: BorrowedFd<'_>) -> io::Result<Vec<ListedSubvolume>> {
    let mut found: Vec<ListedSubvolume> = Vec::new();
    loop {
        let after = found.last().map_or(0, |last| last.id);
        let mut page = vec![0; wire::size_of_command(wire::LIST_SUBVOLUMES)];
        page[..8].copy_from_slice(&after.to_le_bytes());
        flat_ioctl(file, wire::LIST_SUBVOLUMES, &mut page)?;
        let records = parse_page(&page).ok_or(io::ErrorKind::InvalidData)?;
        // The numbers rise, so this ends.
        if records.first().is_none_or(|first| first.id <= after) {
            return Ok(found);
        }
        found.extend(records);
    }
}

/// Makes everything durable.
pub fn sync(file: BorrowedFd<'_>) -> io::Result<()> {
    // What the kernel still holds back, then ours: plain `fuse` passes the first on to nobody.
    rustix::fs::syncfs(file)?;
    flat_ioctl(file, wire::SYNC, &mut [])?;
    Ok(())
}

fn run_with_name(dir: BorrowedFd<'_>, command: u32, name: &OsStr) -> io::Result<()> {
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

fn parse_page(page: &[u8]) -> Option<Vec<ListedSubvolume>> {
    let (header, mut rest) = ListHeader::read_from_prefix(page).ok()?;
    let mut found = Vec::new();
    for _ in 0..header.count.get() {
        let (record, behind) = SubvolumeRecord::read_from_prefix(rest).ok()?;
        let (path, behind) = behind.split_at_checked(usize::from(record.path_len.get()))?;
        found.push(listed(&record, path));
        rest = behind;
    }
    Some(found)
}

fn listed(record: &SubvolumeRecord, path: &[u8]) -> ListedSubvolume {
    ListedSubvolume {
        id: record.id.get(),
        parent: Some(record.parent.get()).filter(|parent| *parent != 0),
        path: PathBuf::from(OsStr::from_bytes(path)),
        generation: record.generation.get(),
        created_in: record.created_in.get(),
        created: (record.created_sec.get().cast_signed(), record.created_nsec.get()),
        access: Access::of_flags(record.flags.get()),
        uuid: record.uuid,
        parent_uuid: record.parent_uuid,
        received_uuid: record.received_uuid,
    }
}

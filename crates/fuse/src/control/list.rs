//! Subvolumes of a mount.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use butterfs_os::flat_ioctl::flat_ioctl;
use zerocopy::{FromBytes, IntoBytes};

use super::Access;
use super::wire::{self, ListHeader, SubvolumeRecord};

/// A subvolume, as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedSubvolume {
    /// Its number.
    pub id: u64,
    /// The subvolume it lies in; `None` for the top level, and for one that is deleted.
    pub parent: Option<u64>,
    /// The directory in that which holds its name.
    pub dir: u64,
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
    /// For a snapshot, the transaction that made it; else 0.
    pub snapshot_in: u64,
    /// The transaction that last changed what is in it.
    pub changed_in: u64,
    /// The transaction of the source that it was sent from.
    pub sent_in: u64,
    /// When that was: seconds since 1970; 0 if never.
    pub sent: i64,
    /// The transaction that received it.
    pub received_in: u64,
    /// When that was: seconds since 1970; 0 if never.
    pub received: i64,
}

/// All subvolumes of the filesystem that a file is in, by number.
pub fn list_subvolumes(file: BorrowedFd<'_>) -> io::Result<Vec<ListedSubvolume>> {
    list(file, 0)
}

/// All subvolumes that are deleted and not gone yet, by number.
pub fn deleted_subvolumes(file: BorrowedFd<'_>) -> io::Result<Vec<ListedSubvolume>> {
    list(file, 1)
}

fn list(file: BorrowedFd<'_>, which: u64) -> io::Result<Vec<ListedSubvolume>> {
    let mut found: Vec<ListedSubvolume> = Vec::new();
    loop {
        let after = found.last().map_or(0, |last| last.id);
        let header = ListHeader { after: after.into(), which: which.into(), count: 0.into() };
        let mut page = vec![0; wire::size_of_command(wire::LIST_SUBVOLUMES)];
        page[..size_of::<ListHeader>()].copy_from_slice(header.as_bytes());
        flat_ioctl(file, wire::LIST_SUBVOLUMES, &mut page)?;
        let records = parse_page(&page).ok_or(io::ErrorKind::InvalidData)?;
        // The numbers rise, so this ends.
        if records.first().is_none_or(|first| first.id <= after) {
            return Ok(found);
        }
        found.extend(records);
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
        dir: record.dir.get(),
        path: PathBuf::from(OsStr::from_bytes(path)),
        generation: record.generation.get(),
        created_in: record.created_in.get(),
        created: (record.created_sec.get().cast_signed(), record.created_nsec.get()),
        access: Access::of_flags(record.flags.get()),
        uuid: record.uuid,
        parent_uuid: record.parent_uuid,
        received_uuid: record.received_uuid,
        snapshot_in: record.snapshot_in.get(),
        changed_in: record.changed_in.get(),
        sent_in: record.sent_in.get(),
        sent: record.sent_sec.get().cast_signed(),
        received_in: record.received_in.get(),
        received: record.received_sec.get().cast_signed(),
    }
}

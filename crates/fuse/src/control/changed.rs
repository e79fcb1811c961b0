//! What changed in a subvolume.

use std::io;
use std::os::fd::BorrowedFd;

use butterfs_format::items::{Compression, FileExtentKind};
use butterfs_os::flat_ioctl::flat_ioctl;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::wire::{self, ChangedHeader, ChangedRecord};

/// A file extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedExtent {
    /// The file.
    pub ino: u64,
    /// Where in the file.
    pub offset: u64,
    /// How much of it.
    pub len: u64,
    /// Where the extent begins; 0 for one in the tree and for a hole.
    pub disk_start: u64,
    /// Where in it the file's part begins.
    pub disk_offset: u64,
    /// The transaction that made it.
    pub generation: u64,
    /// How it is compressed.
    pub compression: Compression,
    /// Its kind.
    pub kind: FileExtentKind,
}

/// The file extents of the subvolume that `file` is in which were made in the transaction `since` or later, by file
/// and offset.
pub fn changed_extents(file: BorrowedFd<'_>, since: u64) -> io::Result<Vec<ChangedExtent>> {
    let mut found = Vec::new();
    let mut header = ChangedHeader { since: since.into(), ..ChangedHeader::new_zeroed() };
    loop {
        let mut page = vec![0; wire::size_of_command(wire::CHANGED_EXTENTS)];
        page[..size_of::<ChangedHeader>()].copy_from_slice(header.as_bytes());
        flat_ioctl(file, wire::CHANGED_EXTENTS, &mut page)?;
        let (answer, mut rest) = ChangedHeader::read_from_prefix(&page).map_err(|_| io::ErrorKind::InvalidData)?;
        for _ in 0..answer.count.get() {
            let (record, behind) = ChangedRecord::read_from_prefix(rest).map_err(|_| io::ErrorKind::InvalidData)?;
            found.push(changed(&record).ok_or(io::ErrorKind::InvalidData)?);
            rest = behind;
        }
        let at = |header: &ChangedHeader| (header.ino.get(), header.item_type.get(), header.offset.get());
        // The keys rise, so this ends.
        if answer.more.get() == 0 || at(&answer) <= at(&header) {
            return Ok(found);
        }
        header = answer;
    }
}

fn changed(record: &ChangedRecord) -> Option<ChangedExtent> {
    let kinds = [FileExtentKind::Inline, FileExtentKind::Regular, FileExtentKind::Prealloc];
    Some(ChangedExtent {
        ino: record.ino.get(),
        offset: record.offset.get(),
        len: record.len.get(),
        disk_start: record.disk_start.get(),
        disk_offset: record.disk_offset.get(),
        generation: record.generation.get(),
        compression: Compression::from_number(record.compression)?,
        kind: kinds.into_iter().find(|kind| *kind as u8 == record.kind)?,
    })
}

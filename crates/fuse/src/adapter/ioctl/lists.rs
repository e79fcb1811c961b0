//! Lists, in pages: of subvolumes, and of what changed in one.

use super::subvolumes::flags_of;
use crate::adapter::{EngineFrontEnd, Site};
use crate::control::wire::{self, ChangedHeader, ChangedRecord, ListHeader, SubvolumeRecord};
use crate::{Errno, Result};
use butterfs_engine::inode::InodeId;
use butterfs_engine::subvolume::{ChangedExtent, SubvolumeInfo};
use butterfs_format::{Generation, ItemType, Key};
use zerocopy::{FromBytes, IntoBytes};

/// No page has room for more records.
const PAGE_RECORDS: usize = wire::size_of_command(wire::LIST_SUBVOLUMES) / size_of::<SubvolumeRecord>();
/// So many records fit a page.
const PAGE_CHANGES: usize =
    (wire::size_of_command(wire::CHANGED_EXTENTS) - size_of::<ChangedHeader>()) / size_of::<ChangedRecord>();

impl EngineFrontEnd {
    /// One page of the list of subvolumes.
    pub(super) fn subvolume_page(&self, input: &[u8]) -> Result<Vec<u8>> {
        let (mut header, _) = ListHeader::read_from_prefix(input).map_err(|_| Errno::EINVAL)?;
        let after = header.after.get();
        let found = match header.which.get() {
            0 => self.fs.subvolume_page(after, PAGE_RECORDS),
            1 => self.fs.deleted_subvolumes(after, PAGE_RECORDS),
            _ => return Err(Errno::EINVAL),
        };
        let all = found.map_err(|error| Site::new("listing", self.fs.root()).fail(&error))?;
        let mut page = header.as_bytes().to_vec();
        let mut count = 0;
        for info in &all {
            let before = page.len();
            push_record(&mut page, info)?;
            if page.len() > wire::size_of_command(wire::LIST_SUBVOLUMES) {
                page.truncate(before);
                break;
            }
            count += 1;
        }
        if count == 0 && !all.is_empty() {
            return Err(Errno::EOVERFLOW);
        }
        header.count = count.into();
        page[..size_of::<ListHeader>()].copy_from_slice(header.as_bytes());
        Ok(page)
    }

    /// One page of what changed in the subvolume that an inode is in.
    pub(super) fn changed_page(&self, id: InodeId, input: &[u8]) -> Result<Vec<u8>> {
        let (mut header, _) = ChangedHeader::read_from_prefix(input).map_err(|_| Errno::EINVAL)?;
        let item_type = u8::try_from(header.item_type.get()).map_err(|_| Errno::EINVAL)?;
        let from = Key::new(header.ino.get(), ItemType(item_type), header.offset.get());
        let found = self.fs.changed_extents(id.tree, Generation(header.since.get()), from, PAGE_CHANGES);
        let found = found.map_err(|error| Site::new("listing changes", id).fail(&error))?;
        header.count = (found.extents.len() as u64).into();
        header.more = u64::from(found.next.is_some()).into();
        if let Some(next) = found.next {
            header.ino = next.objectid.into();
            header.item_type = u64::from(next.item_type.0).into();
            header.offset = next.offset.into();
        }
        let mut page = header.as_bytes().to_vec();
        found.extents.iter().for_each(|extent| page.extend_from_slice(record(extent).as_bytes()));
        Ok(page)
    }
}

fn record(extent: &ChangedExtent) -> ChangedRecord {
    ChangedRecord {
        ino: extent.ino.0.into(),
        offset: extent.offset.into(),
        len: extent.len.into(),
        disk_start: extent.disk_start.into(),
        disk_offset: extent.disk_offset.into(),
        generation: extent.generation.0.into(),
        compression: extent.compression as u8,
        kind: extent.kind as u8,
    }
}

fn push_record(page: &mut Vec<u8>, info: &SubvolumeInfo) -> Result<()> {
    let path_len = u16::try_from(info.path.len()).map_err(|_| Errno::EOVERFLOW)?;
    let record = SubvolumeRecord {
        id: info.id.0.into(),
        parent: info.parent.map_or(0, |parent| parent.0).into(),
        generation: info.generation.0.into(),
        created_in: info.created_in.0.into(),
        created_sec: info.created.sec.get().into(),
        created_nsec: info.created.nanoseconds().into(),
        flags: flags_of(info.flags).into(),
        uuid: info.uuid,
        parent_uuid: info.parent_uuid,
        received_uuid: info.received_uuid,
        dir: info.dir.0.into(),
        snapshot_in: info.snapshot_in.0.into(),
        changed_in: info.changed_in.0.into(),
        sent_in: info.sent_in.0.into(),
        sent_sec: info.sent.sec.get().into(),
        received_in: info.received_in.0.into(),
        received_sec: info.received.sec.get().into(),
        path_len: path_len.into(),
    };
    page.extend_from_slice(record.as_bytes());
    page.extend_from_slice(&info.path);
    Ok(())
}

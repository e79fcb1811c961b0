//! Questions about extents: where a file's are, and whose an extent is.

use std::ops::{ControlFlow, Range};

use butterfs_format::Logical;
use butterfs_format::items::ExtentFlags;

use super::Filesystem;
use crate::error::{Error, Result};
use crate::file::{self, ExtentUse, FileExtentUse, Stretch, memory_map, users};
use crate::inode::InodeId;
use crate::subvolume::list;

impl Filesystem {
    /// Shows the extents of a file that overlap a range, holes left out, until `visit` breaks off; gives where the
    /// file's last extent ends.
    pub fn stretches(
        &self,
        id: InodeId,
        range: &Range<u64>,
        in_memory: InMemory,
        visit: impl FnMut(Stretch) -> ControlFlow<()>,
    ) -> Result<u64> {
        let inode = self.file(id)?;
        if in_memory == InMemory::WriteBack && inode.data.is_dirty() {
            file::writeback(&self.shared, &inode, None)?;
        }
        self.forget_if_clean(&inode);
        self.shared.gate.view(|tx| {
            memory_map::stretches(tx, &inode, range, visit)?;
            memory_map::end(tx, &inode)
        })
    }

    /// The files that use the data extent at an address, or only those that use its byte there.
    pub fn extent_users(&self, at: Logical, only_byte: OnlyByte) -> Result<Vec<FileExtentUse>> {
        self.shared.gate.view(|tx| {
            let extent = tx.extent_containing(at)?.ok_or(Error::NotFound)?;
            if !extent.flags.contains(ExtentFlags::DATA) {
                return Err(Error::Invalid("the address is in a tree block"));
            }
            let wanted = match only_byte {
                OnlyByte::Yes => ExtentUse::Byte(at.0 - extent.start.0),
                OnlyByte::No => ExtentUse::Any,
            };
            users::users(tx, (extent.start, extent.len), wanted, &list::trees(tx)?)
        })
    }
}

/// What is done with bytes that have no extent yet, before a file is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InMemory {
    /// They get one.
    WriteBack,
    /// They are shown as they are.
    Show,
}

/// Whether users of other parts of an extent are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnlyByte {
    /// They are.
    Yes,
    /// They are not.
    No,
}

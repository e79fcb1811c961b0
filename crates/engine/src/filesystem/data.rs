//! Data of files: the file layer's operations, and the note of which inodes are dirty.

use std::ops::Range;

use butterfs_format::items::FileType;

use super::Filesystem;
use crate::error::{Error, Result};
use crate::file::{self, Seek, SizeMode};
use crate::inode::{InodeId, InodeRef, item, lock};

impl Filesystem {
    /// Reads bytes; fewer than asked for at the end of the file only.
    pub fn read(&self, id: InodeId, offset: u64, buf: &mut [u8]) -> Result<usize> {
        file::read(&self.shared, &*self.file(id)?, offset, buf)
    }

    /// Writes bytes into memory; they reach the devices at the latest with [`Filesystem::sync`].
    pub fn write(&self, id: InodeId, offset: u64, bytes: &[u8]) -> Result<usize> {
        self.on_file(id, |inode| file::write(&self.shared, inode, offset, bytes))
    }

    /// Cuts a file, or makes it longer by a hole.
    pub fn set_size(&self, id: InodeId, size: u64) -> Result<()> {
        self.on_file(id, |inode| file::set_size(&self.shared, inode, size))
    }

    /// Allocates space that reads as zeros until it is written.
    pub fn preallocate(&self, id: InodeId, range: Range<u64>, mode: SizeMode) -> Result<()> {
        self.on_file(id, |inode| file::preallocate(&self.shared, inode, range, mode))
    }

    /// Makes a range a hole.
    pub fn punch_hole(&self, id: InodeId, range: Range<u64>) -> Result<()> {
        self.on_file(id, |inode| file::punch_hole(&self.shared, inode, range))
    }

    /// Makes a range read as zeros, with space allocated.
    pub fn zero_range(&self, id: InodeId, range: Range<u64>, mode: SizeMode) -> Result<()> {
        self.on_file(id, |inode| file::zero_range(&self.shared, inode, range, mode))
    }

    /// The next data or hole at or after an offset; `None` past the end.
    pub fn seek(&self, id: InodeId, from: u64, what: Seek) -> Result<Option<u64>> {
        file::seek(&self.shared, &*self.file(id)?, from, what)
    }

    /// Runs an operation of the file layer that changes a file's data, and notes the file as dirty.
    pub fn on_file<R>(&self, id: InodeId, work: impl FnOnce(&InodeRef) -> Result<R>) -> Result<R> {
        let inode = self.file(id)?;
        self.shared.gate.view(|tx| item::require_changeable(tx, id.tree))?;
        let result = work(&inode);
        // After the work, and if it failed too: a sync that runs at the same time may miss it, a
        // later one may not.
        let dirty = lock(&inode.state).dirty || inode.data.is_dirty();
        if dirty {
            lock(&self.dirty).insert(id, inode);
        }
        result
    }

    fn file(&self, id: InodeId) -> Result<InodeRef> {
        if id.is_placeholder() {
            return Err(Error::IsDirectory);
        }
        let inode = self.inode(id)?;
        let found = {
            let state = lock(&inode.state);
            if state.gone {
                return Err(Error::NotFound);
            }
            FileType::from_mode(state.item.mode.get())
        };
        match found {
            FileType::Regular => Ok(inode),
            FileType::Directory => Err(Error::IsDirectory),
            _ => Err(Error::Invalid("not a regular file")),
        }
    }
}

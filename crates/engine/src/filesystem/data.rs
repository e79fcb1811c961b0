//! Data of files: the file layer's operations, and the note of which inodes are dirty.

use std::ops::Range;

use butterfs_format::items::FileType;
pub use butterfs_volume::Reader;

use super::Filesystem;
use crate::cores::on_all_cores;
use crate::error::{Error, Result};
use crate::file::{self, CloneLen, Dedupe, Seek, SizeMode};
use crate::inode::{InodeId, InodeRef, item, lock};

/// So many block groups are emptied for one operation at most.
const MOST_RECLAIMED: usize = 64;
/// So many files are written back before it is asked again whose turn it is.
const INODES_PER_ROUND: usize = 64;

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileOffset {
    /// The file.
    pub id: InodeId,
    /// Where in it, in bytes.
    pub offset: u64,
}

impl FileOffset {
    fn in_inode(self, inode: &InodeRef) -> file::Place<'_> {
        file::Place { inode, offset: self.offset }
    }
}

impl Filesystem {
    /// Reads bytes; fewer than asked for at the end of the file only.
    pub fn read(&self, id: InodeId, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.read_for(Reader::default(), id, offset, buf)
    }

    /// As [`Filesystem::read`], for this reader.
    pub fn read_for(&self, reader: Reader, id: InodeId, offset: u64, buf: &mut [u8]) -> Result<usize> {
        file::read(&self.shared, &*self.file(id)?, reader, offset, buf)
    }

    /// Writes bytes into memory; they reach the devices at the latest with [`Filesystem::sync`].
    pub fn write(&self, id: InodeId, offset: u64, bytes: &[u8]) -> Result<usize> {
        self.throttle(bytes.len() as u64)?;
        let written = self.on_file(id, |inode| file::write(&self.shared, inode, offset, bytes))?;
        self.note_small_write(id, offset, written as u64)?;
        Ok(written)
    }

    /// Cuts a file, or makes it longer by a hole.
    pub fn set_size(&self, id: InodeId, size: u64) -> Result<()> {
        self.on_file(id, |inode| file::set_size(&self.shared, inode, size))
    }

    /// Allocates space that reads as zeros until it is written.
    pub fn preallocate(&self, id: InodeId, range: Range<u64>, mode: SizeMode) -> Result<()> {
        self.on_file(id, |inode| file::preallocate(&self.shared, inode, range.clone(), mode))
    }

    /// Makes a range a hole.
    pub fn punch_hole(&self, id: InodeId, range: Range<u64>) -> Result<()> {
        self.on_file(id, |inode| file::punch_hole(&self.shared, inode, range.clone()))
    }

    /// Makes a range read as zeros, with space allocated.
    pub fn zero_range(&self, id: InodeId, range: Range<u64>, mode: SizeMode) -> Result<()> {
        self.on_file(id, |inode| file::zero_range(&self.shared, inode, range.clone(), mode))
    }

    /// Makes a range of a file share the extents of another range, in any file of the filesystem; gives how many
    /// bytes it has. See [`file::clone_range`] for what can be shared.
    pub fn clone_range(&self, from: FileOffset, to: FileOffset, len: CloneLen) -> Result<u64> {
        self.share(from, to, |source, dest| file::clone_range(&self.shared, source, dest, len))
    }

    /// Makes a range of a file share the extents of another range that has the same bytes.
    pub fn dedupe_range(&self, from: FileOffset, to: FileOffset, len: u64) -> Result<Dedupe> {
        self.share(from, to, |source, dest| file::dedupe_range(&self.shared, source, dest, len))
    }

    fn share<R>(
        &self,
        from: FileOffset,
        to: FileOffset,
        work: impl Fn(file::Place<'_>, file::Place<'_>) -> Result<R>,
    ) -> Result<R> {
        // A small source may have to be copied.
        self.throttle(u64::from(self.shared.gate.volume().geometry().sectorsize))?;
        let source = self.file(from.id)?;
        let result = self.on_file(to.id, |dest| work(from.in_inode(&source), to.in_inode(dest)));
        self.forget_if_clean(&source);
        result
    }

    /// The next data or hole at or after an offset; `None` past the end.
    pub fn seek(&self, id: InodeId, from: u64, what: Seek) -> Result<Option<u64>> {
        file::seek(&self.shared, &*self.file(id)?, from, what)
    }

    /// Runs an operation of the file layer that changes a file's data, and notes the file as dirty.
    pub fn on_file<R>(&self, id: InodeId, work: impl Fn(&InodeRef) -> Result<R>) -> Result<R> {
        let inode = self.file(id)?;
        self.shared.gate.view(|tx| item::require_changeable(tx, id.tree))?;
        let result = self.with_room(|| work(&inode));
        // After the work, and if it failed too: a sync that runs at the same time may miss it, a
        // later one may not.
        let dirty = lock(&inode.state).dirty || inode.data.is_dirty();
        if dirty {
            lock(&self.dirty).insert(id, inode);
        }
        result
    }

    /// Does something that may lack space, and once more when all that is promised to data in memory
    /// was used: that is less than was promised; and again when chunks that were hardly used gave space back.
    /// No lock may be held.
    pub(super) fn with_room<R>(&self, mut work: impl FnMut() -> Result<R>) -> Result<R> {
        let mut result = work();
        if matches!(result, Err(Error::NoSpace)) && self.budget.bytes() > 0 {
            // Whose data is lost hears of it from its own fsync.
            let _ = self.write_back(|_| true);
            result = work();
        }
        for _ in 0..MOST_RECLAIMED {
            if !matches!(result, Err(Error::NoSpace)) || !self.make_room()? {
                break;
            }
            result = work();
        }
        result
    }

    /// Before `bytes` more become dirty: has so much of what is dirty written back, whosever it is, that
    /// memory stays within its budget. Who writes faster than the devices waits here.
    fn throttle(&self, bytes: u64) -> Result<()> {
        let full = || self.budget.bytes().saturating_add(bytes) > self.shared.options.dirty_limit;
        if !full() {
            return Ok(());
        }
        let _one_at_a_time = lock(&self.throttled);
        self.write_back_while(full)
    }

    /// Has files written back, whosever they are, until no more bytes than these are dirty: for who writes much and has
    /// a thread for it, so that writers need not wait for devices.
    ///
    /// # Errors
    /// If nothing can be written any more. What single files lose their own `fsync` tells.
    pub fn write_back_to(&self, most: u64) -> Result<()> {
        self.write_back_while(|| self.budget.bytes() > most)
    }

    fn write_back_while(&self, wanted: impl Fn() -> bool + Sync) -> Result<()> {
        while wanted() {
            self.shared.gate.check_writable()?;
            let inodes = self.first_with_dirty_data(INODES_PER_ROUND);
            if inodes.is_empty() {
                break;
            }
            let write = |index: usize| {
                if wanted() {
                    // An error is the other file's.
                    let _ = file::writeback(&self.shared, &inodes[index], None);
                    self.forget_if_clean(&inodes[index]);
                }
            };
            // Few are written in their order, so that the same work makes the same image.
            match inodes.len() < INODES_PER_ROUND {
                true => (0..inodes.len()).for_each(write),
                false => drop(on_all_cores(inodes.len(), write)),
            }
        }
        Ok(())
    }

    fn first_with_dirty_data(&self, most: usize) -> Vec<InodeRef> {
        let dirty = lock(&self.dirty);
        dirty.values().filter(|inode| inode.data.is_dirty()).take(most).map(InodeRef::clone).collect()
    }

    pub(super) fn file(&self, id: InodeId) -> Result<InodeRef> {
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

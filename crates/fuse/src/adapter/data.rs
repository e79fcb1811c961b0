//! Bytes of files.

use super::handles::OpenFiles;
use super::rights::{Deed, require_unprotected};
use super::{EngineFrontEnd, Site};
use crate::types::{Caller, Fallocate, FileHandle, FilePos, NodeId, Seek, Statfs, WriteMode};
use crate::{Errno, ReadSink, Result};
use butterfs_engine::file::{self, SizeMode};
use butterfs_engine::filesystem::Reader;
use butterfs_engine::inode::InodeId;
use butterfs_format::items::InodeFlags;

const O_APPEND: u32 = 0o2000;
const O_DSYNC: u32 = 0o10_000;
/// `O_SYNC` without the `O_DSYNC` in it.
const O_SYNC: u32 = 0o4_000_000;

const KEEP_SIZE: u32 = 0x01;
const PUNCH_HOLE: u32 = 0x02;
const ZERO_RANGE: u32 = 0x10;

impl EngineFrontEnd {
    pub(super) fn do_read(&self, caller: &Caller, id: InodeId, offset: u64, out: &mut ReadSink<'_>) -> Result<()> {
        let site = Site::new("read", id);
        let size = self.attributes(site)?.item.size.get();
        let len = size.saturating_sub(offset).min(out.room() as u64) as usize;
        if len == 0 {
            return Ok(());
        }
        out.fill(len, |buffer| {
            let got = self.fs.read_for(Reader(caller.pid), id, offset, buffer)?;
            // Cut off meanwhile.
            buffer[got..].fill(0);
            Ok(())
        })
        .map_err(|error: butterfs_engine::Error| site.fail(&error))?;
        self.note_access(id);
        Ok(())
    }

    pub(super) fn do_write(&self, caller: &Caller, at: &FilePos, data: &[u8], mode: WriteMode) -> Result<usize> {
        let id = self.id(at.node)?;
        let site = Site::new("write", id);
        let found = self.attributes(site)?;
        if !mode.writeback {
            let deed = if mode.flags & O_APPEND != 0 { Deed::Append } else { Deed::Change };
            require_unprotected(&found, deed)?;
        }
        self.remove_capability(at.node, id)?;
        if mode.kill_suidgid {
            self.drop_privileges(at.node, &found)?;
        }
        let written = self.fs.write(id, at.offset, data).map_err(|error| site.fail(&error))?;
        let asked = mode.flags & (O_SYNC | O_DSYNC) != 0 || found.item.flags().contains(InodeFlags::SYNC);
        if asked && !mode.writeback {
            self.do_fsync(caller, id, at.handle)?;
        }
        Ok(written)
    }

    pub(super) fn do_fsync(&self, caller: &Caller, id: InodeId, handle: FileHandle) -> Result<()> {
        let result = self.handles.with(id, handle, caller, |cursor| self.fs.fsync_open(id, cursor));
        result.map_err(|error| Site::new("fsync", id).fail(&error))
    }

    pub(super) fn do_fallocate(&self, caller: &Caller, node: NodeId, wanted: Fallocate) -> Result<()> {
        let id = self.id(node)?;
        let site = Site::new("fallocate", id);
        let end = wanted.offset.checked_add(wanted.length).ok_or(Errno::EFBIG)?;
        let range = wanted.offset..end;
        let size_mode = if wanted.mode & KEEP_SIZE != 0 { SizeMode::Keep } else { SizeMode::Extend };
        let found = self.attributes(site)?;
        // Who has opened it to append may do the first; only then it is known that he has.
        let appends = wanted.mode & !KEEP_SIZE == 0 && self.options.open_files == OpenFiles::Named;
        require_unprotected(&found, if appends { Deed::Append } else { Deed::Change })?;
        self.before_changing(caller, node, &found)?;
        let done = match wanted.mode & !KEEP_SIZE {
            0 => self.fs.preallocate(id, range, size_mode),
            PUNCH_HOLE if size_mode == SizeMode::Keep => self.fs.punch_hole(id, range),
            ZERO_RANGE => self.fs.zero_range(id, range, size_mode),
            _ => return Err(Errno::EOPNOTSUPP),
        };
        done.map_err(|error| site.fail(&error))?;
        self.settle_inode(id)
    }

    /// What lies below zero counts as zero, as in the kernel.
    pub(super) fn do_lseek(&self, id: InodeId, from: u64, what: Seek) -> Result<u64> {
        let from = from.cast_signed().max(0).cast_unsigned();
        let what = match what {
            Seek::Data => file::Seek::Data,
            Seek::Hole => file::Seek::Hole,
        };
        let found = self.fs.seek(id, from, what).map_err(|error| Site::new("lseek", id).fail(&error))?;
        found.ok_or(Errno::ENXIO)
    }

    pub(super) fn do_statfs(&self) -> Statfs {
        let usage = self.fs.usage();
        let unit = u64::from(usage.sectorsize);
        Statfs {
            block_size: usage.sectorsize,
            blocks: usage.total / unit,
            free: usage.free / unit,
            available: usage.available / unit,
            files: 0,
            files_free: 0,
            name_len: 255,
        }
    }
}

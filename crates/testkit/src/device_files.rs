//! Devices as files: a small FUSE filesystem whose files are [`BlockDevice`]s. A loop device over such a file lets any
//! program (the kernel's btrfs, `mkfs.btrfs`, a daemon) work on a device that records or fails.
//!
//! # Invariants
//! * The kernel caches nothing that is written: a write has reached the device when it returns, and a flush of the
//!   loop device becomes one `fsync` here, and so one flush of the device.
//! * A hole punched, or a range zeroed, is a discard.
//!
//! Take things away in this order: what is mounted, the loop device, this.

use std::sync::Arc;
use std::time::Duration;

use butterfs_fuse::{
    Attr, AttrReply, Caller, DirEntry, DirSink, Entry, Errno, Fallocate, FileHandle, FileKind, FilePos, FrontEnd, Full,
    NodeId, ReadSink, Result, SetAttr, Statfs, SyncScope, WriteMode,
};
use butterfs_volume::BlockDevice;

const PUNCH_HOLE: u32 = 0x02;
const ZERO_RANGE: u32 = 0x10;
/// Devices do not grow and have no other names.
const TTL: Duration = Duration::from_secs(3600);

/// One file for each device: `disk0`, `disk1`...
pub struct DeviceFiles {
    devices: Vec<Arc<dyn BlockDevice>>,
}

impl DeviceFiles {
    /// Shows these devices.
    pub fn new(devices: Vec<Arc<dyn BlockDevice>>) -> Arc<Self> {
        Arc::new(Self { devices })
    }

    /// The name of the n-th device's file.
    pub fn name(number: usize) -> String {
        format!("disk{number}")
    }

    /// The first file is node 2.
    fn device(&self, node: NodeId) -> Result<&Arc<dyn BlockDevice>> {
        let number = node.0.checked_sub(2).ok_or(Errno::EISDIR)?;
        self.devices.get(number as usize).ok_or(Errno::ESTALE)
    }

    fn attr(&self, node: NodeId) -> Result<Attr> {
        let common = Attr { ino: node.0, nlink: 1, blksize: 4096, ..Attr::default() };
        if node == NodeId::ROOT {
            return Ok(Attr { mode: 0o040_755, ..common });
        }
        let size = self.device(node)?.len();
        Ok(Attr { mode: 0o100_600, size, blocks: size / 512, ..common })
    }
}

impl FrontEnd for DeviceFiles {
    fn destroy(&self) -> std::result::Result<(), String> {
        Ok(())
    }

    fn lookup(&self, _: &Caller, _: NodeId, name: &[u8]) -> Result<Entry> {
        let number = (0..self.devices.len()).find(|number| Self::name(*number).as_bytes() == name);
        let node = NodeId(number.ok_or(Errno::ENOENT)? as u64 + 2);
        Ok(Entry { node: Some(node), generation: 0, attr: self.attr(node)?, entry_ttl: TTL, attr_ttl: TTL })
    }

    fn forget(&self, _: NodeId, _: u64) {}

    fn getattr(&self, _: &Caller, node: NodeId, _: Option<FileHandle>) -> Result<AttrReply> {
        Ok(AttrReply { attr: self.attr(node)?, ttl: TTL })
    }

    /// Times are not kept; devices keep their size.
    fn setattr(&self, caller: &Caller, node: NodeId, change: &SetAttr) -> Result<AttrReply> {
        match change.size {
            Some(size) if size != self.device(node)?.len() => Err(Errno::EPERM),
            _ => self.getattr(caller, node, None),
        }
    }

    fn read(&self, _: &Caller, at: FilePos, out: &mut ReadSink<'_>) -> Result<()> {
        let device = self.device(at.node)?;
        let len = device.len().saturating_sub(at.offset).min(out.room() as u64) as usize;
        out.fill(len, |buffer| device.read_at(at.offset, buffer).map_err(Errno::from))
    }

    fn write(&self, _: &Caller, at: FilePos, data: &[u8], _: WriteMode) -> Result<usize> {
        self.device(at.node)?.write_at(at.offset, data)?;
        Ok(data.len())
    }

    fn fsync(&self, _: &Caller, node: NodeId, _: FileHandle, _: SyncScope) -> Result<()> {
        Ok(self.device(node)?.flush()?)
    }

    fn fsyncdir(&self, _: &Caller, _: NodeId, _: FileHandle, _: SyncScope) -> Result<()> {
        Ok(())
    }

    fn syncfs(&self, _: &Caller, _: NodeId) -> Result<()> {
        Ok(self.devices.iter().try_for_each(|device| device.flush())?)
    }

    fn fallocate(&self, _: &Caller, node: NodeId, _: FileHandle, range: Fallocate) -> Result<()> {
        match range.mode & (PUNCH_HOLE | ZERO_RANGE) {
            0 => Err(Errno::EOPNOTSUPP),
            _ => Ok(self.device(node)?.discard(range.offset, range.length)?),
        }
    }

    fn readdir(&self, _: &Caller, at: FilePos, out: &mut DirSink<'_>) -> Result<()> {
        let names = (0..self.devices.len()).map(Self::name);
        for (index, name) in names.enumerate().skip(at.offset as usize) {
            let number = index as u64;
            let kind = FileKind::from_mode(0o100_600);
            if out.add(&DirEntry { ino: number + 2, name: name.as_bytes(), kind, next: number + 1 }) == Full::Yes {
                break;
            }
        }
        Ok(())
    }

    fn statfs(&self, _: &Caller, _: NodeId) -> Result<Statfs> {
        Ok(Statfs { block_size: 4096, name_len: 255, ..Statfs::default() })
    }
}

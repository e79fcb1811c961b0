//! Attributes as the kernel wants them, and the numbers that `stat` shows.
//!
//! # `st_ino`
//! A mount has one `st_dev`, so inode numbers must differ between subvolumes. In the mounted
//! subvolume they are those on disk; in others they are `ino ^ tree.rotate_left(40)`, which is
//! `tree << 40 | ino` as long as both numbers are of usual size. The same in every mount of the same
//! subvolume.

use crate::types::{Attr, DeviceNumber, FileKind, Statx, Timestamp};
use butterfs_engine::filesystem::Attributes;
use butterfs_engine::inode::InodeId;
use butterfs_format::items::{FileType, InodeFlags, Timespec};
use butterfs_format::{Ino, TreeId};

/// `STATX_ATTR_*` of linux/stat.h, by the flags that stand for them.
const ATTRIBUTES: [(InodeFlags, u64); 4] = [
    (InodeFlags::COMPRESS, 0x4),
    (InodeFlags::IMMUTABLE, 0x10),
    (InodeFlags::APPEND, 0x20),
    (InodeFlags::NODUMP, 0x40),
];

/// Which number the top directory of a subvolume shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SubvolumeIno {
    /// One that no other inode of the mount has.
    #[default]
    Unique,
    /// 256, as tools for Btrfs expect it.
    AsOnDisk,
}

/// How inode numbers are shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    /// The subvolume whose numbers are shown as they are.
    pub mounted: TreeId,
    /// Which number top directories show.
    pub tops: SubvolumeIno,
}

impl Numbers {
    /// The number that `stat` and `readdir` show.
    pub fn shown(&self, id: InodeId) -> u64 {
        let as_on_disk = id.ino == Ino::ROOT_DIR && self.tops == SubvolumeIno::AsOnDisk;
        if id.tree == self.mounted || as_on_disk { id.ino.0 } else { id.ino.0 ^ id.tree.0.rotate_left(40) }
    }

    /// What `statx` shows.
    pub fn statx(&self, found: &Attributes, attr: Attr) -> Statx {
        let flags = found.item.flags();
        let set = ATTRIBUTES.iter().filter(|(flag, _)| flags.contains(*flag));
        Statx {
            attr,
            btime: timestamp(found.item.otime),
            attributes: set.map(|(_, bit)| bit).sum(),
            attributes_mask: ATTRIBUTES.iter().map(|(_, bit)| bit).sum(),
        }
    }

    /// What `stat` shows.
    pub fn attr(&self, found: &Attributes, sectorsize: u32) -> Attr {
        let item = &found.item;
        Attr {
            ino: self.shown(found.id),
            size: item.size.get(),
            blocks: bytes_used(found, sectorsize).div_ceil(512),
            atime: timestamp(item.atime),
            mtime: timestamp(item.mtime),
            ctime: timestamp(item.ctime),
            mode: item.mode.get(),
            nlink: item.nlink.get(),
            uid: item.uid.get(),
            gid: item.gid.get(),
            rdev: DeviceNumber::from_kernel(item.rdev.get()),
            blksize: sectorsize,
        }
    }
}

/// The space an inode takes, or will when its data is written: never more for that than its size,
/// because what is overwritten counts already.
fn bytes_used(found: &Attributes, sectorsize: u32) -> u64 {
    let up = |bytes: u64| bytes.saturating_add(u64::from(sectorsize) - 1) & !(u64::from(sectorsize) - 1);
    // As in the kernel, what is kept inline counts as a sector too.
    let (stored, most) = (up(found.item.nbytes.get()), up(found.item.size.get()));
    stored.saturating_add(found.unwritten).min(most).max(stored)
}

/// A time on disk as a time in memory.
pub(super) fn timestamp(time: Timespec) -> Timestamp {
    Timestamp { seconds: time.seconds(), nanos: time.nanoseconds() }
}

/// A time in memory as one on disk.
pub(super) fn timespec(time: Timestamp) -> Timespec {
    Timespec::new(time.seconds, time.nanos)
}

/// The type in a directory entry.
pub(super) fn kind(file_type: FileType) -> FileKind {
    FileKind::from_mode(file_type.mode_bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ_between_subvolumes() {
        let numbers = Numbers { mounted: TreeId::FS, tops: SubvolumeIno::Unique };
        let id = |tree, ino| InodeId::new(TreeId(tree), Ino(ino));
        assert_eq!(numbers.shown(id(5, 256)), 256);
        assert_eq!(numbers.shown(id(257, 256)), 257 << 40 | 256);
        assert_eq!(numbers.shown(id(257, 300)), 257 << 40 | 300);
        let compat = Numbers { tops: SubvolumeIno::AsOnDisk, ..numbers };
        assert_eq!(compat.shown(id(257, 256)), 256);
        assert_eq!(compat.shown(id(257, 300)), 257 << 40 | 300);
    }
}

//! chattr, lsattr and `xfs_io -c chattr`.

use super::reply;
use crate::adapter::rights::CallerCapability;
use crate::adapter::{EngineFrontEnd, Site};
use crate::types::{Caller, IoctlReply};
use crate::{Errno, Result};
use butterfs_engine::inode::InodeId;
use butterfs_format::items::{FileType, InodeFlags};

/// `FS_IOC_GETFLAGS`; the kernel passes 4 bytes whatever the number says.
pub(super) const GETFLAGS: u32 = 0x8008_6601;
/// `FS_IOC_SETFLAGS`, likewise.
pub(super) const SETFLAGS: u32 = 0x4008_6602;
/// `FS_IOC_FSGETXATTR`, with `struct fsxattr`.
pub(super) const FSGETXATTR: u32 = 0x801c_581f;
/// `FS_IOC_FSSETXATTR`, with `struct fsxattr`.
pub(super) const FSSETXATTR: u32 = 0x401c_5820;
const FSXATTR_SIZE: usize = 28;

/// Our flags, with their numbers as `FS_*_FL`, and as `FS_XFLAG_*` where there is one.
const FLAGS: [(InodeFlags, u32, Option<u32>); 9] = [
    (InodeFlags::COMPRESS, 0x4, None),
    (InodeFlags::SYNC, 0x8, Some(0x20)),
    (InodeFlags::IMMUTABLE, 0x10, Some(0x8)),
    (InodeFlags::APPEND, 0x20, Some(0x10)),
    (InodeFlags::NODUMP, 0x40, Some(0x80)),
    (InodeFlags::NOATIME, 0x80, Some(0x40)),
    (InodeFlags::NOCOMPRESS, 0x400, None),
    (InodeFlags::DIRSYNC, 0x1_0000, None),
    (InodeFlags::NODATACOW, 0x80_0000, None),
];

fn all_with_number() -> InodeFlags {
    FLAGS.iter().fold(InodeFlags::empty(), |all, (flag, ..)| all | *flag)
}

fn all_with_xflag() -> InodeFlags {
    FLAGS.iter().filter(|(.., x)| x.is_some()).fold(InodeFlags::empty(), |all, (flag, ..)| all | *flag)
}

impl EngineFrontEnd {
    pub(super) fn flags(&self, id: InodeId) -> Result<u32> {
        let flags = self.attributes(Site::new("getflags", id))?.item.flags();
        Ok(FLAGS.iter().filter(|(flag, ..)| flags.contains(*flag)).fold(0, |sum, (_, number, _)| sum | number))
    }

    pub(super) fn set_flags(&self, caller: &Caller, id: InodeId, input: &[u8]) -> Result<IoctlReply> {
        let bytes = input.first_chunk().ok_or(Errno::EINVAL)?;
        let mut rest = u32::from_ne_bytes(*bytes);
        let mut wanted = InodeFlags::empty();
        for (flag, number, _) in FLAGS {
            if rest & number != 0 {
                wanted |= flag;
                rest &= !number;
            }
        }
        if rest != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        // Without a number of its own: it comes and goes with NODATACOW.
        self.change_flags(caller, id, wanted, all_with_number() | InodeFlags::NODATASUM)
    }

    pub(super) fn xflags(&self, id: InodeId) -> Result<Vec<u8>> {
        let flags = self.attributes(Site::new("getflags", id))?.item.flags();
        let has = FLAGS.iter().filter(|(flag, ..)| flags.contains(*flag));
        let sum = has.fold(0, |sum, (.., number)| sum | number.unwrap_or(0));
        let mut out = sum.to_ne_bytes().to_vec();
        out.resize(FSXATTR_SIZE, 0);
        Ok(out)
    }

    pub(super) fn set_xflags(&self, caller: &Caller, id: InodeId, input: &[u8]) -> Result<IoctlReply> {
        let (bytes, rest) = input.split_first_chunk().ok_or(Errno::EINVAL)?;
        // Extent sizes and project ids are not ours.
        if rest.iter().any(|byte| *byte != 0) {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut sum = u32::from_ne_bytes(*bytes);
        let mut wanted = InodeFlags::empty();
        for (flag, number) in FLAGS.iter().filter_map(|(flag, _, number)| number.map(|number| (*flag, number))) {
            if sum & number != 0 {
                wanted |= flag;
                sum &= !number;
            }
        }
        if sum != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        self.change_flags(caller, id, wanted, all_with_xflag())
    }

    /// Sets the flags among `settable` as `wanted` says.
    fn change_flags(
        &self,
        caller: &Caller,
        id: InodeId,
        wanted: InodeFlags,
        settable: InodeFlags,
    ) -> Result<IoctlReply> {
        let site = Site::new("setflags", id);
        let found = self.attributes(site)?;
        self.require_owner(caller, &found)?;
        let old = found.item.flags();
        let new = (old - settable) | (wanted & possible(found.file_type));
        let protection = (old ^ new).intersects(InodeFlags::IMMUTABLE | InodeFlags::APPEND);
        if protection && !self.may(caller, CallerCapability::LinuxImmutable) {
            return Err(Errno::EPERM);
        }
        require_compatible(old, new)?;
        self.fs.set_flags(id, new).map_err(|error| site.fail(&error))?;
        reply([])
    }
}

/// Compression is asked for or forbidden, and not together with overwriting in place: also not by one call that takes
/// the one away and sets the other.
fn require_compatible(old: InodeFlags, new: InodeFlags) -> Result<()> {
    let compression = InodeFlags::COMPRESS | InodeFlags::NOCOMPRESS;
    let asks = |flags: InodeFlags| flags.intersects(compression);
    let in_place = |flags: InodeFlags| flags.contains(InodeFlags::NODATACOW);
    let wrong = new.contains(compression)
        || in_place(new) && new.contains(InodeFlags::COMPRESS)
        || in_place(old) && asks(new)
        || in_place(new) && asks(old);
    if wrong { Err(Errno::EINVAL) } else { Ok(()) }
}

/// The flags that an inode can have, of those that somebody asks for.
fn possible(file_type: FileType) -> InodeFlags {
    match file_type {
        FileType::Directory => InodeFlags::all(),
        FileType::Regular => InodeFlags::all() - InodeFlags::DIRSYNC,
        _ => InodeFlags::NODUMP | InodeFlags::NOATIME,
    }
}

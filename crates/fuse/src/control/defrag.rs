//! Defragmentation, on the kernel's filesystems too.

use super::wire::{self, DefragRange};
use butterfs_os::flat_ioctl::flat_ioctl;
use std::io;
use std::os::fd::BorrowedFd;
use zerocopy::{FromZeros, IntoBytes};

/// How data is compressed from then on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DefragCompression {
    /// As the file has it.
    #[default]
    AsItIs,
    /// Not at all.
    Never,
    /// By a number of the kernel (1: zlib, 2: lzo, 3: zstd), with a level if not 0.
    With(u8, i8),
}

/// What becomes of extents that others refer to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DefragSharing {
    /// They stay (on a mount of Butterfs).
    #[default]
    Keep,
    /// They are written anew.
    Break,
}

/// When the data is on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DefragFlush {
    /// Some time.
    #[default]
    Later,
    /// When the call returns.
    Now,
}

/// What is to be defragmented, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DefragWish {
    /// Where it begins.
    pub start: u64,
    /// How long it is.
    pub len: u64,
    /// Extents of this size stay; 0: the filesystem's choice.
    pub large: u32,
    /// How it is compressed.
    pub compression: DefragCompression,
    /// What becomes of shared extents.
    pub sharing: DefragSharing,
    /// When it is on the device.
    pub flush: DefragFlush,
}

/// Defragments a part of a file, or the tree of a directory's subvolume.
pub fn defragment(file: BorrowedFd<'_>, wish: &DefragWish) -> io::Result<()> {
    super::require_writable(file)?;
    let mut args = DefragRange::new_zeroed();
    (args.start, args.len, args.extent_thresh) = (wish.start.into(), wish.len.into(), wish.large.into());
    let mut flags = match wish.compression {
        DefragCompression::AsItIs => 0,
        DefragCompression::Never => wire::DEFRAG_NO_COMPRESS,
        DefragCompression::With(kind, level) => {
            args.compress = [kind, level.cast_unsigned(), 0, 0];
            wire::DEFRAG_COMPRESS | if level == 0 { 0 } else { wire::DEFRAG_COMPRESS_LEVEL }
        }
    };
    if wish.sharing == DefragSharing::Break {
        flags |= wire::DEFRAG_BREAK_SHARED;
    }
    if wish.flush == DefragFlush::Now {
        flags |= wire::DEFRAG_START_IO;
    }
    args.flags = flags.into();
    flat_ioctl(file, wire::DEFRAG_RANGE, args.as_mut_bytes())?;
    Ok(())
}

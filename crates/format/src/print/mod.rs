//! On-disk structures as text, line by line as `btrfs inspect-internal dump-tree` and `dump-super`
//! of btrfs-progs 6.14 print them.
//!
//! Everything here is a value with `Display`, so that a user of the library can print it anywhere:
//!
//! * [`Superblock`](struct@SuperblockText), [`Block`](struct@BlockText), [`Item`](struct@ItemText): whole structures, each line ended;
//! * [`SendText`]: commands of send streams, as `btrfs receive --dump` prints them;
//! * [`KeyText`], [`ObjectId`], [`Escaped`], [`UuidText`]: pieces of lines.
//!
//! Nothing is trusted: an item that is too short for its kind is printed as far as it goes, and a line
//! says so. The differences from btrfs-progs are listed in `docs/inspect.md`.

mod backref;
mod block;
mod chunk;
mod device;
mod dir;
mod extent;
mod fields;
mod file_extent;
mod flags;
mod inode;
mod item;
mod key;
mod name;
mod qgroup;
mod root;
mod send;
mod superblock;
mod time;

pub use block::{BlockText, leaf_free_space};
pub use flags::{
    block_group_flags, compat_ro_flag_names, extent_flags, header_flags, incompat_flag_names, inode_flags,
    profile_name, qgroup_status_flags, super_flag_names,
};
pub use item::ItemText;
pub use key::{KeyText, ObjectId};
pub use name::{Escaped, Hex, Printable, UuidText};
pub use send::{SendLine, SendText};
pub use superblock::{SuperblockText, SystemChunks, system_chunks};
pub use time::{LocalTime, WallClock};

use crate::ChecksumType;
use crate::superblock::{Incompat, Superblock};

/// Whether names of files, subvolumes and extended attributes, and values of the latter, are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// As they are, escaped.
    Shown,
    /// `HIDDEN` in their place.
    Hidden,
}

/// Whether something that is left out by default is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// It is left out.
    No,
    /// It is printed.
    Yes,
}

/// What printing must know besides the bytes.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Size of a sector, in bytes; for the ranges of checksum items.
    pub sectorsize: u32,
    /// The checksum algorithm.
    pub csum_type: ChecksumType,
    /// Whether the filesystem has simple quotas, whose status item is longer.
    pub simple_quota: bool,
    /// Names.
    pub names: Names,
    /// Checksums in block headers.
    pub header_csums: Show,
    /// Checksums in checksum items.
    pub item_csums: Show,
    /// What a clock on the wall said at a time.
    pub local_time: LocalTime,
}

impl Options {
    /// For the filesystem of a superblock: names shown, checksums left out, times in UTC.
    pub fn of(superblock: &Superblock) -> Self {
        Self {
            sectorsize: superblock.sectorsize.get(),
            csum_type: superblock.checksum_type(),
            simple_quota: superblock.incompat().contains(Incompat::SIMPLE_QUOTA),
            names: Names::Shown,
            header_csums: Show::No,
            item_csums: Show::No,
            local_time: LocalTime::UTC,
        }
    }
}

#[cfg(test)]
mod tests;

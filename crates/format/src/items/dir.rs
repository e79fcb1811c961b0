//! DIR_ITEM, DIR_INDEX and XATTR_ITEM: they share one form.

use std::fmt;

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::read_front;
use crate::key::{DiskKey, Key};

/// The longest name, in bytes.
pub const NAME_MAX: usize = 255;

/// The type of a directory entry's target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum FileType {
    /// Not known.
    Unknown = 0,
    /// Regular file.
    Regular = 1,
    /// Directory or subvolume.
    Directory = 2,
    /// Character device.
    CharDevice = 3,
    /// Block device.
    BlockDevice = 4,
    /// Named pipe.
    Fifo = 5,
    /// Socket.
    Socket = 6,
    /// Symbolic link.
    Symlink = 7,
    /// The entry is an extended attribute.
    Xattr = 8,
}

impl FileType {
    /// The type of a number on disk (the encryption bit 0x80 left out).
    pub fn from_number(number: u8) -> Option<Self> {
        use FileType::*;
        [Unknown, Regular, Directory, CharDevice, BlockDevice, Fifo, Socket, Symlink, Xattr]
            .into_iter()
            .find(|t| *t as u8 == number)
    }

    /// The type that a mode's `S_IFMT` part says.
    pub fn from_mode(mode: u32) -> Self {
        match mode & 0o170_000 {
            0o100_000 => Self::Regular,
            0o040_000 => Self::Directory,
            0o020_000 => Self::CharDevice,
            0o060_000 => Self::BlockDevice,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            0o120_000 => Self::Symlink,
            _ => Self::Unknown,
        }
    }

    /// The `S_IFMT` bits of this type; zero for [`FileType::Unknown`] and [`FileType::Xattr`].
    pub fn mode_bits(self) -> u32 {
        match self {
            Self::Regular => 0o100_000,
            Self::Directory => 0o040_000,
            Self::CharDevice => 0o020_000,
            Self::BlockDevice => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
            Self::Symlink => 0o120_000,
            Self::Unknown | Self::Xattr => 0,
        }
    }
}

/// Prints as dump-tree does.
impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "UNKNOWN",
            Self::Regular => "FILE",
            Self::Directory => "DIR",
            Self::CharDevice => "CHRDEV",
            Self::BlockDevice => "BLKDEV",
            Self::Fifo => "FIFO",
            Self::Socket => "SOCK",
            Self::Symlink => "SYMLINK",
            Self::Xattr => "XATTR",
        })
    }
}

/// The fixed front of a directory entry.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct DirEntryHeader {
    /// Key of the target's INODE_ITEM, or ROOT_ITEM of a subvolume; zero for an xattr.
    pub location: DiskKey,
    /// The transaction that made the entry.
    pub transid: U64,
    /// Length of an xattr's value; zero otherwise.
    pub data_len: U16,
    /// Length of the name.
    pub name_len: U16,
    /// See [`FileType`].
    pub file_type: u8,
}
const _: () = assert!(size_of::<DirEntryHeader>() == 30);

/// A directory entry or an extended attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// See [`DirEntryHeader::location`].
    pub location: Key,
    /// See [`DirEntryHeader::transid`].
    pub transid: u64,
    /// The type of the target.
    pub file_type: FileType,
    /// The name.
    pub name: &'a [u8],
    /// The value of an xattr.
    pub value: &'a [u8],
}

impl<'a> DirEntry<'a> {
    /// The entries in an item: several when their names have one hash.
    pub fn parse_all(data: &'a [u8]) -> Result<Vec<Self>, String> {
        Self::each(data).collect()
    }

    /// The entries in an item, one after the other; an error is the last.
    pub fn each(mut data: &'a [u8]) -> impl Iterator<Item = Result<Self, String>> {
        std::iter::from_fn(move || {
            let (entry, rest) = match data {
                [] => return None,
                data => {
                    Self::parse_front(data).map_or_else(|problem| (Err(problem), &[][..]), |(e, rest)| (Ok(e), rest))
                }
            };
            data = rest;
            Some(entry)
        })
    }

    /// The entry at the front of `data`, and what follows.
    fn parse_front(data: &'a [u8]) -> Result<(Self, &'a [u8]), String> {
        let (header, rest) = read_front::<DirEntryHeader>(data)?;
        let name_len = usize::from(header.name_len.get());
        let end = name_len + usize::from(header.data_len.get());
        if name_len == 0 || name_len > NAME_MAX || end > rest.len() {
            return Err(format!(
                "directory entry with a name of {name_len} and data of {} bytes, {} are left",
                header.data_len,
                rest.len()
            ));
        }
        let file_type = FileType::from_number(header.file_type)
            .ok_or_else(|| format!("directory entry of unknown type {}", header.file_type))?;
        let entry = Self {
            location: header.location.into(),
            transid: header.transid.get(),
            file_type,
            name: &rest[..name_len],
            value: &rest[name_len..end],
        };
        Ok((entry, &rest[end..]))
    }

    /// How many bytes this entry takes on disk.
    pub fn packed_size(&self) -> usize {
        size_of::<DirEntryHeader>() + self.name.len() + self.value.len()
    }
}

/// Appends an entry in its disk form.
pub fn pack_dir_entry(entry: &DirEntry<'_>, out: &mut Vec<u8>) {
    let header = DirEntryHeader {
        location: entry.location.into(),
        transid: entry.transid.into(),
        data_len: (entry.value.len() as u16).into(),
        name_len: (entry.name.len() as u16).into(),
        file_type: entry.file_type as u8,
    };
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(entry.name);
    out.extend_from_slice(entry.value);
}

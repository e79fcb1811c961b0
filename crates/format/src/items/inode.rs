//! INODE_ITEM, INODE_REF and INODE_EXTREF.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::read_front;

/// Seconds and nanoseconds since 1970.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Timespec {
    /// Seconds; negative before 1970 (stored as two's complement).
    pub sec: U64,
    /// Nanoseconds, below 10^9.
    pub nsec: U32,
}
const _: () = assert!(size_of::<Timespec>() == 12);

impl Timespec {
    /// A time of seconds and nanoseconds.
    pub fn new(sec: i64, nsec: u32) -> Self {
        Self { sec: (sec as u64).into(), nsec: nsec.into() }
    }

    /// Seconds since 1970.
    pub fn seconds(&self) -> i64 {
        self.sec.get() as i64
    }

    /// Nanoseconds within the second.
    pub fn nanoseconds(&self) -> u32 {
        self.nsec.get()
    }
}

bitflags::bitflags! {
    /// `InodeItem::flags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct InodeFlags: u64 {
        /// No checksums for data.
        const NODATASUM = 1 << 0;
        /// Data is overwritten in place.
        const NODATACOW = 1 << 1;
        /// Read-only (unused).
        const READONLY = 1 << 2;
        /// Do not compress.
        const NOCOMPRESS = 1 << 3;
        /// Has preallocated extents.
        const PREALLOC = 1 << 4;
        /// chattr +S
        const SYNC = 1 << 5;
        /// chattr +i
        const IMMUTABLE = 1 << 6;
        /// chattr +a
        const APPEND = 1 << 7;
        /// chattr +d
        const NODUMP = 1 << 8;
        /// chattr +A
        const NOATIME = 1 << 9;
        /// chattr +D
        const DIRSYNC = 1 << 10;
        /// chattr +c
        const COMPRESS = 1 << 11;
        /// The root directory item inside a ROOT_ITEM was initialised.
        const ROOT_ITEM_INIT = 1 << 31;
        /// fs-verity (in the upper half: a compat_ro inode flag).
        const RO_VERITY = 1 << 32;
    }
}

/// An inode.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct InodeItem {
    /// The transaction that made the inode; NFS's generation.
    pub generation: U64,
    /// The transaction that last changed the inode.
    pub transid: U64,
    /// Bytes of a file; twice the sum of name lengths in a directory.
    pub size: U64,
    /// Bytes of the extents, holes left out.
    pub nbytes: U64,
    /// Unused for files; hint for the free space cache.
    pub block_group: U64,
    /// Hard links.
    pub nlink: U32,
    /// Owner.
    pub uid: U32,
    /// Group.
    pub gid: U32,
    /// Type and permissions.
    pub mode: U32,
    /// Device number in Linux's `new_encode_dev` 64-bit form: minor low 20 bits, major above.
    pub rdev: U64,
    /// See [`InodeFlags`].
    pub flags: U64,
    /// Counts changes, for NFS.
    pub sequence: U64,
    /// Zero.
    pub reserved: [U64; 4],
    /// Last access.
    pub atime: Timespec,
    /// Last change of the inode.
    pub ctime: Timespec,
    /// Last change of the content.
    pub mtime: Timespec,
    /// Creation.
    pub otime: Timespec,
}
const _: () = assert!(size_of::<InodeItem>() == 160);

impl InodeItem {
    /// Flags, unknown bits included.
    pub fn flags(&self) -> InodeFlags {
        InodeFlags::from_bits_retain(self.flags.get())
    }

    /// The `S_IFMT` part of the mode.
    pub fn format(&self) -> u32 {
        self.mode.get() & 0o170_000
    }

    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        self.format() == 0o040_000
    }
}

/// A name of an inode; the directory is the key's offset. One item can hold several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InodeRef<'a> {
    /// The DIR_INDEX that belongs to it.
    pub index: u64,
    /// The name.
    pub name: &'a [u8],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct InodeRefHeader {
    index: U64,
    name_len: U16,
}

impl<'a> InodeRef<'a> {
    /// The names in an INODE_REF item.
    pub fn parse_all(data: &'a [u8]) -> Result<Vec<Self>, String> {
        Self::each(data).collect()
    }

    /// The names in an INODE_REF item, one after the other; an error is the last.
    pub fn each(mut data: &'a [u8]) -> impl Iterator<Item = Result<Self, String>> {
        std::iter::from_fn(move || {
            let (name, rest) = match data {
                [] => return None,
                data => {
                    Self::parse_front(data).map_or_else(|problem| (Err(problem), &[][..]), |(n, rest)| (Ok(n), rest))
                }
            };
            data = rest;
            Some(name)
        })
    }

    /// The name at the front of `data`, and what follows.
    fn parse_front(data: &'a [u8]) -> Result<(Self, &'a [u8]), String> {
        let (header, rest) = read_front::<InodeRefHeader>(data)?;
        let len = usize::from(header.name_len.get());
        if len == 0 || len > rest.len() {
            return Err(format!("inode ref name of {len} bytes, {} are left", rest.len()));
        }
        Ok((Self { index: header.index.get(), name: &rest[..len] }, &rest[len..]))
    }

    /// Appends this name in its disk form.
    pub fn pack(&self, out: &mut Vec<u8>) {
        let header = InodeRefHeader { index: self.index.into(), name_len: (self.name.len() as u16).into() };
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(self.name);
    }

    /// How many bytes [`InodeRef::pack`] appends for a name.
    pub const fn packed_size(name_len: usize) -> usize {
        10 + name_len
    }
}

/// A name of an inode in INODE_EXTREF, whose key's offset is a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InodeExtref<'a> {
    /// The directory.
    pub parent: u64,
    /// The DIR_INDEX that belongs to it.
    pub index: u64,
    /// The name.
    pub name: &'a [u8],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct InodeExtrefHeader {
    parent: U64,
    index: U64,
    name_len: U16,
}

impl<'a> InodeExtref<'a> {
    /// The names in an INODE_EXTREF item.
    pub fn parse_all(mut data: &'a [u8]) -> Result<Vec<Self>, String> {
        let mut refs = Vec::new();
        while !data.is_empty() {
            let (header, rest) = read_front::<InodeExtrefHeader>(data)?;
            let len = usize::from(header.name_len.get());
            if len == 0 || len > rest.len() {
                return Err(format!("inode extref name of {len} bytes, {} are left", rest.len()));
            }
            refs.push(Self { parent: header.parent.get(), index: header.index.get(), name: &rest[..len] });
            data = &rest[len..];
        }
        Ok(refs)
    }

    /// Appends this name in its disk form.
    pub fn pack(&self, out: &mut Vec<u8>) {
        let header = InodeExtrefHeader {
            parent: self.parent.into(),
            index: self.index.into(),
            name_len: (self.name.len() as u16).into(),
        };
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(self.name);
    }
}

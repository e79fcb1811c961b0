//! EXTENT_DATA: where the bytes of a file range are.

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::read_front;

/// Length of the part that inline extents have too; the inline data follows.
pub const FILE_EXTENT_INLINE_HEADER: usize = 21;

/// How a file extent is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Compression {
    /// Not at all.
    None = 0,
    /// zlib.
    Zlib = 1,
    /// LZO1X in Btrfs's own frames.
    Lzo = 2,
    /// zstd.
    Zstd = 3,
}

impl Compression {
    /// The compression of a number on disk.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::None, Self::Zlib, Self::Lzo, Self::Zstd].into_iter().find(|c| *c as u8 == number)
    }
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(["none", "zlib", "lzo", "zstd"][*self as usize])
    }
}

/// The kind of a file extent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum FileExtentKind {
    /// The bytes are in the item.
    Inline = 0,
    /// The bytes are in a data extent, or the range is a hole.
    Regular = 1,
    /// Space is allocated and reads as zeros.
    Prealloc = 2,
}

/// The fixed front of an EXTENT_DATA item.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct Front {
    generation: U64,
    ram_bytes: U64,
    compression: u8,
    encryption: u8,
    other_encoding: U16,
    kind: u8,
}
const _: () = assert!(size_of::<Front>() == FILE_EXTENT_INLINE_HEADER);

/// The rest of a regular or preallocated extent.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct Rest {
    disk_bytenr: U64,
    disk_num_bytes: U64,
    offset: U64,
    num_bytes: U64,
}

/// Where the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileExtentBody<'a> {
    /// In the item itself.
    Inline(&'a [u8]),
    /// In a data extent: regular or preallocated. `disk_bytenr` zero is a hole.
    Extent {
        /// Logical address of the whole extent; zero for a hole.
        disk_bytenr: u64,
        /// Length of the whole extent on disk, in bytes.
        disk_num_bytes: u64,
        /// Where in the (decompressed) extent the file's range begins, in bytes.
        offset: u64,
        /// Length of the file's range, in bytes.
        num_bytes: u64,
        /// Allocated but never written: reads as zeros.
        prealloc: bool,
    },
}

/// An EXTENT_DATA item; the key's offset is where it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileExtent<'a> {
    /// The transaction that wrote the extent.
    pub generation: u64,
    /// Length of the whole extent when decompressed, in bytes.
    pub ram_bytes: u64,
    /// How the extent is compressed.
    pub compression: Compression,
    /// Where the bytes are.
    pub body: FileExtentBody<'a>,
}

impl<'a> FileExtent<'a> {
    /// Reads an item.
    pub fn parse(data: &'a [u8]) -> Result<Self, String> {
        let (front, rest) = read_front::<Front>(data)?;
        let compression = Compression::from_number(front.compression)
            .ok_or_else(|| format!("file extent with unknown compression {}", front.compression))?;
        if front.encryption != 0 || front.other_encoding.get() != 0 {
            return Err(format!("file extent with encryption {}, encoding {}", front.encryption, front.other_encoding));
        }
        let body = match front.kind {
            0 => FileExtentBody::Inline(rest),
            kind @ (1 | 2) => {
                let body: Rest = super::read_exact(rest).map_err(|e| format!("file extent: {e}"))?;
                FileExtentBody::Extent {
                    disk_bytenr: body.disk_bytenr.get(),
                    disk_num_bytes: body.disk_num_bytes.get(),
                    offset: body.offset.get(),
                    num_bytes: body.num_bytes.get(),
                    prealloc: kind == 2,
                }
            }
            kind => return Err(format!("file extent of unknown kind {kind}")),
        };
        Ok(Self { generation: front.generation.get(), ram_bytes: front.ram_bytes.get(), compression, body })
    }

    /// The kind as a number on disk.
    pub fn kind(&self) -> FileExtentKind {
        match self.body {
            FileExtentBody::Inline(_) => FileExtentKind::Inline,
            FileExtentBody::Extent { prealloc: false, .. } => FileExtentKind::Regular,
            FileExtentBody::Extent { prealloc: true, .. } => FileExtentKind::Prealloc,
        }
    }

    /// How many bytes of the file this item covers (an inline one: to its end).
    pub fn len_in_file(&self) -> u64 {
        match self.body {
            FileExtentBody::Inline(_) => self.ram_bytes,
            FileExtentBody::Extent { num_bytes, .. } => num_bytes,
        }
    }

    /// How many bytes of the file this item has for itself: an inline one whole sectors.
    pub fn sectors_in_file(&self, sectorsize: u64) -> u64 {
        match self.body {
            FileExtentBody::Inline(_) => self.ram_bytes.max(1).checked_next_multiple_of(sectorsize).unwrap_or(u64::MAX),
            FileExtentBody::Extent { num_bytes, .. } => num_bytes,
        }
    }

    /// The data that this item needs checksums for: address and length.
    pub fn checksummed_range(&self) -> Option<(u64, u64)> {
        match self.body {
            FileExtentBody::Extent { disk_bytenr, disk_num_bytes, offset, num_bytes, prealloc: false }
                if disk_bytenr != 0 =>
            {
                Some(match self.compression {
                    Compression::None => (disk_bytenr.saturating_add(offset), num_bytes),
                    _ => (disk_bytenr, disk_num_bytes),
                })
            }
            _ => None,
        }
    }

    /// The item in its disk form.
    pub fn pack(&self) -> Vec<u8> {
        let front = Front {
            generation: self.generation.into(),
            ram_bytes: self.ram_bytes.into(),
            compression: self.compression as u8,
            encryption: 0,
            other_encoding: 0.into(),
            kind: self.kind() as u8,
        };
        let mut out = front.as_bytes().to_vec();
        match self.body {
            FileExtentBody::Inline(bytes) => out.extend_from_slice(bytes),
            FileExtentBody::Extent { disk_bytenr, disk_num_bytes, offset, num_bytes, .. } => {
                let rest = Rest {
                    disk_bytenr: disk_bytenr.into(),
                    disk_num_bytes: disk_num_bytes.into(),
                    offset: offset.into(),
                    num_bytes: num_bytes.into(),
                };
                out.extend_from_slice(rest.as_bytes());
            }
        }
        out
    }
}

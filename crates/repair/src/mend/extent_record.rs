//! One file extent as it is mended: an EXTENT_DATA item with its fields apart, whatever they say.

use std::fmt;

use butterfs_format::items::{Compression, FILE_EXTENT_INLINE_HEADER};

/// The length of an item that is not inline.
const REGULAR_SIZE: usize = FILE_EXTENT_INLINE_HEADER + 32;

/// A file extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it lies in the file.
    pub offset: u64,
    /// The transaction that wrote it.
    pub generation: u64,
    /// Decompressed length of the whole extent.
    pub ram_bytes: u64,
    /// How it is compressed, as a number.
    pub compression: u8,
    /// Where the bytes are.
    pub body: Body,
    /// It became a hole because what it pointed to is lost.
    pub was_lost: bool,
    /// It was not there before.
    pub is_new: bool,
}

/// Where the bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// In the item.
    Inline(Vec<u8>),
    /// In a data extent, or nowhere.
    Extent(Extent),
}

/// A part of a data extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The extent's address; 0 for a hole.
    pub disk_bytenr: u64,
    /// Its length on disk.
    pub disk_num_bytes: u64,
    /// Where in it the part begins.
    pub offset: u64,
    /// The part's length.
    pub num_bytes: u64,
    /// Only preallocated.
    pub prealloc: bool,
}

fn number(data: &[u8], at: usize) -> u64 {
    data.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl Record {
    /// Reads an item, with what had to be set right to read it. None if it is too short for anything.
    pub fn read(offset: u64, data: &[u8], leaf_generation: u64) -> Option<(Self, Vec<String>)> {
        if data.len() <= FILE_EXTENT_INLINE_HEADER {
            return None;
        }
        let mut told = Vec::new();
        let mut generation = number(data, 0);
        if generation > leaf_generation {
            told.push(format!("generation {generation} to {leaf_generation}"));
            generation = leaf_generation;
        }
        if data[17..20] != [0; 3] {
            told.push("encryption or encoding, which there is none of".to_owned());
        }
        let mut kind = data[20];
        if kind > 2 || kind > 0 && data.len() != REGULAR_SIZE {
            let right = u8::from(data.len() == REGULAR_SIZE);
            told.push(format!("kind {kind} is {right}"));
            kind = right;
        }
        let body = if kind == 0 {
            Body::Inline(data[FILE_EXTENT_INLINE_HEADER..].to_vec())
        } else {
            Body::Extent(Extent {
                disk_bytenr: number(data, 21),
                disk_num_bytes: number(data, 29),
                offset: number(data, 37),
                num_bytes: number(data, 45),
                prealloc: kind == 2,
            })
        };
        let (ram_bytes, compression) = (number(data, 8), data[16]);
        let record = Self { offset, generation, ram_bytes, compression, body, was_lost: false, is_new: false };
        Some((record, told))
    }

    /// A hole.
    pub fn hole(offset: u64, len: u64) -> Self {
        let extent = Extent { disk_bytenr: 0, disk_num_bytes: 0, offset: 0, num_bytes: len, prealloc: false };
        let body = Body::Extent(extent);
        Self { offset, generation: 0, ram_bytes: len, compression: 0, body, was_lost: false, is_new: true }
    }

    /// The item in its disk form.
    pub fn pack(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(REGULAR_SIZE);
        out.extend(self.generation.to_le_bytes());
        out.extend(self.ram_bytes.to_le_bytes());
        out.extend([self.compression, 0, 0, 0]);
        match &self.body {
            Body::Inline(bytes) => {
                out.push(0);
                out.extend(bytes);
            }
            Body::Extent(extent) => {
                out.push(if extent.prealloc { 2 } else { 1 });
                let fields = [extent.disk_bytenr, extent.disk_num_bytes, extent.offset, extent.num_bytes];
                fields.iter().for_each(|field| out.extend(field.to_le_bytes()));
            }
        }
        out
    }

    /// Whether the compression is one there is.
    pub fn compression_is_known(&self) -> bool {
        Compression::from_number(self.compression).is_some()
    }

    /// How many bytes of the file it is.
    pub fn len_in_file(&self) -> u64 {
        match &self.body {
            Body::Inline(_) => self.ram_bytes,
            Body::Extent(extent) => extent.num_bytes,
        }
    }

    /// Where it ends in the file; inline data takes whole sectors.
    pub fn end(&self, sector: u64) -> u64 {
        let end = self.offset.saturating_add(self.len_in_file());
        match &self.body {
            Body::Inline(_) => end.checked_next_multiple_of(sector).unwrap_or(u64::MAX),
            Body::Extent(_) => end,
        }
    }

    /// What it adds to the inode's count of bytes.
    pub fn bytes(&self) -> u64 {
        if self.is_hole() { 0 } else { self.len_in_file() }
    }

    /// Whether it is a hole.
    pub fn is_hole(&self) -> bool {
        matches!(&self.body, Body::Extent(extent) if extent.disk_bytenr == 0)
    }

    /// The extent it refers to: address, length, and the file offset of its first byte.
    pub fn reference(&self) -> Option<(u64, u64, u64)> {
        match &self.body {
            Body::Extent(extent) if extent.disk_bytenr != 0 => {
                Some((extent.disk_bytenr, extent.disk_num_bytes, self.offset.wrapping_sub(extent.offset)))
            }
            _ => None,
        }
    }

    /// Makes it a hole.
    pub fn make_hole(&mut self) {
        let len = self.len_in_file();
        *self = Self { generation: self.generation, was_lost: true, is_new: false, ..Self::hole(self.offset, len) };
    }

    /// Whether a hole's other fields are not as they must be.
    pub fn hole_is_odd(&self, sector: u64) -> bool {
        let Body::Extent(extent) = &self.body else { return false };
        let aligned = [self.ram_bytes, extent.disk_num_bytes, extent.offset].iter().all(|v| v.is_multiple_of(sector));
        !aligned || extent.prealloc || self.compression != 0
    }

    /// Cuts it to a length.
    pub fn cut(&mut self, len: u64) {
        if let Body::Extent(extent) = &mut self.body {
            extent.num_bytes = len;
        }
    }

    /// Whether its data extent goes on for so many bytes.
    pub fn can_grow(&self, bytes: u64) -> bool {
        let Body::Extent(extent) = &self.body else { return false };
        let whole = if self.compression == 0 { extent.disk_num_bytes } else { self.ram_bytes };
        let end = extent.offset.checked_add(extent.num_bytes).and_then(|end| end.checked_add(bytes));
        extent.disk_bytenr != 0 && end.is_some_and(|end| end <= whole)
    }

    /// Makes it longer.
    pub fn grow(&mut self, bytes: u64) {
        if let Body::Extent(extent) = &mut self.body {
            extent.num_bytes += bytes;
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.body {
            Body::Inline(bytes) => write!(f, "{} inline bytes", bytes.len()),
            Body::Extent(e) => write!(
                f,
                "{}+{} of extent {}+{} (ram_bytes {})",
                e.offset, e.num_bytes, e.disk_bytenr, e.disk_num_bytes, self.ram_bytes
            ),
        }
    }
}

//! CHUNK_ITEM, DEV_ITEM and DEV_EXTENT.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{BlockGroupFlags, read_front};

/// The length of a stripe of every chunk, in bytes.
pub const STRIPE_LEN: u64 = 65536;

/// A device of the filesystem.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DevItem {
    /// Device number, from 1.
    pub devid: U64,
    /// Size, in bytes.
    pub total_bytes: U64,
    /// Bytes given to chunks.
    pub bytes_used: U64,
    /// Optimal I/O alignment.
    pub io_align: U32,
    /// Optimal I/O width.
    pub io_width: U32,
    /// Smallest I/O.
    pub sector_size: U32,
    /// Unused.
    pub dev_type: U64,
    /// Unused.
    pub generation: U64,
    /// Unused.
    pub start_offset: U64,
    /// Unused.
    pub dev_group: U32,
    /// Unused.
    pub seek_speed: u8,
    /// Unused.
    pub bandwidth: u8,
    /// The device's own UUID.
    pub uuid: [u8; 16],
    /// The filesystem's UUID (the one tree blocks carry).
    pub fsid: [u8; 16],
}
const _: () = assert!(size_of::<DevItem>() == 98);

/// A range of a device that belongs to a chunk; the key's offset is where it begins.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DevExtent {
    /// Always 3.
    pub chunk_tree: U64,
    /// Always 256.
    pub chunk_objectid: U64,
    /// The chunk's logical address.
    pub chunk_offset: U64,
    /// Length, in bytes.
    pub length: U64,
    /// UUID of the chunk tree.
    pub chunk_tree_uuid: [u8; 16],
}
const _: () = assert!(size_of::<DevExtent>() == 48);

/// The fixed front of a CHUNK_ITEM.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ChunkHeader {
    /// Length in logical space, in bytes.
    pub length: U64,
    /// Always 2: the extent tree.
    pub owner: U64,
    /// Always 65536.
    pub stripe_len: U64,
    /// See [`BlockGroupFlags`].
    pub chunk_type: U64,
    /// Optimal I/O alignment.
    pub io_align: U32,
    /// Optimal I/O width.
    pub io_width: U32,
    /// Smallest I/O.
    pub sector_size: U32,
    /// Number of stripes.
    pub num_stripes: U16,
    /// Copies within a mirror set: 2 for RAID10, else 1 (or 0).
    pub sub_stripes: U16,
}
const _: () = assert!(size_of::<ChunkHeader>() == 48);

/// One stripe of a chunk.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Stripe {
    /// The device.
    pub devid: U64,
    /// Where it begins on the device, in bytes.
    pub offset: U64,
    /// The device's own UUID.
    pub dev_uuid: [u8; 16],
}
const _: () = assert!(size_of::<Stripe>() == 32);

/// A chunk: a range of logical space and where it lies; the key's offset is its logical address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The fixed part.
    pub header: ChunkHeader,
    /// The stripes, [`ChunkHeader::num_stripes`] of them.
    pub stripes: Vec<Stripe>,
}

impl Chunk {
    /// Reads a chunk from the front of `data`; gives the chunk and the number of bytes it took.
    pub fn parse(data: &[u8]) -> Result<(Self, usize), String> {
        let (header, mut rest) = read_front::<ChunkHeader>(data)?;
        let count = usize::from(header.num_stripes.get());
        let mut stripes = Vec::with_capacity(count.min(64));
        for _ in 0..count {
            let (stripe, after) = read_front::<Stripe>(rest).map_err(|e| format!("chunk stripe: {e}"))?;
            stripes.push(stripe);
            rest = after;
        }
        Ok((Self { header, stripes }, Self::packed_size(count)))
    }

    /// How many bytes a chunk of `stripes` stripes takes.
    pub const fn packed_size(stripes: usize) -> usize {
        size_of::<ChunkHeader>() + stripes * size_of::<Stripe>()
    }

    /// The chunk in its disk form.
    pub fn pack(&self) -> Vec<u8> {
        let mut out = self.header.as_bytes().to_vec();
        out.extend_from_slice(self.stripes.as_bytes());
        out
    }

    /// Type and profile.
    pub fn flags(&self) -> BlockGroupFlags {
        BlockGroupFlags::from_bits_retain(self.header.chunk_type.get())
    }

    /// Length in logical space, in bytes.
    pub fn length(&self) -> u64 {
        self.header.length.get()
    }
}

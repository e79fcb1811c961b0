//! ROOT_ITEM, ROOT_REF and ROOT_BACKREF.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::inode::{InodeItem, Timespec};
use super::read_front;
use crate::ids::{Generation, Logical};
use crate::key::DiskKey;

bitflags::bitflags! {
    /// `RootItem::flags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RootFlags: u64 {
        /// A read-only subvolume.
        const RDONLY = 1 << 0;
        /// Being deleted (set in memory and on disk while the cleaner works).
        const DEAD = 1 << 48;
    }
}

/// The length of items written before there were UUIDs (the part up to `generation_v2`).
pub const V1_ROOT_ITEM_SIZE: usize = 239;

/// A tree's root.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct RootItem {
    /// An inode item that is not used, for historical reasons.
    pub inode: InodeItem,
    /// The transaction that last changed the tree.
    pub generation: U64,
    /// The root directory's inode: 256 for subvolumes, else zero.
    pub root_dirid: U64,
    /// Logical address of the root block.
    pub bytenr: U64,
    /// Unused.
    pub byte_limit: U64,
    /// Unused by current kernels except for display.
    pub bytes_used: U64,
    /// The last transaction in which a snapshot was taken of this tree.
    pub last_snapshot: U64,
    /// See [`RootFlags`].
    pub flags: U64,
    /// 1, or 0 while the subvolume is deleted.
    pub refs: U32,
    /// How far an interrupted deletion came.
    pub drop_progress: DiskKey,
    /// The level at which it stopped.
    pub drop_level: u8,
    /// Level of the root block.
    pub level: u8,
    /// Equal to `generation` if all that follows is valid.
    pub generation_v2: U64,
    /// The subvolume's UUID.
    pub uuid: [u8; 16],
    /// UUID of the subvolume that this is a snapshot of.
    pub parent_uuid: [u8; 16],
    /// UUID of the sent subvolume that this was received from.
    pub received_uuid: [u8; 16],
    /// The last transaction that changed an inode.
    pub ctransid: U64,
    /// The transaction that made the subvolume.
    pub otransid: U64,
    /// The sent subvolume's transaction.
    pub stransid: U64,
    /// The transaction of receiving.
    pub rtransid: U64,
    /// Time of the last change.
    pub ctime: Timespec,
    /// Time of making.
    pub otime: Timespec,
    /// Time of sending.
    pub stime: Timespec,
    /// Time of receiving.
    pub rtime: Timespec,
    /// Zero.
    pub reserved: [U64; 8],
}
const _: () = assert!(size_of::<RootItem>() == 439);

impl RootItem {
    /// Reads an item; the parts that an old, short item lacks are zero.
    pub fn parse(data: &[u8]) -> Result<Self, String> {
        let mut item = Self::new_zeroed();
        match data.len() {
            439 | V1_ROOT_ITEM_SIZE => item.as_mut_bytes()[..data.len()].copy_from_slice(data),
            len => return Err(format!("root item is {len} bytes long, want 439 or {V1_ROOT_ITEM_SIZE}")),
        }
        if item.generation_v2 != item.generation {
            item.as_mut_bytes()[V1_ROOT_ITEM_SIZE..].fill(0);
        }
        Ok(item)
    }

    /// The root block's address.
    pub fn bytenr(&self) -> Logical {
        Logical(self.bytenr.get())
    }

    /// The root block's generation.
    pub fn generation(&self) -> Generation {
        Generation(self.generation.get())
    }

    /// Flags, unknown bits included.
    pub fn flags(&self) -> RootFlags {
        RootFlags::from_bits_retain(self.flags.get())
    }
}

/// Links a subvolume to the directory entry that names it; in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootRef<'a> {
    /// The directory's inode.
    pub dirid: u64,
    /// The DIR_INDEX of the entry.
    pub sequence: u64,
    /// The entry's name.
    pub name: &'a [u8],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RootRefHeader {
    dirid: U64,
    sequence: U64,
    name_len: U16,
}

impl<'a> RootRef<'a> {
    /// Reads an item.
    pub fn parse(data: &'a [u8]) -> Result<Self, String> {
        let (header, name) = read_front::<RootRefHeader>(data)?;
        if name.len() != usize::from(header.name_len.get()) || name.is_empty() {
            return Err(format!("root ref has a name of {} bytes, says {}", name.len(), header.name_len));
        }
        Ok(Self { dirid: header.dirid.get(), sequence: header.sequence.get(), name })
    }

    /// The item in its disk form.
    pub fn pack(&self) -> Vec<u8> {
        let header = RootRefHeader {
            dirid: self.dirid.into(),
            sequence: self.sequence.into(),
            name_len: (self.name.len() as u16).into(),
        };
        [header.as_bytes(), self.name].concat()
    }
}

//! The items found in leaves, one file per family.

mod balance;
mod block_group;
mod chunk;
mod dir;
mod extent;
mod file_extent;
mod free_space;
mod inode;
mod replace;
mod root;

pub use balance::{BalanceArgs, BalanceFilters, BalanceFlags, BalanceItem, SINGLE};
pub use block_group::{BlockGroupFlags, BlockGroupItem};
pub use chunk::{Chunk, ChunkHeader, DevExtent, DevItem, STRIPE_LEN, Stripe};
pub use dir::{DirEntry, DirEntryHeader, FileType, NAME_MAX, pack_dir_entry};
pub use extent::{BackRef, ExtentFlags, ExtentItem, InlineRef, TreeBlockInfo};
pub use file_extent::{Compression, FILE_EXTENT_INLINE_HEADER, FileExtent, FileExtentBody, FileExtentKind};
pub use free_space::FreeSpaceInfo;
pub use inode::{InodeExtref, InodeFlags, InodeItem, InodeRef, Timespec};
pub use replace::{DevReplaceItem, ReadSource, ReplaceState};
pub use root::{RootFlags, RootItem, RootRef, V1_ROOT_ITEM_SIZE};

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Reads a fixed-size item whose length must be exact.
pub fn read_exact<T: FromBytes + KnownLayout + Immutable + Unaligned>(data: &[u8]) -> Result<T, String> {
    T::read_from_bytes(data).map_err(|_| format!("item is {} bytes long, want {}", data.len(), size_of::<T>()))
}

/// Reads the fixed front of a longer item, and gives the rest.
pub fn read_front<T: FromBytes + KnownLayout + Immutable + Unaligned>(data: &[u8]) -> Result<(T, &[u8]), String> {
    T::read_from_prefix(data).map_err(|_| format!("{} bytes are left, want at least {}", data.len(), size_of::<T>()))
}

//! What goes through the ioctls of a mount: commands and structs.
//!
//! Those of Btrfs are the kernel's, in the machine's byte order. Those of our own are little
//! endian; the kernel's ways to do the same pass descriptors or trees, which FUSE cannot.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `FITRIM`, with `struct fstrim_range`.
pub const FITRIM: u32 = 0xc018_5879;
/// `BTRFS_IOC_DEFRAG`, with [`VolArgs`] that nobody reads.
pub const DEFRAG: u32 = 0x5000_9402;
/// `BTRFS_IOC_DEFRAG_RANGE`, with [`DefragRange`].
pub const DEFRAG_RANGE: u32 = 0x4030_9410;
/// `BTRFS_DEFRAG_RANGE_COMPRESS`.
pub const DEFRAG_COMPRESS: u64 = 1;
/// `BTRFS_DEFRAG_RANGE_START_IO`.
pub const DEFRAG_START_IO: u64 = 2;
/// `BTRFS_DEFRAG_RANGE_COMPRESS_LEVEL`.
pub const DEFRAG_COMPRESS_LEVEL: u64 = 4;
/// `BTRFS_DEFRAG_RANGE_NOCOMPRESS`.
pub const DEFRAG_NO_COMPRESS: u64 = 8;
/// Butterfs: what is shared is written anew, too.
pub const DEFRAG_BREAK_SHARED: u64 = 1 << 32;
/// `BTRFS_IOC_SYNC`.
pub const SYNC: u32 = 0x0000_9408;
/// `BTRFS_IOC_SUBVOL_CREATE`, with [`VolArgs`].
pub const SUBVOL_CREATE: u32 = 0x5000_940e;
/// `BTRFS_IOC_SNAP_DESTROY`, with [`VolArgs`].
pub const SNAP_DESTROY: u32 = 0x5000_940f;
/// `BTRFS_IOC_INO_LOOKUP`: tree, inode, and room for a path.
pub const INO_LOOKUP: u32 = 0xd000_9412;
/// `BTRFS_IOC_WAIT_SYNC`: a `u64`.
pub const WAIT_SYNC: u32 = 0x4008_9416;
/// `BTRFS_IOC_START_SYNC`: a `u64`.
pub const START_SYNC: u32 = 0x8008_9418;
/// `BTRFS_IOC_SUBVOL_GETFLAGS`: a `u64`.
pub const SUBVOL_GETFLAGS: u32 = 0x8008_9419;
/// `BTRFS_IOC_SUBVOL_SETFLAGS`: a `u64`.
pub const SUBVOL_SETFLAGS: u32 = 0x4008_941a;
/// `BTRFS_IOC_GET_SUBVOL_INFO`, with 504 bytes of which the first 8 are the tree.
pub const GET_SUBVOL_INFO: u32 = 0x81f8_943c;
/// Butterfs: makes a snapshot, with [`SnapshotArgs`].
pub const SNAPSHOT: u32 = 0xd000_bf01;
/// Butterfs: lists subvolumes, with [`ListHeader`] and [`SubvolumeRecord`]s.
pub const LIST_SUBVOLUMES: u32 = 0xf000_bf02;

/// Butterfs: how the mount is, with [`StatusRecord`] and four texts behind it.
pub const STATUS: u32 = 0xe000_bf03;

/// Butterfs: offers the file for [`CLONE`] and [`DEDUPE`]; gives a token of 16 bytes.
pub const OFFER: u32 = 0x8010_bf04;
/// Butterfs: shares extents of an offered file, with [`ShareArgs`].
pub const CLONE: u32 = 0xc038_bf05;
/// Butterfs: the same for bytes that are equal, with [`ShareArgs`].
pub const DEDUPE: u32 = 0xc038_bf06;

/// How long the argument of a command is.
pub const fn size_of_command(command: u32) -> usize {
    (command >> 16 & 0x3fff) as usize
}

/// `BTRFS_SUBVOL_RDONLY`.
pub const SUBVOL_READ_ONLY: u64 = 1 << 1;

/// `struct btrfs_ioctl_vol_args`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct VolArgs {
    /// Not used by the commands here.
    pub fd: [u8; 8],
    /// A name and a NUL.
    pub name: [u8; 4088],
}
const _: () = assert!(size_of::<VolArgs>() == size_of_command(SUBVOL_CREATE));

/// `struct btrfs_ioctl_defrag_range_args`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DefragRange {
    /// Where it begins, in bytes.
    pub start: U64,
    /// How long it is.
    pub len: U64,
    /// What is wanted.
    pub flags: U64,
    /// Extents of this size stay; 0: 256 KiB.
    pub extent_thresh: U32,
    /// The number of a compression; with a level, a byte each.
    pub compress: [u8; 4],
    /// Zero.
    pub unused: [u8; 16],
}
const _: () = assert!(size_of::<DefragRange>() == size_of_command(DEFRAG_RANGE));

/// Makes a snapshot in the directory that the command is given to.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SnapshotArgs {
    /// In: the subvolume. Out: the snapshot.
    pub tree: U64,
    /// 0 or [`SUBVOL_READ_ONLY`].
    pub flags: U64,
    /// A name and a NUL.
    pub name: [u8; 4080],
}
const _: () = assert!(size_of::<SnapshotArgs>() == size_of_command(SNAPSHOT));

/// A range of an offered file, and where it goes in the file that the command is given to.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ShareArgs {
    /// What the offer gave.
    pub token: [u8; 16],
    /// Where the range begins in the offered file, in bytes.
    pub source_offset: U64,
    /// How long it is; 0 for a clone of all up to the end.
    pub len: U64,
    /// Where it goes.
    pub dest_offset: U64,
    /// Out: how many bytes are shared; 0 if they differ.
    pub done: U64,
    /// Zero.
    pub spare: U64,
}
const _: () = assert!(size_of::<ShareArgs>() == size_of_command(CLONE));

/// The beginning of a page of subvolumes.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ListHeader {
    /// In: only subvolumes with a higher number.
    pub after: U64,
    /// Out: how many records follow; 0 at the end.
    pub count: U64,
}

/// A subvolume; its path follows.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct SubvolumeRecord {
    /// Its number.
    pub id: U64,
    /// The subvolume it lies in; 0 for the top level.
    pub parent: U64,
    /// The transaction that last changed it.
    pub generation: U64,
    /// The transaction that made it.
    pub created_in: U64,
    /// When it was made: seconds.
    pub created_sec: U64,
    /// When it was made: nanoseconds.
    pub created_nsec: U32,
    /// 0 or [`SUBVOL_READ_ONLY`].
    pub flags: U64,
    /// Its UUID.
    pub uuid: [u8; 16],
    /// The UUID of what it is a snapshot of.
    pub parent_uuid: [u8; 16],
    /// The UUID of what it was received from.
    pub received_uuid: [u8; 16],
    /// Bytes of its path from the top level, which follows.
    pub path_len: U16,
}

/// How a mount is. Behind it are its texts, in this order: cause, lost write, device, options.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct StatusRecord {
    /// 0: read-write; 1: read-only; 2: read-only because of an error.
    pub state: U32,
    /// The process that serves the mount.
    pub pid: U32,
    /// When the error came: seconds, and nanoseconds.
    pub error_sec: U64,
    /// See `error_sec`.
    pub error_nsec: U32,
    /// The transaction that failed.
    pub error_generation: U64,
    /// How often file data was lost.
    pub lost_writes: U64,
    /// The last durable transaction.
    pub committed: U64,
    /// When it became durable, 0 if before this mount.
    pub committed_sec: U64,
    /// See `committed_sec`.
    pub committed_nsec: U32,
    /// Bytes of files in memory only.
    pub dirty_bytes: U64,
    /// Lengths of the texts.
    pub texts: [U16; 4],
}

/// The name in a field that ends with a NUL; `None` without one.
pub fn name_in(field: &[u8]) -> Option<&[u8]> {
    field.split(|byte| *byte == 0).next().filter(|name| name.len() < field.len())
}

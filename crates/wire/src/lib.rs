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
/// `BTRFS_IOC_TREE_SEARCH`: a key of 104 bytes, and room for items.
pub const TREE_SEARCH: u32 = 0xd000_9411;
/// `BTRFS_IOC_INO_LOOKUP`: tree, inode, and room for a path.
pub const INO_LOOKUP: u32 = 0xd000_9412;
/// `BTRFS_IOC_SPACE_INFO`: how many there is room for, how many there are, and behind them three numbers for each.
pub const SPACE_INFO: u32 = 0xc010_9414;
/// `BTRFS_IOC_DEV_INFO`, with a struct whose path begins at 3072.
pub const DEV_INFO: u32 = 0xd000_941e;
/// `BTRFS_IOC_FS_INFO`, with a struct of 1024 bytes.
pub const FS_INFO: u32 = 0x8400_941f;
/// `BTRFS_IOC_WAIT_SYNC`: a `u64`.
pub const WAIT_SYNC: u32 = 0x4008_9416;
/// `BTRFS_IOC_START_SYNC`: a `u64`.
pub const START_SYNC: u32 = 0x8008_9418;
/// `BTRFS_IOC_SUBVOL_GETFLAGS`: a `u64`.
pub const SUBVOL_GETFLAGS: u32 = 0x8008_9419;
/// `BTRFS_IOC_SUBVOL_SETFLAGS`: a `u64`.
pub const SUBVOL_SETFLAGS: u32 = 0x4008_941a;
/// `BTRFS_IOC_SET_RECEIVED_SUBVOL`, with [`ReceivedArgs`].
pub const SET_RECEIVED: u32 = 0xc0c8_9425;
/// `FS_IOC_GETFSLABEL`: a label and zeros behind it.
pub const GET_LABEL: u32 = 0x8100_9431;
/// `FS_IOC_SETFSLABEL`, likewise.
pub const SET_LABEL: u32 = 0x4100_9432;
/// `BTRFS_IOC_GET_SUBVOL_INFO`, with 504 bytes of which the first 8 are the tree.
pub const GET_SUBVOL_INFO: u32 = 0x81f8_943c;
/// Butterfs: makes a snapshot, with [`SnapshotArgs`].
pub const SNAPSHOT: u32 = 0xd000_bf01;
/// Butterfs: lists subvolumes, with [`ListHeader`] and [`SubvolumeRecord`]s.
pub const LIST_SUBVOLUMES: u32 = 0xf000_bf02;

/// `BTRFS_IOC_DEFAULT_SUBVOL`: a `u64`.
pub const DEFAULT_SUBVOL: u32 = 0x4008_9413;
/// `BTRFS_IOC_SNAP_DESTROY_V2`, with [`VolArgsV2`].
pub const SNAP_DESTROY_V2: u32 = 0x5000_943f;
/// Butterfs: which subvolume is the default; gives a number.
pub const GET_DEFAULT_SUBVOL: u32 = 0x8008_bf07;
/// Butterfs: file extents that are as young as a transaction, with [`ChangedHeader`] and [`ChangedRecord`]s.
pub const CHANGED_EXTENTS: u32 = 0xf000_bf08;
/// Butterfs: changes the options of the mount, with a text in, and an error's text out; see [`RemountArgs`].
pub const REMOUNT: u32 = 0xe000_bf09;

/// Butterfs: how the mount is, with [`StatusRecord`] and four texts behind it.
pub const STATUS: u32 = 0xe000_bf03;

/// Butterfs: offers the file for [`CLONE`] and [`DEDUPE`]; gives a token of 16 bytes.
pub const OFFER: u32 = 0x8010_bf04;
/// Butterfs: shares extents of an offered file, with [`ShareArgs`].
pub const CLONE: u32 = 0xc038_bf05;
/// Butterfs: the same for bytes that are equal, with [`ShareArgs`].
pub const DEDUPE: u32 = 0xc038_bf06;

/// `FS_IOC_FIEMAP`, with [`FiemapHeader`] and extents behind it.
pub const FS_FIEMAP: u32 = 0xc020_660b;
/// Butterfs: where the bytes of a file are, with [`FiemapPage`].
pub const FIEMAP: u32 = 0xf000_bf20;

/// `BTRFS_IOC_SUBVOL_CREATE_V2`, with a struct whose name begins at 56.
pub const SUBVOL_CREATE_V2: u32 = 0x5000_9418;

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

/// `BTRFS_SUBVOL_SPEC_BY_ID`, in [`VolArgsV2`].
pub const BY_ID: u64 = 1 << 4;

/// `struct btrfs_ioctl_vol_args_v2`, in the machine's byte order.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct VolArgsV2 {
    /// Not used by the commands here.
    pub fd: [u8; 8],
    /// Not used.
    pub transid: [u8; 8],
    /// [`BY_ID`] or 0.
    pub flags: [u8; 8],
    /// Not used.
    pub unused: [u8; 32],
    /// A name and a NUL, or with [`BY_ID`] the number of a subvolume.
    pub name: [u8; 4040],
}
const _: () = assert!(size_of::<VolArgsV2>() == size_of_command(SNAP_DESTROY_V2));
/// `struct btrfs_ioctl_received_subvol_args`; times are seconds and nanoseconds.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ReceivedArgs {
    /// In: the UUID that the subvolume had where it was sent; zeros for none.
    pub uuid: [u8; 16],
    /// In: the transaction that it was sent with.
    pub sent_in: [u8; 8],
    /// Out: the transaction that notes this.
    pub received_in: [u8; 8],
    /// In: when it was sent.
    pub sent: [u8; 16],
    /// Out: when this is noted.
    pub received: [u8; 16],
    /// None is known.
    pub flags: [u8; 8],
    /// Zeros.
    pub reserved: [u8; 128],
}
const _: () = assert!(size_of::<ReceivedArgs>() == size_of_command(SET_RECEIVED));

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
    /// In: what the offer of the subvolume's top directory gave.
    pub token: [u8; 16],
    /// Out: the number of the snapshot.
    pub tree: U64,
    /// 0 or [`SUBVOL_READ_ONLY`].
    pub flags: U64,
    /// A name and a NUL.
    pub name: [u8; 4064],
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

/// `FIEMAP_FLAG_SYNC`: what is in memory is written back first.
pub const FIEMAP_SYNC: u32 = 1;
/// The flags that are known.
pub const FIEMAP_FLAGS: u32 = FIEMAP_SYNC;
/// `FIEMAP_EXTENT_LAST`.
pub const FIEMAP_LAST: u32 = 1;
/// So many extents go into a page.
pub const FIEMAP_EXTENTS: usize = 218;

/// `struct fiemap` without its tail.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct FiemapHeader {
    /// Where to begin, in bytes.
    pub start: U64,
    /// How much to map.
    pub len: U64,
    /// What is wanted.
    pub flags: U32,
    /// Out: how many extents there are.
    pub mapped: U32,
    /// How many there is room for; none: they are counted.
    pub count: U32,
    /// Zero.
    pub spare: U32,
}

/// `struct fiemap_extent`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct FiemapExtent {
    /// Where it begins in the file, in bytes.
    pub logical: U64,
    /// Where it begins in the filesystem's logical address space.
    pub physical: U64,
    /// How long it is in the file.
    pub len: U64,
    /// Zero.
    pub spare: [U64; 2],
    /// `FIEMAP_EXTENT_*`.
    pub flags: U32,
    /// Zero.
    pub spare_words: [U32; 3],
}

/// A part of a file's map.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct FiemapPage {
    /// What is asked for.
    pub header: FiemapHeader,
    /// Out: as many extents as the header says.
    pub extents: [FiemapExtent; FIEMAP_EXTENTS],
    /// Zero.
    pub spare: [u8; 48],
}
const _: () = assert!(size_of::<FiemapPage>() == size_of_command(FIEMAP));

/// The beginning of a page of subvolumes.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ListHeader {
    /// In: only subvolumes with a higher number.
    pub after: U64,
    /// In: 0 for those that can be reached, 1 for those that are deleted and not gone yet.
    pub which: U64,
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
    /// The directory that holds its name.
    pub dir: U64,
    /// For a snapshot, the transaction that made it; else 0.
    pub snapshot_in: U64,
    /// The transaction that last changed what is in it.
    pub changed_in: U64,
    /// The transaction of the source that it was sent from.
    pub sent_in: U64,
    /// When that was: seconds.
    pub sent_sec: U64,
    /// The transaction that received it.
    pub received_in: U64,
    /// When that was: seconds.
    pub received_sec: U64,
    /// Bytes of its path from the top level, which follows.
    pub path_len: U16,
}

/// The beginning of a page of changed extents.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct ChangedHeader {
    /// In: only extents of this transaction and later ones.
    pub since: U64,
    /// In: the inode to begin with. Out: where to go on.
    pub ino: U64,
    /// In: the item type to begin with. Out: where to go on.
    pub item_type: U64,
    /// In: the offset to begin with. Out: where to go on.
    pub offset: U64,
    /// Out: how many records follow.
    pub count: U64,
    /// Out: 1 if there is more.
    pub more: U64,
}

/// A changed extent.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct ChangedRecord {
    /// The file.
    pub ino: U64,
    /// Where in the file.
    pub offset: U64,
    /// How much of it.
    pub len: U64,
    /// Where the extent begins.
    pub disk_start: U64,
    /// Where in it the file's part begins.
    pub disk_offset: U64,
    /// The transaction that made it.
    pub generation: U64,
    /// How it is compressed, as on disk.
    pub compression: u8,
    /// Its kind, as on disk.
    pub kind: u8,
}

/// A change of options: a text and a NUL. Out: what is wrong, empty if nothing is.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RemountArgs {
    /// The text.
    pub text: [u8; 8192],
}
const _: () = assert!(size_of::<RemountArgs>() == size_of_command(REMOUNT));

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
    /// Subvolumes that are deleted and not gone yet.
    pub deleted_subvolumes: U64,
    /// Lengths of the texts.
    pub texts: [U16; 4],
}

/// `BTRFS_IOC_RESIZE`, with [`VolArgs`].
pub const RESIZE: u32 = 0x5000_9403;
/// `BTRFS_IOC_ADD_DEV`, with [`VolArgs`].
pub const ADD_DEV: u32 = 0x5000_940a;
/// `BTRFS_IOC_RM_DEV`, with [`VolArgs`].
pub const RM_DEV: u32 = 0x5000_940b;
/// `BTRFS_IOC_RM_DEV_V2`, with [`VolArgsV2`].
pub const RM_DEV_V2: u32 = 0x5000_943a;
/// `BTRFS_IOC_DEV_REPLACE`: the command is the first number, the result the second.
pub const DEV_REPLACE: u32 = 0xca28_9435;
/// `BTRFS_IOC_BALANCE_V2`, with [`BalanceIoctl`].
pub const BALANCE_V2: u32 = 0xc400_9420;
/// `BTRFS_IOC_BALANCE_PROGRESS`, with [`BalanceIoctl`].
pub const BALANCE_PROGRESS: u32 = 0x8400_9422;
/// Butterfs: begins a balance and does not wait, with [`BalanceIoctl`].
pub const BALANCE_START: u32 = 0xc400_bf32;
/// Butterfs: what `BTRFS_IOC_BALANCE_CTL` is for; a `u64`.
pub const BALANCE_CONTROL: u32 = 0x4008_bf33;
/// Butterfs: which of the operations that exclude each other is under way; a `u64`.
pub const EXCLUSIVE: u32 = 0x8008_bf34;
/// Butterfs: how the last work that was begun ended, with [`WorkRecord`].
pub const WORK_RESULT: u32 = 0x8400_bf35;
/// Butterfs: begins work on devices, with words that end with NULs in [`RemountArgs`]. Out: what is wrong.
pub const WORK: u32 = 0xe000_bf36;
/// Butterfs: why the last replacement of a device failed, in [`RemountArgs`]; nothing if it did not.
pub const REPLACE_FAILURE: u32 = 0xa000_bf64;

/// States of [`WorkRecord`]; 0: it is under way, or there was none.
pub const WORK_DONE: u64 = 1;
/// See [`WORK_DONE`].
pub const WORK_PAUSED: u64 = 2;
/// See [`WORK_DONE`].
pub const WORK_CANCELLED: u64 = 3;
/// See [`WORK_DONE`].
pub const WORK_FAILED: u64 = 4;

/// `struct btrfs_ioctl_balance_args`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct BalanceIoctl {
    /// What to balance.
    pub flags: U64,
    /// Out: whether it runs.
    pub state: U64,
    /// For data.
    pub data: [u8; 136],
    /// For metadata.
    pub metadata: [u8; 136],
    /// For the chunk tree.
    pub system: [u8; 136],
    /// Out: groups expected, considered, completed.
    pub progress: [U64; 3],
    /// Zero.
    pub unused: [U64; 72],
}
const _: () = assert!(size_of::<BalanceIoctl>() == size_of_command(BALANCE_V2));

/// How work ended.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct WorkRecord {
    /// See [`WORK_DONE`].
    pub state: U64,
    /// The number of an error.
    pub errno: U64,
    /// Of a balance, groups that are done.
    pub completed: U64,
    /// Groups that were looked at.
    pub considered: U64,
    /// The text of an error, and a NUL.
    pub text: [u8; 992],
}
const _: () = assert!(size_of::<WorkRecord>() == size_of_command(WORK_RESULT));

/// The name in a field that ends with a NUL; `None` without one.
pub fn name_in(field: &[u8]) -> Option<&[u8]> {
    field.split(|byte| *byte == 0).next().filter(|name| name.len() < field.len())
}

/// `BTRFS_IOC_SCRUB`, with [`ScrubArgs`]: waits until it has ended. Over FUSE that would keep a thread of the daemon;
/// see [`SCRUB_START`].
pub const SCRUB: u32 = 0xc400_941b;
/// `BTRFS_IOC_SCRUB_CANCEL`.
pub const SCRUB_CANCEL: u32 = 0x0000_941c;
/// `BTRFS_IOC_SCRUB_PROGRESS`, with [`ScrubArgs`].
pub const SCRUB_PROGRESS: u32 = 0xc400_941d;
/// `BTRFS_SCRUB_READONLY`.
pub const SCRUB_READ_ONLY: u64 = 1;
/// Butterfs: starts a scrub, with [`ScrubArgs`], and does not wait.
pub const SCRUB_START: u32 = 0xc400_bf60;
/// Butterfs: how the last scrub of a device is, with [`ScrubArgs`].
pub const SCRUB_STATE: u32 = 0xc400_bf61;
/// Butterfs: what scrubs may read of a device in a second, with [`ScrubLimit`].
pub const SCRUB_LIMIT: u32 = 0xc018_bf62;
/// Butterfs: what the last scrub of a device found, with [`ScrubReport`].
pub const SCRUB_REPORT: u32 = 0xe000_bf63;

/// `struct btrfs_ioctl_scrub_args`, in the machine's byte order.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct ScrubArgs {
    /// The device.
    pub devid: [u8; 8],
    /// Where on it to begin.
    pub start: [u8; 8],
    /// Where to end.
    pub end: [u8; 8],
    /// 0 or [`SCRUB_READ_ONLY`].
    pub flags: [u8; 8],
    /// Out: what was done, as 15 numbers.
    pub progress: [[u8; 8]; 15],
    /// Out, of [`SCRUB_STATE`]: a [`ScrubState`].
    pub state: [u8; 8],
    /// Out, of [`SCRUB_STATE`]: the number of an error, 0 if there was none.
    pub error: [u8; 8],
    /// Zeros.
    pub unused: [u8; 856],
}
const _: () = assert!(size_of::<ScrubArgs>() == size_of_command(SCRUB));

/// How a scrub is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubState {
    /// None was started.
    None,
    /// It runs.
    Running,
    /// It has ended: see the error.
    Ended,
}

impl ScrubState {
    /// Its number.
    pub fn number(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Running => 1,
            Self::Ended => 2,
        }
    }

    /// By its number.
    pub fn of(number: u64) -> Self {
        match number {
            0 => Self::None,
            1 => Self::Running,
            _ => Self::Ended,
        }
    }
}

/// What scrubs may read of a device in a second.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct ScrubLimit {
    /// The device.
    pub devid: U64,
    /// In: 1 to change it. Out: 0.
    pub change: U64,
    /// Bytes in a second, 0 for no limit. Out: as it was before.
    pub limit: U64,
}
const _: () = assert!(size_of::<ScrubLimit>() == size_of_command(SCRUB_LIMIT));

/// A page of lines, each with a newline.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct ScrubReport {
    /// The device.
    pub devid: U64,
    /// In: the number of the first line.
    pub from: U64,
    /// Out: how many lines there are on this page; 0 at the end.
    pub count: U64,
    /// Out: how many bytes they have.
    pub len: U64,
    /// Out: the lines.
    pub text: [u8; 8160],
}
const _: () = assert!(size_of::<ScrubReport>() == size_of_command(SCRUB_REPORT));

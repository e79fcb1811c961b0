//! The session itself: INIT, and what the server tells the kernel unasked.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// In [`NotifyInvalEntryOut::flags`]: the name is looked up again, not dropped.
pub const EXPIRE_ONLY: u32 = 1;
/// Code of the notification [`NotifyInvalInodeOut`].
pub const NOTIFY_INVAL_INODE: i32 = 2;
/// Code of the notification [`NotifyInvalEntryOut`].
pub const NOTIFY_INVAL_ENTRY: i32 = 3;

/// Arguments of INIT.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct InitIn {
    /// Protocol version of the kernel.
    pub major: u32,
    /// Protocol version of the kernel.
    pub minor: u32,
    /// How far the kernel reads ahead.
    pub max_readahead: u32,
    /// What the kernel can do, low half of [`InitFlags`](super::InitFlags).
    pub flags: u32,
    /// What the kernel can do, high half.
    pub flags2: u32,
    /// Unused.
    pub unused: [u32; 11],
}

/// The answer to INIT.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct InitOut {
    /// Protocol version of the server.
    pub major: u32,
    /// Protocol version of the server.
    pub minor: u32,
    /// How far to read ahead.
    pub max_readahead: u32,
    /// What was agreed, low half of [`InitFlags`](super::InitFlags).
    pub flags: u32,
    /// Most background requests.
    pub max_background: u16,
    /// From when on the kernel holds back.
    pub congestion_threshold: u16,
    /// Longest WRITE.
    pub max_write: u32,
    /// Granularity of timestamps in nanoseconds.
    pub time_gran: u32,
    /// Most pages in a request.
    pub max_pages: u16,
    /// Unused: DAX.
    pub map_alignment: u16,
    /// What was agreed, high half.
    pub flags2: u32,
    /// Unused: passthrough.
    pub max_stack_depth: u32,
    /// Unused.
    pub request_timeout: u16,
    /// Unused.
    pub unused: [u16; 11],
}

/// Notification: forget cached data and attributes.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct NotifyInvalInodeOut {
    /// The node id.
    pub ino: u64,
    /// From where; negative: attributes only.
    pub off: i64,
    /// How much; 0 or less: to the end.
    pub len: i64,
}

/// Notification: forget a name; it follows, with a NUL.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct NotifyInvalEntryOut {
    /// The directory's node id.
    pub parent: u64,
    /// Length of the name.
    pub namelen: u32,
    /// [`EXPIRE_ONLY`].
    pub flags: u32,
}

const _: () = assert!(size_of::<InitIn>() == 64);
const _: () = assert!(size_of::<InitOut>() == 64);
const _: () = assert!(size_of::<NotifyInvalInodeOut>() == 24);
const _: () = assert!(size_of::<NotifyInvalEntryOut>() == 16);

//! Open files: OPEN, READ, WRITE, FSYNC, IOCTL, FALLOCATE, LSEEK, COPY_FILE_RANGE, SYNCFS.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// In [`FsyncIn::fsync_flags`]: data only.
pub const FSYNC_DATASYNC: u32 = 1;
/// In `open_flags` of [`OpenIn`] and [`CreateIn`](super::CreateIn): drop setuid, setgid and capabilities.
pub const OPEN_KILL_SUIDGID: u32 = 1;

/// Arguments of OPEN and OPENDIR.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct OpenIn {
    /// `O_*`.
    pub flags: u32,
    /// [`OPEN_KILL_SUIDGID`].
    pub open_flags: u32,
}

/// The answer to OPEN and OPENDIR.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct OpenOut {
    /// Names the open file in later requests.
    pub fh: u64,
    /// `FOPEN_*`.
    pub open_flags: u32,
    /// Unused: passthrough.
    pub backing_id: i32,
}

/// Arguments of RELEASE and RELEASEDIR.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ReleaseIn {
    /// The open file.
    pub fh: u64,
    /// `O_*`.
    pub flags: u32,
    /// Unused here.
    pub release_flags: u32,
    /// Unused here.
    pub lock_owner: u64,
}

/// Arguments of FLUSH.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FlushIn {
    /// The open file.
    pub fh: u64,
    /// Unused.
    pub unused: u32,
    /// Unused.
    pub padding: u32,
    /// Unused here.
    pub lock_owner: u64,
}

/// Arguments of READ, READDIR and READDIRPLUS.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ReadIn {
    /// The open file.
    pub fh: u64,
    /// Where to begin.
    pub offset: u64,
    /// How much to give at most.
    pub size: u32,
    /// Unused here.
    pub read_flags: u32,
    /// Unused here.
    pub lock_owner: u64,
    /// `O_*`.
    pub flags: u32,
    /// Unused.
    pub padding: u32,
}

/// Arguments of WRITE; the bytes follow.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct WriteIn {
    /// The open file.
    pub fh: u64,
    /// Where to begin.
    pub offset: u64,
    /// How many bytes follow.
    pub size: u32,
    /// See [`WriteFlags`](super::WriteFlags).
    pub write_flags: u32,
    /// Unused here.
    pub lock_owner: u64,
    /// `O_*`.
    pub flags: u32,
    /// Unused.
    pub padding: u32,
}

/// The answer to WRITE and COPY_FILE_RANGE.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct WriteOut {
    /// How much was written.
    pub size: u32,
    /// Unused.
    pub padding: u32,
}

/// Arguments of FSYNC and FSYNCDIR.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FsyncIn {
    /// The open file.
    pub fh: u64,
    /// [`FSYNC_DATASYNC`].
    pub fsync_flags: u32,
    /// Unused.
    pub padding: u32,
}

/// Arguments of IOCTL; `in_size` bytes follow.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct IoctlIn {
    /// The open file.
    pub fh: u64,
    /// See [`IoctlFlags`](super::IoctlFlags).
    pub flags: u32,
    /// The command.
    pub cmd: u32,
    /// The caller's argument, as it is.
    pub arg: u64,
    /// How many bytes follow.
    pub in_size: u32,
    /// Room for the answer.
    pub out_size: u32,
}

/// The answer to IOCTL; bytes follow.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct IoctlOut {
    /// What `ioctl` returns.
    pub result: i32,
    /// 0: no retry.
    pub flags: u32,
    /// 0: no retry.
    pub in_iovs: u32,
    /// 0: no retry.
    pub out_iovs: u32,
}

/// Arguments of FALLOCATE.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FallocateIn {
    /// The open file.
    pub fh: u64,
    /// Where to begin.
    pub offset: u64,
    /// How much.
    pub length: u64,
    /// `FALLOC_FL_*`.
    pub mode: u32,
    /// Unused.
    pub padding: u32,
}

/// Arguments of LSEEK.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LseekIn {
    /// The open file.
    pub fh: u64,
    /// Where to begin.
    pub offset: u64,
    /// `SEEK_DATA` or `SEEK_HOLE`.
    pub whence: u32,
    /// Unused.
    pub padding: u32,
}

/// The answer to LSEEK.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LseekOut {
    /// What was found.
    pub offset: u64,
}

/// Arguments of COPY_FILE_RANGE and COPY_FILE_RANGE_64.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CopyFileRangeIn {
    /// The open source.
    pub fh_in: u64,
    /// Where to read.
    pub off_in: u64,
    /// The destination.
    pub nodeid_out: u64,
    /// The open destination.
    pub fh_out: u64,
    /// Where to write.
    pub off_out: u64,
    /// How much.
    pub len: u64,
    /// 0.
    pub flags: u64,
}

/// The answer to COPY_FILE_RANGE_64.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CopyFileRangeOut {
    /// How much was copied.
    pub bytes_copied: u64,
}

/// Arguments of SYNCFS.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SyncfsIn {
    /// Unused.
    pub padding: u64,
}

const _: () = assert!(size_of::<OpenIn>() == 8);
const _: () = assert!(size_of::<OpenOut>() == 16);
const _: () = assert!(size_of::<ReleaseIn>() == 24);
const _: () = assert!(size_of::<FlushIn>() == 24);
const _: () = assert!(size_of::<ReadIn>() == 40);
const _: () = assert!(size_of::<WriteIn>() == 40);
const _: () = assert!(size_of::<WriteOut>() == 8);
const _: () = assert!(size_of::<FsyncIn>() == 16);
const _: () = assert!(size_of::<IoctlIn>() == 32);
const _: () = assert!(size_of::<IoctlOut>() == 16);
const _: () = assert!(size_of::<FallocateIn>() == 32);
const _: () = assert!(size_of::<LseekIn>() == 24);
const _: () = assert!(size_of::<LseekOut>() == 8);
const _: () = assert!(size_of::<CopyFileRangeIn>() == 56);
const _: () = assert!(size_of::<CopyFileRangeOut>() == 8);
const _: () = assert!(size_of::<SyncfsIn>() == 8);

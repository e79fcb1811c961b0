//! Attributes of inodes and of the filesystem: GETATTR, SETATTR, STATX, STATFS, ACCESS, extended attributes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// In [`GetattrIn::getattr_flags`]: `fh` is valid.
pub const GETATTR_FH: u32 = 1;

/// What the kernel caches about an inode.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Attr {
    /// The number `stat` shows.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Space used, in units of 512 bytes.
    pub blocks: u64,
    /// Last access, seconds.
    pub atime: u64,
    /// Last change of contents, seconds.
    pub mtime: u64,
    /// Last change of the inode, seconds.
    pub ctime: u64,
    /// Last access, nanoseconds.
    pub atimensec: u32,
    /// Last change of contents, nanoseconds.
    pub mtimensec: u32,
    /// Last change of the inode, nanoseconds.
    pub ctimensec: u32,
    /// File type and permissions.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, in the kernel's 32-bit form.
    pub rdev: u32,
    /// Preferred size of I/O.
    pub blksize: u32,
    /// `FUSE_ATTR_*`.
    pub flags: u32,
}

/// The answer to STATFS.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Kstatfs {
    /// Size of the filesystem in blocks of `frsize`.
    pub blocks: u64,
    /// Free blocks.
    pub bfree: u64,
    /// Free blocks for unprivileged users.
    pub bavail: u64,
    /// Inodes, 0 when there is no limit.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// Preferred size of I/O.
    pub bsize: u32,
    /// Longest name.
    pub namelen: u32,
    /// Size of a block.
    pub frsize: u32,
    /// Unused.
    pub padding: u32,
    /// Unused.
    pub spare: [u32; 6],
}

/// The answer to GETATTR and SETATTR.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AttrOut {
    /// How long the attributes may be cached, seconds.
    pub attr_valid: u64,
    /// How long the attributes may be cached, nanoseconds.
    pub attr_valid_nsec: u32,
    /// Unused.
    pub dummy: u32,
    /// The attributes.
    pub attr: Attr,
}

/// Arguments of GETATTR.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct GetattrIn {
    /// [`GETATTR_FH`].
    pub getattr_flags: u32,
    /// Unused.
    pub dummy: u32,
    /// Open file, when the flag says so.
    pub fh: u64,
}

/// Arguments of SETATTR.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SetattrIn {
    /// What to change, see [`FattrFlags`](super::FattrFlags).
    pub valid: u32,
    /// Unused.
    pub padding: u32,
    /// Open file, if known.
    pub fh: u64,
    /// New length.
    pub size: u64,
    /// Unused here.
    pub lock_owner: u64,
    /// New access time, seconds.
    pub atime: u64,
    /// New modification time, seconds.
    pub mtime: u64,
    /// New change time, seconds.
    pub ctime: u64,
    /// New access time, nanoseconds.
    pub atimensec: u32,
    /// New modification time, nanoseconds.
    pub mtimensec: u32,
    /// New change time, nanoseconds.
    pub ctimensec: u32,
    /// New mode.
    pub mode: u32,
    /// Unused.
    pub unused4: u32,
    /// New owner.
    pub uid: u32,
    /// New group.
    pub gid: u32,
    /// Unused.
    pub unused5: u32,
}

/// Arguments of SETXATTR (without SETXATTR_EXT); name and value follow.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SetxattrIn {
    /// Length of the value.
    pub size: u32,
    /// `XATTR_CREATE`, `XATTR_REPLACE`.
    pub flags: u32,
}

/// Arguments of GETXATTR (the name follows) and LISTXATTR.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct GetxattrIn {
    /// Room in the caller's buffer; 0 asks for the length.
    pub size: u32,
    /// Unused.
    pub padding: u32,
}

/// The answer to GETXATTR and LISTXATTR of size 0.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct GetxattrOut {
    /// The length.
    pub size: u32,
    /// Unused.
    pub padding: u32,
}

/// Arguments of ACCESS.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AccessIn {
    /// `R_OK`, `W_OK`, `X_OK`.
    pub mask: u32,
    /// Unused.
    pub padding: u32,
}

/// Arguments of STATX.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct StatxIn {
    /// [`GETATTR_FH`].
    pub getattr_flags: u32,
    /// Unused.
    pub reserved: u32,
    /// Open file, when the flag says so.
    pub fh: u64,
    /// `AT_STATX_*`.
    pub sx_flags: u32,
    /// What is wanted, `STATX_*`.
    pub sx_mask: u32,
}

/// A time in STATX.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SxTime {
    /// Seconds.
    pub tv_sec: i64,
    /// Nanoseconds.
    pub tv_nsec: u32,
    /// Unused.
    pub reserved: i32,
}

/// The fields of STATX.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct StatxFields {
    /// What is given, `STATX_*`.
    pub mask: u32,
    /// Preferred size of I/O.
    pub blksize: u32,
    /// `STATX_ATTR_*`.
    pub attributes: u64,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// File type and permissions.
    pub mode: u16,
    /// Unused.
    pub spare0: u16,
    /// The number `stat` shows.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Space used, in units of 512 bytes.
    pub blocks: u64,
    /// Which attributes are supported.
    pub attributes_mask: u64,
    /// Last access.
    pub atime: SxTime,
    /// Birth.
    pub btime: SxTime,
    /// Last change of the inode.
    pub ctime: SxTime,
    /// Last change of contents.
    pub mtime: SxTime,
    /// Device number.
    pub rdev_major: u32,
    /// Device number.
    pub rdev_minor: u32,
    /// Unused.
    pub dev_major: u32,
    /// Unused.
    pub dev_minor: u32,
    /// Unused.
    pub spare2: [u64; 14],
}

/// The answer to STATX.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct StatxOut {
    /// How long the attributes may be cached, seconds.
    pub attr_valid: u64,
    /// How long the attributes may be cached, nanoseconds.
    pub attr_valid_nsec: u32,
    /// Unused.
    pub flags: u32,
    /// Unused.
    pub spare: [u64; 2],
    /// The fields.
    pub stat: StatxFields,
}

const _: () = assert!(size_of::<Attr>() == 88);
const _: () = assert!(size_of::<Kstatfs>() == 80);
const _: () = assert!(size_of::<AttrOut>() == 104);
const _: () = assert!(size_of::<GetattrIn>() == 16);
const _: () = assert!(size_of::<SetattrIn>() == 88);
const _: () = assert!(size_of::<SetxattrIn>() == 8);
const _: () = assert!(size_of::<GetxattrIn>() == 8);
const _: () = assert!(size_of::<GetxattrOut>() == 8);
const _: () = assert!(size_of::<AccessIn>() == 8);
const _: () = assert!(size_of::<StatxIn>() == 24);
const _: () = assert!(size_of::<SxTime>() == 16);
const _: () = assert!(size_of::<StatxFields>() == 256);
const _: () = assert!(size_of::<StatxOut>() == 288);

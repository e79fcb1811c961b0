//! Names and nodes: what LOOKUP and its like answer, FORGET, CREATE, MKNOD, MKDIR, RENAME, LINK, directory entries.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Attr;

/// A name was found or made.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct EntryOut {
    /// The inode, or 0: no such name, and that may be cached.
    pub nodeid: u64,
    /// Tells apart inodes that use a number one after the other.
    pub generation: u64,
    /// How long the name may be cached, seconds.
    pub entry_valid: u64,
    /// How long the attributes may be cached, seconds.
    pub attr_valid: u64,
    /// How long the name may be cached, nanoseconds.
    pub entry_valid_nsec: u32,
    /// How long the attributes may be cached, nanoseconds.
    pub attr_valid_nsec: u32,
    /// The attributes.
    pub attr: Attr,
}

/// Arguments of FORGET.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ForgetIn {
    /// How many lookups are forgotten.
    pub nlookup: u64,
}

/// One inode of BATCH_FORGET.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ForgetOne {
    /// The inode.
    pub nodeid: u64,
    /// How many lookups are forgotten.
    pub nlookup: u64,
}

/// Arguments of BATCH_FORGET.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BatchForgetIn {
    /// How many [`ForgetOne`] follow.
    pub count: u32,
    /// Unused.
    pub dummy: u32,
}

/// Arguments of MKNOD; the name follows.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct MknodIn {
    /// File type and permissions.
    pub mode: u32,
    /// Device number.
    pub rdev: u32,
    /// The caller's umask.
    pub umask: u32,
    /// Unused.
    pub padding: u32,
}

/// Arguments of MKDIR; the name follows.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct MkdirIn {
    /// Permissions.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
}

/// Arguments of RENAME; both names follow.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RenameIn {
    /// Where to.
    pub newdir: u64,
}

/// Arguments of RENAME2; both names follow.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Rename2In {
    /// Where to.
    pub newdir: u64,
    /// `RENAME_*`.
    pub flags: u32,
    /// Unused.
    pub padding: u32,
}

/// Arguments of LINK; the name follows.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LinkIn {
    /// The inode that gets another name.
    pub oldnodeid: u64,
}

/// Arguments of CREATE and TMPFILE; the name follows.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CreateIn {
    /// `O_*`.
    pub flags: u32,
    /// File type and permissions.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
    /// [`OPEN_KILL_SUIDGID`](super::OPEN_KILL_SUIDGID).
    pub open_flags: u32,
}

/// A directory entry of READDIR; the name follows, padded to 8 bytes.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Dirent {
    /// The number `readdir` shows.
    pub ino: u64,
    /// Where the next entry is.
    pub off: u64,
    /// Length of the name.
    pub namelen: u32,
    /// `DT_*`.
    pub kind: u32,
}

const _: () = assert!(size_of::<EntryOut>() == 128);
const _: () = assert!(size_of::<ForgetIn>() == 8);
const _: () = assert!(size_of::<ForgetOne>() == 16);
const _: () = assert!(size_of::<BatchForgetIn>() == 8);
const _: () = assert!(size_of::<MknodIn>() == 16);
const _: () = assert!(size_of::<MkdirIn>() == 8);
const _: () = assert!(size_of::<RenameIn>() == 8);
const _: () = assert!(size_of::<Rename2In>() == 16);
const _: () = assert!(size_of::<LinkIn>() == 8);
const _: () = assert!(size_of::<CreateIn>() == 16);
const _: () = assert!(size_of::<Dirent>() == 24);

//! The FUSE protocol as Linux speaks it: structs, operation codes and flags.
//!
//! From `include/uapi/linux/fuse.h`, protocol 7.45, written anew. Byte order is the machine's.
//! Only what this crate uses is here. Every struct's size is asserted.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The protocol's major version.
pub const VERSION_MAJOR: u32 = 7;
/// The newest minor version whose structs are known here.
pub const VERSION_MINOR: u32 = 45;
/// The oldest minor version served (Linux 5.4).
pub const VERSION_MINOR_OLDEST: u32 = 31;
/// The node id of the root directory.
pub const ROOT_NODE: u64 = 1;
/// In [`GetattrIn::getattr_flags`]: `fh` is valid.
pub const GETATTR_FH: u32 = 1;
/// In [`FsyncIn::fsync_flags`]: data only.
pub const FSYNC_DATASYNC: u32 = 1;
/// In `open_flags` of [`OpenIn`] and [`CreateIn`]: drop setuid, setgid and capabilities.
pub const OPEN_KILL_SUIDGID: u32 = 1;
/// In [`NotifyInvalEntryOut::flags`]: the name is looked up again, not dropped.
pub const EXPIRE_ONLY: u32 = 1;
/// Code of the notification [`NotifyInvalInodeOut`].
pub const NOTIFY_INVAL_INODE: i32 = 2;
/// Code of the notification [`NotifyInvalEntryOut`].
pub const NOTIFY_INVAL_ENTRY: i32 = 3;
/// The longest WRITE and READ negotiated: 256 pages, the kernel's own default limit.
pub const MAX_WRITE: u32 = 1 << 20;
/// Room for the arguments of any request besides the bytes of a WRITE. The kernel refuses reads
/// with less than 4096 and `size of header and arguments`; names and attributes need more.
pub const MAX_ARGUMENTS: usize = 128 * 1024;

/// Operation codes, in [`InHeader::opcode`].
pub mod opcode {
    /// Lookup.
    pub const LOOKUP: u32 = 1;
    /// Forget.
    pub const FORGET: u32 = 2;
    /// Getattr.
    pub const GETATTR: u32 = 3;
    /// Setattr.
    pub const SETATTR: u32 = 4;
    /// Readlink.
    pub const READLINK: u32 = 5;
    /// Symlink.
    pub const SYMLINK: u32 = 6;
    /// Mknod.
    pub const MKNOD: u32 = 8;
    /// Mkdir.
    pub const MKDIR: u32 = 9;
    /// Unlink.
    pub const UNLINK: u32 = 10;
    /// Rmdir.
    pub const RMDIR: u32 = 11;
    /// Rename.
    pub const RENAME: u32 = 12;
    /// Link.
    pub const LINK: u32 = 13;
    /// Open.
    pub const OPEN: u32 = 14;
    /// Read.
    pub const READ: u32 = 15;
    /// Write.
    pub const WRITE: u32 = 16;
    /// Statfs.
    pub const STATFS: u32 = 17;
    /// Release.
    pub const RELEASE: u32 = 18;
    /// Fsync.
    pub const FSYNC: u32 = 20;
    /// Setxattr.
    pub const SETXATTR: u32 = 21;
    /// Getxattr.
    pub const GETXATTR: u32 = 22;
    /// Listxattr.
    pub const LISTXATTR: u32 = 23;
    /// Removexattr.
    pub const REMOVEXATTR: u32 = 24;
    /// Flush.
    pub const FLUSH: u32 = 25;
    /// Init.
    pub const INIT: u32 = 26;
    /// Opendir.
    pub const OPENDIR: u32 = 27;
    /// Readdir.
    pub const READDIR: u32 = 28;
    /// Releasedir.
    pub const RELEASEDIR: u32 = 29;
    /// Fsyncdir.
    pub const FSYNCDIR: u32 = 30;
    /// Getlk.
    pub const GETLK: u32 = 31;
    /// Setlk.
    pub const SETLK: u32 = 32;
    /// Setlkw.
    pub const SETLKW: u32 = 33;
    /// Access.
    pub const ACCESS: u32 = 34;
    /// Create.
    pub const CREATE: u32 = 35;
    /// Interrupt.
    pub const INTERRUPT: u32 = 36;
    /// Bmap.
    pub const BMAP: u32 = 37;
    /// Destroy.
    pub const DESTROY: u32 = 38;
    /// Ioctl.
    pub const IOCTL: u32 = 39;
    /// Poll.
    pub const POLL: u32 = 40;
    /// Notify reply.
    pub const NOTIFY_REPLY: u32 = 41;
    /// Batch forget.
    pub const BATCH_FORGET: u32 = 42;
    /// Fallocate.
    pub const FALLOCATE: u32 = 43;
    /// Readdirplus.
    pub const READDIRPLUS: u32 = 44;
    /// Rename2.
    pub const RENAME2: u32 = 45;
    /// Lseek.
    pub const LSEEK: u32 = 46;
    /// Copy file range.
    pub const COPY_FILE_RANGE: u32 = 47;
    /// Syncfs.
    pub const SYNCFS: u32 = 50;
    /// Tmpfile.
    pub const TMPFILE: u32 = 51;
    /// Statx.
    pub const STATX: u32 = 52;
    /// Copy file range 64.
    pub const COPY_FILE_RANGE_64: u32 = 53;
}

bitflags! {
    /// What kernel and server agree on in INIT.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct InitFlags: u64 {
        /// Reads may overtake each other.
        const ASYNC_READ = 1 << 0;
        /// The server does POSIX locks (never asked for: the kernel does).
        const POSIX_LOCKS = 1 << 1;
        /// OPEN truncates.
        const ATOMIC_O_TRUNC = 1 << 3;
        /// LOOKUP of `.` and `..` works for any known node id.
        const EXPORT_SUPPORT = 1 << 4;
        /// Writes longer than a page.
        const BIG_WRITES = 1 << 5;
        /// The server applies the umask.
        const DONT_MASK = 1 << 6;
        /// The server does flock (never asked for).
        const FLOCK_LOCKS = 1 << 10;
        /// ioctl on directories.
        const HAS_IOCTL_DIR = 1 << 11;
        /// Drop cached data when mtime changes.
        const AUTO_INVAL_DATA = 1 << 12;
        /// READDIRPLUS exists.
        const DO_READDIRPLUS = 1 << 13;
        /// READDIRPLUS when it seems useful.
        const READDIRPLUS_AUTO = 1 << 14;
        /// Direct I/O in parallel.
        const ASYNC_DIO = 1 << 15;
        /// The kernel keeps dirty pages.
        const WRITEBACK_CACHE = 1 << 16;
        /// OPEN may be answered ENOSYS once and for all.
        const NO_OPEN_SUPPORT = 1 << 17;
        /// Lookups and readdirs of a directory in parallel.
        const PARALLEL_DIROPS = 1 << 18;
        /// First version of killpriv (never asked for).
        const HANDLE_KILLPRIV = 1 << 19;
        /// The kernel checks POSIX ACLs that the server stores.
        const POSIX_ACL = 1 << 20;
        /// Reading the device after an abort gives ECONNABORTED.
        const ABORT_ERROR = 1 << 21;
        /// `max_pages` is valid.
        const MAX_PAGES = 1 << 22;
        /// Targets of symbolic links are cached.
        const CACHE_SYMLINKS = 1 << 23;
        /// OPENDIR may be answered ENOSYS once and for all.
        const NO_OPENDIR_SUPPORT = 1 << 24;
        /// Cached data is dropped on request only.
        const EXPLICIT_INVAL_DATA = 1 << 25;
        /// The server drops setuid, setgid and capabilities.
        const HANDLE_KILLPRIV_V2 = 1 << 28;
        /// Longer arguments of SETXATTR (never asked for).
        const SETXATTR_EXT = 1 << 29;
        /// `flags2` is valid.
        const INIT_EXT = 1 << 30;
        /// Names can be expired instead of dropped.
        const HAS_EXPIRE_ONLY = 1 << 35;
        /// Shared mmap of files opened for direct I/O.
        const DIRECT_IO_ALLOW_MMAP = 1 << 36;
        /// Idmapped mounts; callers of all but creating requests become anonymous.
        const ALLOW_IDMAP = 1 << 40;
        /// Requests through io_uring.
        const OVER_IO_URING = 1 << 41;
    }

    /// What a SETATTR changes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct FattrFlags: u32 {
        /// Mode.
        const MODE = 1 << 0;
        /// Owner.
        const UID = 1 << 1;
        /// Group.
        const GID = 1 << 2;
        /// Length.
        const SIZE = 1 << 3;
        /// Access time.
        const ATIME = 1 << 4;
        /// Modification time.
        const MTIME = 1 << 5;
        /// `fh` is valid.
        const FH = 1 << 6;
        /// Access time is the server's now.
        const ATIME_NOW = 1 << 7;
        /// Modification time is the server's now.
        const MTIME_NOW = 1 << 8;
        /// `lock_owner` is valid.
        const LOCKOWNER = 1 << 9;
        /// Change time.
        const CTIME = 1 << 10;
        /// Drop setuid, setgid and capabilities.
        const KILL_SUIDGID = 1 << 11;
    }

    /// How a WRITE came about.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct WriteFlags: u32 {
        /// Written back from the page cache; the caller is not the writer.
        const CACHE = 1 << 0;
        /// `lock_owner` is valid.
        const LOCKOWNER = 1 << 1;
        /// Drop setuid, setgid and capabilities.
        const KILL_SUIDGID = 1 << 2;
    }

    /// How an IOCTL came about.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct IoctlFlags: u32 {
        /// From a 32-bit caller on a 64-bit kernel.
        const COMPAT = 1 << 0;
        /// The server may ask for more memory (never set for us).
        const UNRESTRICTED = 1 << 1;
        /// More memory is asked for.
        const RETRY = 1 << 2;
        /// The caller is 32-bit.
        const IS_32BIT = 1 << 3;
        /// On a directory.
        const DIR = 1 << 4;
        /// From an x32 caller.
        const COMPAT_X32 = 1 << 5;
    }

    /// How an opened file behaves.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct FopenFlags: u32 {
        /// No page cache.
        const DIRECT_IO = 1 << 0;
        /// Cached data stays valid.
        const KEEP_CACHE = 1 << 1;
        /// No seeking.
        const NONSEEKABLE = 1 << 2;
        /// Directory contents are cached.
        const CACHE_DIR = 1 << 3;
        /// No position.
        const STREAM = 1 << 4;
        /// No FLUSH on close.
        const NOFLUSH = 1 << 5;
        /// Direct writes to a file in parallel.
        const PARALLEL_DIRECT_WRITES = 1 << 6;
    }
}

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

/// What every request begins with.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct InHeader {
    /// Length of the request with this header.
    pub len: u32,
    /// What is asked, see [`opcode`].
    pub opcode: u32,
    /// Names the request in its reply.
    pub unique: u64,
    /// The inode asked about.
    pub nodeid: u64,
    /// Who asks: user.
    pub uid: u32,
    /// Who asks: group.
    pub gid: u32,
    /// Who asks: thread id, 0 for the kernel itself.
    pub pid: u32,
    /// Length of extensions behind the arguments, in units of 8 bytes.
    pub total_extlen: u16,
    /// Unused.
    pub padding: u16,
}

/// What every reply and notification begins with.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct OutHeader {
    /// Length of the reply with this header.
    pub len: u32,
    /// 0, or a negative errno; in a notification, its code.
    pub error: i32,
    /// The request answered; 0 for a notification.
    pub unique: u64,
}

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
    /// What to change, see [`FattrFlags`].
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

/// Arguments of OPEN and OPENDIR.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct OpenIn {
    /// `O_*`.
    pub flags: u32,
    /// [`OPEN_KILL_SUIDGID`].
    pub open_flags: u32,
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
    /// See [`WriteFlags`].
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
    /// What the kernel can do, low half of [`InitFlags`].
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
    /// What was agreed, low half of [`InitFlags`].
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

/// Arguments of IOCTL; `in_size` bytes follow.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct IoctlIn {
    /// The open file.
    pub fh: u64,
    /// See [`IoctlFlags`].
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

const _: () = assert!(size_of::<Attr>() == 88);
const _: () = assert!(size_of::<Kstatfs>() == 80);
const _: () = assert!(size_of::<InHeader>() == 40);
const _: () = assert!(size_of::<OutHeader>() == 16);
const _: () = assert!(size_of::<EntryOut>() == 128);
const _: () = assert!(size_of::<AttrOut>() == 104);
const _: () = assert!(size_of::<ForgetIn>() == 8);
const _: () = assert!(size_of::<ForgetOne>() == 16);
const _: () = assert!(size_of::<BatchForgetIn>() == 8);
const _: () = assert!(size_of::<GetattrIn>() == 16);
const _: () = assert!(size_of::<SetattrIn>() == 88);
const _: () = assert!(size_of::<MknodIn>() == 16);
const _: () = assert!(size_of::<MkdirIn>() == 8);
const _: () = assert!(size_of::<RenameIn>() == 8);
const _: () = assert!(size_of::<Rename2In>() == 16);
const _: () = assert!(size_of::<LinkIn>() == 8);
const _: () = assert!(size_of::<OpenIn>() == 8);
const _: () = assert!(size_of::<CreateIn>() == 16);
const _: () = assert!(size_of::<OpenOut>() == 16);
const _: () = assert!(size_of::<ReleaseIn>() == 24);
const _: () = assert!(size_of::<FlushIn>() == 24);
const _: () = assert!(size_of::<ReadIn>() == 40);
const _: () = assert!(size_of::<WriteIn>() == 40);
const _: () = assert!(size_of::<WriteOut>() == 8);
const _: () = assert!(size_of::<FsyncIn>() == 16);
const _: () = assert!(size_of::<SetxattrIn>() == 8);
const _: () = assert!(size_of::<GetxattrIn>() == 8);
const _: () = assert!(size_of::<GetxattrOut>() == 8);
const _: () = assert!(size_of::<AccessIn>() == 8);
const _: () = assert!(size_of::<InitIn>() == 64);
const _: () = assert!(size_of::<InitOut>() == 64);
const _: () = assert!(size_of::<IoctlIn>() == 32);
const _: () = assert!(size_of::<IoctlOut>() == 16);
const _: () = assert!(size_of::<FallocateIn>() == 32);
const _: () = assert!(size_of::<LseekIn>() == 24);
const _: () = assert!(size_of::<LseekOut>() == 8);
const _: () = assert!(size_of::<CopyFileRangeIn>() == 56);
const _: () = assert!(size_of::<CopyFileRangeOut>() == 8);
const _: () = assert!(size_of::<SyncfsIn>() == 8);
const _: () = assert!(size_of::<StatxIn>() == 24);
const _: () = assert!(size_of::<SxTime>() == 16);
const _: () = assert!(size_of::<StatxFields>() == 256);
const _: () = assert!(size_of::<StatxOut>() == 288);
const _: () = assert!(size_of::<Dirent>() == 24);
const _: () = assert!(size_of::<NotifyInvalInodeOut>() == 24);
const _: () = assert!(size_of::<NotifyInvalEntryOut>() == 16);

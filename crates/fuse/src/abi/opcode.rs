//! Operation codes, in [`InHeader::opcode`](super::InHeader::opcode).

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

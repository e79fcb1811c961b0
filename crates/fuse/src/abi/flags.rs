//! Flags.

use bitflags::bitflags;

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

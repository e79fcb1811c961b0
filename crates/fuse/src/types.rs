//! The values that cross the front end: inodes' attributes, callers, replies.
//!
//! Plain data, no protocol: a transport turns them into its own structs.

use crate::abi;
use crate::abi::{FopenFlags, IoctlFlags};
use bitflags::bitflags;
use std::time::Duration;

/// How the kernel names an inode it knows: opaque, chosen by the front end, never used for two
/// inodes. It need not be what `stat` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root of the mount. Known from the start and never forgotten.
    pub const ROOT: Self = Self(abi::ROOT_NODE);
}

/// How the front end names an open file; 0 when files are not opened (the default).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct FileHandle(pub u64);

/// Who makes a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User id for file access.
    pub uid: u32,
    /// Group id for file access.
    pub gid: u32,
    /// Thread id; 0 for the kernel itself (writeback) and for callers outside our pid namespace.
    pub pid: u32,
}

/// A point in time. Seconds may be negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds, below 10^9.
    pub nanos: u32,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The server's clock.
    Now,
    /// This time.
    At(Timestamp),
}

/// The device number of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct DeviceNumber {
    /// 12 bits.
    pub major: u32,
    /// 20 bits.
    pub minor: u32,
}

impl DeviceNumber {
    /// From the 32-bit form of the FUSE protocol.
    pub const fn from_fuse(raw: u32) -> Self {
        Self { major: (raw >> 8) & 0xfff, minor: (raw & 0xff) | ((raw >> 12) & 0xf_ff00) }
    }

    /// To the 32-bit form of the FUSE protocol.
    pub const fn to_fuse(self) -> u32 {
        (self.minor & 0xff) | ((self.major & 0xfff) << 8) | ((self.minor & 0xf_ff00) << 12)
    }

    /// From the kernel's `dev_t`, which Btrfs stores: major in the bits above 20.
    pub const fn from_kernel(raw: u64) -> Self {
        Self { major: ((raw >> 20) & 0xfff) as u32, minor: (raw & 0xf_ffff) as u32 }
    }

    /// To the kernel's `dev_t`.
    pub const fn to_kernel(self) -> u64 {
        ((self.major as u64 & 0xfff) << 20) | (self.minor as u64 & 0xf_ffff)
    }
}

/// What `stat` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Attr {
    /// `st_ino`.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Space used, in units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of contents.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// File type and permissions.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Which device, for a device node.
    pub rdev: DeviceNumber,
    /// Preferred size of I/O.
    pub blksize: u32,
}

/// Attributes and how long they may be cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttrReply {
    /// The attributes.
    pub attr: Attr,
    /// How long the kernel may use them without asking.
    pub ttl: Duration,
}

/// A name that was found or made. Each one given to the kernel counts as one lookup of `node`,
/// until `forget` takes it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The inode; `None`: there is no such name, and the kernel may cache that.
    pub node: Option<NodeId>,
    /// Tells apart inodes with the same node id (for file handles over NFS).
    pub generation: u64,
    /// The inode's attributes.
    pub attr: Attr,
    /// How long the kernel may use the name without asking.
    pub entry_ttl: Duration,
    /// How long the kernel may use the attributes without asking.
    pub attr_ttl: Duration,
}

impl Entry {
    /// No such name, known for `ttl`.
    pub fn negative(ttl: Duration) -> Self {
        Self { node: None, generation: 0, attr: Attr::default(), entry_ttl: ttl, attr_ttl: Duration::ZERO }
    }
}

/// What to change in an inode; `None` leaves a field as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// Permissions (with the file type, unchanged).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
    /// Change time; only with the writeback cache.
    pub ctime: Option<Timestamp>,
    /// Drop setuid, setgid (if group-executable) and `security.capability`.
    pub kill_suidgid: bool,
    /// The open file through which it is done.
    pub handle: Option<FileHandle>,
}

/// What a new inode is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewNode {
    /// File type and permissions, before the umask.
    pub mode: u32,
    /// The caller's umask: to be applied here, unless a default ACL takes its place.
    pub umask: u32,
    /// Which device, for a device node.
    pub rdev: DeviceNumber,
}

/// An open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Comes back in later operations.
    pub handle: FileHandle,
    /// How the file behaves.
    pub flags: FopenFlags,
}

impl Opened {
    /// No handle; cached data and directory contents stay valid, and close sends nothing.
    pub fn stateless() -> Self {
        let flags = FopenFlags::KEEP_CACHE | FopenFlags::CACHE_DIR | FopenFlags::NOFLUSH;
        Self { handle: FileHandle(0), flags }
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenMode {
    /// `O_*`.
    pub flags: u32,
    /// Drop setuid, setgid and capabilities, because the file is truncated.
    pub kill_suidgid: bool,
}

/// A place in a file: an open file or, with handle 0, its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilePos {
    /// The inode.
    pub node: NodeId,
    /// The open file.
    pub handle: FileHandle,
    /// The place.
    pub offset: u64,
}

/// How a write came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteMode {
    /// `O_*` of the open file (`O_SYNC`, `O_DSYNC`, `O_APPEND`, `O_DIRECT`).
    pub flags: u32,
    /// From the kernel's page cache, later than the caller's write: leave the times alone.
    pub writeback: bool,
    /// Drop setuid, setgid and capabilities.
    pub kill_suidgid: bool,
}

/// What has to be durable when fsync returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncScope {
    /// The file and its inode.
    All,
    /// The contents, and what is needed to read them (`fdatasync`).
    Data,
}

bitflags! {
    /// Flags of `renameat2`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct RenameFlags: u32 {
        /// The new name must not exist.
        const NOREPLACE = 1;
        /// Both names exist and change places.
        const EXCHANGE = 2;
        /// Leave a whiteout in the old place.
        const WHITEOUT = 4;
    }
}

/// How `setxattr` treats an attribute that does or does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Either is fine.
    Any,
    /// It must not exist.
    Create,
    /// It must exist.
    Replace,
}

/// What `statfs` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Statfs {
    /// Size of a block, unit of the next three.
    pub block_size: u32,
    /// All blocks.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Free blocks for unprivileged users.
    pub available: u64,
    /// Inodes; 0: no limit.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Longest name.
    pub name_len: u32,
}

/// What kind of file a directory entry is: `DT_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FileKind {
    /// Not known.
    Unknown = 0,
    /// A named pipe.
    Fifo = 1,
    /// A character device.
    CharDevice = 2,
    /// A directory.
    Directory = 4,
    /// A block device.
    BlockDevice = 6,
    /// A regular file.
    Regular = 8,
    /// A symbolic link.
    Symlink = 10,
    /// A socket.
    Socket = 12,
}

impl FileKind {
    /// The kind in the type bits of a mode.
    pub const fn from_mode(mode: u32) -> Self {
        match (mode >> 12) & 0xf {
            1 => Self::Fifo,
            2 => Self::CharDevice,
            4 => Self::Directory,
            6 => Self::BlockDevice,
            8 => Self::Regular,
            10 => Self::Symlink,
            12 => Self::Socket,
            _ => Self::Unknown,
        }
    }
}

/// One entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// What `readdir` shows as inode number: the same as [`Attr::ino`].
    pub ino: u64,
    /// The name.
    pub name: &'a [u8],
    /// The kind of file.
    pub kind: FileKind,
    /// Where the entry after this one is: what comes back to continue here. Not 0, and it must
    /// fit a signed 64-bit number.
    pub next: u64,
}

/// An ioctl. The kernel has copied the bytes that the command's number says.
#[derive(Clone, Copy, Debug)]
pub struct IoctlCall<'a> {
    /// The inode.
    pub node: NodeId,
    /// The open file.
    pub handle: FileHandle,
    /// The command with its direction and size.
    pub command: u32,
    /// The caller's argument as it is: a pointer in the caller's memory, or a number.
    pub raw_argument: u64,
    /// How it came about.
    pub flags: IoctlFlags,
    /// What the caller passes in.
    pub input: &'a [u8],
    /// How many bytes the answer may have.
    pub output_capacity: usize,
}

/// The answer to an ioctl.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct IoctlReply {
    /// What `ioctl` returns; negative for an error that comes with an answer.
    pub result: i32,
    /// The bytes for the caller; at most the capacity.
    pub output: Vec<u8>,
}

/// A range for `fallocate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fallocate {
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
    /// `FALLOC_FL_*`.
    pub mode: u32,
}

/// What `lseek` looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The next data (`SEEK_DATA`).
    Data,
    /// The next hole (`SEEK_HOLE`).
    Hole,
}

/// The answer to `statx`: more than [`Attr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Statx {
    /// What `stat` shows.
    pub attr: Attr,
    /// Birth time.
    pub btime: Timestamp,
    /// `STATX_ATTR_*` that are set.
    pub attributes: u64,
    /// `STATX_ATTR_*` that are supported.
    pub attributes_mask: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_both_forms() {
        for (major, minor) in [(0, 0), (8, 1), (259, 70000), (0xfff, 0xf_ffff)] {
            let number = DeviceNumber { major, minor };
            assert_eq!(DeviceNumber::from_fuse(number.to_fuse()), number);
            assert_eq!(DeviceNumber::from_kernel(number.to_kernel()), number);
        }
        assert_eq!(DeviceNumber { major: 8, minor: 1 }.to_fuse(), 0x801);
    }

    #[test]
    fn kinds_follow_modes() {
        assert_eq!(FileKind::from_mode(0o100644), FileKind::Regular);
        assert_eq!(FileKind::from_mode(0o040755), FileKind::Directory);
        assert_eq!(FileKind::from_mode(0), FileKind::Unknown);
    }
}

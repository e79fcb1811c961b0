//! What a filesystem implements to be mounted.
//!
//! # Invariants
//! * Methods are called from several threads at once, and may block.
//! * A node id is valid from the moment a method returns it in an [`Entry`] until `forget` has
//!   taken back as many lookups as were given, names or no names: an unlinked inode lives on
//!   until then. [`NodeId::ROOT`] is always valid.
//! * A method must not touch the mount it serves, and must not wait for a [`Notifier`].
//! * Answering `ENOSYS` is remembered by the kernel: the operation is never sent again. For
//!   `fsync` and `syncfs` it would then report success; so these have no default.
//!
//! The kernel does locks itself (flock, POSIX, OFD), and checks permissions and ACLs. It leaves
//! to the front end: the umask and default ACLs, immutable and append-only files, dropping of
//! setuid and capabilities, and every privilege check of an ioctl.

use crate::Errno;
use crate::negotiate::Negotiated;
use crate::notify::Notifier;
use crate::sinks::{DirSink, PlusSink, ReadSink};
use crate::types::*;

/// What an operation gives.
pub type Result<T> = std::result::Result<T, Errno>;

/// A filesystem, by inodes.
///
/// Operations that change something are `EROFS` by default: a front end that implements none of
/// them is a read-only filesystem.
#[allow(unused_variables)]
pub trait FrontEnd: Send + Sync {
    /// The connection is agreed; the first operation follows. Keep the notifier to tell the
    /// kernel about changes it did not ask for.
    fn init(&self, negotiated: Negotiated, notifier: Notifier) -> Result<()> {
        Ok(())
    }

    /// The mount is gone, and its operations are about to be waited for: what takes long comes to rest.
    fn rest(&self) {}

    /// The mount is gone, all operations are done: make everything durable. Called once; on
    /// `fuseblk` umount(2) waits for it.
    ///
    /// # Errors
    /// What is lost, in words: there is no caller left who could be told by a number.
    fn destroy(&self) -> std::result::Result<(), String>;

    /// Finds a name. `.` and `..` are asked for when file handles are opened. Absent: `ENOENT`, or [`Entry::negative`] to let the kernel
    /// cache that.
    fn lookup(&self, caller: &Caller, parent: NodeId, name: &[u8]) -> Result<Entry>;

    /// Takes back `lookups` of the lookups counted for `node`. At unmount some or all forgets
    /// are left out.
    fn forget(&self, node: NodeId, lookups: u64);

    /// Attributes.
    fn getattr(&self, caller: &Caller, node: NodeId, handle: Option<FileHandle>) -> Result<AttrReply>;

    /// Changes attributes and gives the new ones.
    fn setattr(&self, caller: &Caller, node: NodeId, change: &SetAttr) -> Result<AttrReply> {
        Err(Errno::EROFS)
    }

    /// More attributes. By default never asked again: `statx` then works from `getattr`, without
    /// birth times.
    fn statx(&self, caller: &Caller, node: NodeId, handle: Option<FileHandle>) -> Result<Statx> {
        Err(Errno::ENOSYS)
    }

    /// The target of a symbolic link.
    fn readlink(&self, caller: &Caller, node: NodeId) -> Result<Vec<u8>> {
        Err(Errno::EINVAL)
    }

    /// Makes a symbolic link.
    fn symlink(&self, caller: &Caller, parent: NodeId, name: &[u8], target: &[u8]) -> Result<Entry> {
        Err(Errno::EROFS)
    }

    /// Makes a file, a device node, a pipe or a socket.
    fn mknod(&self, caller: &Caller, parent: NodeId, name: &[u8], new: &NewNode) -> Result<Entry> {
        Err(Errno::EROFS)
    }

    /// Makes a directory.
    fn mkdir(&self, caller: &Caller, parent: NodeId, name: &[u8], new: &NewNode) -> Result<Entry> {
        Err(Errno::EROFS)
    }

    /// Removes a name that is not a directory's.
    fn unlink(&self, caller: &Caller, parent: NodeId, name: &[u8]) -> Result<()> {
        Err(Errno::EROFS)
    }

    /// Removes an empty directory.
    fn rmdir(&self, caller: &Caller, parent: NodeId, name: &[u8]) -> Result<()> {
        Err(Errno::EROFS)
    }

    /// Renames, from (directory, name) to (directory, name).
    fn rename(&self, caller: &Caller, from: (NodeId, &[u8]), to: (NodeId, &[u8]), flags: RenameFlags) -> Result<()> {
        Err(Errno::EROFS)
    }

    /// Gives `node` another name.
    fn link(&self, caller: &Caller, node: NodeId, parent: NodeId, name: &[u8]) -> Result<Entry> {
        Err(Errno::EROFS)
    }

    /// Makes a file and opens it.
    fn create(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &[u8],
        new: &NewNode,
        mode: OpenMode,
    ) -> Result<(Entry, Opened)> {
        Err(Errno::EROFS)
    }

    /// Makes a file without a name and opens it.
    fn tmpfile(&self, caller: &Caller, parent: NodeId, new: &NewNode, mode: OpenMode) -> Result<(Entry, Opened)> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Opens a file. By default files are not opened: the kernel asks once and never again, and
    /// handles are 0 (but for files opened by `create`).
    fn open(&self, caller: &Caller, node: NodeId, mode: OpenMode) -> Result<Opened> {
        Err(Errno::ENOSYS)
    }

    /// A file descriptor (or a copy of it) is closed. By default never asked again.
    fn flush(&self, caller: &Caller, node: NodeId, handle: FileHandle) -> Result<()> {
        Err(Errno::ENOSYS)
    }

    /// An open file's last user is gone. Also for files opened by `create`.
    fn release(&self, node: NodeId, handle: FileHandle) -> Result<()> {
        Ok(())
    }

    /// Reads into `out`, at most [`ReadSink::room`] bytes; fewer only at the end of the file.
    fn read(&self, caller: &Caller, at: FilePos, out: &mut ReadSink<'_>) -> Result<()>;

    /// Writes all of `data` and gives its length, or fails; fewer only when space runs out.
    fn write(&self, caller: &Caller, at: FilePos, data: &[u8], mode: WriteMode) -> Result<usize> {
        Err(Errno::EROFS)
    }

    /// Makes a file durable.
    fn fsync(&self, caller: &Caller, node: NodeId, handle: FileHandle, scope: SyncScope) -> Result<()>;

    /// Makes a directory durable.
    fn fsyncdir(&self, caller: &Caller, node: NodeId, handle: FileHandle, scope: SyncScope) -> Result<()>;

    /// Makes everything durable. Linux sends it on `fuseblk` only.
    fn syncfs(&self, caller: &Caller, node: NodeId) -> Result<()>;

    /// Allocates, punches holes, zeroes.
    fn fallocate(&self, caller: &Caller, node: NodeId, handle: FileHandle, range: Fallocate) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Finds the next data or hole; `ENXIO` past the end.
    fn lseek(&self, caller: &Caller, at: FilePos, what: Seek) -> Result<u64> {
        Err(Errno::ENOSYS)
    }

    /// Copies within the filesystem, best without copying, and gives the length copied.
    fn copy_file_range(&self, caller: &Caller, from: FilePos, to: FilePos, length: u64) -> Result<u64> {
        Err(Errno::ENOSYS)
    }

    /// Shares extents (`FICLONERANGE`). Linux cannot send it over FUSE today.
    fn clone_range(&self, caller: &Caller, from: FilePos, to: FilePos, length: u64) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Opens a directory. By default directories are not opened, as files.
    fn opendir(&self, caller: &Caller, node: NodeId, mode: OpenMode) -> Result<Opened> {
        Err(Errno::ENOSYS)
    }

    /// An open directory's last user is gone.
    fn releasedir(&self, node: NodeId, handle: FileHandle) -> Result<()> {
        Ok(())
    }

    /// Lists a directory from `at.offset` on (0, or a [`DirEntry::next`]) until the sink is full
    /// or the directory ends. `.` and `..` are listed too.
    fn readdir(&self, caller: &Caller, at: FilePos, out: &mut DirSink<'_>) -> Result<()>;

    /// As `readdir`, with attributes. By default never asked again.
    fn readdirplus(&self, caller: &Caller, at: FilePos, out: &mut PlusSink<'_>) -> Result<()> {
        Err(Errno::ENOSYS)
    }

    /// What `statfs` shows.
    fn statfs(&self, caller: &Caller, node: NodeId) -> Result<Statfs>;

    /// Sets an extended attribute. ACLs come as `system.posix_acl_*`.
    fn setxattr(&self, caller: &Caller, node: NodeId, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        Err(Errno::EROFS)
    }

    /// An extended attribute; `ENODATA` if absent.
    fn getxattr(&self, caller: &Caller, node: NodeId, name: &[u8]) -> Result<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// The names of all extended attributes, each with a NUL behind it.
    fn listxattr(&self, caller: &Caller, node: NodeId) -> Result<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Removes an extended attribute; `ENODATA` if absent.
    fn removexattr(&self, caller: &Caller, node: NodeId, name: &[u8]) -> Result<()> {
        Err(Errno::EROFS)
    }

    /// Checks access. Never asked with `default_permissions`.
    fn access(&self, caller: &Caller, node: NodeId, mask: u32) -> Result<()> {
        Err(Errno::ENOSYS)
    }

    /// An ioctl. Nobody has checked the caller's privilege.
    fn ioctl(&self, caller: &Caller, call: &IoctlCall<'_>) -> Result<IoctlReply> {
        Err(Errno::ENOTTY)
    }
}

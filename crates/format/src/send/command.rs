//! Commands, with their values as types. Bytes are borrowed from the reader.

use super::CommandKind;
use crate::items::Timespec;
use crate::{Generation, Ino};

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// Where it begins, in bytes from the stream's start.
    pub offset: u64,
    /// What it is about: a path from the subvolume's top (empty: the top itself); for [`Action::Subvol`] and
    /// [`Action::Snapshot`] the name of the new subvolume. Any bytes but zero: nobody has said that it stays inside.
    pub path: &'a [u8],
    /// What to do there.
    pub action: Action<'a>,
}

/// What to do at a path.
///
/// Source: which attributes each has, `Documentation/dev/dev-send-stream.rst` and `read_and_process_cmd` in
/// `common/send-stream.c` of btrfs-progs; `send_verity` in Linux's `fs/btrfs/send.c`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// A new subvolume; the commands that follow are about it.
    Subvol {
        /// The sender's UUID of it.
        uuid: [u8; 16],
        /// The generation in which it changed last.
        ctransid: Generation,
    },
    /// A new snapshot of a subvolume that was received before; the commands that follow are about it.
    Snapshot {
        /// The sender's UUID of it.
        uuid: [u8; 16],
        /// The generation in which it changed last.
        ctransid: Generation,
        /// The sender's UUID of the parent.
        clone_uuid: [u8; 16],
        /// The generation in which the parent changed last.
        clone_ctransid: Generation,
    },
    /// A new empty file.
    MkFile {
        /// Its number at the sender.
        ino: Ino,
    },
    /// A new directory.
    MkDir {
        /// Its number at the sender.
        ino: Ino,
    },
    /// A new device node.
    MkNod {
        /// Its number at the sender.
        ino: Ino,
        /// Type and rights.
        mode: u64,
        /// The device, as the kernel encodes it.
        rdev: u64,
    },
    /// A new fifo.
    MkFifo {
        /// Its number at the sender.
        ino: Ino,
    },
    /// A new socket.
    MkSock {
        /// Its number at the sender.
        ino: Ino,
    },
    /// A new symbolic link.
    Symlink {
        /// Its number at the sender.
        ino: Ino,
        /// What it says.
        target: &'a [u8],
    },
    /// Another name, in place of what has it.
    Rename {
        /// The new path.
        to: &'a [u8],
    },
    /// One more name, for what is at another path.
    Link {
        /// That other path.
        existing: &'a [u8],
    },
    /// A name that goes.
    Unlink,
    /// An empty directory that goes.
    RmDir,
    /// An extended attribute.
    SetXattr {
        /// Its name.
        name: &'a [u8],
        /// Its value.
        value: &'a [u8],
    },
    /// An extended attribute that goes.
    RemoveXattr {
        /// Its name.
        name: &'a [u8],
    },
    /// Bytes of a file.
    Write {
        /// Where in the file.
        offset: u64,
        /// The bytes.
        data: &'a [u8],
    },
    /// Bytes of a file as they are in an extent: compressed.
    EncodedWrite(EncodedWrite<'a>),
    /// Bytes of a file that another one has.
    Clone(CloneRange<'a>),
    /// A new size.
    Truncate {
        /// The size.
        size: u64,
    },
    /// New rights.
    Chmod {
        /// The rights.
        mode: u64,
    },
    /// New owners.
    Chown {
        /// User.
        uid: u64,
        /// Group.
        gid: u64,
    },
    /// New times.
    Utimes {
        /// Last access.
        atime: Timespec,
        /// Last change of the data.
        mtime: Timespec,
        /// Last change of the inode.
        ctime: Timespec,
        /// Birth; the kernel sends it since version 2.
        otime: Option<Timespec>,
    },
    /// A range of a file differs; its bytes were left out (`btrfs send --no-data`).
    UpdateExtent {
        /// Where in the file.
        offset: u64,
        /// Its length.
        len: u64,
    },
    /// fallocate(2): Linux 6.17 and later punch holes with it, in version 2.
    Fallocate {
        /// The mode, as fallocate(2) has it.
        mode: u32,
        /// Where in the file.
        offset: u64,
        /// Its length.
        len: u64,
    },
    /// Flags of the inode, as in `InodeItem::flags`, whole.
    FileAttr {
        /// The flags.
        flags: u64,
    },
    /// fs-verity for a file.
    EnableVerity(Verity<'a>),
}

/// See [`Action::EncodedWrite`]. Source: `BTRFS_IOC_ENCODED_WRITE` in Linux's `include/uapi/linux/btrfs.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodedWrite<'a> {
    /// Where in the file.
    pub offset: u64,
    /// Bytes of the file that it stands for.
    pub unencoded_file_len: u64,
    /// Bytes that come out of the extent once it is decoded.
    pub unencoded_len: u64,
    /// Where in these the file's bytes begin.
    pub unencoded_offset: u64,
    /// 0 none, 1 zlib, 2 zstd, 3 to 7 LZO with sectors of 4, 8, 16, 32 and 64 KiB; may be anything.
    pub compression: u32,
    /// 0 none; may be anything.
    pub encryption: u32,
    /// The extent.
    pub data: &'a [u8],
}

/// See [`Action::Clone`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloneRange<'a> {
    /// Where in the file.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// The sender's UUID of the subvolume that has them.
    pub uuid: [u8; 16],
    /// The generation in which that one changed last.
    pub ctransid: Generation,
    /// The file, from that subvolume's top.
    pub path: &'a [u8],
    /// Where in that file.
    pub clone_offset: u64,
}

/// See [`Action::EnableVerity`]. Source: `FS_IOC_ENABLE_VERITY` in Linux's `include/uapi/linux/fsverity.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verity<'a> {
    /// The hash algorithm.
    pub algorithm: u8,
    /// Bytes of a block that has a hash.
    pub block_size: u32,
    /// The salt.
    pub salt: &'a [u8],
    /// The signature.
    pub signature: &'a [u8],
}

impl Action<'_> {
    /// What kind of command it is from.
    pub fn kind(&self) -> CommandKind {
        match self {
            Self::Subvol { .. } => CommandKind::Subvol,
            Self::Snapshot { .. } => CommandKind::Snapshot,
            Self::MkFile { .. } => CommandKind::MkFile,
            Self::MkDir { .. } => CommandKind::MkDir,
            Self::MkNod { .. } => CommandKind::MkNod,
            Self::MkFifo { .. } => CommandKind::MkFifo,
            Self::MkSock { .. } => CommandKind::MkSock,
            Self::Symlink { .. } => CommandKind::Symlink,
            Self::Rename { .. } => CommandKind::Rename,
            Self::Link { .. } => CommandKind::Link,
            Self::Unlink => CommandKind::Unlink,
            Self::RmDir => CommandKind::RmDir,
            Self::SetXattr { .. } => CommandKind::SetXattr,
            Self::RemoveXattr { .. } => CommandKind::RemoveXattr,
            Self::Write { .. } => CommandKind::Write,
            Self::EncodedWrite(_) => CommandKind::EncodedWrite,
            Self::Clone(_) => CommandKind::Clone,
            Self::Truncate { .. } => CommandKind::Truncate,
            Self::Chmod { .. } => CommandKind::Chmod,
            Self::Chown { .. } => CommandKind::Chown,
            Self::Utimes { .. } => CommandKind::Utimes,
            Self::UpdateExtent { .. } => CommandKind::UpdateExtent,
            Self::Fallocate { .. } => CommandKind::Fallocate,
            Self::FileAttr { .. } => CommandKind::FileAttr,
            Self::EnableVerity(_) => CommandKind::EnableVerity,
        }
    }
}

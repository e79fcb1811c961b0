//! The names and numbers of commands.

use std::fmt::{self, Display, Formatter};

/// What a command does. Numbers 1 to 22 are of version 1, to 25 of version 2, 26 of version 3; like `btrfs receive`,
/// the reader takes each in any version.
///
/// Source: the `BTRFS_SEND_C_` numbers in Linux's `fs/btrfs/send.h`. The names are those that `btrfs receive --dump`
/// prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
#[allow(missing_docs, reason = "see `Action`, variant by variant")]
pub enum CommandKind {
    Subvol = 1,
    Snapshot = 2,
    MkFile = 3,
    MkDir = 4,
    MkNod = 5,
    MkFifo = 6,
    MkSock = 7,
    Symlink = 8,
    Rename = 9,
    Link = 10,
    Unlink = 11,
    RmDir = 12,
    SetXattr = 13,
    RemoveXattr = 14,
    Write = 15,
    Clone = 16,
    Truncate = 17,
    Chmod = 18,
    Chown = 19,
    Utimes = 20,
    /// The stream ends here.
    End = 21,
    UpdateExtent = 22,
    Fallocate = 23,
    FileAttr = 24,
    EncodedWrite = 25,
    EnableVerity = 26,
}

impl CommandKind {
    /// All kinds with their names; the first has number 1.
    const ALL: [(Self, &'static str); 26] = [
        (Self::Subvol, "subvol"),
        (Self::Snapshot, "snapshot"),
        (Self::MkFile, "mkfile"),
        (Self::MkDir, "mkdir"),
        (Self::MkNod, "mknod"),
        (Self::MkFifo, "mkfifo"),
        (Self::MkSock, "mksock"),
        (Self::Symlink, "symlink"),
        (Self::Rename, "rename"),
        (Self::Link, "link"),
        (Self::Unlink, "unlink"),
        (Self::RmDir, "rmdir"),
        (Self::SetXattr, "set_xattr"),
        (Self::RemoveXattr, "remove_xattr"),
        (Self::Write, "write"),
        (Self::Clone, "clone"),
        (Self::Truncate, "truncate"),
        (Self::Chmod, "chmod"),
        (Self::Chown, "chown"),
        (Self::Utimes, "utimes"),
        (Self::End, "end"),
        (Self::UpdateExtent, "update_extent"),
        (Self::Fallocate, "fallocate"),
        (Self::FileAttr, "fileattr"),
        (Self::EncodedWrite, "encoded_write"),
        (Self::EnableVerity, "enable_verity"),
    ];

    /// The kind of a number in a stream.
    pub fn from_number(number: u16) -> Option<Self> {
        let index = usize::from(number).checked_sub(1)?;
        Self::ALL.get(index).map(|(kind, _)| *kind)
    }
}

impl Display for CommandKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(Self::ALL[usize::from(*self as u16) - 1].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back() {
        for number in 1..=26 {
            assert_eq!(CommandKind::from_number(number).map(|kind| kind as u16), Some(number));
        }
        assert_eq!((CommandKind::from_number(0), CommandKind::from_number(27)), (None, None));
        assert_eq!(format!("{:<6}|", CommandKind::End), "end   |");
    }
}

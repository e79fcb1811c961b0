//! The names and numbers of attributes.

use std::fmt::{self, Display, Formatter};

/// What a value in a command means. Numbers 1 to 24 are of version 1, to 31 of version 2, to 35 of version 3.
///
/// Source: the `BTRFS_SEND_A_` numbers in Linux's `fs/btrfs/send.h`; their types in btrfs-progs'
/// `Documentation/dev/dev-send-stream.rst`, those of version 3 in `send_verity` of `fs/btrfs/send.c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Attribute {
    /// UUID of the subvolume that is sent.
    Uuid = 1,
    /// Generation in which that subvolume changed last; 64 bits.
    Ctransid = 2,
    /// Inode number at the sender; 64 bits.
    Ino = 3,
    /// A size or length in bytes; 64 bits.
    Size = 4,
    /// Rights, with the type for device nodes; 64 bits.
    Mode = 5,
    /// Owner; 64 bits.
    Uid = 6,
    /// Group; 64 bits.
    Gid = 7,
    /// Device number of a device node; 64 bits.
    Rdev = 8,
    /// Time of the last change of the inode; seconds (64 bits) and nanoseconds (32 bits).
    Ctime = 9,
    /// Time of the last change of the data.
    Mtime = 10,
    /// Time of the last access.
    Atime = 11,
    /// Time of birth; sent since version 2.
    Otime = 12,
    /// Name of an extended attribute.
    XattrName = 13,
    /// Its value.
    XattrData = 14,
    /// The path that a command is about, from the subvolume's top.
    Path = 15,
    /// Where something is renamed to.
    PathTo = 16,
    /// What a symbolic link says, or the path that a hard link is made of.
    PathLink = 17,
    /// Where in a file; 64 bits.
    FileOffset = 18,
    /// Bytes of a file. Since version 2 the last attribute of its command, without a length.
    Data = 19,
    /// UUID of the subvolume that is cloned from, or of a snapshot's parent.
    CloneUuid = 20,
    /// Generation in which that one changed last; 64 bits.
    CloneCtransid = 21,
    /// The file that is cloned from, in its subvolume.
    ClonePath = 22,
    /// Where in that file; 64 bits.
    CloneOffset = 23,
    /// How many bytes are cloned; 64 bits.
    CloneLen = 24,
    /// The mode of fallocate(2); 32 bits.
    FallocateMode = 25,
    /// Flags as in `InodeItem::flags`; 64 bits.
    FileAttr = 26,
    /// Bytes of the file that an encoded extent stands for; 64 bits.
    UnencodedFileLen = 27,
    /// Bytes of the whole extent once decoded; 64 bits.
    UnencodedLen = 28,
    /// Where in these the file's bytes begin; 64 bits.
    UnencodedOffset = 29,
    /// How it is compressed; 32 bits, none if left out.
    Compression = 30,
    /// How it is encrypted; 32 bits, none if left out.
    Encryption = 31,
    /// fs-verity: the hash algorithm; 8 bits.
    VerityAlgorithm = 32,
    /// fs-verity: the block size; 32 bits.
    VerityBlockSize = 33,
    /// fs-verity: the salt.
    VeritySaltData = 34,
    /// fs-verity: the signature.
    VeritySigData = 35,
}

impl Attribute {
    /// All attributes with their names; the first has number 1.
    const ALL: [(Self, &'static str); 35] = [
        (Self::Uuid, "uuid"),
        (Self::Ctransid, "ctransid"),
        (Self::Ino, "ino"),
        (Self::Size, "size"),
        (Self::Mode, "mode"),
        (Self::Uid, "uid"),
        (Self::Gid, "gid"),
        (Self::Rdev, "rdev"),
        (Self::Ctime, "ctime"),
        (Self::Mtime, "mtime"),
        (Self::Atime, "atime"),
        (Self::Otime, "otime"),
        (Self::XattrName, "xattr_name"),
        (Self::XattrData, "xattr_data"),
        (Self::Path, "path"),
        (Self::PathTo, "path_to"),
        (Self::PathLink, "path_link"),
        (Self::FileOffset, "file_offset"),
        (Self::Data, "data"),
        (Self::CloneUuid, "clone_uuid"),
        (Self::CloneCtransid, "clone_ctransid"),
        (Self::ClonePath, "clone_path"),
        (Self::CloneOffset, "clone_offset"),
        (Self::CloneLen, "clone_len"),
        (Self::FallocateMode, "fallocate_mode"),
        (Self::FileAttr, "fileattr"),
        (Self::UnencodedFileLen, "unencoded_file_len"),
        (Self::UnencodedLen, "unencoded_len"),
        (Self::UnencodedOffset, "unencoded_offset"),
        (Self::Compression, "compression"),
        (Self::Encryption, "encryption"),
        (Self::VerityAlgorithm, "verity_algorithm"),
        (Self::VerityBlockSize, "verity_block_size"),
        (Self::VeritySaltData, "verity_salt_data"),
        (Self::VeritySigData, "verity_sig_data"),
    ];
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The attribute of a number in a stream.
    pub fn from_number(number: u16) -> Option<Self> {
        let index = usize::from(number).checked_sub(1)?;
        Self::ALL.get(index).map(|(attribute, _)| *attribute)
    }

    /// Its place among all, from zero.
    pub(super) fn index(self) -> usize {
        usize::from(self as u16) - 1
    }
}

impl Display for Attribute {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL[self.index()].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back() {
        for number in 1..=Attribute::COUNT as u16 {
            assert_eq!(Attribute::from_number(number).map(|attribute| attribute as u16), Some(number));
        }
        assert_eq!((Attribute::from_number(0), Attribute::from_number(36)), (None, None));
    }
}

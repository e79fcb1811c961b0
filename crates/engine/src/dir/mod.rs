//! Names of inodes and subvolumes in directories.
//!
//! # Invariants
//! * An entry is three items that agree: DIR_ITEM by hash, DIR_INDEX by index, and the way back
//!   (INODE_REF or INODE_EXTREF, ROOT_REF and ROOT_BACKREF). [`link`] writes and removes them together.
//! * A directory has one link, and its size is twice the sum of its names' lengths.
//! * A new entry's index is above all others in its directory, so a reader that goes by index meets
//!   each entry that stays exactly once.
//!
//! # Locking
//! Everything works within a transaction; the directory's state is locked by the caller.

pub mod entry;
pub mod link;
pub mod list;
pub mod path;

pub mod backref;
mod root_ref;

use butterfs_format::items::NAME_MAX;

use crate::error::{Error, Result};
use crate::inode::InodeId;

pub use root_ref::{Parent, parent_of, subvolumes_from, subvolumes_in};

/// A name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The directory.
    pub dir: InodeId,
    /// The name.
    pub name: &'a [u8],
}

impl<'a> Place<'a> {
    /// A name in a directory.
    pub const fn new(dir: InodeId, name: &'a [u8]) -> Self {
        Self { dir, name }
    }

    /// Fails if no entry can have this name.
    pub fn check(&self) -> Result<()> {
        match self.name {
            b"" => Err(Error::NotFound),
            b"." | b".." => Err(Error::Invalid("the names . and .. are taken")),
            name if name.len() > NAME_MAX => Err(Error::NameTooLong),
            name if name.contains(&b'/') || name.contains(&0) => Err(Error::Invalid("name with a slash or zero byte")),
            _ => Ok(()),
        }
    }

    /// What the name adds to its directory's size.
    pub fn size_in_dir(&self) -> u64 {
        2 * self.name.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use butterfs_format::TreeId;

    use super::*;

    #[test]
    fn impossible_names_are_refused() {
        let check = |name: &[u8]| Place::new(InodeId::top_of(TreeId::FS), name).check();
        assert!(matches!(check(b""), Err(Error::NotFound)));
        assert!(matches!(check(&[b'x'; 256]), Err(Error::NameTooLong)));
        for bad in [&b"."[..], b"..", b"a/b", b"a\0b"] {
            assert!(matches!(check(bad), Err(Error::Invalid(_))), "{bad:?}");
        }
        assert!(check(&[b'x'; 255]).is_ok());
        assert!(check(b"...").is_ok());
    }
}

//! How the data of a file is kept: copied on write with checksums, or not.
//!
//! # Invariants
//! * What is not copied on write has no checksums: the two could not be changed together.

use butterfs_format::items::InodeFlags;

/// How the data of new files is kept, besides what their directory says (mount options `nodatasum`,
/// `nodatacow`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DataRule {
    /// Copied on write, with checksums.
    #[default]
    Usual,
    /// Copied on write, without checksums.
    NoChecksums,
    /// Overwritten where it is, without checksums.
    InPlace,
}

impl DataRule {
    /// The flags of a file that is kept so.
    pub fn flags(self) -> InodeFlags {
        match self {
            Self::Usual => InodeFlags::empty(),
            Self::NoChecksums => InodeFlags::NODATASUM,
            Self::InPlace => InodeFlags::NODATACOW | InodeFlags::NODATASUM,
        }
    }
}

/// Whether the data of a file with these flags is overwritten where it is.
pub(super) fn is_in_place(flags: InodeFlags) -> bool {
    flags.contains(DataRule::InPlace.flags())
}

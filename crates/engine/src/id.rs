//! What an inode is called.

use butterfs_format::{Ino, TreeId};

/// The identity of an inode: always subvolume and number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct InodeId {
    /// The subvolume.
    pub tree: TreeId,
    /// The inode's number in it.
    pub ino: Ino,
}

/// The number that the placeholder of a subvolume that is not here has (the kernel's
/// `BTRFS_EMPTY_SUBVOL_DIR_OBJECTID`).
const PLACEHOLDER: Ino = Ino(2);

impl InodeId {
    /// An inode of a subvolume.
    pub const fn new(tree: TreeId, ino: Ino) -> Self {
        Self { tree, ino }
    }

    /// The top directory of a subvolume.
    pub const fn top_of(tree: TreeId) -> Self {
        Self { tree, ino: Ino::ROOT_DIR }
    }

    /// The empty directory that a snapshot shows in place of a subvolume nested in its source.
    pub const fn placeholder_in(tree: TreeId) -> Self {
        Self { tree, ino: PLACEHOLDER }
    }

    /// Whether this is [`InodeId::placeholder_in`] some subvolume.
    pub fn is_placeholder(self) -> bool {
        self.ino == PLACEHOLDER
    }
}

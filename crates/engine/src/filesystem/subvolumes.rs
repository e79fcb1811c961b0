//! What there is of subvolumes: which one is the default, which are deleted and not gone yet, what changed in one.

use butterfs_format::superblock::Incompat;
use butterfs_format::{Generation, Key, TreeId};

use super::{Filesystem, require_subvolume};
use crate::dir::{Parent, parent_of};
use crate::error::{Error, Result};
use crate::subvolume::{ChangedPage, SubvolumeInfo, changed, list, root};
use crate::tx::Need;

impl Filesystem {
    /// The subvolume that is mounted when none is chosen.
    pub fn default_subvolume(&self) -> Result<TreeId> {
        self.shared.gate.view(root::default_subvolume)
    }

    /// Makes a subvolume the one that is mounted when none is chosen.
    pub fn set_default_subvolume(&self, tree: TreeId) -> Result<()> {
        require_subvolume(tree)?;
        self.shared.gate.change(Need::Items(1), |tx| {
            if tx.root_item(tree)?.refs.get() == 0 {
                return Err(Error::NotFound);
            }
            root::set_default_subvolume(tx, tree)?;
            tx.use_feature(Incompat::DEFAULT_SUBVOL);
            Ok(())
        })
    }

    /// Up to `most` subvolumes that are deleted and not gone yet, by number, those above `after`.
    pub fn deleted_subvolumes(&self, after: u64, most: usize) -> Result<Vec<SubvolumeInfo>> {
        self.shared.gate.view(|tx| list::deleted_page(tx, after, most))
    }

    /// Where a subvolume has its name.
    pub fn subvolume_parent(&self, tree: TreeId) -> Result<Parent> {
        require_subvolume(tree)?;
        self.shared.gate.view(|tx| tx.root_item(tree).and_then(|_| parent_of(tx, tree)))?.ok_or(Error::NotFound)
    }

    /// Up to `most` file extents of a subvolume that were made in `since` or later, from a key on. What is in memory
    /// only is not among them.
    pub fn changed_extents(&self, tree: TreeId, since: Generation, from: Key, most: usize) -> Result<ChangedPage> {
        require_subvolume(tree)?;
        self.shared.gate.view(|tx| changed::page(tx, tree, since, from, most))
    }
}

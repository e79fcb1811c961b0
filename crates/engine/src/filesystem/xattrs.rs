//! Extended attributes.

use super::Filesystem;
use crate::error::{Error, Result};
use crate::inode::xattr::{self, Xattr, XattrMode};
use crate::inode::{InodeId, item};
use crate::tx::{Need, Transaction};

impl Filesystem {
    /// The value of an attribute.
    pub fn xattr(&self, id: InodeId, name: &[u8]) -> Result<Vec<u8>> {
        if id.is_placeholder() {
            return Err(Error::NoAttribute);
        }
        self.inode(id)?;
        self.shared.gate.view(|tx| xattr::get(tx, id, name))?.ok_or(Error::NoAttribute)
    }

    /// The names of all attributes.
    pub fn xattrs(&self, id: InodeId) -> Result<Vec<Vec<u8>>> {
        if id.is_placeholder() {
            return Ok(Vec::new());
        }
        self.inode(id)?;
        self.shared.gate.view(|tx| xattr::list(tx, id))
    }

    /// Sets an attribute.
    pub fn set_xattr(&self, id: InodeId, new: Xattr<'_>, mode: XattrMode) -> Result<()> {
        if new.name.starts_with(b"btrfs.") {
            return Err(Error::Unsupported("changing Btrfs properties".into()));
        }
        self.change_xattrs(id, Need::Items(2), |tx| xattr::set(tx, id, new, mode))
    }

    /// Removes an attribute.
    pub fn remove_xattr(&self, id: InodeId, name: &[u8]) -> Result<()> {
        self.change_xattrs(id, Need::Deletion, |tx| xattr::remove(tx, id, name))
    }

    fn change_xattrs(&self, id: InodeId, need: Need, work: impl Fn(&mut Transaction) -> Result<()>) -> Result<()> {
        if id.is_placeholder() {
            return Err(Error::NotPermitted("a subvolume that is not in this snapshot cannot be changed here"));
        }
        let now = self.now();
        self.change(&[self.inode(id)?], need, |tx, drafts| {
            item::require_writable(tx, id.tree)?;
            work(tx)?;
            let found = drafts.item(id)?;
            found.ctime = now;
            item::bump_sequence(found);
            item::write_changed(tx, id, found)
        })
    }
}

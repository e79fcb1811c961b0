//! Extended attributes.

use butterfs_format::items::InodeItem;

use super::Filesystem;
use super::new_files::is_rule;
use super::properties::is_property;
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
        if is_property(new.name) {
            return self.set_property(id, new, mode);
        }
        if is_rule(id, new.name) {
            return self.set_rule(id, new.value, mode);
        }
        self.change_xattrs(id, Need::Items(2), |tx, _| xattr::set(tx, id, new, mode))
    }

    /// Removes an attribute.
    pub fn remove_xattr(&self, id: InodeId, name: &[u8]) -> Result<()> {
        if is_property(name) {
            return self.remove_property(id, name);
        }
        if is_rule(id, name) {
            return self.remove_rule(id);
        }
        self.change_xattrs(id, Need::Deletion, |tx, _| xattr::remove(tx, id, name))
    }

    /// Does `work`, which may change the item, and notes the change.
    pub(super) fn change_xattrs(
        &self,
        id: InodeId,
        need: Need,
        work: impl Fn(&mut Transaction, &mut InodeItem) -> Result<()>,
    ) -> Result<()> {
        if id.is_placeholder() {
            return Err(Error::NotPermitted("a subvolume that is not in this snapshot cannot be changed here"));
        }
        let now = self.now();
        self.change(&[self.inode(id)?], need, |tx, drafts| {
            item::require_writable(tx, id.tree)?;
            let found = drafts.item(id)?;
            work(tx, found)?;
            found.ctime = now;
            item::bump_sequence(found);
            item::write_changed(tx, id, found)
        })
    }
}

//! Changing attributes.

use super::acl;
use super::attr::timespec;
use super::nodes::Capability;
use super::rights::{Deed, groups, require_unprotected};
use super::{EngineFrontEnd, Site};
use crate::types::{AttrReply, Caller, NodeId, SetAttr, SetTime};
use crate::{Errno, Result};
use butterfs_engine::Error;
use butterfs_engine::filesystem::{Attributes, SetAttributes};
use butterfs_engine::inode::InodeId;
use butterfs_engine::inode::xattr::{Xattr, XattrMode};
use butterfs_format::items::{InodeFlags, Timespec};

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const GROUP_EXECUTES: u32 = 0o010;
const CAPABILITY: &[u8] = b"security.capability";

/// A mode without the bits that lend somebody else's rights. Without group execution, setgid does
/// not mean that.
pub(super) fn without_privileges(mode: u32) -> u32 {
    let kept = if mode & GROUP_EXECUTES != 0 { mode & !SETGID } else { mode };
    kept & !SETUID
}

impl EngineFrontEnd {
    pub(super) fn do_setattr(&self, node: NodeId, change: &SetAttr) -> Result<AttrReply> {
        let id = self.id(node)?;
        let site = Site::new("setattr", id);
        let old = self.attributes(site)?;
        require_allowed(&old, change)?;
        let chown = change.uid.is_some() || change.gid.is_some();
        let kill = (chown || change.kill_suidgid) && !old.item.is_dir();
        if (kill || change.size.is_some()) && !old.item.is_dir() {
            self.remove_capability(node, id)?;
        }
        if let Some(mode) = change.mode {
            self.chmod_acl(id, mode)?;
        }
        let set = self.set_of(change, &old, kill);
        let found = self.fs.set_attributes(id, &set).map_err(|error| site.fail(&error))?;
        self.settle_inode(id)?;
        Ok(self.attr_reply(&found))
    }

    fn set_of(&self, change: &SetAttr, old: &Attributes, kill: bool) -> SetAttributes {
        let before = old.item.mode.get() & 0o7777;
        let mut mode = change.mode.map_or(before, |mode| mode & 0o7777);
        if kill {
            mode = without_privileges(mode);
        }
        let now = self.fs.shared().environment.now();
        SetAttributes {
            mode: (change.mode.is_some() || mode != before).then_some(mode),
            uid: change.uid,
            gid: change.gid,
            size: change.size,
            atime: change.atime.map(|time| time_of(time, now)),
            mtime: change.mtime.map(|time| time_of(time, now)),
            ctime: change.ctime.map(timespec),
        }
    }

    /// Keeps the access ACL in step with a new mode.
    fn chmod_acl(&self, id: InodeId, mode: u32) -> Result<()> {
        let Some(mut acl) = self.acl(id, acl::ACCESS)? else { return Ok(()) };
        acl.set_permissions(mode);
        let new = Xattr { name: acl::ACCESS, value: &acl.pack() };
        self.fs.set_xattr(id, new, XattrMode::Any).map_err(|error| Site::new("chmod", id).fail(&error))
    }

    /// Drops what a write or a new owner must drop: capabilities always, setuid and setgid if asked.
    pub(super) fn drop_privileges(&self, node: NodeId, found: &Attributes) -> Result<()> {
        self.change_mode(node, found, without_privileges(found.item.mode.get() & 0o7777))
    }

    /// The same, and setgid of a group that the caller is not in. Source: `setattr_should_drop_sgid`.
    pub(super) fn drop_privileges_of(&self, caller: &Caller, node: NodeId, found: &Attributes) -> Result<()> {
        let mode = without_privileges(found.item.mode.get() & 0o7777);
        let is_member = groups(caller).contains(&found.item.gid.get());
        self.change_mode(node, found, if is_member { mode } else { mode & !SETGID })
    }

    fn change_mode(&self, node: NodeId, found: &Attributes, new: u32) -> Result<()> {
        if new != found.item.mode.get() & 0o7777 {
            let set = SetAttributes { mode: Some(new), ..SetAttributes::default() };
            self.fs.set_attributes(found.id, &set).map_err(|error| Site::new("write", found.id).fail(&error))?;
            self.notifier().inval_attr(node);
        }
        Ok(())
    }

    /// Removes file capabilities; looks only once for an inode that has none.
    pub(super) fn remove_capability(&self, node: NodeId, id: InodeId) -> Result<()> {
        if self.nodes.capability(node) == Capability::Absent {
            return Ok(());
        }
        let site = Site::new("removing capabilities", id);
        match self.fs.xattr(id, CAPABILITY) {
            Ok(_) => self.fs.remove_xattr(id, CAPABILITY).map_err(|error| site.fail(&error))?,
            Err(Error::NoAttribute) => {}
            Err(error) => return Err(site.fail(&error)),
        }
        self.nodes.set_capability(node, Capability::Absent);
        Ok(())
    }
}

fn time_of(time: SetTime, now: Timespec) -> Timespec {
    match time {
        SetTime::Now => now,
        SetTime::At(time) => timespec(time),
    }
}

/// By chattr: nothing of an immutable inode, and of an append-only one nothing but times, to now.
fn require_allowed(old: &Attributes, change: &SetAttr) -> Result<()> {
    let is_now = |time: Option<SetTime>| matches!(time, None | Some(SetTime::Now));
    let only_touched =
        *change == SetAttr { atime: change.atime, mtime: change.mtime, handle: change.handle, ..SetAttr::default() };
    let deed = if only_touched && is_now(change.atime) && is_now(change.mtime) { Deed::Append } else { Deed::Change };
    // ctime alone comes from the kernel's cache, for changes that were allowed.
    let only_cached = change.ctime.is_some() && change.mode.is_none() && change.uid.is_none() && change.size.is_none();
    if only_cached && !old.item.flags().contains(InodeFlags::IMMUTABLE) {
        return Ok(());
    }
    require_unprotected(old, deed).map_err(|_| Errno::EPERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setgid_without_execution_stays() {
        assert_eq!(without_privileges(0o6755), 0o755);
        assert_eq!(without_privileges(0o6744), 0o2744);
    }
}

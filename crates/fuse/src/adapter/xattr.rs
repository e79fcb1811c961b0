//! Extended attributes; ACLs among them.

use super::acl::{self, Acl};
use super::nodes::Capability;
use super::rights::{CallerCapability, Deed, groups, require_unprotected};
use super::{EngineFrontEnd, Site};
use crate::session::PosixAcl;
use crate::types::{Caller, NodeId, XattrMode};
use crate::{Errno, Result};
use butterfs_engine::Error;
use butterfs_engine::filesystem::{Attributes, SetAttributes};
use butterfs_engine::inode::InodeId;
use butterfs_engine::inode::xattr::{self, Xattr};
use butterfs_engine::subvolume::RULE_ATTRIBUTE;

const NAMESPACES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"btrfs."];
const SETGID: u32 = 0o2000;

/// Fails for what a snapshot shows in the place of a subvolume that is not in it: nothing is stored there.
fn require_real(id: InodeId) -> Result<()> {
    if id.is_placeholder() { Err(Errno::EOPNOTSUPP) } else { Ok(()) }
}

impl EngineFrontEnd {
    /// Fails for names that Btrfs does not store, and for those of ACLs if there are none.
    fn require_known(&self, name: &[u8]) -> Result<()> {
        if NAMESPACES.contains(&name) {
            return Err(Errno::EINVAL);
        }
        let stored = NAMESPACES.iter().any(|prefix| name.starts_with(prefix) && name.len() > prefix.len());
        let acl = name == acl::ACCESS || name == acl::DEFAULT;
        let known = stored || (acl && self.options.acl == PosixAcl::Enforced);
        if known { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
    }

    pub(super) fn do_setxattr(
        &self,
        caller: &Caller,
        node: NodeId,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        self.require_known(name)?;
        let id = self.id(node)?;
        require_real(id)?;
        let site = Site { operation: "setxattr", id, name };
        let found = self.attributes(site)?;
        require_unprotected(&found, Deed::Change)?;
        self.require_right_to(caller, &found, name)?;
        match name {
            acl::ACCESS => return self.set_access_acl(caller, &found, value),
            acl::DEFAULT => return self.set_default_acl(&found, value),
            b"security.capability" => self.nodes.set_capability(node, Capability::Unknown),
            _ => {}
        }
        let mode = match mode {
            XattrMode::Any => xattr::XattrMode::Any,
            XattrMode::Create => xattr::XattrMode::Create,
            XattrMode::Replace => xattr::XattrMode::Replace,
        };
        self.fs.set_xattr(id, Xattr { name, value }, mode).map_err(|error| site.fail(&error))
    }

    /// The mode follows the ACL; an ACL that says no more than a mode is not stored.
    fn set_access_acl(&self, caller: &Caller, found: &Attributes, value: &[u8]) -> Result<()> {
        let site = Site { operation: "setxattr", id: found.id, name: acl::ACCESS };
        let Some(new) = Acl::parse(value)? else { return self.drop_acl(found.id, acl::ACCESS) };
        let old = found.item.mode.get() & 0o7777;
        let mut mode = old & 0o7000 | new.permissions();
        if !self.may(caller, CallerCapability::Fsetid) && !groups(caller).contains(&found.item.gid.get()) {
            mode &= !SETGID;
        }
        if mode != old {
            let set = SetAttributes { mode: Some(mode), ..SetAttributes::default() };
            self.fs.set_attributes(found.id, &set).map_err(|error| site.fail(&error))?;
        }
        if new.is_just_a_mode() {
            return self.drop_acl(found.id, acl::ACCESS);
        }
        let stored = Xattr { name: acl::ACCESS, value: &new.pack() };
        self.fs.set_xattr(found.id, stored, xattr::XattrMode::Any).map_err(|error| site.fail(&error))
    }

    fn set_default_acl(&self, found: &Attributes, value: &[u8]) -> Result<()> {
        if !found.item.is_dir() {
            return Err(Errno::EACCES);
        }
        let Some(new) = Acl::parse(value)? else { return self.drop_acl(found.id, acl::DEFAULT) };
        let stored = Xattr { name: acl::DEFAULT, value: &new.pack() };
        let set = self.fs.set_xattr(found.id, stored, xattr::XattrMode::Any);
        set.map_err(|error| Site { operation: "setxattr", id: found.id, name: acl::DEFAULT }.fail(&error))
    }

    /// Removes an ACL; fine if there is none.
    fn drop_acl(&self, id: InodeId, name: &[u8]) -> Result<()> {
        match self.fs.remove_xattr(id, name) {
            Ok(()) | Err(Error::NoAttribute) => Ok(()),
            Err(error) => Err(Site { operation: "removexattr", id, name }.fail(&error)),
        }
    }

    pub(super) fn do_getxattr(&self, id: InodeId, name: &[u8]) -> Result<Vec<u8>> {
        self.require_known(name)?;
        self.fs.xattr(id, name).map_err(|error| Site { operation: "getxattr", id, name }.fail(&error))
    }

    pub(super) fn do_listxattr(&self, id: InodeId) -> Result<Vec<u8>> {
        let names = self.fs.xattrs(id).map_err(|error| Site::new("listxattr", id).fail(&error))?;
        Ok(names.into_iter().flat_map(|name| name.into_iter().chain([0])).collect())
    }

    /// What holds for a whole subvolume is its owner's business.
    fn require_right_to(&self, caller: &Caller, found: &Attributes, name: &[u8]) -> Result<()> {
        let is_rule = name == RULE_ATTRIBUTE && found.id == InodeId::top_of(found.id.tree);
        if is_rule { self.require_owner(caller, found) } else { Ok(()) }
    }

    pub(super) fn do_removexattr(&self, caller: &Caller, id: InodeId, name: &[u8]) -> Result<()> {
        self.require_known(name)?;
        require_real(id)?;
        let site = Site { operation: "removexattr", id, name };
        let found = self.attributes(site)?;
        require_unprotected(&found, Deed::Change)?;
        self.require_right_to(caller, &found, name)?;
        if name == acl::ACCESS || name == acl::DEFAULT {
            return self.drop_acl(id, name);
        }
        self.fs.remove_xattr(id, name).map_err(|error| site.fail(&error))
    }
}

//! New inodes: permissions from umask or default ACL.

use super::acl::{self, Acl};
use super::rights::{Deed, require_unprotected};
use super::{EngineFrontEnd, Site};
use crate::Result;
use crate::types::{Caller, Entry, FileKind, NewNode};
use butterfs_engine::dir::Place;
use butterfs_engine::filesystem::{NewInode, NewKind};
use butterfs_engine::inode::InodeId;
use butterfs_engine::inode::xattr::Xattr;
use butterfs_format::items::FileType;

/// What a new inode gets.
struct Inherited {
    permissions: u32,
    /// Attributes to be set: name and value.
    acls: Vec<(&'static [u8], Vec<u8>)>,
}

impl Inherited {
    fn xattrs(&self) -> Vec<Xattr<'_>> {
        self.acls.iter().map(|(name, value)| Xattr { name, value }).collect()
    }
}

impl EngineFrontEnd {
    /// Makes a file, directory or special file.
    pub(super) fn make(&self, caller: &Caller, place: &Place<'_>, node: &NewNode) -> Result<Entry> {
        let site = Site::at("create", place);
        require_unprotected(&self.attributes(site)?, Deed::Append)?;
        let inherited = self.inherit(place.dir, node)?;
        let new = new_inode(caller, node, &inherited);
        let made = self.fs.create_with(*place, &new, &inherited.xattrs()).map_err(|error| site.fail(&error))?;
        self.settle_names(&[place.dir])?;
        self.entry(site, made)
    }

    pub(super) fn make_symlink(&self, caller: &Caller, place: &Place<'_>, target: &[u8]) -> Result<Entry> {
        let site = Site::at("symlink", place);
        require_unprotected(&self.attributes(site)?, Deed::Append)?;
        let kind = NewKind::Symlink(target);
        let new = NewInode { kind, permissions: 0o777, uid: caller.uid, gid: caller.gid };
        let id = self.fs.create(*place, &new).map_err(|error| site.fail(&error))?;
        self.settle_names(&[place.dir])?;
        self.entry(site, id)
    }

    pub(super) fn make_unnamed(&self, caller: &Caller, dir: InodeId, node: &NewNode) -> Result<Entry> {
        let site = Site::new("tmpfile", dir);
        require_unprotected(&self.attributes(site)?, Deed::Append)?;
        let inherited = self.inherit(dir, node)?;
        let new = new_inode(caller, node, &inherited);
        let made = self.fs.create_unnamed_with(dir, &new, &inherited.xattrs());
        let id = made.map_err(|error| site.fail(&error))?;
        match self.attributes(Site::new("tmpfile", id)) {
            Ok(found) => Ok(self.held_entry(&found)),
            Err(errno) => {
                self.release_holds(id, 1);
                Err(errno)
            }
        }
    }

    /// By a directory's default ACL, or else by the umask.
    fn inherit(&self, dir: InodeId, node: &NewNode) -> Result<Inherited> {
        let Some(default) = self.acl(dir, acl::DEFAULT)? else {
            return Ok(Inherited { permissions: node.mode & !node.umask & 0o7777, acls: Vec::new() });
        };
        Ok(inherited_from(&default, node.mode))
    }
}

fn inherited_from(default: &Acl, mode: u32) -> Inherited {
    let access = default.for_new(mode);
    let mut acls = Vec::new();
    if !access.is_just_a_mode() {
        acls.push((acl::ACCESS, access.pack()));
    }
    if FileKind::from_mode(mode) == FileKind::Directory {
        acls.push((acl::DEFAULT, default.pack()));
    }
    Inherited { permissions: mode & 0o7000 | access.permissions(), acls }
}

fn new_inode(caller: &Caller, node: &NewNode, inherited: &Inherited) -> NewInode<'static> {
    let kind = match FileType::from_mode(node.mode) {
        FileType::Regular => NewKind::File,
        FileType::Directory => NewKind::Directory,
        file_type @ (FileType::CharDevice | FileType::BlockDevice) => {
            NewKind::Special { file_type, rdev: node.rdev.to_kernel() }
        }
        file_type => NewKind::Special { file_type, rdev: 0 },
    };
    NewInode { kind, permissions: inherited.permissions, uid: caller.uid, gid: caller.gid }
}

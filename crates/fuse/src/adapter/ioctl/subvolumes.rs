//! Subvolumes: making, snapshots, deleting, what there is to know of one.

use super::reply;
use crate::adapter::rights::{Deed, require_unprotected, umask};
use crate::adapter::{EngineFrontEnd, Site, SubvolumeDeletion};
use crate::control::wire::{self, SnapshotArgs, VolArgs, VolArgsV2, name_in};
use crate::types::{Caller, IoctlCall, IoctlReply, NodeId};
use crate::{Errno, Result};
use butterfs_engine::dir::{Place, parent_of};
use butterfs_engine::filesystem::NewSubvolume;
use butterfs_engine::inode::{InodeId, lock};
use butterfs_engine::subvolume::root::Access;
use butterfs_format::items::{RootFlags, RootItem, Timespec};
use butterfs_format::{Ino, TreeId};
use zerocopy::{FromBytes, IntoBytes};

/// Room for the name in `struct btrfs_ioctl_get_subvol_info_args`, its NUL included.
const INFO_NAME: usize = 256;

pub(super) fn flags_of(flags: RootFlags) -> u64 {
    if flags.contains(RootFlags::RDONLY) { wire::SUBVOL_READ_ONLY } else { 0 }
}

fn access_of(flags: u64) -> Result<Access> {
    match flags {
        0 => Ok(Access::ReadWrite),
        wire::SUBVOL_READ_ONLY => Ok(Access::ReadOnly),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// A name for something new: . and .. are there already, as for the kernel.
fn new_name(name: &[u8]) -> Result<&[u8]> {
    if matches!(name, b"." | b"..") { Err(Errno::EEXIST) } else { Ok(name) }
}

/// The name that must be in a struct.
pub(super) fn name(field: &[u8]) -> Result<&[u8]> {
    name_in(field).ok_or(Errno::ENAMETOOLONG)
}

impl EngineFrontEnd {
    pub(super) fn ioctl_create(&self, caller: &Caller, call: &IoctlCall<'_>) -> Result<IoctlReply> {
        let args = VolArgs::ref_from_bytes(call.input).map_err(|_| Errno::EINVAL)?;
        self.create_named(caller, call.node, name(&args.name)?)
    }

    /// Makes a subvolume.
    pub(super) fn create_named(&self, caller: &Caller, node: NodeId, name: &[u8]) -> Result<IoctlReply> {
        let place = Place::new(self.id(node)?, new_name(name)?);
        let site = Site::at("creating a subvolume", &place);
        self.require_adding(caller, site)?;
        let new = NewSubvolume { permissions: 0o777 & !umask(caller), uid: caller.uid, gid: caller.gid };
        self.fs.create_subvolume(place, &new).map_err(|error| site.fail(&error))?;
        self.tell(node, place.name);
        reply([])
    }

    pub(super) fn ioctl_snapshot(&self, caller: &Caller, call: &IoctlCall<'_>) -> Result<IoctlReply> {
        let mut args = SnapshotArgs::read_from_bytes(call.input).map_err(|_| Errno::EINVAL)?;
        let source = InodeId::top_of(self.offered_subvolume(caller, &args.token)?);
        let place = Place::new(self.id(call.node)?, new_name(name(&args.name)?)?);
        let site = Site::at("making a snapshot", &place);
        let access = access_of(args.flags.get())?;
        self.require_adding(caller, site)?;
        self.require_owner(caller, &self.attributes(Site::new("making a snapshot", source))?)?;
        let tree = self.fs.snapshot(source.tree, place, access).map_err(|error| site.fail(&error))?;
        self.tell(call.node, place.name);
        args.tree = tree.0.into();
        reply(args.as_bytes())
    }

    pub(super) fn ioctl_delete(&self, caller: &Caller, call: &IoctlCall<'_>) -> Result<IoctlReply> {
        let args = VolArgs::ref_from_bytes(call.input).map_err(|_| Errno::EINVAL)?;
        self.delete_at(caller, call.node, name(&args.name)?)
    }

    fn delete_at(&self, caller: &Caller, node: NodeId, name: &[u8]) -> Result<IoctlReply> {
        let place = Place::new(self.id(node)?, name);
        let site = Site::at("deleting a subvolume", &place);
        let id = self.require_leaving(site, &place)?;
        if id.ino != Ino::ROOT_DIR {
            return Err(Errno::EINVAL);
        }
        self.require_deletion(caller, id, site)?;
        self.fs.delete_subvolume(place).map_err(|error| site.fail(&error))?;
        self.tell(node, place.name);
        self.background.wake_cleaner();
        reply([])
    }

    /// By number, or as the first version of the command.
    pub(super) fn ioctl_delete_v2(&self, caller: &Caller, call: &IoctlCall<'_>) -> Result<IoctlReply> {
        let args = VolArgsV2::ref_from_bytes(call.input).map_err(|_| Errno::EINVAL)?;
        match u64::from_ne_bytes(args.flags) {
            0 => self.delete_at(caller, call.node, name(&args.name)?),
            wire::BY_ID => {
                self.require_privileged(caller)?;
                let site = Site::new("deleting a subvolume", self.id(call.node)?);
                let tree = TreeId(super::number(&args.name, 0)?);
                let parent = self.fs.delete_subvolume_by_id(tree).map_err(|error| site.fail(&error))?;
                if let Some(node) = self.nodes.find(parent.dir) {
                    self.tell(node, &parent.name);
                }
                self.background.wake_cleaner();
                reply([])
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn require_adding(&self, caller: &Caller, site: Site<'_>) -> Result<()> {
        let dir = self.attributes(site)?;
        if !dir.item.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        require_unprotected(&dir, Deed::Append)?;
        self.require_dir_access(caller, &dir)
    }

    fn require_deletion(&self, caller: &Caller, id: InodeId, site: Site<'_>) -> Result<()> {
        match lock(&self.changeable).subvolume_deletion {
            SubvolumeDeletion::Privileged => return self.require_privileged(caller),
            SubvolumeDeletion::Owners => self.require_owner(caller, &self.attributes(Site { id, ..site })?)?,
        }
        // Who owns the subvolume may take its name from a sticky directory too.
        self.require_dir_access(caller, &self.attributes(site)?)
    }

    pub(super) fn default_subvolume(&self, id: InodeId) -> Result<u64> {
        let found = self.fs.default_subvolume().map_err(|error| Site::new("default subvolume", id).fail(&error))?;
        Ok(found.0)
    }

    /// 0 is the top level, as for the kernel.
    pub(super) fn set_default_subvolume(&self, caller: &Caller, id: InodeId, tree: u64) -> Result<IoctlReply> {
        self.require_privileged(caller)?;
        let tree = if tree == 0 { TreeId::FS } else { TreeId(tree) };
        let set = self.fs.set_default_subvolume(tree);
        set.map_err(|error| Site::new("setting the default subvolume", id).fail(&error))?;
        reply([])
    }

    /// Tells the kernel that a name came or went.
    fn tell(&self, parent: NodeId, name: &[u8]) {
        let notifier = self.notifier();
        notifier.inval_entry(parent, name);
        notifier.inval_inode(parent);
    }

    /// The subvolume whose top directory an inode is.
    pub(super) fn subvolume_at(&self, id: InodeId) -> Result<TreeId> {
        if id.ino == Ino::ROOT_DIR { Ok(id.tree) } else { Err(Errno::EINVAL) }
    }

    pub(super) fn subvolume_flags(&self, id: InodeId) -> Result<u64> {
        let tree = self.subvolume_at(id)?;
        Ok(flags_of(self.root_item(tree)?.flags()))
    }

    pub(super) fn set_subvolume_flags(&self, caller: &Caller, id: InodeId, flags: u64) -> Result<IoctlReply> {
        let site = Site::new("changing a subvolume's flags", id);
        let (tree, access) = (self.subvolume_at(id)?, access_of(flags)?);
        self.require_owner(caller, &self.attributes(site)?)?;
        self.fs.set_subvolume_access(tree, access).map_err(|error| site.fail(&error))?;
        reply([])
    }

    fn root_item(&self, tree: TreeId) -> Result<RootItem> {
        let site = Site::new("reading a root item", InodeId::top_of(tree));
        self.fs.shared().gate.view(|tx| tx.root_item(tree)).map_err(|error| site.fail(&error))
    }

    /// `struct btrfs_ioctl_get_subvol_info_args`.
    pub(super) fn subvolume_info(&self, id: InodeId) -> Result<Vec<u8>> {
        let tree = id.tree;
        let root = self.root_item(tree)?;
        let parent = self.fs.shared().gate.view(|tx| parent_of(tx, tree));
        let parent = parent.map_err(|error| Site::new("subvolume info", id).fail(&error))?;
        let mut name = parent.as_ref().map_or(Vec::new(), |parent| parent.name.clone());
        name.resize(INFO_NAME, 0);
        let (in_tree, dir) = parent.map_or((0, 0), |parent| (parent.dir.tree.0, parent.dir.ino.0));
        let mut out = tree.0.to_ne_bytes().to_vec();
        out.extend(name);
        // The flags are those on disk, unlike those that other commands have.
        for number in [in_tree, dir, root.generation.get(), root.flags().bits()] {
            out.extend(number.to_ne_bytes());
        }
        for uuid in [root.uuid, root.parent_uuid, root.received_uuid] {
            out.extend(uuid);
        }
        for transaction in [root.ctransid, root.otransid, root.stransid, root.rtransid] {
            out.extend(transaction.get().to_ne_bytes());
        }
        [root.ctime, root.otime, root.stime, root.rtime].into_iter().for_each(|time| push_time(&mut out, time));
        out.resize(wire::size_of_command(wire::GET_SUBVOL_INFO), 0);
        Ok(out)
    }
}

/// `struct btrfs_ioctl_timespec`.
fn push_time(out: &mut Vec<u8>, time: Timespec) {
    out.extend(time.sec.get().to_ne_bytes());
    out.extend(u64::from(time.nanoseconds()).to_le_bytes());
}

//! ioctls. Nobody has checked the caller's rights before us, but for the flags of inodes, where the
//! kernel has too.

mod children;
mod defrag;
mod fiemap;
mod flags;
mod info;
mod labels;
mod lists;
mod memory;
mod refused;
mod remount;
mod replace;
mod resolve;
mod scrub;
mod search;
mod share;
mod shut_down;
mod space;
mod status;
mod subvolumes;
mod trim;
mod volume;

use super::{EngineFrontEnd, Site};
use crate::control::wire;
use crate::types::{Caller, IoctlCall, IoctlReply};
use crate::{Errno, Result};
use butterfs_engine::dir::path;
use butterfs_engine::inode::InodeId;
use butterfs_format::{Ino, TreeId};

/// `FS_IOC_GETVERSION`.
const GETVERSION: u32 = 0x8008_7601;
/// Room for the path that `BTRFS_IOC_INO_LOOKUP` gives.
const LOOKUP_NAME: usize = 4080;

fn reply(output: impl Into<Vec<u8>>) -> Result<IoctlReply> {
    Ok(IoctlReply { result: 0, output: output.into() })
}

/// A number in the caller's bytes.
fn number(input: &[u8], at: usize) -> Result<u64> {
    let bytes = input.get(at..at + 8).ok_or(Errno::EINVAL)?;
    Ok(u64::from_ne_bytes(bytes.try_into().expect("it is 8 bytes long")))
}

impl EngineFrontEnd {
    pub(super) fn do_ioctl(&self, caller: &Caller, call: &IoctlCall<'_>) -> Result<IoctlReply> {
        match call.command {
            // What is shut down still tells how it is, and may be shut down again.
            wire::STATUS => return reply(self.status()),
            shut_down::GOINGDOWN => return self.ioctl_shut_down(caller, call),
            _ => {}
        }
        let id = self.id(call.node)?;
        let answer = self.answer(caller, call, id)?;
        if matches!(call.command, flags::SETFLAGS | flags::FSSETXATTR) {
            // ctime has changed, and no request of the kernel's own asked for it.
            self.notifier().inval_attr(call.node);
        }
        Ok(answer)
    }

    fn answer(&self, caller: &Caller, call: &IoctlCall<'_>, id: InodeId) -> Result<IoctlReply> {
        match call.command {
            // What stands for a subvolume that is not here has no flags, as in the kernel.
            flags::GETFLAGS | flags::SETFLAGS | flags::FSGETXATTR | flags::FSSETXATTR if id.is_placeholder() => {
                Err(Errno::ENOTTY)
            }
            flags::GETFLAGS => reply(self.flags(id)?.to_ne_bytes()),
            flags::SETFLAGS => self.set_flags(caller, id, call.input),
            flags::FSGETXATTR => reply(self.xflags(id)?),
            flags::FSSETXATTR => self.set_xflags(caller, id, call.input),
            // Callers pass an int, whatever the number says.
            GETVERSION => {
                let found = self.attributes(Site::new("getversion", id))?;
                reply((found.item.generation.get() as u32).to_ne_bytes())
            }
            wire::SYNC | wire::WAIT_SYNC => self.sync(id).and_then(|_| reply([])),
            wire::START_SYNC => reply(self.sync(id)?.to_ne_bytes()),
            wire::INO_LOOKUP => self.ino_lookup(caller, id, call.input),
            wire::SUBVOL_CREATE => self.ioctl_create(caller, call),
            wire::SNAP_DESTROY => self.ioctl_delete(caller, call),
            wire::SNAP_DESTROY_V2 => self.ioctl_delete_v2(caller, call),
            wire::GET_DEFAULT_SUBVOL => reply(self.default_subvolume(id)?.to_le_bytes()),
            wire::DEFAULT_SUBVOL => self.set_default_subvolume(caller, id, number(call.input, 0)?),
            wire::CHANGED_EXTENTS => {
                self.require_privileged(caller)?;
                reply(self.changed_page(id, call.input)?)
            }
            wire::REMOUNT => self.ioctl_remount(caller, id, call.input),
            wire::SNAPSHOT => self.ioctl_snapshot(caller, call),
            wire::SUBVOL_GETFLAGS => reply(self.subvolume_flags(id)?.to_ne_bytes()),
            wire::SUBVOL_SETFLAGS => self.set_subvolume_flags(caller, id, number(call.input, 0)?),
            wire::SET_RECEIVED => self.set_received(caller, id, call.input),
            wire::GET_LABEL => reply(self.label()?),
            wire::SET_LABEL => self.set_label(caller, call.input),
            wire::GET_SUBVOL_INFO => reply(self.subvolume_info(id)?),
            wire::OFFER => reply(self.offer(caller, id)?),
            wire::CLONE => self.ioctl_clone(caller, call),
            wire::DEDUPE => self.ioctl_dedupe(caller, call),
            wire::DEFRAG => self.ioctl_defrag(caller, call),
            wire::DEFRAG_RANGE => self.ioctl_defrag_range(caller, call),
            wire::FITRIM => self.ioctl_trim(caller, id, call.input),
            wire::LIST_SUBVOLUMES => {
                self.require_privileged(caller)?;
                reply(self.subvolume_page(call.input)?)
            }
            _ => self.btrfs_ioctl(caller, id, call),
        }
    }

    /// The other commands of the kernel's Btrfs.
    fn btrfs_ioctl(&self, caller: &Caller, id: InodeId, call: &IoctlCall<'_>) -> Result<IoctlReply> {
        match call.command {
            wire::TREE_SEARCH => self.tree_search(caller, id, call.input),
            search::TREE_SEARCH_V2 => self.tree_search_v2(caller, id, call),
            resolve::INO_PATHS => self.ino_paths(caller, id, call),
            resolve::LOGICAL_INO | resolve::LOGICAL_INO_V2 => self.logical_ino(caller, id, call),
            resolve::INO_LOOKUP_USER => self.ino_lookup_user(caller, id, call.input),
            wire::FS_INFO => reply(self.fs_info()),
            wire::DEV_INFO => reply(self.dev_info(call.input)?),
            info::GET_DEV_STATS => reply(self.dev_stats(caller, call.input)?),
            info::GET_FEATURES => reply(self.features()),
            info::GET_SUPPORTED_FEATURES => reply(Self::supported_features()),
            wire::SPACE_INFO => self.space_info(caller, id, call),
            wire::SCRUB_START => self.scrub_start(caller, call.input),
            wire::SCRUB_STATE => self.scrub_state(caller, call.input),
            wire::SCRUB_PROGRESS => self.scrub_progress(caller, call.input),
            wire::SCRUB_CANCEL => self.scrub_cancel(caller),
            wire::SCRUB_LIMIT => self.scrub_limit(caller, call.input),
            wire::SCRUB_REPORT => self.scrub_report(caller, call.input),
            wire::FIEMAP => self.fiemap(id, call.input),
            wire::SUBVOL_CREATE_V2 => self.ioctl_create_v2(caller, call),
            wire::BALANCE_V2
            | wire::BALANCE_PROGRESS
            | wire::BALANCE_START
            | wire::BALANCE_CONTROL
            | wire::EXCLUSIVE
            | wire::WORK_RESULT
            | wire::WORK
            | wire::RESIZE
            | wire::ADD_DEV
            | wire::RM_DEV
            | wire::RM_DEV_V2 => self.volume_ioctl(caller, id, call.command, call.input),
            wire::REPLACE_FAILURE => self.replace_failure(),
            replace::DEV_REPLACE => self.dev_replace(caller, id, call.input),
            children::GET_SUBVOL_ROOTREF => self.subvolume_children(id, call.input),
            _ => self.refused(caller, call),
        }
    }

    /// Makes everything durable; gives the generation that is.
    fn sync(&self, id: InodeId) -> Result<u64> {
        self.fs.sync_quietly().map_err(|error| Site::new("sync", id).fail(&error))?;
        Ok(self.fs.shared().gate.volume().superblock().generation.get())
    }

    /// The path of an inode within its subvolume, with a slash behind it. Anybody may ask for the
    /// number of the subvolume.
    fn ino_lookup(&self, caller: &Caller, id: InodeId, input: &[u8]) -> Result<IoctlReply> {
        let (tree, ino) = (number(input, 0)?, number(input, 8)?);
        let tree = if tree == 0 { id.tree } else { TreeId(tree) };
        let mut name = Vec::new();
        if ino != Ino::ROOT_DIR.0 {
            self.require_privileged(caller)?;
            let wanted = InodeId::new(tree, Ino(ino));
            let site = Site::new("ino_lookup", wanted);
            self.attributes(site)?;
            let gate = &self.fs.shared().gate;
            name = gate.view(|tx| path::in_subvolume(tx, wanted)).map_err(|error| site.fail(&error))?;
            name.push(b'/');
        }
        if name.len() >= LOOKUP_NAME {
            return Err(Errno::ENAMETOOLONG);
        }
        name.resize(LOOKUP_NAME, 0);
        reply([&tree.0.to_ne_bytes()[..], &ino.to_ne_bytes(), &name].concat())
    }
}

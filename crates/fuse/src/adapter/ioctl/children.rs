//! Subvolumes in a subvolume: making one with the second version of the command, and listing them for everybody.

use butterfs_engine::dir::subvolumes_from;
use butterfs_engine::inode::InodeId;

use super::number;
use super::subvolumes::name;
use crate::adapter::{EngineFrontEnd, Site};
use crate::control::wire::size_of_command;
use crate::types::{Caller, IoctlCall, IoctlReply};
use crate::{Errno, Result};

pub(super) const GET_SUBVOL_ROOTREF: u32 = 0xd000_943d;

/// In `struct btrfs_ioctl_vol_args_v2`: the flags, and the name.
const V2_FLAGS: usize = 16;
const V2_NAME: usize = 56;
/// `BTRFS_SUBVOL_QGROUP_INHERIT`: without quotas there is nothing to inherit.
const QGROUP_INHERIT: u64 = 1 << 2;
/// Room for so many subvolumes in `struct btrfs_ioctl_get_subvol_rootref_args`.
const CHILDREN: usize = 255;

impl EngineFrontEnd {
    /// Makes a subvolume, with `struct btrfs_ioctl_vol_args_v2`.
    pub(super) fn ioctl_create_v2(&self, caller: &Caller, call: &IoctlCall<'_>) -> Result<IoctlReply> {
        if number(call.input, V2_FLAGS)? & !QGROUP_INHERIT != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        self.create_named(caller, call.node, name(call.input.get(V2_NAME..).ok_or(Errno::EINVAL)?)?)
    }

    /// The subvolumes that have their names in this one: `struct btrfs_ioctl_get_subvol_rootref_args`.
    pub(super) fn subvolume_children(&self, id: InodeId, input: &[u8]) -> Result<IoctlReply> {
        let least = number(input, 0)?;
        let found = self.fs.shared().gate.view(|tx| subvolumes_from(tx, id.tree, least, CHILDREN + 1));
        let mut found = found.map_err(|error| Site::new("subvolumes in a subvolume", id).fail(&error))?;
        // The answer comes with the error: there is more behind it.
        let result = if found.len() > CHILDREN { -Errno::EOVERFLOW.number() } else { 0 };
        found.truncate(CHILDREN);
        let next = found.last().map_or(least, |(tree, _)| tree.0 + 1);
        let mut output = next.to_ne_bytes().to_vec();
        for (tree, dir) in &found {
            output.extend(tree.0.to_ne_bytes());
            output.extend(dir.0.to_ne_bytes());
        }
        output.resize(8 + CHILDREN * 16, 0);
        output.push(found.len() as u8);
        output.resize(size_of_command(GET_SUBVOL_ROOTREF), 0);
        Ok(IoctlReply { result, output })
    }
}

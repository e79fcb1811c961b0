//! `BTRFS_IOC_SPACE_INFO`: what the block groups hold, by type and profile, as `btrfs filesystem df` shows it.

use butterfs_engine::inode::InodeId;
use butterfs_format::TreeId;
use butterfs_format::items::BlockGroupFlags;
use butterfs_format::superblock::CompatRo;

use super::memory::Memory;
use super::{number, reply};
use crate::adapter::{EngineFrontEnd, Site};
use crate::types::{Caller, IoctlCall, IoctlReply};
use crate::{Errno, Result};

pub(super) const SPACE_INFO: u32 = 0xc010_9414;

/// `BTRFS_SPACE_INFO_GLOBAL_RSV`: not a type of block groups.
const GLOBAL_RESERVE: u64 = 1 << 49;
/// The order of types.
const TYPES: [u64; 4] = [1, 2, 4, 1 | 4];
const TYPE_BITS: u64 = 7;
/// The order of profiles, by their bits: RAID10, RAID1, DUP, RAID0, single, RAID5, RAID6, RAID1C3, RAID1C4.
const PROFILES: [u64; 9] = [1 << 6, 1 << 4, 1 << 5, 1 << 3, 0, 1 << 7, 1 << 8, 1 << 9, 1 << 10];
const PROFILE_BITS: u64 = 0x7f8;

/// `struct btrfs_ioctl_space_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Space {
    flags: u64,
    total: u64,
    used: u64,
}

impl EngineFrontEnd {
    pub(super) fn space_info(&self, caller: &Caller, id: InodeId, call: &IoctlCall<'_>) -> Result<IoctlReply> {
        let slots = number(call.input, 0)?;
        let mut spaces = self.spaces(id)?;
        if slots > 0 {
            spaces.truncate(usize::try_from(slots).map_err(|_| Errno::EINVAL)?);
            let words = spaces.iter().flat_map(|space| [space.flags, space.total, space.used]);
            let bytes: Vec<u8> = words.flat_map(u64::to_ne_bytes).collect();
            Memory::behind(caller, call, call.input.len())?.write(&bytes)?;
        }
        reply([slots.to_ne_bytes(), (spaces.len() as u64).to_ne_bytes()].concat())
    }

    fn spaces(&self, id: InodeId) -> Result<Vec<Space>> {
        let groups = self.fs.shared().gate.view(|tx| Ok(tx.block_groups().collect::<Vec<_>>()));
        let groups = groups.map_err(|error| Site::new("space info", id).fail(&error))?;
        let mut spaces = sums(&groups);
        let total = self.global_reserve(id)?;
        spaces.push(Space { flags: GLOBAL_RESERVE, total, used: 0 });
        Ok(spaces)
    }

    /// What the kernel keeps back on such a filesystem: as much as the trees take that each commit changes, and not less
    /// than the removal of a name may need.
    fn global_reserve(&self, id: InodeId) -> Result<u64> {
        const MOST: u64 = 512 << 20;
        const UNLINK: u64 = 6;
        let superblock = self.fs.shared().gate.volume().superblock();
        let compat_ro = superblock.compat_ro();
        let mut trees = vec![TreeId::EXTENT, TreeId::CSUM];
        let free_space_tree = compat_ro.contains(CompatRo::FREE_SPACE_TREE);
        trees.extend(free_space_tree.then_some(TreeId::FREE_SPACE));
        trees.extend(compat_ro.contains(CompatRo::BLOCK_GROUP_TREE).then_some(TreeId::BLOCK_GROUP));
        let mut used = 0;
        for tree in &trees {
            used += self.fs.tree_bytes(*tree).map_err(|error| Site::new("space info", id).fail(&error))?;
        }
        // A path of eight levels, each of which may be split.
        let for_items = |items: u64| items * 16 * u64::from(superblock.nodesize.get());
        let delayed = for_items(UNLINK) * if free_space_tree { 2 } else { 1 };
        Ok(used.max(for_items(1 + trees.len() as u64 + UNLINK) + delayed).min(MOST))
    }
}

fn sums(groups: &[(BlockGroupFlags, u64, u64)]) -> Vec<Space> {
    let kinds = TYPES.iter().flat_map(|kind| PROFILES.map(|profile| kind | profile));
    let sum = |flags: u64| {
        let its = groups.iter().filter(|(of, ..)| of.bits() & (TYPE_BITS | PROFILE_BITS) == flags);
        its.fold(Space { flags, ..Space::default() }, |sum, (_, total, used)| Space {
            total: sum.total + total,
            used: sum.used + used,
            ..sum
        })
    };
    kinds.map(sum).filter(|space| space.total > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_summed_in_the_kernels_order() {
        let group = |bits, len, used| (BlockGroupFlags::from_bits_retain(bits), len, used);
        let groups =
            [group(4 | 32, 10, 1), group(2 | 32, 8, 2), group(1, 100, 3), group(1, 50, 4), group(1 | 16, 7, 0)];
        let space = |flags, total, used| Space { flags, total, used };
        assert_eq!(sums(&groups), [space(17, 7, 0), space(1, 150, 7), space(34, 8, 2), space(36, 10, 1)]);
    }
}

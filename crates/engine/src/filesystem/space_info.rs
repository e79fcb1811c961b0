//! What the block groups hold, by type and profile, in the kernel's order: what `btrfs filesystem df` shows.

use butterfs_format::items::BlockGroupFlags;

use super::Filesystem;
use super::statfs::kernel_reserve;
use crate::error::Result;

/// Block groups of one type and profile, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceInfo {
    /// Type and profile as on disk, or [`GLOBAL_RESERVE`].
    pub flags: u64,
    /// Their size.
    pub total: u64,
    /// What is used of it.
    pub used: u64,
}

/// The type of what the kernel keeps back: not one of block groups (`BTRFS_SPACE_INFO_GLOBAL_RSV`).
pub const GLOBAL_RESERVE: u64 = 1 << 49;

/// The order of types: data, system, metadata, both.
const TYPES: [u64; 4] = [1, 2, 4, 1 | 4];
/// The order of profiles, by their bits: RAID10, RAID1, DUP, RAID0, single, RAID5, RAID6, RAID1C3, RAID1C4.
const PROFILES: [u64; 9] = [1 << 6, 1 << 4, 1 << 5, 1 << 3, 0, 1 << 7, 1 << 8, 1 << 9, 1 << 10];

impl Filesystem {
    /// What the block groups hold, and behind them what the kernel would keep back.
    pub fn space_infos(&self) -> Result<Vec<SpaceInfo>> {
        self.shared.gate.view(|tx| {
            let groups: Vec<_> = tx.block_groups().collect();
            let mut spaces = sums(&groups);
            spaces.push(SpaceInfo { flags: GLOBAL_RESERVE, total: kernel_reserve(tx)?, used: 0 });
            Ok(spaces)
        })
    }
}

fn sums(groups: &[(BlockGroupFlags, u64, u64)]) -> Vec<SpaceInfo> {
    let mask = (BlockGroupFlags::TYPE_MASK | BlockGroupFlags::PROFILE_MASK).bits();
    let kinds = TYPES.iter().flat_map(|kind| PROFILES.map(|profile| kind | profile));
    let sum = |flags: u64| {
        let its = groups.iter().filter(|(of, ..)| of.bits() & mask == flags);
        its.fold(SpaceInfo { flags, ..SpaceInfo::default() }, |sum, (_, total, used)| SpaceInfo {
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
        let space = |flags, total, used| SpaceInfo { flags, total, used };
        assert_eq!(sums(&groups), [space(17, 7, 0), space(1, 150, 7), space(34, 8, 2), space(36, 10, 1)]);
    }
}

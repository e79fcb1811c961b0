//! Which block groups are to be relocated.

use std::ops::Range;

use butterfs_format::items::BlockGroupFlags;

use crate::tx::GroupInfo;

/// Chooses block groups: those for which all of this is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupFilter {
    /// One kind: data or metadata; mixed groups are of both.
    pub kind: BlockGroupFlags,
    /// At most so many percent of the group are used.
    pub used_at_most: u8,
    /// It lies within these logical addresses.
    pub within: Range<u64>,
}

impl GroupFilter {
    /// Groups of a kind that are used to so many percent at most.
    pub fn used_at_most(kind: BlockGroupFlags, percent: u8) -> Self {
        Self { kind, used_at_most: percent, within: 0..u64::MAX }
    }

    /// Whether a group is one of them.
    pub fn chooses(&self, group: &GroupInfo) -> bool {
        let most = u128::from(group.len) * u128::from(self.used_at_most);
        group.flags.kind().contains(self.kind)
            && self.within.start <= group.start
            && group.start.saturating_add(group.len) <= self.within.end
            && u128::from(group.used) * 100 <= most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_chosen_by_all_conditions() {
        let group = GroupInfo {
            start: 1000,
            len: 100,
            flags: BlockGroupFlags::DATA | BlockGroupFlags::DUP,
            used: 50,
            waiting: 0,
        };
        let filter = GroupFilter::used_at_most(BlockGroupFlags::DATA, 50);
        assert!(filter.chooses(&group));
        assert!(!filter.chooses(&GroupInfo { used: 51, ..group }));
        assert!(!GroupFilter::used_at_most(BlockGroupFlags::METADATA, 50).chooses(&group));
        assert!(!GroupFilter { within: 0..1099, ..filter }.chooses(&group));
    }
}

//! Space that chunks hold and hardly use, given back to the devices; and what is free, told to them.
//!
//! # Locking
//! `reclaiming` is held by the one who relocates; nothing else may be held by its caller.

use butterfs_format::items::BlockGroupFlags;

use super::Filesystem;
use crate::error::{Error, Result};
use crate::inode::lock;
use crate::relocate::{self, GroupFilter, Relocated, Room};
use crate::tx::{DiscardRule, GroupInfo, Groups, Trim};

/// When space is short, groups are emptied that are used to so many percent at most.
const WHEN_SHORT: u8 = 75;
/// Before it is, those that are used to so many.
const BEFORE_SHORT: u8 = 30;
/// Groups with parity are emptied of which so large a part is free and cannot be used.
const WAITING_PART: u64 = 4;
/// Metadata is short when so many bytes could not be promised any more: what any single change may ask for.
const SHORT: u64 = 16 << 20;
/// The cleaner begins when less than a tenth of the devices, but at most so much, is in no chunk.
const UNALLOCATED: u64 = 4 << 30;
/// So many groups are tried before it is given up: one extent may be too long for every hole elsewhere.
const CANDIDATES: usize = 4;
/// Blocks of deleted subvolumes that are dropped in one step, before anything is moved.
const CLEAN_STEP: usize = 64;

impl Filesystem {
    /// Relocates all block groups that a filter chooses, the emptiest first, as far as others have room; gives how
    /// many are gone.
    pub fn relocate(&self, filter: &GroupFilter, room: Room) -> Result<usize> {
        let _one = lock(&self.reclaiming);
        let mut gone = 0;
        for group in self.chosen(filter)? {
            gone += usize::from(self.relocate_one(&group, room)?);
        }
        Ok(gone)
    }

    /// Empties one block group that is hardly used, if little is left in no chunk; says whether one is gone.
    pub fn reclaim_once(&self) -> Result<bool> {
        let space = self.shared.gate.space();
        if space.unallocated >= UNALLOCATED.min(space.total / 10) {
            return Ok(false);
        }
        let _one = lock(&self.reclaiming);
        for kind in [BlockGroupFlags::DATA, BlockGroupFlags::METADATA] {
            if self.relocate_first(&GroupFilter::used_at_most(kind, BEFORE_SHORT))? {
                return Ok(true);
            }
        }
        self.regain_rows(Room::NewChunks)
    }

    /// Empties a group with parity of which much is free and waits for what lies beside it: elsewhere that is packed
    /// close.
    fn regain_rows(&self, room: Room) -> Result<bool> {
        for kind in [BlockGroupFlags::DATA, BlockGroupFlags::METADATA] {
            let mut groups = self.shared.gate.view(|tx| Ok(tx.groups_of(kind)))?;
            groups.retain(|group| group.used > 0 && group.waiting >= group.len / WAITING_PART);
            groups.sort_by_key(|group| std::cmp::Reverse(group.waiting));
            for group in groups.iter().take(CANDIDATES) {
                if self.relocate_one(group, room)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Space was refused: has chunks of the other kind give some back. Says whether one did.
    pub(super) fn make_room(&self) -> Result<bool> {
        if self.shared.gate.space().groups == Groups::Mixed {
            return Ok(false);
        }
        let _one = lock(&self.reclaiming);
        let unpromised = |kind| self.shared.gate.view(|tx| Ok(tx.unpromised(kind)));
        let kind = if unpromised(BlockGroupFlags::METADATA)? < SHORT {
            BlockGroupFlags::DATA
        } else {
            BlockGroupFlags::METADATA
        };
        let regained = self.relocate_first(&GroupFilter::used_at_most(kind, WHEN_SHORT));
        match regained.and_then(|one| if one { Ok(true) } else { self.regain_rows(Room::Existing) }) {
            Err(Error::NoSpace | Error::Busy(_)) => Ok(false),
            result => result,
        }
    }

    /// Whether freed space is discarded later, by [`crate::tx::Gate::discard_some`].
    pub fn discards_later(&self) -> bool {
        self.shared.gate.space_rules().discard == DiscardRule::Async
    }

    /// Discards free space, also that which only a commit frees; gives how many bytes.
    pub fn trim(&self, trim: &Trim) -> Result<u64> {
        self.sync_quietly()?;
        self.shared.gate.trim(trim)
    }

    fn chosen(&self, filter: &GroupFilter) -> Result<Vec<GroupInfo>> {
        let mut groups = self.shared.gate.view(|tx| Ok(tx.groups_of(filter.kind)))?;
        // Empty ones go by themselves, unless they have to stay.
        groups.retain(|group| group.used > 0 && filter.chooses(group));
        groups.sort_by_key(|group| group.used);
        Ok(groups)
    }

    /// The emptiest of those chosen that can be emptied.
    fn relocate_first(&self, filter: &GroupFilter) -> Result<bool> {
        for group in self.chosen(filter)?.iter().take(CANDIDATES) {
            if self.relocate_one(group, Room::Existing)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn relocate_one(&self, group: &GroupInfo, room: Room) -> Result<bool> {
        Ok(self.relocate_until(group, room, &|| false)? == Relocated::Gone)
    }

    /// Empties a group, unless `stop` says that it is enough. The caller holds `reclaiming`.
    pub(super) fn relocate_until(&self, group: &GroupInfo, room: Room, stop: &dyn Fn() -> bool) -> Result<Relocated> {
        while self.clean_step(CLEAN_STEP)? {}
        let (start, used, len) = (group.start, group.used, group.len);
        let write_back = || {
            // Whose data is lost hears of it from its own fsync.
            let _ = self.write_back(|_| true);
        };
        let relocated = relocate::relocate_group(&self.shared, start, room, stop, write_back)?;
        tracing::info!("relocated the block group at {start}, {used} of {len} bytes used: {relocated:?}");
        Ok(relocated)
    }
}

//! Block groups that are emptied, and what lies in them.

use std::ops::Range;

use butterfs_format::items::BlockGroupFlags;
use butterfs_format::{ItemType, Key, Logical, TreeId};

use super::Found;
use crate::error::{Error, Result};
use crate::space::GroupState;
use crate::tx::{Transaction, references};

/// A block group, for who chooses among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupInfo {
    /// Where it begins.
    pub start: u64,
    /// How long it is, in bytes.
    pub len: u64,
    /// Type and profile.
    pub flags: BlockGroupFlags,
    /// Bytes of its extents.
    pub used: u64,
}

/// Where what is moved may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Into block groups that there are.
    Existing,
    /// Into new ones too.
    NewChunks,
}

impl Transaction {
    /// The block groups that nobody works on.
    pub fn groups_of(&self, kind: BlockGroupFlags) -> Vec<GroupInfo> {
        let open = self.space.of_kind(kind).filter(|group| group.state == GroupState::Open);
        open.map(|g| GroupInfo { start: g.start, len: g.len, flags: g.flags, used: g.used }).collect()
    }

    /// All block groups of a kind, with those on devices that are not written.
    pub fn all_groups_of(&self, kind: BlockGroupFlags) -> Vec<GroupInfo> {
        let all = self.space.of_kind(kind);
        all.map(|g| GroupInfo { start: g.start, len: g.len, flags: g.flags, used: g.used }).collect()
    }

    /// Whether there is a reason to empty a group: there is something in it, or another profile is wished.
    pub fn may_be_emptied(&self, group: &GroupInfo) -> bool {
        let found = self.space.get(group.start).filter(|g| matches!(g.state, GroupState::Open | GroupState::Fixed));
        let wished = self.wished(group.flags.kind());
        found.is_some_and(|found| found.used > 0 || wished.is_some_and(|wished| wished != found.flags))
    }

    /// Free bytes of a kind that nothing is promised of.
    pub fn unpromised(&self, kind: BlockGroupFlags) -> u64 {
        self.space.totals(kind).available.saturating_sub(self.kept(kind))
    }

    /// Whether who has space there may count on it.
    pub fn is_open(&self, at: Logical) -> bool {
        self.space.containing(at.0).is_some_and(|group| group.state == GroupState::Open)
    }

    /// Whether what lies there is being moved elsewhere.
    pub fn is_moving(&self, at: Logical) -> bool {
        self.space.containing(at.0).is_some_and(|group| group.state == GroupState::Moving)
    }

    /// Nothing new is put into a group from now on; gives where it lies. `None` if the others have no room for what is
    /// in it and for what is promised.
    pub fn begin_moving(&mut self, start: u64, room: Room) -> Result<Option<Range<u64>>> {
        self.load_free_ranges(start)?;
        let can_be_left = |state| match room {
            Room::Existing => state == GroupState::Open,
            Room::NewChunks => matches!(state, GroupState::Open | GroupState::Fixed),
        };
        let Some(group) = self.space.get(start).filter(|group| can_be_left(group.state)) else {
            return Ok(None);
        };
        let (kind, range) = (group.flags.kind(), group.start..group.end());
        let (used, needed) = (group.used, group.available() + group.used);
        let is_elsewhere = |tx: &Self| room == Room::Existing || tx.has_room_elsewhere(start, kind, used);
        while self.unpromised(kind) < needed || !is_elsewhere(self) {
            match room {
                Room::Existing => return Ok(None),
                Room::NewChunks => match self.allocate_chunk(kind) {
                    Err(Error::NoSpace) => return Ok(None),
                    result => result?,
                },
            }
        }
        self.space.change(start, |group| group.state = GroupState::Closing);
        Ok(Some(range))
    }

    /// From now on nothing is written in place in a group.
    pub fn close_in_place(&mut self, start: u64) {
        self.space.change(start, |group| group.state = GroupState::Moving);
    }

    /// Nobody reads any more what was moved out of a group: it goes if it is empty, else it is used again.
    pub fn end_moving(&mut self, start: u64) {
        let before = self.volume.chunk_containing(Logical(start)).map(|(_, chunk)| self.state_of(&chunk));
        self.space.change(start, |group| {
            group.state = if group.used == 0 { GroupState::Emptied } else { before.unwrap_or(GroupState::Open) };
        });
    }

    /// Whether there are groups besides the one at `start` that have room for so much, with the profile that is
    /// wished, if one is.
    fn has_room_elsewhere(&self, start: u64, kind: BlockGroupFlags, used: u64) -> bool {
        let wished = self.wished(kind);
        let mut others = self.space.of_kind(kind).filter(|group| {
            let fits = wished.is_none_or(|wished| group.flags == wished);
            fits && group.start != start && group.state == GroupState::Open
        });
        let Some(first) = others.next() else { return false };
        others.fold(first.available(), |sum, group| sum + group.available()) >= used
    }

    /// Takes contiguous space for data that is moved, and was promised nothing.
    pub fn take_for_move(&mut self, len: u64, room: Room) -> Result<Option<Logical>> {
        let wished = self.wished(BlockGroupFlags::DATA);
        if let Some(at) = self.take_unpromised(len, wished)? {
            return Ok(Some(at));
        }
        if room == Room::NewChunks {
            // No hole is so long, or what there was went to others meanwhile.
            match self.allocate_chunk(BlockGroupFlags::DATA) {
                Ok(()) | Err(Error::NoSpace) => {}
                Err(error) => return Err(error),
            }
            if let Some(at) = self.take_unpromised(len, wished)? {
                return Ok(Some(at));
            }
        }
        self.take_unpromised(len, None)
    }

    fn take_unpromised(&mut self, len: u64, only: Option<BlockGroupFlags>) -> Result<Option<Logical>> {
        if self.unpromised(BlockGroupFlags::DATA) < len { Ok(None) } else { self.take_whole(len, only) }
    }

    /// Whether a deleted subvolume still has blocks.
    pub fn has_dead_subvolumes(&self) -> Result<bool> {
        let first = Key::new(butterfs_format::ids::objectid::ORPHAN, ItemType::ORPHAN_ITEM, 0);
        let mut cursor = self.cursor(TreeId::ROOT, &first)?;
        while let Some(key) =
            cursor.key().filter(|key| (key.objectid, key.item_type) == (first.objectid, first.item_type))
        {
            if TreeId(key.offset).is_subvolume() {
                return Ok(true);
            }
            cursor.advance()?;
        }
        Ok(false)
    }

    /// The first extent in a range that the extent tree knows.
    pub fn first_extent(&self, range: &Range<u64>) -> Result<Option<Found>> {
        let mut cursor = self.cursor(TreeId::EXTENT, &Key::new(range.start, ItemType(0), 0))?;
        while let Some((key, data)) = cursor.item().filter(|(key, _)| key.objectid < range.end) {
            let at = Logical(key.objectid);
            match key.item_type {
                ItemType::METADATA_ITEM => {
                    let len = self.geometry.nodesize.into();
                    return Ok(Some(Found { at, len, level: Some(key.offset as u8) }));
                }
                ItemType::EXTENT_ITEM => {
                    let item = references::parse_extent(&key, data)?;
                    let level = item.block_info.map(|info| info.level);
                    return Ok(Some(Found { at, len: key.offset, level }));
                }
                _ => cursor.advance()?,
            }
        }
        Ok(None)
    }
}

//! Block groups that are emptied, and what lies in them.

use std::ops::Range;

use butterfs_format::items::BlockGroupFlags;
use butterfs_format::{ItemType, Key, Logical, TreeId};

use super::Found;
use crate::error::{Error, Result};
use crate::space::{BlockGroup, GroupState};
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
    /// Free bytes that cannot be used, because they share parity with its extents; as far as is known.
    pub waiting: u64,
}

impl GroupInfo {
    fn of(group: &BlockGroup) -> Self {
        let BlockGroup { start, len, flags, used, .. } = *group;
        Self { start, len, flags, used, waiting: group.waiting() }
    }
}

/// Where what is moved may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Into block groups that there are.
    Existing,
    /// Into new ones too.
    NewChunks,
}

/// In which block groups of a kind space is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profiles {
    /// Those of the profile that is wished for what is moved, if one is.
    Wished,
    /// All of them.
    Any,
}

impl Transaction {
    /// The block groups that nobody works on.
    pub fn groups_of(&self, kind: BlockGroupFlags) -> Vec<GroupInfo> {
        let open = self.space.of_kind(kind).filter(|group| group.state == GroupState::Open);
        open.map(GroupInfo::of).collect()
    }

    /// All block groups of a kind, with those on devices that are not written.
    pub fn all_groups_of(&self, kind: BlockGroupFlags) -> Vec<GroupInfo> {
        self.space.of_kind(kind).map(GroupInfo::of).collect()
    }

    /// A group as it is now.
    pub fn group_at(&self, start: u64) -> Option<GroupInfo> {
        self.space.get(start).map(GroupInfo::of)
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
    pub fn take_for_move(&mut self, len: u64, profiles: Profiles) -> Result<Option<Logical>> {
        if self.unpromised(BlockGroupFlags::DATA) < len {
            return Ok(None);
        }
        let only = match profiles {
            Profiles::Wished => self.wished(BlockGroupFlags::DATA),
            Profiles::Any => None,
        };
        self.take_whole(len, only)
    }

    /// Makes a data chunk of the profile that is wished.
    pub fn make_room_for_move(&mut self) -> Result<()> {
        self.allocate_chunk(BlockGroupFlags::DATA)
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

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
        let info = |g: &BlockGroup| GroupInfo {
            start: g.start,
            len: g.len,
            flags: g.flags,
            used: g.used,
            waiting: g.waiting(),
        };
        open.map(info).collect()
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
        let Some(group) = self.space.get(start).filter(|group| group.state == GroupState::Open) else {
            return Ok(None);
        };
        let (kind, range) = (group.flags.kind(), group.start..group.end());
        let needed = group.available() + group.used;
        while self.unpromised(kind) < needed {
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
        self.space.change(start, |group| {
            group.state = if group.used == 0 { GroupState::Emptied } else { GroupState::Open };
        });
    }

    /// Takes contiguous space for data that is moved, and was promised nothing.
    pub fn take_for_move(&mut self, len: u64) -> Result<Option<Logical>> {
        if self.unpromised(BlockGroupFlags::DATA) < len {
            return Ok(None);
        }
        let (at, got) = self.allocate_data(len)?;
        if got < len {
            self.give_back(at, got);
            return Ok(None);
        }
        Ok(Some(at))
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

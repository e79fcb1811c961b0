//! Attributes of inodes.

use butterfs_format::items::{FileType, InodeFlags, InodeItem, Timespec};

use super::{Filesystem, properties};
use crate::error::{Error, Result};
use crate::file::{self, DataRule};
use crate::inode::{Inode, InodeId, item, lock};
use crate::tx::Need;

/// Whether writeback can still change how much space an inode takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Footprint {
    /// It takes what its item says, and its unwritten bytes, in any case.
    Known,
    /// Unwritten bytes may replace others, or become fewer by compression.
    Estimate,
}

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Which inode.
    pub id: InodeId,
    /// Its type.
    pub file_type: FileType,
    /// All fields, with what is still in memory.
    pub item: InodeItem,
    /// Bytes of data that have no extent yet; [`InodeItem::nbytes`] does not count them.
    pub unwritten: u64,
    /// Whether the space it takes is settled.
    pub footprint: Footprint,
}

impl Attributes {
    fn new(id: InodeId, item: InodeItem, unwritten: u64, footprint: Footprint) -> Self {
        Self { id, file_type: FileType::from_mode(item.mode.get()), item, unwritten, footprint }
    }
}

/// What to change in an inode; `None` leaves a field as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// Permissions; the type stays.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<Timespec>,
    /// Modification time.
    pub mtime: Option<Timespec>,
    /// Change time; now, if not given.
    pub ctime: Option<Timespec>,
}

impl SetAttributes {
    fn apply(&self, item: &mut InodeItem, now: Timespec) {
        if let Some(mode) = self.mode {
            item.mode = (item.format() | mode & 0o7777).into();
        }
        item.uid = self.uid.map_or(item.uid, Into::into);
        item.gid = self.gid.map_or(item.gid, Into::into);
        item.atime = self.atime.unwrap_or(item.atime);
        item.mtime = self.mtime.unwrap_or(item.mtime);
        item.ctime = self.ctime.unwrap_or(now);
        item::bump_sequence(item);
    }

    fn is_only_size(&self) -> bool {
        *self == Self { size: self.size, ..Self::default() }
    }
}

impl Filesystem {
    /// What an inode is now.
    pub fn attributes(&self, id: InodeId) -> Result<Attributes> {
        if id.is_placeholder() {
            return Ok(Attributes::new(id, self.placeholder(), 0, Footprint::Known));
        }
        let inode = self.inode(id)?;
        let state = lock(&inode.state);
        if state.gone {
            return Err(Error::NotFound);
        }
        let unwritten = inode.data.held_bytes();
        Ok(Attributes::new(id, state.item, unwritten, self.footprint(&inode, &state.item, unwritten)))
    }

    /// New bytes of a file that had none take a sector each; nothing else is that simple.
    fn footprint(&self, inode: &Inode, item: &InodeItem, unwritten: u64) -> Footprint {
        let is_new = item.nbytes.get() == 0 && !file::may_be_compressed(&self.shared, inode, item.flags());
        if unwritten == 0 || is_new { Footprint::Known } else { Footprint::Estimate }
    }

    /// Changes an inode, and gives its new attributes. A new length comes first: if that fails,
    /// nothing else is changed.
    pub fn set_attributes(&self, id: InodeId, set: &SetAttributes) -> Result<Attributes> {
        if id.is_placeholder() {
            return Err(Error::NotPermitted("a subvolume that is not in this snapshot cannot be changed here"));
        }
        if let Some(size) = set.size {
            self.set_size(id, size)?;
        }
        if !set.is_only_size() || set.size.is_none() {
            let now = self.now();
            self.change(&[self.inode(id)?], Need::Items(1), |tx, drafts| {
                item::require_writable(tx, id.tree)?;
                let found = drafts.item(id)?;
                set.apply(found, now);
                item::write_changed(tx, id, found)
            })?;
        }
        self.attributes(id)
    }

    /// Changes the flags that chattr shows; the caller has checked the user's rights. A file with data stays copied on
    /// write, or not, whatever is asked for, as in the kernel: its extents have checksums, or have none.
    pub fn set_flags(&self, id: InodeId, flags: InodeFlags) -> Result<()> {
        let (now, method) = (self.now(), self.shared.live().compress.method());
        self.change(&[self.inode(id)?], Need::Items(3), |tx, drafts| {
            item::require_writable(tx, id.tree)?;
            let found = drafts.item(id)?;
            let flags = with_data_rules(found, flags);
            properties::follow_flags(tx, id, (found.flags(), flags), method)?;
            found.flags = flags.bits().into();
            found.ctime = now;
            item::bump_sequence(found);
            item::write_changed(tx, id, found)
        })
    }

    /// An empty directory that nobody can change, as the kernel makes it.
    fn placeholder(&self) -> InodeItem {
        use zerocopy::FromZeros;
        let mut item = InodeItem::new_zeroed();
        item.mode = 0o040_755.into();
        item.nlink = 1.into();
        let now = self.now();
        (item.atime, item.ctime, item.mtime, item.otime) = (now, now, now, now);
        item
    }
}

fn with_data_rules(item: &InodeItem, mut flags: InodeFlags) -> InodeFlags {
    if FileType::from_mode(item.mode.get()) != FileType::Regular {
        return flags;
    }
    let rule = DataRule::InPlace.flags();
    if item.size.get() != 0 {
        return (flags - rule) | (item.flags() & rule);
    }
    if flags.contains(InodeFlags::NODATACOW) {
        flags.insert(rule);
    }
    flags
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn the_type_survives_a_change_of_mode() {
        let mut item = InodeItem::new_zeroed();
        item.mode = 0o100_600.into();
        let now = Timespec::new(5, 0);
        SetAttributes { mode: Some(0o040_755), uid: Some(3), ..Default::default() }.apply(&mut item, now);
        assert_eq!((item.mode.get(), item.uid.get(), item.ctime), (0o100_755, 3, now));
        assert_eq!(item.mtime, Timespec::default());
    }
}

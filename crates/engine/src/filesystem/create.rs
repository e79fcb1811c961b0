//! New names: files, directories, symbolic links, special files, hard links.

use butterfs_format::items::{
    Compression, FILE_EXTENT_INLINE_HEADER, FileExtent, FileExtentBody, FileType, InodeFlags, InodeItem, Timespec,
};
use butterfs_format::{Ino, ItemType, Key};
use zerocopy::IntoBytes;

use super::new_files::NewFileRules;
use super::{Filesystem, properties, require_growable_dir};
use crate::dir::Place;
use crate::dir::entry::{self, Entry, Target};
use crate::dir::link::{self, Room};
use crate::error::{Error, Result};
use crate::inode::item::{self, Ownership};
use crate::inode::xattr::{self, Xattr, XattrMode};
use crate::inode::{InodeId, InodeState, lock, orphan};
use crate::tx::{Need, Transaction};

/// Linux's longest path, without its final zero.
const PATH_MAX: usize = 4095;
/// The most hard links that an inode can have.
const LINK_MAX: u32 = 65_535;

/// What kind of inode to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewKind<'a> {
    /// An empty file.
    File,
    /// An empty directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(&'a [u8]),
    /// A device, pipe or socket.
    Special {
        /// Which: the type of a mode.
        file_type: FileType,
        /// The device, as [`InodeItem::rdev`].
        rdev: u64,
    },
}

/// An inode to make. Its group is the directory's where that is set-group-id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewInode<'a> {
    /// What kind.
    pub kind: NewKind<'a>,
    /// Permissions, after the umask; a symbolic link has all.
    pub permissions: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl NewInode<'_> {
    pub(super) fn file_type(&self) -> FileType {
        match self.kind {
            NewKind::File => FileType::Regular,
            NewKind::Directory => FileType::Directory,
            NewKind::Symlink(_) => FileType::Symlink,
            NewKind::Special { file_type, .. } => file_type,
        }
    }

    fn ownership(&self) -> Ownership {
        let permissions = if matches!(self.kind, NewKind::Symlink(_)) { 0o777 } else { self.permissions & 0o7777 };
        Ownership { mode: self.file_type().mode_bits() | permissions, uid: self.uid, gid: self.gid }
    }

    fn check(&self, tx: &Transaction) -> Result<()> {
        match self.kind {
            NewKind::Symlink(b"") => Err(Error::NotFound),
            NewKind::Symlink(target) if target.contains(&0) => Err(Error::Invalid("target with a zero byte")),
            NewKind::Symlink(target) if target.len() > longest_target(tx) => Err(Error::NameTooLong),
            NewKind::Special {
                file_type: FileType::CharDevice | FileType::BlockDevice | FileType::Fifo | FileType::Socket,
                ..
            } => Ok(()),
            NewKind::Special { .. } => Err(Error::Invalid("not the type of a special file")),
            _ => Ok(()),
        }
    }

    /// The item of such an inode in `dir`, made now.
    pub(super) fn item(&self, tx: &Transaction, dir: &InodeItem, rules: &NewFileRules<'_>, now: Timespec) -> InodeItem {
        let mut new = item::new_item(tx, self.ownership().inherited_from(dir), now);
        new.flags = item::inherited_flags(dir, new.mode.get()).bits().into();
        match self.kind {
            NewKind::File => new.flags = (new.flags() | rules.file_flags()).bits().into(),
            NewKind::Directory => new.flags = (new.flags() | rules.dir_flags()).bits().into(),
            NewKind::Symlink(target) => {
                new.size = (target.len() as u64).into();
                new.nbytes = new.size;
                new.flags = (new.flags() - InodeFlags::NODATACOW).bits().into();
            }
            NewKind::Special { rdev, .. } => new.rdev = rdev.into(),
        }
        new
    }
}

/// A target must fit one inline extent, and be shorter than a sector and a path.
fn longest_target(tx: &Transaction) -> usize {
    let sector = tx.geometry().sectorsize as usize - 1;
    (item::max_item_size(tx) - FILE_EXTENT_INLINE_HEADER).min(sector).min(PATH_MAX)
}

/// Puts the items of a new inode in, but for its name.
pub(super) fn insert_inode(tx: &mut Transaction, id: InodeId, new: &NewInode<'_>, item: &mut InodeItem) -> Result<()> {
    tx.insert(id.tree, &item::key(id.ino), item.as_bytes())?;
    let NewKind::Symlink(target) = new.kind else { return Ok(()) };
    let extent = FileExtent {
        generation: tx.generation().0,
        ram_bytes: target.len() as u64,
        compression: Compression::None,
        body: FileExtentBody::Inline(target),
    };
    tx.insert(id.tree, &Key::new(id.ino.0, ItemType::EXTENT_DATA, 0), &extent.pack())
}

fn set_xattrs(tx: &mut Transaction, id: InodeId, xattrs: &[Xattr<'_>]) -> Result<()> {
    xattrs.iter().try_for_each(|new| xattr::set(tx, id, *new, XattrMode::Create))
}

impl Filesystem {
    /// Makes an inode with a name.
    pub fn create(&self, place: Place<'_>, new: &NewInode<'_>) -> Result<InodeId> {
        self.create_with(place, new, &[])
    }

    /// Makes an inode with a name and attributes of different names, in one change.
    pub fn create_with(&self, place: Place<'_>, new: &NewInode<'_>, xattrs: &[Xattr<'_>]) -> Result<InodeId> {
        place.check()?;
        let now = self.now();
        let dir = self.dir(place.dir)?;
        let (id, item) = self.change(&[dir], Need::Items(10 + 2 * xattrs.len() as u32), |tx, drafts| {
            require_growable_dir(tx, drafts, place.dir)?;
            new.check(tx)?;
            xattrs.iter().try_for_each(|new| xattr::check_new(tx, new))?;
            entry::check_new(tx, &place)?;
            let dir = drafts.of(place.dir)?;
            let rule = self.rule_of(tx, place.dir.tree)?;
            let rules = self.new_file_rules(&rule, &dir.item);
            let mut item = new.item(tx, &dir.item, &rules, now);
            let id = self.take_id(tx, place.dir)?;
            insert_inode(tx, id, new, &mut item)?;
            set_xattrs(tx, id, xattrs)?;
            properties::inherit(tx, place.dir, id, &item, &rules)?;
            let what = Entry { target: Target::Inode(id.ino), file_type: new.file_type() };
            link::attach(tx, dir, place.name, what, now)?;
            item::write_inode_item(tx, dir.id, &mut dir.item)?;
            Ok((id, item))
        })?;
        self.inodes.get(id, |_| Ok(InodeState::clean(item)))?;
        Ok(id)
    }

    /// Makes a file without a name, in the subvolume of a directory. The caller holds it once: it
    /// goes with the last [`Filesystem::release`], unless it is linked before.
    pub fn create_unnamed(&self, dir: InodeId, new: &NewInode<'_>) -> Result<InodeId> {
        self.create_unnamed_with(dir, new, &[])
    }

    /// The same with attributes of different names, in one change.
    pub fn create_unnamed_with(&self, dir_id: InodeId, new: &NewInode<'_>, xattrs: &[Xattr<'_>]) -> Result<InodeId> {
        let now = self.now();
        let dir = self.dir(dir_id)?;
        let (id, item) = self.change(&[dir], Need::Items(6 + 2 * xattrs.len() as u32), |tx, drafts| {
            require_growable_dir(tx, drafts, dir_id)?;
            new.check(tx)?;
            xattrs.iter().try_for_each(|new| xattr::check_new(tx, new))?;
            if new.kind == NewKind::Directory {
                return Err(Error::IsDirectory);
            }
            let dir = drafts.item(dir_id)?;
            let rule = self.rule_of(tx, dir_id.tree)?;
            let rules = self.new_file_rules(&rule, dir);
            let mut item = new.item(tx, dir, &rules, now);
            item.nlink = 0.into();
            let id = self.take_id(tx, dir_id)?;
            insert_inode(tx, id, new, &mut item)?;
            set_xattrs(tx, id, xattrs)?;
            properties::inherit(tx, dir_id, id, &item, &rules)?;
            orphan::add(tx, id)?;
            Ok((id, item))
        })?;
        let inode = self.inodes.get(id, |_| Ok(InodeState::clean(item)))?;
        lock(&inode.state).holds += 1;
        Ok(id)
    }

    pub(super) fn take_id(&self, tx: &Transaction, dir: InodeId) -> Result<InodeId> {
        let ino: Ino = self.subvolumes.get(dir.tree).take_ino(tx, dir.tree)?;
        Ok(InodeId::new(dir.tree, ino))
    }

    /// Gives an inode another name. An inode without a name that is still held gets one again.
    pub fn link(&self, id: InodeId, place: Place<'_>) -> Result<()> {
        place.check()?;
        if id.tree != place.dir.tree {
            return Err(Error::CrossSubvolume);
        }
        let now = self.now();
        let inodes = [self.dir(place.dir)?, self.inode(id)?];
        self.change(&inodes, Need::Items(6), |tx, drafts| {
            require_growable_dir(tx, drafts, place.dir)?;
            let found = *drafts.item(id)?;
            check_linkable(&found)?;
            if entry::find(tx, &place)?.is_some() {
                return Err(Error::Exists);
            }
            let target = Target::Inode(id.ino);
            let room = Room { place, target: Some(target), leaving: None, features: self.shared.features };
            link::check_room(tx, &room, None)?;
            let what = Entry { target, file_type: FileType::from_mode(found.mode.get()) };
            let dir = drafts.of(place.dir)?;
            if found.nlink.get() == 0 && found.generation.get() < tx.generation().0 {
                tx.note_revived(id);
            }
            link::attach(tx, dir, place.name, what, now)?;
            item::write_inode_item(tx, dir.id, &mut dir.item)?;
            if found.nlink.get() == 0 {
                orphan::remove(tx, id)?;
            }
            let inode = drafts.item(id)?;
            inode.nlink = (found.nlink.get() + 1).into();
            item::touch(inode, now);
            item::write_changed(tx, id, inode)
        })
    }
}

fn check_linkable(item: &InodeItem) -> Result<()> {
    if item.is_dir() {
        return Err(Error::NotPermitted("a directory has one name"));
    }
    if item.nlink.get() >= LINK_MAX { Err(Error::TooManyLinks) } else { Ok(()) }
}

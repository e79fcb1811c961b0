//! INODE_ITEM in the tree: reading, writing, and making new ones.
//!
//! # Invariants
//! * Every write of an item sets its `transid`, and marks the subvolume as changed (`ctransid`,
//!   `ctime` of the ROOT_ITEM), as send and snapshots expect.

use butterfs_format::block::ITEM_HEADER_SIZE;
use butterfs_format::items::{InodeFlags, InodeItem, RootFlags, RootItem, Timespec, read_exact};
use butterfs_format::{Ino, ItemType, Key, TreeBlock, TreeId};
use zerocopy::{FromZeros, IntoBytes};

use super::{InodeId, corrupt};
use crate::error::{Error, Result};
use crate::tx::Transaction;

/// Set-group-id in a mode.
pub const S_ISGID: u32 = 0o2000;

/// The key of an inode's item.
pub fn key(ino: Ino) -> Key {
    Key::new(ino.0, ItemType::INODE_ITEM, 0)
}

/// The item in the tree; [`Error::NotFound`] if there is none.
pub fn read(tx: &Transaction, id: InodeId) -> Result<InodeItem> {
    let key = key(id.ino);
    let data = tx.get(id.tree, &key)?.ok_or(Error::NotFound)?;
    read_exact(&data).map_err(|problem| corrupt(id.tree, &key, problem))
}

/// Writes the item as it is, with the running transaction as its `transid`.
pub fn write_inode_item(tx: &mut Transaction, id: InodeId, item: &mut InodeItem) -> Result<()> {
    item.transid = tx.generation().0.into();
    tx.put(id.tree, &key(id.ino), item.as_bytes())?;
    touch_root(tx, id.tree, item.ctime)
}

/// Writes the item of an inode whose data may still be in memory: size and bytes stay in the tree
/// as they are, because what lies beyond them is not there yet.
pub fn write_all_but_size(tx: &mut Transaction, id: InodeId, item: &mut InodeItem) -> Result<()> {
    let key = key(id.ino);
    item.transid = tx.generation().0.into();
    let mut problem = None;
    let found = tx.update(id.tree, &key, |bytes| match read_exact::<InodeItem>(bytes) {
        Ok(stored) => {
            let partial = InodeItem { size: stored.size, nbytes: stored.nbytes, ..*item };
            bytes.copy_from_slice(partial.as_bytes());
        }
        Err(text) => problem = Some(text),
    })?;
    match problem {
        Some(problem) => Err(corrupt(id.tree, &key, problem)),
        None if !found => Err(Error::NotFound),
        None => touch_root(tx, id.tree, item.ctime),
    }
}

/// Writes an item after a change that is not one of data: all of a directory's, all but the size
/// of others.
pub fn write_changed(tx: &mut Transaction, id: InodeId, item: &mut InodeItem) -> Result<()> {
    if item.is_dir() { write_inode_item(tx, id, item) } else { write_all_but_size(tx, id, item) }
}

fn touch_root(tx: &mut Transaction, tree: TreeId, ctime: Timespec) -> Result<()> {
    let generation = tx.generation().0;
    let (old, ctransid) = tx.look_at_root_item(tree, |root| (root.ctime, root.ctransid.get()))?;
    let later = (ctime.seconds(), ctime.nanoseconds()) > (old.seconds(), old.nanoseconds());
    if ctransid == generation && !later {
        return Ok(());
    }
    tx.change_root_item(tree, |root| {
        root.ctransid = generation.into();
        if later {
            root.ctime = ctime;
        }
    })
}

/// Fails if a subvolume does not exist or is being deleted: its tree may be half gone.
pub fn require_alive(tx: &Transaction, tree: TreeId) -> Result<RootItem> {
    let root = tx.root_item(tree)?;
    if root.refs.get() == 0 { Err(Error::NotFound) } else { Ok(root) }
}

/// Fails if a subvolume is read-only, or being deleted.
pub fn require_writable(tx: &Transaction, tree: TreeId) -> Result<()> {
    let (refs, flags) = tx.look_at_root_item(tree, |root| (root.refs.get(), root.flags()))?;
    match flags.contains(RootFlags::RDONLY) {
        _ if refs == 0 => Err(Error::NotFound),
        true => Err(Error::ReadOnly),
        false => Ok(()),
    }
}

/// Fails if a subvolume is read-only. In one that is being deleted the data of a file that is still
/// open can be changed: it lives as long as its last user.
pub fn require_changeable(tx: &Transaction, tree: TreeId) -> Result<()> {
    let flags = tx.look_at_root_item(tree, RootItem::flags)?;
    if flags.contains(RootFlags::RDONLY) { Err(Error::ReadOnly) } else { Ok(()) }
}

/// Who owns a new inode, and what others may do with it.
#[derive(Clone, Copy, Debug)]
pub struct Ownership {
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Ownership {
    /// As a new inode in a directory gets it: a set-group-id directory gives its group, and its
    /// set-group-id bit to directories.
    pub fn inherited_from(mut self, dir: &InodeItem) -> Self {
        if dir.mode.get() & S_ISGID != 0 {
            self.gid = dir.gid.get();
            if self.mode & 0o170_000 == 0o040_000 {
                self.mode |= S_ISGID;
            }
        }
        self
    }
}

/// A new item with one link, made now.
pub fn new_item(tx: &Transaction, owner: Ownership, now: Timespec) -> InodeItem {
    let mut item = InodeItem::new_zeroed();
    item.generation = tx.generation().0.into();
    item.transid = item.generation;
    item.nlink = 1.into();
    item.mode = owner.mode.into();
    item.uid = owner.uid.into();
    item.gid = owner.gid.into();
    (item.atime, item.ctime, item.mtime, item.otime) = (now, now, now, now);
    item
}

/// The flags that a new inode takes over from its directory, by the kernel's rules.
pub fn inherited_flags(dir: &InodeItem, mode: u32) -> InodeFlags {
    let mut flags = dir.flags() & (InodeFlags::COMPRESS | InodeFlags::NOCOMPRESS | InodeFlags::NODATACOW);
    if flags.contains(InodeFlags::NOCOMPRESS) {
        flags.remove(InodeFlags::COMPRESS);
    }
    if flags.contains(InodeFlags::NODATACOW) && mode & 0o170_000 == 0o100_000 {
        flags.insert(InodeFlags::NODATASUM);
    }
    flags
}

/// Counts a change, for NFS.
pub fn bump_sequence(item: &mut InodeItem) {
    item.sequence = item.sequence.get().wrapping_add(1).into();
}

/// The content of a directory or the names of an inode changed.
pub fn touch(item: &mut InodeItem, now: Timespec) {
    item.ctime = now;
    if item.is_dir() {
        item.mtime = now;
    }
    bump_sequence(item);
}

/// The largest item that fits a leaf.
pub fn max_item_size(tx: &Transaction) -> usize {
    TreeBlock::leaf_capacity(tx.geometry().nodesize as usize) - ITEM_HEADER_SIZE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(mode: u32, flags: InodeFlags) -> InodeItem {
        let mut item = InodeItem::new_zeroed();
        item.mode = (0o040_000 | mode).into();
        item.gid = 7.into();
        item.flags = flags.bits().into();
        item
    }

    #[test]
    fn a_set_group_id_directory_gives_its_group() {
        let parent = dir(0o2755, InodeFlags::empty());
        let file = Ownership { mode: 0o100_644, uid: 1, gid: 1 }.inherited_from(&parent);
        assert_eq!((file.gid, file.mode), (7, 0o100_644));
        let sub = Ownership { mode: 0o040_755, uid: 1, gid: 1 }.inherited_from(&parent);
        assert_eq!((sub.gid, sub.mode), (7, 0o042_755));
        let other = Ownership { mode: 0o040_755, uid: 1, gid: 1 }.inherited_from(&dir(0o755, InodeFlags::empty()));
        assert_eq!((other.gid, other.mode), (1, 0o040_755));
    }

    #[test]
    fn nodatacow_means_no_checksums_for_files_only() {
        let parent = dir(0o755, InodeFlags::NODATACOW | InodeFlags::IMMUTABLE);
        assert_eq!(inherited_flags(&parent, 0o100_644), InodeFlags::NODATACOW | InodeFlags::NODATASUM);
        assert_eq!(inherited_flags(&parent, 0o040_755), InodeFlags::NODATACOW);
    }
}

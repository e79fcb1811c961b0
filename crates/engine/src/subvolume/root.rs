//! ROOT_ITEMs of new subvolumes and snapshots, and their first inode.

use butterfs_format::hash::name_hash;
use butterfs_format::items::{
    DirEntry, InodeFlags, InodeItem, InodeRef, RootFlags, RootItem, Timespec, pack_dir_entry,
};
use butterfs_format::{Generation, Ino, ItemType, Key, TreeId};
use zerocopy::{FromZeros, IntoBytes};

use crate::error::Result;
use crate::inode::{InodeId, corrupt, item};
use crate::tx::Transaction;

/// Whether a snapshot, or a subvolume, can be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It can.
    ReadWrite,
    /// It cannot.
    ReadOnly,
}

/// When and by which transaction a subvolume is made, and its UUID.
#[derive(Clone, Copy, Debug)]
pub struct Birth {
    /// The transaction.
    pub generation: Generation,
    /// The time.
    pub now: Timespec,
    /// The new UUID.
    pub uuid: [u8; 16],
}

/// The root item of a new, empty subvolume; the transaction fills in where its block is.
pub fn new_item(birth: &Birth, nodesize: u32) -> RootItem {
    let mut root = RootItem::new_zeroed();
    root.inode.generation = 1.into();
    root.inode.size = 3.into();
    root.inode.nlink = 1.into();
    root.inode.nbytes = u64::from(nodesize).into();
    root.inode.mode = 0o040_755.into();
    root.inode.flags = InodeFlags::ROOT_ITEM_INIT.bits().into();
    root.root_dirid = Ino::ROOT_DIR.0.into();
    root.refs = 1.into();
    root.generation = birth.generation.0.into();
    root.generation_v2 = root.generation;
    root.ctransid = root.generation;
    root.otransid = root.generation;
    (root.ctime, root.otime) = (birth.now, birth.now);
    root.uuid = birth.uuid;
    root
}

/// The root item of a snapshot of `source`, by the kernel's rules.
pub fn snapshot_item(source: &RootItem, birth: &Birth, access: Access) -> RootItem {
    let mut root = *source;
    let generation = birth.generation.0.into();
    root.generation = generation;
    root.generation_v2 = generation;
    root.last_snapshot = generation;
    root.otransid = generation;
    root.otime = birth.now;
    root.refs = 1.into();
    root.parent_uuid = source.uuid;
    root.uuid = birth.uuid;
    root.drop_progress = Key::MIN.into();
    root.drop_level = 0;
    set_access(&mut root, access);
    if access == Access::ReadWrite {
        root.received_uuid = [0; 16];
        (root.stransid, root.rtransid) = (0.into(), 0.into());
        (root.stime, root.rtime) = (Timespec::default(), Timespec::default());
    }
    root
}

/// Sets or clears the read-only flag.
pub fn set_access(root: &mut RootItem, access: Access) {
    let flags = root.flags() - RootFlags::RDONLY;
    let flags = if access == Access::ReadOnly { flags | RootFlags::RDONLY } else { flags };
    root.flags = flags.bits().into();
}

/// The flag as it is.
pub fn access(root: &RootItem) -> Access {
    if root.flags().contains(RootFlags::RDONLY) { Access::ReadOnly } else { Access::ReadWrite }
}

/// Puts the top directory into a new subvolume's tree.
pub fn insert_top(tx: &mut Transaction, tree: TreeId, top: &mut InodeItem) -> Result<()> {
    let id = InodeId::top_of(tree);
    let mut name = Vec::new();
    InodeRef { index: 0, name: b".." }.pack(&mut name);
    tx.insert(tree, &item::key(id.ino), top.as_bytes())?;
    tx.insert(tree, &Key::new(id.ino.0, ItemType::INODE_REF, id.ino.0), &name)
}

/// The subvolume that is mounted when none is chosen.
pub fn default_subvolume(tx: &Transaction) -> Result<TreeId> {
    let key = Key::new(TreeId::ROOT_TREE_DIR.0, ItemType::DIR_ITEM, name_hash(b"default"));
    let Some(data) = tx.get(TreeId::ROOT, &key)? else { return Ok(TreeId::FS) };
    let entries = DirEntry::parse_all(&data).map_err(|problem| corrupt(TreeId::ROOT, &key, problem))?;
    let found = entries.iter().find(|e| e.name == b"default");
    Ok(found.map_or(TreeId::FS, |e| TreeId(e.location.objectid)))
}

/// Makes a subvolume the one that is mounted when none is chosen.
pub fn set_default_subvolume(tx: &mut Transaction, tree: TreeId) -> Result<()> {
    const NAME: &[u8] = b"default";
    let key = Key::new(TreeId::ROOT_TREE_DIR.0, ItemType::DIR_ITEM, name_hash(NAME));
    let location = Key::new(tree.0, ItemType::ROOT_ITEM, tx.root_key_offset(tree)?);
    let old = tx.get(TreeId::ROOT, &key)?.unwrap_or_default();
    let mut entries = DirEntry::parse_all(&old).map_err(|problem| corrupt(TreeId::ROOT, &key, problem))?;
    match entries.iter_mut().find(|entry| entry.name == NAME) {
        Some(entry) => entry.location = location,
        None => {
            return Err(corrupt(TreeId::ROOT, &key, "the root tree's directory has no entry 'default'"));
        }
    }
    let mut data = Vec::with_capacity(old.len());
    entries.iter().for_each(|entry| pack_dir_entry(entry, &mut data));
    tx.put(TreeId::ROOT, &key, &data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn birth() -> Birth {
        Birth { generation: Generation(9), now: Timespec::new(1, 2), uuid: [2; 16] }
    }

    fn source() -> RootItem {
        let old = Birth { generation: Generation(5), now: Timespec::new(0, 0), uuid: [1; 16] };
        let mut root = new_item(&old, 16384);
        root.received_uuid = [3; 16];
        root.stransid = 4.into();
        root
    }

    #[test]
    fn a_writable_snapshot_forgets_where_it_was_received_from() {
        let snapshot = snapshot_item(&source(), &birth(), Access::ReadWrite);
        assert_eq!((snapshot.uuid, snapshot.parent_uuid, snapshot.received_uuid), ([2; 16], [1; 16], [0; 16]));
        assert_eq!((snapshot.otransid.get(), snapshot.ctransid.get(), snapshot.stransid.get()), (9, 5, 0));
        assert_eq!(access(&snapshot), Access::ReadWrite);
    }

    #[test]
    fn a_read_only_snapshot_remembers() {
        let snapshot = snapshot_item(&source(), &birth(), Access::ReadOnly);
        assert_eq!((snapshot.received_uuid, snapshot.stransid.get()), ([3; 16], 4));
        assert_eq!(access(&snapshot), Access::ReadOnly);
    }

    #[test]
    fn the_item_is_valid_in_its_second_version() {
        let root = new_item(&birth(), 16384);
        let parsed = RootItem::parse(root.as_bytes()).unwrap();
        assert_eq!(parsed.uuid, [2; 16]);
    }
}

//! The root tree: which trees there are, and what the tree of trees says of subvolumes.

use std::collections::{BTreeMap, HashMap, HashSet};

use butterfs_format::ids::objectid;
use butterfs_format::items::{InodeItem, RootItem, RootRef, read_exact};
use butterfs_format::{ItemType, Key, TreeBlock, TreeId};

use crate::context::Context;
use crate::finding::Kind;
use crate::walk::{Dropped, TreeRoot, Visitor};

/// Where a subvolume hangs: child and parent tree to directory, index and name.
pub(crate) type Links = BTreeMap<(u64, u64), (u64, u64, Vec<u8>)>;

/// The root tree's content.
#[derive(Default)]
pub(crate) struct Forest {
    /// Every ROOT_ITEM in key order.
    pub roots: Vec<(Key, RootItem)>,
    /// From ROOT_REF: (child, parent).
    pub refs: Links,
    /// From ROOT_BACKREF: (child, parent).
    pub backrefs: Links,
    /// Subvolumes that wait to be deleted.
    pub orphans: HashSet<u64>,
    /// All of the root tree could be read.
    pub complete: bool,
}

impl Visitor for Forest {
    fn leaf(&mut self, context: &mut Context<'_>, leaf: &TreeBlock, _: bool) {
        for slot in 0..leaf.len() {
            self.item(context, leaf.key(slot), leaf.data(slot));
        }
    }
}

impl Forest {
    fn item(&mut self, context: &mut Context<'_>, key: Key, data: &[u8]) {
        match key.item_type {
            ItemType::ROOT_ITEM => {
                if let Ok(item) = RootItem::parse(data) {
                    self.roots.push((key, item));
                }
            }
            ItemType::ROOT_REF => link(&mut self.refs, (key.offset, key.objectid), data),
            ItemType::ROOT_BACKREF => link(&mut self.backrefs, (key.objectid, key.offset), data),
            ItemType::ORPHAN_ITEM if key.objectid == objectid::ORPHAN => {
                self.orphans.insert(key.offset);
            }
            ItemType::INODE_ITEM => cache_inode(context, &key, data),
            ItemType::INODE_REF
            | ItemType::INODE_EXTREF
            | ItemType::DIR_ITEM
            | ItemType::DIR_INDEX
            | ItemType::XATTR_ITEM
            | ItemType::EXTENT_DATA
            | ItemType::TEMPORARY_ITEM
            | ItemType::PERSISTENT_ITEM
            | ItemType::UNTYPED => {}
            _ => context.error(Kind::UnknownKey, "tree 1", format!("{key} does not belong here")),
        }
    }

    /// The item of a tree there is at most one of.
    pub fn global(&self, id: TreeId) -> Option<&RootItem> {
        self.roots.iter().find(|(key, _)| key.objectid == id.0).map(|(_, item)| item)
    }
}

fn link(links: &mut Links, at: (u64, u64), data: &[u8]) {
    if let Ok(root_ref) = RootRef::parse(data) {
        links.insert(at, (root_ref.dirid, root_ref.sequence, root_ref.name.to_vec()));
    }
}

/// Inodes of the root tree hold the old free space cache, and one is the directory of trees.
fn cache_inode(context: &mut Context<'_>, key: &Key, data: &[u8]) {
    let Ok(inode) = read_exact::<InodeItem>(data) else { return };
    let want = if key.objectid == TreeId::ROOT_TREE_DIR.0 { 0o040_000 } else { 0o100_000 };
    if inode.format() != want {
        let problem = format!("mode is {:#o}, want type {want:#o}", inode.mode.get());
        context.error(Kind::Inode, format!("tree 1 inode {}", key.objectid), problem);
    }
}

/// Where a ROOT_ITEM's tree begins.
pub(crate) fn tree_root(key: &Key, item: &RootItem) -> TreeRoot {
    let progress: Key = item.drop_progress.into();
    let dropping = item.refs.get() == 0 && progress.objectid != 0;
    TreeRoot {
        id: TreeId(key.objectid),
        bytenr: item.bytenr(),
        level: item.level,
        generation: item.generation(),
        dropped: dropping.then_some(Dropped { key: progress, level: item.drop_level }),
        accounted: true,
    }
}

/// Checks what can be said of the ROOT_ITEMs without their trees.
pub(crate) fn check_roots(context: &mut Context<'_>, forest: &Forest) {
    let generation = context.generation();
    let mut begins: HashMap<u64, u64> = HashMap::new();
    for (key, item) in &forest.roots {
        let place = format!("root item {key}");
        if item.generation.get() > generation {
            let problem = format!("generation {} is above the superblock's {generation}", item.generation);
            context.error(Kind::RootItem, &*place, problem);
        }
        if let Some(other) = begins.insert(item.bytenr.get(), key.objectid) {
            context.error(Kind::RootItem, &*place, format!("begins in the same block as tree {}", other as i64));
        }
        if TreeId(key.objectid).is_subvolume() {
            subvolume_root(context, forest, key, item);
        }
    }
    if !forest.complete {
        return;
    }
    for id in [TreeId::EXTENT, TreeId::DEV, TreeId::FS, TreeId::CSUM, TreeId::DATA_RELOC] {
        if forest.global(id).is_none() {
            context.error(Kind::RootItem, "tree 1", format!("there is no tree {}", id.0 as i64));
        }
    }
}

fn subvolume_root(context: &mut Context<'_>, forest: &Forest, key: &Key, item: &RootItem) {
    let place = format!("root item {key}");
    if item.root_dirid.get() != 256 {
        context.error(Kind::RootItem, &*place, format!("root directory is {}, want 256", item.root_dirid));
    }
    let mode = item.inode.mode.get();
    if mode & 0o170_000 != 0o040_000 {
        context.error(Kind::RootItem, &*place, format!("mode {mode:#o} is not a directory's"));
    }
    if item.refs.get() == 0 && !forest.orphans.contains(&key.objectid) {
        context.error(Kind::Orphan, &*place, "no references, and no orphan item: it will never be deleted");
    }
}

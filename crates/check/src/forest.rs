//! The root tree: which trees there are, and what the tree of trees says of subvolumes.

use std::collections::{BTreeMap, HashMap, HashSet};

use butterfs_format::ids::objectid;
use butterfs_format::items::{DirEntry, InodeItem, RootItem, RootRef, read_exact};
use butterfs_format::{ItemType, Key, TreeBlock, TreeId};

use crate::context::Context;
use crate::device_items;
use crate::finding::{Kind, Place};
use crate::space_cache::CacheFiles;
use crate::walk::{Dropped, LeafVisitor, TreeRoot};

/// Type and permissions of the files of the v1 space cache.
const CACHE_MODE: u32 = 0o100_600;

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
    /// The subvolume that is mounted by default, if one was set.
    pub default_subvolume: Option<u64>,
    /// The v1 space cache.
    pub cache: CacheFiles,
    /// All of the root tree could be read.
    pub complete: bool,
    /// Where the first item of each tree is in `roots`.
    by_id: HashMap<u64, usize>,
}

impl LeafVisitor for Forest {
    fn leaf(&mut self, context: &mut Context<'_>, leaf: &TreeBlock) {
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
            ItemType::INODE_ITEM => self.inode(context, &key, data),
            ItemType::EXTENT_DATA => self.cache.extent(&key, data),
            ItemType::UNTYPED => self.cache.header(&key, data),
            ItemType::DIR_ITEM => self.default_entry(&key, data),
            ItemType::TEMPORARY_ITEM => device_items::check_temporary(context, &key, data),
            ItemType::INODE_REF
            | ItemType::INODE_EXTREF
            | ItemType::DIR_INDEX
            | ItemType::XATTR_ITEM
            | ItemType::PERSISTENT_ITEM => {}
            _ => {
                let problem = format!("{key} does not belong here");
                context.error(Kind::UnknownKey, Place::item(TreeId::ROOT, &key), problem);
            }
        }
    }

    /// Inodes of the root tree hold the old free space cache, and one is the directory of trees.
    fn inode(&mut self, context: &mut Context<'_>, key: &Key, data: &[u8]) {
        let Ok(inode) = read_exact::<InodeItem>(data) else { return };
        let mode = inode.mode.get();
        let is_dir = key.objectid == TreeId::ROOT_TREE_DIR.0;
        if is_dir && !inode.is_dir() || !is_dir && mode != CACHE_MODE {
            let want = if is_dir { "a directory's" } else { "0o100600" };
            let problem = format!("mode is {mode:#o}, want {want}");
            context.error(Kind::InodeMode, Place::inode(TreeId::ROOT, key.objectid), problem);
        }
        self.cache.inode(key, &inode);
    }

    /// The directory of trees has one entry, "default".
    fn default_entry(&mut self, key: &Key, data: &[u8]) {
        let entries = DirEntry::parse_all(data).unwrap_or_default();
        if key.objectid == TreeId::ROOT_TREE_DIR.0 {
            let default = entries.iter().find(|entry| entry.name == b"default");
            self.default_subvolume = default.map(|entry| entry.location.objectid).or(self.default_subvolume);
        }
    }

    /// The item of a tree there is at most one of.
    pub fn global(&self, id: TreeId) -> Option<&RootItem> {
        self.by_id.get(&id.0).and_then(|at| self.roots.get(*at)).map(|(_, item)| item)
    }

    /// To be called once all items are there.
    pub fn settle(&mut self) {
        for (at, (key, _)) in self.roots.iter().enumerate() {
            self.by_id.entry(key.objectid).or_insert(at);
        }
    }
}

fn link(links: &mut Links, at: (u64, u64), data: &[u8]) {
    if let Ok(root_ref) = RootRef::parse(data) {
        links.insert(at, (root_ref.dirid, root_ref.sequence, root_ref.name.to_vec()));
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
        let place = Place::item(TreeId::ROOT, key);
        if item.generation.get() > generation {
            let problem = format!("generation {} is above the superblock's {generation}", item.generation);
            context.error(Kind::RootItem, place.clone(), problem);
        }
        if item.last_snapshot.get() > generation.saturating_add(1) {
            let problem = format!("last_snapshot {} is above the superblock's {generation}", item.last_snapshot);
            context.error(Kind::RootItem, place.clone(), problem);
        }
        check_key(context, key, item);
        if let Some(other) = begins.insert(item.bytenr.get(), key.objectid) {
            context.error(Kind::RootItem, place.clone(), format!("begins in the same block as tree {}", other as i64));
        }
        if TreeId(key.objectid).is_subvolume() {
            subvolume_root(context, forest, key, item);
        }
    }
    if !forest.complete {
        return;
    }
    if let Some(id) = forest.default_subvolume.filter(|id| forest.global(TreeId(*id)).is_none()) {
        let problem = "is mounted by default, but there is no such subvolume";
        context.error(Kind::Subvolume, Place::subvolume(id), problem);
    }
    for id in [TreeId::EXTENT, TreeId::DEV, TreeId::FS, TreeId::CSUM, TreeId::DATA_RELOC] {
        if forest.global(id).is_none() {
            context.error(Kind::MissingTree, Place::tree(id), format!("there is no tree {}", id.0 as i64));
        }
    }
}

/// Kernels look for a tree there is one of at offset 0; and a drop that began has a level.
fn check_key(context: &mut Context<'_>, key: &Key, item: &RootItem) {
    let (place, id) = (Place::item(TreeId::ROOT, key), TreeId(key.objectid));
    let single = !id.is_subvolume() && id != TreeId::TREE_RELOC || id == TreeId::FS;
    if single && key.offset != 0 {
        context.error(Kind::RootItem, place.clone(), format!("offset {}, where no kernel looks for it", key.offset));
    }
    if id == TreeId::TREE_RELOC && key.offset == 0 {
        context.error(Kind::RootItem, place.clone(), "a relocation tree of tree 0");
    }
    let progress: Key = item.drop_progress.into();
    if progress.objectid != 0 && item.drop_level == 0 {
        context.error(Kind::RootItem, place.clone(), "a deletion came as far as level 0, which cannot be");
    }
    if id == TreeId::DATA_RELOC {
        relocation_root(context, &place, item);
    }
}

/// The tree for data that is relocated is a subvolume that nobody sees.
fn relocation_root(context: &mut Context<'_>, place: &Place, item: &RootItem) {
    if item.root_dirid.get() != 256 {
        context.error(Kind::RootItem, place.clone(), format!("root directory is {}, want 256", item.root_dirid));
    }
    if item.refs.get() != 1 {
        context.error(Kind::RootItem, place.clone(), format!("{} references, want 1", item.refs));
    }
}

fn subvolume_root(context: &mut Context<'_>, forest: &Forest, key: &Key, item: &RootItem) {
    let place = Place::item(TreeId::ROOT, key);
    if item.root_dirid.get() != 256 {
        context.error(Kind::RootItem, place.clone(), format!("root directory is {}, want 256", item.root_dirid));
    }
    let mode = item.inode.mode.get();
    if mode & 0o170_000 != 0o040_000 {
        context.error(Kind::RootItem, place.clone(), format!("mode {mode:#o} is not a directory's"));
    }
    if item.refs.get() == 0 && !forest.orphans.contains(&key.objectid) {
        context.error(Kind::Orphan, place.clone(), "no references, and no orphan item: it will never be deleted");
    }
}

//! Where subvolumes hang: ROOT_REF, ROOT_BACKREF, the entries in directories, the count of references, and which
//! subvolume is mounted by default.

use std::collections::{BTreeMap, BTreeSet};

use butterfs_check::Place;
use butterfs_engine::tree;
use butterfs_format::hash::name_hash;
use butterfs_format::ids::objectid;
use butterfs_format::items::{FileType, InodeItem, RootItem, RootRef, read_exact};
use butterfs_format::{ItemType, Key, TreeId};
use zerocopy::IntoBytes;

use super::items::{Entry, entries};
use super::names::Subvolumes;
use super::subvolume::RootName;
use crate::error::Result;
use crate::plan::Step;
use crate::store::Store;
use crate::workspace::Workspace;

const DEFAULT: &[u8] = b"default";
/// Type and permissions of the files of the v1 space cache.
const CACHE_MODE: u32 = 0o100_600;

/// A subvolume in the root tree.
#[derive(Clone, Copy, Debug)]
struct Known {
    refs: u32,
    /// It may have entries of subvolumes that do not hang in it.
    is_snapshot: bool,
}

/// What the root tree says of how subvolumes hang.
#[derive(Debug, Default)]
pub struct RootLinks {
    subvolumes: BTreeMap<u64, Known>,
    orphans: BTreeSet<u64>,
    /// By child and parent: what ROOT_REF and ROOT_BACKREF say; none if it cannot be read.
    refs: BTreeMap<(u64, u64), Option<RootName>>,
    backrefs: BTreeMap<(u64, u64), Option<RootName>>,
}

impl RootLinks {
    /// Reads the root tree.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn load(store: &Store) -> Result<Self> {
        let mut links = Self::default();
        let mut cursor = store.cursor(TreeId::ROOT, &Key::MIN)?;
        while let Some((key, data)) = cursor.item() {
            links.item(&key, data);
            cursor.advance()?;
        }
        Ok(links)
    }

    fn item(&mut self, key: &Key, data: &[u8]) {
        match key.item_type {
            ItemType::ROOT_ITEM if TreeId(key.objectid).is_subvolume() => {
                let Ok(item) = RootItem::parse(data) else { return };
                let told = item.uuid != [0; 16] || key.objectid == TreeId::FS.0;
                // The key of a snapshot has the transaction that made it; old ones have no UUID of a parent.
                let by_uuid = item.parent_uuid != [0; 16] || item.received_uuid != [0; 16];
                let is_snapshot = key.offset != 0 || !told || by_uuid;
                self.subvolumes.insert(key.objectid, Known { refs: item.refs.get(), is_snapshot });
            }
            ItemType::ROOT_REF => {
                self.refs.insert((key.offset, key.objectid), root_name(key.offset, data));
            }
            ItemType::ROOT_BACKREF => {
                self.backrefs.insert((key.objectid, key.offset), root_name(key.objectid, data));
            }
            ItemType::ORPHAN_ITEM if key.objectid == objectid::ORPHAN => drop(self.orphans.insert(key.offset)),
            _ => {}
        }
    }

    /// Living subvolumes.
    pub fn living(&self) -> impl Iterator<Item = TreeId> {
        self.subvolumes.keys().filter(|id| self.exists(**id)).map(|id| TreeId(*id))
    }

    /// What hangs in a subvolume, by either word.
    pub fn children(&self, parent: TreeId) -> Vec<RootName> {
        let of = |links: &BTreeMap<(u64, u64), Option<RootName>>| {
            let own = links.iter().filter(move |((_, in_tree), _)| *in_tree == parent.0);
            own.filter_map(|(_, name)| name.clone()).collect::<Vec<_>>()
        };
        let mut all = of(&self.refs);
        all.extend(of(&self.backrefs));
        all.sort_by(|a, b| (a.child, a.dir, &a.name, a.index).cmp(&(b.child, b.dir, &b.name, b.index)));
        all.dedup();
        all
    }

    fn hangs_in(&self, child: u64, parent: u64) -> bool {
        self.refs.contains_key(&(child, parent)) || self.backrefs.contains_key(&(child, parent))
    }

    fn hangs(&self, child: u64) -> bool {
        self.backrefs.range((child, 0)..=(child, u64::MAX)).next().is_some()
            || self.refs.range((child, 0)..=(child, u64::MAX)).next().is_some()
    }

    /// Living subvolumes that no directory has, given all entries: they need a place.
    pub fn homeless(&self, found: &BTreeMap<TreeId, Vec<RootName>>) -> Vec<u64> {
        let named: BTreeSet<u64> = found.values().flatten().map(|name| name.child.0).collect();
        let homeless = |id: &u64| *id != TreeId::FS.0 && self.exists(*id) && !named.contains(id);
        self.subvolumes.keys().copied().filter(homeless).collect()
    }

    /// Makes references fit the entries that were found, by parent.
    ///
    /// # Errors
    /// If the root tree cannot be edited.
    pub fn settle(&self, workspace: &mut Workspace, found: &BTreeMap<TreeId, Vec<RootName>>) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        let wanted = self.wanted(found);
        let pairs: BTreeSet<(u64, u64)> =
            self.refs.keys().chain(self.backrefs.keys()).chain(wanted.keys()).copied().collect();
        for pair in pairs {
            let want = wanted.get(&pair);
            for (stored, key) in [
                (self.refs.get(&pair), Key::new(pair.1, ItemType::ROOT_REF, pair.0)),
                (self.backrefs.get(&pair), Key::new(pair.0, ItemType::ROOT_BACKREF, pair.1)),
            ] {
                if stored.map(Option::as_ref) == want.map(|want| Some(Some(*want))).unwrap_or(None) {
                    continue;
                }
                let place = Place::item(TreeId::ROOT, &key);
                match want {
                    Some(name) => {
                        let item = RootRef { dirid: name.dir, sequence: name.index, name: &name.name };
                        tree::put(&mut workspace.store, TreeId::ROOT, &key, &item.pack())?;
                        let words = format!("is {:?} in directory {}", String::from_utf8_lossy(&name.name), name.dir);
                        steps.push(Step::new("root-ref", place, words));
                    }
                    None => {
                        tree::remove(&mut workspace.store, TreeId::ROOT, &key)?;
                        steps.push(Step::new("root-ref", place, "no directory has such an entry; removed"));
                    }
                }
            }
        }
        steps.extend(self.counts(workspace, &wanted)?);
        Ok(steps)
    }

    /// Which subvolume hangs where: where both say so; else in the first tree that is no snapshot.
    fn wanted<'f>(&self, found: &'f BTreeMap<TreeId, Vec<RootName>>) -> BTreeMap<(u64, u64), &'f RootName> {
        let mut by_child: BTreeMap<u64, Vec<(u64, &RootName)>> = BTreeMap::new();
        for (parent, names) in found {
            for name in names.iter().filter(|name| self.exists(name.child.0)) {
                by_child.entry(name.child.0).or_default().push((parent.0, name));
            }
        }
        let mut wanted = BTreeMap::new();
        for (child, mut places) in by_child {
            places.sort_by_key(|(parent, _)| {
                let is_snapshot = self.subvolumes.get(parent).is_some_and(|known| known.is_snapshot);
                (!self.hangs_in(child, *parent), is_snapshot, *parent)
            });
            if let Some((parent, name)) = places.first() {
                wanted.insert((child, *parent), *name);
            }
        }
        wanted
    }

    fn counts(&self, workspace: &mut Workspace, wanted: &BTreeMap<(u64, u64), &RootName>) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        for (id, known) in self.subvolumes.iter().filter(|(id, _)| **id != TreeId::FS.0 && self.exists(**id)) {
            let hangs = wanted.range((*id, 0)..=(*id, u64::MAX)).count() as u32;
            if hangs == known.refs || hangs == 0 {
                continue;
            }
            workspace.store.change_root_item(TreeId(*id), |item| item.refs = hangs.into())?;
            let words = format!("{} references, it hangs in {hangs} trees: set", known.refs);
            steps.push(Step::new("root-refs", Place::subvolume(*id), words));
        }
        Ok(steps)
    }
}

impl Subvolumes for RootLinks {
    /// One without references that nothing is to delete lives if it hangs somewhere.
    fn exists(&self, id: u64) -> bool {
        let lives = |known: &Known| known.refs > 0 || !self.orphans.contains(&id) && self.hangs(id);
        self.subvolumes.get(&id).is_some_and(lives)
    }

    fn may_be_in(&self, child: u64, tree: TreeId) -> bool {
        let foreign = self.subvolumes.get(&tree.0).is_some_and(|known| known.is_snapshot);
        foreign || self.exists(child) && (self.hangs_in(child, tree.0) || !self.hangs(child))
    }
}

fn root_name(child: u64, data: &[u8]) -> Option<RootName> {
    let item = RootRef::parse(data).ok()?;
    Some(RootName { child: TreeId(child), dir: item.dirid, index: item.sequence, name: item.name.to_vec() })
}

/// Mends what else is in the root tree: the default subvolume, files of the space cache, foreign keys.
///
/// # Errors
/// If the root tree cannot be edited.
pub fn mend_rest(workspace: &mut Workspace, links: &RootLinks) -> Result<Vec<Step>> {
    let mut changes: Vec<(Key, Option<Vec<u8>>)> = Vec::new();
    let mut steps = Vec::new();
    let newest = workspace.store.superblock.generation.get();
    let mut cursor = workspace.store.cursor(TreeId::ROOT, &Key::MIN)?;
    while let Some((key, data)) = cursor.item() {
        let change = match key.item_type {
            ItemType::INODE_ITEM => inode(&key, data, newest),
            ItemType::DIR_ITEM if key.objectid == TreeId::ROOT_TREE_DIR.0 => default_entry(&key, data, links),
            kind if is_known(kind) => None,
            _ => Some((None, "does not belong here; removed".to_owned())),
        };
        if let Some((data, words)) = change {
            steps.push(Step::new("root-tree", Place::item(TreeId::ROOT, &key), words));
            changes.push((key, data));
        }
        cursor.advance()?;
    }
    drop(cursor);
    for (key, data) in changes {
        match data {
            Some(data) => tree::put(&mut workspace.store, TreeId::ROOT, &key, &data)?,
            None => drop(tree::remove(&mut workspace.store, TreeId::ROOT, &key)?),
        }
    }
    Ok(steps)
}

fn is_known(kind: ItemType) -> bool {
    use ItemType as T;
    [
        T::INODE_ITEM,
        T::INODE_REF,
        T::INODE_EXTREF,
        T::XATTR_ITEM,
        T::ORPHAN_ITEM,
        T::DIR_ITEM,
        T::DIR_INDEX,
        T::EXTENT_DATA,
        T::ROOT_ITEM,
        T::ROOT_REF,
        T::ROOT_BACKREF,
        T::TEMPORARY_ITEM,
        T::PERSISTENT_ITEM,
        T::UNTYPED,
    ]
    .contains(&kind)
}

/// What an item becomes, and why.
type Change = (Option<Vec<u8>>, String);

/// Files of the space cache have one mode, and the directory of trees is one.
fn inode(key: &Key, data: &[u8], newest: u64) -> Option<Change> {
    let mut item: InodeItem = read_exact(data).ok()?;
    let mut told = Vec::new();
    let mode = item.mode.get();
    let is_dir = key.objectid == TreeId::ROOT_TREE_DIR.0;
    let right = if is_dir { 0o040_000 | mode & 0o7777 } else { CACHE_MODE };
    if mode != right {
        told.push(format!("mode {mode:#o} to {right:#o}"));
        item.mode = right.into();
    }
    for (name, field) in [("generation", &mut item.generation), ("transid", &mut item.transid)] {
        if field.get() > newest {
            told.push(format!("{name} {field} to {newest}"));
            *field = newest.into();
        }
    }
    (!told.is_empty()).then(|| (Some(item.as_bytes().to_vec()), told.join(", ")))
}

fn default_entry(key: &Key, data: &[u8], links: &RootLinks) -> Option<Change> {
    let good = |entry: &Entry| {
        entry.location.item_type == ItemType::ROOT_ITEM && links.subvolumes.contains_key(&entry.location.objectid)
    };
    let found = entries(key, data);
    if key.offset != name_hash(DEFAULT)
        || found.iter().all(|entry| good(entry) && entry.file_type == FileType::Directory)
    {
        return None;
    }
    let transid = found.first().map_or(0, |entry| entry.transid);
    let known = found.iter().find(|entry| good(entry)).map(|entry| entry.location);
    let location = known.unwrap_or(Key::new(TreeId::FS.0, ItemType::ROOT_ITEM, u64::MAX));
    let entry = Entry { location, transid, file_type: FileType::Directory, name: DEFAULT.to_vec(), value: Vec::new() };
    let mut out = Vec::new();
    entry.pack(&mut out);
    Some((Some(out), format!("the default subvolume is {} now", location.objectid)))
}

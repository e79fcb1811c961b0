//! One subvolume: its items are read into a [`Model`], its names and inodes decided, and what differs is edited.

use std::collections::{BTreeMap, BTreeSet};

use butterfs_check::Place;
use butterfs_engine::tree::TreeWriter;
use butterfs_format::hash::{extref_hash, name_hash};
use butterfs_format::ids::objectid;
use butterfs_format::items::{FileType, InodeExtref, InodeRef};
use butterfs_format::superblock::Incompat;
use butterfs_format::{Ino, ItemType, Key, TreeId, key::is_user_objectid};
use zerocopy::IntoBytes;

use super::edits::Edits;
use super::evidence::Evidence;
use super::extents;
use super::found::{New, TOP, connect};
use super::inodes::{Around, count_names, decide_types, mended};
use super::items::Entry;
use super::model::{Model, Target};
use super::names::{At, Link, Names, Subvolumes, resolve};
use super::salvage::one_bit_keys;
use super::xattrs;
use crate::error::Result;
use crate::plan::Step;
use crate::workspace::Workspace;

/// The most names of one inode in one directory that fit into INODE_REF; the others have INODE_EXTREF.
const MAX_INODE_REF: usize = 3900;

/// Where another subvolume hangs, by its own word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootName {
    /// The subvolume.
    pub child: TreeId,
    /// The directory.
    pub dir: u64,
    /// The index in it.
    pub index: u64,
    /// The name.
    pub name: Vec<u8>,
}

/// What a subvolume needs to know of the others.
pub struct Surroundings<'a> {
    /// Which there are.
    pub subvolumes: &'a dyn Subvolumes,
    /// Those that hang here by their own word.
    pub children: &'a [RootName],
    /// What other trees say of data.
    pub evidence: &'a Evidence,
    /// Subvolumes that hang nowhere, and shall hang here.
    pub homeless: &'a [u64],
}

/// What was found for one subvolume.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Changes of its items.
    pub edits: Edits,
    /// What they do.
    pub steps: Vec<Step>,
    /// Subvolumes that hang here.
    pub children: Vec<RootName>,
}

/// Decides what is to be done in a subvolume.
///
/// # Errors
/// If the tree cannot be read.
pub fn mend(workspace: &Workspace, tree: TreeId, around: &Surroundings<'_>) -> Result<Outcome> {
    let mut loader = Loader::new(workspace, tree, around);
    loader.load()?;
    let Loader { mut model, out, .. } = loader;
    let mut mender = Mender { workspace, tree, out };
    for child in around.children {
        model.root_reference(child.child, child.dir, child.index, &child.name);
    }
    model.inode(TOP);
    for key in &model.spoiled {
        let step = Step::new("directory-entry", Place::item(tree, key), "cannot be read as it is; written anew");
        mender.out.steps.push(step);
    }
    let mut names = resolve(&mut model, tree, around.subvolumes);
    let mut types = decide_types(&mut model, &names);
    let generation = workspace.store.generation().0;
    connect(&mut model, &mut names, &mut types, &New { generation, homeless: around.homeless });
    mender.inodes(&model, &names, &types);
    mender.names(&names, &types)?;
    mender.orphans(&model, &names);
    let children = names.links.iter().filter_map(|(at, link)| root_name(at, link));
    mender.out.children = children.collect();
    Ok(mender.out)
}

fn root_name(at: &At, link: &Link) -> Option<RootName> {
    let Target::Subvolume(id) = link.target else { return None };
    Some(RootName { child: TreeId(id), dir: at.0, index: link.index, name: at.1.clone() })
}

/// Reads the items; those that can be judged alone are mended on the way.
struct Loader<'a> {
    workspace: &'a Workspace,
    tree: TreeId,
    around: &'a Surroundings<'a>,
    model: Model,
    out: Outcome,
    /// The extents of the inode that is read.
    extents: (u64, Vec<(Key, Vec<u8>, u64)>),
    cache_told: bool,
}

impl<'a> Loader<'a> {
    fn new(workspace: &'a Workspace, tree: TreeId, around: &'a Surroundings<'a>) -> Self {
        let (model, out) = (Model::default(), Outcome::default());
        Self { workspace, tree, around, model, out, extents: (0, Vec::new()), cache_told: false }
    }

    fn load(&mut self) -> Result<()> {
        let store = &self.workspace.store;
        let mut cursor = store.cursor(self.tree, &Key::MIN)?;
        while let Some((key, data)) = cursor.item() {
            if self.extents.0 != key.objectid {
                self.close_extents();
            }
            let generation = cursor.leaf().map_or(0, |leaf| leaf.generation().0);
            let data = data.to_vec();
            self.item(key, &data, generation);
            cursor.advance()?;
        }
        self.close_extents();
        self.without_extents();
        Ok(())
    }

    /// Files that have lost all their extents, where holes need items.
    fn without_extents(&mut self) {
        let no_holes = self.workspace.store.superblock.incompat().contains(Incompat::NO_HOLES);
        let bare = |inode: &super::model::Inode| {
            let file = inode.item.filter(|item| FileType::from_mode(item.mode.get()) == FileType::Regular);
            inode.extents.count == 0 && file.is_some_and(|item| item.size.get() > 0 && item.nlink.get() > 0)
        };
        let files: Vec<u64> =
            self.model.inodes.iter().filter(|(_, inode)| !no_holes && bare(inode)).map(|(ino, _)| *ino).collect();
        for ino in files {
            self.mend_extents(ino, Vec::new());
        }
    }

    fn item(&mut self, key: Key, data: &[u8], generation: u64) {
        let is_user = is_user_objectid(key.objectid);
        match key.item_type {
            ItemType::ORPHAN_ITEM if key.objectid == objectid::ORPHAN => drop(self.model.orphans.insert(key.offset)),
            _ if [objectid::FREE_INO, objectid::FREE_SPACE].contains(&key.objectid) => self.inode_cache(&key),
            ItemType::INODE_ITEM if is_user && key.offset == 0 => self.model.inode_item(&key, data, generation),
            ItemType::INODE_REF | ItemType::INODE_EXTREF if is_user => self.model.references(&key, data),
            ItemType::DIR_ITEM | ItemType::DIR_INDEX if is_user => self.model.entries(&key, data),
            ItemType::XATTR_ITEM if is_user => self.xattr(&key, data),
            ItemType::VERITY_DESC_ITEM | ItemType::VERITY_MERKLE_ITEM if is_user => {}
            ItemType::EXTENT_DATA if is_user => {
                self.model.inode(key.objectid);
                self.extents.0 = key.objectid;
                self.extents.1.push((key, data.to_vec(), generation));
            }
            _ => self.unknown(&key, data, generation),
        }
    }

    fn step(&mut self, name: &'static str, key: &Key, words: impl Into<String>) {
        self.out.steps.push(Step::new(name, Place::item(self.tree, key), words));
    }

    fn inode_cache(&mut self, key: &Key) {
        self.out.edits.remove(self.tree, *key);
        if !std::mem::replace(&mut self.cache_told, true) {
            self.step("inode-cache", key, "the inode number cache of old kernels, which nothing uses: removed");
        }
    }

    fn xattr(&mut self, key: &Key, data: &[u8]) {
        let Some(mended) = xattrs::mend(key, data) else { return };
        self.out.edits.remove(self.tree, *key);
        for (at, mut data) in mended.items {
            if at != *key
                && let Ok(Some(other)) = self.workspace.store.get(self.tree, &at)
            {
                data.extend(other);
            }
            self.out.edits.put(self.tree, at, data);
        }
        self.step("xattr", key, mended.words);
    }

    /// A key that does not belong here: perhaps of one that does, with one bit wrong in its type.
    fn unknown(&mut self, key: &Key, data: &[u8], generation: u64) {
        self.out.edits.remove(self.tree, *key);
        let candidates = one_bit_keys(key).filter(|other| other.item_type != key.item_type);
        let mut fitting = candidates.filter(|other| self.fits(other, data));
        match (fitting.next(), fitting.next()) {
            (Some(right), None) => {
                self.out.edits.put(self.tree, right, data.to_vec());
                self.step("unknown-key", key, format!("its type has a wrong bit: it is {right}"));
                self.item(right, data, generation);
            }
            _ => self.step("unknown-key", key, format!("does not belong here; its {} bytes are removed", data.len())),
        }
    }

    fn fits(&self, key: &Key, data: &[u8]) -> bool {
        let store = &self.workspace.store;
        let place = match key.item_type {
            ItemType::ORPHAN_ITEM => key.objectid == objectid::ORPHAN && data.is_empty(),
            ItemType::INODE_ITEM => key.offset == 0 && data.len() == 160 && is_user_objectid(key.objectid),
            ItemType::DIR_ITEM | ItemType::XATTR_ITEM => is_user_objectid(key.objectid) && !data.is_empty(),
            _ => false,
        };
        place
            && store.get(self.tree, key).is_ok_and(|found| found.is_none())
            && super::keeps_rules(store, self.tree, key, data)
    }

    fn close_extents(&mut self) {
        let (ino, items) = std::mem::take(&mut self.extents);
        if !items.is_empty() {
            self.mend_extents(ino, items);
        }
    }

    fn mend_extents(&mut self, ino: u64, items: Vec<(Key, Vec<u8>, u64)>) {
        let file = extents::File {
            ino,
            item: self.model.inodes.get(&ino).and_then(|inode| inode.item),
            evidence: self.around.evidence,
            store: &self.workspace.store,
            no_holes: self.workspace.store.superblock.incompat().contains(Incompat::NO_HOLES),
            ignore_sums: self.tree == TreeId::DATA_RELOC,
        };
        let mended = extents::mend(&file, &items);
        self.model.inode(ino).extents = mended.extents;
        let old: BTreeMap<Key, &Vec<u8>> = items.iter().map(|(key, data, _)| (*key, data)).collect();
        let new: BTreeSet<Key> = mended.items.iter().map(|(key, _)| *key).collect();
        old.keys().filter(|key| !new.contains(key)).for_each(|key| self.out.edits.remove(self.tree, *key));
        for (key, data) in mended.items {
            if old.get(&key) != Some(&&data) {
                self.out.edits.put(self.tree, key, data);
            }
        }
        let place = Place::inode(self.tree, ino);
        self.out.steps.extend(mended.changes.into_iter().map(|(name, words)| Step::new(name, place.clone(), words)));
    }
}

/// Writes what was decided.
struct Mender<'a> {
    workspace: &'a Workspace,
    tree: TreeId,
    out: Outcome,
}

impl Mender<'_> {
    fn inodes(&mut self, model: &Model, names: &Names, types: &super::found::Types) {
        let named = count_names(names);
        let store = &self.workspace.store;
        for (ino, inode) in model.inodes.iter().filter(|(_, inode)| inode.exists) {
            let is_half_deleted = inode.item.is_none() && model.orphans.contains(ino);
            let file_type = types.get(ino).copied().unwrap_or(FileType::Regular);
            let named = named.get(ino).copied().unwrap_or_default();
            if is_half_deleted && named.links == 0 {
                continue;
            }
            let around = Around { ino: *ino, file_type, named, newest: store.superblock.generation.get() };
            let (item, changes) = mended(inode, &around);
            if inode.item != Some(item) {
                let key = Key::new(*ino, ItemType::INODE_ITEM, 0);
                self.out.edits.put(self.tree, key, item.as_bytes().to_vec());
            }
            let place = Place::inode(self.tree, *ino);
            self.out.steps.extend(changes.into_iter().map(|(name, words)| Step::new(name, place.clone(), words)));
        }
        if !model.inodes.get(&TOP).is_some_and(|top| top.root_name) {
            let mut data = Vec::new();
            InodeRef { index: 0, name: b".." }.pack(&mut data);
            self.out.edits.put(self.tree, Key::new(TOP, ItemType::INODE_REF, TOP), data);
            let place = Place::inode(self.tree, TOP);
            self.out.steps.push(Step::new("inode-ref", place, "the top directory lacked its own name"));
        }
    }

    /// Writes the items of all names that changed: each key is made of all names that it holds.
    fn names(&mut self, names: &Names, types: &super::found::Types) -> Result<()> {
        let mut keys: BTreeSet<Key> = names.spoiled.iter().filter(|key| **key != Key::MIN).copied().collect();
        for at in &names.changed {
            keys.insert(Key::new(at.0, ItemType::DIR_ITEM, name_hash(&at.1)));
            if let Some(link) = names.links.get(at) {
                keys.insert(Key::new(at.0, ItemType::DIR_INDEX, link.index));
                if let Target::Inode(ino) = link.target {
                    keys.insert(Key::new(ino, ItemType::INODE_REF, at.0));
                    keys.insert(Key::new(ino, ItemType::INODE_EXTREF, extref_hash(Ino(at.0), &at.1)));
                }
            }
        }
        self.wrong_types(names, types, &mut keys);
        all_references(names, &mut keys);
        let wanted = Wanted::of(names, types, &keys);
        for key in keys {
            let data = wanted.items.get(&key).filter(|data| !data.is_empty());
            let old = self.workspace.store.get(self.tree, &key)?;
            match (data, old) {
                (Some(data), old) if old.as_ref() != Some(data) => self.out.edits.put(self.tree, key, data.clone()),
                (None, Some(_)) => self.out.edits.remove(self.tree, key),
                _ => {}
            }
        }
        for (name, ino, words) in &names.steps {
            self.out.steps.push(Step::new(name, Place::inode(self.tree, *ino), words.clone()));
        }
        Ok(())
    }

    /// Entries whose type is not what their inode is.
    fn wrong_types(&mut self, names: &Names, types: &super::found::Types, keys: &mut BTreeSet<Key>) {
        for (at, link) in &names.links {
            let is = type_of(link, types);
            if link.types.iter().all(|said| *said == is) {
                continue;
            }
            keys.insert(Key::new(at.0, ItemType::DIR_ITEM, name_hash(&at.1)));
            keys.insert(Key::new(at.0, ItemType::DIR_INDEX, link.index));
            let words = format!("{:?} is a {is}, its entries say otherwise", String::from_utf8_lossy(&at.1));
            self.out.steps.push(Step::new("directory-entry", Place::inode(self.tree, at.0), words));
        }
    }

    /// Inodes without links that nothing would ever delete.
    fn orphans(&mut self, model: &Model, names: &Names) {
        let named: BTreeSet<Target> = names.links.values().map(|link| link.target).collect();
        for (ino, inode) in &model.inodes {
            let deleted = inode.item.is_some_and(|item| item.nlink.get() == 0);
            if deleted && *ino != TOP && !named.contains(&Target::Inode(*ino)) && !model.orphans.contains(ino) {
                let key = Key::new(objectid::ORPHAN, ItemType::ORPHAN_ITEM, *ino);
                self.out.edits.put(self.tree, key, Vec::new());
                let words = "no links, and no orphan item: it has one now, and the next mount deletes it";
                self.out.steps.push(Step::new("orphan-item", Place::inode(self.tree, *ino), words));
            }
        }
    }
}

/// Where one name of an inode is written anew, all of them are: which of the two kinds of items a name is in depends
/// on the others.
fn all_references(names: &Names, keys: &mut BTreeSet<Key>) {
    let is_reference = |key: &&Key| [ItemType::INODE_REF, ItemType::INODE_EXTREF].contains(&key.item_type);
    let inodes: BTreeSet<u64> = keys.iter().filter(is_reference).map(|key| key.objectid).collect();
    for (at, link) in &names.links {
        if let Target::Inode(ino) = link.target
            && inodes.contains(&ino)
        {
            keys.insert(Key::new(ino, ItemType::INODE_REF, at.0));
            keys.insert(Key::new(ino, ItemType::INODE_EXTREF, extref_hash(Ino(at.0), &at.1)));
        }
    }
}

fn type_of(link: &Link, types: &super::found::Types) -> FileType {
    match link.target {
        Target::Inode(ino) => types.get(&ino).copied().unwrap_or(FileType::Unknown),
        Target::Subvolume(_) => FileType::Directory,
    }
}

/// The data of items as the names want them.
struct Wanted {
    items: BTreeMap<Key, Vec<u8>>,
}

impl Wanted {
    /// Of these keys; names of one inode in one directory that do not fit into its INODE_REF go to INODE_EXTREF.
    fn of(names: &Names, types: &super::found::Types, keys: &BTreeSet<Key>) -> Self {
        let mut wanted = Self { items: BTreeMap::new() };
        for (at, link) in &names.links {
            wanted.entries(at, link, type_of(link, types), keys);
            if let Target::Inode(ino) = link.target {
                wanted.reference(at, link, ino, keys);
            }
        }
        wanted
    }

    fn entries(&mut self, at: &At, link: &Link, file_type: FileType, keys: &BTreeSet<Key>) {
        let entry = Entry {
            location: link.target.location(),
            transid: link.transid,
            file_type,
            name: at.1.clone(),
            value: Vec::new(),
        };
        let item = Key::new(at.0, ItemType::DIR_ITEM, name_hash(&at.1));
        for key in [item, Key::new(at.0, ItemType::DIR_INDEX, link.index)] {
            if keys.contains(&key) {
                entry.pack(self.items.entry(key).or_default());
            }
        }
    }

    fn reference(&mut self, at: &At, link: &Link, ino: u64, keys: &BTreeSet<Key>) {
        let reference = Key::new(ino, ItemType::INODE_REF, at.0);
        let extended = Key::new(ino, ItemType::INODE_EXTREF, extref_hash(Ino(at.0), &at.1));
        if !keys.contains(&reference) {
            return;
        }
        let data = self.items.entry(reference).or_default();
        if data.len() + InodeRef::packed_size(at.1.len()) <= MAX_INODE_REF {
            InodeRef { index: link.index, name: &at.1 }.pack(data);
        } else {
            let data = self.items.entry(extended).or_default();
            InodeExtref { parent: at.0, index: link.index, name: &at.1 }.pack(data);
        }
    }
}

//! Which trees there are, and where they begin: by the root tree, and where it is lost by the newest root block that
//! was found of each tree.

use std::collections::{BTreeMap, HashMap};

use butterfs_format::block::MAX_LEVEL;
use butterfs_format::items::{RootItem, RootRef};
use butterfs_format::validate::Expected;
use butterfs_format::{Generation, ItemType, Key, Logical, TreeId};

use crate::error::{Error, Result};
use crate::fill::{Evidence, Filling};
use crate::guess::newest_roots;
use crate::outline::{LeafRef, Outline, Start, Trust};
use crate::report::LostBlock;
use crate::source::{Block, Source};

/// Where a subvolume hangs: the tree, the directory in it, the name.
pub type Hook = (TreeId, u64, Vec<u8>);

/// A tree.
#[derive(Clone, Debug)]
pub struct Root {
    /// Its number.
    pub id: TreeId,
    /// Where it begins.
    pub start: Start,
    /// Its root item, unless that is lost.
    pub item: Option<RootItem>,
    /// The key of its root item, as far as it is known.
    pub key: Key,
    /// How far it is to be believed that it begins there.
    pub trust: Trust,
}

impl Root {
    /// Whether it is a snapshot: their root items tell when they were made.
    pub fn is_snapshot(&self) -> bool {
        self.key.offset != 0
    }
}

/// The trees.
#[derive(Default)]
pub struct Roots {
    /// By number.
    pub trees: BTreeMap<TreeId, Root>,
    /// Where each subvolume hangs, as far as that is known.
    pub hooks: HashMap<TreeId, Hook>,
    /// What of the root tree cannot be read.
    pub lost: Vec<LostBlock>,
}

/// What one thread found in leaves of the root tree.
#[derive(Default)]
struct Catch {
    roots: Vec<Root>,
    hooks: Vec<(Trust, TreeId, Hook)>,
}

/// Finds the trees; `at` is the root block of the root tree, if another is wanted than that of the superblock.
///
/// # Errors
/// If there is no block at `at`.
pub fn find(source: &Source, at: Option<Logical>) -> Result<Roots> {
    let start = root_tree(source, at)?;
    let mut outline = Outline::new(source, TreeId::ROOT, start, &[], Filling::Unconfirmed);
    let catches = outline.sweep(source, Filling::Unconfirmed, Catch::take);
    let mut roots = Roots::default();
    catches.into_iter().for_each(|catch| roots.enter(catch));
    let search = Search { source, outline: &outline, at: at.filter(|at| *at != source.superblock().root()), start };
    if !search.is_proven(&roots) {
        roots.complete(&search);
    }
    roots.trees.retain(|_, root| root.item.is_none_or(|item| item.refs.get() > 0) || !root.id.is_subvolume());
    if let Some(replayed) = source.replayed().filter(|_| at.is_none()) {
        for root in roots.trees.values_mut() {
            root.start = replayed.start(root.id).unwrap_or(root.start);
        }
    }
    roots.lost = outline.lost;
    Ok(roots)
}

fn root_tree(source: &Source, at: Option<Logical>) -> Result<Start> {
    let Some(at) = at else {
        let sb = source.superblock();
        return Ok(Start { name: (sb.root(), sb.generation()), level: sb.root_level });
    };
    start_at(source, at)
}

/// Where a tree begins whose root block is at an address.
///
/// # Errors
/// If there is no tree block.
pub fn start_at(source: &Source, at: Logical) -> Result<Start> {
    let block = source.read(&Expected::at(at));
    let block = block.map_err(|problem| Error::Unknown(format!("no tree block at {at}: {problem}")))?.block;
    Ok(Start { name: (at, block.generation()), level: block.level() })
}

/// What roots are looked for in.
struct Search<'s> {
    source: &'s Source,
    /// The root tree.
    outline: &'s Outline,
    /// Where it begins, if another was asked for than the last.
    at: Option<Logical>,
    /// Where it begins.
    start: Start,
}

impl Search<'_> {
    /// Whether every root item is known. Where there is no superblock, a part of the root tree may pass for all of it.
    fn is_proven(&self, roots: &Roots) -> bool {
        self.outline.has_all() && (!self.is_made_up() || self.is_root_tree(roots))
    }

    fn is_root_tree(&self, roots: &Roots) -> bool {
        let evidence = Evidence::new(self.source, roots.start(TreeId::EXTENT));
        evidence.allocated().root_of(TreeId::ROOT) == Some(self.start)
    }

    /// Whether the superblock was made up; every filesystem uses some bytes.
    fn is_made_up(&self) -> bool {
        self.at.is_none() && self.source.superblock().bytes_used.get() == 0
    }

    fn is_lost(&self, id: TreeId) -> bool {
        let keys = Key::new(id.0, ItemType::ROOT_ITEM, 0)..Key::new(id.0, ItemType::ROOT_ITEM, u64::MAX);
        self.is_made_up() || !self.outline.is_whole(&keys)
    }

    fn kept(&self, id: TreeId) -> Option<Start> {
        kept(self.source, id).filter(|_| self.at.is_none())
    }
}

/// The root block that the superblock's backup of its own commit has, whether or not it can be read.
fn kept(source: &Source, id: TreeId) -> Option<Start> {
    let sb = source.superblock();
    let backup = sb
        .super_roots
        .iter()
        .find(|backup| backup.tree_root == sb.root && backup.tree_root_gen == sb.generation && sb.root.get() != 0)?;
    let (at, generation, level) = match id {
        TreeId::EXTENT => (backup.extent_root, backup.extent_root_gen, backup.extent_root_level),
        TreeId::CSUM => (backup.csum_root, backup.csum_root_gen, backup.csum_root_level),
        TreeId::FS => (backup.fs_root, backup.fs_root_gen, backup.fs_root_level),
        _ => return None,
    };
    let start = Start { name: (Logical(at.get()), Generation(generation.get())), level };
    let agrees = source.blocks().get(start.name).is_none_or(|found| found.level == level && found.owner == id);
    (agrees && start.name.0 != Logical(0) && level < MAX_LEVEL).then_some(start)
}

/// The newest root block that was found: of several one that is in use by the extent tree. A tree that was deleted
/// has blocks on the devices too, and none of them is in use.
fn newest(source: &Source, id: TreeId, evidence: Option<&Evidence<'_>>) -> Option<Start> {
    let roots = newest_roots(source.blocks(), id, source.superblock().generation());
    let standing = |name| evidence.and_then(|evidence| evidence.allocated().has(name));
    let in_use = roots.iter().find(|(name, _)| standing(*name) == Some(true));
    let best = in_use.or_else(|| roots.iter().find(|(name, _)| id == TreeId::FS || standing(*name).is_none()));
    best.map(|(name, level)| Start { name: *name, level: *level })
}

impl Catch {
    fn take(&mut self, leaf: &LeafRef, block: &Block) {
        for (key, data) in leaf.items(block) {
            match key.item_type {
                ItemType::ROOT_ITEM => self.roots.extend(root(&key, data, leaf.trust)),
                ItemType::ROOT_BACKREF => {
                    if let Ok(back) = RootRef::parse(data) {
                        let hook = (TreeId(key.offset), back.dirid, back.name.to_vec());
                        self.hooks.push((leaf.trust, TreeId(key.objectid), hook));
                    }
                }
                _ => {}
            }
        }
    }
}

fn root(key: &Key, data: &[u8], trust: Trust) -> Option<Root> {
    let item = RootItem::parse(data).ok()?;
    let start = Start { name: (item.bytenr(), item.generation()), level: item.level };
    Some(Root { id: TreeId(key.objectid), start, item: Some(item), key: *key, trust })
}

impl Roots {
    /// Of several root items of one tree the current counts, then the newest.
    fn enter(&mut self, mut catch: Catch) {
        catch.hooks.sort();
        catch.hooks.into_iter().rev().for_each(|(_, tree, hook)| drop(self.hooks.insert(tree, hook)));
        for root in catch.roots {
            let rank = |root: &Root| (std::cmp::Reverse(root.trust), root.start.name.1);
            let known = self.trees.entry(root.id).or_insert_with(|| root.clone());
            if rank(&root) > rank(known) {
                *known = root;
            }
        }
    }

    /// Where root items are lost: the root blocks that the superblock keeps, then what the extent tree says, then the
    /// newest that were found, which is a guess. An extent tree or checksums that are not of the last commit would be
    /// false witnesses: they are left out.
    fn complete(&mut self, search: &Search<'_>) {
        let source = search.source;
        if search.is_lost(TreeId::EXTENT) {
            self.take_extent_tree(search);
        }
        let evidence = Evidence::new(source, self.start(TreeId::EXTENT));
        let mut owners: Vec<TreeId> = source.blocks().iter().map(|(_, found)| found.owner).collect();
        owners.extend(evidence.allocated().trees().chain(self.trees.keys().copied()).chain([TreeId::FS]));
        owners.sort_unstable();
        owners.dedup();
        let wanted = |id: &TreeId| *id == TreeId::CSUM || id.is_subvolume();
        for id in owners.into_iter().filter(|id| wanted(id) && search.is_lost(*id)) {
            self.take_best(search, id, &evidence);
        }
        let last = source.superblock().generation();
        let is_stale = |root: &Root| root.trust != Trust::Current && root.start.name.1 != last;
        self.trees.retain(|id, root| *id != TreeId::CSUM || !is_stale(root));
    }

    fn take_extent_tree(&mut self, search: &Search<'_>) {
        let (source, id) = (search.source, TreeId::EXTENT);
        if self.is_current(id) {
            return;
        }
        self.trees.remove(&id);
        let proven = |start: &Start| Evidence::new(source, Some(*start)).allocated().proves(*start, source);
        if let Some(start) = search.kept(id).or_else(|| newest(source, id, None).filter(proven)) {
            self.begin(id, start, Trust::Current);
        }
    }

    fn is_current(&self, id: TreeId) -> bool {
        self.trees.get(&id).is_some_and(|root| root.trust == Trust::Current)
    }

    /// Begins a tree whose root item is lost at the best that is known of it.
    fn take_best(&mut self, search: &Search<'_>, id: TreeId, evidence: &Evidence<'_>) {
        if self.is_current(id) {
            return;
        }
        if let Some(start) = search.kept(id).or_else(|| evidence.allocated().root_of(id)) {
            return self.begin(id, start, Trust::Current);
        }
        let known = self.trees.get(&id).map(|root| root.start.name.1);
        match newest(search.source, id, Some(evidence)) {
            Some(start) if known.is_none_or(|known| known <= start.name.1) => self.begin(id, start, Trust::Older),
            // It was deleted.
            None if evidence.allocated().is_whole() && id != TreeId::FS => drop(self.trees.remove(&id)),
            _ => {}
        }
    }

    fn begin(&mut self, id: TreeId, start: Start, trust: Trust) {
        let known = self.trees.get(&id);
        let (item, key) = known.map_or((None, Key::new(id.0, ItemType::ROOT_ITEM, 0)), |root| (root.item, root.key));
        self.trees.insert(id, Root { id, start, item, key, trust });
    }

    /// Where a tree begins.
    pub fn start(&self, id: TreeId) -> Option<Start> {
        self.trees.get(&id).map(|root| root.start)
    }

    /// The trees that a subvolume may share blocks with: what it was made of, and that what it was made of.
    pub fn kin(&self, id: TreeId) -> Vec<TreeId> {
        let mut kin = Vec::new();
        let mut next = Some(id);
        while let Some(item) = next.and_then(|id| self.trees.get(&id)?.item)
            && item.parent_uuid != [0; 16]
        {
            let is_parent = |root: &&Root| root.item.is_some_and(|other| other.uuid == item.parent_uuid);
            next = self.trees.values().find(is_parent).map(|root| root.id).filter(|id| !kin.contains(id));
            kin.extend(next);
        }
        kin
    }
}

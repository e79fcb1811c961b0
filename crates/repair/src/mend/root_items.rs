//! Root items: where trees begin. What the root block says of itself is right, and so is the extent tree, which
//! knows blocks that no root item leads to. Items that are lost are in [`super::lost_roots`].

use std::collections::BTreeMap;

use butterfs_check::{Finding, Kind, Place};
use butterfs_engine::tree;
use butterfs_format::block::MAX_LEVEL;
use butterfs_format::ids::FIRST_FREE_OBJECTID;
use butterfs_format::items::{RootFlags, RootItem, V1_ROOT_ITEM_SIZE};
use butterfs_format::validate::Expected;
use butterfs_format::{Generation, ItemType, Key, Logical, TreeBlock, TreeId};
use zerocopy::{FromBytes, IntoBytes};

use super::reclaim::{Stray, Strays};
use crate::error::Result;
use crate::plan::Step;
use crate::store::Store;
use crate::workspace::Workspace;

/// Mends root items.
///
/// # Errors
/// If the root tree cannot be edited.
pub fn run(workspace: &mut Workspace) -> Result<Vec<Step>> {
    if !workspace.survey.is_whole(TreeId::ROOT) {
        return Ok(Vec::new());
    }
    let items = load(&workspace.store)?;
    let mut mender = Items { workspace, strays: None, changes: Vec::new(), steps: Vec::new() };
    for (key, data) in &items {
        mender.item(key, data);
    }
    mender.duplicates(&items);
    let (changes, steps) = (mender.changes, mender.steps);
    let changed = !changes.is_empty();
    for (key, data) in changes {
        match data {
            Some(data) => tree::put(&mut workspace.store, TreeId::ROOT, &key, &data)?,
            None => drop(tree::remove(&mut workspace.store, TreeId::ROOT, &key)?),
        }
        workspace.store.forget_root(TreeId(key.objectid));
    }
    if changed {
        workspace.look_again();
    }
    Ok(steps)
}

/// The root items.
fn load(store: &Store) -> Result<Vec<(Key, Vec<u8>)>> {
    let mut roots = Vec::new();
    let mut cursor = store.cursor(TreeId::ROOT, &Key::MIN)?;
    while let Some((key, data)) = cursor.item() {
        if key.item_type == ItemType::ROOT_ITEM {
            roots.push((key, data.to_vec()));
        }
        cursor.advance()?;
    }
    Ok(roots)
}

struct Items<'w> {
    workspace: &'w Workspace,
    strays: Option<Strays>,
    changes: Vec<(Key, Option<Vec<u8>>)>,
    steps: Vec<Step>,
}

impl Items<'_> {
    fn step(&mut self, name: &'static str, key: &Key, words: String) {
        self.steps.push(Step::new(name, Place::item(TreeId::ROOT, key), words));
    }

    /// Sets the fields of an item right.
    fn item(&mut self, key: &Key, data: &[u8]) {
        let mut bytes = vec![0; size_of::<RootItem>()];
        let known = data.len().min(bytes.len());
        bytes[..known].copy_from_slice(&data[..known]);
        let Ok(mut item) = RootItem::read_from_bytes(&bytes) else { return };
        let mut told = Vec::new();
        let is_short = data.len() == V1_ROOT_ITEM_SIZE;
        if data.len() != size_of::<RootItem>() && !is_short {
            told.push(format!("{} bytes long", data.len()));
        }
        let had_tail = !is_short && item.generation_v2 == item.generation;
        self.place(TreeId(key.objectid), &mut item, &mut told);
        plain_fields(TreeId(key.objectid), &mut item, &mut told);
        counters(TreeId(key.objectid), &mut item, self.workspace.store.superblock.generation.get(), &mut told);
        let place = self.place_of_item(key, &mut told);
        if told.is_empty() {
            return;
        }
        // The tail is valid if it was before, or if only the first of the two generations was wrong.
        if had_tail || !is_short && item.generation_v2 == item.generation {
            item.generation_v2 = item.generation;
        } else {
            item.as_mut_bytes()[V1_ROOT_ITEM_SIZE..].fill(0);
        }
        let len = if is_short { V1_ROOT_ITEM_SIZE } else { size_of::<RootItem>() };
        if place != *key {
            self.changes.push((*key, None));
        }
        self.changes.push((place, Some(item.as_bytes()[..len].to_vec())));
        self.step("root-item", key, told.join(", "));
    }

    /// Of trees that there is one of, the item is looked for at offset 0.
    fn place_of_item(&self, key: &Key, told: &mut Vec<String>) -> Key {
        let tree = TreeId(key.objectid);
        let right = Key { offset: 0, ..*key };
        let is_single = tree.0 < FIRST_FREE_OBJECTID && tree != TreeId::FS || tree == TreeId::DATA_RELOC;
        let is_free = || matches!(self.workspace.store.get(TreeId::ROOT, &right), Ok(None));
        if key.offset == 0 || !is_single || !is_free() {
            return *key;
        }
        told.push(format!("offset {} to 0", key.offset));
        right
    }

    /// Where the tree begins.
    fn place(&mut self, tree: TreeId, item: &mut RootItem, told: &mut Vec<String>) {
        if tree == TreeId::TREE_RELOC {
            return;
        }
        if is_exact(&self.workspace.store, tree, item) {
            return self.outdated(tree, item, told);
        }
        let own = root_block(&self.workspace.store, tree, item.bytenr());
        let agrees = |block: &TreeBlock| {
            block.generation().0 == item.generation_v2.get() || block.generation() == item.generation()
        };
        let right = match own {
            Some(block) if agrees(&block) => Some((item.bytenr(), block.level(), block.generation())),
            own => self
                .moved(tree, item)
                .or_else(|| self.stray_root(tree, item))
                // Two words of the item's against one of the block's: then it is the block that is damaged.
                .or_else(|| {
                    let own = own.filter(|_| item.generation != item.generation_v2);
                    own.map(|block| (item.bytenr(), block.level(), block.generation()))
                }),
        };
        let Some((at, level, generation)) = right else { return };
        let newest = self.workspace.store.superblock.generation();
        if generation > newest {
            return;
        }
        let words = |what, old: u64, new: u64| (old != new).then(|| format!("{what} {old} is {new}"));
        told.extend(words("address", item.bytenr.get(), at.0));
        told.extend(words("level", item.level.into(), level.into()));
        told.extend(words("generation", item.generation.get(), generation.0));
        item.bytenr = at.0.into();
        item.level = level;
        item.generation = generation.0.into();
    }

    /// An old kernel's balance left root items behind: the extent tree knows a newer root, and the one that the
    /// item leads to no more.
    fn outdated(&mut self, tree: TreeId, item: &mut RootItem, told: &mut Vec<String>) {
        let at = Some(item.bytenr());
        let missing = |f: &Finding| f.kind == Kind::MissingExtent && f.place.bytenr == at;
        if !self.workspace.report.findings.iter().any(missing) {
            return;
        }
        if let Some((at, level, generation)) = self.stray_root(tree, item).filter(|root| root.0 != item.bytenr()) {
            told.push(format!("outdated: the tree begins at {at} since generation {generation}"));
            (item.bytenr, item.level, item.generation) = (at.0.into(), level, generation.0.into());
        }
    }

    /// The one block whose address differs in one bit and that is just this tree's root.
    fn moved(&self, tree: TreeId, item: &RootItem) -> Option<(Logical, u8, Generation)> {
        let at = |bit: u32| Logical(item.bytenr.get() ^ (1 << bit));
        let is_root = |at: &Logical| is_exact(&self.workspace.store, tree, &RootItem { bytenr: at.0.into(), ..*item });
        let mut found = (0..u64::BITS).map(at).filter(is_root);
        let (first, second) = (found.next(), found.next());
        first.filter(|_| second.is_none()).map(|at| (at, item.level, item.generation()))
    }

    /// The root of the tree that the extent tree knows and no item leads to.
    fn stray_root(&mut self, tree: TreeId, item: &RootItem) -> Option<(Logical, u8, Generation)> {
        let roots = self.strays().roots(tree);
        let exact = |root: &&Stray| root.level == item.level && root.generation == item.generation();
        // Several of one level are no root, but the children of a root that is lost.
        let newer = roots
            .first()
            .filter(|root| roots.len() == 1 && root.level >= item.level && root.generation >= item.generation());
        let root = roots.iter().find(exact).or(newer)?;
        Some((root.at, root.level, root.generation))
    }

    fn strays(&mut self) -> &Strays {
        let workspace = self.workspace;
        self.strays.get_or_insert_with(|| Strays::find(workspace))
    }

    /// Of trees that there is one of, a second item goes: the one that leads nowhere, or the later.
    fn duplicates(&mut self, items: &[(Key, Vec<u8>)]) {
        let mut first: BTreeMap<u64, (Key, bool)> = BTreeMap::new();
        for (key, data) in items {
            let tree = TreeId(key.objectid);
            if tree == TreeId::TREE_RELOC {
                continue;
            }
            let leads = RootItem::parse(data).is_ok_and(|item| is_exact(&self.workspace.store, tree, &item));
            let Some((other, other_leads)) = first.get(&key.objectid).copied() else {
                first.insert(key.objectid, (*key, leads));
                continue;
            };
            let gone = if leads && !other_leads { other } else { *key };
            if gone == other {
                first.insert(key.objectid, (*key, leads));
            }
            self.changes.push((gone, None));
            self.step("root-item", &gone, "a second root item of this tree; removed".into());
        }
    }
}

/// The block at an address, if it is of this tree.
fn root_block(store: &Store, tree: TreeId, at: Logical) -> Option<std::sync::Arc<TreeBlock>> {
    store.read(&Expected { owner: Some(tree), ..Expected::at(at) }).ok()
}

fn is_exact(store: &Store, tree: TreeId, item: &RootItem) -> bool {
    let expected = Expected {
        level: Some(item.level),
        generation: Some(item.generation()),
        owner: Some(tree),
        ..Expected::at(item.bytenr())
    };
    store.read(&expected).is_ok()
}

fn plain_fields(tree: TreeId, item: &mut RootItem, told: &mut Vec<String>) {
    let flags = item.flags() & RootFlags::all();
    if flags != item.flags() {
        told.push(format!("flags {:#x} to {:#x}", item.flags.get(), flags.bits()));
        item.flags = flags.bits().into();
    }
    if !tree.is_subvolume() && tree != TreeId::DATA_RELOC {
        return;
    }
    if item.root_dirid.get() != 256 {
        told.push(format!("root directory {} to 256", item.root_dirid));
        item.root_dirid = 256.into();
    }
    let mode = item.inode.mode.get();
    // mkfs.btrfs of old versions left it out.
    let is_unset = tree == TreeId::DATA_RELOC && mode == 0;
    if mode & 0o170_000 != 0o040_000 && !is_unset {
        let right = 0o040_000 | mode & 0o7777;
        told.push(format!("mode {mode:#o} to {right:#o}"));
        item.inode.mode = right.into();
    }
}

/// What is kept of deletions, snapshots and references.
fn counters(tree: TreeId, item: &mut RootItem, newest: u64, told: &mut Vec<String>) {
    let progress = Key::from(item.drop_progress);
    let level = item.drop_level;
    let is_possible = level < MAX_LEVEL && (level > 0 || progress.objectid == 0);
    // Of one that is being deleted it says which blocks are gone: that is not guessed.
    if item.refs.get() > 0 && !is_possible {
        told.push(format!("a deletion came as far as {progress} on level {level}, which cannot be: cleared"));
        (item.drop_progress, item.drop_level) = (Key::MIN.into(), 0);
    }
    // Too high a number only costs look-ups; too low a one makes shared blocks seem the tree's own.
    if item.last_snapshot.get() > newest.saturating_add(1) {
        told.push(format!("last_snapshot {} to {newest}", item.last_snapshot));
        item.last_snapshot = newest.into();
    }
    if tree == TreeId::DATA_RELOC && item.refs.get() != 1 {
        told.push(format!("{} references to 1", item.refs));
        item.refs = 1.into();
    }
}

//! Root items that are lost: their trees are found again by the blocks that nothing leads to.
//!
//! # Invariants
//! * Before names or references of subvolumes are judged, each tree that is still there has its root item again, or the
//!   repair is refused: no subvolume is given up while its blocks lie on the devices.
//! * What cannot be known of a tree is told, and the choice is the one that changes nothing of it: read-only.

use std::collections::{BTreeMap, BTreeSet};

use butterfs_check::Place;
use butterfs_engine::tree;
use butterfs_format::ids::objectid;
use butterfs_format::items::{DirEntry, RootFlags, RootItem, RootRef};
use butterfs_format::superblock::CompatRo;
use butterfs_format::validate::Expected;
use butterfs_format::{ItemType, Key, TreeId};
use zerocopy::{FromZeros, IntoBytes};

use super::on_device;
use super::reclaim::{Begin, Stray, Strays};
use crate::error::{Error, Result};
use crate::plan::Step;
use crate::store::Store;
use crate::survey::Survey;
use crate::workspace::Workspace;

/// Which trees are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// Those that something names.
    Named,
    /// A part of the root tree was lost, perhaps with the names: all that the extent tree counts blocks of.
    Counted,
}

impl Search {
    /// What is to be looked for, by the state of the root tree before anything of it is given up.
    pub fn begin(workspace: &Workspace) -> Self {
        if workspace.survey.is_whole(TreeId::ROOT) { Self::Named } else { Self::Counted }
    }
}

/// Finds trees without root items again, and enters them.
///
/// # Errors
/// If the root tree cannot be edited, or it cannot be told where a tree begins that is still there.
pub fn run(workspace: &mut Workspace, search: Search) -> Result<Vec<Step>> {
    if !workspace.survey.is_whole(TreeId::ROOT) {
        return Ok(Vec::new());
    }
    let strays = Strays::find(workspace);
    let ids = wanted(workspace, &strays, search)?;
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let old = older_items(&workspace.store, &ids);
    let mut steps = Vec::new();
    for id in ids {
        steps.extend(find(workspace, &strays, id, old.get(&id))?);
    }
    if !steps.is_empty() {
        workspace.look_again();
    }
    Ok(steps)
}

/// What the root tree says of trees.
#[derive(Default)]
struct Known {
    items: BTreeSet<TreeId>,
    /// Subvolumes that something refers to.
    named: BTreeSet<TreeId>,
    /// Subvolumes that wait to be deleted.
    orphans: BTreeSet<TreeId>,
}

impl Known {
    fn load(store: &Store) -> Result<Self> {
        let mut known = Self::default();
        let mut cursor = store.cursor(TreeId::ROOT, &Key::MIN)?;
        while let Some((key, data)) = cursor.item() {
            known.item(&key, data);
            cursor.advance()?;
        }
        Ok(known)
    }

    fn item(&mut self, key: &Key, data: &[u8]) {
        let (set, id) = match key.item_type {
            ItemType::ROOT_ITEM => (&mut self.items, key.objectid),
            ItemType::ROOT_REF if RootRef::parse(data).is_ok() => (&mut self.named, key.offset),
            ItemType::ROOT_BACKREF if RootRef::parse(data).is_ok() => (&mut self.named, key.objectid),
            ItemType::ORPHAN_ITEM if key.objectid == objectid::ORPHAN => (&mut self.orphans, key.offset),
            _ => return,
        };
        set.insert(TreeId(id));
    }
}

/// The trees that must be, that are named, or that are there, and have no item.
fn wanted(workspace: &Workspace, strays: &Strays, search: Search) -> Result<Vec<TreeId>> {
    let known = Known::load(&workspace.store)?;
    // Of what is made anew nothing is looked for.
    let lost = |id: &TreeId| !known.items.contains(id) && !workspace.is_renewed(*id);
    if lost(&TreeId::EXTENT) && search == Search::Counted && matches!(strays.begin(TreeId::EXTENT), Begin::At(_)) {
        // It tells of all others, so it comes alone.
        return Ok(vec![TreeId::EXTENT]);
    }
    let mut wanted = BTreeSet::from([TreeId::FS, TreeId::DATA_RELOC, TreeId::CSUM]);
    wanted.extend(known.named.iter().filter(|id| id.is_subvolume()));
    let unnamed: Vec<TreeId> = strays.owners().into_iter().filter(|id| lost(id) && !wanted.contains(id)).collect();
    match search {
        Search::Counted => {
            wanted.extend(entries(workspace));
            wanted.extend(unnamed.iter().filter(|id| id.is_subvolume() && strays.is_counted(**id)));
            wanted.extend(unnamed.iter().filter(|id| is_used(workspace, **id)));
        }
        Search::Named if unnamed.iter().any(|id| id.is_subvolume()) => wanted.extend(entries(workspace)),
        Search::Named => {}
    }
    Ok(wanted.into_iter().filter(|id| lost(id) && !known.orphans.contains(id)).collect())
}

/// Trees of which there is one, and that this filesystem has.
fn is_used(workspace: &Workspace, id: TreeId) -> bool {
    let ro = workspace.store.superblock.compat_ro();
    match id {
        TreeId::DEV | TreeId::CSUM | TreeId::UUID | TreeId::QUOTA => true,
        TreeId::FREE_SPACE => ro.contains(CompatRo::FREE_SPACE_TREE),
        TreeId::BLOCK_GROUP => ro.contains(CompatRo::BLOCK_GROUP_TREE),
        _ => false,
    }
}

/// The subvolumes that any directory has.
fn entries(workspace: &Workspace) -> BTreeSet<TreeId> {
    let (store, survey) = (&workspace.store, &workspace.survey);
    let leaves = survey.blocks.iter().filter(|(_, block)| block.level == 0 && block.owner.is_subvolume());
    let mut found = BTreeSet::new();
    for (at, _) in leaves {
        let Ok(leaf) = store.read(&Expected::at(*at)) else { continue };
        for slot in (0..leaf.len()).filter(|slot| leaf.key(*slot).item_type == ItemType::DIR_INDEX) {
            let locations = DirEntry::each(leaf.data(slot)).map_while(|entry| entry.ok()).map(|entry| entry.location);
            let roots = locations.filter(|location| location.item_type == ItemType::ROOT_ITEM);
            found.extend(roots.map(|location| TreeId(location.objectid)).filter(|id| id.is_subvolume()));
        }
    }
    found
}

fn find(workspace: &mut Workspace, strays: &Strays, id: TreeId, old: Option<&Older>) -> Result<Option<Step>> {
    let key = Key::new(id.0, ItemType::ROOT_ITEM, old.map_or(0, |old| old.offset));
    let place = Place::item(TreeId::ROOT, &key);
    match strays.begin(id) {
        Begin::At(root) => {
            let (item, told) = item_of(workspace, id, &root, old);
            tree::put(&mut workspace.store, TreeId::ROOT, &key, item.as_bytes())?;
            workspace.store.forget_root(id);
            let words = format!(
                "lost; the tree begins at {}, level {}, generation {}; {told}",
                root.at, root.level, root.generation
            );
            Ok(Some(Step::new("root-item", place, words)))
        }
        // It has no more than an empty directory between balances.
        Begin::Nowhere | Begin::Unknown(_) if id == TreeId::DATA_RELOC => {
            workspace.store.renew_tree(id)?;
            workspace.store.change_root_item(id, |item| item.root_dirid = 256.into())?;
            workspace.store.write_roots()?;
            Ok(Some(Step::new("root-item", place, "lost; the tree for relocated data is made anew, empty")))
        }
        Begin::Unknown(blocks) if id.is_subvolume() => Err(Error::Refused(format!(
            "the root item of subvolume {} is lost and so is its root block, while {} of its tree blocks are still \
             there: it would be given up; copy its files off with butterfs restore",
            id.0,
            blocks.len()
        ))),
        Begin::Nowhere | Begin::Unknown(_) => Ok(None),
    }
}

/// A root item of an older commit.
struct Older {
    item: RootItem,
    /// Of its key.
    offset: u64,
    /// Of the leaf.
    generation: u64,
}

/// The newest items of these trees in leaves of older commits.
fn older_items(store: &Store, ids: &[TreeId]) -> BTreeMap<TreeId, Older> {
    let mut found: BTreeMap<TreeId, Older> = BTreeMap::new();
    on_device::visit(store, |leaf| {
        if !leaf.is_leaf() || leaf.owner() != TreeId::ROOT {
            return;
        }
        for slot in (0..leaf.len()).filter(|slot| leaf.key(*slot).item_type == ItemType::ROOT_ITEM) {
            let (key, generation) = (leaf.key(slot), leaf.generation().0);
            let id = TreeId(key.objectid);
            let newer = found.get(&id).is_none_or(|known| known.generation < generation);
            if let Ok(item) = RootItem::parse(leaf.data(slot))
                && newer
                && ids.contains(&id)
            {
                found.insert(id, Older { item, offset: key.offset, generation });
            }
        }
    });
    found
}

/// The item of a tree that begins at a block, and what of it is a guess.
fn item_of(workspace: &Workspace, id: TreeId, root: &Stray, old: Option<&Older>) -> (RootItem, String) {
    let newest = workspace.store.superblock.generation.get();
    let (mut item, told) = match old {
        Some(old) => {
            let is_ro = old.item.flags().contains(RootFlags::RDONLY);
            let kind = if is_ro { "read-only" } else { "writable" };
            let of = format!("its other fields are those of generation {}", old.generation);
            (old.item, if id.is_subvolume() { format!("{of}, {kind}") } else { of })
        }
        None => new_item(workspace, id),
    };
    let flags = item.flags() & RootFlags::RDONLY;
    item.flags = flags.bits().into();
    item.refs = 1.into();
    (item.drop_progress, item.drop_level) = (Key::MIN.into(), 0);
    // Too high a number only costs look-ups; too low a one makes shared blocks seem the tree's own.
    if id.is_subvolume() {
        item.last_snapshot = newest.into();
    }
    (item.bytenr, item.level) = (root.at.0.into(), root.level);
    item.generation = root.generation.0.into();
    item.generation_v2 = item.generation;
    (item, told)
}

fn new_item(workspace: &Workspace, id: TreeId) -> (RootItem, String) {
    let mut item = RootItem::new_zeroed();
    item.inode.generation = 1.into();
    item.inode.size = 3.into();
    item.inode.nlink = 1.into();
    item.inode.nbytes = u64::from(workspace.store.geometry().nodesize).into();
    item.inode.mode = 0o040_755.into();
    item.root_dirid = if id.is_shareable() { 256.into() } else { 0.into() };
    if !id.is_subvolume() {
        return (item, "all else of it is as mkfs makes it".into());
    }
    let uuid = uuid_of(&workspace.store, &workspace.survey, id);
    item.uuid = uuid.unwrap_or_default();
    let unknown = match uuid {
        Some(_) => "whose snapshot it is and when it was made is not known",
        None => "its UUID, whose snapshot it is and when it was made is not known",
    };
    if id == TreeId::FS {
        return (item, unknown.into());
    }
    item.flags = RootFlags::RDONLY.bits().into();
    (item, format!("{unknown}, nor whether it was read-only: it is now (btrfs property set ro false changes that)"))
}

/// The UUID that the UUID tree knows of a subvolume, as far as it can be read.
fn uuid_of(store: &Store, survey: &Survey, id: TreeId) -> Option<[u8; 16]> {
    let leaves = survey.blocks.iter().filter(|(_, block)| block.level == 0 && block.owner == TreeId::UUID);
    for leaf in leaves.filter_map(|(at, _)| store.read(&Expected::at(*at)).ok()) {
        for slot in (0..leaf.len()).filter(|slot| leaf.key(*slot).item_type == ItemType::UUID_SUBVOL) {
            let key = leaf.key(slot);
            let (ids, _) = leaf.data(slot).as_chunks::<8>();
            if ids.iter().any(|bytes| u64::from_le_bytes(*bytes) == id.0) {
                let mut uuid = [0; 16];
                uuid[..8].copy_from_slice(&key.objectid.to_le_bytes());
                uuid[8..].copy_from_slice(&key.offset.to_le_bytes());
                return Some(uuid);
            }
        }
    }
    None
}

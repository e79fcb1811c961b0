//! Blocks that nothing leads to any more, though the extent tree still counts them: the children of a node that
//! is lost, or the root of a tree whose root item is.
//!
//! # Invariants
//! * What a part of the extent tree that cannot be read may have said is no evidence against a block: all blocks that
//!   lie there on the devices may be meant, but for those that the free space tree calls free.

use std::collections::{BTreeMap, BTreeSet};

use butterfs_format::ids::FIRST_FREE_OBJECTID;
use butterfs_format::items::{BackRef, ExtentFlags, ExtentItem};
use butterfs_format::validate::Expected;
use butterfs_format::{Generation, ItemType, Key, Logical, TreeBlock, TreeId};

use super::on_device;
use crate::store::Store;
use crate::survey::{Survey, Tree};
use crate::workspace::Workspace;

/// A block that the extent tree knows more references to than there are.
#[derive(Clone, Debug)]
pub struct Stray {
    /// Its address.
    pub at: Logical,
    /// Its level.
    pub level: u8,
    /// Its tree, by its header.
    pub owner: TreeId,
    /// Its generation.
    pub generation: Generation,
    /// Its first and last key; the last key of a node is that of its last pointer, what is below may go on.
    pub keys: (Key, Key),
    /// Something leads to it, too.
    is_reached: bool,
    /// What says that it is in use.
    proof: Proof,
    /// Trees that refer to it, by the extent tree.
    trees: Vec<TreeId>,
    /// Nodes that refer to it, by the extent tree.
    parents: Vec<Logical>,
}

/// All such blocks, in the order of their first keys.
#[derive(Clone, Debug, Default)]
pub struct Strays {
    blocks: Vec<Stray>,
}

/// What says that a block is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Proof {
    /// Nothing: it may be one of an old commit.
    None,
    /// It is not free, by the free space tree.
    NotFree,
    /// The extent tree counts it.
    Counted,
}

/// A lost node.
#[derive(Clone, Debug)]
pub struct Lost {
    /// Its tree.
    pub tree: TreeId,
    /// Its address.
    pub at: Logical,
    /// Its level.
    pub level: u8,
    /// Its generation.
    pub generation: Generation,
    /// Its keys: from, and below.
    pub range: (Key, Option<Key>),
    /// The trees that it may share blocks with, and the last generation of those.
    pub kin: Vec<(TreeId, Generation)>,
}

impl Strays {
    /// Reads the extent tree as far as it can be read.
    pub fn find(workspace: &Workspace) -> Self {
        let (store, survey) = (&workspace.store, &workspace.survey);
        let mut known = References::default();
        known.load(store, survey);
        let mut blocks: Vec<Stray> = Vec::new();
        let unread = Unread::of(workspace);
        let counted: BTreeSet<Logical> =
            known.blocks.iter().filter(|(_, refs)| refs.count > 0).map(|(at, _)| *at).collect();
        for (at, refs) in known.blocks {
            let reached = survey.blocks.get(&at).map_or(0, |block| block.parents.len() as u64);
            if refs.count > reached && !survey.log.contains(&at) {
                let block = store.read(&Expected::at(at)).ok();
                blocks.extend(block.and_then(|block| stray(&block, refs, reached > 0, Proof::Counted)));
            }
        }
        blocks.extend(unread.blocks(store, survey, &counted));
        blocks.sort_by_key(|block| (block.keys.0, block.level));
        Self { blocks }
    }

    /// The children of a lost node: blocks of the level below with keys in its range that it should refer to, by
    /// their back references; or that nothing refers to and that can have been there. Where some overlap the
    /// likelier is taken, then the newer.
    pub fn children(&self, lost: &Lost) -> Vec<Stray> {
        let named = |block: &Stray| block.trees.contains(&lost.tree) || block.parents.contains(&lost.at);
        let is_like = |block: &Stray| {
            !block.is_reached && (block.owner == lost.tree || lost.tree.is_shareable() && block.owner.is_shareable())
        };
        let is_kin = |block: &Stray| {
            lost.kin.iter().any(|(tree, last)| block.owner == *tree && block.generation <= *last)
                && (lost.tree.is_shareable() || !block.is_reached)
        };
        let can_be = |block: &Stray| if block.proof == Proof::Counted { is_like(block) } else { is_kin(block) };
        let fits = |block: &&Stray| {
            block.level + 1 == lost.level
                && (named(block) || can_be(block))
                && block.generation <= lost.generation
                && block.keys.0 >= lost.range.0
                && lost.range.1.is_none_or(|end| block.keys.1 < end)
        };
        let mut found: Vec<&Stray> = self.blocks.iter().filter(fits).collect();
        let sure = |block: &Stray| block.proof == Proof::Counted;
        let owned = |block: &Stray| sure(block) && block.owner == lost.tree;
        found.sort_by_key(|block| std::cmp::Reverse((named(block), owned(block), block.generation, sure(block))));
        let mut chosen: BTreeMap<Key, Stray> = BTreeMap::new();
        for block in found {
            let before = chosen.range(..=block.keys.1).next_back();
            if before.is_none_or(|(_, other)| other.keys.1 < block.keys.0) {
                chosen.insert(block.keys.0, block.clone());
            }
        }
        chosen.into_values().collect()
    }

    /// The trees that have blocks to which nothing leads.
    pub fn owners(&self) -> BTreeSet<TreeId> {
        self.blocks.iter().filter(|block| !block.is_reached).map(|block| block.owner).collect()
    }

    /// Whether the extent tree counts blocks of a tree to which nothing leads.
    pub fn is_counted(&self, tree: TreeId) -> bool {
        self.blocks.iter().any(|block| block.owner == tree && !block.is_reached && block.proof == Proof::Counted)
    }

    /// Where a tree begins whose root item is lost. Each change of a tree makes its root anew, so that is its newest
    /// block, and the highest of those; and as it leads to all others, no other one is as high.
    pub fn begin(&self, tree: TreeId) -> Begin {
        let own: Vec<&Stray> = self.blocks.iter().filter(|block| block.owner == tree && !block.is_reached).collect();
        let Some(root) = own.iter().max_by_key(|block| (block.generation, block.level)) else {
            // What its lost root shared with snapshots is reached by those, and still counted for it.
            let shared: Vec<Logical> =
                self.blocks.iter().filter(|block| block.trees.contains(&tree)).map(|block| block.at).collect();
            return if shared.is_empty() { Begin::Nowhere } else { Begin::Unknown(shared) };
        };
        let first = Key::new(FIRST_FREE_OBJECTID, ItemType::INODE_ITEM, 0);
        let begins = !tree.is_subvolume() || root.keys.0 == first;
        let is_alone =
            own.iter().all(|block| block.at == root.at || block.level < root.level || block.proof == Proof::None);
        if begins && is_alone { Begin::At((*root).clone()) } else { Begin::Unknown(own.iter().map(|b| b.at).collect()) }
    }

    /// What may be the root of a tree: its highest blocks that nothing leads to, the newest first.
    pub fn roots(&self, tree: TreeId) -> Vec<Stray> {
        let is_own = |block: &&Stray| block.owner == tree && !block.is_reached && block.proof == Proof::Counted;
        let own = self.blocks.iter().filter(is_own);
        let mut own: Vec<Stray> = own.cloned().collect();
        own.sort_by_key(|block| std::cmp::Reverse((block.level, block.generation)));
        let top = own.first().map(|block| block.level);
        own.into_iter().filter(|block| Some(block.level) == top).collect()
    }
}

/// Where a tree begins that no root item leads to.
#[derive(Clone, Debug)]
pub enum Begin {
    /// None of its blocks is left.
    Nowhere,
    /// At this block.
    At(Stray),
    /// There are blocks of it, and none that must be its root.
    Unknown(Vec<Logical>),
}

fn stray(block: &TreeBlock, refs: BlockRefs, is_reached: bool, proof: Proof) -> Option<Stray> {
    let last = block.len().checked_sub(1)?;
    Some(Stray {
        at: block.bytenr(),
        level: block.level(),
        owner: block.owner(),
        generation: block.generation(),
        keys: (block.key(0), block.key(last)),
        is_reached,
        proof,
        trees: refs.trees,
        parents: refs.parents,
    })
}

/// The trees that a tree may share blocks with, itself first: what it is a snapshot of, and that what it is one of; and
/// the last generation of blocks that they can have in common.
pub fn kin(survey: &Survey, tree: TreeId, last: Generation) -> Vec<(TreeId, Generation)> {
    let mut kin = vec![(tree, last)];
    let (mut id, mut last) = (tree, last);
    while let Some(item) = survey.root_item(id).filter(|item| item.parent_uuid != [0; 16]) {
        if item.otransid.get() != 0 {
            last = last.min(Generation(item.otransid.get()));
        }
        let is_parent = |tree: &&Tree| tree.item.is_some_and(|other| other.uuid == item.parent_uuid);
        match survey.trees.iter().find(is_parent).map(|tree| tree.id) {
            Some(parent) if kin.iter().all(|(known, _)| *known != parent) => {
                kin.push((parent, last));
                id = parent;
            }
            _ => break,
        }
    }
    kin
}

/// The parts of the extent tree that cannot be read: keys from, and below.
struct Unread(Vec<(Key, Option<Key>)>);

impl Unread {
    fn of(workspace: &Workspace) -> Self {
        let survey = &workspace.survey;
        if survey.tree(TreeId::EXTENT).is_none() {
            return Self(vec![(Key::MIN, None)]);
        }
        let lost = survey.damage.iter().filter(|damage| damage.tree == TreeId::EXTENT);
        let lost = lost.map(|damage| (damage.expected.first_key.unwrap_or(Key::MIN), damage.end));
        Self(lost.chain(workspace.extent_gaps.iter().copied()).collect())
    }

    /// Whether something of a block may have been said there.
    fn has(&self, at: Logical) -> bool {
        let within = |(from, end): &(Key, Option<Key>)| {
            from.objectid <= at.0 && end.is_none_or(|end| Key::new(at.0, ItemType(0), 0) < end)
        };
        self.0.iter().any(within)
    }

    /// All blocks on the devices of which something may have been said there.
    fn blocks(&self, store: &Store, survey: &Survey, counted: &BTreeSet<Logical>) -> Vec<Stray> {
        let mut blocks = Vec::new();
        if self.0.is_empty() {
            return blocks;
        }
        let free = Free::load(store, survey);
        let log: BTreeSet<Logical> = survey.log.iter().copied().collect();
        on_device::visit(store, |block| {
            let at = block.bytenr();
            if self.has(at) && !counted.contains(&at) && !log.contains(&at) && !free.has(at) {
                let is_reached = survey.blocks.contains_key(&at);
                let proof = if free.is_known { Proof::NotFree } else { Proof::None };
                blocks.extend(stray(block, BlockRefs::default(), is_reached, proof));
            }
        });
        blocks
    }
}

/// Free space, where the free space tree can be read.
#[derive(Default)]
struct Free {
    is_known: bool,
    /// Start to end.
    ranges: BTreeMap<u64, u64>,
}

impl Free {
    fn load(store: &Store, survey: &Survey) -> Self {
        let mut free = Self { is_known: survey.is_whole(TreeId::FREE_SPACE), ..Self::default() };
        let sector = u64::from(store.geometry().sectorsize);
        let leaves = survey.blocks.iter().filter(|(_, block)| block.level == 0 && block.owner == TreeId::FREE_SPACE);
        for leaf in leaves.filter_map(|(at, _)| store.read(&Expected::at(*at)).ok()) {
            for slot in 0..leaf.len() {
                free.item(&leaf.key(slot), leaf.data(slot), sector);
            }
        }
        free
    }

    fn item(&mut self, key: &Key, data: &[u8], sector: u64) {
        match key.item_type {
            ItemType::FREE_SPACE_EXTENT => {
                self.ranges.insert(key.objectid, key.objectid.saturating_add(key.offset));
            }
            ItemType::FREE_SPACE_BITMAP => {
                for bit in (0..data.len() * 8).filter(|bit| data[bit / 8] & 1 << (bit % 8) != 0) {
                    let start = key.objectid.saturating_add(bit as u64 * sector);
                    self.ranges.insert(start, start.saturating_add(sector));
                }
            }
            _ => {}
        }
    }

    fn has(&self, at: Logical) -> bool {
        self.ranges.range(..=at.0).next_back().is_some_and(|(_, end)| *end > at.0)
    }
}

/// Back references of a block.
#[derive(Debug, Default)]
struct BlockRefs {
    count: u64,
    trees: Vec<TreeId>,
    parents: Vec<Logical>,
}

/// Tree blocks and their references by the extent tree, also if it has holes.
#[derive(Debug, Default)]
struct References {
    blocks: BTreeMap<Logical, BlockRefs>,
}

impl References {
    fn load(&mut self, store: &Store, survey: &Survey) {
        let leaves = survey.blocks.iter().filter(|(_, block)| block.level == 0 && block.owner == TreeId::EXTENT);
        for (at, _) in leaves {
            let Ok(leaf) = store.read(&Expected::at(*at)) else { continue };
            for slot in 0..leaf.len() {
                self.item(&leaf.key(slot), leaf.data(slot));
            }
        }
    }

    fn item(&mut self, key: &Key, data: &[u8]) {
        match key.item_type {
            ItemType::METADATA_ITEM | ItemType::EXTENT_ITEM => {
                let Ok(item) = ExtentItem::parse(key, data) else { return };
                if item.flags.contains(ExtentFlags::TREE_BLOCK) {
                    let block = self.blocks.entry(Logical(key.objectid)).or_default();
                    block.count = item.refs;
                    item.inline.iter().for_each(|inline| block.add(&inline.back_ref));
                }
            }
            ItemType::TREE_BLOCK_REF | ItemType::SHARED_BLOCK_REF => {
                if let Ok(one) = BackRef::parse_keyed(key, data) {
                    self.blocks.entry(Logical(key.objectid)).or_default().add(&one.back_ref);
                }
            }
            _ => {}
        }
    }
}

impl BlockRefs {
    fn add(&mut self, back_ref: &BackRef) {
        match back_ref {
            BackRef::TreeBlock { root } => self.trees.push(*root),
            BackRef::SharedBlock { parent } => self.parents.push(*parent),
            _ => {}
        }
    }
}

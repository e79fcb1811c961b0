//! The walk over all trees.

use std::sync::Arc;

use butterfs_engine::tree::{ChildPtr, TreeReader, TreeRoot};
use butterfs_format::block::{FLAG_RELOC, FLAG_WRITTEN, MIXED_BACKREF_REV};
use butterfs_format::items::{Compression, FileExtent, FileExtentBody, RootItem};
use butterfs_format::validate::Expected;
use butterfs_format::{ItemType, Key, Logical, TreeBlock, TreeId};

use super::{Block, Damage, DataRef, Dropped, Parent, Survey, Tree};
use crate::store::{Store, expected};

/// Walks everything. Trees that are being deleted come last, so that they hide nothing of the living.
pub fn survey(store: &Store) -> Survey {
    let mut walk = Walk { store, survey: Survey::default(), items: Vec::new(), tree: TreeId::ROOT, dropped: None };
    for id in [TreeId::ROOT, TreeId::CHUNK] {
        if let Ok(root) = store.root(id) {
            walk.tree(Tree { id, key: Key::MIN, item: None, root, dropped: None });
        }
    }
    let mut trees: Vec<Tree> = std::mem::take(&mut walk.items);
    trees.sort_by_key(|tree| tree.is_dead());
    trees.into_iter().for_each(|tree| walk.tree(tree));
    walk.survey
}

/// Finds the blocks of log trees. Damaged ones are left out: nobody can replay them.
pub fn survey_log(store: &Store, survey: &mut Survey) {
    let sb = &store.superblock;
    if sb.log_root.get() == 0 {
        return;
    }
    let root = Expected { level: Some(sb.log_root_level), ..Expected::at(Logical(sb.log_root.get())) };
    let mut stack = vec![root];
    let mut seen = std::collections::HashSet::new();
    while let Some(expected) = stack.pop() {
        if !seen.insert(expected.bytenr) {
            continue;
        }
        let Ok(block) = store.read(&expected) else { continue };
        survey.log.push(expected.bytenr);
        survey.log_data.extend(log_data(&block));
        stack.extend(log_children(&block));
    }
}

/// The data that a leaf of a log refers to.
fn log_data(block: &TreeBlock) -> Vec<(u64, u64)> {
    let slots = (0..block.len()).filter(|slot| block.is_leaf() && block.key(*slot).item_type == ItemType::EXTENT_DATA);
    let bodies = slots.filter_map(|slot| FileExtent::parse(block.data(slot)).ok().map(|extent| extent.body));
    let range = |body| match body {
        FileExtentBody::Extent { disk_bytenr, disk_num_bytes, .. } => Some((disk_bytenr, disk_num_bytes)),
        FileExtentBody::Inline(_) => None,
    };
    bodies.filter_map(range).filter(|(start, _)| *start != 0).collect()
}

fn log_children(block: &TreeBlock) -> Vec<Expected> {
    let at = |bytenr: u64, level| Expected { level: Some(level), ..Expected::at(Logical(bytenr)) };
    if !block.is_leaf() {
        return block.ptrs(0..block.len()).iter().map(|ptr| at(ptr.blockptr.get(), block.level() - 1)).collect();
    }
    let items = (0..block.len()).filter(|slot| block.key(*slot).item_type == ItemType::ROOT_ITEM);
    let roots = items.filter_map(|slot| RootItem::parse(block.data(slot)).ok());
    roots.map(|item| at(item.bytenr.get(), item.level)).collect()
}

struct Walk<'s> {
    store: &'s Store,
    survey: Survey,
    /// Trees found in the root tree.
    items: Vec<Tree>,
    tree: TreeId,
    dropped: Option<Dropped>,
}

impl Walk<'_> {
    fn tree(&mut self, tree: Tree) {
        (self.tree, self.dropped) = (tree.id, tree.dropped);
        let expected = expected(tree.id, &tree.ptr());
        self.survey.trees.push(tree);
        self.block(&expected, None, None);
    }

    /// Walks a block and what is below it.
    fn block(&mut self, expected: &Expected, parent: Option<(Logical, usize)>, end: Option<Key>) {
        let by = parent.map_or(Parent::Root(self.tree), |(node, _)| Parent::Node(node));
        if let Some(known) = self.survey.blocks.get_mut(&expected.bytenr) {
            if let Some(problem) = other_block(known, expected) {
                let damage = Damage { tree: self.tree, parent, expected: *expected, end, problem };
                self.survey.damage.push(damage);
            } else {
                known.parents.push(by);
            }
            return;
        }
        let read = self.store.read(expected).map_err(|e| e.problem).and_then(|block| within(block, end));
        let block = match read.and_then(|block| with_right_header(expected, block)) {
            Ok(block) => block,
            Err(problem) => {
                let damage = Damage { tree: self.tree, parent, expected: *expected, end, problem };
                self.survey.damage.push(damage);
                return;
            }
        };
        self.enter(&block, by);
        if block.is_leaf() { self.leaf(&block) } else { self.node(&block, end) }
    }

    fn enter(&mut self, block: &TreeBlock, by: Parent) {
        let entry = Block {
            level: block.level(),
            owner: block.owner(),
            generation: block.generation(),
            first_key: if block.is_empty() { Key::MIN } else { block.key(0) },
            is_reloc: block.header().flags.get() & FLAG_RELOC != 0,
            parents: vec![by],
        };
        self.survey.blocks.insert(block.bytenr(), entry);
    }

    fn node(&mut self, node: &TreeBlock, end: Option<Key>) {
        for slot in 0..node.len() {
            if self.dropped.is_some_and(|dropped| dropped.took(node, slot)) {
                continue;
            }
            let expected = expected(self.tree, &ChildPtr::of(node, slot));
            let child_end = if slot + 1 < node.len() { Some(node.key(slot + 1)) } else { end };
            self.block(&expected, Some((node.bytenr(), slot)), child_end);
        }
    }

    fn leaf(&mut self, leaf: &TreeBlock) {
        for slot in 0..leaf.len() {
            let key = leaf.key(slot);
            match key.item_type {
                ItemType::EXTENT_DATA => self.file_extent(leaf, slot, &key),
                ItemType::ROOT_ITEM if self.tree == TreeId::ROOT => self.root_item(&key, leaf.data(slot)),
                _ => {}
            }
        }
    }

    /// A tree that was edited begins where the store says.
    fn root_item(&mut self, key: &Key, data: &[u8]) {
        let Ok(item) = RootItem::parse(data) else { return };
        let id = TreeId(key.objectid);
        let mut root = TreeRoot { bytenr: item.bytenr(), level: item.level, generation: item.generation() };
        let mut current = item;
        if id != TreeId::TREE_RELOC
            && let Ok(known) = self.store.root_of(id)
            && known.key_offset == key.offset
        {
            (root, current) = (known.root, known.item);
        }
        self.items.push(Tree::of_item(key, &current, root));
    }

    fn file_extent(&mut self, leaf: &TreeBlock, slot: usize, key: &Key) {
        let Ok(extent) = FileExtent::parse(leaf.data(slot)) else { return };
        let FileExtentBody::Extent { disk_bytenr, disk_num_bytes, offset, prealloc, .. } = extent.body else { return };
        if disk_bytenr == 0 || !self.is_possible(disk_bytenr, disk_num_bytes) {
            return;
        }
        let offset = key.offset.wrapping_sub(offset);
        let reference = DataRef { leaf: leaf.bytenr(), objectid: key.objectid, offset };
        let known = self.survey.extents.entry(disk_bytenr).or_default();
        known.lengths_differ |= known.len != 0 && known.len != disk_num_bytes;
        known.len = known.len.max(disk_num_bytes);
        let first = known.refs.is_empty();
        known.generation = if first { extent.generation } else { known.generation.min(extent.generation) };
        known.written |= !prealloc;
        known.compressed |= extent.compression != Compression::None;
        known.refs.push(reference);
    }

    /// Whether data can lie there: aligned, and in a chunk.
    fn is_possible(&self, start: u64, len: u64) -> bool {
        let sector = u64::from(self.store.geometry().sectorsize);
        let aligned = start.is_multiple_of(sector) && len.is_multiple_of(sector) && len > 0;
        let Some(end) = start.checked_add(len) else { return false };
        aligned
            && self
                .store
                .volume()
                .chunk_containing(Logical(start))
                .is_some_and(|(at, chunk)| end <= at.0.saturating_add(chunk.length()))
    }
}

/// Why a known block is not the one that a second pointer means, if so.
fn other_block(known: &Block, expected: &Expected) -> Option<String> {
    let level = expected.level.filter(|level| *level != known.level);
    let generation = expected.generation.filter(|generation| *generation != known.generation);
    let key = expected.first_key.filter(|key| *key != known.first_key);
    let owner = expected.owner.filter(|owner| *owner != known.owner);
    let differs = [
        level.map(|level| format!("level is {}, parent wants {level}", known.level)),
        generation.map(|generation| format!("generation is {}, parent wants {generation}", known.generation)),
        key.map(|key| format!("first key is {}, parent wants {key}", known.first_key)),
        owner.map(|owner| format!("owner is {}, want {owner}", known.owner)),
    ];
    differs.into_iter().flatten().next()
}

/// What a header says that no block of such a tree may say, though the structure of the block is right.
pub fn header_problem(expected: &Expected, block: &TreeBlock) -> Option<String> {
    if expected.owner.is_none() && !block.owner().is_shareable() {
        return Some(format!("the header says tree {}, whose blocks no subvolume has", block.owner()));
    }
    let flags = block.header().flags.get();
    let is_known = flags & !(FLAG_WRITTEN | FLAG_RELOC) == MIXED_BACKREF_REV;
    (!is_known).then(|| format!("the header has flags {flags:#x}"))
}

fn with_right_header(expected: &Expected, block: Arc<TreeBlock>) -> Result<Arc<TreeBlock>, String> {
    header_problem(expected, &block).map_or(Ok(block), Err)
}

/// The block, if its keys are below `end`.
fn within(block: std::sync::Arc<TreeBlock>, end: Option<Key>) -> Result<std::sync::Arc<TreeBlock>, String> {
    let last = block.len().checked_sub(1).map(|slot| block.key(slot));
    match (last, end) {
        (Some(last), Some(end)) if last >= end => Err(format!("key {last} is not below {end}, where the next begins")),
        _ => Ok(block),
    }
}

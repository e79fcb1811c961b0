//! The filesystem as it is repaired: trees that can be read and edited, in memory until they are committed
//! to the overlay.
//!
//! It is the block store under the engine's trees ([`butterfs_engine::tree`]): `tree::put(&mut store, ...)`.
//!
//! # Invariants
//! * A block that was there before is never changed in place: an edit copies it into space that nothing uses.
//! * Space of blocks that go is not used again in the same commit; that of blocks made in it is.
//! * A new block that more than one tree leads to is marked as shared; an edit of one tree copies it.
//! * A block is read if its structure is right; items that break their own rules are seen as they are.
//!   Before a block is written it must be right in whole ([`butterfs_engine::tx::seal`]).
//! * Which copies were bad on the way is noted, and good bytes are written over them at the commit.

pub mod roots;
mod space;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use butterfs_engine::tree::cache::BlockCache;
use butterfs_engine::tree::{ChildPtr, Cursor, TreeReader, TreeRoot, TreeWriter};
use butterfs_engine::{Error as EngineError, Result as EngineResult};
use butterfs_format::block::{FLAG_RELOC, NewBlock};
use butterfs_format::validate::{Checksum, Expected, Geometry, check_structure};
use butterfs_format::{Corruption, Generation, Key, Logical, Superblock, TreeBlock, TreeId};
use butterfs_volume::Volume;

pub use roots::Root;
pub use space::Space;

/// Bytes of clean blocks kept in memory.
const CACHE_BYTES: usize = 64 << 20;

/// A block that came or went since the last [`Store::take_changes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockChange {
    /// Its address.
    pub at: Logical,
    /// The tree it belongs to.
    pub tree: TreeId,
    /// Its level.
    pub level: u8,
    /// Its first key, if it came.
    pub first_key: Key,
    /// Whether it came or went.
    pub kind: ChangeKind,
}

/// What happened to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Came,
    /// Its tree has no use for it any more.
    Went,
}

/// Trees over the overlaid volume.
pub struct Store {
    volume: Arc<Volume>,
    geometry: Geometry,
    /// The superblock of the commit to come.
    pub superblock: Superblock,
    generation: Generation,
    dirty: HashMap<Logical, Arc<TreeBlock>>,
    /// New blocks that more than one tree leads to.
    shared: HashSet<Logical>,
    cache: BlockCache,
    roots: RwLock<BTreeMap<TreeId, Root>>,
    space: Space,
    changes: Vec<BlockChange>,
    /// Copies that are bad while another is good: address to problem.
    bad_copies: Mutex<BTreeMap<Logical, String>>,
}

impl Store {
    /// Over a volume that may be written to (an overlay). The commit is above the generation `above`, too.
    pub fn new(volume: Arc<Volume>, above: Generation) -> Self {
        let superblock = volume.superblock();
        Self {
            geometry: volume.geometry(),
            generation: superblock.generation().max(above).next(),
            superblock,
            volume,
            dirty: HashMap::new(),
            shared: HashSet::new(),
            cache: BlockCache::new(CACHE_BYTES),
            roots: RwLock::default(),
            space: Space::default(),
            changes: Vec::new(),
            bad_copies: Mutex::default(),
        }
    }

    /// The devices below.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// Sizes and the checksum algorithm.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Says which space new blocks may take. Until then none can be made.
    pub fn set_space(&mut self, space: Space) {
        self.space = space;
    }

    /// New blocks take only what is free in `free`, too.
    pub fn limit_space(&mut self, free: &Space) {
        self.space.limit_to(free);
    }

    /// Space for new blocks.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// The blocks that came and went since this was last asked, in order.
    pub fn take_changes(&mut self) -> Vec<BlockChange> {
        std::mem::take(&mut self.changes)
    }

    /// The new blocks, to be sealed and written.
    pub fn dirty(&self) -> &HashMap<Logical, Arc<TreeBlock>> {
        &self.dirty
    }

    /// Whether anything was edited.
    pub fn is_changed(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Blocks with bad copies beside a good one, and what is wrong with a bad one.
    pub fn bad_copies(&self) -> BTreeMap<Logical, String> {
        self.bad_copies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A block whose structure is right; its items may be wrong.
    ///
    /// # Errors
    /// What is wrong with the last copy, if none is good.
    pub fn read(&self, expected: &Expected) -> Result<Arc<TreeBlock>, Corruption> {
        // A new block may be half-made: a tree that is made anew begins with an empty leaf.
        if let Some(block) = self.dirty.get(&expected.bytenr) {
            return Ok(Arc::clone(block));
        }
        if let Some(block) = self.cache.get(expected.bytenr) {
            check_structure(&block, &self.geometry, expected, Checksum::Skip)?;
            return Ok(block);
        }
        let block = Arc::new(self.read_copies(expected)?);
        self.cache.insert(expected.bytenr, Arc::clone(&block));
        Ok(block)
    }

    fn read_copies(&self, expected: &Expected) -> Result<TreeBlock, Corruption> {
        let at = expected.bytenr;
        let corrupt = |problem: String| Corruption::new(format!("tree block {at}"), problem);
        let copies = self.volume.copies(at).map_err(|error| corrupt(error.to_string()))?;
        let (mut good, mut problem) = (None, None);
        for copy in 0..copies {
            match self.read_copy(expected, copy) {
                Ok(block) => good = good.or(Some(block)),
                Err(error) => problem = Some(error),
            }
        }
        match (good, problem) {
            (Some(block), None) => Ok(block),
            (Some(block), Some(problem)) => {
                self.bad_copies.lock().unwrap_or_else(PoisonError::into_inner).insert(at, problem.problem);
                Ok(block)
            }
            (None, problem) => Err(problem.unwrap_or_else(|| corrupt("there is no copy".into()))),
        }
    }

    /// One copy of a block whose structure is right.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read_copy(&self, expected: &Expected, copy: usize) -> Result<TreeBlock, Corruption> {
        let block = self.read_raw(expected.bytenr, copy)?;
        check_structure(&block, &self.geometry, expected, Checksum::Verify)?;
        Ok(block)
    }

    /// One copy of a block as it is on the device, whatever is wrong with it.
    ///
    /// # Errors
    /// If it cannot be read at all.
    pub fn read_raw(&self, at: Logical, copy: usize) -> Result<TreeBlock, Corruption> {
        let mut bytes = vec![0; self.geometry.nodesize as usize];
        let read = self.volume.read_copy(at, &mut bytes, copy);
        read.map_err(|error| Corruption::new(format!("tree block {at}"), error.to_string()))?;
        Ok(TreeBlock::from_bytes(bytes))
    }

    /// A position in a tree: the first item whose key is `from` or higher.
    ///
    /// # Errors
    /// If the tree does not exist or a block on the way cannot be read.
    pub fn cursor(&self, tree: TreeId, from: &Key) -> EngineResult<Cursor<'_, Self>> {
        Cursor::seek(self, tree, from)
    }

    /// The data of an item.
    ///
    /// # Errors
    /// As [`Store::cursor`].
    pub fn get(&self, tree: TreeId, key: &Key) -> EngineResult<Option<Vec<u8>>> {
        let cursor = self.cursor(tree, key)?;
        Ok(cursor.item().filter(|(found, _)| found == key).map(|(_, data)| data.to_vec()))
    }

    /// Makes a block that is linked in elsewhere writable without its tree: a copy of it at a new address,
    /// with the same owner. The caller puts the new address where the old one was, in all places.
    ///
    /// # Errors
    /// If there is no space.
    pub fn copy_of(&mut self, tree: TreeId, block: &TreeBlock) -> EngineResult<Logical> {
        let at = self.take_space(tree)?;
        let first_key = if block.is_empty() { Key::MIN } else { block.key(0) };
        let mut copy = block.clone();
        let header = copy.header_mut();
        header.bytenr = at.0.into();
        header.generation = self.generation.0.into();
        header.flags = (header.flags.get() & !FLAG_RELOC).into();
        header.fsid = self.geometry.fsid;
        header.chunk_tree_uuid = self.volume.chunk_tree_uuid();
        self.note(tree, at, block.level(), first_key, ChangeKind::Came);
        self.dirty.insert(at, Arc::new(copy));
        Ok(at)
    }

    /// More than one tree leads to a new block, so an edit of one of them must copy it.
    pub fn share(&mut self, at: Logical) {
        self.shared.insert(at);
    }

    /// The new children of a shared node are shared once it is copied.
    fn share_children(&mut self, node: &TreeBlock) {
        let slots = 0..if node.is_leaf() { 0 } else { node.len() };
        let children: Vec<Logical> = slots.map(|slot| Logical(node.ptr(slot).blockptr.get())).collect();
        self.shared.extend(children.into_iter().filter(|child| self.dirty.contains_key(child)));
    }

    /// A tree has no use for a block any more.
    pub fn drop_block(&mut self, tree: TreeId, at: Logical, level: u8) {
        self.note(tree, at, level, Key::MIN, ChangeKind::Went);
        if self.dirty.remove(&at).is_some() {
            self.space.give_back(at, u64::from(self.geometry.nodesize));
        }
    }

    /// Space for a block that no tree of this commit has.
    pub fn space_for_log(&mut self) -> Option<Logical> {
        self.space.take(u64::from(self.geometry.nodesize))
    }

    fn note(&mut self, tree: TreeId, at: Logical, level: u8, first_key: Key, kind: ChangeKind) {
        self.changes.push(BlockChange { at, tree, level, first_key, kind });
    }

    fn take_space(&mut self, tree: TreeId) -> EngineResult<Logical> {
        let nodesize = u64::from(self.geometry.nodesize);
        let taken = if tree == TreeId::CHUNK { self.space.take_system(nodesize) } else { self.space.take(nodesize) };
        taken.ok_or(EngineError::NoSpace)
    }
}

/// What a pointer says of a block; blocks of trees that cannot share must be the tree's own.
pub fn expected(tree: TreeId, ptr: &ChildPtr) -> Expected {
    Expected {
        bytenr: ptr.bytenr,
        level: Some(ptr.level),
        generation: Some(ptr.generation),
        first_key: ptr.first_key,
        owner: (!tree.is_shareable()).then_some(tree),
    }
}

impl TreeReader for Store {
    fn root(&self, tree: TreeId) -> EngineResult<TreeRoot> {
        Ok(self.root_of(tree)?.root)
    }

    fn block(&self, tree: TreeId, ptr: &ChildPtr) -> EngineResult<Arc<TreeBlock>> {
        Ok(self.read(&expected(tree, ptr))?)
    }
}

impl TreeWriter for Store {
    fn nodesize(&self) -> usize {
        self.geometry.nodesize as usize
    }

    fn generation(&self) -> Generation {
        self.generation
    }

    fn make_writable(&mut self, tree: TreeId, ptr: &ChildPtr) -> EngineResult<Logical> {
        let shared = self.shared.contains(&ptr.bytenr);
        if self.dirty.contains_key(&ptr.bytenr) && !shared {
            return Ok(ptr.bytenr);
        }
        let block = self.block(tree, ptr)?;
        let at = self.copy_of(tree, &block)?;
        self.writable(at).header_mut().owner = tree.0.into();
        if shared {
            self.share_children(&block);
        } else {
            self.drop_block(tree, ptr.bytenr, ptr.level);
        }
        Ok(at)
    }

    fn writable(&mut self, at: Logical) -> &mut TreeBlock {
        Arc::make_mut(self.dirty.get_mut(&at).expect("the block was made writable"))
    }

    fn allocate(&mut self, tree: TreeId, level: u8, first_key: Key) -> EngineResult<Logical> {
        let at = self.take_space(tree)?;
        let new = NewBlock {
            bytenr: at,
            generation: self.generation,
            owner: tree,
            level,
            fsid: self.geometry.fsid,
            chunk_tree_uuid: self.volume.chunk_tree_uuid(),
        };
        self.dirty.insert(at, Arc::new(TreeBlock::new(self.geometry.nodesize as usize, &new)));
        self.note(tree, at, level, first_key, ChangeKind::Came);
        Ok(at)
    }

    fn free(&mut self, tree: TreeId, at: Logical) -> EngineResult<()> {
        let level = self.dirty.get(&at).map_or(0, |block| block.level());
        self.drop_block(tree, at, level);
        Ok(())
    }

    fn set_root(&mut self, tree: TreeId, at: Logical, level: u8) {
        let generation = self.generation;
        self.set_tree_root(tree, TreeRoot { bytenr: at, level, generation });
    }
}

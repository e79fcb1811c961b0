//! Extents and tree blocks, moved to another place with all that refers to them.
//!
//! A block is moved *for everybody at once*: its copy gets the references that it had, and each parent, in whatever
//! tree, points to the copy. So what was shared stays shared. A parent has to be of this transaction for that, which
//! moves it too, up to the roots; but once in a transaction, so that many extents in one leaf cost one path.
//!
//! # Invariants
//! * The set of references of what is moved is the same before and after, but for the addresses of moved parents.
//! * A moved block that is no root has full back references, and says so (`FLAG_RELOC`; btrfs-progs takes the flag for
//!   that): it may be shared though it is younger than the last snapshot, and is copied
//!   before anything but a move changes it. (So the kernel has it.)
//! * A moved extent keeps the generation that its item has, which tells whether a snapshot may share it.
//! * Moving changes nothing that a user sees: no time, no `ctransid`, no generation of a file extent.
//! * Subvolumes that are being deleted are gone before: their nodes may point to blocks that are dropped already.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use butterfs_format::block::{FLAG_RELOC, KeyPtr};
use butterfs_format::checksum::Checksum;
use butterfs_format::items::{BackRef, BlockGroupFlags, ExtentFlags, ExtentItem, FileExtent, FileExtentBody};
use butterfs_format::validate::Expected;
use butterfs_format::{Corruption, ItemType, Key, Logical, TreeBlock, TreeId};

use super::blocks::RefBy;
use super::delayed::{ExtentKind, NewExtent};
use super::references::References;
use super::{Transaction, WhyCommit};
use crate::error::{Error, Result};
use crate::space::GroupState;
use crate::tree::{self, ChildPtr, TreeReader, TreeRoot};

/// The longest decompressed extent of the format, in bytes.
const COMPRESSED_MOST: u64 = 128 << 10;

/// A block group, for who chooses among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupInfo {
    /// Where it begins.
    pub start: u64,
    /// How long it is, in bytes.
    pub len: u64,
    /// Type and profile.
    pub flags: BlockGroupFlags,
    /// Bytes of its extents.
    pub used: u64,
}

/// Where what is moved may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Into block groups that there are.
    Existing,
    /// Into new ones too.
    NewChunks,
}

/// What lies in a block group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where.
    pub at: Logical,
    /// How long it is, in bytes.
    pub len: u64,
    /// A tree block of a level, or data.
    pub level: Option<u8>,
}

/// What a move may cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MoveCost {
    /// Tree blocks that are copied.
    pub blocks: u64,
    /// References that change.
    pub refs: u64,
}

impl MoveCost {
    fn covers(&self, other: &Self) -> bool {
        self.blocks >= other.blocks && self.refs >= other.refs
    }
}

/// How a move went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// It is done.
    Done,
    /// There is nothing there any more.
    Gone,
    /// It would cost more than was promised; nothing was changed.
    Costs(MoveCost),
}

/// Who points to a tree block.
enum Parent {
    Root(TreeId),
    Node(Logical),
}

impl Transaction {
    /// The block groups that nobody works on.
    pub fn groups_of(&self, kind: BlockGroupFlags) -> Vec<GroupInfo> {
        let open = self.space.of_kind(kind).filter(|group| group.state == GroupState::Open);
        open.map(|g| GroupInfo { start: g.start, len: g.len, flags: g.flags, used: g.used }).collect()
    }

    /// Free bytes of a kind that nothing is promised of.
    pub fn unpromised(&self, kind: BlockGroupFlags) -> u64 {
        let kept = if kind == BlockGroupFlags::DATA { self.promised.data } else { self.metadata_floor() };
        self.space.totals(kind).available.saturating_sub(kept)
    }

    /// Whether who has space there may count on it.
    pub fn is_open(&self, at: Logical) -> bool {
        self.space.containing(at.0).is_some_and(|group| group.state == GroupState::Open)
    }

    /// Whether what lies there is being moved elsewhere.
    pub fn is_moving(&self, at: Logical) -> bool {
        self.space.containing(at.0).is_some_and(|group| group.state == GroupState::Moving)
    }

    /// Nothing new is put into a group from now on; gives where it lies. `None` if the others have no room for what is
    /// in it and for what is promised.
    pub fn begin_moving(&mut self, start: u64, room: Room) -> Result<Option<Range<u64>>> {
        self.load_free_ranges(start)?;
        let Some(group) = self.space.get(start).filter(|group| group.state == GroupState::Open) else {
            return Ok(None);
        };
        let (kind, range) = (group.flags.kind(), group.start..group.end());
        let needed = group.available() + group.used;
        while self.unpromised(kind) < needed {
            match room {
                Room::Existing => return Ok(None),
                Room::NewChunks => match self.allocate_chunk(kind) {
                    Err(Error::NoSpace) => return Ok(None),
                    result => result?,
                },
            }
        }
        self.space.change(start, |group| group.state = GroupState::Closing);
        Ok(Some(range))
    }

    /// From now on nothing is written in place in a group.
    pub fn close_in_place(&mut self, start: u64) {
        self.space.change(start, |group| group.state = GroupState::Moving);
    }

    /// Nobody reads any more what was moved out of a group: it goes if it is empty, else it is used again.
    pub fn end_moving(&mut self, start: u64) {
        self.space.change(start, |group| {
            group.state = if group.used == 0 { GroupState::Emptied } else { GroupState::Open };
        });
    }

    /// Takes contiguous space for data that is moved, and was promised nothing.
    pub fn take_for_move(&mut self, len: u64) -> Result<Option<Logical>> {
        if self.unpromised(BlockGroupFlags::DATA) < len {
            return Ok(None);
        }
        let (at, got) = self.allocate_data(len)?;
        if got < len {
            self.give_back(at, got);
            return Ok(None);
        }
        Ok(Some(at))
    }

    /// Whether a deleted subvolume still has blocks.
    pub fn has_dead_subvolumes(&self) -> Result<bool> {
        let first = Key::new(butterfs_format::ids::objectid::ORPHAN, ItemType::ORPHAN_ITEM, 0);
        let mut cursor = self.cursor(TreeId::ROOT, &first)?;
        while let Some(key) =
            cursor.key().filter(|key| (key.objectid, key.item_type) == (first.objectid, first.item_type))
        {
            if TreeId(key.offset).is_subvolume() {
                return Ok(true);
            }
            cursor.advance()?;
        }
        Ok(false)
    }

    /// The first extent in a range that the extent tree knows.
    pub fn first_extent(&self, range: &Range<u64>) -> Result<Option<Found>> {
        let mut cursor = self.cursor(TreeId::EXTENT, &Key::new(range.start, ItemType(0), 0))?;
        while let Some((key, data)) = cursor.item().filter(|(key, _)| key.objectid < range.end) {
            let at = Logical(key.objectid);
            match key.item_type {
                ItemType::METADATA_ITEM => {
                    let len = self.geometry.nodesize.into();
                    return Ok(Some(Found { at, len, level: Some(key.offset as u8) }));
                }
                ItemType::EXTENT_ITEM => {
                    let item = parse_extent(&key, data)?;
                    let level = item.block_info.map(|info| info.level);
                    return Ok(Some(Found { at, len: key.offset, level }));
                }
                _ => cursor.advance()?,
            }
        }
        Ok(None)
    }

    fn kind_of(found: &Found) -> ExtentKind {
        found.level.map_or(ExtentKind::Data, ExtentKind::TreeBlock)
    }

    fn references_of(&self, found: &Found) -> Result<References> {
        self.references(found.at, Self::kind_of(found), found.len)
    }

    /// A tree block of which only address and level are known.
    pub(super) fn block_at(&self, at: Logical, level: u8) -> Result<Arc<TreeBlock>> {
        let known = self.dirty.get(&at).or_else(|| self.frozen.get(&at)).cloned();
        let block = match known.or_else(|| self.cache.get(at)) {
            Some(block) => block,
            None => Arc::new(self.volume.read_block(&Expected { level: Some(level), ..Expected::at(at) })?),
        };
        if block.level() != level {
            let problem = format!("it has level {}, its references say {level}", block.level());
            return Err(Corruption::new(format!("tree block {at}"), problem).into());
        }
        Ok(block)
    }

    fn found_block(&self, at: Logical, level: u8) -> Found {
        Found { at, len: self.geometry.nodesize.into(), level: Some(level) }
    }

    /// All who point to a tree block.
    fn parents(&self, block: &TreeBlock) -> Result<Vec<Parent>> {
        let refs = self.references_of(&self.found_block(block.bytenr(), block.level()))?;
        let mut parents = Vec::with_capacity(refs.len());
        for back_ref in refs.keys() {
            match back_ref {
                BackRef::TreeBlock { root } => parents.push(self.parent_in(*root, block)?),
                BackRef::SharedBlock { parent } => parents.push(Parent::Node(*parent)),
                _ => return Err(unexpected(block, back_ref)),
            }
        }
        Ok(parents)
    }

    /// Who points to a block in a tree.
    fn parent_in(&self, tree: TreeId, block: &TreeBlock) -> Result<Parent> {
        let root = self.tree_root(tree)?;
        if root.bytenr == block.bytenr() {
            return Ok(Parent::Root(tree));
        }
        let lost = || Corruption::new(format!("tree block {}", block.bytenr()), format!("it is not in tree {tree}"));
        let (mut ptr, first) = (ChildPtr::from(root), first_key(block));
        while ptr.level > block.level() {
            let node = self.block(tree, &ptr)?;
            let child = ChildPtr::of(&node, node.child_slot(&first));
            if child.bytenr == block.bytenr() {
                return Ok(Parent::Node(node.bytenr()));
            }
            ptr = child;
        }
        Err(lost().into())
    }

    /// What moving these blocks costs: those above them that are not of this transaction are moved too.
    fn cost_of(&self, blocks: impl IntoIterator<Item = (Logical, u8)>) -> Result<MoveCost> {
        let mut cost = MoveCost::default();
        let (mut todo, mut seen): (Vec<_>, BTreeSet<Logical>) = (blocks.into_iter().collect(), BTreeSet::new());
        while let Some((at, level)) = todo.pop() {
            if self.dirty.contains_key(&at) || !seen.insert(at) {
                continue;
            }
            let block = self.block_at(at, level)?;
            cost.blocks += 1;
            cost.refs += 2 + 2 * block.len() as u64;
            for parent in self.parents(&block)? {
                if let Parent::Node(node) = parent {
                    todo.push((node, level + 1));
                }
            }
        }
        Ok(cost)
    }

    /// What moving something costs.
    pub fn cost_of_moving(&self, found: &Found) -> Result<MoveCost> {
        let refs = self.references_of(found)?;
        // It went, or was moved with something below it.
        if refs.is_empty() {
            return Ok(MoveCost::default());
        }
        let Some(level) = found.level else {
            let mut cost = self.cost_of(self.leaves_of(found, &refs)?.into_iter().map(|leaf| (leaf, 0)))?;
            let sums = found.len / self.sectorsize() * self.geometry.csum_type.size() as u64;
            cost.blocks += 8 + 4 * sums / u64::from(self.geometry.nodesize);
            cost.refs += 2 + refs.len() as u64;
            return Ok(cost);
        };
        let block = self.block_at(found.at, level)?;
        if block.owner().is_shareable() {
            return self.cost_of([(found.at, level)]);
        }
        Ok(MoveCost { blocks: 8, refs: 16 })
    }

    /// Moves a tree block out of its group.
    pub fn move_tree_block(&mut self, found: &Found, promised: &MoveCost) -> Result<Moved> {
        let Some(level) = found.level else { return Ok(Moved::Gone) };
        if self.references_of(found)?.is_empty() {
            return Ok(Moved::Gone);
        }
        let cost = self.cost_of_moving(found)?;
        if !promised.covers(&cost) {
            return Ok(Moved::Costs(cost));
        }
        self.begin_move();
        let block = self.block_at(found.at, level)?;
        if block.owner().is_shareable() {
            self.move_block(found.at, level)?;
        } else {
            tree::touch(self, block.owner(), &first_key(&block))?;
        }
        Ok(Moved::Done)
    }

    /// What was moved, the log may name where it was: the last commit has it there.
    fn begin_move(&mut self) {
        self.changes += 1;
        self.refuse_log(WhyCommit::Moved);
    }

    /// Moves a block that subvolumes may share; gives where it is now.
    fn move_block(&mut self, at: Logical, level: u8) -> Result<Logical> {
        let old = self.block_at(at, level)?;
        for parent in self.parents(&old)? {
            if let Parent::Node(node) = parent
                && !self.dirty.contains_key(&node)
            {
                self.move_block(node, level + 1)?;
            }
        }
        let parents = self.parents(&old)?;
        let (_, full) = self.block_references(at, level)?;
        let refs = self.references_of(&self.found_block(at, level))?;
        let to = self.take_block_space(BlockGroupFlags::METADATA)?;
        // A root is nobody else's, and stays as it is.
        let is_root = parents.iter().any(|parent| matches!(parent, Parent::Root(_)));
        let new = self.moved_copy(&old, to, if is_root { 0 } else { FLAG_RELOC });
        let full_backref = if is_root { ExtentFlags::empty() } else { ExtentFlags::FULL_BACKREF };
        let extent = NewExtent { first_key: first_key(&old), ..NewExtent::new(ExtentFlags::TREE_BLOCK | full_backref) };
        self.hand_over(&self.found_block(at, level), to, extent, &refs);
        if !is_root {
            let by = if full { RefBy::Parent(at) } else { RefBy::Tree(old.owner()) };
            self.refer_to_children(&new, RefBy::Parent(to), 1)?;
            self.refer_to_children(&old, by, -1)?;
        }
        self.dirty.insert(to, Arc::new(new));
        self.dirty.remove(&at);
        self.cache.remove(at);
        for parent in parents {
            match parent {
                Parent::Root(tree) => {
                    let root = TreeRoot { bytenr: to, level, generation: self.generation };
                    self.set_moved_root(tree, root);
                }
                Parent::Node(node) => self.point_to(node, &old, to)?,
            }
        }
        Ok(to)
    }

    /// The same block at another place. Its owner stays who it was.
    fn moved_copy(&self, old: &TreeBlock, to: Logical, flag: u64) -> TreeBlock {
        let owner = old.owner();
        let mut new = self.clone_block(old, to, owner);
        let header = new.header_mut();
        header.flags = (header.flags.get() | flag).into();
        new
    }

    /// Gives all references of an extent to another one, which is new.
    fn hand_over(&mut self, from: &Found, to: Logical, extent: NewExtent, refs: &References) {
        let kind = Self::kind_of(from);
        let mut extent = Some(extent);
        for (back_ref, count) in refs {
            let mut rest = *count;
            if let Some(extent) = extent.take() {
                self.refs.add_new(to, kind, from.len, extent, *back_ref);
                rest -= 1;
            }
            if rest > 0 {
                self.refs.change(to, kind, from.len, *back_ref, rest);
            }
            self.refs.change(from.at, kind, from.len, *back_ref, -count);
        }
    }

    /// Makes a node of this transaction point to a moved block.
    fn point_to(&mut self, node: Logical, old: &TreeBlock, to: Logical) -> Result<()> {
        let generation = self.generation;
        let wrong = || Corruption::new(format!("tree block {node}"), format!("it does not point to {}", old.bytenr()));
        let block = self.dirty.get_mut(&node).ok_or_else(wrong)?;
        let slot = block.search(&first_key(old)).ok().filter(|slot| block.ptr(*slot).blockptr.get() == old.bytenr().0);
        let slot = slot.ok_or_else(wrong)?;
        let block = Arc::make_mut(block);
        let ptr = KeyPtr { blockptr: to.0.into(), generation: generation.0.into(), ..*block.ptr(slot) };
        block.set_ptr(slot, ptr);
        Ok(())
    }

    /// The leaves with file extents that refer to a data extent.
    fn leaves_of(&self, found: &Found, refs: &References) -> Result<BTreeSet<Logical>> {
        let mut leaves = BTreeSet::new();
        for back_ref in refs.keys() {
            match *back_ref {
                BackRef::SharedData { parent } => drop(leaves.insert(parent)),
                BackRef::Data { root, objectid, offset } => {
                    self.leaves_in(root, objectid.0, offset, found, &mut leaves)?;
                }
                _ => {
                    let problem = format!("it is data, and has a reference {back_ref:?}");
                    return Err(Corruption::new(format!("extent {}", found.at), problem).into());
                }
            }
        }
        Ok(leaves)
    }

    /// Those of one file. A reference's offset is that of the item, less that within the extent: it may be negative.
    fn leaves_in(
        &self,
        tree: TreeId,
        ino: u64,
        offset: u64,
        found: &Found,
        leaves: &mut BTreeSet<Logical>,
    ) -> Result<()> {
        let most = found.len.max(COMPRESSED_MOST);
        let (first, end) = match offset.cast_signed() < 0 {
            true => (0, offset.wrapping_add(most)),
            false => (offset, offset.saturating_add(most)),
        };
        let mut cursor = self.cursor(tree, &Key::new(ino, ItemType::EXTENT_DATA, first))?;
        while let Some((key, data)) = cursor.item() {
            if (key.objectid, key.item_type) != (ino, ItemType::EXTENT_DATA) || key.offset >= end {
                break;
            }
            if refers_to(&key, data, found.at)?
                && let Some(leaf) = cursor.leaf()
            {
                leaves.insert(leaf.bytenr());
            }
            cursor.advance()?;
        }
        Ok(())
    }

    /// The leaf that holds the first item from a key on, and the last key in it; `None` past the last item.
    pub fn leaf_with(&self, tree: TreeId, from: &Key) -> Result<Option<(Logical, Key)>> {
        let cursor = self.cursor(tree, from)?;
        let leaf = cursor.leaf().filter(|leaf| cursor.key().is_some() && !leaf.is_empty());
        Ok(leaf.map(|leaf| (leaf.bytenr(), leaf.key(leaf.len() - 1))))
    }

    /// Makes all who refer to a data extent refer to a copy of it, which has these checksums.
    pub fn move_data(
        &mut self,
        found: &Found,
        to: Logical,
        sums: &[Option<Checksum>],
        promised: &MoveCost,
    ) -> Result<Moved> {
        let refs = self.references_of(found)?;
        let Some((_, item)) = self.extent_item(found.at, ExtentKind::Data, found.len)? else { return Ok(Moved::Gone) };
        if refs.is_empty() {
            return Ok(Moved::Gone);
        }
        let cost = self.cost_of_moving(found)?;
        if !promised.covers(&cost) {
            return Ok(Moved::Costs(cost));
        }
        self.begin_move();
        for leaf in self.leaves_of(found, &refs)? {
            let leaf = if self.dirty.contains_key(&leaf) { leaf } else { self.move_block(leaf, 0)? };
            self.redirect(leaf, found.at, to)?;
        }
        // Those by leaf have the new addresses of the leaves.
        let refs = self.references_of(found)?;
        let extent = NewExtent { generation: Some(item.generation), ..NewExtent::new(ExtentFlags::DATA) };
        self.hand_over(found, to, extent, &refs);
        let sector = self.sectorsize();
        for run in runs(sums) {
            let known: Vec<Checksum> = sums[run.clone()].iter().flatten().copied().collect();
            self.insert_checksums(Logical(to.0 + run.start as u64 * sector), &known)?;
        }
        Ok(Moved::Done)
    }

    /// Changes the address in all file extents of a leaf of this transaction.
    fn redirect(&mut self, leaf: Logical, from: Logical, to: Logical) -> Result<()> {
        let lost = || Corruption::new(format!("tree block {leaf}"), "it was not moved");
        let block = Arc::make_mut(self.dirty.get_mut(&leaf).ok_or_else(lost)?);
        for slot in 0..block.len() {
            let key = block.key(slot);
            if key.item_type != ItemType::EXTENT_DATA || !refers_to(&key, block.data(slot), from)? {
                continue;
            }
            let packed = {
                let extent = parse_file_extent(&key, block.data(slot))?;
                let FileExtentBody::Extent { disk_num_bytes, offset, num_bytes, prealloc, .. } = extent.body else {
                    continue;
                };
                let body = FileExtentBody::Extent { disk_bytenr: to.0, disk_num_bytes, offset, num_bytes, prealloc };
                FileExtent { body, ..extent }.pack()
            };
            block.data_mut(slot).copy_from_slice(&packed);
        }
        Ok(())
    }
}

fn first_key(block: &TreeBlock) -> Key {
    if block.is_empty() { Key::MIN } else { block.key(0) }
}

fn unexpected(block: &TreeBlock, back_ref: &BackRef) -> Error {
    let problem = format!("it is a tree block, and has a reference {back_ref:?}");
    Corruption::new(format!("tree block {}", block.bytenr()), problem).into()
}

fn parse_extent(key: &Key, data: &[u8]) -> Result<ExtentItem> {
    Ok(ExtentItem::parse(key, data).map_err(|problem| Corruption::new(format!("extent tree {key}"), problem))?)
}

fn parse_file_extent<'a>(key: &Key, data: &'a [u8]) -> Result<FileExtent<'a>> {
    Ok(FileExtent::parse(data).map_err(|problem| Corruption::new(format!("file extent {key}"), problem))?)
}

fn refers_to(key: &Key, data: &[u8], at: Logical) -> Result<bool> {
    let extent = parse_file_extent(key, data)?;
    Ok(matches!(extent.body, FileExtentBody::Extent { disk_bytenr, .. } if disk_bytenr == at.0))
}

/// Where there are checksums, by number.
fn runs(sums: &[Option<Checksum>]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, _) in sums.iter().enumerate().filter(|(_, sum)| sum.is_some()) {
        match runs.last_mut() {
            Some(last) if last.end == index => last.end += 1,
            _ => runs.push(index..index + 1),
        }
    }
    runs
}

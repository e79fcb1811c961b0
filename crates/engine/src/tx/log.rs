//! The log of the running transaction: small trees that fsync makes durable without a commit.
//!
//! One tree per subvolume, and one that leads to them, which the superblock points to. Their blocks
//! lie in free space and have no extent items; when the transaction commits they are forgotten.
//!
//! # Invariants
//! * The superblock with a log is that of the last commit, but for the log's root: so a log must not
//!   need anything that commit does not know (a chunk, a subvolume).
//! * A block that is durable is not changed in place: it is copied, and its space is free again once
//!   a superblock is durable that leads to the copy.
//! * Its blocks share no parity with those of the trees, which are written later; with a log that becomes durable, no
//!   data is put any more beside what it may refer to.
//! * Once [`Log::refuse`] was called, only a commit makes anything durable.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use butterfs_format::block::NewBlock;
use butterfs_format::items::{BlockGroupFlags, InodeItem, RootItem};
use butterfs_format::{Generation, ItemType, Key, Logical, Superblock, TreeBlock, TreeId};
use butterfs_volume::Volume;
use foldhash::HashMap;
use zerocopy::{FromZeros, IntoBytes};

use super::names::{EntryKey, Leads, NameChanges};
use super::seal::write_blocks;
use super::{Transaction, WhyCommit};
use crate::error::Result;
use crate::id::InodeId;
use crate::space::Due;
use crate::tree::{self, BlockMap, ChildPtr, Cursor, TreeReader, TreeRoot, TreeWriter};

/// So many inodes and ranges are remembered; with more a commit is cheaper.
const MANY: usize = 1 << 16;

/// So many parts of one file.
const MANY_RANGES: usize = 64;

fn hull(a: &Range<u64>, b: &Range<u64>) -> Range<u64> {
    a.start.min(b.start)..a.end.max(b.end)
}

/// The log, and what fsync must know of this transaction.
#[derive(Default)]
pub(super) struct Log {
    /// The trees: one per subvolume, and under [`TreeId::TREE_LOG`] the one that leads to them.
    roots: BTreeMap<TreeId, TreeRoot>,
    /// Trees whose root the tree of trees does not know yet.
    moved: BTreeSet<TreeId>,
    /// Blocks that were changed since the log was last made durable.
    fresh: BlockMap,
    /// Blocks that are durable, or on their way.
    durable: BlockMap,
    /// Durable blocks that the next durable log does without.
    stale: Vec<Logical>,
    /// How often the log was begun to be made durable, and how often it was.
    begun: u64,
    done: u64,
    refused: Option<WhyCommit>,
    /// Names that changed and are not in the log.
    names: HashMap<TreeId, NameChanges>,
    /// Parts of files whose extents changed since they were last logged.
    touched: HashMap<InodeId, Vec<Range<u64>>>,
}

/// A moment of the log. It is durable when the log was made durable after it, or with its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogTicket {
    generation: Generation,
    number: u64,
}

impl Log {
    fn refuse(&mut self, why: WhyCommit) {
        self.refused.get_or_insert(why);
        (self.names, self.touched) = (HashMap::default(), HashMap::default());
    }
}

/// What the log has to know.
impl Transaction {
    /// From here on only a commit makes this transaction's changes durable.
    pub(super) fn refuse_log(&mut self, why: WhyCommit) {
        self.log.refuse(why);
    }

    /// Why every fsync has to commit; `None` if it has not.
    pub fn log_refused(&self) -> Option<WhyCommit> {
        self.log.refused
    }

    fn note_name(&mut self, tree: TreeId, note: impl FnOnce(&mut NameChanges)) {
        if self.log.refused.is_some() {
            return;
        }
        let names = self.log.names.entry(tree).or_default();
        note(names);
        if names.count() > MANY {
            self.log.refuse(WhyCommit::TooMuch);
        }
    }

    /// A directory of a subvolume got an entry.
    pub fn note_gained(&mut self, tree: TreeId, key: EntryKey, leads: Leads) {
        self.note_name(tree, |names| names.gain(key, leads));
    }

    /// A directory of a subvolume lost an entry.
    pub fn note_lost(&mut self, tree: TreeId, key: EntryKey, leads: Leads) {
        self.note_name(tree, |names| names.lose(key, leads));
    }

    /// An inode of an older transaction that had no names gets one.
    pub fn note_revived(&mut self, id: InodeId) {
        self.note_name(id.tree, |names| names.revive(id.ino));
    }

    /// The names of a subvolume that changed and are not in the log.
    pub fn name_changes(&self, tree: TreeId) -> Option<&NameChanges> {
        self.log.names.get(&tree)
    }

    /// The same, to take those out that were logged.
    pub fn name_changes_mut(&mut self, tree: TreeId) -> Option<&mut NameChanges> {
        self.log.names.get_mut(&tree)
    }

    /// Whether names of an inode, or in it, changed and are not in the log.
    pub fn names_changed(&self, id: InodeId) -> bool {
        let changed = |names: &NameChanges| names.of_inode(id.ino).chain(names.in_dir(id.ino)).next().is_some();
        self.name_changes(id.tree).is_some_and(changed)
    }

    /// The item in the log of its subvolume, if there is one.
    pub fn logged_item(&self, tree: TreeId, key: &Key) -> Result<Option<Vec<u8>>> {
        if !self.log.roots.contains_key(&tree) {
            return Ok(None);
        }
        let reader = LogReader { tx: self, tree };
        let found = tree::last_not_above(&reader, TreeId::TREE_LOG, key)?;
        Ok(found.filter(|(at, _)| at == key).map(|(_, data)| data))
    }

    /// The extents of a part of a file changed.
    pub fn note_touched(&mut self, id: InodeId, range: Range<u64>) {
        if self.log.touched.len() > MANY {
            self.log.refuse(WhyCommit::TooMuch);
        }
        if self.log.refused.is_some() {
            return;
        }
        let ranges = self.log.touched.entry(id).or_default();
        if let Some(last) = ranges.last_mut()
            && last.end >= range.start
            && last.start <= range.end
        {
            *last = hull(last, &range);
            return;
        }
        ranges.push(range);
        // Many small changes: one large one costs less to remember.
        if ranges.len() > MANY_RANGES {
            *ranges = ranges.iter().cloned().reduce(|all, range| hull(&all, &range)).into_iter().collect();
        }
    }

    /// The parts of a file whose extents changed since this was last asked.
    pub fn take_touched(&mut self, id: InodeId) -> Vec<Range<u64>> {
        self.log.touched.remove(&id).unwrap_or_default()
    }
}

/// One tree of the log, to read and write.
pub struct LogWriter<'t> {
    tx: &'t mut Transaction,
    tree: TreeId,
}

impl Transaction {
    /// The log of a subvolume; made if there is none.
    pub fn log_of(&mut self, subvolume: TreeId) -> Result<LogWriter<'_>> {
        let mut writer = LogWriter { tx: self, tree: subvolume };
        if !writer.tx.log.roots.contains_key(&subvolume) {
            let at = writer.allocate(TreeId::TREE_LOG, 0, Key::MIN)?;
            writer.set_root(TreeId::TREE_LOG, at, 0);
        }
        Ok(writer)
    }
}

impl LogWriter<'_> {
    /// The transaction.
    pub fn tx(&mut self) -> &mut Transaction {
        self.tx
    }

    /// Puts an item in, in place of one with its key.
    pub fn put(&mut self, key: &Key, data: &[u8]) -> Result<()> {
        tree::put(self, TreeId::TREE_LOG, key, data)
    }

    /// Takes an item out.
    pub fn remove(&mut self, key: &Key) -> Result<()> {
        tree::remove(self, TreeId::TREE_LOG, key).map(drop)
    }

    /// The items from a key to another, both included.
    pub fn between(&self, first: &Key, last: &Key) -> Result<Vec<(Key, Vec<u8>)>> {
        let mut cursor = Cursor::seek(self, TreeId::TREE_LOG, first)?;
        let mut found = Vec::new();
        while let Some((key, data)) = cursor.item()
            && key <= *last
        {
            found.push((key, data.to_vec()));
            cursor.advance()?;
        }
        Ok(found)
    }

    /// The item with the highest key that is not above `key`.
    pub fn last_not_above(&self, key: &Key) -> Result<Option<(Key, Vec<u8>)>> {
        tree::last_not_above(self, TreeId::TREE_LOG, key)
    }
}

/// One tree of the log, to read.
struct LogReader<'t> {
    tx: &'t Transaction,
    tree: TreeId,
}

impl TreeReader for LogReader<'_> {
    fn root(&self, _: TreeId) -> Result<TreeRoot> {
        self.tx.log.roots.get(&self.tree).copied().ok_or(crate::error::Error::NotFound)
    }

    fn block(&self, _: TreeId, ptr: &ChildPtr) -> Result<Arc<TreeBlock>> {
        let log = &self.tx.log;
        match log.fresh.get(&ptr.bytenr).or_else(|| log.durable.get(&ptr.bytenr)) {
            Some(block) => Ok(Arc::clone(block)),
            None => self.tx.block(TreeId::TREE_LOG, ptr),
        }
    }
}

impl LogWriter<'_> {
    fn reader(&self) -> LogReader<'_> {
        LogReader { tx: self.tx, tree: self.tree }
    }
}

impl TreeReader for LogWriter<'_> {
    fn root(&self, tree: TreeId) -> Result<TreeRoot> {
        self.reader().root(tree)
    }

    fn block(&self, tree: TreeId, ptr: &ChildPtr) -> Result<Arc<TreeBlock>> {
        self.reader().block(tree, ptr)
    }
}

impl TreeWriter for LogWriter<'_> {
    fn nodesize(&self) -> usize {
        self.tx.geometry.nodesize as usize
    }

    fn generation(&self) -> Generation {
        self.tx.generation
    }

    fn make_writable(&mut self, tree: TreeId, ptr: &ChildPtr) -> Result<Logical> {
        if self.tx.log.fresh.contains_key(&ptr.bytenr) {
            return Ok(ptr.bytenr);
        }
        let old = self.block(tree, ptr)?;
        let at = self.tx.take_block_space(BlockGroupFlags::METADATA, Due::Log)?;
        let new = self.tx.clone_block(&old, at, TreeId::TREE_LOG);
        let log = &mut self.tx.log;
        log.fresh.insert(at, Arc::new(new));
        log.durable.remove(&ptr.bytenr);
        log.stale.push(ptr.bytenr);
        Ok(at)
    }

    fn writable(&mut self, at: Logical) -> &mut TreeBlock {
        Arc::make_mut(self.tx.log.fresh.get_mut(&at).expect("the block was made writable"))
    }

    fn allocate(&mut self, _: TreeId, level: u8, _: Key) -> Result<Logical> {
        let bytenr = self.tx.take_block_space(BlockGroupFlags::METADATA, Due::Log)?;
        let new = NewBlock {
            bytenr,
            generation: self.tx.generation,
            owner: TreeId::TREE_LOG,
            level,
            fsid: self.tx.geometry.fsid,
            chunk_tree_uuid: self.tx.chunk_tree_uuid,
        };
        self.tx.log.fresh.insert(bytenr, Arc::new(TreeBlock::new(self.nodesize(), &new)));
        Ok(bytenr)
    }

    fn free(&mut self, _: TreeId, at: Logical) -> Result<()> {
        self.tx.log.fresh.remove(&at);
        let len = self.tx.geometry.nodesize.into();
        self.tx.release_space(at, len);
        Ok(())
    }

    fn set_root(&mut self, _: TreeId, bytenr: Logical, level: u8) {
        let root = TreeRoot { bytenr, level, generation: self.tx.generation };
        let log = &mut self.tx.log;
        log.roots.insert(self.tree, root);
        if self.tree != TreeId::TREE_LOG {
            log.moved.insert(self.tree);
        }
    }
}

/// A log on its way to the devices.
pub(super) struct FrozenLog {
    blocks: BlockMap,
    superblock: Superblock,
    stale: Vec<Logical>,
    number: u64,
}

impl Transaction {
    /// The last commit, as a moment: waits for it if it is under way.
    pub fn last_commit(&self) -> LogTicket {
        LogTicket { generation: Generation(self.generation.0.wrapping_sub(1)), number: 0 }
    }

    /// Whether extents of a file changed since it was last logged.
    pub fn is_touched(&self, id: InodeId) -> bool {
        self.log.touched.contains_key(&id)
    }

    /// The moment that is now.
    pub fn log_ticket(&self) -> LogTicket {
        LogTicket { generation: self.generation, number: self.log.begun + 1 }
    }

    /// Whether what was logged by then is durable.
    pub(super) fn is_log_durable(&self, ticket: LogTicket) -> bool {
        ticket.generation <= self.committed || ticket.generation == self.generation && self.log.done >= ticket.number
    }

    /// Hands out what of the log is not durable.
    pub(super) fn freeze_log(&mut self) -> Result<FrozenLog> {
        let moved = std::mem::take(&mut self.log.moved);
        let mut trees = self.log_of(TreeId::TREE_LOG)?;
        for tree in moved {
            let root = trees.tx.log.roots.get(&tree).copied().ok_or(crate::error::Error::NotFound)?;
            let key = Key::new(TreeId::TREE_LOG.0, ItemType::ROOT_ITEM, tree.0);
            let item = root_item(&root, trees.tx.geometry.nodesize);
            trees.put(&key, item.as_bytes())?;
        }
        let root = trees.root(TreeId::TREE_LOG)?;
        let mut superblock = self.superblock;
        superblock.log_root = root.bytenr.0.into();
        superblock.log_root_level = root.level;
        let log = &mut self.log;
        log.begun += 1;
        let blocks = std::mem::take(&mut log.fresh);
        self.space.close_rows(Due::Log);
        let log = &mut self.log;
        log.durable.extend(blocks.iter().map(|(at, block)| (*at, Arc::clone(block))));
        Ok(FrozenLog { blocks, superblock, stale: std::mem::take(&mut log.stale), number: log.begun })
    }

    /// The log is durable: space that only the one before needed is free.
    pub(super) fn finish_log(&mut self, frozen: FrozenLog) {
        let len = self.geometry.nodesize.into();
        for at in frozen.stale {
            self.release_space(at, len);
            // The next log goes where this one was: into the same few places of device and cache.
            self.space.change(at.0, |group| group.hint = group.hint.min(at.0));
        }
        self.log.done = frozen.number;
    }

    /// Nothing leads to what was written: the log before it is the durable one, until the commit that is to come.
    pub(super) fn give_up_log(&mut self, frozen: FrozenLog) {
        self.log.stale.extend(frozen.stale);
    }

    /// The transaction commits: the log is over. What may be durable of it stays taken until the
    /// commit is.
    pub(super) fn drop_log(&mut self) {
        let len = self.geometry.nodesize.into();
        let log = std::mem::take(&mut self.log);
        for at in log.fresh.into_keys() {
            self.release_space(at, len);
        }
        for at in log.durable.into_keys().chain(log.stale) {
            self.pin(at, len);
        }
    }
}

/// Whether a superblock leads to a log that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Led {
    There,
    /// A device was dropped meanwhile: what led to the log would be of the generation that this one has.
    Nowhere,
}

impl FrozenLog {
    /// Blocks, flush, superblocks, flush.
    pub(super) fn write(&self, volume: &Volume) -> Result<Led> {
        volume.check_unchanged()?;
        // A log is of the generation after that of its superblock.
        write_blocks(&self.blocks, Generation(self.superblock.generation.get()).next(), volume)?;
        volume.flush()?;
        if volume.owes_commit() {
            return Ok(Led::Nowhere);
        }
        volume.write_log_superblock(&self.superblock)?;
        volume.flush()?;
        Ok(Led::There)
    }
}

/// As the kernel fills it.
fn root_item(root: &TreeRoot, nodesize: u32) -> RootItem {
    let mut item = RootItem::new_zeroed();
    item.inode = InodeItem {
        generation: 1.into(),
        size: 3.into(),
        nlink: 1.into(),
        nbytes: u64::from(nodesize).into(),
        mode: 0o040_755.into(),
        ..InodeItem::new_zeroed()
    };
    item.bytenr = root.bytenr.0.into();
    item.level = root.level;
    item.generation = root.generation.0.into();
    item.generation_v2 = item.generation;
    item.bytes_used = u64::from(nodesize).into();
    item.refs = 1.into();
    item
}

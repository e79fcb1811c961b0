//! The running transaction: the one way to read and change trees.
//!
//! # Invariants
//! * What [`Transaction::freeze`](super::commit) hands out is never changed again.
//! * A change that fails half-way leaves trees that must not be committed: the gate sees to it.
//!
//! # Locking
//! Lives behind [`super::Gate`]: readers share it, writers have it alone.

use std::collections::HashSet;
use std::sync::{Arc, RwLock};

use butterfs_format::items::{BackRef, Compression, DevItem, ExtentFlags};
use butterfs_format::superblock::{CompatRo, Incompat};
use butterfs_format::validate::Geometry;
use butterfs_format::{Generation, Key, Logical, Superblock, TreeId};
use butterfs_volume::Volume;
use foldhash::HashMap;

use super::delayed::{DelayedRefs, ExtentKind, NewExtent};
use super::device_list::ChunkWishes;
use super::discard::Discards;
use super::free_space_tree::SpaceChange;
use super::log::Log;
use super::lost_refs::LostRefs;
use super::roots::Root;
use super::sharing::Sharing;
use super::why_commit::WhyCommit;
use crate::error::Result;
use crate::space::{FreeRanges, Promised, SpaceMap, SpaceRules};
use crate::tree::{self, BlockMap, Cursor, cache::BlockCache};

/// The running transaction.
pub struct Transaction {
    pub(super) volume: Arc<Volume>,
    pub(super) cache: Arc<BlockCache>,
    pub(super) geometry: Geometry,
    pub(super) chunk_tree_uuid: [u8; 16],
    /// The superblock of the last commit that was begun.
    pub(super) superblock: Superblock,
    pub(super) generation: Generation,
    /// The last one that is durable.
    pub(super) committed: Generation,
    /// Blocks of this generation.
    pub(super) dirty: BlockMap,
    /// Blocks of the generation that is being written.
    pub(super) frozen: BlockMap,
    /// Trees that were looked at; filled by readers too.
    pub(super) roots: RwLock<HashMap<TreeId, Root>>,
    /// Trees that were looked for and do not exist, but for subvolumes.
    pub(super) absent: RwLock<HashSet<TreeId>>,
    /// Trees of which a snapshot was taken in this transaction: their blocks are copied even when
    /// they are of this generation.
    pub(super) force_copy: HashSet<TreeId>,
    pub(super) refs: DelayedRefs,
    pub(super) lost_refs: LostRefs,
    pub(super) space: SpaceMap,
    pub(super) promised: Promised,
    /// What the user chose about space.
    pub(super) rules: SpaceRules,
    pub(super) discards: Discards,
    /// What the free space tree does not know yet, while references are settled.
    pub(super) space_change: Option<SpaceChange>,
    /// What subvolumes share, once something is to be changed.
    pub(super) sharing: Option<Sharing>,
    /// Space freed in this transaction: not to be used before it is durable.
    pub(super) pinned: Vec<(Logical, u64)>,
    pub(super) pinned_bytes: u64,
    pub(super) devices: Vec<DevItem>,
    /// Space of each device that is in no chunk, once somebody asked.
    pub(super) device_space: Option<Vec<FreeRanges>>,
    pub(super) wishes: ChunkWishes,
    /// The number of the next subvolume, once one was made.
    pub(super) next_tree: Option<u64>,
    pub(super) log: Log,
    /// Counts calls that change something.
    pub(super) changes: u64,
    /// A root item was changed by itself, so that there may be no changed block that tells of it yet.
    pub(super) root_item_changed: bool,
}

/// Reading.
impl Transaction {
    /// The number of this transaction.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Sizes, checksum type and UUID.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Features that readers must know.
    pub fn incompat(&self) -> Incompat {
        self.superblock.incompat()
    }

    /// Features that writers must know.
    pub fn compat_ro(&self) -> CompatRo {
        self.superblock.compat_ro()
    }

    /// Notes that the UUID tree has all that it should.
    pub fn uuid_tree_is_current(&mut self) {
        self.superblock.uuid_tree_generation = self.superblock.generation;
        self.changes += 1;
    }

    /// Notes that data is compressed in a way that readers must know.
    pub fn use_compression(&mut self, kind: Compression) {
        let feature = match kind {
            Compression::None | Compression::Zlib => return,
            Compression::Lzo => Incompat::COMPRESS_LZO,
            Compression::Zstd => Incompat::COMPRESS_ZSTD,
        };
        self.use_feature(feature);
    }

    /// Notes something that readers must know of.
    pub fn use_feature(&mut self, feature: Incompat) {
        if !self.incompat().contains(feature) {
            self.superblock.incompat_flags = (self.incompat() | feature).bits().into();
            self.refuse_log(WhyCommit::NewFeature);
        }
    }

    pub(super) fn skinny_metadata(&self) -> bool {
        self.incompat().contains(Incompat::SKINNY_METADATA)
    }

    pub(super) fn has_free_space_tree(&self) -> bool {
        self.superblock.compat_ro().contains(CompatRo::FREE_SPACE_TREE)
    }

    /// The tree that holds block group items.
    pub(super) fn block_group_tree(&self) -> TreeId {
        if self.superblock.compat_ro().contains(CompatRo::BLOCK_GROUP_TREE) {
            TreeId::BLOCK_GROUP
        } else {
            TreeId::EXTENT
        }
    }

    /// Bytes of tree blocks that the next commit writes.
    pub(super) fn dirty_bytes(&self) -> u64 {
        self.dirty.len() as u64 * u64::from(self.geometry.nodesize)
    }

    pub(super) fn sectorsize(&self) -> u64 {
        self.geometry.sectorsize.into()
    }

    /// The item with this key.
    pub fn get(&self, tree: TreeId, key: &Key) -> Result<Option<Vec<u8>>> {
        let cursor = self.cursor(tree, key)?;
        Ok(cursor.item().filter(|(found, _)| found == key).map(|(_, data)| data.to_vec()))
    }

    /// A cursor at the first item whose key is `from` or higher.
    pub fn cursor(&self, tree: TreeId, from: &Key) -> Result<Cursor<'_, Self>> {
        Cursor::seek(self, tree, from)
    }

    /// The item with the highest key that is not above `key`.
    pub fn last_not_above(&self, tree: TreeId, key: &Key) -> Result<Option<(Key, Vec<u8>)>> {
        tree::last_not_above(self, tree, key)
    }
}

/// Changing trees.
impl Transaction {
    /// Puts a new item in.
    ///
    /// # Errors
    /// [`crate::Error::Exists`] if there is one with its key.
    pub fn insert(&mut self, tree: TreeId, key: &Key, data: &[u8]) -> Result<()> {
        tree::insert(self, tree, key, data)
    }

    /// Puts an item in, in place of one with its key if there is one.
    pub fn put(&mut self, tree: TreeId, key: &Key, data: &[u8]) -> Result<()> {
        tree::put(self, tree, key, data)
    }

    /// Puts bytes behind those of an item, or makes it of them; `false` if it would be longer than `most`.
    pub fn extend(&mut self, tree: TreeId, key: &Key, data: &[u8], most: usize) -> Result<bool> {
        tree::extend(self, tree, key, data, most)
    }

    /// Changes an item's bytes in place; says whether there was one.
    pub fn update(&mut self, tree: TreeId, key: &Key, change: impl FnOnce(&mut [u8])) -> Result<bool> {
        tree::update(self, tree, key, change)
    }

    /// Takes an item out; says whether there was one.
    pub fn remove(&mut self, tree: TreeId, key: &Key) -> Result<bool> {
        tree::remove(self, tree, key)
    }
}

/// Data extents.
impl Transaction {
    /// Makes allocated space an extent with its first reference.
    pub fn add_data_extent(&mut self, at: Logical, len: u64, back_ref: BackRef) -> Result<()> {
        self.changes += 1;
        let new = NewExtent::new(ExtentFlags::DATA);
        self.refs.add_new(at, ExtentKind::Data, len, new, back_ref);
        Ok(())
    }

    /// Adds a reference to an extent; `at` and `len` are the whole extent's address and length on
    /// disk (`disk_bytenr`, `disk_num_bytes`).
    pub fn add_data_ref(&mut self, at: Logical, len: u64, back_ref: BackRef) -> Result<()> {
        self.change_data_ref(at, len, back_ref, 1);
        Ok(())
    }

    /// Drops a reference; with the last one goes the extent, its checksums and, after commit, its
    /// space.
    pub fn drop_data_ref(&mut self, at: Logical, len: u64, back_ref: BackRef) -> Result<()> {
        self.change_data_ref(at, len, back_ref, -1);
        Ok(())
    }

    /// Changes the count of a reference to data.
    pub(super) fn change_data_ref(&mut self, at: Logical, len: u64, back_ref: BackRef, by: i64) {
        self.changes += 1;
        if by < 0 {
            self.lost_refs.note(at, back_ref);
        }
        self.refs.change(at, ExtentKind::Data, len, back_ref, by);
    }

    /// Whether nobody but `own` referred to an extent when things were last durable, or may then find it by a log.
    pub fn is_nobody_elses_since_commit(&self, at: Logical, own: &BackRef) -> bool {
        !self.lost_refs.by_others(at, own)
    }
}

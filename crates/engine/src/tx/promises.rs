//! Promises of space: who may use how much of what is left.
//!
//! # Why a commit never runs out
//! A commit copies blocks of the extent tree, the free space tree and the checksum tree, for each
//! pending reference one leaf of each at most, and all of these trees at most, and the roots. That is
//! [`Transaction::settle_need`]. Before a change begins, so much is there on top of what the change
//! itself may copy; where there is less, a commit comes first: it leaves no reference pending, and
//! gives the space of copied blocks back.
//!
//! What must then be there between two commits is kept by four levels, each of which leaves to those
//! below what they need:
//! 1. changes that take space ([`Need::Items`]) leave the reserve, which holds the three trees, and
//!    copies of all that writable subvolumes share with others ([`super::sharing`]);
//! 2. changes that give space ([`Need::Deletion`]) may use the reserve, but not what is promised;
//! 3. what was promised ([`Need::Promised`]) uses its promise;
//! 4. the commit.
//!
//! # Invariants
//! * `promised` is the sum of all [`DataReservation`]s that live.
//! * A step of a deletion, or of writeback, is so small that its references fit what is left
//!   ([`Transaction::affordable`]).

use std::sync::Arc;

use butterfs_format::items::BlockGroupFlags;
use butterfs_format::{Logical, TreeId};

use super::Transaction;
use super::chunks::SYSTEM_NODES;
use super::gate::Trees;
use super::moves::MoveCost;
use crate::error::Result;
use crate::space::{Promised, Totals};

/// Trees that a commit changes, whatever was done.
const SETTLED: [TreeId; 4] = [TreeId::EXTENT, TreeId::CSUM, TreeId::FREE_SPACE, TreeId::BLOCK_GROUP];
/// Blocks that every commit may copy: roots, and the paths to them.
const COMMIT_BLOCKS: u64 = 48;
/// Blocks that one reference may have copied.
const BLOCKS_PER_REF: u64 = 3;
/// Blocks that one small change may copy.
const CHANGE_BLOCKS: u64 = 32;
/// Items that a snapshot puts in or changes.
const SNAPSHOT_ITEMS: u64 = 16;
/// References that one small change may make.
const CHANGE_REFS: u64 = 24;
/// Blocks that dropping one leaf of a subvolume may have copied.
const DROP_BLOCKS: u64 = 1024 * BLOCKS_PER_REF;
/// The reserve is never smaller than so many blocks, nor larger than this many bytes.
const RESERVE_BLOCKS: u64 = 2 * CHANGE_BLOCKS + 2 * BLOCKS_PER_REF * CHANGE_REFS;
const RESERVE_MAX: u64 = 512 << 20;

/// Why a change needs metadata, and how much in the worst case; seen to before the change begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Up to so many items are put in or changed; fails with [`crate::Error::NoSpace`].
    Items(u32),
    /// A snapshot of this subvolume, and what may be copied later because of it.
    Snapshot(TreeId, Copier),
    /// Something is moved, so that space is given back in the end: may use the reserve.
    Move(MoveCost),
    /// Space is given back in the end: may use the reserve, in steps that are
    /// [affordable](Transaction::affordable).
    Deletion,
    /// What was promised to data, or what nobody can be refused any more, is written.
    Promised,
}

/// Who may change blocks that a snapshot shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copier {
    /// The snapshot is read-only.
    Source,
    /// Both the source and the snapshot.
    Both,
}

/// Space that is asked for data in memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Data, in whole sectors.
    pub data: u64,
    /// Space for data without the metadata of it, which each step asks for itself.
    pub bare: u64,
    /// Data that goes into space that the file has already, and takes metadata only.
    pub in_place: u64,
    /// Bytes that may go into the tree itself, because a file is small; 0 where none may.
    pub inline: u64,
}

impl Wanted {
    fn metadata(&self, sector: u64) -> u64 {
        metadata_for(self.data + self.in_place, sector) + metadata_for_inline(self.inline)
    }
}

/// Space promised to data that is still in memory; given back when dropped, or spent.
pub struct DataReservation {
    gate: Arc<Trees>,
    sector: u64,
    data: u64,
    metadata: u64,
    inline: u64,
    in_place: u64,
}

impl DataReservation {
    pub(super) fn new(gate: Arc<Trees>, sector: u32, wanted: &Wanted) -> Self {
        let (sector, inline) = (u64::from(sector), metadata_for_inline(wanted.inline));
        let metadata = wanted.metadata(sector) - inline;
        Self { gate, sector, data: wanted.data + wanted.bare, metadata, inline, in_place: wanted.in_place }
    }

    /// Bytes of data still promised.
    pub fn bytes(&self) -> u64 {
        self.data
    }

    /// Whether the bytes of a small file may go into the tree.
    pub fn has_inline(&self) -> bool {
        self.inline > 0
    }

    /// Whether nothing is promised any more.
    pub fn is_empty(&self) -> bool {
        (self.data, self.metadata, self.inline, self.in_place) == (0, 0, 0, 0)
    }

    /// Data space was allocated. The promise of its metadata stays until that is in the trees.
    pub fn spend_data(&mut self, bytes: u64) {
        self.give_up(&Promised { data: bytes.min(self.data), ..Promised::default() }, 0);
    }

    /// No more than `bytes` are still in memory: the promise shrinks to what they need.
    pub fn shrink(&mut self, bytes: u64) {
        let gone = Promised {
            data: self.data.saturating_sub(bytes),
            metadata: self.metadata.saturating_sub(metadata_for(bytes, self.sector)),
            in_place: self.in_place.saturating_sub(bytes),
        };
        self.give_up(&gone, if bytes == 0 { self.inline } else { 0 });
    }

    fn give_up(&mut self, gone: &Promised, inline: u64) {
        self.data -= gone.data;
        self.metadata -= gone.metadata;
        self.in_place -= gone.in_place;
        self.inline -= inline;
        let gone = Promised { metadata: gone.metadata + inline, ..*gone };
        if gone != Promised::default() {
            self.gate.write().unpromise(&gone);
        }
    }

    /// Joins two promises.
    pub fn merge(&mut self, mut other: DataReservation) {
        self.data += std::mem::take(&mut other.data);
        self.metadata += std::mem::take(&mut other.metadata);
        self.inline += std::mem::take(&mut other.inline);
        self.in_place += std::mem::take(&mut other.in_place);
    }
}

impl Drop for DataReservation {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

/// Bytes of metadata that stay taken, at worst, by data of this size: for each sector a file
/// extent, an extent item, a checksum and a free range, in leaves that are half full.
fn metadata_for(bytes: u64, sector: u64) -> u64 {
    bytes.div_ceil(sector) * 512
}

/// The same for bytes that go into an item of their own.
fn metadata_for_inline(bytes: u64) -> u64 {
    const HEADERS: u64 = 64;
    if bytes == 0 { 0 } else { 2 * (bytes + HEADERS) }
}

/// How the devices' space is given out, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceUsage {
    /// Size of all devices.
    pub total: u64,
    /// Bytes of devices that are in no chunk.
    pub unallocated: u64,
    /// Data block groups.
    pub data: Totals,
    /// Metadata block groups.
    pub metadata: Totals,
    /// System block groups.
    pub system: Totals,
    /// How many copies of metadata and of system blocks there are.
    pub metadata_copies: u64,
    /// How many copies of data there are.
    pub data_copies: u64,
    /// How many bytes of devices make one byte of metadata that is there for sure.
    pub metadata_cost: u64,
    /// Space of `data` that is promised to data in memory.
    pub promised: u64,
    /// Space of `metadata` that is promised to data in memory.
    pub promised_metadata: u64,
    /// Metadata kept back so that deletions and commits always find room.
    pub reserve: u64,
    /// Whether `data` and `metadata` are the same block groups.
    pub groups: Groups,
}

/// Whether data and metadata lie in block groups of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// They do.
    Apart,
    /// They lie in the same (mixed block groups).
    Mixed,
}

impl Transaction {
    /// How many stripes a row of the newest chunk of a kind has, and how many of them are parity; one and none where
    /// there is no parity.
    fn row_of(&self, kind: BlockGroupFlags) -> (u64, u64) {
        let newest = self.space.of_kind(kind).filter(|group| group.columns.is_some()).last();
        let chunk = newest.and_then(|group| self.volume.chunk_containing(Logical(group.start)));
        let row = chunk.zip(newest.and_then(|group| group.columns));
        row.map_or((1, 0), |((_, chunk), columns)| {
            let stripes = chunk.stripes.len() as u64;
            (stripes, stripes.saturating_sub(columns))
        })
    }

    pub(super) fn space_usage(&self) -> SpaceUsage {
        let total = self.devices.iter().map(|d| d.total_bytes.get()).sum();
        let allocated: u64 = self.devices.iter().map(|d| d.bytes_used.get()).sum();
        let copies_of = |kind: BlockGroupFlags| {
            let chunk = self.space.of_kind(kind).next();
            chunk.and_then(|group| self.volume.stored_copies(Logical(group.start)).ok()).unwrap_or(1) as u64
        };
        let (stripes, _) = self.row_of(BlockGroupFlags::METADATA);
        SpaceUsage {
            // With parity each block takes a line at worst: a stripe on each device.
            metadata_cost: copies_of(BlockGroupFlags::METADATA) * stripes,
            total,
            unallocated: total.saturating_sub(allocated),
            data: self.space.totals(BlockGroupFlags::DATA),
            metadata: self.space.totals(BlockGroupFlags::METADATA),
            system: self.space.totals(BlockGroupFlags::SYSTEM),
            metadata_copies: copies_of(BlockGroupFlags::METADATA),
            data_copies: copies_of(BlockGroupFlags::DATA),
            promised: self.promised.data,
            promised_metadata: self.promised.metadata,
            reserve: self.global_reserve(),
            groups: self.groups(),
        }
    }

    pub(super) fn promise(&mut self, wanted: &Wanted) {
        self.promised.data += wanted.data + wanted.bare;
        self.promised.metadata += wanted.metadata(self.sectorsize());
        self.promised.in_place += wanted.in_place;
    }

    fn unpromise(&mut self, gone: &Promised) {
        self.promised.data = self.promised.data.saturating_sub(gone.data);
        self.promised.metadata = self.promised.metadata.saturating_sub(gone.metadata);
        self.promised.in_place = self.promised.in_place.saturating_sub(gone.in_place);
    }

    /// Whether data in memory was promised no space but that which its file has: no snapshot may share that
    /// before the data is there.
    pub fn counts_on_own_space(&self) -> bool {
        self.promised.in_place > 0
    }

    /// Whether data and metadata lie in the same block groups.
    pub(super) fn groups(&self) -> Groups {
        match self.space.pool(BlockGroupFlags::DATA) {
            BlockGroupFlags::DATA => Groups::Apart,
            _ => Groups::Mixed,
        }
    }

    /// Free metadata space: where data lies in the same groups, without what is promised to that.
    fn metadata_available(&self) -> u64 {
        let available = self.space.totals(BlockGroupFlags::METADATA).available;
        match self.groups() {
            Groups::Apart => available,
            Groups::Mixed => available.saturating_sub(self.promised.data),
        }
    }

    /// What of the space of a kind must stay free for what is promised, whatever is removed.
    pub(super) fn kept(&self, kind: BlockGroupFlags) -> u64 {
        match self.groups() {
            _ if kind == BlockGroupFlags::SYSTEM => self.node_bytes(SYSTEM_NODES),
            Groups::Mixed => self.promised.data + self.metadata_floor(),
            Groups::Apart if kind == BlockGroupFlags::DATA => self.promised.data,
            Groups::Apart => self.metadata_floor(),
        }
    }

    fn node_bytes(&self, blocks: u64) -> u64 {
        blocks * u64::from(self.geometry.nodesize)
    }

    /// Kept back so that deletions and commits always find room: all that a commit can copy, as in
    /// the kernel, and some for what comes before it.
    fn global_reserve(&self) -> u64 {
        self.commit_reserve() + self.sharing_reserve()
    }

    /// Bytes of trees that are no subvolumes, and what may be pending; rather too many.
    pub(super) fn other_trees_bytes(&self) -> u64 {
        self.settled_bytes() + self.node_bytes(COMMIT_BLOCKS + self.pending())
    }

    fn settled_bytes(&self) -> u64 {
        SETTLED.into_iter().map(|tree| self.tree_bytes(tree)).sum()
    }

    /// What commits need, and deletions of what is not shared.
    fn commit_reserve(&self) -> u64 {
        let total = self.space.totals(BlockGroupFlags::METADATA).total;
        let part = match self.groups() {
            Groups::Apart => total / 8,
            // Most of it is data.
            Groups::Mixed => total / 64,
        };
        part.min(64 << 20).max(self.least_reserve())
    }

    /// What there is at least once all other space is taken, whoever took it: the kernel keeps no less.
    fn least_reserve(&self) -> u64 {
        self.settled_bytes().min(RESERVE_MAX).max(self.node_bytes(RESERVE_BLOCKS))
    }

    /// What deletions leave of the reserve for dropping subvolumes, a leaf with many references at a time.
    fn left_by_deletions(&self) -> u64 {
        let reserve = match self.groups() {
            Groups::Apart => self.commit_reserve(),
            // Another writer may have left no more.
            Groups::Mixed => self.least_reserve(),
        };
        (reserve / 2).min(self.node_bytes(DROP_BLOCKS))
    }

    /// What settling so many pending references may copy.
    fn settle_need(&self, refs: u64) -> u64 {
        let used = self.space.totals(BlockGroupFlags::METADATA).used;
        self.node_bytes(COMMIT_BLOCKS) + self.node_bytes(BLOCKS_PER_REF * refs).min(used)
    }

    /// The same for many references at once: at most all trees that settling changes are copied, and grow a little.
    fn settle_need_of_move(&self, refs: u64) -> u64 {
        const GROWTH: u64 = 128;
        let most = self.settled_bytes() + refs * GROWTH;
        self.node_bytes(COMMIT_BLOCKS) + self.node_bytes(BLOCKS_PER_REF * refs).min(most)
    }

    fn pending(&self) -> u64 {
        self.refs.len() as u64
    }

    /// Metadata that must stay available whatever is removed.
    pub(super) fn metadata_floor(&self) -> u64 {
        self.promised.metadata + self.global_reserve() + self.settle_need(self.pending())
    }

    /// How many references, of `most` that a step could make, the commit can settle as things are.
    pub fn affordable(&self, most: usize) -> usize {
        let available = self.metadata_available();
        let rest = available.saturating_sub(self.settle_need(self.pending()) + self.node_bytes(CHANGE_BLOCKS));
        // What it copies itself, and what its reference may have copied.
        let each = self.node_bytes(1 + BLOCKS_PER_REF);
        ((rest / each) as usize).clamp(most.min(8), most)
    }

    /// How many pending references make it time to settle them.
    fn many_refs(&self) -> usize {
        let available = self.metadata_available();
        ((available / self.node_bytes(16)) as usize).clamp(64, 4096)
    }

    pub(super) fn settle_if_many(&mut self) -> Result<()> {
        if self.refs.len() > self.many_refs() { self.run_delayed_refs() } else { Ok(()) }
    }

    /// Makes sure that a change finds its metadata: by a new chunk if there is too little.
    pub(super) fn ensure_metadata(&mut self, need: Need) -> Result<()> {
        self.load_sharing()?;
        let change = self.settle_need(self.pending() + CHANGE_REFS) + self.node_bytes(CHANGE_BLOCKS);
        let wanted = match need {
            Need::Snapshot(source, copier) => {
                self.metadata_floor() + self.node_bytes(8 * SNAPSHOT_ITEMS) + self.sharing_reserve_of(source, copier)
            }
            // Each item can cost a copied path of tree blocks and a split.
            Need::Items(items) => self.metadata_floor() + self.node_bytes(8 * u64::from(items.min(64))),
            Need::Deletion => {
                let left = self.node_bytes(COMMIT_BLOCKS) + self.left_by_deletions();
                self.promised.metadata + left.max(change + self.node_bytes(CHANGE_BLOCKS))
            }
            Need::Move(cost) => {
                self.promised.metadata
                    + self.settle_need_of_move(self.pending() + CHANGE_REFS + cost.refs)
                    + self.node_bytes(CHANGE_BLOCKS + cost.blocks)
            }
            Need::Promised => change,
        };
        self.ensure(BlockGroupFlags::METADATA, wanted)
    }

    /// Space for data beside all that is promised, its metadata first.
    pub(super) fn ensure_data(&mut self, wanted: &Wanted) -> Result<()> {
        self.load_sharing()?;
        let floor = self.metadata_floor() + wanted.metadata(self.sectorsize()) + self.node_bytes(16);
        self.ensure(BlockGroupFlags::METADATA, floor)?;
        let data = wanted.data + wanted.bare;
        match self.groups() {
            Groups::Apart => self.ensure(BlockGroupFlags::DATA, self.promised.data + data),
            Groups::Mixed => self.ensure(BlockGroupFlags::METADATA, floor + data),
        }
    }

    fn ensure(&mut self, kind: BlockGroupFlags, wanted: u64) -> Result<()> {
        let available = |tx: &Self| match kind {
            BlockGroupFlags::METADATA => tx.metadata_available(),
            _ => tx.space.totals(kind).available,
        };
        while available(self) < wanted {
            match self.space.unknown_rows(kind) {
                Some(start) => self.load_free_ranges(start)?,
                None => self.allocate_chunk(kind)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use butterfs_volume::{MemDevice, OpenMode, Volume};

    use super::*;
    use crate::environment::SystemEnvironment;
    use crate::mkfs::{self, MakeOptions};
    use crate::tx::{Gate, GateSettings};

    #[test]
    fn metadata_is_reckoned_by_sectors() {
        for sector in [4096, 16384, 65536] {
            assert_eq!(metadata_for(10 * sector, sector), 10 * 512);
            assert_eq!(metadata_for(0, sector), 0);
        }
    }

    /// A run of many sectors may become as many extents: that they were allocated does not put them
    /// into the trees.
    #[test]
    fn metadata_stays_promised_until_the_bytes_have_left_memory() {
        let device = Arc::new(MemDevice::new(256 << 20));
        mkfs::make(device.clone(), &MakeOptions::new(256 << 20, &SystemEnvironment)).unwrap();
        let volume = Arc::new(Volume::open(vec![device], OpenMode::ReadWrite).unwrap());
        let gate = Gate::open(volume, GateSettings { cache_bytes: 1 << 20, ..GateSettings::default() }).unwrap();
        let promised = || (gate.space().promised, gate.space().promised_metadata);
        let wanted = Wanted { data: 40960, ..Wanted::default() };
        let mut promise = gate.reserve_data(wanted).unwrap();
        promise.merge(gate.reserve_data(Wanted { data: 4096, inline: 2000, ..Wanted::default() }).unwrap());
        let inline = metadata_for_inline(2000);
        assert_eq!(promised(), (45056, 11 * 512 + inline));
        promise.spend_data(45056);
        assert_eq!(promised(), (0, 11 * 512 + inline));
        promise.shrink(8192);
        assert_eq!(promised(), (0, 2 * 512 + inline));
        promise.shrink(0);
        assert!(promise.is_empty());
        let in_place = gate.reserve_data(Wanted { in_place: 4096, ..Wanted::default() }).unwrap();
        assert_eq!(promised(), (0, 512));
        drop(in_place);
        assert_eq!(promised(), (0, 0));
    }
}

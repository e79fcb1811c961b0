//! Tree blocks: a header, then items (leaf) or child pointers (node).
//!
//! [`TreeBlock`] owns the bytes of one block. Its readers assume a block that
//! [`crate::validate::check_block`] has passed, or one that was made here; offsets are still
//! bounds-checked, so that a mistake is a panic in a test and never a read of foreign bytes.
//!
//! In a leaf, item headers grow up from the block header and item data grows down from the end:
//! item 0's data lies last. Item offsets count from the end of the block header.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::{Generation, Logical, TreeId};
use crate::key::{DiskKey, Key};

/// Levels run from 0 (leaf) to 7.
pub const MAX_LEVEL: u8 = 8;
/// Size of [`BlockHeader`], in bytes.
pub const HEADER_SIZE: usize = 101;
/// Size of [`ItemHeader`], in bytes.
pub const ITEM_HEADER_SIZE: usize = 25;
/// Size of [`KeyPtr`], in bytes.
pub const KEY_PTR_SIZE: usize = 33;

/// Set in [`BlockHeader::flags`] once a block is on its way to the device.
pub const FLAG_WRITTEN: u64 = 1 << 0;
/// Set in [`BlockHeader::flags`] of relocation trees.
pub const FLAG_RELOC: u64 = 1 << 1;
/// The back reference revision of all filesystems since 2009, in the top byte of the flags.
pub const MIXED_BACKREF_REV: u64 = 1 << 56;

/// The header of every tree block.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockHeader {
    /// Checksum of all that follows.
    pub csum: [u8; 32],
    /// The filesystem's UUID.
    pub fsid: [u8; 16],
    /// The block's own logical address.
    pub bytenr: U64,
    /// `FLAG_*`; the revision in the top byte.
    pub flags: U64,
    /// UUID of the chunk tree.
    pub chunk_tree_uuid: [u8; 16],
    /// The transaction that wrote the block.
    pub generation: U64,
    /// The tree that the block was made for.
    pub owner: U64,
    /// Number of items or child pointers.
    pub nritems: U32,
    /// 0 for a leaf.
    pub level: u8,
}
const _: () = assert!(size_of::<BlockHeader>() == HEADER_SIZE);

/// An item's key and place in a leaf.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct ItemHeader {
    /// The item's key.
    pub key: DiskKey,
    /// Where the data begins, in bytes from the end of the block header.
    pub offset: U32,
    /// How long the data is, in bytes.
    pub size: U32,
}
const _: () = assert!(size_of::<ItemHeader>() == ITEM_HEADER_SIZE);

/// Points from a node to a child.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct KeyPtr {
    /// The lowest key in the child.
    pub key: DiskKey,
    /// The child's logical address.
    pub blockptr: U64,
    /// The child's generation.
    pub generation: U64,
}
const _: () = assert!(size_of::<KeyPtr>() == KEY_PTR_SIZE);

/// A tree block in memory: the bytes as they are, or will be, on disk.
#[derive(Clone, PartialEq, Eq)]
pub struct TreeBlock {
    bytes: Vec<u8>,
}

/// What a new block's header says.
#[derive(Clone, Copy, Debug)]
pub struct NewBlock {
    /// Its address.
    pub bytenr: Logical,
    /// The running transaction.
    pub generation: Generation,
    /// The tree it is made for.
    pub owner: TreeId,
    /// 0 for a leaf.
    pub level: u8,
    /// The UUID for tree blocks ([`crate::Superblock::block_fsid`]).
    pub fsid: [u8; 16],
    /// The chunk tree's UUID.
    pub chunk_tree_uuid: [u8; 16],
}

impl TreeBlock {
    /// Wraps bytes that were read; check them with [`crate::validate::check_block`] before use.
    ///
    /// # Panics
    /// If there are fewer bytes than a header.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        assert!(bytes.len() > HEADER_SIZE, "a tree block is larger than its header");
        Self { bytes }
    }

    /// An empty block of `nodesize` bytes.
    pub fn new(nodesize: usize, new: &NewBlock) -> Self {
        let mut block = Self::from_bytes(vec![0; nodesize]);
        let header = block.header_mut();
        header.fsid = new.fsid;
        header.bytenr = new.bytenr.0.into();
        header.flags = (MIXED_BACKREF_REV | FLAG_WRITTEN).into();
        header.chunk_tree_uuid = new.chunk_tree_uuid;
        header.generation = new.generation.0.into();
        header.owner = new.owner.0.into();
        header.level = new.level;
        block
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All bytes, to be changed with care: for tests that break blocks, and for checksums.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// The header.
    pub fn header(&self) -> &BlockHeader {
        BlockHeader::ref_from_bytes(&self.bytes[..HEADER_SIZE]).expect("the length is the header's")
    }

    /// The header, to be changed.
    pub fn header_mut(&mut self) -> &mut BlockHeader {
        BlockHeader::mut_from_bytes(&mut self.bytes[..HEADER_SIZE]).expect("the length is the header's")
    }

    /// The block's address by its own word.
    pub fn bytenr(&self) -> Logical {
        Logical(self.header().bytenr.get())
    }

    /// The transaction that wrote the block.
    pub fn generation(&self) -> Generation {
        Generation(self.header().generation.get())
    }

    /// The tree that the block was made for.
    pub fn owner(&self) -> TreeId {
        TreeId(self.header().owner.get())
    }

    /// 0 for a leaf.
    pub fn level(&self) -> u8 {
        self.header().level
    }

    /// Whether this is a leaf.
    pub fn is_leaf(&self) -> bool {
        self.level() == 0
    }

    /// Number of items or child pointers.
    pub fn len(&self) -> usize {
        self.header().nritems.get() as usize
    }

    /// Whether there is neither item nor pointer.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn set_len(&mut self, len: usize) {
        self.header_mut().nritems = (len as u32).into();
    }

    /// The key of a slot, in a leaf or a node.
    pub fn key(&self, slot: usize) -> Key {
        if self.is_leaf() { self.item(slot).key.into() } else { self.ptr(slot).key.into() }
    }

    /// Finds `key`: `Ok(slot)` where it is, `Err(slot)` where it would be put.
    pub fn search(&self, key: &Key) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.key(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// In a node: the slot of the child that holds `key` or where it would be put.
    pub fn child_slot(&self, key: &Key) -> usize {
        match self.search(key) {
            Ok(slot) => slot,
            Err(slot) => slot.saturating_sub(1),
        }
    }
}

/// Nodes.
impl TreeBlock {
    /// How many pointers a node of `nodesize` bytes can hold.
    pub const fn node_capacity(nodesize: usize) -> usize {
        (nodesize - HEADER_SIZE) / KEY_PTR_SIZE
    }

    fn ptr_range(slot: usize) -> std::ops::Range<usize> {
        let start = HEADER_SIZE + slot * KEY_PTR_SIZE;
        start..start + KEY_PTR_SIZE
    }

    /// The pointer in a slot of a node.
    pub fn ptr(&self, slot: usize) -> &KeyPtr {
        KeyPtr::ref_from_bytes(&self.bytes[Self::ptr_range(slot)]).expect("the length is a pointer's")
    }

    /// Replaces the pointer in a slot.
    pub fn set_ptr(&mut self, slot: usize, ptr: KeyPtr) {
        self.bytes[Self::ptr_range(slot)].copy_from_slice(ptr.as_bytes());
    }

    /// The key of a slot of a node is the lowest in the child; this keeps it so.
    pub fn set_ptr_key(&mut self, slot: usize, key: Key) {
        let ptr = KeyPtr { key: key.into(), ..*self.ptr(slot) };
        self.set_ptr(slot, ptr);
    }

    /// Puts pointers in from `slot` on; there must be room.
    pub fn insert_ptrs(&mut self, slot: usize, ptrs: &[KeyPtr]) {
        let len = self.len();
        debug_assert!(slot <= len && len + ptrs.len() <= Self::node_capacity(self.bytes.len()));
        let (from, to) = (Self::ptr_range(slot).start, Self::ptr_range(len).start);
        self.bytes.copy_within(from..to, from + ptrs.len() * KEY_PTR_SIZE);
        self.bytes[from..from + ptrs.len() * KEY_PTR_SIZE].copy_from_slice(ptrs.as_bytes());
        self.set_len(len + ptrs.len());
    }

    /// Takes pointers out.
    pub fn remove_ptrs(&mut self, slots: std::ops::Range<usize>) {
        let len = self.len();
        debug_assert!(slots.end <= len);
        let (to, from) = (Self::ptr_range(slots.start).start, Self::ptr_range(slots.end).start);
        let end = Self::ptr_range(len).start;
        self.bytes.copy_within(from..end, to);
        let new_len = len - slots.len();
        self.bytes[Self::ptr_range(new_len).start..end].fill(0);
        self.set_len(new_len);
    }

    /// A copy of pointers.
    pub fn ptrs(&self, slots: std::ops::Range<usize>) -> Vec<KeyPtr> {
        slots.map(|slot| *self.ptr(slot)).collect()
    }
}

/// Leaves.
impl TreeBlock {
    /// How many bytes of items and item headers a leaf of `nodesize` bytes can hold.
    pub const fn leaf_capacity(nodesize: usize) -> usize {
        nodesize - HEADER_SIZE
    }

    fn item_range(slot: usize) -> std::ops::Range<usize> {
        let start = HEADER_SIZE + slot * ITEM_HEADER_SIZE;
        start..start + ITEM_HEADER_SIZE
    }

    /// The header of the item in a slot.
    pub fn item(&self, slot: usize) -> &ItemHeader {
        ItemHeader::ref_from_bytes(&self.bytes[Self::item_range(slot)]).expect("the length is an item header's")
    }

    fn item_mut(&mut self, slot: usize) -> &mut ItemHeader {
        ItemHeader::mut_from_bytes(&mut self.bytes[Self::item_range(slot)]).expect("the length is an item header's")
    }

    fn data_range(&self, slot: usize) -> std::ops::Range<usize> {
        let item = self.item(slot);
        let start = HEADER_SIZE + item.offset.get() as usize;
        start..start + item.size.get() as usize
    }

    /// The bytes of the item in a slot.
    pub fn data(&self, slot: usize) -> &[u8] {
        &self.bytes[self.data_range(slot)]
    }

    /// The bytes of the item in a slot, to be changed in place.
    pub fn data_mut(&mut self, slot: usize) -> &mut [u8] {
        let range = self.data_range(slot);
        &mut self.bytes[range]
    }

    /// Where the data area begins, in bytes from the end of the header.
    fn data_start(&self, len: usize) -> usize {
        if len == 0 { self.bytes.len() - HEADER_SIZE } else { self.item(len - 1).offset.get() as usize }
    }

    /// Bytes used by item headers and data.
    pub fn leaf_used(&self) -> usize {
        let len = self.len();
        Self::leaf_capacity(self.bytes.len()) - self.data_start(len) + len * ITEM_HEADER_SIZE
    }

    /// Bytes left for item headers and data.
    pub fn leaf_free(&self) -> usize {
        Self::leaf_capacity(self.bytes.len()) - self.leaf_used()
    }

    /// Puts an item in at `slot`; there must be [`ITEM_HEADER_SIZE`] + `data.len()` bytes free.
    pub fn insert_item(&mut self, slot: usize, key: &Key, data: &[u8]) {
        let len = self.len();
        debug_assert!(slot <= len && self.leaf_free() >= data.len() + ITEM_HEADER_SIZE);
        let end = if slot == 0 { self.bytes.len() - HEADER_SIZE } else { self.item(slot - 1).offset.get() as usize };
        self.shift_data(slot, end, -(data.len() as isize));
        let (from, to) = (Self::item_range(slot).start, Self::item_range(len).start);
        self.bytes.copy_within(from..to, from + ITEM_HEADER_SIZE);
        let offset = end - data.len();
        self.set_len(len + 1);
        *self.item_mut(slot) =
            ItemHeader { key: (*key).into(), offset: (offset as u32).into(), size: (data.len() as u32).into() };
        self.data_mut(slot).copy_from_slice(data);
    }

    /// Moves the data of all items from `slot` on (it ends at `end`) by `by` bytes.
    fn shift_data(&mut self, slot: usize, end: usize, by: isize) {
        let len = self.len();
        let start = self.data_start(len);
        let to = start.checked_add_signed(by).expect("the caller checked that there is room");
        self.bytes.copy_within(HEADER_SIZE + start..HEADER_SIZE + end, HEADER_SIZE + to);
        for slot in slot..len {
            let item = self.item_mut(slot);
            item.offset = ((item.offset.get() as isize + by) as u32).into();
        }
    }

    /// Takes items out.
    pub fn remove_items(&mut self, slots: std::ops::Range<usize>) {
        let len = self.len();
        debug_assert!(slots.end <= len);
        if slots.is_empty() {
            return;
        }
        let bottom = self.item(slots.end - 1).offset.get() as usize;
        let top = self.data_range(slots.start).end - HEADER_SIZE;
        self.shift_data(slots.end, bottom, (top - bottom) as isize);
        let (to, from) = (Self::item_range(slots.start).start, Self::item_range(slots.end).start);
        self.bytes.copy_within(from..Self::item_range(len).start, to);
        self.set_len(len - slots.len());
    }

    /// Makes the item in a slot `size` bytes long: bytes are cut from, or zeros added to, its end.
    /// There must be room.
    pub fn resize_item(&mut self, slot: usize, size: usize) {
        let old = self.item(slot).size.get() as usize;
        let offset = self.item(slot).offset.get() as usize;
        let by = old as isize - size as isize;
        debug_assert!(by >= 0 || self.leaf_free() >= by.unsigned_abs());
        if by >= 0 {
            // The data area below, and the kept front of this item, move up.
            let kept = HEADER_SIZE + offset..HEADER_SIZE + offset + size;
            self.bytes.copy_within(kept, HEADER_SIZE + offset + by as usize);
            self.shift_data(slot + 1, offset, by);
        } else {
            let grow = by.unsigned_abs();
            self.shift_data(slot + 1, offset, by);
            self.bytes.copy_within(HEADER_SIZE + offset..HEADER_SIZE + offset + old, HEADER_SIZE + offset - grow);
            self.bytes[HEADER_SIZE + offset - grow + old..HEADER_SIZE + offset + old].fill(0);
        }
        let item = self.item_mut(slot);
        item.offset = ((offset as isize + by) as u32).into();
        item.size = (size as u32).into();
    }

    /// Changes the key of a slot; the order of keys must stay.
    pub fn set_item_key(&mut self, slot: usize, key: Key) {
        self.item_mut(slot).key = key.into();
        debug_assert!(slot == 0 || self.key(slot - 1) < key);
        debug_assert!(slot + 1 >= self.len() || key < self.key(slot + 1));
    }

    /// Appends items of another leaf; there must be room.
    pub fn append_items_of(&mut self, other: &TreeBlock, slots: std::ops::Range<usize>) {
        for slot in slots {
            let len = self.len();
            self.insert_item(len, &other.key(slot), other.data(slot));
        }
    }

    /// Zeroes the gap between item headers and data, so that no stale bytes reach the device.
    pub fn zero_gap(&mut self) {
        let len = self.len();
        let (from, to) = if self.is_leaf() {
            (Self::item_range(len).start, HEADER_SIZE + self.data_start(len))
        } else {
            (Self::ptr_range(len).start, self.bytes.len())
        };
        self.bytes[from..to].fill(0);
    }
}

impl std::fmt::Debug for TreeBlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let h = self.header();
        write!(
            f,
            "TreeBlock {{ bytenr {} level {} items {} generation {} owner {} }}",
            h.bytenr, h.level, h.nritems, h.generation, h.owner
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::ItemType;

    fn leaf() -> TreeBlock {
        TreeBlock::new(
            4096,
            &NewBlock {
                bytenr: Logical(4096),
                generation: Generation(1),
                owner: TreeId::FS,
                level: 0,
                fsid: [1; 16],
                chunk_tree_uuid: [2; 16],
            },
        )
    }

    fn key(n: u64) -> Key {
        Key::new(n, ItemType::INODE_ITEM, 0)
    }

    #[test]
    fn items_go_in_and_out_anywhere() {
        let mut leaf = leaf();
        for n in [5u64, 1, 3, 9, 7] {
            let slot = leaf.search(&key(n)).unwrap_err();
            leaf.insert_item(slot, &key(n), &vec![n as u8; n as usize]);
        }
        let used = leaf.leaf_used();
        assert_eq!(used, 25 + 5 * ITEM_HEADER_SIZE);
        for (slot, n) in [1u64, 3, 5, 7, 9].into_iter().enumerate() {
            assert_eq!(leaf.key(slot), key(n));
            assert_eq!(leaf.data(slot), vec![n as u8; n as usize]);
        }
        leaf.remove_items(1..3);
        assert_eq!((leaf.key(1), leaf.data(1)), (key(7), &[7u8; 7][..]));
        assert_eq!(leaf.data(2), [9; 9]);
        assert_eq!(leaf.leaf_used(), 17 + 3 * ITEM_HEADER_SIZE);
    }

    #[test]
    fn resizing_keeps_the_front_and_the_neighbours() {
        let mut leaf = leaf();
        for n in 1..=3u64 {
            leaf.insert_item(n as usize - 1, &key(n), &[n as u8; 10]);
        }
        leaf.resize_item(1, 20);
        assert_eq!(leaf.data(1), [&[2u8; 10][..], &[0; 10]].concat());
        leaf.resize_item(1, 4);
        assert_eq!(leaf.data(1), [2; 4]);
        assert_eq!((leaf.data(0), leaf.data(2)), (&[1u8; 10][..], &[3u8; 10][..]));
        assert_eq!(leaf.leaf_used(), 24 + 3 * ITEM_HEADER_SIZE);
    }

    #[test]
    fn node_pointers_go_in_and_out() {
        let mut node = leaf();
        node.header_mut().level = 1;
        let ptr = |n: u64| KeyPtr { key: key(n).into(), blockptr: (n << 12).into(), generation: 1.into() };
        node.insert_ptrs(0, &[ptr(1), ptr(4)]);
        node.insert_ptrs(1, &[ptr(2), ptr(3)]);
        assert_eq!((0..4).map(|s| node.key(s).objectid).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(node.child_slot(&key(0)), 0);
        assert_eq!(node.child_slot(&key(3)), 2);
        assert_eq!(node.child_slot(&key(99)), 3);
        node.remove_ptrs(1..3);
        assert_eq!((node.len(), node.key(1).objectid), (2, 4));
    }
}

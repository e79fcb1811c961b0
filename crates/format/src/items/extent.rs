//! EXTENT_ITEM and METADATA_ITEM with their inline back references, and the keyed ones.
//!
//! Inline references are ordered by type, ascending; within one type by hash
//! ([`crate::hash::extent_data_ref_hash`]) or parent address, **descending**.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{read_exact, read_front};
use crate::hash::extent_data_ref_hash;
use crate::ids::{Ino, Logical, TreeId};
use crate::key::{DiskKey, ItemType, Key};

bitflags::bitflags! {
    /// `ExtentItem::flags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ExtentFlags: u64 {
        /// The extent holds file data.
        const DATA = 1 << 0;
        /// The extent is a tree block.
        const TREE_BLOCK = 1 << 1;
        /// The block's children are referred to by its address, not by its tree.
        const FULL_BACKREF = 1 << 8;
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Front {
    refs: U64,
    generation: U64,
    flags: U64,
}

/// First key and level of a tree block, in non-skinny EXTENT_ITEMs.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TreeBlockInfo {
    /// The block's first key when it was allocated.
    pub key: DiskKey,
    /// The block's level.
    pub level: u8,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct DataRefBody {
    root: U64,
    objectid: U64,
    offset: U64,
    count: U32,
}

/// Who refers to an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BackRef {
    /// A tree refers to its own block.
    TreeBlock {
        /// The tree.
        root: TreeId,
    },
    /// A parent block with full back references refers to a block.
    SharedBlock {
        /// The parent's address.
        parent: Logical,
    },
    /// A file refers to data.
    Data {
        /// The file's subvolume.
        root: TreeId,
        /// The file.
        objectid: Ino,
        /// The file offset at which the extent's own first byte would lie (may wrap below zero).
        offset: u64,
    },
    /// A leaf with full back references refers to data.
    SharedData {
        /// The leaf's address.
        parent: Logical,
    },
}

impl BackRef {
    /// The item type of this reference, inline or keyed.
    pub fn item_type(&self) -> ItemType {
        match self {
            Self::TreeBlock { .. } => ItemType::TREE_BLOCK_REF,
            Self::SharedBlock { .. } => ItemType::SHARED_BLOCK_REF,
            Self::Data { .. } => ItemType::EXTENT_DATA_REF,
            Self::SharedData { .. } => ItemType::SHARED_DATA_REF,
        }
    }

    /// The offset of the keyed form: tree, parent or hash. (A keyed data reference whose place is
    /// taken by another with the same hash goes to the next free offset.)
    pub fn key_offset(&self) -> u64 {
        match *self {
            Self::TreeBlock { root } => root.0,
            Self::SharedBlock { parent } | Self::SharedData { parent } => parent.0,
            Self::Data { root, objectid, offset } => extent_data_ref_hash(root, objectid, offset),
        }
    }

    /// The key of the keyed form for the extent at `bytenr`.
    pub fn key(&self, bytenr: Logical) -> Key {
        Key::new(bytenr.0, self.item_type(), self.key_offset())
    }

    /// Inline references of one extent are sorted by this.
    pub fn inline_order(&self) -> (u8, std::cmp::Reverse<u64>) {
        (self.item_type().0, std::cmp::Reverse(self.key_offset()))
    }

    /// Whether this refers to data.
    pub fn is_data(&self) -> bool {
        matches!(self, Self::Data { .. } | Self::SharedData { .. })
    }

    /// The data of the keyed form; tree references have none, `count` is for data references.
    pub fn pack_keyed(&self, count: u32) -> Vec<u8> {
        match *self {
            Self::TreeBlock { .. } | Self::SharedBlock { .. } => Vec::new(),
            Self::SharedData { .. } => count.to_le_bytes().to_vec(),
            Self::Data { root, objectid, offset } => DataRefBody {
                root: root.0.into(),
                objectid: objectid.0.into(),
                offset: offset.into(),
                count: count.into(),
            }
            .as_bytes()
            .to_vec(),
        }
    }

    /// Reads a keyed reference: the item's key and data.
    pub fn parse_keyed(key: &Key, data: &[u8]) -> Result<InlineRef, String> {
        let tree = |back_ref| match data {
            [] => Ok(InlineRef { back_ref, count: 1 }),
            _ => Err(format!("keyed tree reference with {} bytes of data", data.len())),
        };
        match key.item_type {
            ItemType::TREE_BLOCK_REF => tree(Self::TreeBlock { root: TreeId(key.offset) }),
            ItemType::SHARED_BLOCK_REF => tree(Self::SharedBlock { parent: Logical(key.offset) }),
            ItemType::SHARED_DATA_REF => {
                let count: U32 = read_exact(data)?;
                Ok(InlineRef { back_ref: Self::SharedData { parent: Logical(key.offset) }, count: count.get() })
            }
            ItemType::EXTENT_DATA_REF => Ok(InlineRef::of_data(read_exact::<DataRefBody>(data)?)),
            other => Err(format!("{other} is not a back reference")),
        }
    }
}

/// A back reference with its count (1 for tree blocks).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InlineRef {
    /// Who refers.
    pub back_ref: BackRef,
    /// How often.
    pub count: u32,
}

impl InlineRef {
    fn of_data(body: DataRefBody) -> Self {
        let back_ref = BackRef::Data {
            root: TreeId(body.root.get()),
            objectid: Ino(body.objectid.get()),
            offset: body.offset.get(),
        };
        Self { back_ref, count: body.count.get() }
    }

    /// How many bytes this takes in an extent item.
    pub fn packed_size(&self) -> usize {
        match self.back_ref {
            BackRef::TreeBlock { .. } | BackRef::SharedBlock { .. } => 9,
            BackRef::SharedData { .. } => 13,
            BackRef::Data { .. } => 29,
        }
    }

    fn pack(&self, out: &mut Vec<u8>) {
        out.push(self.back_ref.item_type().0);
        match self.back_ref {
            BackRef::TreeBlock { root } => out.extend_from_slice(&root.0.to_le_bytes()),
            BackRef::SharedBlock { parent } => out.extend_from_slice(&parent.0.to_le_bytes()),
            BackRef::SharedData { parent } => {
                out.extend_from_slice(&parent.0.to_le_bytes());
                out.extend_from_slice(&self.count.to_le_bytes());
            }
            BackRef::Data { .. } => out.extend_from_slice(&self.back_ref.pack_keyed(self.count)),
        }
    }

    /// Reads the reference at the front of `data`; gives it and what follows.
    fn parse(data: &[u8]) -> Result<(Self, &[u8]), String> {
        let (kind, rest) = read_front::<u8>(data)?;
        let one = |back_ref, rest| Ok((Self { back_ref, count: 1 }, rest));
        match ItemType(kind) {
            ItemType::TREE_BLOCK_REF => {
                let (root, rest) = read_front::<U64>(rest)?;
                one(BackRef::TreeBlock { root: TreeId(root.get()) }, rest)
            }
            ItemType::SHARED_BLOCK_REF => {
                let (parent, rest) = read_front::<U64>(rest)?;
                one(BackRef::SharedBlock { parent: Logical(parent.get()) }, rest)
            }
            ItemType::SHARED_DATA_REF => {
                let (parent, rest) = read_front::<U64>(rest)?;
                let (count, rest) = read_front::<U32>(rest)?;
                Ok((Self { back_ref: BackRef::SharedData { parent: Logical(parent.get()) }, count: count.get() }, rest))
            }
            ItemType::EXTENT_DATA_REF => {
                let (body, rest) = read_front::<DataRefBody>(rest)?;
                Ok((Self::of_data(body), rest))
            }
            other => Err(format!("inline reference of type {} ({other})", kind)),
        }
    }
}

/// A reference of a tree block takes so many bytes, others take more.
const SMALLEST_REF: usize = 9;

/// An EXTENT_ITEM or METADATA_ITEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtentItem {
    /// The sum of all reference counts, inline and keyed.
    pub refs: u64,
    /// The transaction that allocated the extent.
    pub generation: u64,
    /// What it is.
    pub flags: ExtentFlags,
    /// Present in non-skinny items of tree blocks.
    pub block_info: Option<TreeBlockInfo>,
    /// With simple quotas: the subvolume that the data is charged to, whoever refers to it.
    pub owner: Option<TreeId>,
    /// The inline references, in order.
    pub inline: Vec<InlineRef>,
}

impl ExtentItem {
    /// Reads the item with this key.
    pub fn parse(key: &Key, data: &[u8]) -> Result<Self, String> {
        let (front, mut rest) = read_front::<Front>(data)?;
        let flags = ExtentFlags::from_bits_retain(front.flags.get());
        let mut block_info = None;
        if key.item_type == ItemType::EXTENT_ITEM && flags.contains(ExtentFlags::TREE_BLOCK) {
            let (info, after) = read_front::<TreeBlockInfo>(rest)?;
            block_info = Some(info);
            rest = after;
        }
        // It comes before all references, and is none.
        let mut owner = None;
        if rest.first() == Some(&ItemType::EXTENT_OWNER_REF.0) && flags.contains(ExtentFlags::DATA) {
            let (root, after) = read_front::<U64>(&rest[1..])?;
            (owner, rest) = (Some(TreeId(root.get())), after);
        }
        // Snapshots make a hundred of one block.
        let mut inline = Vec::with_capacity(rest.len() / SMALLEST_REF);
        while !rest.is_empty() {
            let (one, after) = InlineRef::parse(rest)?;
            inline.push(one);
            rest = after;
        }
        Ok(Self { refs: front.refs.get(), generation: front.generation.get(), flags, block_info, owner, inline })
    }

    /// The item in its disk form.
    pub fn pack(&self) -> Vec<u8> {
        let front =
            Front { refs: self.refs.into(), generation: self.generation.into(), flags: self.flags.bits().into() };
        let mut out = front.as_bytes().to_vec();
        if let Some(info) = &self.block_info {
            out.extend_from_slice(info.as_bytes());
        }
        if let Some(owner) = self.owner {
            out.push(ItemType::EXTENT_OWNER_REF.0);
            out.extend_from_slice(&owner.0.to_le_bytes());
        }
        self.inline.iter().for_each(|r| r.pack(&mut out));
        out
    }

    /// How many bytes [`ExtentItem::pack`] gives.
    pub fn packed_size(&self) -> usize {
        let info = self.block_info.map_or(0, |_| size_of::<TreeBlockInfo>());
        let owner = self.owner.map_or(0, |_| 1 + size_of::<U64>());
        size_of::<Front>() + info + owner + self.inline.iter().map(InlineRef::packed_size).sum::<usize>()
    }

    /// Finds an inline reference: `Ok(index)`, or `Err(index)` where it would be put.
    pub fn find_inline(&self, back_ref: &BackRef) -> Result<usize, usize> {
        if let Some(at) = self.inline.iter().position(|r| r.back_ref == *back_ref) {
            return Ok(at);
        }
        let order = back_ref.inline_order();
        Err(self.inline.partition_point(|r| r.back_ref.inline_order() <= order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_with_all_inline_kinds_round_trips() {
        let data = |root, count| InlineRef {
            back_ref: BackRef::Data { root: TreeId(root), objectid: Ino(257), offset: 4096 },
            count,
        };
        let shared = InlineRef { back_ref: BackRef::SharedData { parent: Logical(1 << 20) }, count: 2 };
        let mut inline = vec![data(5, 1), data(256, 3)];
        inline.sort_by_key(|r| r.back_ref.inline_order());
        inline.push(shared);
        let key = Key::new(1 << 20, ItemType::EXTENT_ITEM, 4096);
        let mut item = ExtentItem {
            refs: 6,
            generation: 9,
            flags: ExtentFlags::DATA,
            block_info: None,
            owner: Some(TreeId(257)),
            inline: inline.clone(),
        };
        for owner in [item.owner, None] {
            item.owner = owner;
            let bytes = item.pack();
            assert_eq!(bytes.len(), item.packed_size());
            assert_eq!(ExtentItem::parse(&key, &bytes).unwrap(), item);
        }
        assert_eq!(item.find_inline(&shared.back_ref), Ok(2));
        assert_eq!(item.find_inline(&BackRef::SharedData { parent: Logical(1) }), Err(3));
        assert_eq!(item.find_inline(&BackRef::SharedData { parent: Logical(1 << 30) }), Err(2));
    }
}

//! Tree blocks: header, then items or child pointers.

use std::fmt::{self, Display, Formatter};

use super::name::{Hex, UuidText};
use super::{ItemText, KeyText, ObjectId, Options, Show, header_flags};
use crate::block::{ITEM_HEADER_SIZE, TreeBlock};

/// Where the revision of back references is in the header's flags.
const REVISION_SHIFT: u32 = 56;

/// A leaf with its items, or a node with its pointers (not what they point to).
///
/// The block must be one that [`crate::validate::check_structure`] has passed; its items may be wrong.
pub struct BlockText<'a> {
    /// The block.
    pub block: &'a TreeBlock,
    /// How to print.
    pub options: &'a Options,
}

impl Display for BlockText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.header(f)?;
        if self.block.is_leaf() { self.items(f) } else { self.pointers(f) }
    }
}

impl BlockText<'_> {
    fn header(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (block, header) = (self.block, self.block.header());
        let (bytenr, items) = (header.bytenr, header.nritems);
        let owner = ObjectId::tree(header.owner.get());
        let kind = if block.is_leaf() { "leaf" } else { "node" };
        if block.is_leaf() {
            let free = leaf_free_space(block);
            write!(f, "leaf {bytenr} items {items} free space {free} ")?;
        } else {
            let free = TreeBlock::node_capacity(block.bytes().len()).saturating_sub(block.len());
            write!(f, "node {bytenr} level {} items {items} free space {free} ", header.level)?;
        }
        writeln!(f, "generation {} owner {owner}", header.generation)?;
        let (revision, flags) = split_flags(header.flags.get());
        write!(f, "{kind} {bytenr} flags 0x{flags:x}({}) backref revision {revision}", header_flags(flags))?;
        if self.options.header_csums == Show::Yes {
            write!(f, " csum 0x{}", Hex(&header.csum[..self.options.csum_type.size()]))?;
        }
        writeln!(f, "\nfs uuid {}", UuidText(&header.fsid))?;
        writeln!(f, "chunk uuid {}", UuidText(&header.chunk_tree_uuid))
    }

    fn items(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for slot in 0..self.block.len() {
            let (key, item) = (self.block.key(slot), self.block.item(slot));
            writeln!(f, "\titem {slot} {} itemoff {} itemsize {}", KeyText(key), item.offset, item.size)?;
            ItemText { key, data: self.block.data(slot), options: self.options }.fmt(f)?;
        }
        Ok(())
    }

    fn pointers(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for slot in 0..self.block.len() {
            let ptr = self.block.ptr(slot);
            writeln!(f, "\t{} block {} gen {}", KeyText(ptr.key.into()), ptr.blockptr, ptr.generation)?;
        }
        Ok(())
    }
}

/// Revision and flags.
fn split_flags(flags: u64) -> (u64, u64) {
    (flags >> REVISION_SHIFT, flags & !(0xff << REVISION_SHIFT))
}

/// Bytes that are free in a leaf; negative if there is more in it than it can hold.
pub fn leaf_free_space(leaf: &TreeBlock) -> i64 {
    let capacity = TreeBlock::leaf_capacity(leaf.bytes().len()) as i64;
    let len = leaf.len();
    let Some(last) = len.checked_sub(1) else { return capacity };
    let first = leaf.item(0);
    let data = i64::from(first.offset.get()) + i64::from(first.size.get()) - i64::from(leaf.item(last).offset.get());
    capacity - data - (len * ITEM_HEADER_SIZE) as i64
}

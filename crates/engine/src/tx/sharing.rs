//! What blocks that several subvolumes share may still cost: a change, and the deletion of a file is
//! one, copies each block it touches, and the old one stays for the others. Deletions find room for
//! that because it is kept back ([`Transaction::sharing_reserve`]).
//!
//! # Invariants
//! * `writable` is never less than the bytes of shared blocks below writable subvolumes.
//! * `referred` is the sum of all subvolumes' `bytes_used`.

use butterfs_format::items::{BlockGroupFlags, RootFlags, RootItem};
use butterfs_format::{Corruption, ItemType, Key, TreeId};
use foldhash::HashMap;

use super::Transaction;
use super::promises::{Copier, Groups};
use crate::error::Result;

/// Never more than so many bytes are kept back, so that a large filesystem whose space is in chunks
/// already stays usable. As in the kernel's reserve.
const MOST: u64 = 512 << 20;

/// Sums over all subvolumes, in bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Sharing {
    /// Blocks below each writable subvolume that another one may have, too.
    writable: HashMap<TreeId, u64>,
    /// Their sum.
    writable_sum: u64,
    /// All blocks, each as often as a subvolume has it.
    referred: u64,
    /// No more than this is kept back: where another system left less room, half of it can be used.
    most: u64,
}

impl Sharing {
    /// Counts a subvolume that was there.
    fn add(&mut self, tree: TreeId, item: &RootItem) {
        self.referred += item.bytes_used.get();
        self.judge(tree, item);
    }

    /// A subvolume may share all it has, or nothing.
    fn judge(&mut self, tree: TreeId, item: &RootItem) {
        let written = item.refs.get() > 0 && !item.flags().contains(RootFlags::RDONLY);
        let shared = written && item.last_snapshot.get() > 0;
        self.set(tree, if shared { item.bytes_used.get() } else { 0 });
    }

    fn set(&mut self, tree: TreeId, bytes: u64) {
        let old = if bytes > 0 { self.writable.insert(tree, bytes) } else { self.writable.remove(&tree) };
        self.writable_sum = self.writable_sum + bytes - old.unwrap_or(0);
    }

    /// At most so many bytes are still to be copied, when so many are in use by subvolumes.
    fn bound(&self, used: u64) -> u64 {
        self.writable_sum.min(self.referred.saturating_sub(used))
    }

    /// The same with a new snapshot of a subvolume, which has so many bytes.
    fn bound_with(&self, copiers: &[TreeId], bytes: u64, used: u64) -> u64 {
        let mut then = self.clone();
        then.referred += bytes;
        for tree in copiers {
            then.set(*tree, bytes);
        }
        then.bound(used)
    }
}

/// Copies have references of their own to what is below: in the worst case, a leaf full of file
/// extents, about half a block for each block.
fn with_references(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 2)
}

impl Transaction {
    /// Counts what is shared, unless that is known.
    pub(super) fn load_sharing(&mut self) -> Result<()> {
        if self.sharing.is_some() {
            return Ok(());
        }
        let mut sharing = Sharing { most: MOST, ..Sharing::default() };
        let mut cursor = self.cursor(TreeId::ROOT, &Key::new(TreeId::FS.0, ItemType::ROOT_ITEM, 0))?;
        while let Some((key, data)) = cursor.item() {
            let tree = TreeId(key.objectid);
            if key.item_type == ItemType::ROOT_ITEM && tree.is_subvolume() {
                let known = self.known_root_item(tree);
                let parse = || RootItem::parse(data).map_err(|why| Corruption::new(format!("root tree {key}"), why));
                sharing.add(tree, &known.map_or_else(parse, Ok)?);
            }
            cursor.advance()?;
        }
        drop(cursor);
        sharing.most = self.sharing_most(&sharing);
        self.sharing = Some(sharing);
        Ok(())
    }

    /// What may be kept back at most: all that is needed if there is room for it.
    fn sharing_most(&self, sharing: &Sharing) -> u64 {
        let usage = self.space_usage();
        let room = usage.metadata.available + usage.unallocated / usage.metadata_cost.max(1);
        let room = room.saturating_sub(usage.reserve);
        let needed = with_references(sharing.bound(self.subvolumes_used())).min(MOST);
        // What was full of our own making comes back with what was kept back, and little more.
        if needed <= room + room / 8 { MOST } else { room / 2 }
    }

    /// Bytes of blocks that subvolumes have, each counted once; rather too few. What is data in mixed groups nothing
    /// tells.
    fn subvolumes_used(&self) -> u64 {
        if self.groups() == Groups::Mixed {
            return 0;
        }
        let used = self.space.totals(BlockGroupFlags::METADATA).used;
        used.saturating_sub(self.other_trees_bytes())
    }

    /// Metadata kept back for copies of shared blocks.
    pub(super) fn sharing_reserve(&self) -> u64 {
        let Some(sharing) = &self.sharing else { return 0 };
        with_references(sharing.bound(self.subvolumes_used())).min(sharing.most)
    }

    /// What will be kept back in addition once there is a snapshot of `source`.
    pub(super) fn sharing_reserve_of(&self, source: TreeId, copier: Copier) -> u64 {
        const NEW: TreeId = TreeId(u64::MAX);
        let Some(sharing) = &self.sharing else { return 0 };
        let copiers = match (self.is_written(source), copier) {
            (true, Copier::Both) => &[source, NEW][..],
            (true, Copier::Source) => &[source],
            (false, Copier::Both) => &[NEW],
            (false, Copier::Source) => &[],
        };
        let then = sharing.bound_with(copiers, self.tree_bytes(source), self.subvolumes_used());
        with_references(then).min(sharing.most).saturating_sub(self.sharing_reserve())
    }

    fn is_written(&self, tree: TreeId) -> bool {
        self.root_item(tree).is_ok_and(|item| item.refs.get() > 0 && !item.flags().contains(RootFlags::RDONLY))
    }

    /// A snapshot of `source` was made.
    pub(super) fn note_shared(&mut self, source: TreeId, new: TreeId) -> Result<()> {
        let (source_item, new_item) = (self.root_item(source)?, self.root_item(new)?);
        if let Some(sharing) = &mut self.sharing {
            sharing.judge(source, &source_item);
            sharing.add(new, &new_item);
        }
        Ok(())
    }

    /// A subvolume became read-only, writable, or dead.
    pub(super) fn note_access(&mut self, tree: TreeId, item: &RootItem) {
        if let Some(sharing) = &mut self.sharing {
            sharing.judge(tree, item);
        }
    }

    /// A subvolume has its own copy of a block that may have been shared.
    pub(super) fn note_unshared(&mut self, tree: TreeId) {
        let bytes = u64::from(self.geometry.nodesize);
        if let Some(sharing) = &mut self.sharing
            && let Some(shared) = sharing.writable.get(&tree).copied()
        {
            sharing.set(tree, shared.saturating_sub(bytes));
        }
    }

    /// All blocks of subvolumes together grew or shrank.
    pub(super) fn note_referred(&mut self, tree: TreeId, by: i64) {
        if tree.is_subvolume()
            && let Some(sharing) = &mut self.sharing
        {
            sharing.referred = sharing.referred.saturating_add_signed(by);
        }
    }

    /// A subvolume that had so many bytes is gone.
    pub(super) fn note_gone(&mut self, tree: TreeId, bytes: u64) {
        self.note_referred(tree, -(bytes as i64));
        if let Some(sharing) = &mut self.sharing {
            sharing.set(tree, 0);
        }
    }
}

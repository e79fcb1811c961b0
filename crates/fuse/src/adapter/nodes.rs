//! Which inode a node id stands for, and how often the kernel has looked it up.
//!
//! # Invariants
//! * Each counted lookup is one hold of the engine on the inode, taken before it is counted here and
//!   given back after it is taken off here: an inode in the table is always held.
//! * A node id is never used again. The root is node 1 and not counted.
//! * A placeholder (what a snapshot shows for a subvolume that is not in it) gets a node of its own
//!   each time: all of a subvolume's have one identity, and a directory must not be in two places.
//!
//! # Locking
//! One mutex, a leaf.

use crate::types::NodeId;
use butterfs_engine::inode::{InodeId, lock};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Mutex;

/// What is known of `security.capability` of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capability {
    /// Nothing: look.
    Unknown,
    /// There is none.
    Absent,
}

struct Node {
    id: InodeId,
    lookups: u64,
    capability: Capability,
}

struct Table {
    nodes: HashMap<NodeId, Node>,
    by_id: HashMap<InodeId, NodeId>,
    next: u64,
}

/// The node table.
pub(super) struct Nodes(Mutex<Table>);

impl Nodes {
    /// A table that knows only the root.
    pub fn new(root: InodeId) -> Self {
        let node = Node { id: root, lookups: 0, capability: Capability::Unknown };
        Self(Mutex::new(Table {
            nodes: HashMap::from([(NodeId::ROOT, node)]),
            by_id: HashMap::from([(root, NodeId::ROOT)]),
            next: NodeId::ROOT.0 + 1,
        }))
    }

    /// The inode of a node, if the kernel may still use it.
    pub fn get(&self, node: NodeId) -> Option<InodeId> {
        lock(&self.0).nodes.get(&node).map(|node| node.id)
    }

    /// Counts a lookup of an inode that was held for it.
    pub fn count(&self, id: InodeId) -> NodeId {
        let mut table = lock(&self.0);
        let known = if id.is_placeholder() { None } else { table.by_id.get(&id).copied() };
        let node = known.unwrap_or_else(|| table.add(id));
        if let Some(found) = table.nodes.get_mut(&node) {
            found.lookups += 1;
        }
        node
    }

    /// Takes lookups off; gives the inode whose holds are to be released, and how many.
    pub fn forget(&self, node: NodeId, lookups: u64) -> Option<(InodeId, u64)> {
        let mut table = lock(&self.0);
        let Entry::Occupied(mut entry) = table.nodes.entry(node) else { return None };
        let found = entry.get_mut();
        let taken = lookups.min(found.lookups);
        found.lookups -= taken;
        let id = found.id;
        if found.lookups == 0 && node != NodeId::ROOT {
            entry.remove();
            table.unname(id, node);
        }
        Some((id, taken))
    }

    /// Forgets all but the root; gives what is to be released.
    pub fn drain(&self) -> Vec<(InodeId, u64)> {
        let all: Vec<NodeId> = lock(&self.0).nodes.keys().copied().collect();
        all.into_iter().filter_map(|node| self.forget(node, u64::MAX)).collect()
    }

    /// What is known of an inode's capability.
    pub fn capability(&self, node: NodeId) -> Capability {
        lock(&self.0).nodes.get(&node).map_or(Capability::Unknown, |node| node.capability)
    }

    /// Notes it.
    pub fn set_capability(&self, node: NodeId, known: Capability) {
        if let Some(node) = lock(&self.0).nodes.get_mut(&node) {
            node.capability = known;
        }
    }
}

impl Table {
    fn add(&mut self, id: InodeId) -> NodeId {
        let node = NodeId(self.next);
        self.next += 1;
        self.nodes.insert(node, Node { id, lookups: 0, capability: Capability::Unknown });
        if !id.is_placeholder() {
            self.by_id.insert(id, node);
        }
        node
    }

    fn unname(&mut self, id: InodeId, node: NodeId) {
        if self.by_id.get(&id) == Some(&node) {
            self.by_id.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use butterfs_format::{Ino, TreeId};

    fn id(ino: u64) -> InodeId {
        InodeId::new(TreeId::FS, Ino(ino))
    }

    #[test]
    fn lookups_are_counted_and_ids_not_used_again() {
        let nodes = Nodes::new(id(256));
        let first = nodes.count(id(257));
        assert_eq!(nodes.count(id(257)), first);
        assert_eq!(nodes.forget(first, 1), Some((id(257), 1)));
        assert_eq!(nodes.get(first), Some(id(257)));
        assert_eq!(nodes.forget(first, 5), Some((id(257), 1)));
        assert_eq!(nodes.get(first), None);
        assert_eq!(nodes.forget(first, 1), None);
        assert_ne!(nodes.count(id(257)), first);
    }

    #[test]
    fn the_root_stays_and_placeholders_are_apart() {
        let nodes = Nodes::new(id(256));
        assert_eq!(nodes.count(id(256)), NodeId::ROOT);
        nodes.forget(NodeId::ROOT, 9);
        assert_eq!(nodes.get(NodeId::ROOT), Some(id(256)));
        let placeholder = InodeId::placeholder_in(TreeId::FS);
        assert_ne!(nodes.count(placeholder), nodes.count(placeholder));
        assert_eq!(nodes.drain().len(), 3);
    }
}

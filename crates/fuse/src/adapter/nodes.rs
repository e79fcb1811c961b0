//! Which inode a node id stands for, and how often the kernel has looked it up.
//!
//! # Invariants
//! * Each counted lookup is one hold of the engine on the inode, taken before it is counted here and
//!   given back after it is taken off here: an inode in the table is always held.
//! * A node id says which inode it is, as long as both numbers have their usual size, so that a file handle that somebody
//!   kept (as NFS does) finds its inode when the kernel has forgotten it, and after another mount. The kernel tells an
//!   inode that got the number later by its generation. The root is node 1 and not counted.
//! * What does not fit, and placeholders, have ids from 2^63 on, which are never used again.
//! * A placeholder (what a snapshot shows for a subvolume that is not in it) gets a node of its own
//!   each time: all of a subvolume's have one identity, and a directory must not be in two places.
//!
//! A kernel with memory to spare knows each inode of a filesystem: so a node costs few bytes. What its id says is not
//! kept beside it, and the end of a listing is kept only of directories that were listed.
//!
//! # Locking
//! One mutex, a leaf.

use crate::types::NodeId;
use butterfs_engine::inode::held::give_back;
use butterfs_engine::inode::{InodeId, lock};
use butterfs_format::{Ino, TreeId};
use foldhash::HashMap;
use std::sync::Mutex;

/// Bits of a node id that are the inode number; those above are the subvolume's, and the highest is 0.
const INO_BITS: u32 = 40;
/// Ids without a meaning.
const FIRST_MEANINGLESS: u64 = 1 << 63;

/// The node id that says which inode it is.
fn encode(id: InodeId) -> Option<NodeId> {
    let fits = !id.is_placeholder() && id.ino.0 >> INO_BITS == 0 && id.tree.0 >> (63 - INO_BITS) == 0;
    fits.then_some(NodeId(id.tree.0 << INO_BITS | id.ino.0))
}

/// The inode that a node id says.
fn decode(node: NodeId) -> Option<InodeId> {
    let (tree, ino) = (node.0 >> INO_BITS, node.0 & ((1 << INO_BITS) - 1));
    (node.0 < FIRST_MEANINGLESS && tree != 0 && ino != 0).then(|| InodeId::new(TreeId(tree), Ino(ino)))
}

/// What is known of `security.capability` of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capability {
    /// Nothing: look.
    Unknown,
    /// There is none.
    Absent,
}

/// How often a node was looked up, and in the lowest bit whether it is known to have no capability.
struct Node(u64);

#[derive(Default)]
struct Table {
    nodes: HashMap<NodeId, Node>,
    /// The inodes of ids that do not say theirs.
    meanings: HashMap<NodeId, InodeId>,
    /// The nodes of inodes whose ids do not say so.
    by_id: HashMap<InodeId, NodeId>,
    /// How far a listing goes that began last.
    listing_ends: HashMap<NodeId, u64>,
    next: u64,
}

/// The node table.
pub(super) struct Nodes(Mutex<Table>);

impl Nodes {
    /// A table that knows only the root.
    pub fn new(root: InodeId) -> Self {
        Self(Mutex::new(Table {
            nodes: HashMap::from_iter([(NodeId::ROOT, Node(0))]),
            meanings: HashMap::from_iter([(NodeId::ROOT, root)]),
            by_id: HashMap::from_iter([(root, NodeId::ROOT)]),
            next: FIRST_MEANINGLESS,
            ..Table::default()
        }))
    }

    /// The inode of a node, if the kernel may still use it.
    pub fn get(&self, node: NodeId) -> Option<InodeId> {
        let table = lock(&self.0);
        table.nodes.contains_key(&node).then(|| table.meaning(node)).flatten()
    }

    /// The inode of a node, also of one that the kernel has forgotten: from a file handle.
    pub fn recall(&self, node: NodeId) -> Option<InodeId> {
        self.get(node).or_else(|| decode(node))
    }

    /// The node of an inode, if the kernel knows it.
    pub fn find(&self, id: InodeId) -> Option<NodeId> {
        lock(&self.0).find(id)
    }

    /// Counts a lookup of an inode that was held for it.
    pub fn count(&self, id: InodeId) -> NodeId {
        let mut table = lock(&self.0);
        let node = table.find(id).unwrap_or_else(|| table.add(id));
        table.nodes.entry(node).or_insert(Node(0)).add(1);
        node
    }

    /// Takes lookups off; gives the inode whose holds are to be released, and how many.
    pub fn forget(&self, node: NodeId, lookups: u64) -> Option<(InodeId, u64)> {
        let mut table = lock(&self.0);
        let id = table.meaning(node)?;
        let found = table.nodes.get_mut(&node)?;
        let taken = found.take(lookups);
        if found.lookups() == 0 && node != NodeId::ROOT {
            table.remove(id, node);
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
        lock(&self.0).nodes.get(&node).map_or(Capability::Unknown, Node::capability)
    }

    /// The position after which a listing of a directory ends.
    pub fn listing_end(&self, node: NodeId) -> u64 {
        lock(&self.0).listing_ends.get(&node).copied().unwrap_or(u64::MAX)
    }

    /// Notes it, where a listing begins.
    pub fn set_listing_end(&self, node: NodeId, end: u64) {
        let mut table = lock(&self.0);
        if table.nodes.contains_key(&node) {
            table.listing_ends.insert(node, end);
        }
    }

    /// Notes it.
    pub fn set_capability(&self, node: NodeId, known: Capability) {
        if let Some(node) = lock(&self.0).nodes.get_mut(&node) {
            node.set_capability(known);
        }
    }
}

impl Node {
    /// The lowest bit: there is no capability.
    const NO_CAPABILITY: u64 = 1;

    fn lookups(&self) -> u64 {
        self.0 >> 1
    }

    fn add(&mut self, lookups: u64) {
        self.0 += lookups << 1;
    }

    /// Takes lookups off, as far as there are so many; gives how many.
    fn take(&mut self, lookups: u64) -> u64 {
        let taken = lookups.min(self.lookups());
        self.0 -= taken << 1;
        taken
    }

    fn capability(&self) -> Capability {
        if self.0 & Self::NO_CAPABILITY == 0 { Capability::Unknown } else { Capability::Absent }
    }

    fn set_capability(&mut self, known: Capability) {
        self.0 &= !Self::NO_CAPABILITY;
        self.0 |= if known == Capability::Absent { Self::NO_CAPABILITY } else { 0 };
    }
}

impl Table {
    /// The inode of an id, whether or not the kernel knows it.
    fn meaning(&self, node: NodeId) -> Option<InodeId> {
        self.meanings.get(&node).copied().or_else(|| decode(node))
    }

    /// The node that an inode has, but for placeholders.
    fn find(&self, id: InodeId) -> Option<NodeId> {
        let saying = || encode(id).filter(|node| self.nodes.contains_key(node));
        self.by_id.get(&id).copied().or_else(saying)
    }

    /// An id for an inode without one.
    fn add(&mut self, id: InodeId) -> NodeId {
        if let Some(node) = encode(id) {
            return node;
        }
        self.next += 1;
        let node = NodeId(self.next);
        self.meanings.insert(node, id);
        if !id.is_placeholder() {
            self.by_id.insert(id, node);
        }
        node
    }

    fn remove(&mut self, id: InodeId, node: NodeId) {
        self.nodes.remove(&node);
        give_back(&mut self.nodes);
        self.listing_ends.remove(&node);
        if self.meanings.remove(&node).is_some() && !id.is_placeholder() {
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
    fn lookups_are_counted() {
        let nodes = Nodes::new(id(256));
        let first = nodes.count(id(257));
        assert_eq!(nodes.count(id(257)), first);
        assert_eq!(nodes.forget(first, 1), Some((id(257), 1)));
        assert_eq!(nodes.get(first), Some(id(257)));
        assert_eq!(nodes.forget(first, 5), Some((id(257), 1)));
        assert_eq!(nodes.get(first), None);
        assert_eq!(nodes.forget(first, 1), None);
        assert_eq!(nodes.recall(first), Some(id(257)));
    }

    #[test]
    fn ids_say_what_they_are_if_they_can() {
        let nodes = Nodes::new(id(256));
        let usual = InodeId::new(TreeId(300), Ino(1 << 39));
        assert_eq!(nodes.recall(nodes.count(usual)), Some(usual));
        let large = [InodeId::new(TreeId(1 << 23), Ino(257)), InodeId::new(TreeId(256), Ino(1 << 40))];
        for id in large {
            let node = nodes.count(id);
            assert_eq!(nodes.get(node), Some(id));
            nodes.forget(node, 1);
            assert_eq!(nodes.recall(node), None);
            assert_ne!(nodes.count(id), node);
        }
        assert_eq!(nodes.recall(NodeId::ROOT), Some(id(256)));
        assert_eq!(nodes.recall(NodeId(7)), None);
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
    #[test]
    fn what_is_known_goes_with_the_node() {
        let nodes = Nodes::new(id(256));
        let node = nodes.count(id(257));
        nodes.set_capability(node, Capability::Absent);
        nodes.set_listing_end(node, 7);
        nodes.count(id(257));
        assert_eq!((nodes.capability(node), nodes.listing_end(node)), (Capability::Absent, 7));
        nodes.forget(node, 1);
        assert_eq!(nodes.capability(node), Capability::Absent);
        nodes.forget(node, 1);
        nodes.set_listing_end(node, 8);
        assert_eq!(nodes.count(id(257)), node);
        assert_eq!((nodes.capability(node), nodes.listing_end(node)), (Capability::Unknown, u64::MAX));
    }

    #[test]
    fn a_node_costs_few_bytes() {
        assert_eq!(size_of::<(NodeId, Node)>(), 16);
        let nodes = Nodes::new(id(256));
        for ino in 300..2300 {
            nodes.count(id(ino));
        }
        let table = lock(&nodes.0);
        assert_eq!((table.nodes.len(), table.meanings.len(), table.by_id.len()), (2001, 1, 1));
    }
}

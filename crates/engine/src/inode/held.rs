//! How often inodes are held that are not in memory.
//!
//! There may be millions of them: each costs some bytes, and those of one subvolume are found without a look at others.

use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, Hash};

use butterfs_format::{Ino, TreeId};
use foldhash::HashMap;

use super::InodeId;

/// Numbers of holds, never 0.
#[derive(Default)]
pub(super) struct HeldInodes(HashMap<TreeId, HashMap<Ino, u64>>);

impl HeldInodes {
    /// Keeps the holds of an inode that has none here; none need not be kept.
    pub fn put(&mut self, id: InodeId, holds: u64) {
        if holds > 0 {
            self.0.entry(id.tree).or_default().insert(id.ino, holds);
        }
    }

    /// Takes all holds of an inode out.
    pub fn take(&mut self, id: InodeId) -> u64 {
        let Entry::Occupied(mut tree) = self.0.entry(id.tree) else { return 0 };
        let holds = tree.get_mut().remove(&id.ino).unwrap_or(0);
        if tree.get().is_empty() {
            tree.remove();
        } else {
            give_back(tree.get_mut());
        }
        holds
    }

    /// The inodes of a subvolume.
    pub fn of_tree(&self, tree: TreeId) -> impl Iterator<Item = InodeId> {
        self.0.get(&tree).into_iter().flat_map(move |inodes| inodes.keys().map(move |ino| InodeId::new(tree, *ino)))
    }
}

/// Gives the memory of a map back that has become much smaller: it is copied once in as many removals as it has entries.
pub fn give_back<K: Eq + Hash, V, S: BuildHasher>(map: &mut std::collections::HashMap<K, V, S>) {
    if map.capacity() > 1024 && map.len() < map.capacity() / 8 {
        map.shrink_to(map.len() * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back() {
        let id = |ino| InodeId::new(TreeId::FS, Ino(ino));
        let mut held = HeldInodes::default();
        (0..100_000).for_each(|ino| held.put(id(ino), 1));
        held.put(id(200_000), 0);
        assert_eq!(held.of_tree(TreeId::FS).count(), 100_000);
        assert_eq!((0..99_990).map(|ino| held.take(id(ino))).sum::<u64>(), 99_990);
        let left = held.0[&TreeId::FS].capacity();
        assert!(left < 10_000, "{left}");
        assert_eq!((held.take(id(5)), held.take(InodeId::new(TreeId(300), Ino(5)))), (0, 0));
        assert_eq!((99_990..100_000).map(|ino| held.take(id(ino))).sum::<u64>(), 10);
        assert!(held.0.is_empty());
    }
}

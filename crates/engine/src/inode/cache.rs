//! The inodes in memory, by identity.
//!
//! # Invariants
//! * One [`Inode`] per [`InodeId`]: two threads that want it at once load it once.
//! * Held, dirty and used inodes stay; others go when the budget is exceeded, those unused the
//!   longest first (a second-chance queue, a few steps per insertion).
//!
//! # Locking
//! The map's mutex is a leaf: nothing is locked under it but by `try_lock`. A slot's mutex is held while
//! its inode is loaded, before the gate.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, RwLock};

use super::{Inode, InodeId, InodeRef, InodeState, lock};
use crate::error::Result;
use crate::file::FileData;

/// How many queued inodes an insertion looks at for one to let go.
const STEPS: usize = 8;

/// One inode's place: empty until it is loaded.
#[derive(Default)]
struct Slot(Mutex<Option<InodeRef>>);

#[derive(Default)]
struct Map {
    slots: HashMap<InodeId, Arc<Slot>>,
    queue: VecDeque<InodeId>,
}

/// Makes the empty data part of an inode.
pub type NewData = Box<dyn Fn() -> FileData + Send + Sync>;

/// The inodes in memory.
pub struct InodeCache {
    map: Mutex<Map>,
    budget: usize,
    new_data: NewData,
}

impl InodeCache {
    /// A cache of about `budget` inodes, and as many more as are held.
    pub fn new(budget: usize, new_data: NewData) -> Self {
        Self { map: Mutex::default(), budget, new_data }
    }

    /// The inode, if it is in memory.
    pub fn peek(&self, id: InodeId) -> Option<InodeRef> {
        let slot = lock(&self.map).slots.get(&id).map(Arc::clone)?;
        lock(&slot.0).clone()
    }

    /// The inode; `load` gives its state if it is not in memory.
    pub fn get(&self, id: InodeId, load: impl FnOnce() -> Result<InodeState>) -> Result<InodeRef> {
        let slot = self.slot(id);
        let mut place = lock(&slot.0);
        if let Some(inode) = &*place {
            return Ok(Arc::clone(inode));
        }
        let state = match load() {
            Ok(state) => state,
            Err(error) => {
                drop(place);
                self.forget_empty(id);
                return Err(error);
            }
        };
        let inode = Arc::new(self.inode(id, state));
        *place = Some(Arc::clone(&inode));
        Ok(inode)
    }

    fn inode(&self, id: InodeId, state: InodeState) -> Inode {
        Inode { id, state: Mutex::new(state), range: RwLock::new(()), data: (self.new_data)() }
    }

    fn slot(&self, id: InodeId) -> Arc<Slot> {
        let mut map = lock(&self.map);
        if let Some(slot) = map.slots.get(&id) {
            return Arc::clone(slot);
        }
        if map.queue.len() >= self.budget {
            map.shrink();
        }
        map.queue.push_back(id);
        let slot = Arc::new(Slot::default());
        map.slots.insert(id, Arc::clone(&slot));
        slot
    }

    /// Drops the slot of an inode that could not be loaded, if nobody else waits for it.
    fn forget_empty(&self, id: InodeId) {
        let mut map = lock(&self.map);
        // Two counts: the map's, and that of the caller, who is done with it.
        let unused = map.slots.get(&id).is_some_and(|slot| Arc::strong_count(slot) <= 2 && slot.is_empty());
        if unused {
            map.slots.remove(&id);
        }
    }

    /// Forgets an inode that was deleted for good; a late user's copy is marked as gone.
    pub fn remove(&self, id: InodeId) {
        lock(&self.map).slots.remove(&id);
    }

    /// Inodes of a tree that are in memory, so many at most.
    pub fn of_tree(&self, tree: butterfs_format::TreeId, most: usize) -> Vec<InodeId> {
        lock(&self.map).slots.keys().filter(|id| id.tree == tree).take(most).copied().collect()
    }

    /// Forgets every inode of a tree that nobody uses; says whether none is left.
    pub fn drop_tree(&self, tree: butterfs_format::TreeId) -> bool {
        let mut map = lock(&self.map);
        map.slots.retain(|id, slot| id.tree != tree || !slot.is_idle());
        !map.slots.keys().any(|id| id.tree == tree)
    }
}

impl Slot {
    fn is_empty(&self) -> bool {
        self.0.try_lock().is_ok_and(|place| place.is_none())
    }

    /// Whether nobody would miss this inode.
    fn is_idle(self: &Arc<Self>) -> bool {
        if Arc::strong_count(self) > 1 {
            return false;
        }
        let Ok(place) = self.0.try_lock() else { return false };
        place.as_ref().is_none_or(|inode| {
            // An Arc that only the slot has cannot be cloned behind our back: the map is locked.
            Arc::strong_count(inode) == 1 && inode.state.try_lock().is_ok_and(|state| !state.dirty && state.holds == 0)
        })
    }
}

impl Map {
    /// Lets a few idle inodes go. Ids of removed inodes leave the queue here too.
    fn shrink(&mut self) {
        for _ in 0..STEPS {
            let Some(id) = self.queue.pop_front() else { return };
            match self.slots.get(&id) {
                Some(slot) if slot.is_idle() => drop(self.slots.remove(&id)),
                Some(_) => self.queue.push_back(id),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use butterfs_format::items::InodeItem;
    use butterfs_format::{Ino, TreeId};
    use zerocopy::FromZeros;

    use super::*;
    use crate::error::Error;

    fn new_data() -> NewData {
        let budget = Arc::new(crate::file::DirtyBudget::default());
        Box::new(move || FileData::new(Arc::clone(&budget)))
    }

    fn id(ino: u64) -> InodeId {
        InodeId::new(TreeId::FS, Ino(ino))
    }

    fn state() -> Result<InodeState> {
        Ok(InodeState::clean(InodeItem::new_zeroed()))
    }

    fn len(cache: &InodeCache) -> usize {
        lock(&cache.map).slots.len()
    }

    #[test]
    fn idle_inodes_go_and_held_ones_stay() {
        let cache = InodeCache::new(4, new_data());
        let used = cache.get(id(300), state).unwrap();
        lock(&cache.get(id(301), state).unwrap().state).holds = 1;
        for ino in 302..400 {
            cache.get(id(ino), state).unwrap();
        }
        assert!(len(&cache) <= 6);
        assert!(cache.peek(id(301)).is_some());
        assert!(Arc::ptr_eq(&used, &cache.get(id(300), state).unwrap()));
    }

    #[test]
    fn a_failed_load_leaves_nothing() {
        let cache = InodeCache::new(4, new_data());
        assert!(matches!(cache.get(id(300), || Err(Error::NotFound)), Err(Error::NotFound)));
        assert_eq!(len(&cache), 0);
        assert!(cache.get(id(300), state).is_ok());
    }

    #[test]
    fn a_tree_is_dropped_when_nobody_uses_it() {
        let cache = InodeCache::new(4, new_data());
        let used = cache.get(id(300), state).unwrap();
        assert!(!cache.drop_tree(TreeId::FS));
        drop(used);
        assert!(cache.drop_tree(TreeId::FS));
    }
}

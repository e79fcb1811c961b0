//! The inodes in memory, by identity, and how often inodes are held.
//!
//! # Invariants
//! * One [`Inode`] per [`InodeId`]: two threads that want it at once load it once.
//! * An inode that is not in memory is as its tree has it. Of one that is held only the number of its holds is kept; it
//!   is loaded again when somebody wants it. So a kernel that knows millions of inodes costs us some bytes for each.
//! * Those stay that somebody works on or that are dirty; of those that are held, also the ones without names (who
//!   releases the last hold deletes them) and the ones of which writeback lost bytes (open files are still to be told).
//!   Others go when the budget is exceeded, those loaded the longest ago first (a queue, a few steps per insertion).
//! * An inode has a slot, or is among the held ones, or neither; never both.
//!
//! # Locking
//! The map's mutex is a leaf: nothing is locked under it but by `try_lock`, and the leaves of an inode's data. A slot's
//! mutex is held while its inode is loaded, before the gate.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, RwLock};

use butterfs_format::TreeId;
use foldhash::HashMap;

use super::held::HeldInodes;
use super::{Inode, InodeId, InodeRef, InodeState, lock};
use crate::error::Result;
use crate::file::FileData;

/// How many queued inodes an insertion looks at for one to let go.
const STEPS: usize = 8;

/// What a slot has.
enum Place {
    /// Nothing yet, or no more: it could not be loaded.
    Empty { holds: u64 },
    /// The inode; it knows its holds.
    Loaded(InodeRef),
}

/// One inode's place: empty until it is loaded.
struct Slot(Mutex<Place>);

/// Whether somebody holds an inode that is to be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It was in memory before, and is as its tree has it.
    Yes,
    /// It need not exist.
    No,
}

#[derive(Default)]
struct Map {
    slots: HashMap<InodeId, Arc<Slot>>,
    /// Inodes with slots, in the order in which they got them; and some that have none any more.
    queue: VecDeque<InodeId>,
    /// Holds of inodes that are not in memory.
    held: HeldInodes,
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
    /// A cache of about `budget` inodes, and as many more as are dirty or worked on.
    pub fn new(budget: usize, new_data: NewData) -> Self {
        Self { map: Mutex::default(), budget, new_data }
    }

    /// The inode; `load` gives its state if it is not in memory.
    pub fn get(&self, id: InodeId, load: impl FnOnce(Held) -> Result<InodeState>) -> Result<InodeRef> {
        let slot = self.slot(id);
        let mut place = lock(&slot.0);
        let holds = match &*place {
            Place::Loaded(inode) => return Ok(Arc::clone(inode)),
            Place::Empty { holds } => *holds,
        };
        match load(if holds > 0 { Held::Yes } else { Held::No }) {
            Ok(state) => {
                let inode = Arc::new(self.inode(id, InodeState { holds, ..state }));
                *place = Place::Loaded(Arc::clone(&inode));
                Ok(inode)
            }
            Err(error) => {
                drop(place);
                self.give_up(id);
                Err(error)
            }
        }
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
        let holds = map.held.take(id);
        let slot = Arc::new(Slot(Mutex::new(Place::Empty { holds })));
        map.slots.insert(id, Arc::clone(&slot));
        slot
    }

    /// Takes the slot from an inode that could not be loaded, if nobody else waits for it.
    fn give_up(&self, id: InodeId) {
        let mut map = lock(&self.map);
        // Two counts: the map's, and that of the caller, who is done with it.
        let unused = map.slots.get(&id).filter(|slot| Arc::strong_count(slot) <= 2).and_then(|slot| slot.empty_holds());
        if let Some(holds) = unused {
            map.take_slot(id, holds);
        }
    }

    /// Takes holds back. Gives the inode if it is in memory; nothing else is to be done with one that is not.
    pub fn release(&self, id: InodeId, holds: u64) -> Option<InodeRef> {
        let mut map = lock(&self.map);
        let Some(slot) = map.slots.get(&id).map(Arc::clone) else {
            map.release(id, holds);
            return None;
        };
        drop(map);
        let mut place = lock(&slot.0);
        match &mut *place {
            Place::Loaded(inode) => {
                let inode = Arc::clone(inode);
                drop(place);
                let mut state = lock(&inode.state);
                state.holds = state.holds.saturating_sub(holds);
                drop(state);
                Some(inode)
            }
            Place::Empty { holds: kept } => {
                *kept = kept.saturating_sub(holds);
                drop(place);
                self.give_up(id);
                None
            }
        }
    }

    /// Forgets an inode that was deleted for good; a late user's copy is marked as gone.
    pub fn remove(&self, id: InodeId) {
        lock(&self.map).slots.remove(&id);
    }

    /// Inodes of these trees that are in memory or held, so many of each tree at most.
    pub fn of_trees(&self, trees: &[TreeId], most: usize) -> Vec<InodeId> {
        let map = lock(&self.map);
        let mut left: HashMap<TreeId, usize> = trees.iter().map(|tree| (*tree, most)).collect();
        let held = trees.iter().flat_map(|tree| map.held.of_tree(*tree).take(most));
        let mut is_taken = |id: &InodeId| match left.get_mut(&id.tree) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        };
        map.slots.keys().copied().chain(held).filter(|id| is_taken(id)).collect()
    }

    /// Forgets every inode of a tree that nobody uses; says whether none is left.
    pub fn drop_tree(&self, tree: TreeId) -> bool {
        let mut map = lock(&self.map);
        map.slots.retain(|id, slot| id.tree != tree || slot.holds_if_idle() != Some(0));
        map.of_tree(tree).next().is_none()
    }

    /// How many inodes are in memory.
    pub fn loaded(&self) -> usize {
        lock(&self.map).slots.len()
    }
}

impl Slot {
    /// The holds of an inode that is not loaded.
    fn empty_holds(&self) -> Option<u64> {
        let place = self.0.try_lock().ok()?;
        if let Place::Empty { holds } = *place { Some(holds) } else { None }
    }

    /// How often the inode is held, if nobody would miss more of it than that number.
    fn holds_if_idle(self: &Arc<Self>) -> Option<u64> {
        if Arc::strong_count(self) > 1 {
            return None;
        }
        let place = self.0.try_lock().ok()?;
        match &*place {
            Place::Empty { holds } => Some(*holds),
            // An Arc that only the slot has cannot be cloned behind our back: the map is locked.
            Place::Loaded(inode) if Arc::strong_count(inode) == 1 => inode.holds_if_clean(),
            Place::Loaded(_) => None,
        }
    }
}

impl Inode {
    /// How often it is held, if that is all that memory has to know of it.
    fn holds_if_clean(&self) -> Option<u64> {
        let state = self.state.try_lock().ok()?;
        let dirty = state.dirty || self.data.is_dirty();
        let missed = state.item.nlink.get() == 0 || self.data.errors().any();
        (!dirty && (state.holds == 0 || !missed)).then_some(state.holds)
    }
}

impl Map {
    /// Lets a few idle inodes go. Ids of removed inodes leave the queue here too.
    fn shrink(&mut self) {
        for _ in 0..STEPS {
            let Some(id) = self.queue.pop_front() else { return };
            let Some(slot) = self.slots.get(&id) else { continue };
            match slot.holds_if_idle() {
                Some(holds) => self.take_slot(id, holds),
                None => self.queue.push_back(id),
            }
        }
    }

    fn take_slot(&mut self, id: InodeId, holds: u64) {
        self.slots.remove(&id);
        self.held.put(id, holds);
    }

    /// Takes holds from an inode without a slot.
    fn release(&mut self, id: InodeId, holds: u64) {
        let kept = self.held.take(id);
        self.held.put(id, kept.saturating_sub(holds));
    }

    /// Inodes of a tree that are in memory or held.
    fn of_tree(&self, tree: TreeId) -> impl Iterator<Item = InodeId> {
        let loaded = self.slots.keys().filter(move |id| id.tree == tree).copied();
        loaded.chain(self.held.of_tree(tree))
    }
}

#[cfg(test)]
mod tests {
    use butterfs_format::Ino;
    use butterfs_format::items::InodeItem;
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

    fn state(_: Held) -> Result<InodeState> {
        Ok(InodeState::clean(InodeItem { nlink: 1.into(), ..InodeItem::new_zeroed() }))
    }

    fn hold(cache: &InodeCache, id: InodeId) -> InodeRef {
        let inode = cache.get(id, state).unwrap();
        lock(&inode.state).holds += 1;
        inode
    }

    /// Loads others until all that can go are gone.
    fn press(cache: &InodeCache) {
        for ino in 1000..1100 {
            cache.get(id(ino), state).unwrap();
        }
    }

    fn is_loaded(cache: &InodeCache, id: InodeId) -> bool {
        lock(&cache.map).slots.contains_key(&id)
    }

    #[test]
    fn idle_inodes_go_and_used_ones_stay() {
        let cache = InodeCache::new(4, new_data());
        let used = cache.get(id(300), state).unwrap();
        press(&cache);
        assert!(cache.loaded() <= 6);
        assert!(Arc::ptr_eq(&used, &cache.get(id(300), state).unwrap()));
    }

    #[test]
    fn a_held_inode_goes_and_its_holds_stay() {
        let cache = InodeCache::new(4, new_data());
        hold(&cache, id(300));
        hold(&cache, id(300));
        press(&cache);
        assert!(!is_loaded(&cache, id(300)));
        assert_eq!(cache.of_trees(&[TreeId::FS], 200).iter().filter(|found| **found == id(300)).count(), 1);
        assert!(!cache.drop_tree(TreeId::FS), "somebody holds one");
        assert!(cache.release(id(300), 1).is_none());
        let again =
            cache.get(id(300), |held| if held == Held::Yes { state(held) } else { Err(Error::NotFound) }).unwrap();
        assert_eq!(lock(&again.state).holds, 1);
        drop(again);
        press(&cache);
        assert!(cache.release(id(300), 1).is_none());
        assert!(cache.drop_tree(TreeId::FS));
    }

    type Change = fn(&Inode);

    #[test]
    fn what_only_memory_knows_stays() {
        let cache = InodeCache::new(4, new_data());
        let stay: [(u64, Change); 3] = [
            (300, |inode| lock(&inode.state).dirty = true),
            (301, |inode| lock(&inode.state).item.nlink = 0.into()),
            (302, |inode| inode.data.errors().note(&Error::NoSpace)),
        ];
        for (ino, change) in stay {
            change(&hold(&cache, id(ino)));
        }
        press(&cache);
        assert!((300..303).all(|ino| is_loaded(&cache, id(ino))));
        lock(&cache.get(id(300), state).unwrap().state).dirty = false;
        for ino in 301..303 {
            assert!(cache.release(id(ino), 1).is_some());
        }
        press(&cache);
        assert!(!(300..303).any(|ino| is_loaded(&cache, id(ino))));
    }

    #[test]
    fn many_held_inodes_are_not_loaded() {
        const MANY: u64 = 100_000;
        let cache = InodeCache::new(100, new_data());
        for ino in 300..300 + MANY {
            hold(&cache, id(ino));
            assert!(cache.loaded() <= 100 + STEPS);
        }
        assert!(lock(&cache.map).queue.len() <= 100 + STEPS);
        for ino in 300..300 + MANY {
            cache.release(id(ino), 1);
        }
        assert!(lock(&cache.map).held.of_tree(TreeId::FS).next().is_none());
    }

    #[test]
    fn a_failed_load_keeps_the_holds() {
        let cache = InodeCache::new(4, new_data());
        hold(&cache, id(300));
        press(&cache);
        assert!(cache.get(id(300), |_| Err(Error::NotFound)).is_err());
        assert_eq!(lock(&cache.get(id(300), state).unwrap().state).holds, 1);
    }

    #[test]
    fn a_failed_load_leaves_nothing() {
        let cache = InodeCache::new(4, new_data());
        assert!(matches!(cache.get(id(300), |_| Err(Error::NotFound)), Err(Error::NotFound)));
        assert_eq!(cache.loaded(), 0);
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

//! Clean tree blocks in memory, within a byte budget.
//!
//! Eviction is by second chance: a block that was used since the hand last passed stays once more.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use butterfs_format::{Logical, TreeBlock};

use super::AddressMap;

/// Checked, clean blocks by address.
pub struct BlockCache {
    inner: Mutex<Inner>,
    budget: usize,
}

#[derive(Default)]
struct Inner {
    blocks: AddressMap<Entry>,
    clock: VecDeque<Logical>,
    bytes: usize,
}

struct Entry {
    block: Arc<TreeBlock>,
    used: bool,
}

impl BlockCache {
    /// A cache that keeps at most `budget` bytes of blocks.
    pub fn new(budget: usize) -> Self {
        Self { inner: Mutex::default(), budget }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A cache of checked blocks is whole after every statement that could panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block at an address, if it is here.
    pub fn get(&self, at: Logical) -> Option<Arc<TreeBlock>> {
        let mut inner = self.lock();
        let entry = inner.blocks.get_mut(&at)?;
        entry.used = true;
        Some(entry.block.clone())
    }

    /// Keeps a block.
    pub fn insert(&self, at: Logical, block: Arc<TreeBlock>) {
        let mut inner = self.lock();
        let size = block.bytes().len();
        match inner.blocks.insert(at, Entry { block, used: false }) {
            Some(_) => {}
            None => {
                inner.clock.push_back(at);
                inner.bytes += size;
            }
        }
        inner.evict(self.budget);
    }

    /// Forgets a block whose space is given away.
    pub fn remove(&self, at: Logical) {
        let mut inner = self.lock();
        if let Some(entry) = inner.blocks.remove(&at) {
            inner.bytes -= entry.block.bytes().len();
        }
    }
}

impl Inner {
    fn evict(&mut self, budget: usize) {
        while self.bytes > budget {
            let Some(at) = self.clock.pop_front() else { return };
            match self.blocks.get_mut(&at) {
                Some(entry) if entry.used => {
                    entry.used = false;
                    self.clock.push_back(at);
                }
                Some(_) => {
                    if let Some(entry) = self.blocks.remove(&at) {
                        self.bytes -= entry.block.bytes().len();
                    }
                }
                None => {}
            }
        }
        // Addresses of removed blocks must not pile up.
        if self.clock.len() > 2 * self.blocks.len() + 64 {
            let blocks = &self.blocks;
            let mut seen = std::collections::HashSet::new();
            self.clock.retain(|at| blocks.contains_key(at) && seen.insert(*at));
        }
    }
}

//! Blocks that were read last, for look-ups in trees that were walked already.
//!
//! Memory: as many blocks as it was made for.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use butterfs_format::TreeBlock;
use butterfs_format::validate::Expected;

use crate::access::Access;

/// The blocks, and in which order they came.
#[derive(Default)]
struct Blocks {
    by_address: HashMap<u64, Arc<TreeBlock>>,
    order: VecDeque<u64>,
}

/// A small cache; the oldest goes first.
pub(crate) struct Recent {
    blocks: Mutex<Blocks>,
    most: usize,
}

impl Recent {
    pub fn new(most: usize) -> Self {
        Self { blocks: Mutex::default(), most: most.max(8) }
    }

    /// The block, from memory or from the disk.
    pub fn block(&self, access: &Access<'_>, expected: &Expected) -> Result<Arc<TreeBlock>, String> {
        let known = self.lock().by_address.get(&expected.bytenr.0).cloned();
        if let Some(block) = known.filter(|block| expected.level == Some(block.level())) {
            return Ok(block);
        }
        let block = Arc::new(access.block(expected)?);
        let mut blocks = self.lock();
        if blocks.by_address.insert(expected.bytenr.0, block.clone()).is_none() {
            blocks.order.push_back(expected.bytenr.0);
        }
        if blocks.order.len() > self.most
            && let Some(oldest) = blocks.order.pop_front()
        {
            blocks.by_address.remove(&oldest);
        }
        Ok(block)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

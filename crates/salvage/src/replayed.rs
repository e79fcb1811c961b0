//! Trees as they are once a log tree was replayed in memory, by somebody who can.

use butterfs_format::{TreeBlock, TreeId};

use crate::outline::Start;
use crate::scan::Name;

/// Gives what a replay changed. Its blocks have a generation above that of the superblock.
pub trait Replayed: Send + Sync {
    /// Where a tree begins now.
    fn start(&self, tree: TreeId) -> Option<Start>;

    /// A block that was made by the replay.
    fn block(&self, name: Name, level: u8) -> Option<TreeBlock>;
}

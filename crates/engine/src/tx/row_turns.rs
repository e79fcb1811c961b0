//! Writers of data and commits, in turns, where space has parity.
//!
//! Space that was given out may lie beside other files' bytes that share its parity. So it must be written before
//! those are committed: who takes space for data holds on to the rows until its bytes are written, and a commit, or a log
//! that becomes durable, waits for all who do before it freezes anything. (What is frozen shares no row with what is given
//! out later: [`crate::space::Rows`].)
//!
//! # Locking
//! Rank: after the commit turn, before the trees. Who holds on to rows asks for no promise, takes no lock of an
//! inode, and does not commit, until it lets go.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Who has space and has not written to it, and who may freeze.
#[derive(Default)]
pub(super) struct RowTurns(RwLock<()>);

/// Nothing is frozen while this is held.
pub struct RowHold<'g> {
    _held: RwLockReadGuard<'g, ()>,
}

/// All space that was taken for data is written.
pub(super) struct RowsAlone<'g> {
    _alone: RwLockWriteGuard<'g, ()>,
}

impl RowTurns {
    pub fn hold(&self) -> RowHold<'_> {
        RowHold { _held: self.0.read().unwrap_or_else(PoisonError::into_inner) }
    }

    pub fn alone(&self) -> RowsAlone<'_> {
        RowsAlone { _alone: self.0.write().unwrap_or_else(PoisonError::into_inner) }
    }
}

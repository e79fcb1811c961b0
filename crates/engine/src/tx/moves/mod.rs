//! Extents and tree blocks, moved to another place with all that refers to them.
//!
//! A block is moved *for everybody at once*: its copy gets the references that it had, and each parent, in whatever
//! tree, points to the copy. So what was shared stays shared. A parent has to be of this transaction for that, which
//! moves it too, up to the roots; but once in a transaction, so that many extents in one leaf cost one path.
//!
//! # Invariants
//! * The set of references of what is moved is the same before and after, but for the addresses of moved parents.
//! * A moved block that is not its tree's alone has full back references, and says so (`FLAG_RELOC`; btrfs-progs takes
//!   the flag for that): it may be shared though it is younger than the last snapshot, and is copied
//!   before anything but a move changes it. (So the kernel has it.)
//! * A moved extent keeps the generation that its item has, which tells whether a snapshot may share it.
//! * Moving changes nothing that a user sees: no time, no `ctransid`, no generation of a file extent.
//! * Subvolumes that are being deleted are gone before: their nodes may point to blocks that are dropped already.

//!
//! `groups` opens and closes block groups for it, `blocks` moves tree blocks, `data` moves data.

mod blocks;
mod data;
mod groups;

use butterfs_format::Logical;

use super::Transaction;
use super::delayed::ExtentKind;
use super::references::References;
use crate::error::Result;
pub use groups::{GroupInfo, Profiles, Room};

/// What lies in a block group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where.
    pub at: Logical,
    /// How long it is, in bytes.
    pub len: u64,
    /// A tree block of a level, or data.
    pub level: Option<u8>,
}

/// What a move may cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MoveCost {
    /// Tree blocks that are copied.
    pub blocks: u64,
    /// References that change.
    pub refs: u64,
}

impl MoveCost {
    fn covers(&self, other: &Self) -> bool {
        self.blocks >= other.blocks && self.refs >= other.refs
    }
}

/// How a move went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// It is done.
    Done,
    /// There is nothing there any more.
    Gone,
    /// It would cost more than was promised; nothing was changed.
    Costs(MoveCost),
}

impl Transaction {
    fn kind_of(found: &Found) -> ExtentKind {
        found.level.map_or(ExtentKind::Data, ExtentKind::TreeBlock)
    }

    fn references_of(&self, found: &Found) -> Result<References> {
        self.references(found.at, Self::kind_of(found), found.len)
    }
}

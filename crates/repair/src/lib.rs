//! Repair of a damaged filesystem as a plan: computed, tried out in memory, checked, and only then written, with
//! an undo file that brings every byte back.
//!
//! [`plan()`] gives a [`Plan`] and writes nothing; [`apply()`] carries it out; [`undo()`] takes it back.
//!
//! How a plan is made, in rounds until nothing is left to do:
//! 1. The checker (`butterfs-check`, which knows nothing of this crate) judges the filesystem in the overlay.
//! 2. `survey`: everything that can be reached is walked, with no trust in derived trees.
//! 3. `mend`: what users stored, and the root items, are repaired by edits of their trees.
//! 4. `derive`: what follows from the rest (extents, block groups, free space, device extents, checksums,
//!    quotas, UUIDs) is worked out anew where it is wrong.
//! 5. `commit`: a new generation goes to the overlay, superblocks last.
//!
//! The plan is accepted only if the checker then calls the filesystem clean or, if that was allowed, finds less
//! wrong with it and nothing new.

mod apply;
mod commit;
pub mod derive;
mod error;
pub mod mend;
pub mod overlay;
pub mod plan;
mod refusals;
pub mod rescue;
mod rounds;
pub mod store;
pub mod survey;
mod trial;
pub mod undo;
pub mod workspace;

pub use apply::apply;
pub use butterfs_check::Devices;
pub use error::{Error, Result};
pub use plan::{Plan, Step, Verdict};
pub use rescue::{Rescue, rescue};
pub use rounds::plan;
pub use undo::undo;
pub use workspace::Workspace;

/// What is good enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Goal {
    /// No error may be left.
    #[default]
    Clean,
    /// Fewer errors are worth it, too.
    Better,
}

/// Trees that are made anew even if nothing is wrong with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Renew {
    /// The extent tree.
    pub extent_tree: bool,
    /// The checksum tree, from the data as it is.
    pub checksum_tree: bool,
}

/// What the checks may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of memory, about.
    pub memory: u64,
    /// Threads; `None` for as many as there are processors.
    pub threads: Option<std::num::NonZeroUsize>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { memory: butterfs_check::DEFAULT_MEMORY, threads: None }
    }
}

/// How to repair.
#[derive(Clone, Default)]
pub struct Options {
    /// What is good enough.
    pub goal: Goal,
    /// Trees to be made anew.
    pub renew: Renew,
    /// Data is read and compared with its checksums in the checks.
    pub data_csums: bool,
    /// How the checks are bounded: see [`butterfs_check::Options::memory`] and `threads`.
    pub bounds: Bounds,
    /// The devices are shown with another superblock than their first, which is to be replaced by it. The new
    /// generation is above this one, that of the superblock which is passed over (0 if it is not good).
    pub instead_of: Option<u64>,
    /// Who wants to know how far the checks got.
    pub progress: Option<butterfs_check::Progress>,
}

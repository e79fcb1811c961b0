//! Subvolumes and snapshots: their root items, UUIDs and what memory knows of them.
//!
//! # Invariants
//! * A subvolume that can be reached has one ROOT_REF with its ROOT_BACKREF, `refs` 1 and its UUID
//!   in the UUID tree; one that is deleted has `refs` 0 and an orphan item, and none of these.

pub mod changed;
pub mod list;
pub mod root;
pub mod rule;
pub mod table;
pub mod uuid;

pub use changed::{ChangedExtent, ChangedPage};
pub use list::SubvolumeInfo;
pub use rule::{RULE_ATTRIBUTE, SubvolumeRule};
pub use table::Subvolumes;

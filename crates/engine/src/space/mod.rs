//! Block groups and their free space, in memory.
//!
//! What is on disk (block group items, the free space tree) is written by [`crate::tx`]; here is
//! what decides where the next extent goes and whether there is room at all.

mod block_group;
mod free_ranges;
mod free_space;
mod map;
pub mod placement;
mod rows;
mod rules;

pub use block_group::{BlockGroup, GroupState};
pub use free_ranges::FreeRanges;
pub use free_space::FreeSpace;
pub use map::{Promised, SpaceMap, Totals};
pub use rows::{Due, Rows};
pub use rules::{DiscardRule, SpaceRules};

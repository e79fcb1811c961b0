//! A filesystem in an image that is not mounted: opened, and found one's way in.
//!
//! # Invariants
//! * What is opened for reading is opened read-only, down to the devices: not one byte changes, and a log
//!   tree is replayed in memory.
//! * Paths and symbolic links lead nowhere outside of the chosen subvolume's top and what hangs below it.

pub mod describe;
pub mod glob;
pub mod list;
mod opening;
pub mod path;
mod targets;
pub mod walk;

pub use opening::Opening;
pub use targets::{Image, Targets, open};

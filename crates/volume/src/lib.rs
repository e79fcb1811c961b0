//! One logical address space over the devices of a Btrfs filesystem.
//!
//! * [`device`]: what a device is ([`BlockDevice`]); files and block devices, and memory for tests.
//! * [`Volume`]: the devices of one filesystem, its chunk map, its superblocks; reads from any copy
//!   with repair, writes to all copies.
//! * [`Error`]: what can go wrong, and whose fault it is.
//!
//! The mapping of logical to physical addresses is in `map`, and nowhere else.

pub mod device;
mod error;
mod map;
mod open;
mod read;
mod volume;
mod write;

pub use device::{BlockDevice, FileDevice, MemDevice};
pub use error::{Error, Result};
pub use map::stripe_length;
pub use volume::{OpenMode, Volume};

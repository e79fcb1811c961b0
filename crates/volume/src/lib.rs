//! One logical address space over the devices of a Btrfs filesystem.
//!
//! * [`device`]: what a device is ([`BlockDevice`]); files and block devices, and memory for tests.
//! * [`Volume`]: the devices of one filesystem, its chunk map, its superblocks; reads from any copy, or
//!   rebuilt from parity, with repair; writes to all copies.
//! * [`scan()`]: which devices there are, and which of them a filesystem wants.
//! * [`signatures`]: what else a device holds, by its magic bytes.
//! * [`Error`]: what can go wrong, and whose fault it is.
//!
//! The mapping of logical to physical addresses is in `map` and `profile`, and nowhere else.

mod absent;
mod apart;
pub mod change;
mod device;
mod error;
mod heal;
mod held_back;
mod map;
mod member;
mod members;
mod open;
mod parity;
mod profile;
mod read;
mod replacing;
mod returning;
mod rows;
mod scan;
mod scrub;
mod shown;
pub mod signatures;
mod sprout;
mod stats;
mod superblock;
mod targets;
mod tolerance;
mod twins;
mod upgrade;
mod volume;
mod write;

pub use device::{BlockDevice, FileDevice, MemDevice};
pub use error::{DeviceId, Error, Result};
pub use heal::Reader;
pub use held_back::HeldBack;
pub use profile::{Profile, stored_places, stripe_length};
pub use rows::TakenRows;
pub use scan::{ScannedDevice, find_missing, paths_in, scan, system_devices};
pub use scrub::{DeviceExtent, Held, Parity, ParityKind, ParityPlace, StoredPart};
pub use shown::{superblock_copy, with_superblock};
pub use stats::DeviceStats;
pub use superblock::{erase_superblocks, make_unknown};
pub use targets::{Unfit, from_the_beginning};
pub use volume::{BadChunks, Missing, OpenMode, OpenOptions, Volume};

//! Reading what is left of a damaged filesystem: nothing is written to the devices, and no one broken thing ends it.
//!
//! * [`Source`]: devices opened whatever is wrong with superblock and chunk tree.
//! * [`restore()`]: files, directories and all else, given to a [`Sink`]; what could not be had is in the [`Report`].
//! * [`scan`]: every tree block that lies on the devices, whatever the chunk tree says.
//! * [`chunks`]: which chunks there are, from those blocks.
//! * [`roots`]: which trees there are, and where they begin.
//!
//! How gaps are filled is in `fill`, and in decision 8.

use std::sync::Arc;

use butterfs_volume::BlockDevice;

mod assign;
pub mod chunks;
mod csums;
mod data;
mod doubtful;
mod error;
mod fill;
mod guess;
mod inode;
mod make;
mod names;
mod outline;
mod padded;
mod places;
mod replayed;
mod report;
mod restore;
pub mod roots;
pub mod scan;
mod sink;
mod source;
mod threads;

pub use error::{Error, Result};
pub use outline::{Start, Trust};
pub use replayed::Replayed;
pub use report::{Counts, Loss, LossKind, LostBlock, MadeUp, Report, shown};
pub use restore::{Damaged, Options, Select, Top, Wanted, restore};
pub use sink::{About, Made, NewFile, Sink, Xattr};
pub use source::{Begin, Block, Source};

/// The devices of a filesystem, in any order.
pub type Devices = Vec<Arc<dyn BlockDevice>>;

//! Reading what is left of a damaged filesystem: nothing is written to the devices, and no one broken thing ends it.
//!
//! * [`scan`]: every tree block that lies on the devices, whatever the chunk tree says.
//! * [`chunks`]: which chunks there are, from those blocks.

use std::sync::Arc;

use butterfs_volume::BlockDevice;

pub mod chunks;
mod error;
pub mod scan;
mod threads;

pub use error::{Error, Result};

/// The devices of a filesystem, in any order.
pub type Devices = Vec<Arc<dyn BlockDevice>>;

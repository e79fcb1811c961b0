//! Making a filesystem.

use std::sync::Arc;

use butterfs_format::superblock::Incompat;
use butterfs_volume::BlockDevice;

use crate::error::Result;
pub use crate::tx::{MIN_SIZE, MakeOptions};

/// Writes a new filesystem to a device, and makes it durable. What was there is lost.
///
/// # Errors
/// [`crate::Error::Invalid`] for options that do not go together; device errors.
pub fn make(device: Arc<dyn BlockDevice>, options: &MakeOptions) -> Result<()> {
    let mut options = options.clone();
    if options.nodesize == options.sectorsize {
        options.incompat.remove(Incompat::BIG_METADATA);
    }
    options.check()?;
    crate::tx::make(device, &options)
}

//! Making a filesystem.

use std::sync::Arc;

use butterfs_format::superblock::Incompat;
use butterfs_volume::BlockDevice;

use crate::error::{Error, Result};
pub use crate::tx::{MIN_SIZE, MakeOptions, NewDevice};

/// [`make_on`] for one device.
///
/// # Errors
/// As [`make_on`].
pub fn make(device: Arc<dyn BlockDevice>, options: &MakeOptions) -> Result<()> {
    make_on(&[device], options)
}

/// Writes a new filesystem to its devices, as many as the options have, and makes it durable. What was there is lost.
///
/// # Errors
/// [`crate::Error::Invalid`] for options that do not go together; device errors.
pub fn make_on(devices: &[Arc<dyn BlockDevice>], options: &MakeOptions) -> Result<()> {
    if devices.len() != options.devices.len() {
        return Err(Error::Invalid("as many devices are described as are given"));
    }
    let mut options = options.clone();
    for profile in [options.metadata_profile, options.data_profile] {
        options.incompat.insert(crate::tx::feature_of(profile));
    }
    if options.nodesize == options.sectorsize {
        options.incompat.remove(Incompat::BIG_METADATA);
    }
    options.check()?;
    crate::tx::make(devices, &options)
}

//! What can go wrong between a logical address and the devices, sorted by whose fault it is.

use std::io;

use butterfs_format::{Corruption, DevId, Logical};

/// Why a volume could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk lies.
    #[error(transparent)]
    Corruption(#[from] Corruption),
    /// A device failed.
    #[error("{name}{}: {source}", devid_suffix(.devid))]
    Device {
        /// The device's path.
        name: String,
        /// Its number in the filesystem, once known.
        devid: Option<DevId>,
        /// What the system said.
        source: io::Error,
    },
    /// There is no superblock.
    #[error("{name}: no Btrfs filesystem found (no superblock at 64 KiB, 64 MiB or 256 GiB)")]
    NotBtrfs {
        /// The device's path.
        name: String,
    },
    /// A valid filesystem that this program cannot map.
    #[error("{0}")]
    Unsupported(String),
    /// The filesystem has a device that was not given.
    #[error("device {devid} (uuid {uuid}) of the filesystem is missing; name all its devices")]
    MissingDevice {
        /// The missing device's number.
        devid: DevId,
        /// The missing device's own UUID, as text.
        uuid: String,
    },
    /// Someone else uses the device.
    #[error("{0}")]
    Busy(String),
    /// The device or volume is open for reading only, or must not be written.
    #[error("{0}")]
    NotWritable(String),
    /// No copy of a tree block is good.
    #[error("no good copy at logical {logical}: {problems}")]
    NoCopy {
        /// The address.
        logical: Logical,
        /// What is wrong with each copy.
        problems: String,
    },
}

fn devid_suffix(devid: &Option<DevId>) -> String {
    devid.map(|id| format!(" (device {id})")).unwrap_or_default()
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

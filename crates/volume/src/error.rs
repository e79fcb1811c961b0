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
    /// The filesystem has devices that were not given.
    #[error("{} of the filesystem {} missing", device_list(.0), if .0.len() == 1 { "is" } else { "are" })]
    MissingDevices(Vec<DeviceId>),
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

/// Which device of a filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceId {
    /// Its number in the filesystem.
    pub devid: DevId,
    /// Its own UUID.
    pub uuid: [u8; 16],
}

impl std::fmt::Display for DeviceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (uuid {})", self.devid, uuid_text(&self.uuid))
    }
}

/// A UUID as it is usually written.
pub(crate) fn uuid_text(uuid: &[u8; 16]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    [&uuid[..4], &uuid[4..6], &uuid[6..8], &uuid[8..10], &uuid[10..]].map(hex).join("-")
}

/// `device 2 (uuid ...)` or `devices 2 (uuid ...), 3 (uuid ...)`.
fn device_list(devices: &[DeviceId]) -> String {
    let names: Vec<_> = devices.iter().map(ToString::to_string).collect();
    format!("device{} {}", if names.len() == 1 { "" } else { "s" }, names.join(", "))
}

impl Error {
    /// Whether it is only that a device is missing.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Device { source, .. } if crate::device::is_absence(source))
    }

    /// Whether both are failures of the same device.
    pub(crate) fn is_of_device_of(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Device { name, .. }, Self::Device { name: same, .. }) if name == same)
    }

    /// The same again, if it is the failure of a device.
    pub(crate) fn failure(&self) -> Option<Self> {
        let Self::Device { name, devid, source } = self else { return None };
        let again = |number| io::Error::from_raw_os_error(number);
        let source = source.raw_os_error().map_or_else(|| io::Error::new(source.kind(), source.to_string()), again);
        Some(Self::Device { name: name.clone(), devid: *devid, source })
    }
}

fn devid_suffix(devid: &Option<DevId>) -> String {
    devid.map(|id| format!(" (device {id})")).unwrap_or_default()
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

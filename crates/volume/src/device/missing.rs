//! The place of a device that is missing: it knows its number, and fails.

use std::fmt;
use std::io;

use super::BlockDevice;

/// Stands in for a device of a filesystem that is not there.
pub(crate) struct MissingDevice {
    pub name: String,
}

/// The error of every request to a missing device.
#[derive(Clone, Copy, Debug)]
struct Absence;

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the device is missing")
    }
}

impl std::error::Error for Absence {}

fn absence() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, Absence)
}

/// The error of requests to a device that failed before.
pub(crate) fn dropped() -> io::Error {
    io::Error::other("the device failed earlier and is not used any more")
}

/// The error of requests for what a device holds that is being brought up to date.
pub(crate) fn catching_up() -> io::Error {
    io::Error::other("the device missed commits and is being brought up to date")
}

/// Whether an error is that of a missing device.
pub(crate) fn is_absence(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Absence>())
}

impl BlockDevice for MissingDevice {
    fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
        Err(absence())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(absence())
    }

    fn flush(&self) -> io::Result<()> {
        Err(absence())
    }

    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Err(absence())
    }

    /// As long as any device may be: what is known of its length is in its item.
    fn len(&self) -> u64 {
        i64::MAX as u64
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

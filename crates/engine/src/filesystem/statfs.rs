//! How full the filesystem is.

use super::Filesystem;

/// Sizes of the whole filesystem, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// All devices.
    pub total: u64,
    /// Used, as of the last commit.
    pub used: u64,
    /// A sector, the unit of allocation.
    pub sectorsize: u32,
}

impl Filesystem {
    /// How full the filesystem is.
    pub fn usage(&self) -> Usage {
        let sb = self.shared.gate.volume().superblock();
        Usage { total: sb.total_bytes.get(), used: sb.bytes_used.get(), sectorsize: sb.sectorsize.get() }
    }
}

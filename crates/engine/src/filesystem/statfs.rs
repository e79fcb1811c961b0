//! How full the filesystem is.

use super::Filesystem;

/// Sizes of the whole filesystem as statfs gives them, in bytes: what device space can hold when
/// data has one copy, as the kernel counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// All devices.
    pub total: u64,
    /// Not used, the reserve included.
    pub free: u64,
    /// What new data can take.
    pub available: u64,
    /// A sector, the unit of allocation.
    pub sectorsize: u32,
}

impl Filesystem {
    /// How full the filesystem is.
    pub fn usage(&self) -> Usage {
        let gate = &self.shared.gate;
        let space = gate.space();
        let used = space.data.used + space.promised + (space.metadata.used + space.system.used) * space.metadata_copies;
        let data_free = space.data.available.saturating_sub(space.promised);
        // A chunk is never smaller than a stripe, so the last bytes of a device stay out.
        let unallocated = space.unallocated.saturating_sub(1 << 20);
        let full = space.metadata.available <= space.reserve && unallocated == 0;
        Usage {
            total: space.total,
            free: space.total.saturating_sub(used),
            available: if full { 0 } else { data_free + unallocated },
            sectorsize: gate.volume().geometry().sectorsize,
        }
    }
}

//! Ending a filesystem behind what is allocated: what `mkfs --shrink` asks for.

use butterfs_format::DevId;

use super::Filesystem;
use crate::error::{Error, Result};
use crate::tx::Need;

impl Filesystem {
    /// Ends the only device behind its last chunk, without moving anything, and its file with it; gives the new size in
    /// bytes. Unlike [`Filesystem::resize_device`] this may make it smaller than what the kernel shrinks to.
    ///
    /// # Errors
    /// [`Error::Refused`] if there are several devices; as a commit.
    pub fn cut_unallocated(&self) -> Result<u64> {
        self.shared.gate.check_writable()?;
        let volume = self.shared.gate.volume();
        let [item] = volume.dev_items()[..] else {
            return Err(Error::Refused("only a filesystem on one device can be cut behind its chunks".into()));
        };
        let devid = DevId(item.devid.get());
        let ends = volume.device_extents(devid).into_iter().map(|extent| extent.physical + extent.length);
        let end = ends.max().unwrap_or(0).min(item.total_bytes.get());
        self.shared.gate.commit_with(Need::Deletion, |tx| tx.resize_device(devid, end))?;
        let device = volume.device(devid).ok_or_else(|| Error::Refused(format!("device {devid} is missing")))?;
        match device.resize(end) {
            Err(error) if error.kind() != std::io::ErrorKind::Unsupported => {
                tracing::warn!(device = device.name(), %error, "it was shrunk, but its file stays as it was");
            }
            _ => {}
        }
        Ok(end)
    }
}

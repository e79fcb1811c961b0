//! Looking at a filesystem through another superblock than its first: a copy, one of an older commit, or one that
//! was made up from what else is known. Nothing is written: a device shows other bytes where its first superblock
//! lies.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use butterfs_format::Superblock;
use butterfs_format::superblock::{SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};

use crate::device::BlockDevice;
use crate::error::{Error, Result};

/// A device with another first superblock.
struct WithSuperblock {
    device: Arc<dyn BlockDevice>,
    bytes: Vec<u8>,
}

impl BlockDevice for WithSuperblock {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.device.read_at(offset, buf)?;
        let first = SUPERBLOCK_OFFSETS[0];
        let from = first.max(offset);
        let to = (first + SUPERBLOCK_SIZE as u64).min(offset.saturating_add(buf.len() as u64));
        if from < to {
            let (into, out) = ((from - offset) as usize, (from - first) as usize);
            let len = (to - from) as usize;
            buf[into..into + len].copy_from_slice(&self.bytes[out..out + len]);
        }
        Ok(())
    }

    fn prefetch(&self, offset: u64, len: u64) {
        self.device.prefetch(offset, len);
    }

    fn stored_from(&self, from: u64) -> Option<Range<u64>> {
        let stored = self.device.stored_from(from);
        let shown = SUPERBLOCK_OFFSETS[0].max(from)..SUPERBLOCK_OFFSETS[0] + SUPERBLOCK_SIZE as u64;
        match stored {
            Some(range) if range.start <= shown.start || shown.is_empty() => Some(range),
            _ if shown.is_empty() => None,
            _ => Some(shown),
        }
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn len(&self) -> u64 {
        self.device.len()
    }

    fn name(&self) -> String {
        self.device.name()
    }
}

/// The device as if this were its first superblock.
pub fn with_superblock(device: Arc<dyn BlockDevice>, superblock: &Superblock) -> Arc<dyn BlockDevice> {
    Arc::new(WithSuperblock { device, bytes: superblock.to_bytes_at(SUPERBLOCK_OFFSETS[0]) })
}

/// Superblock copy `index` (0 to 2) of a device.
///
/// # Errors
/// [`Error::Corruption`] if it is bad; [`Error::Device`] if there is none.
pub fn superblock_copy(device: &dyn BlockDevice, index: usize) -> Result<Superblock> {
    let failed = |source: io::Error| Error::Device { name: device.name(), devid: None, source };
    let Some(offset) = SUPERBLOCK_OFFSETS.get(index) else {
        return Err(failed(io::Error::other("there are only the superblock copies 0, 1 and 2")));
    };
    if offset + SUPERBLOCK_SIZE as u64 > device.len() {
        return Err(failed(io::Error::other(format!("the device ends before superblock copy {index}"))));
    }
    let mut bytes = vec![0; SUPERBLOCK_SIZE];
    device.read_at(*offset, &mut bytes).map_err(failed)?;
    Ok(Superblock::parse(&bytes, *offset)?)
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;
    use crate::device::MemDevice;

    #[test]
    fn only_the_first_superblock_is_replaced() {
        let device: Arc<dyn BlockDevice> = Arc::new(MemDevice::new(1 << 20));
        let mut superblock = Superblock::new_zeroed();
        superblock.generation = 9.into();
        let shown = with_superblock(device, &superblock);
        let mut bytes = vec![0xff; 3 * SUPERBLOCK_SIZE];
        shown.read_at(SUPERBLOCK_OFFSETS[0] - 4096, &mut bytes).unwrap();
        assert_eq!(bytes[4096..8192], superblock.to_bytes_at(SUPERBLOCK_OFFSETS[0]));
        assert!(bytes[..4096].iter().chain(&bytes[8192..]).all(|byte| *byte == 0));
        assert!(shown.write_at(0, &[0]).is_err());
    }
}

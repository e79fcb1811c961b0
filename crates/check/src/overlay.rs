//! Looking at a filesystem through another superblock than its first: a copy, or the trees of an older
//! commit. Nothing is written: a device shows other bytes where its first superblock lies.

use std::io;
use std::sync::Arc;

use butterfs_format::Superblock;
use butterfs_format::superblock::{SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_volume::{BlockDevice, Error};

use crate::finding::{Finding, Kind, Place, Severity};

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
pub fn superblock_copy(device: &dyn BlockDevice, index: usize) -> butterfs_volume::Result<Superblock> {
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

/// The finding that a failure to open amounts to: damage, or `None` if the filesystem is not to blame.
pub fn open_failure(error: &Error) -> Option<Finding> {
    let (kind, problem) = match error {
        Error::Corruption(corruption) => (kind_of(&corruption.place), corruption.to_string()),
        Error::NoCopy { problems, .. } => (kind_of(problems), error.to_string()),
        _ => return None,
    };
    Some(Finding { severity: Severity::Error, kind, place: Place::superblock(), problem })
}

/// What is damaged, by what the volume says of it.
fn kind_of(place: &str) -> Kind {
    match place {
        place if place.contains("CHUNK_ITEM") => Kind::Chunk,
        place if place.contains("DEV_ITEM") => Kind::Device,
        place if place.contains("superblock") => Kind::Superblock,
        place if place.contains("tree block") => Kind::TreeBlock,
        place if place.contains("chunk") => Kind::Chunk,
        _ => Kind::Device,
    }
}

#[cfg(test)]
mod tests {
    use butterfs_volume::MemDevice;
    use zerocopy::FromZeros;

    use super::*;

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

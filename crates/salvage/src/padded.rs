//! A device that is shorter than its filesystem says: what lies past its end cannot be read, and all else can.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use butterfs_volume::BlockDevice;

struct Padded {
    device: Arc<dyn BlockDevice>,
    len: u64,
}

/// The device, as if it were at least this long.
pub fn padded(device: Arc<dyn BlockDevice>, len: u64) -> Arc<dyn BlockDevice> {
    if device.len() >= len { device } else { Arc::new(Padded { device, len }) }
}

impl BlockDevice for Padded {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.device.read_at(offset, buf)
    }

    fn prefetch(&self, offset: u64, len: u64) {
        self.device.prefetch(offset, len);
    }

    fn stored_from(&self, from: u64) -> Option<Range<u64>> {
        self.device.stored_from(from)
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
        self.len
    }

    fn name(&self) -> String {
        self.device.name()
    }
}

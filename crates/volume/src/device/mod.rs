//! What a device is: bytes at offsets, flushed on demand.
//!
//! # Invariants
//! * A read or write that crosses the device's end is an error, never a short transfer.
//! * What was written before [`BlockDevice::flush`] began is durable when it returns `Ok`.
//!
//! # Locking
//! All methods take `&self` and may run at the same time from any thread.

mod file;
mod memory;
mod missing;

use std::io;
use std::ops::Range;

pub use file::FileDevice;
pub use memory::MemDevice;
pub(crate) use missing::{MissingDevice, catching_up, dropped, is_absence};

/// One device of a filesystem.
pub trait BlockDevice: Send + Sync {
    /// Fills `buf` with the bytes at `offset`.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Says that a range will be read soon; a device may ignore it.
    fn prefetch(&self, _offset: u64, _len: u64) {}

    /// Says that a range is to be read from the device, though it may be in a cache; a device may ignore it.
    fn forget(&self, _offset: u64, _len: u64) {}

    /// The next range at or after `from` that may hold other bytes than zeros; `None` if there is none. A device
    /// that does not know says that all of it may.
    fn stored_from(&self, from: u64) -> Option<Range<u64>> {
        (from < self.len()).then(|| from..self.len())
    }

    /// Writes all of `buf` at `offset`.
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()>;

    /// Writes several ranges, in any order.
    fn write_batch(&self, writes: &[(u64, &[u8])]) -> io::Result<()> {
        writes.iter().try_for_each(|(offset, buf)| self.write_at(*offset, buf))
    }

    /// Makes all finished writes durable.
    fn flush(&self) -> io::Result<()>;

    /// Tells the device that a range is not needed: it may read as anything from then on.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] if the device can do nothing with that.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;

    /// The size, in bytes.
    fn len(&self) -> u64;

    /// Looks how large it is now, since it may have grown behind us; gives that.
    fn measure(&self) -> io::Result<u64> {
        Ok(self.len())
    }

    /// Makes it larger or smaller. What is beyond the new end must not be in use.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] if its size is not ours to choose.
    fn resize(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Whether there is no byte at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The path, for messages.
    fn name(&self) -> String;

    /// Opens it for writing, if it was opened for reading, and locks it as a writer does.
    ///
    /// # Errors
    /// If it cannot be written, or somebody else has it open.
    fn open_for_writing(&self) -> io::Result<()> {
        Ok(())
    }

    /// Gives up what keeps the kernel from mounting a block device, so that a mount of our own can claim it. Other
    /// programs of ours stay locked out.
    fn release_claim(&self) {}

    /// Nothing will be written any more: others may have the device. What is written all the same fails.
    fn close(&self) {}

    /// Takes the claim back, if the device was opened for writing.
    fn take_claim(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Refuses a range that is not within a device of `len` bytes.
fn check_range(offset: u64, bytes: usize, len: u64) -> io::Result<()> {
    match offset.checked_add(bytes as u64) {
        Some(end) if end <= len => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("{bytes} bytes at {offset} are past the device's end at {len}"),
        )),
    }
}

//! Devices over another device that pass on what they do not change.
//!
//! # Invariants
//! * A request that a filter says nothing about reaches the inner device unchanged; so do length and name.

use std::io;
use std::ops::Deref;
use std::sync::Arc;

use butterfs_volume::BlockDevice;

/// What becomes of the requests to a device: by default they are passed on.
pub trait Filter: Send + Sync {
    /// See [`BlockDevice::read_at`].
    fn read_at(&self, inner: &dyn BlockDevice, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        inner.read_at(offset, buf)
    }

    /// See [`BlockDevice::write_at`]; the parts of a batch come one by one.
    fn write_at(&self, inner: &dyn BlockDevice, offset: u64, buf: &[u8]) -> io::Result<()> {
        inner.write_at(offset, buf)
    }

    /// See [`BlockDevice::flush`].
    fn flush(&self, inner: &dyn BlockDevice) -> io::Result<()> {
        inner.flush()
    }

    /// See [`BlockDevice::discard`].
    fn discard(&self, inner: &dyn BlockDevice, offset: u64, len: u64) -> io::Result<()> {
        inner.discard(offset, len)
    }
}

/// A device behind a filter; the filter's own methods can be called on it.
pub struct Filtered<F> {
    inner: Arc<dyn BlockDevice>,
    filter: F,
}

impl<F: Filter> Filtered<F> {
    /// Puts a filter before a device.
    pub fn over(inner: Arc<dyn BlockDevice>, filter: F) -> Self {
        Self { inner, filter }
    }
}

impl<F> Deref for Filtered<F> {
    type Target = F;

    fn deref(&self) -> &F {
        &self.filter
    }
}

impl<F: Filter> BlockDevice for Filtered<F> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.filter.read_at(&*self.inner, offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.filter.write_at(&*self.inner, offset, buf)
    }

    fn flush(&self) -> io::Result<()> {
        self.filter.flush(&*self.inner)
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.filter.discard(&*self.inner, offset, len)
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn name(&self) -> String {
        self.inner.name()
    }
}

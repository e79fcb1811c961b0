//! Devices that break their promise, to prove that the judge sees what a power cut does then.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use butterfs_format::superblock::SUPERBLOCK_OFFSETS;
use butterfs_volume::BlockDevice;

use crate::filter::{Filter, Filtered};

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// The flush between blocks and superblocks does nothing.
    FlushBeforeSuperblock,
    /// The flush after superblocks does nothing.
    FlushAfterSuperblock,
    /// Superblocks overtake the blocks they refer to.
    SuperblockFirst,
    /// One write in eight is acknowledged and not done.
    LosesWrites,
}

impl Breach {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::FlushBeforeSuperblock, Self::FlushAfterSuperblock, Self::SuperblockFirst, Self::LosesWrites];
}

/// A device over another that breaks its promise.
pub type BrokenDevice = Filtered<Breaker>;

/// Breaks the promise of a device.
pub struct Breaker {
    breach: Breach,
    after_superblock: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    writes: u64,
    held: Vec<(u64, Vec<u8>)>,
}

impl BrokenDevice {
    /// Breaks a device.
    pub fn new(inner: Arc<dyn BlockDevice>, breach: Breach) -> Self {
        Self::over(inner, Breaker { breach, after_superblock: AtomicBool::new(false), state: Mutex::default() })
    }
}

impl Breaker {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, inner: &dyn BlockDevice) -> io::Result<()> {
        let held = std::mem::take(&mut self.state().held);
        held.iter().try_for_each(|(offset, bytes)| inner.write_at(*offset, bytes))
    }
}

impl Filter for Breaker {
    fn read_at(&self, inner: &dyn BlockDevice, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        inner.read_at(offset, buf)?;
        for (at, bytes) in &self.state().held {
            let (from, to) = (offset.max(*at), (offset + buf.len() as u64).min(at + bytes.len() as u64));
            if from < to {
                buf[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&bytes[(from - at) as usize..(to - at) as usize]);
            }
        }
        Ok(())
    }

    fn write_at(&self, inner: &dyn BlockDevice, offset: u64, buf: &[u8]) -> io::Result<()> {
        let superblock = SUPERBLOCK_OFFSETS.contains(&offset);
        self.after_superblock.store(superblock, Ordering::Relaxed);
        self.state().writes += 1;
        match self.breach {
            Breach::SuperblockFirst if !superblock => {
                self.state().held.push((offset, buf.to_vec()));
                Ok(())
            }
            Breach::LosesWrites if !superblock && self.state().writes.is_multiple_of(8) => Ok(()),
            _ => inner.write_at(offset, buf),
        }
    }

    fn flush(&self, inner: &dyn BlockDevice) -> io::Result<()> {
        let after = self.after_superblock.load(Ordering::Relaxed);
        match self.breach {
            Breach::FlushBeforeSuperblock if !after => Ok(()),
            Breach::FlushAfterSuperblock if after => Ok(()),
            Breach::SuperblockFirst if !after => Ok(()),
            Breach::SuperblockFirst => {
                self.release(inner)?;
                inner.flush()
            }
            _ => inner.flush(),
        }
    }
}

//! A device over another that is never written: what is written or damaged stays in memory.
//!
//! # Locking
//! One lock over the changed sectors, held for one request.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use butterfs_volume::BlockDevice;

/// The unit of damage, in bytes.
pub const SECTOR: u64 = 4096;

/// A device over another.
pub struct Overlay {
    inner: Arc<dyn BlockDevice>,
    sectors: Mutex<HashMap<u64, Vec<u8>>>,
}

impl Overlay {
    /// A device that reads as `inner` does.
    pub fn new(inner: Arc<dyn BlockDevice>) -> Self {
        Self { inner, sectors: Mutex::default() }
    }

    fn sectors(&self) -> MutexGuard<'_, HashMap<u64, Vec<u8>>> {
        self.sectors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns every bit of a sector, by its number.
    pub fn damage(&self, number: u64) {
        let mut bytes = vec![0; SECTOR as usize];
        self.read_at(number * SECTOR, &mut bytes).expect("the sector is within the device");
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
        self.write_at(number * SECTOR, &bytes).expect("the sector is within the device");
    }

    /// The numbers of the sectors that are not as in the device below.
    pub fn changed(&self) -> Vec<u64> {
        let mut below = vec![0; SECTOR as usize];
        let mut differs = |number: u64, bytes: &[u8]| {
            self.inner.read_at(number * SECTOR, &mut below).expect("a sector reads");
            below != bytes
        };
        self.sectors().iter().filter(|(number, bytes)| differs(**number, bytes)).map(|(number, _)| *number).collect()
    }

    /// Calls `work` with each part of a range that lies in one sector: its number, where in the sector,
    /// and where in the request.
    fn parts(offset: u64, len: usize, mut work: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>)) {
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let within = (at % SECTOR) as usize;
            let take = (SECTOR as usize - within).min(len - done);
            work(at / SECTOR, within..within + take, done..done + take);
            done += take;
        }
    }
}

impl BlockDevice for Overlay {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buf)?;
        let sectors = self.sectors();
        Self::parts(offset, buf.len(), |number, within, part| {
            if let Some(bytes) = sectors.get(&number) {
                buf[part].copy_from_slice(&bytes[within]);
            }
        });
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let mut sectors = self.sectors();
        let mut result = Ok(());
        Self::parts(offset, buf.len(), |number, within, part| {
            let bytes = sectors.entry(number).or_insert_with(|| {
                let mut below = vec![0; SECTOR as usize];
                result = self.inner.read_at(number * SECTOR, &mut below);
                below
            });
            bytes[within].copy_from_slice(&buf[part]);
        });
        result
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn name(&self) -> String {
        self.inner.name()
    }
}

#[cfg(test)]
mod tests {
    use butterfs_volume::MemDevice;

    use super::*;

    #[test]
    fn damage_stays_above() {
        let inner = Arc::new(MemDevice::new(1 << 20));
        inner.write_at(0, &[7; 8192]).unwrap();
        let overlay = Overlay::new(inner.clone());
        overlay.damage(1);
        let mut bytes = [0; 8192];
        overlay.read_at(2048, &mut bytes).unwrap();
        assert_eq!((bytes[0], bytes[2047], bytes[2048], bytes[6143], bytes[6144]), (7, 7, !7, !7, 0));
        assert_eq!(overlay.changed(), [1]);
        overlay.write_at(4096, &[7; 4096]).unwrap();
        assert!(overlay.changed().is_empty());
        inner.read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 8192]);
    }
}

//! DEV_STATS items of the device tree: what went wrong with each device over its life.
//!
//! The volume counts; the items are read when a filesystem is opened, and written with the next commit
//! after a counter changed.

use butterfs_format::{DevId, ItemType, Key, TreeId};
use butterfs_volume::DeviceStats;

use super::Transaction;
use crate::error::Result;

/// Bytes of the counters that are known; later versions may have more behind them.
const SIZE: usize = 5 * 8;

fn key(devid: DevId) -> Key {
    Key::new(0, ItemType::PERSISTENT_ITEM, devid.0)
}

fn parse(data: &[u8]) -> DeviceStats {
    let value = |at: usize| data.get(at * 8..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    DeviceStats::from_values(std::array::from_fn(|at| value(at).unwrap_or(0)))
}

impl Transaction {
    /// Tells the volume what the items say. Once, when the filesystem is opened.
    pub(crate) fn load_device_stats(&self) -> Result<()> {
        for (devid, _) in self.volume.device_stats() {
            if let Some(data) = self.get(TreeId::DEV, &key(devid))? {
                self.volume.add_device_stats(devid, &parse(&data));
            }
        }
        Ok(())
    }

    /// Writes the counters that changed.
    pub(super) fn write_device_stats(&mut self) -> Result<()> {
        for (devid, stats) in self.volume.take_changed_device_stats() {
            let mut data = self.get(TreeId::DEV, &key(devid))?.unwrap_or_default();
            data.resize(data.len().max(SIZE), 0);
            for (bytes, value) in data.chunks_exact_mut(8).zip(stats.values()) {
                bytes.copy_from_slice(&value.to_le_bytes());
            }
            self.put(TreeId::DEV, &key(devid), &data)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_items_have_zeros() {
        let mut data = 7u64.to_le_bytes().to_vec();
        data.extend(9u64.to_le_bytes());
        assert_eq!(parse(&data), DeviceStats { write_errors: 7, read_errors: 9, ..DeviceStats::default() });
        assert_eq!(parse(&[]), DeviceStats::default());
    }
}

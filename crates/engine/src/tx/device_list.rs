//! The devices of a filesystem in its trees: they come, go, and change their size.
//!
//! # Invariants
//! * Device items, the sums in the superblock and the list in memory change together.
//! * What is beyond a cap gets no new chunk.

use std::collections::HashMap;

use butterfs_format::ids::objectid;
use butterfs_format::items::{BlockGroupFlags, DevItem};
use butterfs_format::{Corruption, DevId, ItemType, Key, TreeId};
use butterfs_volume::stripe_length;
use zerocopy::IntoBytes;

use super::{Transaction, WhyCommit};
use crate::error::{Error, Result};

/// What is wished of new chunks for as long as something is under way.
#[derive(Clone, Debug, Default)]
pub(super) struct ChunkWishes {
    /// Where devices end for new chunks.
    pub caps: HashMap<DevId, u64>,
    /// The profile of a kind, by the bits of the kind.
    pub targets: HashMap<u64, BlockGroupFlags>,
}

fn device_key(devid: u64) -> Key {
    Key::new(objectid::DEV_ITEMS, ItemType::DEV_ITEM, devid)
}

fn stats_key(devid: DevId) -> Key {
    Key::new(objectid::DEV_STATS, ItemType::PERSISTENT_ITEM, devid.0)
}

impl Transaction {
    /// The devices, as the next commit has them.
    pub fn device_items(&self) -> &[DevItem] {
        &self.devices
    }

    /// Keeps new chunks below these offsets of devices; no caps: anywhere.
    pub fn cap_devices(&mut self, caps: &[(DevId, u64)]) {
        self.wishes.caps = caps.iter().copied().collect();
        self.device_space = None;
    }

    /// Has new chunks of a kind, and what is moved, get a profile; `None`: that which they have. Where data and metadata
    /// lie in the same groups, a wish for either is one for those.
    pub fn wish_profile(&mut self, kind: BlockGroupFlags, profile: Option<BlockGroupFlags>) {
        let pool = self.space.pool(kind).bits();
        match profile {
            Some(profile) => drop(self.wishes.targets.insert(pool, profile)),
            None => drop(self.wishes.targets.remove(&pool)),
        }
    }

    /// Type and profile that groups of a kind are to get, if that was wished.
    pub(super) fn wished(&self, kind: BlockGroupFlags) -> Option<BlockGroupFlags> {
        let pool = self.space.pool(kind);
        self.wishes.targets.get(&pool.bits()).map(|profile| pool | *profile)
    }

    /// Whether new chunks may use a device at all.
    pub(super) fn takes_chunks(&self, device: &DevItem) -> bool {
        let devid = DevId(device.devid.get());
        self.volume.takes_chunks(devid) && self.wishes.caps.get(&devid) != Some(&0)
    }

    /// How many devices new chunks may use.
    pub fn writable_devices(&self) -> usize {
        self.devices.iter().filter(|device| self.takes_chunks(device)).count()
    }

    /// The groups with a part beyond a cap, those with the highest address first.
    pub fn groups_beyond_caps(&self) -> Result<Vec<u64>> {
        let mut found = Vec::new();
        for (start, chunk) in self.volume.chunks() {
            let length = stripe_length(start, &chunk)?;
            let is_beyond = chunk.stripes.iter().any(|stripe| {
                let cap = self.wishes.caps.get(&DevId(stripe.devid.get()));
                cap.is_some_and(|cap| stripe.offset.get().saturating_add(length) > *cap)
            });
            if is_beyond {
                found.push(start.0);
            }
        }
        found.reverse();
        Ok(found)
    }

    /// The number of the next device.
    pub fn next_devid(&self) -> DevId {
        DevId(self.devices.iter().map(|item| item.devid.get()).max().unwrap_or(0) + 1)
    }

    /// Enters the first device of a filesystem that grows from a seed, and what changed of the seed's: the volume has both.
    pub fn enter_sprout(&mut self, devid: DevId) -> Result<()> {
        let new = self.devices[self.device_at(devid)?];
        self.change_devices(new.total_bytes.get(), 0)?;
        self.superblock.num_devices = (self.superblock.num_devices.get() + 1).into();
        self.superblock.dev_item = new;
        for item in self.devices.clone() {
            self.put_device_item(&item)?;
        }
        Ok(())
    }

    /// Enters a new device.
    pub fn add_device(&mut self, item: DevItem) -> Result<()> {
        self.change_devices(item.total_bytes.get(), 0)?;
        self.superblock.num_devices = (self.superblock.num_devices.get() + 1).into();
        self.devices.push(item);
        self.put_device_item(&item)
    }

    /// Changes the size of a device; no chunk may lie beyond.
    pub fn resize_device(&mut self, devid: DevId, total: u64) -> Result<()> {
        let index = self.device_at(devid)?;
        let before = self.devices[index].total_bytes.get();
        self.change_devices(total, before)?;
        self.devices[index].total_bytes = total.into();
        let item = self.devices[index];
        self.put_device_item(&item)
    }

    /// Takes a device out on which no chunk lies.
    pub fn remove_device(&mut self, devid: DevId) -> Result<()> {
        let index = self.device_at(devid)?;
        let item = self.devices[index];
        if item.bytes_used.get() > 0 {
            return Err(Error::Busy("there are chunks on the device"));
        }
        self.change_devices(0, item.total_bytes.get())?;
        self.superblock.num_devices = self.superblock.num_devices.get().saturating_sub(1).into();
        self.devices.remove(index);
        self.discards.forget_device(index);
        self.wishes.caps.remove(&devid);
        self.remove(TreeId::CHUNK, &device_key(item.devid.get()))?;
        self.remove(TreeId::DEV, &stats_key(devid))?;
        Ok(())
    }

    fn device_at(&self, devid: DevId) -> Result<usize> {
        let found = self.devices.iter().position(|device| device.devid.get() == devid.0);
        Ok(found.ok_or_else(|| Corruption::new(format!("device {devid}"), "it has no item"))?)
    }

    /// The size of all devices grows by `more` and shrinks by `less`.
    fn change_devices(&mut self, more: u64, less: u64) -> Result<()> {
        let total = self.superblock.total_bytes.get().checked_add(more).and_then(|sum| sum.checked_sub(less));
        let total = total.ok_or_else(|| {
            Corruption::new(
                "superblock",
                format!("total_bytes {} cannot change by {more} and -{less}", self.superblock.total_bytes),
            )
        })?;
        self.changes += 1;
        // The superblock of the last commit, which a log would carry, does not know it.
        self.refuse_log(WhyCommit::NewChunk);
        // The root tree must be of the generation that the superblock will be of, so an item of it is written again.
        self.change_root_item(TreeId::DEV, |_| {})?;
        self.superblock.total_bytes = total.into();
        self.device_space = None;
        Ok(())
    }

    pub(super) fn put_device_item(&mut self, item: &DevItem) -> Result<()> {
        self.put(TreeId::CHUNK, &device_key(item.devid.get()), item.as_bytes())
    }
}

//! Which space of each device is in chunks: device extents, and the sum in the device's item.
//!
//! # Invariants
//! * Device extents and items change together with the chunk that they are of.
//! * `device_space` has one entry for each of `devices`, once it is loaded.

use butterfs_format::ids::objectid;
use butterfs_format::items::{Chunk, DevExtent, DevItem, STRIPE_LEN, Stripe};
use butterfs_format::superblock::RESERVED_START;
use butterfs_format::{Corruption, DevId, ItemType, Key, Logical, TreeId};
use butterfs_volume::stripe_length;
use zerocopy::{FromBytes, IntoBytes};

use super::Transaction;
use crate::error::Result;
use crate::space::FreeRanges;
use crate::space::placement::Room;

/// Which way device space goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum DeviceSpace {
    Take,
    Return,
}

impl Transaction {
    /// The holes between device extents, for each device; read once, then kept.
    pub(super) fn load_device_space(&mut self) -> Result<()> {
        if self.device_space.is_none() {
            let read = self.devices.iter().map(|device| self.read_device_space(device)).collect::<Result<_>>()?;
            self.device_space = Some(read);
        }
        Ok(())
    }

    /// The holes between device extents of one device, by its place in the list.
    pub(super) fn holes(&mut self, index: usize) -> Result<&FreeRanges> {
        self.load_device_space()?;
        let found = self.device_space.as_ref().and_then(|space| space.get(index));
        Ok(found.ok_or_else(|| Corruption::new(format!("device number {index}"), "it has no item"))?)
    }

    fn read_device_space(&self, device: &DevItem) -> Result<FreeRanges> {
        let mut free = FreeRanges::default();
        let end = device.total_bytes.get().min(self.cap_of(device)) / STRIPE_LEN * STRIPE_LEN;
        free.add(RESERVED_START, end.saturating_sub(RESERVED_START));
        let devid = device.devid.get();
        let mut cursor = self.cursor(TreeId::DEV, &Key::new(devid, ItemType::DEV_EXTENT, 0))?;
        while let Some((key, data)) = cursor.item() {
            if key.objectid != devid || key.item_type != ItemType::DEV_EXTENT {
                break;
            }
            let extent = DevExtent::read_from_bytes(data)
                .map_err(|_| Corruption::new(format!("device tree {key}"), "bad size"))?;
            free.remove(key.offset, extent.length.get());
            cursor.advance()?;
        }
        Ok(free)
    }

    fn cap_of(&self, device: &DevItem) -> u64 {
        self.wishes.caps.get(&DevId(device.devid.get())).copied().unwrap_or(u64::MAX)
    }

    /// The room on each device that new chunks may lie on.
    pub(super) fn rooms(&self) -> Vec<Room<'_>> {
        let space = self.device_space.iter().flatten().enumerate();
        let written = |index: usize| self.volume.takes_chunks(DevId(self.devices[index].devid.get()));
        space.filter(|(index, _)| written(*index)).map(|(index, free)| Room { index, free }).collect()
    }

    /// Puts in, or takes out, the device extents of a chunk, and counts them in the device item.
    pub(super) fn change_device_extents(&mut self, start: Logical, chunk: &Chunk, to: DeviceSpace) -> Result<()> {
        let length = stripe_length(start, chunk)?;
        for stripe in &chunk.stripes {
            let index = self.device_index(stripe)?;
            let key = Key::new(stripe.devid.get(), ItemType::DEV_EXTENT, stripe.offset.get());
            match to {
                DeviceSpace::Take => {
                    let extent = DevExtent {
                        chunk_tree: TreeId::CHUNK.0.into(),
                        chunk_objectid: objectid::FIRST_CHUNK_TREE.into(),
                        chunk_offset: start.0.into(),
                        length: length.into(),
                        chunk_tree_uuid: self.chunk_tree_uuid,
                    };
                    self.insert(TreeId::DEV, &key, extent.as_bytes())?;
                    self.change_device_used(index, length as i64)?;
                }
                DeviceSpace::Return => {
                    self.remove(TreeId::DEV, &key)?;
                    let end = stripe.offset.get().saturating_add(length).min(self.cap_of(&self.devices[index]));
                    if let Some(space) = &mut self.device_space {
                        space[index].add(stripe.offset.get(), end.saturating_sub(stripe.offset.get()));
                    }
                    self.note_unallocated(index, stripe.offset.get(), length);
                    self.change_device_used(index, -(length as i64))?;
                }
            }
        }
        Ok(())
    }

    /// The place in the list of the device that a stripe lies on.
    fn device_index(&self, stripe: &Stripe) -> Result<usize> {
        let found = self.devices.iter().position(|device| device.devid == stripe.devid);
        let unknown = || Corruption::new(format!("device {}", stripe.devid), "a chunk lies on it, but it has no item");
        Ok(found.ok_or_else(unknown)?)
    }

    fn change_device_used(&mut self, index: usize, by: i64) -> Result<()> {
        let device = &mut self.devices[index];
        let used = device.bytes_used.get().checked_add_signed(by).ok_or_else(|| {
            Corruption::new(
                format!("device {}", device.devid),
                format!("{} bytes used change by {by}", device.bytes_used),
            )
        })?;
        device.bytes_used = used.into();
        let item = *device;
        self.put_device_item(&item)
    }
}

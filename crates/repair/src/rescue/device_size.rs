//! Sizes of devices that newer kernels refuse: not whole sectors, more than there is, or another sum than the
//! superblock's.

use std::io;
use std::sync::Arc;

use butterfs_check::{Devices, Place, Report};
use butterfs_engine::tree;
use butterfs_format::ids::objectid;
use butterfs_format::items::DevItem;
use butterfs_format::{ItemType, Key, TreeId};
use butterfs_volume::BlockDevice;
use zerocopy::IntoBytes;

use super::edit;
use crate::error::{Error, Result};
use crate::plan::Step;
use crate::{Options, Workspace};

/// A device that claims to be longer than it is: beyond its end there is nothing to read, and nothing is written.
struct Longer {
    device: Arc<dyn BlockDevice>,
    len: u64,
}

impl BlockDevice for Longer {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.device.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.device.write_at(offset, buf)
    }

    fn flush(&self) -> io::Result<()> {
        self.device.flush()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.device.discard(offset, len)
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn name(&self) -> String {
        self.device.name()
    }
}

/// Sets device items to whole sectors that exist, and the superblock's total to their sum.
///
/// # Errors
/// If a chunk lies beyond a device's end: then a part of the filesystem is missing.
pub fn fix(devices: &Devices, before: &Report, options: &Options) -> Result<Vec<Step>> {
    let mut claimed = Devices::new();
    for device in devices {
        let said = super::superblocks::newest(&**device)?.dev_item.total_bytes.get();
        let len = device.len().max(said);
        claimed.push(Arc::new(Longer { device: device.clone(), len }) as Arc<dyn BlockDevice>);
    }
    let lens: Vec<(u64, u64)> = devices
        .iter()
        .map(|device| Ok((super::superblocks::newest(&**device)?.dev_item.devid.get(), device.len())))
        .collect::<Result<_>>()?;
    edit(&claimed, before, options, |workspace| resize(workspace, &lens))
}

fn resize(workspace: &mut Workspace, lens: &[(u64, u64)]) -> Result<Vec<Step>> {
    let sector = u64::from(workspace.store.geometry().sectorsize);
    let mut steps = Vec::new();
    let mut total = 0u64;
    for mut item in workspace.store.volume().dev_items() {
        let devid = item.devid.get();
        let exists = lens.iter().find(|(id, _)| *id == devid).map_or(u64::MAX, |(_, len)| *len);
        let old = item.total_bytes.get();
        let new = old.min(exists) / sector * sector;
        total = total.saturating_add(new);
        if new == old {
            continue;
        }
        require_room(workspace, &item, new)?;
        item.total_bytes = new.into();
        let key = Key::new(objectid::DEV_ITEMS, ItemType::DEV_ITEM, devid);
        tree::put(&mut workspace.store, TreeId::CHUNK, &key, item.as_bytes())?;
        workspace.store.volume().set_dev_item(item);
        if workspace.store.superblock.dev_item.devid == item.devid {
            workspace.store.superblock.dev_item = item;
        }
        let action = format!("total_bytes is {old}, set to {new}");
        steps.push(Step::new("device-size", Place::device(devid), action));
    }
    let said = workspace.store.superblock.total_bytes.get();
    if said != total {
        workspace.store.superblock.total_bytes = total.into();
        steps.push(Step::new("device-size", Place::superblock(), format!("total_bytes is {said}, set to {total}")));
    }
    Ok(steps)
}

/// No chunk may lie where the device is to end.
fn require_room(workspace: &Workspace, item: &DevItem, new: u64) -> Result<()> {
    for (start, chunk) in workspace.store.volume().chunks() {
        let len = butterfs_volume::stripe_length(start, &chunk)?;
        let beyond = |stripe: &&butterfs_format::items::Stripe| {
            stripe.devid == item.devid && stripe.offset.get().saturating_add(len) > new
        };
        if let Some(stripe) = chunk.stripes.iter().find(beyond) {
            let end = stripe.offset.get().saturating_add(len);
            return Err(Error::Refused(format!(
                "device {} has {new} bytes, but chunk {start} has a stripe up to {end}: a part of the device is \
                 missing; get a complete copy of it",
                item.devid
            )));
        }
    }
    Ok(())
}

//! A filesystem grows from a seed: a device is added to one that is opened for reading.
//!
//! # Invariants
//! * Nothing of the seed is written, and until the first commit nothing on the device either that anybody would find.
//! * When it is done no system chunk lies on the seed: the kernel reads those before it looks for seeds.
//!
//! # Locking
//! By the exclusive turn of adding a device; `reading` to the end.

use std::sync::Arc;

use butterfs_format::DevId;
use butterfs_format::items::BlockGroupFlags;
use butterfs_format::superblock::SUPER_FLAG_SEEDING;
use butterfs_volume::{BlockDevice, erase_superblocks};

use super::devices::{new_item, usable_length};
use super::exclusive::Exclusive;
use super::open::{self, OpenOptions};
use super::settings::Reading;
use super::{Filesystem, features};
use crate::error::{Error, Result};
use crate::inode::lock;
use crate::relocate::Relocated;
use crate::tx::{Need, Transaction};

impl Filesystem {
    /// Whether a device can be added at this moment.
    ///
    /// # Errors
    /// Why not.
    pub fn check_addition(&self) -> Result<()> {
        match self.shared.gate.volume().is_a_seed() {
            true => self.check_sprouting()?,
            false => self.shared.gate.check_writable()?,
        }
        self.exclusive.begin(Exclusive::DeviceAdd).map(drop)
    }

    /// What opening what grows would refuse.
    fn check_sprouting(&self) -> Result<()> {
        if let Reading::Always(why) = *lock(&self.reading) {
            return Err(Error::Invalid(why));
        }
        let gate = &self.shared.gate;
        let mut sb = gate.volume().superblock();
        sb.flags = (sb.flags.get() & !SUPER_FLAG_SEEDING).into();
        features::check(&sb, &OpenOptions::default())?;
        if sb.log_root.get() != 0 {
            return Err(Error::Refused("the seed has a log that was not replayed; no seed should".into()));
        }
        open::refuse_old_devices(gate.volume())?;
        gate.volume().check_sprouting()?;
        gate.view(|tx| open::check_trees(tx, gate.volume()))
    }

    /// Has a filesystem with a UUID of its own grow from this seed to a device; from then on this is that filesystem, and
    /// can be written.
    pub(super) fn sprout(&self, device: &Arc<dyn BlockDevice>) -> Result<DevId> {
        self.check_sprouting()?;
        let _turn = self.exclusive.begin(Exclusive::DeviceAdd)?;
        let gate = &self.shared.gate;
        let total = usable_length(gate, &**device)?;
        // They would not know the new filesystem's blocks.
        self.cancel_scrubs();
        let mut reading = lock(&self.reading);
        erase_superblocks(&**device)?;
        let environment = &self.shared.environment;
        let (fsid, uuid) = (environment.new_uuid(), environment.new_uuid());
        let (devid, item) = gate.view(|tx| {
            let devid = tx.next_devid();
            Ok((devid, new_item(tx, devid, total, uuid)))
        })?;
        gate.volume().sprout(fsid, Arc::clone(device), item)?;
        if let Err(error) = self.first_commit_of_sprout(devid) {
            gate.refuse_changes();
            gate.volume().forget_sprout(devid);
            return Err(error);
        }
        *reading = Reading::ByChoice;
        drop(reading);
        self.leave_system_chunks_of_seed()?;
        open::drop_space_cache(gate, gate.volume().superblock().compat_ro())?;
        self.find_balance()?;
        self.clean_up_subvolume(self.root.tree)?;
        tracing::info!("a filesystem grew from the seed to {}, device {devid}", device.name());
        Ok(devid)
    }

    fn first_commit_of_sprout(&self, devid: DevId) -> Result<()> {
        let gate = &self.shared.gate;
        gate.begin_writing(None::<fn(&mut Transaction) -> Result<()>>)?;
        gate.commit_with(Need::Deletion, |tx| {
            tx.ensure_system()?;
            tx.enter_sprout(devid)
        })
    }

    fn leave_system_chunks_of_seed(&self) -> Result<()> {
        let volume = self.shared.gate.volume();
        for (start, chunk) in volume.chunks() {
            let is_on_seed = chunk.stripes.iter().any(|stripe| volume.is_seed(DevId(stripe.devid.get())));
            if chunk.flags().contains(BlockGroupFlags::SYSTEM)
                && is_on_seed
                && self.empty_group_at(start.0)? != Relocated::Gone
            {
                return Err(Error::NoSpace);
            }
        }
        Ok(())
    }
}

//! A filesystem that grows from a seed: the devices that were opened for reading become those of its seed, and a new one
//! gets all that is written.
//!
//! # Invariants
//! * No device of the seed is written.
//! * Until the first commit nothing on the new device says that there is a filesystem.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use butterfs_format::DevId;
use butterfs_format::items::DevItem;
use butterfs_format::superblock::SUPER_FLAG_SEEDING;
use butterfs_format::validate::Geometry;

use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::member::{Member, Role};
use crate::open::check_totals;
use crate::volume::Volume;

impl Volume {
    /// Whether this is a seed, from which others grow, and nothing that grew from one.
    pub fn is_a_seed(&self) -> bool {
        self.superblock().flags.get() & SUPER_FLAG_SEEDING != 0
    }

    /// Has a filesystem of this UUID grow from the seed to a new device, and allows to write. The UUID may have been another
    /// one in an earlier attempt that failed: that one stays.
    ///
    /// # Errors
    /// If it is no seed, or one of too long a chain; those of [`Volume::add_device`].
    pub fn sprout(&self, fsid: [u8; 16], device: Arc<dyn BlockDevice>, item: DevItem) -> Result<()> {
        let geometry = self.geometry_of_sprout(fsid)?;
        let mut sb = self.superblock();
        let geometry = *self.sprouted.get_or_init(|| geometry);
        sb.fsid = geometry.fsid;
        sb.flags = (sb.flags.get() & !SUPER_FLAG_SEEDING).into();
        let item = DevItem { fsid: geometry.fsid, ..item };
        let devid = DevId(item.devid.get());
        self.writable.store(true, Ordering::Release);
        self.add_device(device, item).inspect_err(|_| self.writable.store(false, Ordering::Release))?;
        for member in self.of_the_seed(devid) {
            member.became_seed.store(true, Ordering::Release);
            // The kernel finds the seed by it.
            member.set_item(DevItem { generation: sb.generation, ..member.item() });
        }
        *self.superblock.write().unwrap_or_else(std::sync::PoisonError::into_inner) = sb;
        Ok(())
    }

    /// Whether another filesystem can grow from the seed.
    ///
    /// # Errors
    /// As [`Volume::sprout`].
    pub fn check_sprouting(&self) -> Result<()> {
        self.geometry_of_sprout([0; 16]).map(drop)
    }

    fn geometry_of_sprout(&self, fsid: [u8; 16]) -> Result<Geometry> {
        if !self.is_a_seed() || !self.is_read_only() {
            return Err(Error::Unsupported(
                "only from a seed that is opened for reading another filesystem grows".into(),
            ));
        }
        check_totals(&self.superblock(), &self.dev_items())?;
        let mut geometry = self.geometry();
        let seed = std::mem::replace(&mut geometry.fsid, fsid);
        geometry.add_seed(seed).map_err(Error::Unsupported)?;
        Ok(geometry)
    }

    /// Nothing grows: the seed is what it was, for reading.
    pub fn forget_sprout(&self, devid: DevId) {
        self.writable.store(false, Ordering::Release);
        let mut sb = self.superblock.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        sb.flags = (sb.flags.get() | SUPER_FLAG_SEEDING).into();
        if let Some(place) = self.member(devid) {
            self.members[place].removed.store(true, Ordering::Release);
        }
    }

    /// The devices of the seed itself, without those that it grew from.
    fn of_the_seed(&self, new: DevId) -> impl Iterator<Item = &Member> {
        let is_own =
            move |member: &&Member| member.devid() != new && matches!(member.role(), Role::Current | Role::Behind);
        self.members.present().filter(is_own)
    }
}

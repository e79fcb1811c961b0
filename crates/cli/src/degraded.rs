//! Opening a filesystem for reading although devices are missing.

use std::sync::Arc;

use butterfs_check::{absent_device, superblock_copy};
use butterfs_format::{Corruption, DevId};
use butterfs_volume::{BlockDevice, Error, OpenMode, Volume};

/// The devices that are there.
pub type Devices = Vec<Arc<dyn BlockDevice>>;

/// A volume, and which of its devices are missing.
pub struct Opened {
    /// What could be opened.
    pub volume: Volume,
    /// Whose blocks cannot be read.
    pub absent: Vec<DevId>,
}

/// More missing devices than anybody has.
const MAX_ABSENT: usize = 64;

/// Opens without devices that are missing.
pub fn open_degraded(mut devices: Devices) -> butterfs_volume::Result<Opened> {
    let mut absent = Vec::new();
    loop {
        let (devid, uuid) = match Volume::open(devices.clone(), OpenMode::ReadOnly) {
            Ok(volume) => return Ok(Opened { volume, absent }),
            Err(Error::MissingDevice { devid, uuid }) if absent.len() < MAX_ABSENT => (devid, uuid),
            Err(error) => return Err(error),
        };
        let (Some(device), Ok(own)) = (devices.first(), uuid.parse::<uuid::Uuid>()) else {
            return Err(Error::MissingDevice { devid, uuid });
        };
        let superblock = superblock_copy(&**device, 0)?;
        if superblock.dev_item.devid.get() == devid.0 {
            let problem = format!("device {devid} has UUID {own} in the chunk tree, another in its superblock");
            return Err(Corruption::new(device.name(), problem).into());
        }
        devices.push(absent_device(&superblock, devid, own.into_bytes()));
        absent.push(devid);
    }
}

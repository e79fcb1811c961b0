//! Devices on which something is tried out: overlays over those that were given.

use std::sync::Arc;

use butterfs_check::Devices;
use butterfs_volume::BlockDevice;

use crate::error::Result;
use crate::overlay::{Change, Overlay};

/// The devices of a filesystem with changes that stay in memory.
pub(crate) struct Trial {
    overlays: Vec<Arc<Overlay>>,
}

impl Trial {
    /// Nothing is changed yet.
    pub fn begin(devices: &Devices) -> Self {
        Self { overlays: devices.iter().map(|device| Arc::new(Overlay::new(device.clone()))).collect() }
    }

    /// The devices as they would be.
    pub fn devices(&self) -> Devices {
        self.overlays.iter().cloned().map(|overlay| overlay as Arc<dyn BlockDevice>).collect()
    }

    /// What would be written to each device.
    ///
    /// # Errors
    /// If a device cannot be read.
    pub fn changes(&self) -> Result<Vec<Vec<Change>>> {
        let one = |overlay: &Arc<Overlay>| {
            let failed = |source| butterfs_volume::Error::Device { name: overlay.name(), devid: None, source };
            Ok(overlay.changes().map_err(failed)?)
        };
        self.overlays.iter().map(one).collect()
    }
}

//! Filesystems over several devices in memory.

use std::sync::Arc;

use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::mkfs::{MakeOptions, NewDevice, make_on};
use butterfs_format::items::BlockGroupFlags;
use butterfs_volume::{BlockDevice, MemDevice};

/// The devices as a volume takes them.
pub fn as_devices(disks: &[Arc<MemDevice>]) -> Vec<Arc<dyn BlockDevice>> {
    disks.iter().map(|disk| Arc::clone(disk) as Arc<dyn BlockDevice>).collect()
}

/// Makes a filesystem on all of them, with these profiles.
pub fn make(disks: &[Arc<MemDevice>], data: BlockGroupFlags, metadata: BlockGroupFlags) {
    let mut options = MakeOptions::new(0, &SystemEnvironment);
    options.devices = disks.iter().map(|disk| NewDevice::new(disk.len(), &SystemEnvironment)).collect();
    (options.data_profile, options.metadata_profile) = (data, metadata);
    make_on(&as_devices(disks), &options).expect("a filesystem is made");
}

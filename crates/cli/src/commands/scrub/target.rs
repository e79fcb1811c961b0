//! What is scrubbed: a mount, or an image that is not mounted.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, OpenOptions};
use butterfs_fuse::control::{self, DeviceInfo};
use butterfs_volume::{Missing, OpenMode};
use rustix::io::Errno;

use crate::failure::{self, Failure, Result};
use crate::{devices, exit};

/// A device, by number and path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub devid: u64,
    pub path: String,
    /// Bytes of it that block groups take.
    pub used: u64,
}

/// A mounted filesystem.
pub struct Mount {
    pub file: File,
    pub fsid: [u8; 16],
    pub devices: Vec<Device>,
}

/// A filesystem that is not mounted, opened here.
pub struct Image {
    pub filesystem: Arc<Filesystem>,
    pub fsid: [u8; 16],
    pub devices: Vec<Device>,
}

/// Whether a path is on a mount, and no image itself.
pub fn is_mount(path: &Path) -> bool {
    path.is_dir()
}

pub fn open_mount(path: &Path) -> Result<Mount> {
    let file = File::open(path).map_err(|error| failure::io(exit::USAGE, path, &error))?;
    let info = control::filesystem_info(file.as_fd()).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
            Failure::at(exit::USAGE, path, "not a mounted btrfs filesystem; name a path on one")
        }
        _ => failure::io(exit::USAGE, path, &error),
    })?;
    let devices = control::devices_of(file.as_fd(), &info).map_err(|error| failure::io(exit::USAGE, path, &error))?;
    let device = |found: DeviceInfo| {
        let path = found.path.unwrap_or_default().to_string_lossy().into_owned();
        Device { devid: found.devid, path, used: found.used }
    };
    Ok(Mount { file, fsid: info.fsid, devices: devices.into_iter().map(device).collect() })
}

/// Opens an image; it is written if `access` says so.
pub fn open_image(named: &[PathBuf], access: Access) -> Result<Image> {
    let mode = if access == Access::ReadOnly { OpenMode::ReadOnly } else { OpenMode::ReadWrite };
    let how = butterfs_volume::OpenOptions { missing: Missing::Accept, ..butterfs_volume::OpenOptions::new(mode) };
    let volume = devices::open_volume(exit::USAGE, named, &how)?;
    let fsid = volume.superblock().fsid;
    let options = OpenOptions { access, ..OpenOptions::default() };
    let first = named.first().map_or(Path::new(""), PathBuf::as_path);
    let filesystem = Filesystem::open(volume, options, Box::new(SystemEnvironment))
        .map_err(|error| Failure::at(exit::USAGE, first, error))?;
    let volume = filesystem.shared().gate.volume();
    let missing = volume.missing_devices();
    let items = volume.dev_items();
    let there = items.iter().filter(|item| !missing.iter().any(|id| id.devid.0 == item.devid.get()));
    let mut devices: Vec<Device> = there
        .map(|item| {
            let devid = item.devid.get();
            let path = volume.device_name(devid.into()).unwrap_or_default();
            Device { devid, path, used: item.bytes_used.get() }
        })
        .collect();
    devices.sort_by_key(|device| device.devid);
    Ok(Image { filesystem: Arc::new(filesystem), fsid, devices })
}

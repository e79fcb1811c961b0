//! Which mounts of Btrfs there are, ours and the kernel's, and on which devices.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use butterfs_fuse::control::{self, DeviceInfo, FilesystemInfo};
use butterfs_fuse::mount::MountEntry;
use butterfs_volume::{Error, FileDevice};

/// A mounted filesystem.
pub struct MountedFilesystem {
    /// Where.
    pub target: PathBuf,
    /// It, open.
    pub file: File,
    /// What it is.
    pub info: FilesystemInfo,
    /// Its own devices, by number, without those of seeds.
    pub devices: Vec<DeviceInfo>,
    /// Those of its seeds.
    pub seeds: Vec<DeviceInfo>,
}

impl MountedFilesystem {
    /// The filesystem that a path lies in.
    ///
    /// # Errors
    /// If it is not Btrfs, or does not answer.
    pub fn at(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let info = control::filesystem_info(file.as_fd())?;
        let all = control::devices_of(file.as_fd(), &info)?;
        let is_own = |device: &DeviceInfo| device.fsid == [0; 16] || device.fsid == info.fsid;
        let (devices, seeds) = all.into_iter().partition(is_own);
        Ok(Self { target: path.to_path_buf(), file, info, devices, seeds })
    }

    /// All that are mounted, each mount point once. Those that do not answer are left out.
    pub fn all() -> io::Result<Vec<Self>> {
        let mounts = MountEntry::of_any_btrfs()?;
        Ok(mounts.into_iter().filter_map(|mount| Self::at(&mount.target).ok()).collect())
    }

    /// The one that a device or image is mounted as, if what is asked of it may change meanwhile. Mounts of others are
    /// not touched where nobody holds the device.
    pub fn of_device(device: &Path) -> io::Result<Option<Self>> {
        let Ok(device) = device.canonicalize() else { return Ok(None) };
        match FileDevice::open_read_only(&device) {
            Err(Error::Busy(_)) => Ok(Self::all()?.into_iter().find(|mounted| mounted.has(&device))),
            _ => Ok(None),
        }
    }

    /// Whether one of its devices is this one, or lies in this file.
    pub fn has(&self, device: &Path) -> bool {
        let mut paths = self.devices.iter().filter_map(|found| found.path.as_deref());
        paths.any(|path| stands_for(path, device))
    }
}

/// Whether a path is a device, or that of a loop device over it.
pub fn stands_for(path: &Path, device: &Path) -> bool {
    path.canonicalize().is_ok_and(|path| path == device) || backing(path).as_deref() == Some(device)
}

/// The file behind a loop device.
fn backing(device: &Path) -> Option<PathBuf> {
    let name = device.file_name()?.to_str().filter(|name| name.starts_with("loop"))?;
    let text = std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
    Some(PathBuf::from(text.trim_end()))
}

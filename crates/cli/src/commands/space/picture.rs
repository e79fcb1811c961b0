//! All that the commands here print of one filesystem, wherever it comes from.

use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, OpenOptions};
use butterfs_format::DevId;
use butterfs_format::items::Chunk;
use butterfs_fuse::control::{self, SpaceInfo};
use butterfs_volume::{FileDevice, Volume, superblock_copy};
use rustix::io::Errno;

use super::mounted::MountedFilesystem;
use crate::failure::{self, Failure, Result};
use crate::{devices, exit};

/// Which filesystems, mounted or not.
#[derive(Clone, Debug, clap::Args)]
pub struct Further {
    /// Of an image that is not mounted: another device of it, or a directory to look for them in.
    #[arg(long = "device", value_name = "PATH")]
    devices: Vec<PathBuf>,
}

impl Further {
    /// The image, and what else was named; else, where there is more than one device, the directory that it lies in.
    pub fn with(&self, image: &Path) -> Vec<PathBuf> {
        let named = std::iter::once(image.to_path_buf()).chain(self.devices.iter().cloned());
        let beside = directory_of_several(image).filter(|_| self.devices.is_empty());
        named.chain(beside).collect()
    }
}

/// The directory of an image file, if its filesystem has other devices.
pub fn directory_of_several(image: &Path) -> Option<PathBuf> {
    let superblock = superblock_copy(&FileDevice::open_unlocked(image).ok()?, 0).ok()?;
    let is_one_of_several = image.is_file() && superblock.num_devices.get() > 1;
    Some(image.canonicalize().ok()?.parent().filter(|_| is_one_of_several)?.to_path_buf())
}

/// A filesystem.
pub struct Picture {
    /// What its block groups hold, in the kernel's order.
    pub spaces: Vec<SpaceInfo>,
    /// Its devices, by number.
    pub devices: Vec<Device>,
    /// Its chunks; `None` for who may not see them.
    pub chunks: Option<Vec<Chunk>>,
    /// What statfs says can be written, in bytes.
    pub available: u64,
}

/// A device.
pub struct Device {
    /// Its number.
    pub devid: u64,
    /// Where it is, or `missing`.
    pub path: String,
    /// Its size for the filesystem, in bytes.
    pub size: u64,
    /// How long it is itself; 0 if it is missing.
    pub length: u64,
}

impl Device {
    /// What of it the filesystem leaves, in bytes.
    pub fn slack(&self) -> u64 {
        if self.length > 0 { self.length.saturating_sub(self.size) } else { 0 }
    }
}

impl Picture {
    /// Of a mount, or of an image or device; one that is mounted is asked there.
    ///
    /// # Errors
    /// If it is no Btrfs, or cannot be read.
    pub fn of(path: &Path, further: &Further) -> Result<Self> {
        let meta = path.metadata().map_err(|error| failure::io(exit::USAGE, path, &error))?;
        if meta.is_dir() {
            let mounted = MountedFilesystem::at(path).map_err(|error| not_btrfs(path, &error))?;
            return Self::of_mount(&mounted);
        }
        match MountedFilesystem::of_device(path) {
            Ok(Some(mounted)) => Self::of_mount(&mounted),
            _ => Self::of_image(path, further),
        }
    }

    fn of_mount(mounted: &MountedFilesystem) -> Result<Self> {
        let path = mounted.target.as_path();
        let failed = |error: &io::Error| failure::io(exit::USAGE, path, error);
        let file = mounted.file.as_fd();
        let spaces = control::space_infos(file).map_err(|error| failed(&error))?;
        let chunks = match control::chunks(file) {
            Ok(chunks) => Some(chunks.into_iter().map(|(_, chunk)| chunk).collect()),
            Err(error) if is_not_permitted(&error) => None,
            Err(error) => return Err(failed(&error)),
        };
        let devices = mounted.devices.iter().map(|device| {
            let path = device.path.as_deref();
            let length = path.and_then(|path| length(path).ok()).unwrap_or(0);
            let path = path.map_or("missing".into(), |path| path.display().to_string());
            Device { devid: device.devid, path, size: device.total, length }
        });
        let found = rustix::fs::fstatvfs(file).map_err(|error| failed(&error.into()))?;
        let available = found.f_bavail * found.f_bsize;
        Ok(Self { spaces, devices: devices.collect(), chunks, available })
    }

    fn of_image(path: &Path, further: &Further) -> Result<Self> {
        let opened = devices::find_and_open_unlocked(&further.with(path));
        let opened = opened.map_err(|(path, error)| failure::volume(exit::USAGE, &path, &error))?;
        let volume = devices::open_degraded(opened).map_err(|error| failure::volume(exit::USAGE, path, &error))?;
        let options = OpenOptions { access: Access::ReadOnly, ..OpenOptions::default() };
        let failed = |error: &butterfs_engine::Error| failure::engine(exit::USAGE, path, error);
        let fs = Filesystem::open(volume, options, Box::new(SystemEnvironment)).map_err(|error| failed(&error))?;
        let spaces = fs.space_infos().map_err(|error| failed(&error))?;
        let volume = fs.shared().gate.volume();
        let chunks = volume.chunks().into_iter().map(|(_, chunk)| chunk).collect();
        Ok(Self { spaces, devices: image_devices(volume), chunks: Some(chunks), available: fs.usage().available })
    }
}

fn image_devices(volume: &Volume) -> Vec<Device> {
    let missing = volume.missing_devices();
    let fsid = volume.superblock().fsid;
    let items = volume.dev_items().into_iter().filter(|item| item.fsid == fsid);
    let mut devices: Vec<_> = items
        .map(|item| {
            let devid = item.devid.get();
            let name = volume.device_name(DevId(devid)).filter(|_| missing.iter().all(|id| id.devid.0 != devid));
            let length = name.as_ref().and_then(|name| length(Path::new(name)).ok()).unwrap_or(0);
            Device { devid, path: name.unwrap_or("missing".into()), size: item.total_bytes.get(), length }
        })
        .collect();
    devices.sort_by_key(|device| device.devid);
    devices
}

/// How long a file or block device is.
fn length(path: &Path) -> io::Result<u64> {
    std::fs::File::open(path)?.seek(SeekFrom::End(0))
}

fn is_not_permitted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// A directory that is on no Btrfs.
pub fn not_btrfs(path: &Path, error: &io::Error) -> Failure {
    match Errno::from_io_error(error) {
        Some(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
            Failure::new(exit::USAGE, format!("not a btrfs filesystem: {}", path.display()))
        }
        _ => failure::io(exit::USAGE, path, error),
    }
}

//! What to mount, and how.

use bitflags::bitflags;
use std::path::{Path, PathBuf};

/// What the mount stands for. The kernel shows it; the daemon opens it by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSource {
    /// A block device (of several, the first). The kernel claims it: open it without `O_EXCL`.
    BlockDevice(PathBuf),
    /// A file with an image. Root gets a loop device in front of it.
    Image(PathBuf),
    /// Just a name: always plain `fuse`.
    Named(String),
}

impl MountSource {
    /// A block device or an image, whichever `path` is.
    pub fn at(path: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::FileTypeExt;
        let path = path.canonicalize()?;
        match path.metadata()?.file_type().is_block_device() {
            true => Ok(Self::BlockDevice(path)),
            false => Ok(Self::Image(path)),
        }
    }

    /// What `mount` shows.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::BlockDevice(path) | Self::Image(path) => path.to_string_lossy().into_owned(),
            Self::Named(name) => name.clone(),
        }
    }
}

bitflags! {
    /// How a mount behaves.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MountFlags: u32 {
        /// No changes.
        const READ_ONLY = 1;
        /// Other users may enter. Without root, /etc/fuse.conf must allow it.
        const ALLOW_OTHER = 1 << 1;
        /// The kernel checks permissions.
        const DEFAULT_PERMISSIONS = 1 << 2;
        /// Access times are not updated.
        const NO_ATIME = 1 << 3;
        /// Setuid has no effect.
        const NO_SUID = 1 << 4;
        /// Device nodes have no effect.
        const NO_DEV = 1 << 5;
        /// Nothing can be executed.
        const NO_EXEC = 1 << 6;
        /// Access times are updated at every access; shown to who lists mounts (as root).
        const STRICT_ATIME = 1 << 8;
        /// Writing waits for the devices.
        const SYNCHRONOUS = 1 << 9;
        /// The same for names; shown, and without effect, as in the kernel's Btrfs.
        const DIR_SYNC = 1 << 10;
        /// Symbolic links are not followed (as root).
        const NO_SYMFOLLOW = 1 << 11;
        /// Access times of directories are not updated.
        const NO_DIRATIME = 1 << 12;
        /// Plain `fuse`, also where `fuseblk` is possible.
        const PLAIN_FUSE = 1 << 7;
    }
}

/// How to mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// How it behaves.
    pub flags: MountFlags,
    /// Shown behind `fuse.` or `fuseblk.`.
    pub subtype: String,
    /// Block size that `fuseblk` gives the device.
    pub block_size: u32,
    /// Options for the kernel's security modules, such as `context=`.
    pub security: Vec<String>,
}

impl MountOptions {
    /// For root: everybody may enter, the kernel checks permissions.
    pub fn for_root() -> Self {
        Self { flags: MountFlags::ALLOW_OTHER | MountFlags::DEFAULT_PERMISSIONS, ..Self::for_user() }
    }

    /// For a user: nobody else may enter.
    pub fn for_user() -> Self {
        Self {
            flags: MountFlags::DEFAULT_PERMISSIONS | MountFlags::NO_SUID | MountFlags::NO_DEV,
            subtype: "butterfs".into(),
            block_size: 4096,
            security: Vec::new(),
        }
    }

    /// Whether a flag is set.
    pub(crate) fn has(&self, flag: MountFlags) -> bool {
        self.flags.contains(flag)
    }
}

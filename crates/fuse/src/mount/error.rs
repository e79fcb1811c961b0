//! What goes wrong when mounting, and what to do about it, in one line each.

use std::io;
use std::path::{Path, PathBuf};

/// Why a filesystem could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mount point is missing.
    #[error("{}: no such mount point; create the directory first", target.display())]
    NoTarget {
        /// The mount point.
        target: PathBuf,
    },
    /// The mount point is not a directory.
    #[error("{}: not a directory; a filesystem is mounted on a directory", target.display())]
    NotADirectory {
        /// The mount point.
        target: PathBuf,
    },
    /// The mount point cannot be used, for another reason.
    #[error("{}: {source}", target.display())]
    Target {
        /// The mount point.
        target: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// There is no FUSE.
    #[error(
        "/dev/fuse is missing; load the fuse module (modprobe fuse), or pass the device into the container (--device /dev/fuse)"
    )]
    NoFuse,
    /// `/dev/fuse` cannot be opened.
    #[error("cannot open /dev/fuse: {0}")]
    Fuse(io::Error),
    /// Mounting is not allowed.
    #[error("{}: not permitted to mount; run as root, or as a user with fusermount3 and a mount point you own", target.display())]
    NotPermitted {
        /// The mount point.
        target: PathBuf,
    },
    /// The device is in use.
    #[error("{device}: in use; it may be mounted already (see findmnt), or held by LVM, RAID or a swap area")]
    DeviceBusy {
        /// The device.
        device: String,
    },
    /// The mount is in use.
    #[error("{}: in use; end the programs that use it (see fuser -vm), or unmount lazily (umount -l)", target.display())]
    Busy {
        /// The mount point.
        target: PathBuf,
    },
    /// Nothing is mounted there.
    #[error("{}: not mounted", target.display())]
    NotMounted {
        /// The mount point.
        target: PathBuf,
    },
    /// The kernel refuses.
    #[error("{}: mount failed: {source}", target.display())]
    Refused {
        /// The mount point.
        target: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// No loop device for the image.
    #[error("{}: cannot attach a loop device: {source}", image.display())]
    Loop {
        /// The image.
        image: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// `fusermount3` is not installed.
    #[error("fusermount3 is not installed; install the fuse3 package, or mount as root")]
    NoFusermount,
    /// `allow_other` is not allowed.
    #[error(
        "allow_other is not allowed for users; add the line user_allow_other to /etc/fuse.conf, or leave the option out"
    )]
    AllowOther,
    /// `fusermount3` failed.
    #[error("{}: {message}", target.display())]
    Fusermount {
        /// The mount point.
        target: PathBuf,
        /// What it said.
        message: String,
    },
    /// The list of mounts cannot be read.
    #[error("cannot read /proc/self/mountinfo: {0}; mount /proc")]
    Mountinfo(io::Error),
}

impl MountError {
    /// An error about the mount point.
    pub(super) fn target(target: &Path, source: io::Error) -> Self {
        let target = target.to_path_buf();
        match source.kind() {
            io::ErrorKind::NotFound => Self::NoTarget { target },
            io::ErrorKind::NotADirectory => Self::NotADirectory { target },
            _ => Self::Target { target, source },
        }
    }
}

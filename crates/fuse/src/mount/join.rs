//! A further mount of a block device that a daemon serves already. The kernel gives it the superblock that is there: the
//! daemon learns nothing of it, and goes on until the last mount is gone.

use super::{MountError, MountFlags, MountOptions};
use crate::transport::dev::{clone_device, open_device};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// A mount of what a daemon serves, not in the tree yet.
#[derive(Debug)]
pub struct Joined {
    mount: OwnedFd,
}

impl Joined {
    /// Mounts `device`, which a daemon serves, for root.
    ///
    /// # Errors
    /// [`MountError::DeviceBusy`] if nobody serves it any more, or if it is served read-only and that is not wanted.
    pub fn new(device: &Path, options: &MountOptions) -> Result<Self, MountError> {
        let name = device.to_string_lossy().into_owned();
        // The kernel wants a descriptor, and does not connect it.
        let fuse = open_device().map_err(|errno| MountError::Fuse(errno.into()))?;
        let mounted =
            mount(&name, &fuse, options, Served::ReadWrite).or_else(|error| match options.has(MountFlags::READ_ONLY) {
                true => mount(&name, &fuse, options, Served::ReadOnly),
                false => Err(error),
            });
        let mounted = mounted.map_err(|_| MountError::DeviceBusy { device: name.clone() })?;
        match clone_device(&fuse) {
            Ok(_) => Err(MountError::DeviceBusy { device: name }),
            Err(_) => Ok(Self { mount: mounted }),
        }
    }

    /// The top directory.
    pub fn top(&self) -> io::Result<File> {
        Ok(openat(&self.mount, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?.into())
    }

    /// Puts a directory of it (empty: all of it) into the tree.
    pub fn attach(&self, part: &Path, target: &Path) -> Result<(), MountError> {
        let put = |mount: &OwnedFd| move_mount(mount, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH);
        let attached = if part.as_os_str().is_empty() {
            put(&self.mount)
        } else {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            open_tree(&self.mount, part, flags).and_then(|part| put(&part))
        };
        attached.map_err(|errno| MountError::Refused { target: target.into(), source: errno.into() })
    }
}

/// How the daemon serves the superblock: the kernel finds it only for who says so.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Served {
    ReadWrite,
    ReadOnly,
}

fn mount(device: &str, fuse: &OwnedFd, options: &MountOptions, served: Served) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("fuseblk", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let fd = fuse.as_raw_fd().to_string();
    let words = [
        ("source", device),
        ("subtype", options.subtype.as_str()),
        ("fd", &fd),
        ("rootmode", "40000"),
        ("user_id", "0"),
        ("group_id", "0"),
    ];
    words.into_iter().try_for_each(|(key, value)| fsconfig_set_string(&context, key, value))?;
    for (flag, key) in
        [(MountFlags::ALLOW_OTHER, "allow_other"), (MountFlags::DEFAULT_PERMISSIONS, "default_permissions")]
    {
        if options.has(flag) {
            fsconfig_set_flag(&context, key)?;
        }
    }
    if served == Served::ReadOnly {
        fsconfig_set_flag(&context, "ro")?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes(options))
}

/// What is the mount's own, not the superblock's: read-only, too, so that one of several can be.
fn attributes(options: &MountOptions) -> MountAttrFlags {
    let pairs = [
        (MountFlags::READ_ONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (MountFlags::NO_ATIME, MountAttrFlags::MOUNT_ATTR_NOATIME),
        (MountFlags::STRICT_ATIME, MountAttrFlags::MOUNT_ATTR_STRICTATIME),
        (MountFlags::NO_SUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (MountFlags::NO_DEV, MountAttrFlags::MOUNT_ATTR_NODEV),
        (MountFlags::NO_EXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
    ];
    let set = pairs.iter().filter(|(ours, _)| options.has(*ours));
    set.fold(MountAttrFlags::empty(), |all, (_, attribute)| all | *attribute)
}

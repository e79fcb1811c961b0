//! Putting a FUSE filesystem into the tree, and taking it out again.
//!
//! Three ways in, tried in this order by [`Mount::new`]:
//! 1. root with a block device (or an image, through a loop device): `fuseblk`. Only there does
//!    Linux pass on `sync` and wait for the last commit at umount;
//! 2. root otherwise: plain `fuse`;
//! 3. everybody else: `fusermount3`.
//!
//! The daemon does its own I/O on the device or image; the loop device only stands for the image
//! in front of the kernel and is never read or written by it.

mod bdi;
mod direct;
mod error;
mod fusermount;
mod join;
mod mountinfo;
mod options;
mod presence;
mod unmount;

pub use bdi::BdiTuning;
pub use direct::{bind, remount};
pub use error::MountError;
pub use join::Joined;
pub use mountinfo::MountEntry;
pub use options::{MountFlags, MountOptions, MountSource};
pub use presence::{Presence, Watch};
pub use unmount::{Busy, Unmounted, unmount};

use butterfs_os::loop_device::LoopDevice;
use rustix::fs::{Mode, OFlags, StatVfsMountFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags as SystemFlags, fsconfig_create, fsmount, fsopen,
};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What kind of mount it became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// With a block device: sync and umount reach the daemon and wait for it.
    Fuseblk,
    /// Without: the daemon has to commit by itself.
    Fuse,
}

/// A mount, owned: it is detached when dropped.
#[derive(Debug)]
pub struct Mount {
    device: Arc<OwnedFd>,
    point: Arc<MountPoint>,
    flags: MountFlags,
    /// Keeps the loop device until the mount itself does, and after.
    _loop_device: Option<LoopDevice>,
}

impl Mount {
    /// Mounts. The filesystem blocks its users until a session serves it.
    pub fn new(source: &MountSource, target: &Path, options: &MountOptions) -> Result<Self, MountError> {
        let target = check_target(target)?;
        let mounted = if rustix::process::geteuid().is_root() {
            direct::mount(source, &target, options)?
        } else {
            fusermount::mount(source, &target, options)?
        };
        let entry = mountinfo::find(&target).map_err(MountError::Mountinfo)?;
        let point = MountPoint { path: target, entry, kind: mounted.kind, gone: AtomicBool::new(false) };
        Ok(Self {
            device: Arc::new(mounted.device),
            point: Arc::new(point),
            flags: options.flags,
            _loop_device: mounted.loop_device,
        })
    }

    /// What kind of mount it became.
    pub fn kind(&self) -> MountKind {
        self.point.kind
    }

    /// Where it is.
    pub fn point(&self) -> Arc<MountPoint> {
        Arc::clone(&self.point)
    }

    /// How it behaves.
    pub(crate) fn flags(&self) -> MountFlags {
        self.flags
    }

    /// The descriptor to serve.
    pub(crate) fn device(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.device)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.point.unmount(Busy::Detach) {
            tracing::debug!(%error, "left mounted");
        }
    }
}

/// A descriptor with what belongs to it.
struct Mounted {
    device: OwnedFd,
    kind: MountKind,
    loop_device: Option<LoopDevice>,
}

/// Where a filesystem is mounted.
#[derive(Debug)]
pub struct MountPoint {
    path: PathBuf,
    entry: Option<MountEntry>,
    kind: MountKind,
    /// The kernel has said that it is unmounted. Its number may be another mount's by now.
    gone: AtomicBool,
}

impl MountPoint {
    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device number of the mount, as in `st_dev`; names its connection and BDI too.
    pub fn device_number(&self) -> Option<(u32, u32)> {
        self.entry.as_ref().map(|entry| entry.device)
    }

    /// The block device in front of the kernel, if there is one.
    pub fn block_device(&self) -> Option<&str> {
        self.entry.as_ref().filter(|_| self.kind == MountKind::Fuseblk).map(|entry| entry.source.as_str())
    }

    /// Notes that it is not mounted any more.
    pub(crate) fn note_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// Whether it is still ours that is mounted there.
    fn is_ours(&self) -> io::Result<bool> {
        if self.gone.load(Ordering::Acquire) {
            return Ok(false);
        }
        let now = mountinfo::find(&self.path)?;
        Ok(now.zip(self.entry.as_ref()).is_some_and(|(now, ours)| now.id == ours.id))
    }

    /// Unmounts, if it is still ours that is mounted there.
    pub fn unmount(&self, busy: Busy) -> Result<Unmounted, MountError> {
        match self.is_ours().map_err(MountError::Mountinfo)? {
            true => unmount(&self.path, busy),
            false => Ok(Unmounted::WasNot),
        }
    }

    /// Sets what the kernel allows this mount's page cache. Needs root.
    pub fn tune(&self, tuning: &BdiTuning) -> io::Result<()> {
        match self.device_number() {
            Some(device) => tuning.apply(device),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Makes the mount read-only for the kernel too, if it is still ours: changes then fail before they
    /// reach anybody, and `statfs` says so. Needs root.
    ///
    /// # Errors
    /// `EBUSY` as long as files are open for writing.
    pub fn make_read_only(&self) -> io::Result<()> {
        if !self.is_ours()? {
            return Ok(());
        }
        let has = rustix::fs::statvfs(&self.path)?.f_flag;
        let kept = [
            (StatVfsMountFlags::NOSUID, SystemFlags::NOSUID),
            (StatVfsMountFlags::NODEV, SystemFlags::NODEV),
            (StatVfsMountFlags::NOEXEC, SystemFlags::NOEXEC),
            (StatVfsMountFlags::NOATIME, SystemFlags::NOATIME),
            (StatVfsMountFlags::NODIRATIME, SystemFlags::NODIRATIME),
            (StatVfsMountFlags::RELATIME, SystemFlags::RELATIME),
        ];
        let flags = kept.into_iter().filter(|(is, _)| has.contains(*is)).map(|(_, flag)| flag);
        let flags = flags.fold(SystemFlags::BIND | SystemFlags::RDONLY, |all, flag| all | flag);
        Ok(rustix::mount::mount_remount(&self.path, flags, "")?)
    }

    /// Has the kernel write back what it caches, if the mount is still in the tree.
    pub fn sync(&self) -> io::Result<()> {
        if !self.is_ours()? {
            return Ok(());
        }
        Ok(rustix::fs::syncfs(std::fs::File::open(&self.path)?)?)
    }

    /// Aborts the connection through the fusectl filesystem; where that is not mounted, root has one
    /// of its own.
    pub fn abort(&self) -> io::Result<()> {
        let (major, minor) = self.device_number().ok_or(io::ErrorKind::NotFound)?;
        let file = format!("{}/abort", u64::from(major) << 20 | u64::from(minor));
        match std::fs::write(format!("/sys/fs/fuse/connections/{file}"), "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let abort = openat(fusectl()?, &file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
                Ok(rustix::io::write(abort, b"1").map(drop)?)
            }
            result => result,
        }
    }
}

/// The fusectl filesystem, mounted nowhere.
fn fusectl() -> io::Result<OwnedFd> {
    let context = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

/// The mount point as an absolute path; it must be a directory.
fn check_target(target: &Path) -> Result<PathBuf, MountError> {
    let wrong = |source| MountError::target(target, source);
    let path = target.canonicalize().map_err(wrong)?;
    match path.metadata().map_err(wrong)?.is_dir() {
        true => Ok(path),
        false => Err(MountError::NotADirectory { target: path }),
    }
}

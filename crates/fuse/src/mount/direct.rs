//! Mounting with mount(2), as root of the system or of a user namespace.

use super::{Busy, MountError, MountFlags, MountKind, MountOptions, MountSource, Mounted, unmount};
use crate::transport::dev::{clone_device, open_device};
use butterfs_os::loop_device::{LoopAccess, LoopDevice};
use rustix::fs::StatVfsMountFlags;
use rustix::io::Errno;
use rustix::mount::MountFlags as Raw;
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// `MS_NOSYMFOLLOW`.
const NOSYMFOLLOW: Raw = Raw::from_bits_retain(256);
/// Logical sector size of loop devices. Any image's length is a multiple of it, or nearly.
const SECTOR: u32 = 512;

/// Mounts as `fuseblk` if possible, else as `fuse`.
pub(super) fn mount(source: &MountSource, target: &Path, options: &MountOptions) -> Result<Mounted, MountError> {
    if options.has(MountFlags::PLAIN_FUSE) {
        return plain(source, target, options);
    }
    let result = match source {
        MountSource::Named(_) => return plain(source, target, options),
        MountSource::BlockDevice(device) => block(device, None, target, options),
        MountSource::Image(image) => attach(image, options).and_then(|device| {
            let path = device.path().to_path_buf();
            block(&path, Some(device), target, options)
        }),
    };
    match result {
        Err(error) if can_do_without_block(&error) => {
            tracing::warn!(%error, "no fuseblk mount: sync and umount will not wait for the daemon");
            plain(source, target, options)
        }
        result => result,
    }
}

/// Whether plain `fuse` may still work: in a user namespace, or without loop devices.
fn can_do_without_block(error: &MountError) -> bool {
    match error {
        MountError::NotPermitted { .. } | MountError::Loop { .. } => true,
        MountError::Refused { source, .. } => source.raw_os_error() == Some(Errno::NODEV.raw_os_error()),
        _ => false,
    }
}

/// Attaches a loop device to an image.
fn attach(image: &Path, options: &MountOptions) -> Result<LoopDevice, MountError> {
    let read_only = options.has(MountFlags::READ_ONLY);
    let open = |write| std::fs::OpenOptions::new().read(true).write(write).open(image);
    let failed = |source| MountError::Loop { image: image.to_path_buf(), source };
    // A device that is for reading only could never be remounted to be written.
    let (file, access) = match open(true) {
        Err(_) if read_only => (open(false), LoopAccess::ReadOnly),
        opened => (opened, LoopAccess::ReadWrite),
    };
    LoopDevice::attach(file.map_err(failed)?, access, SECTOR).map_err(|errno| failed(errno.into()))
}

/// Mounts a block device.
fn block(
    device: &Path,
    loop_device: Option<LoopDevice>,
    target: &Path,
    options: &MountOptions,
) -> Result<Mounted, MountError> {
    let fuse = open_fuse()?;
    let name = device.to_string_lossy();
    let kind = format!("fuseblk.{}", options.subtype);
    let data = format!("{},blksize={}", data(&fuse, target, options)?, options.block_size);
    call(&name, target, &kind, options, data)?;
    check_connected(&fuse, &name, target)?;
    Ok(Mounted { device: fuse, kind: MountKind::Fuseblk, loop_device })
}

/// Mounting a device that is mounted already shows the same filesystem once more, served by the
/// daemon it has; our descriptor is then connected to nothing.
fn check_connected(fuse: &OwnedFd, device: &str, target: &Path) -> Result<(), MountError> {
    if clone_device(fuse).is_ok() {
        return Ok(());
    }
    unmount(target, Busy::Refuse)?;
    Err(MountError::DeviceBusy { device: device.into() })
}

/// Mounts without a block device.
fn plain(source: &MountSource, target: &Path, options: &MountOptions) -> Result<Mounted, MountError> {
    let fuse = open_fuse()?;
    let kind = format!("fuse.{}", options.subtype);
    let data = data(&fuse, target, options)?;
    call(&source.name(), target, &kind, options, data)?;
    Ok(Mounted { device: fuse, kind: MountKind::Fuse, loop_device: None })
}

/// Opens `/dev/fuse`.
fn open_fuse() -> Result<OwnedFd, MountError> {
    open_device().map_err(|errno| match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => MountError::NoFuse,
        errno => MountError::Fuse(errno.into()),
    })
}

/// The options that FUSE itself reads.
fn data(fuse: &OwnedFd, target: &Path, options: &MountOptions) -> Result<String, MountError> {
    let mode = target.metadata().map_err(|error| MountError::target(target, error))?.mode() & 0o170_000;
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let mut data =
        format!("fd={},rootmode={mode:o},user_id={},group_id={}", fuse.as_raw_fd(), uid.as_raw(), gid.as_raw());
    if options.has(MountFlags::ALLOW_OTHER) {
        data.push_str(",allow_other");
    }
    if options.has(MountFlags::DEFAULT_PERMISSIONS) {
        data.push_str(",default_permissions");
    }
    for option in &options.security {
        data.push(',');
        data.push_str(option);
    }
    Ok(data)
}

/// Calls mount(2).
fn call(name: &str, target: &Path, kind: &str, options: &MountOptions, data: String) -> Result<(), MountError> {
    let data = CString::new(data).expect("mount options are built here and have no NUL");
    rustix::mount::mount(name, target, kind, raw_flags(options), &*data).map_err(|errno| {
        let target = target.to_path_buf();
        match errno {
            Errno::PERM | Errno::ACCESS => MountError::NotPermitted { target },
            Errno::BUSY => MountError::DeviceBusy { device: name.into() },
            errno => MountError::Refused { target, source: errno.into() },
        }
    })
}

/// Gives a mount other flags: those that `set` and `clear` do not name stay. Needs root.
///
/// # Errors
/// `EBUSY` if it is to be read-only and files are open for writing.
pub fn remount(target: &Path, set: MountFlags, clear: MountFlags) -> std::io::Result<()> {
    let has = rustix::fs::statvfs(target)?.f_flag;
    let kept = SHOWN.iter().filter(|(shown, _)| has.contains(*shown)).map(|(_, flag)| *flag);
    let flags = (kept.fold(MountFlags::empty(), |all, flag| all | flag) - clear) | set;
    let options = MountOptions { flags, ..MountOptions::for_root() };
    let mut raw = raw_flags(&options);
    if !flags.intersects(MountFlags::NO_ATIME | MountFlags::STRICT_ATIME) {
        raw |= Raw::RELATIME;
    }
    Ok(rustix::mount::mount_remount(target, raw, "")?)
}

/// Shows a directory in another place, with flags of its own. Needs root.
pub fn bind(source: &Path, target: &Path, flags: MountFlags) -> std::io::Result<()> {
    rustix::mount::mount_bind(source, target)?;
    if flags.is_empty() {
        return Ok(());
    }
    let raw = raw_flags(&MountOptions { flags, ..MountOptions::for_root() });
    Ok(rustix::mount::mount_remount(target, raw | Raw::BIND, "")?)
}

/// What statvfs shows of a mount.
const SHOWN: [(StatVfsMountFlags, MountFlags); 7] = [
    (StatVfsMountFlags::RDONLY, MountFlags::READ_ONLY),
    (StatVfsMountFlags::NOSUID, MountFlags::NO_SUID),
    (StatVfsMountFlags::NODEV, MountFlags::NO_DEV),
    (StatVfsMountFlags::NOEXEC, MountFlags::NO_EXEC),
    (StatVfsMountFlags::NOATIME, MountFlags::NO_ATIME),
    (StatVfsMountFlags::NODIRATIME, MountFlags::NO_DIRATIME),
    (StatVfsMountFlags::SYNCHRONOUS, MountFlags::SYNCHRONOUS),
];

/// The options that the VFS reads.
fn raw_flags(options: &MountOptions) -> Raw {
    let pairs = [
        (MountFlags::NO_DIRATIME, Raw::NODIRATIME),
        (MountFlags::SYNCHRONOUS, Raw::SYNCHRONOUS),
        (MountFlags::DIR_SYNC, Raw::DIRSYNC),
        (MountFlags::NO_SYMFOLLOW, NOSYMFOLLOW),
        (MountFlags::READ_ONLY, Raw::RDONLY),
        (MountFlags::NO_ATIME, Raw::NOATIME),
        (MountFlags::STRICT_ATIME, Raw::STRICTATIME),
        (MountFlags::NO_SUID, Raw::NOSUID),
        (MountFlags::NO_DEV, Raw::NODEV),
        (MountFlags::NO_EXEC, Raw::NOEXEC),
    ];
    let set = pairs.iter().filter(|(ours, _)| options.has(*ours));
    set.fold(Raw::empty(), |all, (_, raw)| all | *raw)
}

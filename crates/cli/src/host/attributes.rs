//! Owner, permissions, times and extended attributes of what was made.
//!
//! # Invariants
//! * The order is owner, extended attributes, permissions, times: each can spoil those before it no more.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use bitflags::bitflags;
use butterfs_format::items::{InodeItem, Timespec};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

bitflags! {
    /// Which attributes are those of the source.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Preserve: u32 {
        /// Permissions, set-ID bits and the sticky bit.
        const MODE = 1 << 0;
        /// Owner and group.
        const OWNER = 1 << 1;
        /// Times of the last access and of the last change of the content.
        const TIMES = 1 << 2;
        /// Extended attributes, access control lists among them.
        const XATTRS = 1 << 3;
        /// Which names are hard links of one file.
        const LINKS = 1 << 4;
    }
}

/// An extended attribute: name and value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// What an inode is, but for its content.
#[derive(Clone, Debug)]
pub struct Attributes {
    /// Permissions; the type is not looked at.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access.
    pub atime: Timespec,
    /// Last change of the content.
    pub mtime: Timespec,
    /// Extended attributes.
    pub xattrs: Vec<Xattr>,
}

impl Attributes {
    /// Those of an inode.
    pub fn of(item: &InodeItem, xattrs: Vec<Xattr>) -> Self {
        let (mode, uid, gid) = (item.mode.get(), item.uid.get(), item.gid.get());
        Self { mode, uid, gid, atime: item.atime, mtime: item.mtime, xattrs }
    }
}

/// How attributes are set.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Which are those of the source.
    pub preserve: Preserve,
    /// Permissions that new files do not get, if those of the source are not preserved.
    pub umask: u32,
}

/// What could not be set though everything else was.
#[derive(Debug, Default)]
pub struct Lost {
    /// Owner or group, which only root may choose.
    pub owner: bool,
    /// Names of extended attributes, and why.
    pub xattrs: Vec<(Vec<u8>, io::Error)>,
}

/// Whether only root can set an attribute.
pub fn is_privileged(xattr: &[u8]) -> bool {
    xattr.starts_with(b"security.") || xattr.starts_with(b"trusted.")
}

/// A property of Btrfs, which is no attribute that is stored elsewhere.
fn is_property(xattr: &[u8]) -> bool {
    xattr.starts_with(b"btrfs.")
}

/// What gets attributes.
pub enum Subject<'a> {
    /// A file or directory that is open.
    Open(BorrowedFd<'a>),
    /// A symbolic link, which has neither permissions nor a way to open it.
    Link(BorrowedFd<'a>, &'a CStr),
    /// A special file, which must not be opened.
    Special(BorrowedFd<'a>, &'a CStr),
}

/// Sets the attributes that the policy says.
///
/// # Errors
/// As the system's, but for what is in the result.
pub fn set(subject: &Subject<'_>, attributes: &Attributes, policy: Policy) -> io::Result<Lost> {
    let mut lost = Lost::default();
    let preserve = policy.preserve;
    if preserve.contains(Preserve::OWNER) {
        lost.owner = !set_owner(subject, attributes)?;
    }
    if preserve.contains(Preserve::XATTRS) {
        for (name, value) in attributes.xattrs.iter().filter(|(name, _)| !is_property(name)) {
            if let Err(error) = set_xattr(subject, name, value) {
                lost.xattrs.push((name.clone(), error));
            }
        }
    }
    set_mode(subject, permissions(attributes.mode, policy, &lost))?;
    if preserve.contains(Preserve::TIMES) {
        set_times(subject, attributes)?;
    }
    Ok(lost)
}

/// The set-ID bits need an owner that is the source's.
fn permissions(mode: u32, policy: Policy, lost: &Lost) -> u32 {
    const SET_ID: u32 = 0o6000;
    if !policy.preserve.contains(Preserve::MODE) {
        return mode & 0o777 & !policy.umask;
    }
    let owner_is_right = policy.preserve.contains(Preserve::OWNER) && !lost.owner;
    if owner_is_right { mode & 0o7777 } else { mode & 0o7777 & !SET_ID }
}

/// Sets owner and group, or the group at least; says whether both are set.
fn set_owner(subject: &Subject<'_>, attributes: &Attributes) -> io::Result<bool> {
    // The highest number means none to the system.
    let uid = (attributes.uid != u32::MAX).then(|| Uid::from_raw(attributes.uid));
    let gid = (attributes.gid != u32::MAX).then(|| Gid::from_raw(attributes.gid));
    match change_owner(subject, uid, gid) {
        Ok(()) => Ok(uid.is_some() && gid.is_some()),
        Err(Errno::PERM | Errno::INVAL) => {
            // What a user may do: choose among his own groups.
            let _ = change_owner(subject, None, gid);
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

fn change_owner(subject: &Subject<'_>, uid: Option<Uid>, gid: Option<Gid>) -> rustix::io::Result<()> {
    match subject {
        Subject::Open(fd) => rustix::fs::fchown(fd, uid, gid),
        Subject::Link(dir, name) | Subject::Special(dir, name) => {
            rustix::fs::chownat(dir, *name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        }
    }
}

fn set_xattr(subject: &Subject<'_>, name: &[u8], value: &[u8]) -> io::Result<()> {
    let name = CString::new(name)?;
    let result = match subject {
        Subject::Open(fd) => rustix::fs::fsetxattr(fd, &*name, value, XattrFlags::empty()),
        Subject::Link(dir, file) | Subject::Special(dir, file) => {
            rustix::fs::lsetxattr(path_of(*dir, file), &*name, value, XattrFlags::empty())
        }
    };
    Ok(result?)
}

fn set_mode(subject: &Subject<'_>, mode: u32) -> io::Result<()> {
    let mode = Mode::from_raw_mode(mode);
    match subject {
        Subject::Open(fd) => rustix::fs::fchmod(fd, mode)?,
        Subject::Link(..) => {}
        Subject::Special(dir, name) => {
            // Whatever has this name by now: no symbolic link is followed.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let node = rustix::fs::openat(dir, *name, flags, Mode::empty())?;
            rustix::fs::chmod(format!("/proc/self/fd/{}", node.as_raw_fd()), mode)?;
        }
    }
    Ok(())
}

fn set_times(subject: &Subject<'_>, attributes: &Attributes) -> io::Result<()> {
    let times = Timestamps { last_access: time(attributes.atime), last_modification: time(attributes.mtime) };
    match subject {
        Subject::Open(fd) => rustix::fs::futimens(fd, &times)?,
        Subject::Link(dir, name) | Subject::Special(dir, name) => {
            rustix::fs::utimensat(dir, *name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
    }
    Ok(())
}

/// Numbers of nanoseconds above a second would be orders to the system.
fn time(time: Timespec) -> rustix::fs::Timespec {
    rustix::fs::Timespec { tv_sec: time.seconds(), tv_nsec: time.nanoseconds().min(999_999_999).into() }
}

/// A path that leads to a name in an open directory, for calls that know no such pair. Its last part is
/// not followed by calls that do not follow.
pub fn path_of(dir: BorrowedFd<'_>, name: &CStr) -> CString {
    let front = format!("/proc/self/fd/{}/", dir.as_raw_fd());
    CString::new([front.as_bytes(), name.to_bytes()].concat()).expect("a C string has no zero byte inside")
}

//! Where properties are read and changed: on a mount by the kernel's ways, in an image by the engine.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use butterfs_engine::Error;
use butterfs_engine::filesystem::{Access as OpenAccess, Filesystem, Received};
use butterfs_engine::inode::InodeId;
use butterfs_engine::inode::xattr::{Xattr, XattrMode};
use butterfs_format::Ino;
use butterfs_format::items::{RootFlags, Timespec};
use butterfs_fuse::control::{self, Access};
use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

/// The longest value of an attribute.
const VALUE_MAX: usize = 1 << 16;

/// What was opened.
pub enum Place {
    /// A file or directory on a mount.
    Mounted(File),
    /// One in an image.
    Image(Box<Filesystem>, InodeId),
}

fn system(error: &Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

/// A change in an image is durable when the command ends.
fn done<T>(fs: &Filesystem, result: butterfs_engine::Result<T>) -> io::Result<T> {
    result.and_then(|value| fs.sync().map(|()| value)).map_err(|error| system(&error))
}

impl Place {
    /// Whether it is the top directory of a subvolume.
    pub fn is_top(&self) -> bool {
        match self {
            Self::Mounted(file) => control::subvolume_access(file.as_fd()).is_ok(),
            Self::Image(_, id) => id.ino == Ino::ROOT_DIR,
        }
    }

    /// Whether the subvolume with this top directory can be changed.
    pub fn access(&self) -> io::Result<Access> {
        match self {
            Self::Mounted(file) => control::subvolume_access(file.as_fd()),
            Self::Image(..) if !self.is_top() => Err(Errno::INVAL.into()),
            Self::Image(fs, id) => {
                let info = fs.subvolume(id.tree).map_err(|error| system(&error))?;
                let is_read_only = info.flags.contains(RootFlags::RDONLY);
                Ok(if is_read_only { Access::ReadOnly } else { Access::ReadWrite })
            }
        }
    }

    /// Makes the subvolume with this top directory read-only or writable.
    pub fn set_access(&self, access: Access) -> io::Result<()> {
        match self {
            Self::Mounted(file) => control::set_subvolume_access(file.as_fd(), access),
            Self::Image(..) if !self.is_top() => Err(Errno::INVAL.into()),
            Self::Image(fs, id) => {
                let access = match access {
                    Access::ReadOnly => OpenAccess::ReadOnly,
                    Access::ReadWrite => OpenAccess::ReadWrite,
                };
                done(fs, fs.set_subvolume_access(id.tree, access))
            }
        }
    }

    /// The UUID of what the subvolume was received from; zeros if it was not.
    pub fn received_uuid(&self) -> io::Result<[u8; 16]> {
        match self {
            Self::Mounted(file) => control::received_uuid(file.as_fd()),
            Self::Image(fs, id) => fs.subvolume(id.tree).map(|info| info.received_uuid).map_err(|error| system(&error)),
        }
    }

    /// Makes the subvolume one that was not received.
    pub fn forget_received(&self) -> io::Result<()> {
        match self {
            Self::Mounted(file) => control::forget_received(file.as_fd()),
            Self::Image(fs, id) => {
                let nothing = Received { uuid: [0; 16], sent_in: 0, sent: Timespec::new(0, 0) };
                done(fs, fs.set_received(id.tree, &nothing)).map(drop)
            }
        }
    }

    /// The filesystem's label.
    pub fn label(&self) -> io::Result<Vec<u8>> {
        match self {
            Self::Mounted(file) => control::label(file.as_fd()),
            Self::Image(fs, _) => fs.label().map_err(|error| system(&error)),
        }
    }

    /// Changes it.
    pub fn set_label(&self, label: &[u8]) -> io::Result<()> {
        match self {
            Self::Mounted(file) => control::set_label(file.as_fd(), label),
            Self::Image(fs, _) => fs.set_label(label).map_err(|error| system(&error)),
        }
    }

    /// An attribute; `None` if it is not there.
    pub fn attribute(&self, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Mounted(file) => {
                let mut value = vec![0; VALUE_MAX];
                match fgetxattr(file, name, &mut value[..]) {
                    Ok(len) => {
                        value.truncate(len);
                        Ok(Some(value))
                    }
                    Err(Errno::NODATA) => Ok(None),
                    Err(error) => Err(error.into()),
                }
            }
            Self::Image(fs, id) => match fs.xattr(*id, name) {
                Ok(value) => Ok(Some(value)),
                Err(error) => no_attribute(&error).map(|()| None),
            },
        }
    }

    /// Sets an attribute.
    pub fn set_attribute(&self, name: &[u8], value: &[u8]) -> io::Result<()> {
        match self {
            Self::Mounted(file) => Ok(fsetxattr(file, name, value, XattrFlags::empty())?),
            Self::Image(fs, id) => done(fs, fs.set_xattr(*id, Xattr { name, value }, XattrMode::Any)),
        }
    }

    /// Takes an attribute away; it need not be there.
    pub fn remove_attribute(&self, name: &[u8]) -> io::Result<()> {
        match self {
            Self::Mounted(file) => match fremovexattr(file, name) {
                Err(Errno::NODATA) => Ok(()),
                other => Ok(other?),
            },
            Self::Image(fs, id) => match fs.remove_xattr(*id, name) {
                Err(error) => no_attribute(&error),
                done_already => done(fs, done_already),
            },
        }
    }
}

fn no_attribute(error: &Error) -> io::Result<()> {
    let error = system(error);
    if Errno::from_io_error(&error) == Some(Errno::NODATA) { Ok(()) } else { Err(error) }
}

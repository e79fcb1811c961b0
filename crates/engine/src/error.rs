//! The engine's errors, sorted by who is to blame: the disk, the world, or the user's wish.

use butterfs_format::{Corruption, DevId};

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk lies.
    #[error("corrupt: {0}")]
    Corruption(#[from] Corruption),
    /// A device failed, is missing, or cannot be used.
    #[error(transparent)]
    Volume(butterfs_volume::Error),
    /// The filesystem has no room for what was asked.
    #[error("no space left on the filesystem")]
    NoSpace,
    /// The same, of what is to be moved; the text says what, and what it takes.
    #[error("{0}")]
    NoRoom(String),
    /// A device is to be larger than it is.
    #[error("device {devid} has {has} bytes, and {wanted} are wanted; name max for all there is of it")]
    BeyondDevice {
        /// Its number.
        devid: DevId,
        /// How many bytes it has.
        has: u64,
        /// How many it was to have.
        wanted: u64,
    },
    /// No such file, subvolume or item.
    #[error("no such file or directory")]
    NotFound,
    /// The filesystem has no device with this number.
    #[error("there is no device {0}")]
    NoDevice(DevId),
    /// The name is taken.
    #[error("file exists")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotDirectory,
    /// Something else than a directory was needed.
    #[error("is a directory")]
    IsDirectory,
    /// The directory is not empty.
    #[error("directory not empty")]
    NotEmpty,
    /// The filesystem, mount or subvolume is read-only.
    #[error("read-only")]
    ReadOnly,
    /// The arguments make no sense together.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// A name is longer than 255 bytes.
    #[error("name too long")]
    NameTooLong,
    /// The inode has as many hard links as the format can hold.
    #[error("too many links")]
    TooManyLinks,
    /// The rules of the filesystem forbid it, whoever asks.
    #[error("operation not permitted: {0}")]
    NotPermitted(&'static str),
    /// Links and renames do not cross subvolumes.
    #[error("crosses a subvolume boundary")]
    CrossSubvolume,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// A file would become larger than the format allows.
    #[error("file too large")]
    TooLarge,
    /// A buffer is too small for the answer, or a value too large for an item.
    #[error("result does not fit")]
    DoesNotFit,
    /// A directory has as many names with the hash of this one as fit an item.
    #[error("too many names with the same hash in this directory; choose another name")]
    HashIsFull,
    /// It cannot be, or not yet; the text says why, and what it takes.
    #[error("{0}")]
    Refused(String),
    /// A profile takes more devices than there are, or would be left.
    #[error("profile {profile} needs at least {needed} devices, there would be {left}")]
    TooFewDevices {
        /// Its name.
        profile: &'static str,
        /// How many it takes.
        needed: usize,
        /// How many there are, or would be.
        left: usize,
    },
    /// One operation of those that exclude each other is under way, or was interrupted: this one.
    #[error("another operation is in progress: {0}{advice}", advice = what_to_do(.0))]
    InProgress(&'static str),
    /// Somebody wanted it to end before it was done.
    #[error("cancelled")]
    Cancelled,
    /// There is no such operation under way.
    #[error("not running")]
    NotRunning,
    /// The thing is in use.
    #[error("busy: {0}")]
    Busy(&'static str),
    /// The filesystem uses, or the caller wants, something this version does not do.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// An earlier error stopped all writing; the text is that first cause.
    #[error("the filesystem was made read-only by an earlier error: {0}")]
    Aborted(String),
    /// Somebody had the filesystem stopped as it is ([`Filesystem::shut_down`]): nothing is read or written any more.
    ///
    /// [`Filesystem::shut_down`]: crate::filesystem::Filesystem::shut_down
    #[error("the filesystem was shut down")]
    ShutDown,
}

/// What to do about an operation that does not end by itself.
fn what_to_do(name: &str) -> &'static str {
    match name {
        "balance paused" => "; balance resume goes on with it, balance cancel ends it",
        _ => "",
    }
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl From<butterfs_volume::Error> for Error {
    fn from(error: butterfs_volume::Error) -> Self {
        match error {
            butterfs_volume::Error::Corruption(corruption) => Self::Corruption(corruption),
            other => Self::Volume(other),
        }
    }
}

impl Error {
    /// The error that a system call gives for it (Linux numbers), as the kernel's Btrfs gives it for
    /// the same cause. Of blocks and sectors that fail their checks it says EIO, too, since it tried
    /// all copies. A device that says it is full is EIO: to the caller the filesystem is not.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Volume(butterfs_volume::Error::NotBtrfs { .. } | butterfs_volume::Error::Unsupported(_)) => 22,
            Self::Volume(butterfs_volume::Error::Busy(_)) => 16,
            Self::Corruption(_) | Self::Volume(_) | Self::ShutDown => 5,
            Self::NoSpace | Self::NoRoom(_) => 28,
            Self::NotFound | Self::NoDevice(_) => 2,
            Self::Exists => 17,
            Self::NotDirectory => 20,
            Self::IsDirectory => 21,
            Self::NotEmpty => 39,
            Self::ReadOnly | Self::Aborted(_) => 30,
            Self::Invalid(_) | Self::Refused(_) | Self::TooFewDevices { .. } => 22,
            Self::InProgress(_) => 115,
            Self::NotRunning => 107,
            Self::Cancelled => 125,
            Self::NameTooLong => 36,
            Self::TooManyLinks => 31,
            Self::NotPermitted(_) => 1,
            Self::CrossSubvolume => 18,
            Self::NoAttribute => 61,
            Self::TooLarge | Self::BeyondDevice { .. } => 27,
            Self::DoesNotFit => 34,
            Self::HashIsFull => 75,
            Self::Busy(_) => 16,
            Self::Unsupported(_) => 95,
        }
    }
}

#[cfg(test)]
mod tests {
    use butterfs_volume::Error as Volume;

    use super::*;

    /// Each error with the number that the kernel's Btrfs, or the VFS above it, gives for it.
    #[test]
    fn errors_have_the_kernels_numbers() {
        let device =
            |kind: std::io::ErrorKind| Volume::Device { name: "disk".into(), devid: None, source: kind.into() };
        let corruption = || Corruption::new("tree block 1", "its checksum is wrong");
        let table = [
            (Error::NotPermitted("immutable"), 1, "EPERM"),
            (Error::NotFound, 2, "ENOENT"),
            (Error::Corruption(corruption()), 5, "EIO"),
            (Volume::Corruption(corruption()).into(), 5, "EIO"),
            (Error::Volume(device(std::io::ErrorKind::Other)), 5, "EIO"),
            // A full disk below is not a full filesystem.
            (Error::Volume(device(std::io::ErrorKind::StorageFull)), 5, "EIO"),
            (Error::Volume(Volume::NotWritable("disk".into())), 5, "EIO"),
            (Error::Busy("mounted"), 16, "EBUSY"),
            (Error::Volume(Volume::Busy("disk".into())), 16, "EBUSY"),
            (Error::Exists, 17, "EEXIST"),
            (Error::CrossSubvolume, 18, "EXDEV"),
            (Error::NotDirectory, 20, "ENOTDIR"),
            (Error::IsDirectory, 21, "EISDIR"),
            (Error::Invalid("flags"), 22, "EINVAL"),
            (Error::Volume(Volume::Unsupported("a feature".into())), 22, "EINVAL"),
            (Error::NoDevice(DevId(7)), 2, "ENOENT"),
            (Error::Refused("too small".into()), 22, "EINVAL"),
            (Error::TooFewDevices { profile: "raid1", needed: 2, left: 1 }, 22, "EINVAL"),
            (Error::InProgress("balance"), 115, "EINPROGRESS"),
            (Error::NotRunning, 107, "ENOTCONN"),
            (Error::Cancelled, 125, "ECANCELED"),
            (Error::TooLarge, 27, "EFBIG"),
            (Error::BeyondDevice { devid: DevId(7), has: 1, wanted: 2 }, 27, "EFBIG"),
            (Error::NoSpace, 28, "ENOSPC"),
            (Error::NoRoom("too much lies there".into()), 28, "ENOSPC"),
            (Error::ReadOnly, 30, "EROFS"),
            (Error::Aborted("a write failed".into()), 30, "EROFS"),
            (Error::ShutDown, 5, "EIO"),
            (Error::TooManyLinks, 31, "EMLINK"),
            (Error::DoesNotFit, 34, "ERANGE"),
            (Error::HashIsFull, 75, "EOVERFLOW"),
            (Error::NameTooLong, 36, "ENAMETOOLONG"),
            (Error::NotEmpty, 39, "ENOTEMPTY"),
            (Error::NoAttribute, 61, "ENODATA"),
            (Error::Unsupported("a property".into()), 95, "EOPNOTSUPP"),
        ];
        for (error, number, name) in table {
            assert_eq!(error.errno(), number, "{error} is {name}");
            assert!(!error.to_string().is_empty());
        }
    }
}

//! What a property is one of: a path, and all that it is.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use butterfs_fuse::control;
use butterfs_fuse::mount::MountEntry;
use rustix::io::Errno;

use crate::exit;
use crate::failure::{Failure, Result};

/// What an object can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// A file or directory.
    #[value(alias = "i")]
    Inode,
    /// A subvolume, by its top directory.
    #[value(alias = "s")]
    Subvol,
    /// A filesystem, by its mount point.
    #[value(alias = "f")]
    Filesystem,
    /// A device of a filesystem; any path on its mount will do.
    #[value(alias = "d")]
    Device,
}

/// An open path, and what it is.
pub struct Object<'a> {
    /// As it was typed.
    pub path: &'a Path,
    file: File,
    kinds: Vec<Kind>,
}

impl<'a> Object<'a> {
    /// Opens a path; without a kind, finds out what it is.
    pub fn new(path: &'a Path, kind: Option<Kind>) -> Result<Self> {
        let undetected = |error: &io::Error| {
            let text = format!("failed to detect object type: {}", words(error));
            Failure::new(exit::USAGE, text)
        };
        let foreign = || Failure::new(exit::USAGE, format!("object is not a btrfs object: {}", path.display()));
        let found = path.metadata().map_err(|error| undetected(&error))?;
        if !found.is_file() && !found.is_dir() {
            return Err(foreign());
        }
        let file = File::open(path).map_err(|error| undetected(&error))?;
        control::subvolume_id(file.as_fd()).map_err(|_| foreign())?;
        let kinds = match kind {
            Some(kind) => vec![kind],
            None => kinds_of(path, file.as_fd()),
        };
        Ok(Self { path, file, kinds })
    }

    /// Whether it is one of these.
    pub fn is(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    /// The open file.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn kinds_of(path: &Path, file: BorrowedFd<'_>) -> Vec<Kind> {
    let mut kinds = vec![Kind::Inode];
    if control::subvolume_access(file).is_ok() {
        kinds.push(Kind::Subvol);
    }
    if path.canonicalize().and_then(|path| MountEntry::at(&path)).is_ok_and(|mount| mount.is_some()) {
        kinds.push(Kind::Filesystem);
    }
    kinds
}

/// The system's words for an error, without a number.
pub fn words(error: &io::Error) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) => "No such file or directory".into(),
        Some(Errno::ACCESS) => "Permission denied".into(),
        Some(Errno::PERM) => "Operation not permitted".into(),
        Some(Errno::INVAL) => "Invalid argument".into(),
        Some(Errno::ROFS) => "Read-only file system".into(),
        _ => {
            let text = error.to_string();
            text.split(" (os error").next().unwrap_or_default().to_owned()
        }
    }
}

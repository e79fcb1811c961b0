//! What a property is one of: a path, and all that it is.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use butterfs_engine::filesystem::Access;
use butterfs_fuse::control;
use butterfs_fuse::mount::MountEntry;
use rustix::io::Errno;

use super::place::Place;
use crate::commands::space::MountedFilesystem;
use crate::failure::{self, Failure, Result};
use crate::image::Opening;
use crate::image::path::{Last, resolve};
use crate::{exit, target};

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
    /// Where it is.
    pub place: Place,
    kinds: Vec<Kind>,
}

impl<'a> Object<'a> {
    /// Opens a path, or one in an image that is not mounted, to look or to change; without a kind, finds out what it is.
    pub fn new(path: &'a Path, kind: Option<Kind>, opening: &Opening, access: Access) -> Result<Self> {
        if let Some((image, inner)) = target::split(path) {
            return Self::in_image((path, image, inner), kind, opening, access);
        }
        let undetected = |error: &io::Error| {
            let text = format!("failed to detect object type: {}", words(error));
            Failure::new(exit::USAGE, text)
        };
        let foreign = || Failure::new(exit::USAGE, format!("object is not a btrfs object: {}", path.display()));
        let found = path.metadata().map_err(|error| undetected(&error))?;
        let is_device = found.file_type().is_block_device();
        if !found.is_file() && !found.is_dir() && !is_device {
            return Err(foreign());
        }
        let file = File::open(path).map_err(|error| undetected(&error))?;
        let is_on_btrfs = !is_device && control::subvolume_id(file.as_fd()).is_ok();
        if !is_on_btrfs && found.is_dir() {
            return Err(foreign());
        }
        if !is_on_btrfs {
            // A device, or an image: the filesystem on it.
            if butterfs_volume::scan([path.to_path_buf()]).is_empty() {
                return Err(foreign());
            }
            return match MountedFilesystem::of_device(path) {
                Ok(Some(mounted)) => Ok(Self { path, place: Place::Mounted(mounted.file), kinds: of_device(kind) }),
                _ => Self::in_image((path, path, b""), kind.or(Some(Kind::Device)), opening, access),
            };
        }
        let place = Place::Mounted(file);
        let kinds = match kind {
            Some(kind) => vec![kind],
            None => kinds_of(path, &place),
        };
        Ok(Self { path, place, kinds })
    }

    fn in_image(
        (path, image, inner): (&'a Path, &Path, &[u8]),
        kind: Option<Kind>,
        opening: &Opening,
        access: Access,
    ) -> Result<Self> {
        let fs = opening.open(image, access)?;
        let id = resolve(&fs, inner, Last::Follow).map_err(|error| failure::engine(exit::USAGE, path, &error))?;
        let place = Place::Image(Box::new(fs), id);
        let kinds = match kind {
            Some(kind) => vec![kind],
            None if place.is_top() => vec![Kind::Inode, Kind::Subvol, Kind::Filesystem],
            None => vec![Kind::Inode],
        };
        Ok(Self { path, place, kinds })
    }

    /// Whether it is one of these.
    pub fn is(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }
}

fn of_device(kind: Option<Kind>) -> Vec<Kind> {
    vec![kind.unwrap_or(Kind::Device)]
}

fn kinds_of(path: &Path, place: &Place) -> Vec<Kind> {
    let mut kinds = vec![Kind::Inode];
    if place.is_top() {
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

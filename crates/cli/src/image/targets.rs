//! The arguments `IMAGE[:PATH]...` of a command that reads.

use std::path::{Path, PathBuf};

use butterfs_engine::filesystem::{Access, Filesystem};

use super::{Opening, glob};
use crate::failure::{self, Failure, Result};
use crate::names::Shown;
use crate::target::split_image;
use crate::{exit, output};

/// Paths in one image.
#[derive(Clone, Debug, clap::Args)]
pub struct Targets {
    /// An image file or a block device, not mounted; after a colon, a path in it, in which `*`, `?` and
    /// `[...]` stand for names (quote them, or the shell looks at its own files). Of an image whose name has
    /// colons, the longest part that exists is taken.
    #[arg(value_name = "IMAGE[:PATH]", required = true)]
    targets: Vec<PathBuf>,
    #[command(flatten)]
    opening: Opening,
}

/// An image that is open for reading, and the paths in it that are meant.
pub struct Image {
    /// Its path, for messages.
    pub name: PathBuf,
    /// All that it consists of, as it was named.
    pub devices: Vec<PathBuf>,
    /// The filesystem.
    pub fs: Filesystem,
    /// The paths, wildcards resolved.
    pub paths: Vec<Vec<u8>>,
}

impl Targets {
    /// Opens the image, which must be the same for all.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub fn open(&self) -> Result<Image> {
        open(&self.targets, &self.opening)
    }
}

/// Opens the image that all of these name.
///
/// # Errors
/// What is wrong, and what to do.
pub fn open(targets: &[PathBuf], opening: &Opening) -> Result<Image> {
    let parts: Vec<(&Path, &[u8])> = targets.iter().map(|target| split_image(target)).collect();
    let Some((image, _)) = parts.first() else {
        return Err(Failure::new(exit::COPY_USAGE, "no image was named"));
    };
    if let Some((other, _)) = parts.iter().find(|(other, _)| other != image) {
        let text = format!("paths of one image at a time, but {} is another", other.display());
        return Err(Failure::at(exit::COPY_USAGE, image, text));
    }
    let fs = opening.open(image, Access::ReadOnly)?;
    let mut paths = Vec::new();
    for (_, path) in &parts {
        let found = glob::expand(&fs, path);
        paths.extend(found.map_err(|error| failure::engine(exit::NOT_COPIED, image, &error))?);
    }
    Ok(Image { name: image.to_path_buf(), devices: opening.images(image), fs, paths })
}

impl Image {
    /// Says that something went wrong at a path, and that the rest goes on.
    pub fn complain(&self, command: &str, path: &[u8], error: &butterfs_engine::Error) {
        output::complain(command, format_args!("{}:{}: {}", self.name.display(), Shown(path), error));
    }
}

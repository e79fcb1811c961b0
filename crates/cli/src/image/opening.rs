//! Opening the filesystem of an image.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, OpenOptions, SubvolumeChoice};
use butterfs_format::TreeId;
use butterfs_volume::{Missing, OpenMode};

use crate::failure::{self, Failure, Result};
use crate::{devices, exit};

/// What the commands that look into images have in common.
#[derive(Clone, Debug, clap::Args)]
pub struct Opening {
    /// Another device of the filesystem, or a directory to look for its devices in; may be given more than
    /// once.
    #[arg(long = "device", value_name = "PATH")]
    devices: Vec<PathBuf>,
    /// Read without devices that are missing.
    #[arg(long)]
    degraded: bool,
    /// Begin at this subvolume: its path from the top level, or its number (5 is the top level); without it
    /// at the default subvolume, as mount does.
    #[arg(long, value_name = "PATH|ID")]
    subvol: Option<OsString>,
}

impl Opening {
    /// Opens, and so locks, the filesystem.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub fn open(&self, image: &Path, access: Access) -> Result<Filesystem> {
        let named = self.images(image);
        let mode = match access {
            Access::ReadOnly => OpenMode::ReadOnly,
            Access::ReadWrite => OpenMode::ReadWrite,
        };
        let missing = if self.degraded { Missing::Accept } else { Missing::Refuse };
        let how = butterfs_volume::OpenOptions { missing, ..butterfs_volume::OpenOptions::new(mode) };
        let volume = devices::open_volume(exit::NOT_COPIED, &named, &how)?;
        let options = OpenOptions { access, subvolume: self.choice(), ..OpenOptions::default() };
        let opened = Filesystem::open(volume, options, Box::new(SystemEnvironment));
        opened.map_err(|error| self.failed(image, &error))
    }

    /// The image, and what else was named.
    pub fn images(&self, image: &Path) -> Vec<PathBuf> {
        std::iter::once(image.to_path_buf()).chain(self.devices.iter().cloned()).collect()
    }

    fn choice(&self) -> SubvolumeChoice {
        let Some(text) = &self.subvol else { return SubvolumeChoice::Default };
        match text.to_str().and_then(|text| text.parse().ok()) {
            Some(id) => SubvolumeChoice::Id(TreeId(id)),
            None => SubvolumeChoice::Path(text.clone().into_vec()),
        }
    }

    fn failed(&self, image: &Path, error: &butterfs_engine::Error) -> Failure {
        use butterfs_engine::Error;
        let problem = match error {
            _ if self.subvol.is_none() => return failure::engine(exit::NOT_COPIED, image, error),
            Error::NotFound => "no such subvolume",
            Error::NotDirectory | Error::Invalid(_) => "not a subvolume",
            _ => return failure::engine(exit::NOT_COPIED, image, error),
        };
        let name = self.subvol.clone().unwrap_or_default();
        let text = format!("--subvol {}: {problem}; see butterfs ls without it", name.display());
        Failure::at(exit::NOT_COPIED, image, text)
    }
}

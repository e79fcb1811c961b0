//! `IMAGE[:PATH]`, and further devices: where in which filesystem.

use std::path::{Path, PathBuf};

use super::image::Image;
use crate::failure::Result;
use crate::target::split_image;

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// An image file or a block device, not mounted; after a colon, a path in it.
    #[arg(value_name = "IMAGE[:PATH]")]
    image: PathBuf,
    /// The other devices of a filesystem that has several.
    #[arg(value_name = "DEVICE")]
    devices: Vec<PathBuf>,
}

impl Target {
    /// Opens the filesystem; gives it and the path in it, which is empty for the top.
    pub fn open(&self) -> Result<(Image, Vec<u8>)> {
        let (image, path) = split_image(&self.image);
        let mut paths = vec![image.to_path_buf()];
        paths.extend(self.devices.iter().cloned());
        Ok((Image::open(&paths)?, path.to_vec()))
    }

    /// The image, for messages.
    pub fn image(&self) -> &Path {
        split_image(&self.image).0
    }
}

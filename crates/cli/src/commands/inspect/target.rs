//! `IMAGE[:PATH]`, and further devices: where in which filesystem.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::image::Image;
use crate::failure::Result;

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
        let (image, path) = split(&self.image);
        let mut paths = vec![image.to_path_buf()];
        paths.extend(self.devices.iter().cloned());
        Ok((Image::open(&paths)?, path.to_vec()))
    }

    /// The image, for messages.
    pub fn image(&self) -> &Path {
        split(&self.image).0
    }
}

/// An image whose own name has a colon is taken whole if it is there.
fn split(target: &Path) -> (&Path, &[u8]) {
    let bytes = target.as_os_str().as_bytes();
    if target.exists() {
        return (target, &[]);
    }
    let colons = bytes.iter().enumerate().filter(|(_, byte)| **byte == b':').map(|(at, _)| at);
    let parts = colons.map(|at| (Path::new(OsStr::from_bytes(&bytes[..at])), &bytes[at + 1..]));
    parts.into_iter().find(|(image, _)| image.exists()).unwrap_or((target, &[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_what_exists() {
        assert_eq!(split(Path::new("/dev/null:a:b")), (Path::new("/dev/null"), &b"a:b"[..]));
        assert_eq!(split(Path::new("/dev/null")), (Path::new("/dev/null"), &b""[..]));
        assert_eq!(split(Path::new("/nowhere:x")), (Path::new("/nowhere:x"), &b""[..]));
    }
}

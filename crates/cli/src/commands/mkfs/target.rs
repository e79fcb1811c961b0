//! An image file or device that a filesystem is made on, taken back as it was if that fails.

use std::fs::{File, OpenOptions};
use std::path::Path;

use butterfs_volume::{BlockDevice, FileDevice, signatures};

use crate::exit;
use crate::failure::{self, Failure, Result};

/// The image file or device, with what was done to it so far.
pub(super) struct Target<'a> {
    pub(super) path: &'a Path,
    undo: Undo,
}

enum Undo {
    Nothing,
    Remove,
    Truncate(u64),
}

/// What is wanted of it.
pub(super) struct Wish {
    /// The size that was asked for.
    pub size: Option<u64>,
    /// Otherwise, of a file: how large it must be at least.
    pub least: Option<u64>,
    /// Whether what it holds may be overwritten.
    pub force: bool,
}

impl Wish {
    /// The size to extend it to.
    fn size_of(&self, path: &Path) -> Option<u64> {
        self.size.or(self.least.filter(|_| !path.exists() || path.is_file()))
    }
}

impl<'a> Target<'a> {
    /// Opens the device, alone, and makes it large enough, unless it holds something.
    pub(super) fn prepare(path: &'a Path, wish: &Wish) -> Result<(Self, FileDevice)> {
        let mut target = Self { path, undo: Undo::Nothing };
        let size = wish.size_of(path);
        if !path.exists() {
            target.create(size)?;
        }
        let device = target.open()?;
        let error = |error| failure::io(exit::USAGE, path, &error);
        if !wish.force
            && let Some(found) = signatures::find(&device).map_err(error)?
        {
            return Err(Failure::at(exit::USAGE, path, format!("holds {found}; use -f to overwrite it")));
        }
        match size {
            Some(size) if size > device.len() => {
                let old = device.len();
                drop(device);
                target.extend(old, size)?;
                let device = target.open()?;
                Ok((target, device))
            }
            _ => Ok((target, device)),
        }
    }

    fn open(&self) -> Result<FileDevice> {
        FileDevice::open_read_write(self.path).map_err(|error| failure::volume(exit::USAGE, self.path, &error))
    }

    fn create(&mut self, size: Option<u64>) -> Result<()> {
        if size.is_none() {
            return Err(Failure::at(exit::USAGE, self.path, "no such file; give --size to create it, for example 2G"));
        }
        File::create_new(self.path).map_err(|error| failure::io(exit::USAGE, self.path, &error))?;
        self.undo = Undo::Remove;
        Ok(())
    }

    fn extend(&mut self, old: u64, size: u64) -> Result<()> {
        let error = |error| failure::io(exit::USAGE, self.path, &error);
        let file = OpenOptions::new().write(true).open(self.path).map_err(error)?;
        if !file.metadata().map_err(error)?.is_file() {
            let text = format!("has {old} bytes, {size} were asked for; a device cannot be extended");
            return Err(Failure::at(exit::USAGE, self.path, text));
        }
        file.set_len(size).map_err(error)?;
        if matches!(self.undo, Undo::Nothing) {
            self.undo = Undo::Truncate(old);
        }
        Ok(())
    }

    /// The filesystem is made.
    pub(super) fn keep(mut self) {
        self.undo = Undo::Nothing;
    }
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        let _ = match self.undo {
            Undo::Nothing => Ok(()),
            Undo::Remove => std::fs::remove_file(self.path),
            Undo::Truncate(old) => OpenOptions::new().write(true).open(self.path).and_then(|file| file.set_len(old)),
        };
    }
}

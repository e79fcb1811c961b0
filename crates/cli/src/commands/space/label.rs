//! `filesystem label`, and the label of what is not mounted for `property`.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, OpenOptions};
use butterfs_fuse::control;
use butterfs_volume::{Missing, OpenMode};

use super::mounted::MountedFilesystem;
use super::picture::{Further, not_btrfs};
use crate::failure::{self, Failure, Result};
use crate::{devices, exit, output};

/// What `filesystem label` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    further: Further,
    /// Any directory on a mount, or an image or device.
    path: PathBuf,
    /// The new label, at most 255 bytes; without it, the label is printed.
    label: Option<String>,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let path = arguments.path.as_path();
    let place = Label::of(path, &arguments.further)?;
    match &arguments.label {
        Some(label) => change_label(&place, label),
        None => {
            output::line(read_label(&place)?);
            Ok(())
        }
    }
}

/// A filesystem that has a label.
pub enum Label {
    /// A mounted one.
    Mounted(MountedFilesystem),
    /// One on these devices.
    Unmounted(Vec<PathBuf>),
}

impl Label {
    /// The one that a path is in, or that an image or device holds.
    ///
    /// # Errors
    /// If there is no such path, or it is on no Btrfs.
    pub fn of(path: &Path, further: &Further) -> Result<Self> {
        let meta = path.metadata().map_err(|error| failure::io(exit::USAGE, path, &error))?;
        if meta.is_dir() {
            return MountedFilesystem::at(path).map(Self::Mounted).map_err(|error| not_btrfs(path, &error));
        }
        Ok(match MountedFilesystem::of_device(path) {
            Ok(Some(mounted)) => Self::Mounted(mounted),
            _ => Self::Unmounted(further.with(path)),
        })
    }
}

/// The label.
///
/// # Errors
/// If it cannot be read.
pub fn read_label(place: &Label) -> Result<String> {
    let label = match place {
        Label::Mounted(mounted) => {
            control::label(mounted.file.as_fd()).map_err(|error| failure::io(exit::USAGE, &mounted.target, &error))?
        }
        Label::Unmounted(paths) => {
            let named = &paths[..1];
            let opened = devices::find_and_open_unlocked(named);
            let opened = opened.map_err(|(path, error)| failure::volume(exit::USAGE, &path, &error))?;
            let volume = devices::open_degraded(opened);
            let volume = volume.map_err(|error| failure::volume(exit::USAGE, &paths[0], &error))?;
            let label = volume.superblock().label;
            label.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
        }
    };
    Ok(String::from_utf8_lossy(&label).into_owned())
}

/// Changes the label, durably.
///
/// # Errors
/// If it cannot be one, or cannot be written.
pub fn change_label(place: &Label, label: &str) -> Result<()> {
    if label.len() > control::LABEL_MAX {
        let most = control::LABEL_MAX;
        return Err(Failure::new(exit::USAGE, format!("label {label} is too long (max {most})")));
    }
    if label.contains('\n') {
        return Err(Failure::new(exit::USAGE, "invalid label: it contains a newline"));
    }
    match place {
        Label::Mounted(mounted) => control::set_label(mounted.file.as_fd(), label.as_bytes())
            .map_err(|error| failure::io(exit::USAGE, &mounted.target, &error)),
        Label::Unmounted(paths) => {
            let path = paths[0].as_path();
            let how = butterfs_volume::OpenOptions {
                missing: Missing::Refuse,
                ..butterfs_volume::OpenOptions::new(OpenMode::ReadWrite)
            };
            let volume = devices::open_volume(exit::USAGE, paths, &how)?;
            let options = OpenOptions { access: Access::ReadWrite, ..OpenOptions::default() };
            let failed = |error: &butterfs_engine::Error| failure::engine(exit::USAGE, path, error);
            let fs = Filesystem::open(volume, options, Box::new(SystemEnvironment)).map_err(|error| failed(&error))?;
            fs.set_label(label.as_bytes()).map_err(|error| failed(&error))
        }
    }
}

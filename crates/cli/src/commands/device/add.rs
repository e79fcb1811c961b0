//! `butterfs device add`: devices come to a filesystem.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use butterfs_engine::mkfs::MIN_SIZE;
use butterfs_fuse::control;
use butterfs_volume::{BlockDevice, FileDevice, make_unknown, signatures};

use super::split;
use crate::commands::mount::protected::is_protected;
use crate::commands::space;
use crate::commands::work_target::{Busy, ImageDevices, WorkTarget, ask, check_exclusive, not_ours};
use crate::failure::{self, Failure, Result};
use crate::{exit, output, size};

/// A device is told of so many bytes at a time that it may forget.
const DISCARD: u64 = 1 << 30;

/// What `add` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Do not tell the devices that nothing on them is needed.
    #[arg(short = 'K', long)]
    nodiscard: bool,
    /// Overwrite what is on them.
    #[arg(short, long)]
    force: bool,
    /// Wait if another such operation is under way.
    #[arg(long)]
    enqueue: bool,
    #[command(flatten)]
    image: ImageDevices,
    /// Devices or image files, and at the end the mount point, or an image of the filesystem.
    #[arg(required = true, num_args = 2.., value_name = "DEVICE... PATH")]
    paths: Vec<PathBuf>,
}

/// Runs the command.
pub fn run(add: &Arguments) -> Result<ExitCode> {
    let (path, devices) = split(&add.paths)?;
    let target = WorkTarget::open_to_add(path, &add.image)?;
    let added = add_all(add, path, devices, &target);
    space::warn_of_several_in(&target);
    added
}

fn add_all(add: &Arguments, path: &Path, devices: &[PathBuf], target: &WorkTarget) -> Result<ExitCode> {
    let refused = match target {
        WorkTarget::Mount(file) => {
            check_exclusive(ask(file), path, "device add", Busy::of(add.enqueue))?;
            control::check_addition(ask(file)).map_err(|error| not_ours(path, &error))?
        }
        WorkTarget::Image(fs) => fs.check_addition().err().map(|error| error.to_string()),
    };
    if let Some(why) = refused {
        return Err(Failure::at(exit::USAGE, path, format!("no device can be added: {why}")));
    }
    // What is refused is refused before anything is written to any of them.
    let found = devices
        .iter()
        .map(|device| {
            target.require_elsewhere(device)?;
            Ok((device, look(device, Overwrite::of(add.force))?))
        })
        .collect::<Result<Vec<_>>>()?;
    for (device, opened) in found {
        clear(device, &opened, Discard::of(add.nodiscard))?;
        let io = |error| failure::io(exit::USAGE, device, &error);
        match target {
            WorkTarget::Mount(file) => {
                let absolute = device.canonicalize().map_err(io)?;
                // The daemon opens it.
                drop(opened);
                let refused = control::add_device(ask(file), &absolute).map_err(|error| not_ours(path, &error))?;
                if let Some(text) = refused {
                    return Err(Failure::at(exit::USAGE, device, format!("error adding device: {text}")));
                }
            }
            WorkTarget::Image(fs) => {
                let opened: Arc<dyn BlockDevice> = Arc::new(opened);
                fs.add_device(&opened).map_err(|error| failure::engine(exit::USAGE, device, &error))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether what a device holds may be overwritten.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Overwrite {
    Refuse,
    Accept,
}

impl Overwrite {
    /// By the option `-f`.
    pub fn of(force: bool) -> Self {
        if force { Self::Accept } else { Self::Refuse }
    }
}

/// Whether a device is told that nothing on it is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Discard {
    Yes,
    No,
}

impl Discard {
    /// By the option `-K`.
    pub fn of(nodiscard: bool) -> Self {
        if nodiscard { Self::No } else { Self::Yes }
    }
}

/// Opens a device alone; refuses what holds something, or is too small.
pub(super) fn look(path: &Path, force: Overwrite) -> Result<FileDevice> {
    let io = |error| failure::io(exit::USAGE, path, &error);
    let device = FileDevice::open_read_write(path).map_err(|error| failure::volume(exit::USAGE, path, &error))?;
    // Linux opens it for writing all the same.
    if is_protected(path) {
        return Err(Failure::at(exit::USAGE, path, "is read-only"));
    }
    if force == Overwrite::Refuse
        && let Some(found) = signatures::find(&device).map_err(io)?
    {
        let text = format!("holds {found}; use the -f option to force overwrite of it");
        return Err(Failure::at(exit::USAGE, path, text));
    }
    if device.len() < MIN_SIZE {
        let text = format!("has {} bytes, a device needs at least {MIN_SIZE}", device.len());
        return Err(Failure::at(exit::USAGE, path, text));
    }
    Ok(device)
}

/// Has a device forget what it holds, after nobody takes it for that any more.
pub(super) fn clear(path: &Path, device: &FileDevice, how: Discard) -> Result<()> {
    make_unknown(device).map_err(|error| failure::volume(exit::USAGE, path, &error))?;
    if how == Discard::Yes && discard(device) {
        let (name, len) = (path.display(), size::display(device.len()));
        output::line(format!("Performing full device TRIM {name} ({len}) ..."));
    }
    Ok(())
}

/// Says whether the device could do something with it.
fn discard(device: &FileDevice) -> bool {
    let len = device.len();
    let mut parts = (0..len).step_by(DISCARD as usize).map(|at| device.discard(at, DISCARD.min(len - at)));
    parts.all(|done| done.is_ok())
}

//! `butterfs device resync`: devices that were away while the others were written get what they missed.

use std::path::PathBuf;
use std::process::ExitCode;

use butterfs_engine::filesystem::{OpenOptions, Returning};

use crate::commands::work_target::{ImageDevices, open_image};
use crate::failure::{self, Failure, Result};
use crate::{exit, output, size};

/// What `resync` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    image: ImageDevices,
    /// An image or device of the filesystem.
    path: PathBuf,
}

/// Runs the command.
pub fn run(resync: &Arguments) -> Result<ExitCode> {
    if resync.path.is_dir() {
        let text = "is a directory; a mount brings the devices up to date that it was mounted with, by itself: for those that are \
                    not mounted name an image or a device";
        return Err(Failure::at(exit::USAGE, &resync.path, text));
    }
    let options = OpenOptions { returning: Returning::CatchUp, ..OpenOptions::default() };
    let fs = open_image(&resync.path, &resync.image, options)?;
    let done = fs.resync().map_err(|error| failure::engine(exit::USAGE, &resync.path, &error))?;
    let missing = fs.shared().gate.volume().missing_devices();
    if done.is_empty() && missing.is_empty() {
        output::line("All devices are up to date");
    }
    for device in &done {
        let (devid, since) = (device.devid, device.since);
        let (copied, compared) = (size::display(device.progress.copied), size::display(device.progress.compared));
        output::line(format!(
            "Device {devid} was of generation {since} and is up to date: {copied} copied, {compared} compared"
        ));
        if device.progress.unreadable > 0 {
            let lost = size::display(device.progress.unreadable);
            output::line(format!("{lost} could not be read from the other devices; scrub the filesystem"));
        }
    }
    if !missing.is_empty() {
        let error = butterfs_volume::Error::MissingDevices(missing);
        let text = format!("{error}, and was not looked at; name all devices that are back with --device");
        return Err(Failure::at(exit::USAGE, &resync.path, text));
    }
    let all_read = done.iter().all(|device| device.progress.unreadable == 0);
    Ok(if all_read { ExitCode::SUCCESS } else { ExitCode::from(exit::USAGE) })
}

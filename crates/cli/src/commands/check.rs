//! `butterfs check`: looks at everything, writes nothing.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use butterfs_check::{Options, check};
use butterfs_volume::{FileDevice, OpenMode, Volume};

use crate::failure::{self, Result};
use crate::{exit, output};

/// What `check` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// An image file or a block device, not mounted.
    image: PathBuf,
    /// Also read all data and compare it with its checksums.
    #[arg(long)]
    check_data_csum: bool,
    /// Say what is looked at.
    #[arg(short, long)]
    progress: bool,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let image = arguments.image.as_path();
    let failed = |error: butterfs_volume::Error| failure::volume(exit::NOT_CHECKED, image, &error);
    let device = Arc::new(FileDevice::open_read_only(image).map_err(failed)?);
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadOnly).map_err(failed)?;
    output::line(format!("Checking {} (read-only: nothing is written)", image.display()));
    output::line(format!("UUID: {}", uuid::Uuid::from_bytes(volume.superblock().fsid)));
    if arguments.progress {
        output::line(if arguments.check_data_csum { "reading all trees and all data" } else { "reading all trees" });
    }
    let options = Options { data_csums: arguments.check_data_csum, devices: vec![device], ..Options::default() };
    let report = check(&volume, &options);
    output::line(&report);
    output::line(if report.is_clean() { "no error found" } else { "ERRORS FOUND" });
    Ok(ExitCode::from(if report.is_clean() { 0 } else { exit::FOUND }))
}

//! `butterfs device`: the devices of filesystems, on mounts and with images. Options, words and exit statuses are those of
//! btrfs-progs.

mod add;
mod held;
mod remove;
mod replace;
mod resync;
mod scan;
mod stats;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::space;
use crate::exit;
use crate::failure::{Failure, Result};

/// Work on devices.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Add devices to a filesystem. What they hold is lost.
    Add(add::Arguments),
    /// Remove devices from a filesystem: what is on them is moved to the others first, all in one pass.
    #[command(visible_alias = "delete")]
    Remove(remove::Arguments),
    /// Replace a device by another.
    #[command(subcommand)]
    Replace(replace::Command),
    /// Bring devices up to date that were away while the filesystem was written: only what is newer is copied.
    ///
    /// For images; a mount does so by itself, in the background.
    Resync(resync::Arguments),
    /// Show what the chunks of a filesystem take of each device.
    Usage(space::DeviceUsageArguments),
    /// Show how often something went wrong with each device.
    Stats(stats::Arguments),
    /// Look for devices of Btrfs filesystems, and list them by filesystem.
    ///
    /// Nothing is registered: each command looks itself.
    Scan(scan::ScanArguments),
    /// Tell whether all devices of a filesystem are there: exit status 0 if so, else 1.
    Ready(scan::ReadyArguments),
}

impl Command {
    /// Its name, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "device add",
            Self::Remove(_) => "device remove",
            Self::Replace(command) => command.name(),
            Self::Resync(_) => "device resync",
            Self::Usage(_) => "device usage",
            Self::Stats(_) => "device stats",
            Self::Scan(_) => "device scan",
            Self::Ready(_) => "device ready",
        }
    }
}

/// Runs the command.
pub fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Add(arguments) => add::run(arguments),
        Command::Remove(arguments) => remove::run(arguments),
        Command::Replace(command) => replace::run(command),
        Command::Resync(arguments) => resync::run(arguments),
        Command::Usage(arguments) => space::device_usage(arguments).map(|()| ExitCode::SUCCESS),
        Command::Stats(arguments) => stats::run(arguments),
        Command::Scan(arguments) => scan::scan(arguments).map(|()| ExitCode::SUCCESS),
        Command::Ready(arguments) => scan::ready(arguments),
    }
}

/// The devices that are named, and what is named last.
fn split(paths: &[PathBuf]) -> Result<(&Path, &[PathBuf])> {
    let (path, devices) = paths.split_last().ok_or_else(|| Failure::new(exit::USAGE, "no path was named"))?;
    Ok((path, devices))
}

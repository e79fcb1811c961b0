//! `butterfs device`: the devices of filesystems.

mod scan;
mod stats;

use std::process::ExitCode;

use super::space;
use crate::failure::Result;

/// Work on devices.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
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
        Command::Usage(arguments) => space::device_usage(arguments).map(|()| ExitCode::SUCCESS),
        Command::Stats(arguments) => stats::run(arguments),
        Command::Scan(arguments) => scan::scan(arguments).map(|()| ExitCode::SUCCESS),
        Command::Ready(arguments) => scan::ready(arguments),
    }
}

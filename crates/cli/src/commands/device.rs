//! `butterfs device`: the devices of a filesystem.

use super::space;
use crate::failure::Result;

/// The devices of a filesystem.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show what the chunks of a filesystem take of each device.
    Usage(space::DeviceUsageArguments),
}

impl Command {
    /// Its name, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Usage(_) => "device usage",
        }
    }
}

/// Runs the command.
pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Usage(arguments) => space::device_usage(arguments),
    }
}

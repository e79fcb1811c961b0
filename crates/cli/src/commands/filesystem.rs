//! `butterfs filesystem`: a filesystem as a whole.

use std::process::ExitCode;

use super::{Format, defragment, resize, space, sync};
use crate::failure::Result;

/// Work on a filesystem as a whole.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Commit: everything written so far is on disk afterwards.
    Sync(sync::Arguments),
    /// Defragment files, or the tree of a subvolume.
    Defragment(defragment::Arguments),
    /// Make a device of a filesystem larger or smaller; on a mount or in an image.
    Resize(resize::Arguments),
    /// Show how much there is of data and metadata, and how much of it is used.
    Df(space::DfArguments),
    /// Show in detail how a filesystem uses its devices.
    Usage(space::UsageArguments),
    /// Show filesystems and their devices.
    Show(space::ShowArguments),
    /// Get or change the label of a filesystem, mounted or not.
    Label(space::LabelArguments),
    /// Show what files take, and how much of it they share.
    Du(space::DuArguments),
}

impl Command {
    /// Its name, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sync(_) => "filesystem sync",
            Self::Defragment(_) => "filesystem defragment",
            Self::Resize(_) => "filesystem resize",
            Self::Df(_) => "filesystem df",
            Self::Usage(_) => "filesystem usage",
            Self::Show(_) => "filesystem show",
            Self::Label(_) => "filesystem label",
            Self::Du(_) => "filesystem du",
        }
    }

    /// Whether there is JSON output.
    pub fn knows_json(&self) -> bool {
        matches!(self, Self::Df(_))
    }
}

/// Runs the command.
pub fn run(command: &Command, format: Format) -> Result<ExitCode> {
    match command {
        Command::Sync(arguments) => sync::run(arguments),
        Command::Defragment(arguments) => defragment::run(arguments),
        Command::Resize(arguments) => resize::run(arguments),
        Command::Df(arguments) => space::df(arguments, format),
        Command::Usage(arguments) => space::usage(arguments),
        Command::Show(arguments) => space::show(arguments),
        Command::Label(arguments) => space::label(arguments),
        Command::Du(arguments) => return space::du(arguments),
    }
    .map(|()| ExitCode::SUCCESS)
}

//! `butterfs scrub`: read all that devices hold, compare it with its checksums, and repair it. On mounts, and on
//! images and devices that are not mounted. Options, words and exit statuses are those of `btrfs scrub`.

mod limit;
mod print;
mod record;
mod run;
mod status;
mod target;

use std::path::PathBuf;
use std::process::ExitCode;

use butterfs_fuse::control;
use rustix::io::Errno;
use std::os::fd::AsFd;

use crate::failure::{self, Failure, Result};
use crate::{exit, output, size};

/// Nothing to resume, nothing to cancel.
const NOTHING: u8 = 2;
/// Errors that could not be repaired.
const UNCORRECTABLE: u8 = 3;

/// Read all that devices hold, and repair it.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Start a scrub: of all devices of a mounted filesystem, in the background; or of an image that is not mounted,
    /// in the foreground.
    ///
    /// Exit status: 0 if all is well or was repaired, 1 if it could not be done, 3 if there are errors that could not be
    /// repaired.
    Start(Start),
    /// Go on with a scrub that was cancelled or interrupted, where it was.
    ///
    /// Exit status: as of start, and 2 if there is nothing to resume.
    Resume(Start),
    /// Stop the scrub of a mounted filesystem; it can be resumed.
    ///
    /// Exit status: 0 if it was stopped, 2 if none was running.
    Cancel {
        /// A path on the mounted filesystem.
        path: PathBuf,
    },
    /// Show how the scrub is that runs, or how the last one ended.
    Status(status::Arguments),
    /// Show or change how fast scrubs read each device.
    Limit(limit::Arguments),
    /// Wait for scrubs, and write down how they end.
    #[command(hide = true)]
    Record {
        /// A path on the mounted filesystem.
        path: PathBuf,
    },
}

/// What is scrubbed, and how.
#[derive(Debug, clap::Args)]
pub struct Start {
    /// Do not put it in the background: wait, and print what was found.
    #[arg(short = 'B')]
    foreground: bool,
    /// With -B: numbers for each device.
    #[arg(short = 'd')]
    by_device: bool,
    /// Say nothing.
    #[arg(short = 'q', long = "quiet")]
    quiet: bool,
    /// Write nothing: errors are found and not repaired.
    #[arg(short = 'r')]
    read_only: bool,
    /// With -B: print the numbers as they are counted.
    #[arg(short = 'R')]
    raw: bool,
    /// Start also if the record says that one runs.
    #[arg(short = 'f')]
    force: bool,
    /// Class of I/O priority; taken and not used: see --limit.
    #[arg(short = 'c', value_name = "CLASS")]
    priority_class: Option<u8>,
    /// I/O priority; taken and not used: see --limit.
    #[arg(short = 'n', value_name = "DATA")]
    priority: Option<u8>,
    /// Read no more than this of each device in a second; 0: no limit.
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    limit: Option<u64>,
    /// A path on a mounted filesystem; or an image or device that is not mounted, with the others of its filesystem or
    /// directories to look for them in.
    #[arg(required = true)]
    target: Vec<PathBuf>,
}

impl Command {
    /// Its name, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Start(_) => "scrub start",
            Self::Resume(_) => "scrub resume",
            Self::Cancel { .. } => "scrub cancel",
            Self::Status(_) => "scrub status",
            Self::Limit(_) => "scrub limit",
            Self::Record { .. } => "scrub record",
        }
    }
}

/// Runs the command.
pub fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Start(arguments) => run::start(arguments, run::From::Beginning),
        Command::Resume(arguments) => run::start(arguments, run::From::Record),
        Command::Cancel { path } => cancel(path).map(|()| ExitCode::SUCCESS),
        Command::Status(arguments) => status::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::Limit(arguments) => limit::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::Record { path } => run::record(path).map(|()| ExitCode::SUCCESS),
    }
}

fn cancel(path: &std::path::Path) -> Result<()> {
    let mount = target::open_mount(path)?;
    control::cancel_scrubs(mount.file.as_fd()).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::NOTCONN) => Failure::at(NOTHING, path, "scrub cancel failed: not running"),
        _ => failure::io(exit::USAGE, path, &error),
    })?;
    output::line("scrub cancelled");
    Ok(())
}

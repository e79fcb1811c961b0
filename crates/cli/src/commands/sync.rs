//! `butterfs sync`: everything written so far is on disk afterwards.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;

use butterfs_fuse::control;
use rustix::io::Errno;

use crate::exit;
use crate::failure::{self, Failure, Result};

/// What `sync` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Any path in the mounted filesystem.
    path: PathBuf,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let path = arguments.path.as_path();
    let file = File::open(path).map_err(|error| failure::io(exit::USAGE, path, &error))?;
    control::sync(file.as_fd()).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Failure::at(
            exit::USAGE,
            path,
            "not on a filesystem mounted by butterfs; name a path in one, or use sync(1)",
        ),
        _ => failure::io(exit::USAGE, path, &error),
    })
}

//! `butterfs sync`: everything written so far is on disk afterwards.

use std::path::PathBuf;

use crate::control;

use crate::exit;
use crate::failure::{self, Result};

/// What `sync` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Any path in the mounted filesystem.
    path: PathBuf,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let path = arguments.path.as_path();
    control::sync(path).map_err(|error| failure::io(exit::USAGE, path, &error))
}

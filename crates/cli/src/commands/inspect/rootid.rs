//! `inspect-internal rootid`: the subvolume that a path is in.

use std::process::ExitCode;

use serde_json::json;

use super::report::{failure, output_failure};
use super::target::Target;
use super::{OutputFormat, json, paths};
use crate::commands::Format;
use crate::failure::Result;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  butterfs inspect-internal rootid disk.img:home/anna

Symbolic links in the path are not followed.";

/// What it is told.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: OutputFormat,
}

/// Runs the command.
pub fn run(arguments: &Arguments, before: Format) -> Result<ExitCode> {
    let (image, path) = arguments.target.open()?;
    let place = paths::look_up(&image, &path).map_err(|problem| failure(arguments.target.image(), problem))?;
    let id = place.tree;
    output::stream(|out| match arguments.output.or(before) {
        Format::Text => writeln!(out, "{id}"),
        Format::Json => json::list(out, "inspect-rootid", &[json!({ "rootid": id.0 })]),
    })
    .map_err(|error| output_failure(&error))?;
    Ok(ExitCode::SUCCESS)
}

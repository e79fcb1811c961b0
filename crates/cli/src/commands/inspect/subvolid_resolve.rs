//! `inspect-internal subvolid-resolve`: the path of a subvolume.

use std::process::ExitCode;

use butterfs_format::TreeId;
use serde_json::{Map, Value};

use super::report::{failure, output_failure};
use super::target::Target;
use super::{OutputFormat, json, paths};
use crate::commands::Format;
use crate::failure::Result;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  butterfs inspect-internal subvolid-resolve 256 disk.img

The path is from the top of the filesystem, without a slash before it; for the top itself (5) it is empty.";

/// What it is told.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The subvolume's id.
    subvolid: u64,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: OutputFormat,
}

/// Runs the command: the path is from the top of the filesystem, and empty for the top itself.
pub fn run(arguments: &Arguments, before: Format) -> Result<ExitCode> {
    let (image, _) = arguments.target.open()?;
    let id = TreeId(arguments.subvolid);
    let fail = |problem| failure(arguments.target.image(), problem);
    if !id.is_subvolume() {
        return Err(fail(format!("tree {id} is no subvolume")));
    }
    let path = paths::subvolume_path(&image, id).map_err(fail)?;
    output::stream(|out| match arguments.output.or(before) {
        Format::Text => out.write_all(&path).and_then(|()| out.write_all(b"\n")),
        Format::Json => {
            let mut entry = Map::new();
            entry.insert("subvolid".into(), id.0.into());
            json::text(&mut entry, "path", &path);
            json::list(out, "inspect-subvolid-resolve", &[Value::Object(entry)])
        }
    })
    .map_err(|error| output_failure(&error))?;
    Ok(ExitCode::SUCCESS)
}

//! `inspect-internal inode-resolve`: the names of an inode.

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;

use butterfs_format::Ino;
use serde_json::{Map, Value};

use super::paths::{self, Place};
use super::report::{failure, output_failure};
use super::target::Target;
use super::{OutputFormat, json};
use crate::commands::Format;
use crate::failure::Result;
use crate::names::Shown;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  butterfs inspect-internal inode-resolve 257 disk.img
  butterfs inspect-internal inode-resolve 257 disk.img:home

Every subvolume has inodes of its own: the path after the colon says which one is meant, without it the top
one. All names of the inode are printed, from the top of the filesystem.";

/// What it is told.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The inode's number.
    inode: u64,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: OutputFormat,
}

/// Runs the command: the inode is one of the subvolume that the path in the image is in; its paths are
/// from the top of the filesystem.
pub fn run(arguments: &Arguments, before: Format) -> Result<ExitCode> {
    let (image, path) = arguments.target.open()?;
    let fail = |problem| failure(arguments.target.image(), problem);
    let subvolume = paths::look_up(&image, &path).map_err(fail)?;
    let place = Place { ino: Ino(arguments.inode), ..subvolume };
    let found = paths::full_paths(&image, place).map_err(fail)?;
    output::stream(|out| match arguments.output.or(before) {
        // A terminal would do what control characters in names say.
        Format::Text if stdout().is_terminal() => found.iter().try_for_each(|path| writeln!(out, "{}", Shown(path))),
        Format::Text => found.iter().try_for_each(|path| out.write_all(path).and_then(|()| out.write_all(b"\n"))),
        Format::Json => {
            let entries: Vec<_> = found.iter().map(|path| entry(place, path)).collect();
            json::list(out, "inspect-inode-resolve", &entries)
        }
    })
    .map_err(|error| output_failure(&error))?;
    Ok(ExitCode::SUCCESS)
}

fn entry(place: Place, path: &[u8]) -> Value {
    let mut entry = Map::new();
    entry.insert("rootid".into(), place.tree.0.into());
    entry.insert("inode".into(), place.ino.0.into());
    json::text(&mut entry, "path", path);
    Value::Object(entry)
}

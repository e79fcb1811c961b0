//! `filesystem df`.

use std::path::PathBuf;

use serde_json::json;

use super::picture::{Further, Picture};
use super::several::warn_of_several;
use super::sums::{profile_name, type_name};
use crate::commands::units::{ShortUnits, Units};
use crate::commands::{Format, json};
use crate::failure::{Failure, Result};
use crate::{exit, output};

/// What `filesystem df` is told.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Arguments {
    #[command(flatten)]
    units: ShortUnits,
    #[command(flatten)]
    further: Further,
    /// Any directory on a mount, or an image or device that is not mounted.
    path: PathBuf,
}

/// Runs the command.
pub fn run(arguments: &Arguments, format: Format) -> Result<()> {
    let picture = Picture::of(&arguments.path, &arguments.further)?;
    let units = Units::from(arguments.units);
    let entry = |space: &butterfs_fuse::control::SpaceInfo| {
        json!({
            "bg-type": type_name(space.flags),
            "bg-profile": profile_name(space.flags),
            "total": space.total,
            "used": space.used,
        })
    };
    output::stream(|out| match format {
        Format::Json => json::list(out, "filesystem-df", &picture.spaces.iter().map(entry).collect::<Vec<_>>()),
        Format::Text => picture.spaces.iter().try_for_each(|space| {
            let (name, profile) = (type_name(space.flags), profile_name(space.flags));
            let (total, used) = (units.show(space.total), units.show(space.used));
            writeln!(out, "{name}, {profile}: total={total}, used={used}")
        }),
    })
    .map_err(|error| Failure::new(exit::USAGE, error))?;
    warn_of_several(&picture.spaces);
    Ok(())
}

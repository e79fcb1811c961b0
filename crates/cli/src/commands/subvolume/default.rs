//! `butterfs subvolume get-default` and `set-default`.

use std::os::fd::AsFd;
use std::path::PathBuf;

use butterfs_fuse::control;
use serde_json::json;

use super::{Format, OutputFormat, failed, find, open, open_directory};
use crate::failure::{Failure, Result};
use crate::{exit, output};

/// The number of the top level.
const TOP: u64 = 5;

/// What `subvolume get-default` is told.
#[derive(Debug, clap::Args)]
pub struct GetArguments {
    /// Any path in the mounted filesystem.
    path: PathBuf,
    #[command(flatten)]
    format: OutputFormat,
}

/// What `subvolume set-default` is told.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "butterfs subvolume set-default <SUBVOLUME>\n       butterfs subvolume set-default <ID> <PATH>"
)]
pub struct SetArguments {
    /// The subvolume, or its number.
    subvolume: PathBuf,
    /// With a number: any path in the mounted filesystem.
    path: Option<PathBuf>,
}

/// Shows the default.
pub fn get(arguments: &GetArguments, before: Format) -> Result<()> {
    let path = arguments.path.as_path();
    let file = open_directory(path)?;
    let id = control::default_subvolume(file.as_fd()).map_err(|error| failed(path, &error))?;
    let json = arguments.format.or(before) == Format::Json;
    if id == TOP {
        let text = if json { json!({ "id": TOP }).to_string() } else { format!("ID {TOP} (FS_TREE)") };
        output::line(text);
        return Ok(());
    }
    let all = control::list_subvolumes(file.as_fd()).map_err(|error| failed(path, &error))?;
    let Some(found) = find(&all, id) else {
        return Err(Failure::at(
            exit::USAGE,
            path,
            format!("the default subvolume {id} does not exist; set another one"),
        ));
    };
    let (generation, parent, name) = (found.generation, found.parent.unwrap_or(0), found.path.display());
    output::line(match json {
        true => json!({ "id": id, "gen": generation, "top_level": parent, "path": name.to_string() }).to_string(),
        false => format!("ID {id} gen {generation} top level {parent} path {name}"),
    });
    Ok(())
}

/// Chooses the default.
pub fn set(arguments: &SetArguments) -> Result<()> {
    let (path, id) = match &arguments.path {
        Some(path) => (path, Some(number(arguments)?)),
        None => (&arguments.subvolume, None),
    };
    let file = open(path)?;
    let id = match id {
        Some(id) => id,
        None => {
            control::subvolume_access(file.as_fd()).map_err(|error| failed(path, &error))?;
            control::subvolume_id(file.as_fd()).map_err(|error| failed(path, &error))?
        }
    };
    control::set_default_subvolume(file.as_fd(), id).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::at(exit::USAGE, path, format!("no subvolume {id}; see butterfs subvolume list"))
        }
        _ => failed(path, &error),
    })
}

fn number(arguments: &SetArguments) -> Result<u64> {
    let text = arguments.subvolume.to_string_lossy();
    text.parse().map_err(|_| Failure::new(exit::USAGE, format!("{text}: not a number; give the subvolume's number")))
}

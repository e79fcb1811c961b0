//! `butterfs subvolume snapshot`.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use butterfs_fuse::control::{self, Access};

use super::{Place, QuotaGroups, failed, open};
use crate::failure::{Failure, Result};
use crate::{exit, output};

/// What `subvolume snapshot` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A snapshot that cannot be changed.
    #[arg(short, long)]
    read_only: bool,
    #[command(flatten)]
    quota_groups: QuotaGroups,
    /// The subvolume.
    source: PathBuf,
    /// A path that does not exist yet, or a directory to put the snapshot in.
    destination: PathBuf,
}

/// A destination that is a directory gets the snapshot under the source's name.
pub fn run(arguments: &Arguments) -> Result<()> {
    arguments.quota_groups.require_none()?;
    let (source, destination) = (arguments.source.as_path(), arguments.destination.as_path());
    let access = if arguments.read_only { Access::ReadOnly } else { Access::ReadWrite };
    let inside;
    let shown;
    let place = if destination.is_dir() {
        let real = source.canonicalize().map_err(|error| failed(source, &error))?;
        inside = destination.join(Place::of(&real)?.name);
        shown = inside.as_path();
        Place::of(&inside)?
    } else if destination.exists() {
        return Err(Failure::at(exit::USAGE, destination, "exists and is not a directory; choose another name"));
    } else {
        shown = destination;
        Place::of(destination)?
    };
    take(source, &place, access)?;
    let kind = if access == Access::ReadOnly { "readonly snapshot" } else { "snapshot" };
    output::line(format!("Create {kind} of '{}' in '{}'", source.display(), shown.display()));
    Ok(())
}

fn take(source: &Path, place: &Place<'_>, access: Access) -> Result<()> {
    let (top, directory) = (open(source)?, open(place.directory)?);
    // The call itself does not say which of the two is wrong.
    control::subvolume_access(top.as_fd()).map_err(|error| failed(source, &error))?;
    let taken = control::snapshot(top.as_fd(), directory.as_fd(), place.name, access);
    taken.map_err(|error| failed(&place.path(), &error))?;
    Ok(())
}

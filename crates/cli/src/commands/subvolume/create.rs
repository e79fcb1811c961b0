//! `butterfs subvolume create`.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use butterfs_fuse::control;

use super::{Place, QuotaGroups, failed, open};
use crate::failure::Result;
use crate::{exit, output};

/// What `subvolume create` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    quota_groups: QuotaGroups,
    /// Make directories on the way that are missing, as mkdir -p.
    #[arg(short, long)]
    parents: bool,
    /// Where: paths that do not exist yet.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// Makes each that can be made.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    arguments.quota_groups.require_none()?;
    let mut code = ExitCode::SUCCESS;
    for path in &arguments.paths {
        if arguments.parents {
            make_parents(path);
        }
        if let Err(failure) = create(path) {
            output::complain("subvolume create", failure.line());
            code = ExitCode::from(exit::USAGE);
        }
    }
    Ok(code)
}

/// What cannot be made is told when the subvolume's directory is opened.
fn make_parents(path: &Path) {
    if let Some(parent) = path.parent() {
        let _ = std::fs::create_dir_all(parent);
    }
}

fn create(path: &Path) -> Result<()> {
    let place = Place::of(path)?;
    let directory = open(place.directory)?;
    control::create_subvolume(directory.as_fd(), place.name).map_err(|error| failed(path, &error))?;
    output::line(format!("Create subvolume '{}'", place.path().display()));
    Ok(())
}
